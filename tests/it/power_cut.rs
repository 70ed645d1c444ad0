//! Power cuts on a real file system, with the built binary: what was
//! acknowledged at the moment of the cut is there afterwards, at its offset, and so
//! is what a group had committed.
//!
//! ```sh
//! STATECAST_POWER_CUTS=10 cargo test -p statecast-tests --test it power_cut -- --nocapture
//! ```
//!
//! It needs root, loop devices, and the tools of ext4 and XFS. The broker goes
//! on from where each cut left the disk. Cuts come after it is ready; those
//! during recovery are left to the simulated disk.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, VecDeque};
use std::hash::BuildHasher;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use statecast_client::{Client, CommitPosition, Delivery, Reason, RecordRef, Start, TopicConfig};
use tokio::runtime::Runtime;
use tokio_stream::StreamExt;

use crate::support::{Binary, PowerDisk};

/// Topics by their count of partitions; all flush always, which is the default.
const TOPICS: [(&str, u32); 3] = [("one", 1), ("few", 4), ("many", 16)];
/// Acknowledgements between two cuts, on average.
const RECORDS_PER_CUT: u64 = 1000;
const GROUP: &str = "g";
const MEMBERS: usize = 2;
/// Answered commits between two cuts, on average.
const COMMITS_PER_CUT: u64 = 30;
/// Every so many cuts the whole log is read, not only what came since the last.
const WHOLE_LOG_EVERY: u32 = 20;
const ON_THEIR_WAY: usize = 256;
const LARGEST_FILLER: u64 = 2000;

/// One partition, as a reader must find it. A record is known by its number,
/// which grows within the topic.
#[derive(Default)]
struct Expected {
    /// The record at each offset that was read after an earlier cut.
    kept: Vec<u64>,
    /// What was acknowledged since, by offset.
    acked: BTreeMap<u64, u64>,
}

impl Expected {
    /// Where to begin to read what the last cut could have taken.
    fn news(&self) -> u64 {
        self.kept.len() as u64
    }

    /// Takes the next record that is read, from `offset` on.
    fn read(&mut self, offset: u64, number: u64) {
        let index = usize::try_from(offset).unwrap();
        if let Some(&before) = self.kept.get(index) {
            assert_eq!(number, before, "offset {offset} is what it was");
            return;
        }
        assert_eq!(index, self.kept.len(), "offsets are dense");
        if let Some(&last) = self.kept.last() {
            assert!(
                number > last,
                "offset {offset}: {number} behind {last}, but in order, and once"
            );
        }
        // What was not acknowledged may have survived. What was must be itself.
        if let Some(acked) = self.acked.remove(&offset) {
            assert_eq!(number, acked, "offset {offset} is what was acknowledged");
        }
        self.kept.push(number);
    }
}

/// What is known of a topic, shared with its writer.
#[derive(Default)]
struct Book {
    partitions: Vec<Expected>,
    sent: u64,
    acked: u64,
    /// Set at the cut: what is acknowledged later counts as not acknowledged.
    cut: bool,
}

type Shared = Arc<Mutex<Book>>;

/// How far the group is, by topic and partition.
#[derive(Default)]
struct Commits {
    /// One past what a member has got.
    processed: BTreeMap<(String, u32), u64>,
    /// What was answered to be committed.
    answered: BTreeMap<(String, u32), u64>,
    answers: u64,
    /// As that of a [`Book`].
    cut: bool,
}

/// Bytes that only this record has.
fn value(number: u64) -> Vec<u8> {
    let filler = usize::try_from(number.wrapping_mul(0x9E37_79B9) % LARGEST_FILLER).unwrap();
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(bytes.len() + filler, number.to_le_bytes()[0]);
    bytes
}

/// Appends to the partitions in turn until the broker is gone.
async fn write(endpoint: String, topic: &'static str, partitions: u32, book: Shared) {
    // A cut may come before the connection.
    let Ok(client) = Client::connect(endpoint).await else {
        return;
    };
    let producer = client.producer_builder().build();
    let mut on_their_way = VecDeque::<(u64, Delivery)>::new();
    loop {
        let number = {
            let mut book = book.lock().unwrap();
            book.sent += 1;
            book.sent
        };
        let partition = u32::try_from(number % u64::from(partitions)).unwrap();
        let value = value(number);
        let record = RecordRef::of_value(&value);
        let Ok(delivery) = producer.send_to(topic, partition, &record).await else {
            return;
        };
        on_their_way.push_back((number, delivery));
        if on_their_way.len() < ON_THEIR_WAY {
            continue;
        }
        let (number, delivery) = on_their_way.pop_front().unwrap();
        let Ok(position) = delivery.await else {
            return;
        };
        let mut book = book.lock().unwrap();
        if book.cut {
            return;
        }
        book.acked += 1;
        let partition = usize::try_from(position.partition).unwrap();
        book.partitions[partition]
            .acked
            .insert(position.offset.expect("the broker knows it"), number);
    }
}

