//! Watching: a snapshot, and then every change from exactly there.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use statecast_proto::v1::{self, change::Change, watch_request::Start, watch_response::Event};
use tonic::{Code, Streaming};

use crate::fetch;
use crate::state::{Fold, append, change, compacted, fold, real_changes, state};
use crate::support::{TestBroker, error_info};

const PARTITIONS: u32 = 4;

async fn watch(broker: &TestBroker, request: v1::WatchRequest) -> Streaming<v1::WatchResponse> {
    state(broker)
        .await
        .watch(request)
        .await
        .unwrap()
        .into_inner()
}

fn request(start: Option<Start>) -> v1::WatchRequest {
    v1::WatchRequest {
        topic: "t".to_owned(),
        start,
        ..v1::WatchRequest::default()
    }
}

/// What a client has that applies what it is told, and believes nothing else.
#[derive(Debug, Default)]
struct Receiver {
    map: HashMap<Bytes, (u64, Bytes)>,
    /// The next offset of each partition.
    next: Vec<u64>,
    latest: HashMap<Bytes, u64>,
    is_synced: bool,
}

impl Receiver {
    fn new() -> Receiver {
        Receiver {
            next: vec![0; PARTITIONS as usize],
            ..Receiver::default()
        }
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Opened(opened) => {
                self.is_synced = false;
                if opened.snapshot {
                    self.map.clear();
                    self.latest.clear();
                }
            }
            Event::Entries(entries) => {
                assert!(!self.is_synced && !entries.entries.is_empty());
                for entry in entries.entries {
                    self.put(entry);
                }
            }
            Event::Changes(changes) => {
                assert!(!changes.changes.is_empty());
                for change in changes.changes {
                    match change.change.unwrap() {
                        Change::Put(entry) => {
                            self.advance(entry.partition, entry.offset);
                            self.put(entry);
                        }
                        Change::Removed(removed) => {
                            self.advance(removed.partition, removed.offset);
                            self.rise(&removed.key, removed.offset);
                            self.map.remove(&removed.key);
                        }
                    }
                }
            }
            Event::Synced(synced) => {
                assert!(!self.is_synced, "it is told once");
                self.is_synced = true;
                self.take(&synced);
            }
            Event::Progress(synced) => self.take(&synced),
            Event::Truncated(_) => panic!("nothing is removed here"),
        }
    }

    fn put(&mut self, entry: v1::Entry) {
        self.rise(&entry.key, entry.offset);
        self.map.insert(entry.key, (entry.offset, entry.value));
    }

    /// No key goes back in time, and nothing comes twice.
    fn rise(&mut self, key: &Bytes, offset: u64) {
        let before = self.latest.insert(key.clone(), offset);
        assert!(
            before.is_none_or(|before| before < offset),
            "{key:?} {before:?} {offset}"
        );
    }

    fn advance(&mut self, partition: u32, offset: u64) {
        let next = &mut self.next[partition as usize];
        assert!(offset >= *next, "changes come in their order");
        *next = offset + 1;
    }

    fn take(&mut self, synced: &v1::Synced) {
        assert_eq!(synced.next_offsets.len(), PARTITIONS as usize);
        for position in &synced.next_offsets {
            let next = &mut self.next[position.partition as usize];
            assert!(position.offset >= *next);
            *next = position.offset;
        }
    }

    fn fold(&self) -> Fold {
        let value = |(key, (_, value)): (&Bytes, &(u64, Bytes))| (key.clone(), value.clone());
        self.map.iter().map(value).collect()
    }

    fn resume(&self) -> Start {
        let position = |(partition, &offset)| v1::RecordPosition { partition, offset };
        Start::From(v1::WatchFrom {
            next_offsets: (0..).zip(&self.next).map(position).collect(),
        })
    }
}

/// All records of the topic, by partition, as `Fetch` gives them.
async fn log(broker: &TestBroker) -> Vec<Vec<v1::Record>> {
    let mut log = vec![Vec::new(); PARTITIONS as usize];
    let request = v1::FetchRequest {
        until_end: true,
        ..fetch::earliest()
    };
    let mut stream = fetch::fetch(broker, request).await;
    while let Some(response) = stream.message().await.unwrap() {
        if let Some(v1::fetch_response::Event::Batches(fetched)) = response.event {
            for batch in fetched.batches {
                let records = <v1::RecordBatch as prost::Message>::decode(batch.batch).unwrap();
                log[batch.partition as usize].extend(records.records);
            }
        }
    }
    log
}

