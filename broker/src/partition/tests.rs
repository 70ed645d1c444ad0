//! The running log over the simulated disk.

mod gathering;
mod units;

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;

use super::upkeep::{Archived, FileAge};
use super::{
    Append, AppendError, Doorbell, Engine, EngineOptions, FlushLevel, PartitionConfig,
    PartitionHandle,
};
use crate::clock::Clock;
use crate::model::{CheckedBatch, Offset, PartitionId, ProducerStamp, RequestStamp, Stamp};
use crate::storage::dir::Dir;
use crate::storage::dir::sim::{Fault, SimDir};
use crate::storage::{JournalOptions, JournalSize, Prepared, Read, Storage, StorageOptions};

const MIB: u64 = 1 << 20;

fn options() -> StorageOptions {
    StorageOptions {
        journal: JournalOptions {
            size: JournalSize {
                file_bytes: 1 << 20,
                max_files: 5,
                spares: 2,
            },
            max_frames_per_file: 10_000,
            tail_bytes: 64 << 10,
        },
        open_segments: 8,
        growing_segments: 8,
    }
}

fn config(flush: FlushLevel) -> PartitionConfig {
    PartitionConfig {
        flush,
        segment_bytes: MIB,
        retention_ms: None,
        retention_bytes: None,
        compaction: None,
        internal: false,
    }
}

fn engine(dir: &SimDir) -> Engine {
    let (storage, _) = Storage::open(Arc::new(dir.clone()), options(), 1 << 96).unwrap();
    let engine = Engine::start(storage, EngineOptions::default(), Clock::of(|| 1_000)).unwrap();
    engine.begin_upkeep().unwrap();
    engine
}

fn batch(value: &[u8]) -> CheckedBatch {
    CheckedBatch {
        payload: Bytes::copy_from_slice(value),
        payload_crc: crc32fast::hash(value),
        record_count: 1,
        max_timestamp_ms: None,
        all_timed: false,
        uncompressed_len: u32::try_from(value.len()).unwrap(),
        attributes: 0,
        stamp: None,
        key_hashes: Vec::new(),
    }
}

async fn append(
    engine: &Engine,
    partition: &PartitionHandle,
    value: &[u8],
) -> Result<Offset, AppendError> {
    let append = Append::new(partition, batch(value));
    let result = engine.append(vec![append]).await.remove(0);
    result.map(|appended| appended.base_offset)
}

