//! A broker that crashes again and again under an idempotent producer and a
//! group: nothing is lost, nothing is in the log twice, each partition is processed
//! in its order, and what is committed lies between what was answered and what was
//! processed, all of which the members have done their work for by then.
//!
//! ```sh
//! STATECAST_GROUP_CRASHES=100 cargo test -p statecast-tests --test it group_crashes -- --nocapture
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use statecast_client::{
    Backoff, Client, CommitPosition, Consumer, GroupEvent, Record, RecordRef, TopicConfig,
};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;

use crate::support::Binary;

const PARTITIONS: u32 = 4;
const KEYS: u64 = 31;
const GROUP: &str = "g";
const MEMBERS: usize = 2;
/// Records between two crashes, at least.
const RECORDS_PER_CRASH: u64 = 500;
/// Records between two commits of a member.
const RECORDS_PER_COMMIT: usize = 7;
const LOOK: Duration = Duration::from_millis(1);

/// How far a partition is.
#[derive(Debug, Default, Clone)]
struct Progress {
    /// What was processed by somebody: the number of each record, by its offset.
    done: Vec<u64>,
    /// The broker answered that this is committed.
    answered: u64,
}

impl Progress {
    /// Everything before it was processed.
    fn processed(&self) -> u64 {
        self.done.len() as u64
    }

    /// A record was processed, perhaps once more.
    fn take(&mut self, offset: u64, number: u64) {
        let at = usize::try_from(offset).unwrap();
        if let Some(&before) = self.done.get(at) {
            assert_eq!(number, before, "offset {offset} is what it was");
            return;
        }
        assert_eq!(at, self.done.len(), "nothing before it is left out");
        if let Some(&last) = self.done.last() {
            assert!(number > last, "{number} behind {last} at offset {offset}");
        }
        self.done.push(number);
    }
}

