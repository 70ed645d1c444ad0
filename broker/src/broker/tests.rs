//! Starting over what crashes and damage leave behind.

use std::sync::Arc;

use bytes::Bytes;

use super::{Broker, BrokerOptions};
use crate::model::{CheckedBatch, FlushLevel, PartitionId, TopicConfig, TopicName};
use crate::partition::{Append, Engine, PartitionConfig};
use crate::storage::dir::sim::SimDir;
use crate::storage::{JournalOptions, JournalSize, Storage, StorageOptions};

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
        let options = BrokerOptions {
            storage: storage_options(),
            ..BrokerOptions::new(self.index.path().join("index"))
        };
        Broker::open(Arc::new(self.dir.clone()), options)
            .await
            .unwrap()
    }

    fn lose_index(&self) {
        std::fs::remove_dir_all(self.index.path().join("index")).unwrap();
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

async fn append(engine: &Engine, id: PartitionId) {
    let config = PartitionConfig {
        flush: FlushLevel::Always,
        segment_bytes: 1 << 20,
        retention_ms: None,
        retention_bytes: None,
        internal: false,
    };
    let payload = Bytes::from_static(b"payload");
    let batch = CheckedBatch {
        payload_crc: crc32fast::hash(&payload),
        record_count: 1,
        max_timestamp_ms: None,
        uncompressed_len: 7,
        attributes: 0,
        payload,
    };
    let append = Append {
        partition: engine.partition(id, config),
        batch,
    };
    engine.append(vec![append]).await[0].as_ref().unwrap();
}

fn ids(broker: &Broker) -> Vec<u32> {
    broker
        .engine()
        .partition_ids()
        .unwrap()
        .iter()
        .map(|id| id.0)
        .collect()
}

#[tokio::test]
async fn partitions_of_a_topic_whose_deletion_was_cut_short_are_removed() {
    let disk = Disk::new();
    let broker = disk.open().await;
    let kept = create(&broker, "kept").await;
    let gone = create(&broker, "gone").await;
    broker.delete_topic(name("gone")).await.unwrap();
    broker.stop().await;
    drop(broker);

    // As after a crash between the record of the deletion and the removal.
    let dir = Arc::new(disk.dir.clone());
    let (storage, _) = Storage::open(dir, storage_options(), 1).unwrap();
    let clock = crate::clock::Clock::of(|| 0);
    let engine = Engine::start(storage, crate::partition::EngineOptions::default(), clock).unwrap();
    append(&engine, kept).await;
    append(&engine, gone).await;
    engine.stop().await;
    drop(engine);

    let broker = disk.open().await;
    assert_eq!(ids(&broker), [0, kept.0]);
    assert_eq!(
        broker
            .partition("kept", 0)
            .unwrap()
            .range()
            .high_watermark
            .0,
        1
    );
    assert_eq!(create(&broker, "gone").await.0, gone.0 + 1);
}

#[tokio::test]
async fn no_partition_is_removed_while_records_of_topics_are_damaged() {
    let disk = Disk::new();
    let broker = disk.open().await;
    let known = create(&broker, "known").await;
    let lost = create(&broker, "lost-to-damage").await;
    append(broker.engine(), lost).await;
    create(&broker, "after").await;
    broker.stop().await;
    drop(broker);
    // Wherever the log has it by now.
    assert!(disk.dir.flip_bit_of(b"lost-to-damage"));
    disk.lose_index();

    let broker = disk.open().await;
    assert!(
        broker.topic("lost-to-damage").is_err(),
        "its record can't be read"
    );
    assert_eq!(broker.partition("known", 0).unwrap().id(), known);
    assert!(
        ids(&broker).contains(&lost.0),
        "its records are still there"
    );
    assert!(
        create(&broker, "new").await > lost,
        "and nothing new goes on top of them"
    );
}