/// What the log folds to up to these offsets.
fn fold_to(log: &[Vec<v1::Record>], next: &[u64]) -> Fold {
    let mut folded = Fold::new();
    for (records, &next) in log.iter().zip(next) {
        folded.extend(fold(&records[..usize::try_from(next).unwrap()]));
    }
    folded
}

/// Watches until it is synced, and then for so many changes; says what it had when
/// it was synced.
async fn receive(
    broker: &TestBroker,
    receiver: &mut Receiver,
    start: Option<Start>,
    changes: usize,
) -> (Vec<u64>, Fold) {
    let mut stream = watch(broker, request(start)).await;
    let mut at_synced = None;
    let mut left = changes;
    while at_synced.is_none() || left > 0 {
        let event = stream.message().await.unwrap().unwrap().event.unwrap();
        if let Event::Changes(changes) = &event
            && receiver.is_synced
        {
            left = left.saturating_sub(changes.changes.len());
        }
        receiver.hear(event);
        if receiver.is_synced && at_synced.is_none() {
            at_synced = Some((receiver.next.clone(), receiver.fold()));
        }
    }
    at_synced.unwrap()
}

/// Writes keys at full speed until it is told to stop.
async fn write(broker: Arc<TestBroker>, writer: usize, stop: Arc<AtomicBool>) {
    let mut number = writer;
    while !stop.load(Ordering::Relaxed) {
        let one = |nth: usize| {
            let number = number.wrapping_mul(31).wrapping_add(nth * 7);
            let value = format!("{writer}-{number}");
            let is_removal = number.is_multiple_of(5);
            change(
                format!("k/{}", number % 40),
                (!is_removal).then_some(&*value),
            )
        };
        append(&broker, "t", (0..=number % 9).map(one).collect()).await;
        number += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_synced_the_map_is_the_fold_while_producers_write_and_watchers_come_again() {
    let broker = Arc::new(TestBroker::start().await);
    compacted(&broker, "t", PARTITIONS).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..3)
        .map(|writer| tokio::spawn(write(broker.clone(), writer, stop.clone())))
        .collect();
    let mut seen = Vec::new();
    let mut receivers = Vec::new();
    for _ in 0..5 {
        let mut receiver = Receiver::new();
        seen.push(receive(&broker, &mut receiver, None, 40).await);
        for _ in 0..3 {
            let start = receiver.resume();
            seen.push(receive(&broker, &mut receiver, Some(start), 30).await);
        }
        receivers.push(receiver);
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let log = log(&broker).await;
    for (next, map) in seen {
        assert_eq!(map, fold_to(&log, &next), "{next:?}");
    }
    let ends: Vec<u64> = log.iter().map(|records| records.len() as u64).collect();
    for mut receiver in receivers {
        let start = receiver.resume();
        let (next, map) = receive(&broker, &mut receiver, Some(start), 0).await;
        assert_eq!((&next, map), (&ends, fold_to(&log, &ends)));
    }
}

#[tokio::test]
async fn a_watch_hears_only_of_its_keys() {
    let broker = TestBroker::start().await;
    compacted(&broker, "t", PARTITIONS).await;
    let changes = real_changes();
    let (before, after) = changes.split_at(changes.len() / 2);
    append(&broker, "t", before.to_vec()).await;
    let all = fold(&changes);
    let key = all.keys().next().unwrap().clone();
    let prefix = key.slice(..2);
    let by_prefix = v1::WatchRequest {
        prefix: prefix.clone(),
        ..request(None)
    };
    let by_key = v1::WatchRequest {
        keys: vec![key.clone(), Bytes::from_static(b"none")],
        ..request(None)
    };
    let mut streams = [
        watch(&broker, by_prefix).await,
        watch(&broker, by_key).await,
    ];
    let mut receivers = [Receiver::new(), Receiver::new()];
    for (stream, receiver) in streams.iter_mut().zip(&mut receivers) {
        while !receiver.is_synced {
            receiver.hear(stream.message().await.unwrap().unwrap().event.unwrap());
        }
    }
    append(&broker, "t", after.to_vec()).await;
    let expected = [
        all.iter()
            .filter(|(key, _)| key.starts_with(&prefix))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect::<Fold>(),
        Fold::from([(key.clone(), all[&key].clone())]),
    ];
    for ((stream, receiver), expected) in streams.iter_mut().zip(&mut receivers).zip(&expected) {
        while receiver.fold() != *expected {
            receiver.hear(stream.message().await.unwrap().unwrap().event.unwrap());
        }
    }
}

#[tokio::test]
async fn a_watch_from_now_on_hears_nothing_of_before() {
    let broker = TestBroker::start().await;
    compacted(&broker, "t", PARTITIONS).await;
    append(&broker, "t", vec![change("a", Some("1"))]).await;
    let mut stream = watch(&broker, request(Some(Start::Latest(v1::Latest {})))).await;
    let mut receiver = Receiver::new();
    while !receiver.is_synced {
        receiver.hear(stream.message().await.unwrap().unwrap().event.unwrap());
    }
    assert_eq!(receiver.next.iter().sum::<u64>(), 1);
    append(&broker, "t", vec![change("b", Some("2"))]).await;
    while receiver.map.is_empty() {
        receiver.hear(stream.message().await.unwrap().unwrap().event.unwrap());
    }
    assert_eq!(receiver.fold(), fold(&[change("b", Some("2"))]));
}

/// Who doesn't read while more comes than its outbox holds reads the log, and has
/// everything in the end.
#[tokio::test]
async fn a_slow_watcher_misses_nothing() {
    let broker = TestBroker::start().await;
    compacted(&broker, "t", PARTITIONS).await;
    let mut stream = watch(&broker, request(None)).await;
    let mut receiver = Receiver::new();
    while !receiver.is_synced {
        receiver.hear(stream.message().await.unwrap().unwrap().event.unwrap());
    }
    // Far more than a watcher's outbox, and what the transport takes.
    let value = "x".repeat(100_000);
    let mut records = Vec::new();
    for round in 0..20 {
        let some = |key| change(format!("k/{key}"), Some(&format!("{round}{value}")));
        let some: Vec<_> = (0..20).map(some).collect();
        append(&broker, "t", some.clone()).await;
        records.extend(some);
    }
    let expected = fold(&records);
    while receiver.fold() != expected {
        receiver.hear(stream.message().await.unwrap().unwrap().event.unwrap());
    }
    // And is told again what comes.
    append(&broker, "t", vec![change("k/0", None)]).await;
    while receiver.map.contains_key(&b"k/0"[..]) {
        receiver.hear(stream.message().await.unwrap().unwrap().event.unwrap());
    }
}

#[tokio::test]
async fn what_cant_be_watched_is_refused_and_a_deleted_topic_ends_the_watch() {
    let broker = TestBroker::start().await;
    compacted(&broker, "t", PARTITIONS).await;
    let from = |offsets: &[(u32, u64)]| {
        let position = |&(partition, offset): &(u32, u64)| v1::RecordPosition { partition, offset };
        Some(Start::From(v1::WatchFrom {
            next_offsets: offsets.iter().map(position).collect(),
        }))
    };
    let refused = [
        (request(from(&[(0, 0), (1, 0), (2, 0)])), "INVALID_REQUEST"),
        (
            request(from(&[(0, 0), (1, 0), (2, 0), (2, 0)])),
            "INVALID_REQUEST",
        ),
        (
            request(from(&[(0, 0), (1, 0), (2, 0), (4, 0)])),
            "PARTITION_NOT_FOUND",
        ),
        (
            request(from(&[(0, 0), (1, 0), (2, 0), (3, 1)])),
            "OFFSET_OUT_OF_RANGE",
        ),
        (
            v1::WatchRequest {
                prefix: Bytes::from_static(b"a"),
                keys: vec![Bytes::from_static(b"b")],
                ..request(None)
            },
            "INVALID_REQUEST",
        ),
        (
            v1::WatchRequest {
                keys: vec![Bytes::from_static(b"a"); 1001],
                ..request(None)
            },
            "INVALID_REQUEST",
        ),
    ];
    for (request, reason) in refused {
        let status = state(&broker).await.watch(request).await.unwrap_err();
        assert_eq!(error_info(&status).reason, reason);
    }
    let mut stream = watch(&broker, request(None)).await;
    let mut receiver = Receiver::new();
    while !receiver.is_synced {
        receiver.hear(stream.message().await.unwrap().unwrap().event.unwrap());
    }
    let name = "t".to_owned();
    broker
        .admin()
        .delete_topic(v1::DeleteTopicRequest { name })
        .await
        .unwrap();
    let status = stream.message().await.unwrap_err();
    assert_eq!(
        (status.code(), &*error_info(&status).reason),
        (Code::NotFound, "TOPIC_NOT_FOUND")
    );
    assert!(stream.message().await.unwrap().is_none());
}
