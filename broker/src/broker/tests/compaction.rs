//! What the broker itself remembers stays small.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::internal_log::{InternalLog, compaction_of};
use super::super::record_codec::ProtobufRecords;
use super::{Disk, PARTITION};
use crate::clock::Clock;
use crate::metadata::{GROUPS_PARTITION, PRODUCERS_PARTITION, TOPICS_PARTITION};
use crate::model::NewRecord;
use crate::partition::{Engine, EngineOptions};

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
