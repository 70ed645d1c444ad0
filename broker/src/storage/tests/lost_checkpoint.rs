//! Without its checkpoint, a directory is what its segments and its journal say.

use std::path::Path;
use std::sync::Arc;

use super::model::{WholeLog, batch, read_whole};
use super::world::{Gentle, SEGMENT_BYTES, options};
use crate::model::PartitionId;
use crate::storage::dir::Dir;
use crate::storage::dir::sim::SimDir;
use crate::storage::{Claim, JournalAppend, PartitionRetention, RecoveryReport, Storage};

const ONE: PartitionId = PartitionId(16);
const OTHER: PartitionId = PartitionId(17);

fn open(dir: &SimDir, run: u128) -> (Storage, RecoveryReport) {
    let (storage, report) = Storage::open(Arc::new(dir.clone()), options(), run << 96).unwrap();
    for id in [ONE, OTHER] {
        storage.partition(id).lock().segment_bytes = SEGMENT_BYTES;
    }
    (storage, report)
}

/// A journal file with a batch for each of the partitions, closed.
fn append(storage: &Storage, ids: &[PartitionId]) {
    for &id in ids {
        let append = JournalAppend {
            log: storage.partition(id),
            batch: batch(u64::from(id.0), 2, 1 << 10),
            unit_remaining: 0,
            guards: Vec::new(),
            claim: Claim::User,
        };
        storage.append(&[append], 1_000).unwrap();
    }
    storage.flush(storage.written()).unwrap();
    for &id in ids {
        let log = storage.partition(id);
        let end = log.lock().next_offset;
        log.publish(end);
    }
    assert!(storage.close_journal_file());
}

fn archive_all(storage: &Storage) {
    while storage.archive_oldest(1_000, &Gentle(false)).unwrap() > 0 {}
}

/// A directory whose journal files were all used more than once, prepared ones
/// as in a broker that has run for a while.
fn used_directory() -> (SimDir, Storage) {
    let dir = SimDir::new();
    let (storage, _) = open(&dir, 1);
    storage.prepare_spare().unwrap();
    storage.prepare_spare().unwrap();
    for _ in 0..8 {
        append(&storage, &[ONE, OTHER]);
        archive_all(&storage);
    }
    (dir, storage)
}

fn lose_checkpoint(dir: &SimDir) {
    dir.flip_bit(Path::new("checkpoint"), 99);
}

/// Removes the oldest segments of a partition, and with that writes a checkpoint.
fn shrink(storage: &Storage, id: PartitionId) {
    let retention = PartitionRetention {
        log: storage.partition(id),
        retention_ms: None,
        retention_bytes: Some(1),
    };
    let removed = storage.apply_retention([retention].into_iter(), 1_000);
    assert!(removed.unwrap() > 0);
}

fn whole(storage: &Storage) -> [WholeLog; 2] {
    [ONE, OTHER].map(|id| read_whole(storage, id, 900))
}

#[test]
fn what_is_in_segments_and_in_the_journal_is_found_once() {
    let (dir, storage) = used_directory();
    // Two closed files are left in the journal.
    append(&storage, &[ONE]);
    append(&storage, &[ONE, OTHER]);
    let before = whole(&storage);
    drop(storage);
    lose_checkpoint(&dir);
    let (storage, report) = open(&dir, 2);
    assert!(report.rebuilt_checkpoint);
    assert_eq!(report.damage, []);
    assert_eq!(report.replayed, 3, "the others are in segments (case H)");
    assert_eq!(whole(&storage), before);
    archive_all(&storage);
    assert_eq!(whole(&storage), before);
    append(&storage, &[ONE, OTHER]);
}

#[test]
fn checkpoint_that_retention_writes_after_the_loss_invents_no_damage() {
    for files_in_journal in 0..3 {
        let (dir, storage) = used_directory();
        for _ in 0..files_in_journal {
            append(&storage, &[ONE, OTHER]);
        }
        drop(storage);
        lose_checkpoint(&dir);
        let (storage, _) = open(&dir, 2);
        shrink(&storage, ONE);
        let before = whole(&storage);
        drop(storage);
        let (storage, report) = open(&dir, 3);
        assert!(!report.rebuilt_checkpoint);
        assert_eq!(report.damage, [], "{files_in_journal} files");
        assert_eq!(whole(&storage), before);
        append(&storage, &[ONE, OTHER]);
        archive_all(&storage);
        let ends = whole(&storage).map(|log| log.high_watermark);
        assert_eq!(ends, before.map(|log| log.high_watermark + 2));
    }
}

#[test]
fn directory_that_lost_checkpoint_and_journal_is_not_taken_for_a_new_one() {
    let (dir, storage) = used_directory();
    let before = whole(&storage);
    drop(storage);
    dir.remove(Path::new("checkpoint")).unwrap();
    for name in dir.list(Path::new("journal")).unwrap() {
        dir.remove(&Path::new("journal").join(name)).unwrap();
    }
    let (storage, report) = open(&dir, 2);
    assert!(report.rebuilt_checkpoint);
    assert_eq!(whole(&storage), before);
}
