//! Reading that is given up at any moment, by readers that take little, over a log
//! most of which is on disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;

use super::*;
use crate::clock::Clock;
use crate::model::{CheckedBatch, FlushLevel, Offset, PartitionId, TopicName};
use crate::partition::{Append, Engine, EngineOptions, PartitionConfig, PartitionHandle};
use crate::server::ServerOptions;
use crate::storage::dir::sim::SimDir;
use crate::storage::{JournalOptions, JournalSize, Storage, StorageOptions};

const PAYLOAD: usize = 1000;

/// A log whose tail in memory holds a few batches.
fn engine() -> Engine {
    let size = JournalSize {
        file_bytes: 1 << 20,
        max_files: 5,
        spares: 2,
    };
    let journal = JournalOptions {
        size,
        max_frames_per_file: 10_000,
        tail_bytes: 8 << 10,
    };
    let options = StorageOptions {
        journal,
        open_segments: 8,
        growing_segments: 8,
    };
    let (storage, _) = Storage::open(Arc::new(SimDir::new()), options, 1).unwrap();
    Engine::start(storage, EngineOptions::default(), Clock::of(|| 0)).unwrap()
}

fn partition(engine: &Engine, id: u32) -> PartitionHandle {
    let config = PartitionConfig {
        flush: FlushLevel::Os,
        segment_bytes: 1 << 20,
        retention_ms: None,
        retention_bytes: None,
        internal: false,
        compaction: None,
    };
    engine.partition(PartitionId(id), config)
}

/// Appends a batch of three records.
async fn append(engine: &Engine, partition: &PartitionHandle) {
    let payload = Bytes::from(vec![7; PAYLOAD]);
    let batch = CheckedBatch {
        payload_crc: crc32fast::hash(&payload),
        record_count: 3,
        max_timestamp_ms: None,
        all_timed: false,
        uncompressed_len: 7,
        attributes: 0,
        stamp: None,
        key_hashes: Vec::new(),
        payload,
    };
    let append = Append::new(partition, batch);
    engine.append(vec![append]).await[0].as_ref().unwrap();
}

fn opened(partition: &PartitionHandle, number: u32) -> Opened {
    Opened {
        topic: TopicName::try_from("t").unwrap(),
        number,
        partition: partition.clone(),
        position: Offset::ZERO,
        until: Offset(u64::MAX),
        max_batch_bytes: 1 << 10,
    }
}

fn memory(sending_bytes: usize) -> Arc<Memory> {
    Arc::new(Memory::new(&ServerOptions {
        sending_bytes,
        stalled: Duration::from_secs(3600),
        ..ServerOptions::default()
    }))
}

fn connection() -> Arc<Connection> {
    Arc::new(Connection::new(([127, 0, 0, 1], 1).into(), 1))
}

/// Numbers that look random, the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn thousands(&mut self, end: u64) -> usize {
        1000 * usize::try_from(self.below(end)).unwrap()
    }
}

#[tokio::test]
async fn nothing_is_left_out_or_doubled_however_often_reading_is_given_up() {
    let engine = engine();
    let partitions: Vec<_> = (0..4).map(|id| partition(&engine, 16 + id)).collect();
    for round in 0..80 {
        for partition in &partitions[..=round % 4] {
            append(&engine, partition).await;
        }
    }
    for seed in 1..=30 {
        let mut random = Random(seed);
        // A budget that others use most of, or hardly any.
        let memory = memory(24 << 10);
        let others = memory.sending.try_take(random.thousands(16));
        let mut reading = Reading::new(memory.clone(), connection());
        let mut next: BTreeMap<u32, u64> = BTreeMap::new();
        for (number, partition) in (0..).zip(&partitions) {
            reading.add(opened(partition, number)).unwrap();
            next.insert(number, 0);
        }
        let mut allowance = Allowance {
            bytes: u64::MAX,
            records: 0,
        };
        while !reading.is_caught_up() || next.values().all(|next| *next == 0) {
            if random.below(3) == 0 {
                allowance.records = random.below(12);
            }
            let max_bytes = 1 + random.thousands(6);
            // Given up when it has to wait, and often before it could finish.
            let Some(read) = reading.next(max_bytes, allowance).now_or_never() else {
                tokio::task::yield_now().await;
                continue;
            };
            match read.unwrap() {
                Next::News => {}
                Next::Batches(taken, _) => {
                    for taken in taken {
                        assert!(!allowance.is_used_up(), "no more is taken");
                        allowance.spend(&taken.batch);
                        let next = next.get_mut(&taken.batch.partition).unwrap();
                        assert_eq!(taken.batch.base_offset, *next, "seed {seed}");
                        *next = taken.batch.next_offset;
                    }
                }
                Next::Gap(..) => panic!("nothing is missing"),
            }
        }
        let ends = partitions
            .iter()
            .map(|partition| partition.high_watermark().0);
        assert!(next.into_values().eq(ends), "seed {seed}");
        drop((reading, others));
        while memory.sending.used() > 0 {
            tokio::task::yield_now().await;
        }
    }
    engine.stop().await;
}