async fn values(partition: &PartitionHandle) -> Vec<Bytes> {
    let mut values = Vec::new();
    let end = partition.high_watermark();
    let mut at = Offset::ZERO;
    while at < end {
        let Read::Batches(batches) = partition.read(at, end, 1000).await.unwrap() else {
            panic!("everything is readable");
        };
        for batch in batches {
            at = batch.header.next_offset();
            values.push(batch.payload);
        }
    }
    values
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_of_one_task_keep_their_order_among_many() {
    let engine = engine(&SimDir::new());
    let partition = engine.create_partition(PartitionId(1), config(FlushLevel::Always));
    let mut tasks = Vec::new();
    for task in 0..8_u64 {
        let (engine, partition) = (engine.clone(), partition.clone());
        tasks.push(tokio::spawn(async move {
            let mut answers = Vec::new();
            for nth in 0..500_u64 {
                let append = Append::new(&partition, batch(&(task << 32 | nth).to_le_bytes()));
                answers.push(engine.submit(vec![append]).await.unwrap());
            }
            for answer in answers {
                answer.await.unwrap().remove(0).unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let mut last = [None; 8];
    let values = values(&partition).await;
    assert_eq!(values.len(), 8 * 500);
    for value in values {
        let value = u64::from_le_bytes(*value.first_chunk().unwrap());
        let task = usize::try_from(value >> 32).unwrap();
        assert!(last[task] < Some(value), "task {task}");
        last[task] = Some(value);
    }
    engine.stop().await;
}

#[tokio::test]
async fn failed_flush_is_final_and_reads_go_on() {
    let dir = SimDir::new();
    let engine = engine(&dir);
    let partition = engine.create_partition(PartitionId(1), config(FlushLevel::Always));
    append(&engine, &partition, b"durable").await.unwrap();
    // The next operation is the write, the one after it the flush. Files are
    // prepared in the background, so the fault may hit one of those: repeat.
    while engine.writable() {
        dir.fail_after(1, Fault::FlushError);
        match append(&engine, &partition, b"more").await {
            Ok(_) => {}
            Err(error) => assert!(matches!(error, AppendError::ReadOnly(_)), "{error}"),
        }
    }
    dir.clear_fault();
    let refused = append(&engine, &partition, b"later").await;
    assert!(
        matches!(refused, Err(AppendError::ReadOnly(_))),
        "{refused:?}"
    );
    let acknowledged = values(&partition).await;
    assert_eq!(acknowledged[0], &b"durable"[..]);
    engine.stop().await;
    // What was acknowledged is on the disk.
    let engine = self::engine(&dir.crash(7));
    let partition = engine.partition(PartitionId(1), config(FlushLevel::Always));
    let recovered = values(&partition).await;
    assert!(
        recovered.starts_with(&acknowledged),
        "{} of {}",
        recovered.len(),
        acknowledged.len()
    );
    append(&engine, &partition, b"again").await.unwrap();
    engine.stop().await;
}

#[tokio::test]
async fn failed_write_is_final() {
    let dir = SimDir::new();
    let engine = engine(&dir);
    let partition = engine.create_partition(PartitionId(1), config(FlushLevel::Os));
    append(&engine, &partition, b"one").await.unwrap();
    while engine.writable() {
        dir.fail_after(0, Fault::WriteError);
        let _ = append(&engine, &partition, b"more").await;
    }
    let refused = append(&engine, &partition, b"later").await;
    assert!(
        matches!(refused, Err(AppendError::ReadOnly(_))),
        "{refused:?}"
    );
    engine.stop().await;
}

#[tokio::test]
async fn full_disk_refuses_users_lets_internal_appends_in_and_heals() {
    let dir = SimDir::new();
    dir.set_capacity(Some(8 * MIB));
    let engine = engine(&dir);
    let user = engine.create_partition(PartitionId(1), config(FlushLevel::Always));
    let internal = PartitionConfig {
        internal: true,
        ..config(FlushLevel::Always)
    };
    let internal = engine.create_partition(PartitionId(0), internal);
    // The reserve is a spare file; the background may not have made one yet.
    while engine.shared.storage.prepare_spare().unwrap() != Prepared::Enough {}
    let value = vec![7; 100_000];
    let mut acknowledged = 0;
    let refused = loop {
        match append(&engine, &user, &value).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 1000, "the disk has room for 80 of them");
    };
    assert_eq!(refused, AppendError::DiskFull);
    assert!(engine.writable(), "a full disk is no failure");
    append(&engine, &internal, b"a commit or a delete")
        .await
        .unwrap();
    assert_eq!(values(&user).await.len(), acknowledged);
    dir.set_capacity(None);
    // The archiver notices by itself; until then the answer is the same.
    while let Err(error) = append(&engine, &user, &value).await {
        assert_eq!(error, AppendError::DiskFull);
        tokio::task::yield_now().await;
    }
    assert_eq!(values(&user).await.len(), acknowledged + 1);
    engine.stop().await;
}

#[tokio::test]
async fn deleting_partitions_gives_the_space_back() {
    let dir = SimDir::new();
    dir.set_capacity(Some(64 * MIB));
    let engine = engine(&dir);
    let value = vec![7; 200_000];
    for id in 1..40 {
        let partition = engine.create_partition(PartitionId(id), config(FlushLevel::Always));
        for _ in 0..20 {
            append(&engine, &partition, &value).await.unwrap();
        }
        engine.delete(vec![PartitionId(id)]).await.unwrap();
        assert!(matches!(
            append(&engine, &partition, b"x").await,
            Err(AppendError::Deleted(_))
        ));
    }
    assert!(dir.available_bytes().unwrap() > 40 * MIB);
    engine.stop().await;
}

#[tokio::test]
async fn lower_flush_levels_are_acknowledged_before_they_are_durable() {
    let dir = SimDir::new();
    let engine = engine(&dir);
    let os = engine.create_partition(PartitionId(1), config(FlushLevel::Os));
    append(&engine, &os, b"os").await.unwrap();
    assert_eq!(values(&os).await.len(), 1);
    let interval = FlushLevel::Interval(Duration::from_millis(1));
    let interval = engine.create_partition(PartitionId(2), config(interval));
    append(&engine, &interval, b"interval").await.unwrap();
    engine.stop().await;
    // A stop flushes.
    let engine = self::engine(&dir.crash(1));
    let os = engine.partition(PartitionId(1), config(FlushLevel::Os));
    assert_eq!(values(&os).await.len(), 1);
    engine.stop().await;
}

#[tokio::test]
async fn waiting_reader_is_woken_by_the_append_it_waits_for_and_by_deletion() {
    let engine = engine(&SimDir::new());
    let partition = engine.create_partition(PartitionId(1), config(FlushLevel::Always));
    let bell = Arc::new(Doorbell::default());
    partition.ring_beyond(Offset(0), &bell, 7);
    append(&engine, &partition, b"x").await.unwrap();
    assert_eq!(bell.rung().await, [7]);
    partition.ring_beyond(Offset(0), &bell, 8);
    assert_eq!(
        bell.rung().await,
        [8],
        "what is there already rings at once"
    );
    partition.ring_beyond(Offset(1), &bell, 9);
    engine.delete(vec![PartitionId(1)]).await.unwrap();
    assert_eq!(bell.rung().await, [9]);
    engine.stop().await;
}

/// Up to where the headers of the journal's files say that it is durable.
fn proven(dir: &SimDir) -> u64 {
    let journal = Path::new("journal");
    let of_file = |name: String| {
        let file = dir.open(&journal.join(name)).ok()?;
        let mut field = [0; 8];
        let second_copy = 2048 + 24;
        let read = file.read_at(&mut field, second_copy).unwrap();
        (read == field.len()).then(|| u64::from_le_bytes(field))
    };
    let names = dir.list(journal).unwrap().into_iter();
    names.filter_map(of_file).max().unwrap_or_default()
}

#[tokio::test]
async fn what_was_acknowledged_last_is_proven_when_nothing_follows() {
    let dir = SimDir::new();
    // Without upkeep, which would soon have it in segments.
    let engine = engine_at(&dir, &Arc::new(AtomicI64::new(1_000)));
    let levels = [
        FlushLevel::Always,
        FlushLevel::Interval(Duration::from_millis(1)),
    ];
    for (id, level) in (1..).zip(levels) {
        let partition = engine.create_partition(PartitionId(id), config(level));
        append(&engine, &partition, b"x").await.unwrap();
        let written = engine.shared.storage.written();
        while proven(&dir) < written.0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    engine.stop().await;
}

#[tokio::test]
async fn damage_to_what_was_acknowledged_before_a_stop_is_named() {
    let dir = SimDir::new();
    // Without upkeep, which may have it in segments: damage there is found when it
    // is read.
    let engine = engine_at(&dir, &Arc::new(AtomicI64::new(1_000)));
    let partition = engine.create_partition(PartitionId(1), config(FlushLevel::Always));
    append(&engine, &partition, b"first").await.unwrap();
    append(&engine, &partition, b"the last one").await.unwrap();
    engine.stop().await;
    let dir = dir.crash(1);
    assert!(dir.flip_bit_of(b"the last one"));
    let engine = self::engine(&dir);
    let partition = engine.partition(PartitionId(1), config(FlushLevel::Always));
    assert_eq!(partition.quarantined(), [(Offset(1), Offset(2))]);
    assert_eq!(append(&engine, &partition, b"x").await, Ok(Offset(2)));
    engine.stop().await;
}

#[tokio::test]
async fn stop_waits_for_no_journal_file_to_be_archived_or_made() {
    let engine = engine_at(&SimDir::new(), &Arc::new(AtomicI64::new(1_000)));
    let partition = engine.create_partition(PartitionId(1), config(FlushLevel::Always));
    for _ in 0..3 {
        append(&engine, &partition, b"x").await.unwrap();
        assert!(engine.shared.storage.close_journal_file());
    }
    // What the threads of upkeep find when they come to look after a stop.
    engine.shared.upkeep.close();
    engine.shared.run_archiver();
    assert_eq!(engine.archiver_lag(), 3);
    engine.shared.run_preparer();
    assert_eq!(
        engine.shared.storage.prepare_spare().unwrap(),
        Prepared::One
    );
    engine.stop().await;
}

#[tokio::test]
async fn stopped_engine_refuses() {
    let engine = engine(&SimDir::new());
    let partition = engine.create_partition(PartitionId(1), config(FlushLevel::Always));
    engine.stop().await;
    assert_eq!(
        append(&engine, &partition, b"x").await,
        Err(AppendError::Stopping)
    );
}

#[tokio::test]
async fn threads_end_with_the_last_clone_of_an_engine_that_nobody_stopped() {
    let dir = SimDir::new();
    let engine = engine(&dir);
    let partition = engine.create_partition(PartitionId(1), config(FlushLevel::Os));
    let other = engine.clone();
    drop(engine);
    append(&other, &partition, b"x").await.unwrap();
    let shared = Arc::downgrade(&other.shared);
    drop((other, partition));
    // Nobody holds files or memory any more.
    while shared.strong_count() > 0 {
        tokio::task::yield_now().await;
    }
    let engine = self::engine(&dir.crash(1));
    let partition = engine.partition(PartitionId(1), config(FlushLevel::Os));
    assert_eq!(values(&partition).await, [&b"x"[..]], "it was flushed");
    engine.stop().await;
}

/// An engine whose clock shows what `time` holds: milliseconds.
fn engine_at(dir: &SimDir, time: &Arc<AtomicI64>) -> Engine {
    let (storage, _) = Storage::open(Arc::new(dir.clone()), options(), 1 << 96).unwrap();
    let time = time.clone();
    let clock = Clock::of(move || time.load(Ordering::Relaxed));
    Engine::start(storage, EngineOptions::default(), clock).unwrap()
}

fn kept_for_a_minute() -> PartitionConfig {
    PartitionConfig {
        retention_ms: Some(60_000),
        ..config(FlushLevel::Always)
    }
}

#[tokio::test]
async fn full_disk_takes_appends_again_once_retention_has_removed_something() {
    let dir = SimDir::new();
    dir.set_capacity(Some(8 * MIB));
    let time = Arc::new(AtomicI64::new(1_000));
    let engine = engine_at(&dir, &time);
    engine.begin_upkeep().unwrap();
    let partition = engine.create_partition(PartitionId(16), kept_for_a_minute());
    let value = vec![7; 100_000];
    while append(&engine, &partition, &value).await.is_ok() {}
    // Others take what is left.
    dir.fill_up_to(0);
    time.store(100_000, Ordering::Relaxed);
    engine.sweep_now();
    assert!(partition.range().log_start_offset > Offset(0));
    // The archiver goes on by itself.
    while let Err(error) = append(&engine, &partition, &value).await {
        assert_eq!(error, AppendError::DiskFull);
        tokio::task::yield_now().await;
    }
    engine.stop().await;
}

#[tokio::test]
async fn retention_goes_on_when_nothing_is_appended_any_more() {
    let time = Arc::new(AtomicI64::new(1_000));
    let engine = engine_at(&SimDir::new(), &time);
    let partition = engine.create_partition(PartitionId(16), kept_for_a_minute());
    append(&engine, &partition, b"old").await.unwrap();
    let mut file_age = FileAge::default();
    for _ in 0..50 {
        engine.shared.sweep(&mut file_age);
    }
    assert_eq!(partition.range().log_start_offset, Offset(0), "it is young");
    time.store(100_000, Ordering::Relaxed);
    engine.shared.sweep(&mut file_age);
    assert_eq!(partition.range().log_start_offset, Offset(1));
    append(&engine, &partition, b"new").await.unwrap();
    engine.stop().await;
}

#[tokio::test]
async fn a_clock_that_jumps_by_days_makes_the_log_forget_no_producer() {
    const DAYS_MS: i64 = 3 * 24 * 60 * 60 * 1000;
    for sweeps_first in [true, false] {
        let time = Arc::new(AtomicI64::new(1_000));
        let (storage, _) = Storage::open(Arc::new(SimDir::new()), options(), 1).unwrap();
        let wall = time.clone();
        let clock = Clock::of_both(move || wall.load(Ordering::Relaxed), || 0);
        let engine = Engine::start(storage, EngineOptions::default(), clock).unwrap();
        let partition = engine.create_partition(PartitionId(16), config(FlushLevel::Always));
        let stamps = [
            Stamp::Producer(ProducerStamp {
                id: 7,
                epoch: 0,
                base_sequence: 0,
                fence: None,
            }),
            Stamp::Request(RequestStamp::of(b"r")),
        ];
        for is_sent_again in [false, true] {
            for stamp in &stamps {
                let batch = CheckedBatch {
                    stamp: Some(stamp.clone()),
                    ..batch(b"v")
                };
                let partition = partition.clone();
                let append = Append::new(&partition, batch);
                let appended = engine.append(vec![append]).await.remove(0).unwrap();
                assert_eq!(appended.duplicate, is_sent_again, "{stamp:?}");
            }
            time.fetch_add(DAYS_MS, Ordering::Relaxed);
            if sweeps_first {
                engine.sweep_now();
            }
        }
        engine.stop().await;
    }
}

/// Polls something once, as a stream does whose client then stops reading.
async fn poll_once<F: Future + Unpin>(future: &mut F) {
    let polled = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx)));
    assert!(polled.await.is_pending());
}

#[tokio::test]
async fn reads_that_nobody_polls_keep_no_turn() {
    let (storage, _) = Storage::open(Arc::new(SimDir::new()), options(), 1).unwrap();
    let one_read = EngineOptions {
        disk_reads: 1,
        ..EngineOptions::default()
    };
    let engine = Engine::start(storage, one_read, Clock::of(|| 1_000)).unwrap();
    let partition = engine.create_partition(PartitionId(1), config(FlushLevel::Os));
    let mut left = Vec::new();
    for _ in 0..3 {
        let mut read = Box::pin(partition.offset_at_time(0));
        poll_once(&mut read).await;
        left.push(read);
    }
    assert_eq!(partition.offset_at_time(0).await.unwrap(), None);
    drop(left);
    engine.stop().await;
}

#[tokio::test]
async fn appends_that_nobody_polls_keep_no_room() {
    let engine = engine(&SimDir::new());
    let partition = engine.create_partition(PartitionId(1), config(FlushLevel::Always));
    let all = u32::try_from(EngineOptions::default().mailbox_bytes).unwrap();
    let admission = engine.shared.admission.clone();
    let full = admission.acquire_many_owned(all).await.unwrap();
    let large = vec![7; 1 << 19];
    let of = |value: &[u8]| {
        let partition = partition.clone();
        let batch = batch(value);
        vec![Append::new(&partition, batch)]
    };
    let mut left = Vec::new();
    for _ in 0..3 {
        let mut append = Box::pin(engine.append(of(&large)));
        poll_once(&mut append).await;
        // It takes its place in the line.
        tokio::task::yield_now().await;
        left.push(append);
    }
    // One of them vanishes before its turn.
    left.pop();
    drop(full);
    engine.append(of(b"last")).await.remove(0).unwrap();
    for append in left {
        append.await.remove(0).unwrap();
    }
    engine.stop().await;
}

/// Retention has its turn also while producers are faster than the archiver.
#[tokio::test]
async fn the_archiver_stops_when_it_is_time_for_something_else() {
    let (storage, _) = Storage::open(Arc::new(SimDir::new()), options(), 1).unwrap();
    let engine = Engine::start(storage, EngineOptions::default(), Clock::of(|| 1_000)).unwrap();
    let partition = engine.create_partition(PartitionId(1), config(FlushLevel::Os));
    while engine.archiver_lag() < 3 {
        append(&engine, &partition, &vec![1; 400 << 10])
            .await
            .unwrap();
    }
    let now = crate::clock::instant();
    assert_eq!(engine.shared.archive_until(now), Archived::Some);
    let left = engine.archiver_lag();
    assert!((1..3).contains(&left), "{left} files are left");
    let later = now + Duration::from_secs(600);
    assert_eq!(engine.shared.archive_until(later), Archived::All);
    assert_eq!(engine.archiver_lag(), 0);
    engine.stop().await;
}
