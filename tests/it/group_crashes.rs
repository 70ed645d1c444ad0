//! A broker that crashes again and again under an idempotent producer and a
//! group: nothing is lost, nothing is in the log twice, and what is committed
//! lies between what was answered and what was processed.
//!
//! ```sh
//! STATECAST_GROUP_CRASHES=100 cargo test -p statecast-tests --test it group_crashes -- --nocapture
//! ```

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use statecast_client::{Backoff, Client, CommitPosition, Consumer, RecordRef, TopicConfig};
use tokio_stream::StreamExt;

use crate::support::Binary;

const PARTITIONS: u32 = 4;
const GROUP: &str = "g";
const MEMBERS: usize = 2;
/// Records between two crashes, at least.
const RECORDS_PER_CRASH: u64 = 500;
/// Records between two commits of a member.
const RECORDS_PER_COMMIT: usize = 7;
const LOOK: Duration = Duration::from_millis(1);

/// How far a partition is, in offsets that only grow.
#[derive(Debug, Default, Clone, Copy)]
struct Progress {
    /// Everything before it was processed by somebody.
    processed: u64,
    /// The broker answered that this is committed.
    answered: u64,
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

    fn processed(&self) -> u64 {
        let progress = self.progress.lock().unwrap();
        progress.values().map(|progress| progress.processed).sum()
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
            let value = number.to_string();
            let record = RecordRef::new(value.as_bytes(), value.as_bytes());
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

/// Processes records, and commits now and then.
async fn consume(mut consumer: Consumer, world: Arc<World>) {
    let mut uncommitted = BTreeMap::new();
    let mut since = 0;
    while let Some(record) = consumer.next().await {
        let record = record.unwrap();
        let behind = record.offset + 1;
        // What came before was processed in this assignment or is committed.
        world.at(record.partition, |progress| {
            progress.processed = progress.processed.max(behind);
        });
        uncommitted.insert(record.partition, CommitPosition::from(&record));
        since += 1;
        if since < RECORDS_PER_COMMIT {
            continue;
        }
        since = 0;
        for (partition, position) in std::mem::take(&mut uncommitted) {
            let offset = position.offset;
            if consumer.commit(position).await.is_ok() {
                world.at(partition, |progress| {
                    progress.answered = progress.answered.max(offset);
                });
            }
        }
    }
    consumer.close().await.unwrap();
}

/// What is committed is neither behind what was answered nor ahead of what was
/// processed. `before` is from before the broker was asked.
async fn check_commits(client: &Client, before: &BTreeMap<u32, Progress>, world: &World) {
    let description = client.admin().describe_group(GROUP).await.unwrap();
    let after = world.progress.lock().unwrap().clone();
    for partition in description.partitions {
        let committed = partition.committed_offset.unwrap_or_default();
        let number = partition.partition;
        let answered = before.get(&number).copied().unwrap_or_default().answered;
        assert!(committed >= answered, "{number}: {committed} < {answered}");
        let processed = after.get(&number).copied().unwrap_or_default().processed;
        assert!(
            committed <= processed,
            "{number}: {committed} > {processed}"
        );
    }
}

/// Each number is in the log once. Returns how many there are.
async fn check_log(client: &Client) -> u64 {
    let mut reader = client.reader("t").until_end().open().await.unwrap();
    let mut seen = std::collections::BTreeSet::new();
    while let Some(record) = reader.next().await {
        let value = record.unwrap().value.unwrap();
        let number: u64 = std::str::from_utf8(&value).unwrap().parse().unwrap();
        assert!(seen.insert(number), "{number} is in the log twice");
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
            tokio::time::sleep(LOOK).await;
        }
        broker.kill();
        let before = world.progress.lock().unwrap().clone();
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
        tokio::time::sleep(LOOK).await;
    }
    for handle in handles {
        handle.stop();
    }
    for consuming in consuming {
        consuming.await.unwrap();
    }
    let before = world.progress.lock().unwrap().clone();
    check_commits(&client, &before, &world).await;
    assert_eq!(check_log(&client).await, sent);
    println!("{crashes} crashes, {sent} records: each in the log once");
}
