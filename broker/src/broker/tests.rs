//! Starting over what crashes and damage leave behind.

mod compaction;
mod leases;
mod recent_topics;
mod views;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::{Broker, BrokerOptions, StartError};
use crate::clock::Clock;
use crate::metadata::{FIRST_USER_PARTITION, TOPICS_PARTITION};
use crate::model::{CheckedBatch, FlushLevel, Offset, PartitionId, TopicConfig, TopicName};
use crate::partition::{Append, Engine, EngineOptions, PartitionConfig, Read};
use crate::storage::dir::RealDir;
use crate::storage::dir::sim::{Fault, SimDir};
use crate::storage::{JournalOptions, JournalSize, Pace, Storage, StorageOptions};

/// A disk of a broker, and where its index lies.
struct Disk {
    dir: SimDir,
    index: tempfile::TempDir,
}

impl Disk {
    fn new() -> Disk {
        Disk {
            dir: SimDir::new(),
            index: tempfile::tempdir().unwrap(),
        }
    }

    async fn open(&self) -> Broker {
        Broker::open(Arc::new(self.dir.clone()), options(self.index_dir()))
            .await
            .unwrap()
    }

    /// The log without a broker over it.
    fn open_log(&self) -> Storage {
        let dir = Arc::new(self.dir.clone());
        Storage::open(dir, storage_options(), 1).unwrap().0
    }

    fn index_dir(&self) -> PathBuf {
        self.index.path().join("index")
    }

    fn lose_index(&self) {
        fs::remove_dir_all(self.index_dir()).unwrap();
    }

    /// Puts what `other` holds in the place of the index.
    fn replace_index(&self, other: &Path) {
        self.lose_index();
        copy_dir(other, &self.index_dir());
    }

    /// Another disk with what this one holds now. A broker that was stopped has
    /// flushed everything, so that the power cut changes nothing.
    fn fork(&mut self) -> Disk {
        let fork = Disk {
            dir: self.dir.crash(2),
            index: tempfile::tempdir().unwrap(),
        };
        self.dir = self.dir.crash(3);
        copy_dir(&self.index_dir(), &fork.index_dir());
        fork
    }

    /// Moves everything from the journal to segments.
    fn archive(&self) {
        let storage = self.open_log();
        storage.close_journal_file();
        while storage.archive_oldest(0, &Hasty).unwrap() > 0 {}
    }

    /// Brings back what was in partition `id`, as after a crash between the
    /// record of its deletion and the removal of its files.
    async fn bring_back(&self, id: PartitionId) {
        let clock = Clock::of(|| 0);
        let engine = Engine::start(self.open_log(), EngineOptions::default(), clock).unwrap();
        append(&engine, id).await;
        engine.stop().await;
    }
}

struct Hasty;

impl Pace for Hasty {
    fn is_gentle(&self) -> bool {
        false
    }