fn number(record: &Record) -> u64 {
    let value = record.value.as_ref().unwrap();
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

#[derive(Default)]
struct World {
    progress: Mutex<BTreeMap<u32, Progress>>,
    /// Acknowledged records.
    acked: AtomicU64,
    stop: AtomicBool,
}

impl World {
    fn at(&self, partition: u32, act: impl FnOnce(&mut Progress)) {
        act(self.progress.lock().unwrap().entry(partition).or_default());
    }

    /// What was answered to be committed, by partition.
    fn answered(&self) -> BTreeMap<u32, u64> {
        let progress = self.progress.lock().unwrap();
        let answered = progress.iter().map(|(&number, p)| (number, p.answered));
        answered.collect()
    }

    /// Records that were processed.
    fn processed(&self) -> u64 {
        let progress = self.progress.lock().unwrap();
        progress.values().map(Progress::processed).sum()
    }
}

async fn connect(endpoint: &str) -> Client {
    let backoff = Backoff {
        first: Duration::from_millis(2),
        max: Duration::from_millis(20),
    };
    let client = Client::builder(endpoint).backoff(backoff);
    client.connect().await.unwrap()
}

/// Sends numbers until told to stop. Returns how many.
async fn produce(client: Client, world: Arc<World>) -> u64 {
    let producer = client
        .producer_builder()
        .delivery_timeout(Duration::MAX)
        .build();
    let mut number = 0;
    while !world.stop.load(Ordering::Relaxed) {
        let mut deliveries = Vec::new();
        for _ in 0..50 {
            let (key, value) = ((number % KEYS).to_string(), number.to_string());
            let record = RecordRef::new(key.as_bytes(), value.as_bytes());
            deliveries.push(producer.send("t", &record).await.unwrap());
            number += 1;
        }
        for delivery in deliveries {
            delivery.await.unwrap();
            world.acked.fetch_add(1, Ordering::Relaxed);
        }
    }
    producer.close().await.unwrap();
    number
}

/// Processes records in their order, and commits now and then.
async fn consume(mut consumer: Consumer, world: Arc<World>) {
    // Where the next record of each partition has to lie.
    let mut next = BTreeMap::new();
    let mut uncommitted = BTreeMap::new();
    let mut since = 0;
    while let Some(event) = consumer.next_event().await {
        let batch = match event.unwrap() {
            GroupEvent::Assigned { partitions, .. } => {
                for assigned in partitions {
                    let begins = assigned.offset;
                    world.at(assigned.partition, |progress| {
                        let processed = progress.processed();
                        assert!(begins <= processed, "{begins} is ahead of {processed}");
                    });
                    next.insert(assigned.partition, begins);
                }
                continue;
            }
            GroupEvent::Batch(batch) => batch,
            _ => continue,
        };
        for record in batch.records() {
            let record = record.unwrap();
            let next = next.get_mut(&record.partition).expect("it was assigned");
            assert_eq!(record.offset, *next, "in order, and without a gap");
            *next += 1;
            // The work: others get to do theirs before it is done.
            tokio::task::yield_now().await;
            world.at(record.partition, |progress| {
                progress.take(record.offset, number(&record));
            });
            uncommitted.insert(record.partition, CommitPosition::from(&record));
            since += 1;
            if since == RECORDS_PER_COMMIT {
                since = 0;
                commit(&consumer, &world, std::mem::take(&mut uncommitted)).await;
            }
        }
    }
    consumer.close().await.unwrap();
}

/// Commits, and notes what was answered.
async fn commit(consumer: &Consumer, world: &World, positions: BTreeMap<u32, CommitPosition>) {
    for (partition, position) in positions {
        let offset = position.offset;
        if consumer.commit(position).await.is_ok() {
            world.at(partition, |progress| {
                progress.answered = progress.answered.max(offset);
            });
        }
    }
}

/// What is committed is neither behind what was answered nor ahead of what was
/// processed. `before` is what was answered before the broker was asked.
async fn check_commits(client: &Client, before: &BTreeMap<u32, u64>, world: &World) {
    let description = client.admin().describe_group(GROUP).await.unwrap();
    for partition in description.partitions {
        let committed = partition.committed_offset.unwrap_or_default();
        let number = partition.partition;
        let answered = before.get(&number).copied().unwrap_or_default();
        assert!(committed >= answered, "{number}: {committed} < {answered}");
        world.at(number, |progress| {
            let processed = progress.processed();
            assert!(
                committed <= processed,
                "{number}: {committed} > {processed}"
            );
        });
    }
}

/// Each number is in the log once, where it was processed. Returns how many there
/// are.
async fn check_log(client: &Client, world: &World) -> u64 {
    let mut reader = client.reader("t").until_end().open().await.unwrap();
    let mut seen = BTreeSet::new();
    while let Some(record) = reader.next().await {
        let record = record.unwrap();
        let number = number(&record);
        assert!(seen.insert(number), "{number} is in the log twice");
        world.at(record.partition, |progress| {
            let at = usize::try_from(record.offset).unwrap();
            assert_eq!(progress.done.get(at), Some(&number), "it was processed");
        });
    }
    assert!(
        seen.iter().copied().eq(0..seen.len() as u64),
        "none is lost"
    );
    seen.len() as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_and_commits_are_true_through_crashes() {
    let crashes = std::env::var("STATECAST_GROUP_CRASHES");
    let crashes: u32 = crashes.map_or(4, |n| n.parse().expect("it is a number"));
    let data = tempfile::tempdir().unwrap();
    let mut broker = Binary::serve(data.path());
    let endpoint = broker.endpoint();
    let client = connect(&endpoint).await;
    let admin = client.admin();
    let config = TopicConfig::new();
    admin
        .create_topic("t", Some(PARTITIONS), config)
        .await
        .unwrap();
    let world = Arc::new(World::default());
    let producing = tokio::spawn(produce(client.clone(), Arc::clone(&world)));
    let mut handles = Vec::new();
    let mut consuming = Vec::new();
    for _ in 0..MEMBERS {
        let consumer = client.consumer(GROUP).topic("t");
        let consumer = consumer.auto_commit(false).open().await.unwrap();
        handles.push(consumer.handle());
        consuming.push(tokio::spawn(consume(consumer, Arc::clone(&world))));
    }

    for crash in 0..crashes {
        let enough = world.acked.load(Ordering::Relaxed) + RECORDS_PER_CRASH;
        let processed = world.processed() + RECORDS_PER_CRASH / 2;
        while world.acked.load(Ordering::Relaxed) < enough || world.processed() < processed {
            assert!(!consuming.iter().any(JoinHandle::is_finished), "all go on");
            tokio::time::sleep(LOOK).await;
        }
        broker.kill();
        let before = world.answered();
        let address = endpoint.strip_prefix("http://").unwrap();
        broker = Binary::serve_at(data.path(), address);
        check_commits(&client, &before, &world).await;
        if (crash + 1) % 10 == 0 {
            println!("{} crashes", crash + 1);
        }
    }
    world.stop.store(true, Ordering::Relaxed);
    let sent = producing.await.unwrap();
    while world.processed() < sent {
        assert!(!consuming.iter().any(JoinHandle::is_finished), "all go on");
        tokio::time::sleep(LOOK).await;
    }
    for handle in handles {
        handle.stop();
    }
    for consuming in consuming {
        consuming.await.unwrap();
    }
    let before = world.answered();
    check_commits(&client, &before, &world).await;
    assert_eq!(check_log(&client, &world).await, sent);
    println!("{crashes} crashes, {sent} records: each in the log once");
}
