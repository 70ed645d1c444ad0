//! What is done again and again while nothing happens: it must cost nothing.

use std::path::Path;
use std::sync::Arc;

use super::model::{batch, read_whole};
use super::world::{Gentle, SEGMENT_BYTES, options};
use crate::model::{Offset, PartitionId};
use crate::storage::dir::Dir;
use crate::storage::dir::sim::{Fault, SimDir};
use crate::storage::{Claim, JournalAppend, PartitionRetention, Storage, segment};

const ID: PartitionId = PartitionId(16);

fn open(dir: &SimDir) -> Storage {
    let (storage, _) = Storage::open(Arc::new(dir.clone()), options(), 1 << 70).unwrap();
    storage.partition(ID).lock().segment_bytes = SEGMENT_BYTES;
    storage
}

/// Appends so many batches of 1 KiB, which are of their offset's second, and archives
/// them.
fn archive(storage: &Storage, batches: u64) {
    let log = storage.partition(ID);
    for nth in 0..batches {
        let append = JournalAppend {
            log: log.clone(),
            batch: batch(nth, 1, 1 << 10),
            unit_remaining: 0,
            guards: Vec::new(),
            claim: Claim::User,
        };
        let second = log.lock().next_offset.0.cast_signed() * 1_000;
        storage.append(&[append], second).unwrap();
    }
    storage.flush(storage.written()).unwrap();
    let end = log.lock().next_offset;
    log.publish(end);
    storage.close_journal_file();
    while storage.archive_oldest(0, &Gentle(false)).unwrap() > 0 {}
}

/// Keeps what is younger than an hour, in the `now_ms` given; says how many segments
/// went.
fn sweep(storage: &Storage, now_ms: i64) -> usize {
    let retention = PartitionRetention {
        log: storage.partition(ID),
        retention_ms: Some(3_600_000),
        retention_bytes: Some(1 << 30),
    };
    let removed = storage.apply_retention([retention].into_iter(), now_ms);
    removed.unwrap()
}

#[test]
fn sweep_and_description_of_a_partition_open_no_file_that_is_known() {
    let dir = SimDir::new();
    let storage = open(&dir);
    archive(&storage, 10);
    let log = storage.partition(ID);
    assert_eq!(sweep(&storage, 0), 0);
    // Sealed since the directory was listed.
    archive(&storage, 10);
    let bytes = storage.segment_bytes(&log).unwrap();
    assert!(bytes > 3 * SEGMENT_BYTES);
    dir.fail_after(0, Fault::Descriptors);
    assert_eq!(sweep(&storage, 0), 0);
    assert_eq!(storage.segment_bytes(&log).unwrap(), bytes);
    assert!(dir.fault_pending(), "a file was opened");
    dir.clear_fault();

    // What was sealed before a start is looked at once.
    drop(storage);
    let dir = dir.crash(1);
    let storage = open(&dir);
    let log = storage.partition(ID);
    assert_eq!(sweep(&storage, 0), 0);
    dir.fail_after(0, Fault::Descriptors);
    assert_eq!(sweep(&storage, 0), 0);
    assert_eq!(storage.segment_bytes(&log).unwrap(), bytes);
    assert!(dir.fault_pending(), "a file was opened");
    dir.clear_fault();

    // Records of the seconds 0 to 4 fill the first segment.
    assert_eq!(sweep(&storage, 3_600_000 + 4_000), 0);
    assert_eq!(sweep(&storage, 3_600_000 + 4_001), 1);
    assert!(storage.segment_bytes(&log).unwrap() < bytes);
    assert_eq!(log.lock().log_start, Offset(5));
}

#[test]
fn lost_or_torn_index_of_a_sealed_segment_is_written_again() {
    let dir = SimDir::new();
    let storage = open(&dir);
    storage.partition(ID).lock().segment_bytes = 100 << 10;
    archive(&storage, 8);
    for _ in 0..30 {
        archive(&storage, 8);
    }
    let first = segment::list(&dir, ID).unwrap().current()[0];
    let path = segment::index_path(ID, first);
    let content = |dir: &SimDir| {
        let file = dir.open(&path).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_at(&mut bytes, 0).unwrap();
        bytes
    };
    let whole = content(&dir);
    assert!(whole.len() > 100);
    drop(storage);

    let spoil: [fn(&SimDir, &Path); 3] = [
        |dir, path| dir.remove(path).unwrap(),
        |dir, path| dir.flip_bit(path, 100),
        |dir, path| dir.open(path).unwrap().set_len(30).unwrap(),
    ];
    for spoil in spoil {
        spoil(&dir, &path);
        let storage = open(&dir);
        sweep(&storage, 0);
        assert_eq!(storage.restore_indexes().unwrap(), 0, "nobody has read it");
        let read = read_whole(&storage, ID, 900);
        assert_eq!(read.batches.len(), 8 * 31);
        dir.set_capacity(Some(0));
        assert!(storage.restore_indexes().unwrap() < 2);
        assert_eq!(storage.failure(), None, "no room for it is no failure");
        dir.set_capacity(None);
        storage.restore_indexes().unwrap();
        assert_eq!(content(&dir), whole);
        assert_eq!(storage.restore_indexes().unwrap(), 0, "once is enough");
    }
}

#[test]
fn sealed_segment_that_is_lost_is_no_obstacle_to_retention_and_counts_as_nothing() {
    let dir = SimDir::new();
    let storage = open(&dir);
    archive(&storage, 20);
    let log = storage.partition(ID);
    let bytes = storage.segment_bytes(&log).unwrap();
    drop(storage);
    let storage = open(&dir);
    let log = storage.partition(ID);
    read_whole(&storage, ID, 900);
    let current = segment::list(&dir, ID).unwrap().current();
    let (first, second) = (current[0], current[1]);
    dir.remove(&segment::log_path(ID, first)).unwrap();
    assert!(storage.segment_bytes(&log).unwrap() < bytes);
    assert_eq!(sweep(&storage, 0), 1, "nothing of it is left to keep");
    assert_eq!(log.lock().log_start, second.base_offset);
    assert_eq!(read_whole(&storage, ID, 900).quarantined, []);
}