    fn pause(&self) {}
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn options(index_dir: PathBuf) -> BrokerOptions {
    BrokerOptions {
        storage: storage_options(),
        ..BrokerOptions::new(index_dir)
    }
}

fn storage_options() -> StorageOptions {
    let size = JournalSize {
        file_bytes: 1 << 20,
        max_files: 5,
        spares: 2,
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

fn name(name: &str) -> TopicName {
    TopicName::try_from(name).unwrap()
}

async fn create(broker: &Broker, topic: &str) -> PartitionId {
    let created = broker
        .create_topic(name(topic), 1, TopicConfig::default())
        .await
        .unwrap();
    created.partitions()[0].id()
}

const PARTITION: PartitionConfig = PartitionConfig {
    flush: FlushLevel::Always,
    segment_bytes: 1 << 20,
    retention_ms: None,
    retention_bytes: None,
    compaction: None,
    internal: false,
};

async fn append(engine: &Engine, id: PartitionId) {
    let payload = Bytes::from_static(b"payload");
    let batch = CheckedBatch {
        payload_crc: crc32fast::hash(&payload),
        record_count: 1,
        max_timestamp_ms: None,
        all_timed: false,
        uncompressed_len: 7,
        attributes: 0,
        payload,
        stamp: None,
        key_hashes: Vec::new(),
    };
    let append = Append::new(&engine.partition(id, PARTITION), batch);
    engine.append(vec![append]).await[0].as_ref().unwrap();
}

/// The partitions of topics that are on disk.
fn ids(broker: &Broker) -> Vec<u32> {
    let ids = broker.engine().partition_ids().unwrap().into_iter();
    let of_topics = ids.filter(|id| *id >= FIRST_USER_PARTITION);
    of_topics.map(|id| id.0).collect()
}

/// How many records the only partition of a topic has.
fn record_count(broker: &Broker, topic: &str) -> u64 {
    let range = broker.partition(topic, 0).unwrap().range();
    range.high_watermark.0 - range.log_start_offset.0
}

async fn stop(broker: Broker) {
    broker.stop().await;
}

#[tokio::test]
async fn partitions_of_a_topic_whose_deletion_was_cut_short_are_removed() {
    let mut disk = Disk::new();
    let broker = disk.open().await;
    let kept = create(&broker, "kept").await;
    append(broker.engine(), kept).await;
    let gone = create(&broker, "gone").await;
    stop(broker).await;
    let behind = disk.fork();
    let broker = disk.open().await;
    broker.delete_topic(name("gone")).await.unwrap();
    stop(broker).await;
    let ahead = disk.fork();
    let broker = ahead.open().await;
    create(&broker, "later").await;
    create(&broker, "even-later").await;
    stop(broker).await;

    let spoil_index: [&dyn Fn(&Disk); 4] = [
        &|_| {},
        &|disk| disk.lose_index(),
        &|disk| disk.replace_index(&behind.index_dir()),
        &|disk| disk.replace_index(&ahead.index_dir()),
    ];
    for (case, spoil_index) in spoil_index.into_iter().enumerate() {
        for archived in [false, true] {
            let disk = disk.fork();
            disk.bring_back(gone).await;
            if archived {
                disk.archive();
            }
            spoil_index(&disk);
            let broker = disk.open().await;
            assert_eq!(ids(&broker), [kept.0], "case {case}, {archived}");
            assert_eq!(record_count(&broker, "kept"), 1);
            assert_eq!(create(&broker, "gone").await.0, gone.0 + 1);
            assert_eq!(record_count(&broker, "gone"), 0);
            stop(broker).await;
        }
    }
}

#[tokio::test]
async fn a_deletion_that_crashes_anywhere_is_finished_or_never_happened() {
    for operations in 0..12 {
        let mut disk = Disk::new();
        let broker = disk.open().await;
        let doomed = create(&broker, "doomed").await;
        append(broker.engine(), doomed).await;
        stop(broker).await;
        disk.archive();
        let broker = disk.open().await;
        disk.dir.fail_after(operations, Fault::Crash);
        let _cut_short = broker.delete_topic(name("doomed")).await;
        stop(broker).await;
        disk.dir = disk.dir.crash(operations);
        if operations % 2 == 0 {
            disk.lose_index();
        }

        let broker = disk.open().await;
        if broker.topic("doomed").is_ok() {
            assert_eq!(record_count(&broker, "doomed"), 1);
        } else {
            assert_eq!(ids(&broker), [0; 0], "after {operations} operations");
            assert!(create(&broker, "doomed").await > doomed);
        }
        stop(broker).await;
    }
}

#[tokio::test]
async fn no_partition_is_removed_while_records_of_topics_are_damaged() {
    for archived in [false, true] {
        let disk = Disk::new();
        let broker = disk.open().await;
        let known = create(&broker, "known").await;
        let lost = create(&broker, "lost-to-damage").await;
        append(broker.engine(), lost).await;
        create(&broker, "after").await;
        stop(broker).await;
        if archived {
            disk.archive();
        }
        // Wherever the log has it by now.
        assert!(disk.dir.flip_bit_of(b"lost-to-damage"));
        disk.lose_index();

        // The first start notices the damage. Those after it have an index that
        // is current, and read only what the log ends with; unless it is lost.
        for (start, lose_index) in [false, false, true, false].into_iter().enumerate() {
            if lose_index {
                disk.lose_index();
            }
            let broker = disk.open().await;
            assert!(
                broker.topic("lost-to-damage").is_err(),
                "its record can't be read"
            );
            assert_eq!(broker.partition("known", 0).unwrap().id(), known);
            assert!(
                ids(&broker).contains(&lost.0),
                "start {start}: its partition is still there"
            );
            let new = create(&broker, &format!("new-{start}")).await;
            assert!(new > lost, "and nothing new goes on top of it");
            stop(broker).await;
        }
        assert_eq!(first_payload(&disk, lost).await, "payload");
    }
}

#[tokio::test]
async fn an_id_whose_record_is_damaged_is_not_given_out_again() {
    let disk = Disk::new();
    let broker = disk.open().await;
    let lost = create(&broker, "lost-to-damage").await;
    append(broker.engine(), lost).await;
    stop(broker).await;
    // The last record of the log: nothing behind it has a higher id.
    disk.archive();
    assert!(disk.dir.flip_bit_of(b"lost-to-damage"));
    disk.lose_index();

    for _ in 0..2 {
        let broker = disk.open().await;
        assert!(broker.topic("lost-to-damage").is_err());
        stop(broker).await;
    }
    let broker = disk.open().await;
    assert!(create(&broker, "new").await > lost);
    stop(broker).await;
    assert_eq!(first_payload(&disk, lost).await, "payload");
}

/// What the first record of a partition holds, whether or not a topic has it.
async fn first_payload(disk: &Disk, id: PartitionId) -> String {
    let clock = Clock::of(|| 0);
    let engine = Engine::start(disk.open_log(), EngineOptions::default(), clock).unwrap();
    let partition = engine.partition(id, PARTITION);
    let end = partition.range().high_watermark;
    let read = partition.read(Offset::ZERO, end, 1 << 10).await.unwrap();
    engine.stop().await;
    let Read::Batches(batches) = read else {
        panic!("not there: {read:?}");
    };
    String::from_utf8(batches[0].payload.to_vec()).unwrap()
}

#[tokio::test]
async fn a_start_that_fails_lets_go_of_the_data_directory() {
    let data = tempfile::tempdir().unwrap();
    let take = || RealDir::take(data.path()).map(Arc::new);
    let (storage, _) = Storage::open(take().unwrap(), storage_options(), 1).unwrap();
    let clock = Clock::of(|| 0);
    let engine = Engine::start(storage, EngineOptions::default(), clock).unwrap();
    // No record of a topic.
    append(&engine, TOPICS_PARTITION).await;
    engine.stop().await;
    drop(engine);

    for _ in 0..2 {
        let dir = take().expect("nobody holds the directory");
        let opened = Broker::open(dir, options(data.path().join("index"))).await;
        let error = opened.expect_err("it can't read the topics");
        assert!(matches!(error, StartError::Batch(_)), "{error}");
    }
}