/// Reads all topics as a member of the group, and commits each batch, until the
/// broker is gone.
async fn consume(endpoint: String, commits: Arc<Mutex<Commits>>) {
    let Ok(client) = Client::connect(endpoint).await else {
        return;
    };
    let topics = TOPICS.iter().map(|(topic, _)| *topic);
    let consumer = client.consumer(GROUP).topics(topics).auto_commit(false);
    let Ok(mut consumer) = consumer.open().await else {
        return;
    };
    while let Some(Ok(batch)) = consumer.next_batch().await {
        let position = CommitPosition::from(&batch);
        let place = (position.topic.to_string(), position.partition);
        let offset = position.offset;
        {
            let mut commits = commits.lock().unwrap();
            let processed = commits.processed.entry(place.clone()).or_default();
            *processed = offset.max(*processed);
        }
        // It may have gone on to the other member.
        if consumer.commit(position).await.is_err() {
            continue;
        }
        let mut commits = commits.lock().unwrap();
        if commits.cut {
            return;
        }
        commits.answers += 1;
        let answered = commits.answered.entry(place).or_default();
        *answered = offset.max(*answered);
    }
}

/// What is committed is neither behind what was answered, nor ahead of what was
/// processed or of what is in the log, where `books` have come to.
async fn check_commits(client: &Client, commits: &Mutex<Commits>, books: &[Shared]) {
    let description = client.admin().describe_group(GROUP).await;
    let mut ends = BTreeMap::new();
    for ((topic, _), book) in TOPICS.iter().zip(books) {
        for (partition, expected) in (0..).zip(&book.lock().unwrap().partitions) {
            ends.insert(((*topic).to_owned(), partition), expected.news());
        }
    }
    let mut commits = commits.lock().unwrap();
    commits.cut = false;
    let description = match description {
        Err(error) if error.reason() == Some(Reason::GroupNotFound) => {
            assert_eq!(commits.answered.len(), 0, "the group is there");
            return;
        }
        description => description.unwrap(),
    };
    let mut committed = BTreeMap::new();
    for partition in description.partitions {
        let offset = partition.committed_offset.unwrap_or_default();
        committed.insert((partition.topic, partition.partition), offset);
    }
    for (place, answered) in &commits.answered {
        let committed = committed[place];
        assert!(
            committed >= *answered,
            "{place:?}: {committed} < {answered}"
        );
    }
    for (place, committed) in committed {
        let processed = commits.processed.get(&place).copied().unwrap_or_default();
        assert!(
            committed <= processed,
            "{place:?}: {committed} > {processed}"
        );
        let end = ends[&place];
        assert!(committed <= end, "{committed} > {end}, the end of the log");
    }
}

/// Reads a topic to its end, and counts what was acknowledged and isn't there.
async fn read(client: &Client, topic: &str, whole: bool, book: &Shared) -> usize {
    let mut reader = client.reader(topic).until_end();
    for (number, expected) in book.lock().unwrap().partitions.iter().enumerate() {
        let from = if whole { 0 } else { expected.news() };
        let number = u32::try_from(number).unwrap();
        reader = reader.partition_from(number, Start::Offset(from));
    }
    let mut reader = reader.open().await.unwrap();
    let mut read = vec![0; book.lock().unwrap().partitions.len()];
    while let Some(record) = reader.next().await {
        // Damage would be told here: a power cut leaves none.
        let record = record.unwrap();
        let bytes = record.value.unwrap();
        let number = u64::from_le_bytes(*bytes.first_chunk().unwrap());
        assert_eq!(bytes, value(number), "{topic}: every byte is as sent");
        let mut book = book.lock().unwrap();
        assert!(number <= book.sent, "{topic}: nothing that was not sent");
        let partition = usize::try_from(record.partition).unwrap();
        book.partitions[partition].read(record.offset, number);
        read[partition] += 1;
    }
    let mut book = book.lock().unwrap();
    let mut lost = 0;
    for (expected, read) in book.partitions.iter_mut().zip(read) {
        lost += std::mem::take(&mut expected.acked).len();
        if whole {
            lost += expected.kept.len() - read;
        }
    }
    lost
}

