//! Makes the golden data directory, with the means of the library: what is to
//! be in segments and what in the journal is decided here, not by a thread.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use statecast_broker::broker::{Broker, BrokerOptions, TopicConfigChange};
use statecast_broker::clock::Clock;
use statecast_broker::model::{
    CheckedBatch, Cleanup, FlushLevel, PartitionId, TopicConfig, TopicName,
};
use statecast_broker::storage::dir::RealDir;
use statecast_broker::storage::{
    Claim, JournalAppend, JournalOptions, JournalSize, Pace, PartitionLog, PartitionRetention,
    Storage, StorageOptions,
};
use statecast_proto::batch::{BatchBuilder, BatchLimits, HeaderRef, RecordRef, check};

use super::content::{self, ARCHIVED_READINGS, BORN_MS, CLUSTER_ID, READINGS_START};

/// Four batches of readings; the sixteenth KiB of it begins with an index entry.
const SEGMENT_BYTES: u64 = 40 << 10;

/// Batches of readings that fit into a journal file with some others.
const BATCHES_PER_FILE: usize = 5;

/// What the topics' partitions are called on disk.
struct Ids {
    lamps: Vec<PartitionId>,
    readings: Vec<PartitionId>,
    attic: PartitionId,
}

/// Makes the directory in `data`, where nothing may be yet.
pub async fn write(data: &Path) {
    assert!(!data.exists(), "{} is there already", data.display());
    // So that the id is not random.
    drop(open(data, CLUSTER_ID));
    let ids = write_topics(data).await;
    fill(&open(data, 1), &ids);
    leave_in_journal(&open(data, 2), &ids);
    fs::remove_file(data.join("LOCK")).unwrap();
}

fn options() -> StorageOptions {
    let size = JournalSize {
        file_bytes: 64 << 10,
        max_files: 6,
        spares: 1,
    };
    let journal = JournalOptions {
        size,
        max_frames_per_file: 10_000,
        tail_bytes: 64 << 10,
    };
    StorageOptions {
        journal,
        open_segments: 8,
        growing_segments: 8,
    }
}

fn open(data: &Path, seed: u128) -> Storage {
    let dir = Arc::new(RealDir::take(data).unwrap());
    let (storage, report) = Storage::open(dir, options(), seed).unwrap();
    assert_eq!(report.damage, []);
    storage
}

/// Creates, alters and deletes topics.
async fn write_topics(data: &Path) -> Ids {
    let broker_options = BrokerOptions {
        storage: options(),
        clock: Clock::of(|| BORN_MS),
        ..BrokerOptions::new(data.join("index"))
    };
    let dir = Arc::new(RealDir::take(data).unwrap());
    let broker = Broker::open(dir, broker_options).await.unwrap();
    let name = |name| TopicName::try_from(name).unwrap();
    let create = |topic, partitions, config| broker.create_topic(name(topic), partitions, config);

    let config = TopicConfig {
        retention_ms: None,
        ..TopicConfig::default()
    };
    create("lamps", 3, config).await.unwrap();
    let attic = create("attic", 1, TopicConfig::default()).await.unwrap();
    let config = TopicConfig {
        retention_ms: Some(876_000 * 3_600_000),
        retention_bytes: Some(10 << 20),
        cleanup: Cleanup::Delete,
        tombstone_grace_ms: None,
        flush: FlushLevel::Interval(std::time::Duration::from_millis(250)),
        segment_bytes: 1 << 20,
        max_batch_bytes: 32 << 10,
    };
    let readings = create("readings", 2, config).await.unwrap();
    broker.delete_topic(name("attic")).await.unwrap();
    let change = TopicConfigChange {
        max_batch_bytes: Some(1 << 20),
        ..TopicConfigChange::default()
    };
    // After others: the ids of its partitions are two ranges.
    let lamps = broker.alter_topic(name("lamps"), Some(4), change).await;
    let ids = Ids {
        lamps: lamps.unwrap().meta().partition_ids().collect(),
        readings: readings.meta().partition_ids().collect(),
        attic: attic.meta().partition_ids().next().unwrap(),
    };
    broker.stop().await;
    ids
}

