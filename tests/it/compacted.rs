//! What readers get of a partition that was compacted. The broker's own engine does it
//! while the broker is stopped: so it is known what has been compacted, and when.

use std::path::Path;
use std::sync::Arc;

use prost::Message;
use statecast_broker::broker::ProtobufRecords;
use statecast_broker::metadata::FIRST_USER_PARTITION;
use statecast_broker::storage::dir::RealDir;
use statecast_broker::storage::{
    CompactionConfig, Compactor, Pace, PartitionCompaction, Storage, StorageOptions,
};
use statecast_client::{Client, Start};
use statecast_proto::batch::uncompressed;
use statecast_proto::v1::{self, fetch_response::Event, start::Position};
use tokio_stream::StreamExt;

use crate::fetch;
use crate::support::{TestBroker, encode};

struct Hasty;

impl Pace for Hasty {
    fn is_gentle(&self) -> bool {
        false
    }

    fn pause(&self) {}
}

/// Of each key the last one stays. Keys come again at various distances, so that
/// gaps are of all kinds.
fn key(offset: u64) -> String {
    format!("key-{}", (offset * offset) % 23)
}

fn value(offset: u64) -> String {
    format!("value-{offset}")
}

fn record(offset: u64) -> v1::Record {
    v1::Record {
        key: Some(key(offset).into()),
        value: Some(value(offset).into()),
        // Some have a time of their own.
        timestamp_ms: offset.is_multiple_of(3).then(|| time(offset)),
        ..v1::Record::default()
    }
}

fn time(offset: u64) -> i64 {
    1_700_000_000_000 + i64::try_from(offset).unwrap()
}

/// Compacts the only partition of the only topic.
fn compact(data_dir: &Path) {
    let dir = Arc::new(RealDir::take(data_dir).unwrap());
    let (storage, _) = Storage::open(dir, StorageOptions::default(), 1).unwrap();
    let log = storage.partition(FIRST_USER_PARTITION);
    log.lock().segment_bytes = 500;
    storage.close_journal_file();
    while storage.archive_oldest(1, &Hasty).unwrap() > 0 {}
    log.lock().segment_bytes = 2000;
    let mut compactor = Compactor::new(Arc::new(ProtobufRecords), 1);
    let partition = PartitionCompaction {
        log: log.clone(),
        config: CompactionConfig {
            tombstone_grace_ms: 0,
            min_dirty_percent: 0,
            max_dirty_bytes: 1,
        },
    };
    let done = storage.compact(&mut compactor, &partition, &|| 1, &Hasty);
    let done = done.unwrap().expect("there is something to do");
    assert!(done.replaced_segments > 5, "{done:?}");
}

/// What a client in any language makes of a fetched batch.
fn records_of(fetched: &v1::FetchedBatch) -> Vec<(u64, String)> {
    assert_eq!(fetched.checksum, statecast_proto::checksum(&fetched.batch));
    let payload = uncompressed(fetched.batch.clone()).unwrap();
    let mut offset = fetched.base_offset;
    let mut records = Vec::new();
    for (index, record) in (0..).zip(v1::RecordBatch::decode(payload).unwrap().records) {
        offset += u64::from(record.offset_gap);
        if index >= fetched.skip_records {
            let value = record.value.unwrap().to_vec();
            records.push((offset, String::from_utf8(value).unwrap()));
        }
        offset += 1;
    }
    assert!(!records.is_empty(), "nothing is sent for nothing");
    assert!(offset <= fetched.next_offset);
    records
}

#[tokio::test]
async fn fetch_from_anywhere_gets_exactly_what_is_left() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1).await;
    // Else the broker may have put the records into a large segment by then.
    broker.until_journal_is_prepared().await;
    let mut end = 0;
    for count in (1..=9).cycle().take(80) {
        let records = (end..end + count).map(record).collect();
        assert_eq!(broker.produce("t", 0, encode(records)).await, end);
        end += count;
    }
    let broker = broker.stop_serving().await.0.start_changed(compact).await;

    let is_latest = |offset: &u64| (*offset + 1..end).all(|later| key(later) != key(*offset));
    let mut left = None;
    let client = Client::connect(format!("http://{}", broker.address()));
    let client = client.await.unwrap();
    for from in 0..=end {
        let mut request = fetch::from(Position::Offset(from));
        request.until_end = true;
        let mut stream = fetch::fetch(&broker, request).await;
        let mut found = Vec::new();
        let mut caught_up = None;
        while let Some(response) = stream.message().await.unwrap() {
            match response.event.unwrap() {
                Event::Batches(batches) => {
                    found.extend(batches.batches.iter().flat_map(records_of));
                }
                Event::CaughtUp(told) => caught_up = Some(told.positions[0].offset),
                Event::Opened(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(caught_up, Some(end));
        // Whatever is still in the active segment comes as it was.
        let all = left.get_or_insert_with(|| found.clone());
        let expected: Vec<_> = all.iter().filter(|(at, _)| *at >= from).cloned().collect();
        assert_eq!(found, expected, "from {from}");

        let reader = client.reader("t").until_end();
        let mut reader = reader
            .partition_from(0, Start::Offset(from))
            .open()
            .await
            .unwrap();
        let mut read = Vec::new();
        while let Some(record) = reader.next().await {
            let record = record.unwrap();
            read.push((record.offset, record.value.unwrap()));
        }
        let expected = expected.into_iter().map(|(at, text)| (at, text.into()));
        assert_eq!(read, expected.collect::<Vec<_>>(), "from {from}");
    }
    let left = left.unwrap();
    assert!(left.len() < 80, "{} of {end} are left", left.len());
    assert!(left.iter().all(|(at, text)| *text == value(*at)));
    for offset in (0..end).filter(is_latest) {
        assert!(left.iter().any(|(at, _)| *at == offset), "{offset} is gone");
    }
}