/// How many cuts are asked for, and a disk for them; or why there are none.
fn asked() -> Result<(u32, PowerDisk), String> {
    let cuts = std::env::var("STATECAST_POWER_CUTS")
        .map_err(|_| "STATECAST_POWER_CUTS is not set".to_owned())?;
    let cuts = cuts.parse().expect("STATECAST_POWER_CUTS is a number");
    Ok((cuts, PowerDisk::make()?))
}

/// Past the capture of the test's output: who runs the tests should see it.
fn say(line: &str) {
    let line = format!("{line}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

fn acked(books: &[Shared]) -> u64 {
    books.iter().map(|book| book.lock().unwrap().acked).sum()
}

/// Lets writers and members run against the broker, up to a random moment, and cuts.
async fn write_until_cut(
    broker: Binary,
    disk: &mut PowerDisk,
    books: &[Shared],
    commits: &Arc<Mutex<Commits>>,
) {
    // A runtime of their own, which ends with them. A producer that is dropped
    // goes on in the background: it could come upon a later broker, on the port of
    // this one, and append what wasn't acknowledged once more.
    let clients = Runtime::new().unwrap();
    for ((topic, partitions), book) in TOPICS.into_iter().zip(books) {
        book.lock().unwrap().cut = false;
        let book = Arc::clone(book);
        clients.spawn(write(broker.endpoint(), topic, partitions, book));
    }
    for _ in 0..MEMBERS {
        clients.spawn(consume(broker.endpoint(), Arc::clone(commits)));
    }
    let answers = || commits.lock().unwrap().answers;
    let random = RandomState::new().hash_one(());
    let enough = acked(books) + random % (2 * RECORDS_PER_CUT);
    let enough_commits = answers() + (random >> 16) % (2 * COMMITS_PER_CUT);
    while acked(books) < enough || answers() < enough_commits {
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    // Not only just after an acknowledgement.
    tokio::time::sleep(Duration::from_micros((random >> 32) % 5000)).await;
    broker.pause();
    for book in books {
        book.lock().unwrap().cut = true;
    }
    commits.lock().unwrap().cut = true;
    disk.cut();
    broker.kill();
    let end = move || clients.shutdown_timeout(Duration::from_secs(60));
    tokio::task::spawn_blocking(end).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_power_cuts() {
    let (cuts, mut disk) = match asked() {
        Ok(asked) => asked,
        Err(reason) => return say(&format!("skipped: {reason}")),
    };
    let data = disk.data().join("broker");
    let mut broker = Binary::serve(&data);
    let client = Client::connect(broker.endpoint()).await.unwrap();
    let mut books = Vec::new();
    for (topic, partitions) in TOPICS {
        let config = TopicConfig::new();
        let admin = client.admin();
        admin
            .create_topic(topic, Some(partitions), config)
            .await
            .unwrap();
        let mut book = Book::default();
        book.partitions
            .resize_with(usize::try_from(partitions).unwrap(), Expected::default);
        books.push(Arc::new(Mutex::new(book)));
    }

    let commits = Arc::new(Mutex::new(Commits::default()));
    let (mut lost, mut unflushed_lost) = (0, 0);
    for cut in 1..=cuts {
        write_until_cut(broker, &mut disk, &books, &commits).await;
        unflushed_lost += u32::from(disk.restore());
        broker = Binary::serve(&data);
        let client = Client::connect(broker.endpoint()).await.unwrap();
        let whole = cut % WHOLE_LOG_EVERY == 0 || cut == cuts;
        for ((topic, _), book) in TOPICS.iter().zip(&books) {
            lost += read(&client, topic, whole, book).await;
        }
        assert_eq!(lost, 0, "records lost by cut {cut}");
        check_commits(&client, &commits, &books).await;
        if cut % 100 == 0 || cut == cuts {
            say(&format!(
                "{cut} power cuts, {} acknowledged records, {lost} lost, {} answered \
                 commits, none lost (of {cut} files that were not flushed, \
                 {unflushed_lost} lost)",
                acked(&books),
                commits.lock().unwrap().answers
            ));
        }
    }
    assert!(unflushed_lost > 0, "the cuts take what was not flushed");
    // Before the disk that it runs on.
    broker.kill();
}