/// Everything that is in segments, and lets retention remove some of it.
fn fill(storage: &Storage, ids: &Ids) {
    let archived = usize::try_from(ARCHIVED_READINGS).unwrap();
    let readings = log(storage, ids.readings[0]);
    let batches = content::batches("readings", 0);
    for some in batches[..archived].chunks(BATCHES_PER_FILE) {
        for batch in some {
            append(storage, &[(&readings, batch)]);
        }
        archive(storage);
    }
    let others = [
        (ids.readings[1], content::batches("readings", 1), 2),
        (ids.lamps[0], content::batches("lamps", 0), 1),
        (ids.lamps[1], content::batches("lamps", 1), 2),
    ];
    for (id, batches, count) in others {
        for batch in &batches[..count] {
            append(storage, &[(&log(storage, id), batch)]);
        }
    }
    archive(storage);

    let retention = PartitionRetention {
        log: readings.clone(),
        retention_ms: None,
        retention_bytes: Some(2 * SEGMENT_BYTES),
    };
    storage
        .apply_retention([retention].into_iter(), BORN_MS + 6000)
        .unwrap();
    assert_eq!(readings.lock().log_start.0, READINGS_START);
}

/// What is in the journal only: in a file that waits for the archiver, and in
/// one that could have been written further.
fn leave_in_journal(storage: &Storage, ids: &Ids) {
    let last = |topic, partition| content::batches(topic, partition).pop().unwrap();
    let lamps = |number: usize| log(storage, ids.lamps[number]);
    append(storage, &[(&lamps(0), &last("lamps", 0))]);
    for number in [0, 1] {
        let partition = log(storage, ids.readings[number]);
        append(
            storage,
            &[(
                &partition,
                &last("readings", u32::try_from(number).unwrap()),
            )],
        );
    }
    storage.close_journal_file();
    // An append that met the deletion of its topic.
    append(storage, &[(&log(storage, ids.attic), &last("lamps", 0))]);
    let (first, second) = (last("lamps", 1), last("lamps", 2));
    append(storage, &[(&lamps(1), &first), (&lamps(2), &second)]);
}

fn log(storage: &Storage, id: PartitionId) -> Arc<PartitionLog> {
    let log = storage.partition(id);
    log.lock().segment_bytes = SEGMENT_BYTES;
    log
}

/// Appends batches as one atomic unit, durably.
fn append(storage: &Storage, batches: &[(&Arc<PartitionLog>, &content::Batch)]) {
    let append_ms = batches[0].1.append_ms;
    let appends = batches.iter().enumerate().map(|(at, (log, batch))| {
        let following = batches.len() - at - 1;
        JournalAppend {
            log: Arc::clone(log),
            batch: checked(batch),
            unit_remaining: u16::try_from(following).unwrap(),
            guards: Vec::new(),
            claim: Claim::User,
        }
    });
    let appends: Vec<JournalAppend> = appends.collect();
    let written = storage.append(&appends, append_ms).unwrap();
    assert_eq!(written.placed.len(), appends.len());
    storage.flush(written.end).unwrap();
}

fn checked(batch: &content::Batch) -> CheckedBatch {
    let mut builder = BatchBuilder::new(batch.compression);
    for record in &batch.records {
        let headers: Vec<HeaderRef> = record
            .headers
            .iter()
            .map(|header| HeaderRef {
                name: &header.name,
                value: header.value.as_deref(),
            })
            .collect();
        let content = RecordRef {
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &headers,
            timestamp_ms: record.timestamp_ms,
        };
        builder.push(&content).unwrap();
    }
    let encoded = builder.finish();
    let summary = check(&encoded.payload, &BatchLimits::default(), &mut Vec::new()).unwrap();
    CheckedBatch {
        payload_crc: encoded.checksum,
        record_count: summary.record_count,
        max_timestamp_ms: summary.max_timestamp_ms,
        all_timed: summary.all_timed,
        uncompressed_len: summary.uncompressed_len,
        attributes: u16::from(batch.compression.number()),
        payload: encoded.payload,
        stamp: None,
        key_hashes: Vec::new(),
    }
}

struct Hasty;

impl Pace for Hasty {
    fn is_gentle(&self) -> bool {
        false
    }

    fn pause(&self) {}
}

fn archive(storage: &Storage) {
    storage.close_journal_file();
    while storage.archive_oldest(BORN_MS + 5500, &Hasty).unwrap() > 0 {}
}
