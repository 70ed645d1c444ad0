//! What the broker itself remembers stays small, and so do compacted topics.

use std::collections::HashMap;
use std::sync::Arc;

use statecast_proto::batch::{self, BatchBuilder, Compression, RecordRef};

use super::super::internal_log::{InternalLog, compaction_of};
use super::super::record_codec::ProtobufRecords;
use super::super::{Author, BatchChecker, Broker, IncomingBatch};
use super::{Disk, PARTITION, name};
use crate::clock::Clock;
use crate::metadata::{GROUPS_PARTITION, PRODUCERS_PARTITION, TOPICS_PARTITION};
use crate::model::{Cleanup, NewRecord, Offset, TopicConfig};
use crate::partition::{Engine, EngineOptions, PartitionHandle, Read};

#[test]
fn records_of_deleted_topics_are_never_compacted() {
    assert_eq!(compaction_of(TOPICS_PARTITION), None);
    assert!(compaction_of(PRODUCERS_PARTITION).is_some());
    assert!(compaction_of(GROUPS_PARTITION).is_some());
    assert_eq!(PARTITION.compaction, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_again_and_again_is_compacted_while_it_is_said() {
    let disk = Disk::new();
    let clock = Clock::of(|| 1_000);
    let engine = Engine::start(disk.open_log(), EngineOptions::default(), clock).unwrap();
    engine.begin_upkeep().unwrap();
    let codec = Arc::new(ProtobufRecords);
    engine.begin_compaction(codec, 7).unwrap();
    let log = InternalLog::open(engine.clone(), GROUPS_PARTITION);
    let mut latest = HashMap::new();
    let mut round = 0_u64;
    // Until a segment was sealed and compacted, and then some more.
    let mut after = 0;
    while after < 20 {
        round += 1;
        after += u64::from(engine.traffic().compaction_dropped_records > 100);
        let key = format!("group {}", round % 10);
        let value = vec![u8::try_from(round % 251).unwrap(); 40_000];
        let record = NewRecord {
            key: key.clone().into(),
            value: Some(value.clone().into()),
        };
        log.append(record).await.unwrap();
        latest.insert(key, value);
    }
    let (mut next, end) = log.range();
    let mut found = HashMap::new();
    let mut count = 0;
    while next < end {
        let read = log.read(next).await.unwrap();
        assert!(!read.damaged);
        count += read.records.len() as u64;
        for record in read.records {
            let key = String::from_utf8(record.key.to_vec()).unwrap();
            found.insert(key, record.value.unwrap().to_vec());
        }
        next = read.next;
    }
    assert!(found == latest, "the last value of each key is there");
    assert!(count < round, "{count} of {round} are left");
    let traffic = engine.traffic();
    assert!(traffic.compaction_written_bytes < traffic.compaction_read_bytes);
    engine.stop().await;
}

/// Enough for some segments to be sealed.
const ROUNDS: u64 = 40;

/// Appends a batch with a record of each of ten keys, large enough that a few fill a
/// segment. One of them is removed in the second round, and doesn't come back.
async fn say(broker: &Broker, checker: &mut BatchChecker, round: u64) {
    let mut builder = BatchBuilder::new(Compression::None);
    let value = vec![u8::try_from(round).unwrap(); 20_000];
    for key in 0..10 {
        let value = match (key, round) {
            (9, 1) => None,
            (9, 2..) => continue,
            _ => Some(&value[..]),
        };
        let key = format!("key {key}");
        builder
            .push(&RecordRef {
                key: Some(key.as_bytes()),
                value,
                ..RecordRef::default()
            })
            .unwrap();
    }
    let append = checker.check(IncomingBatch {
        author: Author::Client,
        topic: "compacted",
        partition: 0,
        payload: builder.finish().payload,
        checksum: None,
        sequence: None,
    });
    let results = broker.engine().append(vec![append.unwrap()]).await;
    results[0].as_ref().unwrap();
}

/// Key, and first byte of the value, of all records.
async fn records(partition: &PartitionHandle) -> Vec<(String, Option<u8>)> {
    let range = partition.range();
    let mut next = range.log_start_offset;
    let mut records = Vec::new();
    while next < range.high_watermark {
        let Read::Batches(batches) = partition
            .read(next, range.high_watermark, 1 << 20)
            .await
            .unwrap()
        else {
            panic!("everything is readable");
        };
        for batch in batches {
            next = batch.header.next_offset();
            for record in batch::decode(batch.payload).unwrap() {
                let record = record.unwrap();
                let key = String::from_utf8(record.key.unwrap().to_vec()).unwrap();
                records.push((key, record.value.map(|value| value[0])));
            }
        }
    }
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_topic_keeps_the_latest_record_of_each_key_and_says_what_is_missing() {
    let disk = Disk::new();
    let broker = disk.open().await;
    let config = TopicConfig {
        retention_ms: None,
        cleanup: Cleanup::Compact,
        tombstone_grace_ms: Some(0),
        segment_bytes: 1 << 20,
        ..TopicConfig::default()
    };
    let topic = broker
        .create_topic(name("compacted"), 1, config)
        .await
        .unwrap();
    let partition = &topic.partitions()[0];
    let compacted = partition.compacted().await.unwrap();
    assert_eq!(compacted.state_from, Offset::ZERO);
    assert_eq!(compacted.tombstones_removed_to, Offset::ZERO);
    let mut checker = BatchChecker::new(broker.clone());
    for round in 0..=ROUNDS {
        say(&broker, &mut checker, round).await;
    }
    // Nothing is left of the key that was removed.
    while partition.compacted().await.unwrap().tombstones_removed_to == Offset::ZERO {
        tokio::task::yield_now().await;
    }

    let found = records(partition).await;
    let said = partition.high_watermark().0;
    assert!((found.len() as u64) < said, "{} of {said}", found.len());
    let latest: HashMap<_, _> = found.into_iter().collect();
    let value = Some(u8::try_from(ROUNDS).unwrap());
    let expected = (0..9).map(|key| (format!("key {key}"), value));
    assert_eq!(latest, expected.collect());
    let compacted = partition.compacted().await.unwrap();
    assert!(compacted.state_from > Offset::ZERO);
    assert!(compacted.state_from <= partition.high_watermark());
    broker.stop().await;

    let broker = disk.open().await;
    let partition = broker.partition("compacted", 0).unwrap();
    let still = partition.compacted().await.unwrap();
    assert!(still.state_from >= compacted.state_from);
    assert!(still.tombstones_removed_to >= compacted.tombstones_removed_to);
    broker.stop().await;
}