#[tokio::test]
async fn what_is_removed_is_not_handed_out_and_what_is_added_is() {
    let engine = engine();
    let partitions: Vec<_> = (0..3).map(|id| partition(&engine, 16 + id)).collect();
    for partition in &partitions {
        for _ in 0..20 {
            append(&engine, partition).await;
        }
    }
    let memory = memory(1 << 20);
    let cursors = memory.cursors.taken();
    let mut reading = Reading::new(memory.clone(), connection());
    let kept = reading.add(opened(&partitions[0], 0)).unwrap();
    let removed = reading.add(opened(&partitions[1], 1)).unwrap();
    assert_eq!(memory.cursors.taken(), cursors + 2);
    // Something of both is gathered, and something of both was read.
    let few = Allowance {
        bytes: u64::MAX,
        records: 1,
    };
    let Next::Batches(first, _) = reading.next(8 << 10, few).await.unwrap() else {
        panic!("batches");
    };
    assert_eq!(first[0].slot, kept);
    reading.remove(removed);
    let added = reading.add(opened(&partitions[2], 2)).unwrap();
    let mut batches = BTreeMap::from([(0, first.len()), (2, 0)]);
    while !reading.is_caught_up() {
        if let Next::Batches(taken, _) = reading.next(8 << 10, Allowance::UNLIMITED).await.unwrap()
        {
            for taken in taken {
                *batches.get_mut(&taken.batch.partition).unwrap() += 1;
            }
        }
    }
    assert_eq!(batches, BTreeMap::from([(0, 20), (2, 20)]));
    assert_eq!(reading.take_touched().len(), 2);
    assert_eq!(memory.cursors.taken(), cursors + 2);

    // Nobody rings for what was removed while it waited.
    reading.remove(kept);
    append(&engine, &partitions[0]).await;
    append(&engine, &partitions[2]).await;
    let Next::News = reading.next(8 << 10, Allowance::UNLIMITED).await.unwrap() else {
        panic!("the bell rang");
    };
    let Next::Batches(taken, _) = reading.next(8 << 10, Allowance::UNLIMITED).await.unwrap() else {
        panic!("batches");
    };
    let slots: Vec<_> = taken.iter().map(|taken| taken.slot).collect();
    assert_eq!(slots, [added]);
    engine.stop().await;
}

#[tokio::test]
async fn a_slot_ends_where_it_is_to_end() {
    let engine = engine();
    let partition = partition(&engine, 16);
    for _ in 0..5 {
        append(&engine, &partition).await;
    }
    let mut reading = Reading::new(memory(1 << 20), connection());
    reading.add(opened(&partition, 0).until_end()).unwrap();
    append(&engine, &partition).await;
    let mut next = 0;
    while !reading.is_caught_up() {
        if let Next::Batches(taken, _) = reading.next(2 << 10, Allowance::UNLIMITED).await.unwrap()
        {
            next = taken.last().unwrap().batch.next_offset;
        }
    }
    assert_eq!(next, 15);
    engine.stop().await;
}

#[tokio::test]
async fn one_that_is_far_behind_lets_others_have_their_turn() {
    let engine = engine();
    let (behind, other) = (partition(&engine, 16), partition(&engine, 17));
    let batches = 2 * limits::TURN_BYTES / PAYLOAD;
    for _ in 0..batches {
        append(&engine, &behind).await;
    }
    append(&engine, &other).await;
    let mut reading = Reading::new(memory(8 << 20), connection());
    let slots = [&behind, &other].map(|partition| reading.add(opened(partition, 0)).unwrap());
    let Next::Batches(taken, _) = reading.next(1 << 20, Allowance::UNLIMITED).await.unwrap() else {
        panic!("there is something to read");
    };
    let before = taken.iter().position(|taken| taken.slot == slots[1]);
    let bytes: usize = taken[..before.unwrap()].iter().map(Taken::size).sum();
    assert!((limits::TURN_BYTES / 2..=2 * limits::TURN_BYTES).contains(&bytes));
    assert!(before.unwrap() < batches);
    assert_eq!(taken.len(), batches + 1, "then the rest of it");
    engine.stop().await;
}

#[tokio::test]
async fn news_of_others_come_before_the_end_of_one_that_is_far_behind() {
    let engine = engine();
    let (behind, other) = (partition(&engine, 16), partition(&engine, 17));
    let batches = 4 * limits::TURN_BYTES / PAYLOAD;
    for _ in 0..batches {
        append(&engine, &behind).await;
    }
    append(&engine, &other).await;
    let mut reading = Reading::new(memory(8 << 20), connection());
    reading.add(opened(&other, 0)).unwrap();
    while !reading.is_caught_up() {
        let read = reading.next(1 << 20, Allowance::UNLIMITED).await;
        assert!(matches!(read.unwrap(), Next::Batches(taken, _) if taken.len() == 1));
    }
    let slot = reading.add(opened(&behind, 0)).unwrap();
    let mut taken = Vec::new();
    let mut responses = 0;
    while taken.iter().all(|taken: &Taken| taken.slot == slot) {
        let Next::Batches(more, _) = reading
            .next(limits::TURN_BYTES, Allowance::UNLIMITED)
            .await
            .unwrap()
        else {
            panic!("there is something to read");
        };
        taken.extend(more);
        responses += 1;
        if responses == 1 {
            append(&engine, &other).await;
        }
    }
    assert!(responses <= 3, "not only at the end, after {responses}");
    engine.stop().await;
}
