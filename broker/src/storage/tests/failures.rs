//! What is final: whichever write or flush it is that fails, it is the last one that
//! is tried, reads go on, and a restart finds everything that was acknowledged.

use std::sync::Arc;

use super::model::{batch, read_whole};
use super::passes::is_open;
use super::world::{Gentle, SEGMENT_BYTES, options};
use crate::model::{Offset, PartitionId};
use crate::storage::dir::Dir;
use crate::storage::dir::sim::{Fault, SimDir};
use crate::storage::{ArchiveError, Claim, JournalAppend, PartitionRetention, Storage, segment};

const ID: PartitionId = PartitionId(16);
const DELETED: PartitionId = PartitionId(17);

fn open(dir: &SimDir) -> Storage {
    let (storage, report) = Storage::open(Arc::new(dir.clone()), options(), 1 << 70).unwrap();
    assert_eq!(report.damage, []);
    storage.partition(ID).lock().segment_bytes = SEGMENT_BYTES;
    storage
}

fn append(storage: &Storage) {
    append_to(storage, ID);
}

/// A batch of 1 KiB; readable once it is durable.
fn append_to(storage: &Storage, id: PartitionId) {
    let log = storage.partition(id);
    let append = JournalAppend {
        log: log.clone(),
        batch: batch(log.lock().next_offset.0, 1, 1 << 10),
        unit_remaining: 0,
        guards: Vec::new(),
        claim: Claim::User,
    };
    let Ok(written) = storage.append(&[append], 1_000) else {
        return;
    };
    if storage.flush(written.end).is_ok() {
        let end = log.lock().next_offset;
        log.publish(end);
    }
}

fn expire(storage: &Storage, retention_ms: Option<u64>, retention_bytes: Option<u64>) {
    let retention = PartitionRetention {
        log: storage.partition(ID),
        retention_ms,
        retention_bytes,
    };
    let _ = storage.apply_retention([retention].into_iter(), 100_000);
}

/// Leaves more closed journal files than a pass takes, as long as that works, and lets
/// one follow. Says whether it kept the active segment open.
fn pass(dir: &SimDir, storage: &Storage) -> bool {
    for _ in storage.archiver_lag()..4 {
        append(storage);
        storage.close_journal_file();
    }
    let _ = storage.prove_flushed();
    let _ = storage.archive_oldest(1_000, &Gentle(true));
    is_open(storage, dir, ID)
}

const PASSES: usize = 6;

/// Everything that storage writes and flushes for. Says after how many passes the active
/// segment was kept open.
fn run(dir: &SimDir, storage: &Storage) -> usize {
    let mut kept = 0;
    for nth in 0..PASSES {
        kept += usize::from(pass(dir, storage));
        let _ = storage.prepare_spare();
        storage.leave_unprepared_file();
        match nth {
            3 => expire(storage, None, Some(SEGMENT_BYTES)),
            4 => expire(storage, Some(10_000), None),
            _ => {}
        }
    }
    append(storage);
    let _ = storage.delete_partitions(&[DELETED]);
    kept
}

#[test]
fn failed_write_or_flush_is_the_last_one_whatever_it_was_for() {
    for fault in [Fault::WriteError, Fault::ShortWrite, Fault::FlushError] {
        for step in 0.. {
            let dir = SimDir::new();
            let storage = open(&dir);
            dir.fail_after(step, fault);
            let kept = run(&dir, &storage);
            if dir.fault_pending() {
                assert!(step > 50, "{fault:?}: it has struck nothing");
                assert_eq!(kept, PASSES);
                break;
            }
            let case = format!("{fault:?} after {step}");
            assert!(storage.failure().is_some(), "{case}");
            let (changes, whole) = (dir.changes(), read_whole(&storage, ID, 900));
            run(&dir, &storage);
            assert_eq!(dir.changes(), changes, "{case}: something was tried");
            assert_eq!(read_whole(&storage, ID, 900), whole, "{case}");

            drop(storage);
            let storage = open(&dir.crash(step));
            let log = storage.partition(ID);
            assert!(
                log.high_watermark() >= Offset(whole.high_watermark),
                "{case}"
            );
            let recovered = read_whole(&storage, ID, 900);
            let mut expected = whole.batches.into_iter();
            assert!(
                expected.all(
                    |batch| recovered.log_start > batch.0 || recovered.batches.contains(&batch)
                ),
                "{case}"
            );
            assert_eq!(recovered.quarantined, [], "{case}");
        }
    }
}

/// Seed 7179 of the property test: the files of a deleted partition stayed for want
/// of a descriptor, something else failed for good, and the next pass of the archiver
/// removed them all the same.
#[test]
fn nothing_is_removed_for_a_deletion_once_the_log_has_failed() {
    let dir = SimDir::new();
    let storage = open(&dir);
    append_to(&storage, DELETED);
    storage.close_journal_file();
    storage.archive_oldest(1_000, &Gentle(true)).unwrap();
    dir.fail_after(0, Fault::Descriptors);
    let short = storage.delete_partitions(&[DELETED]).unwrap_err();
    assert!(matches!(short, ArchiveError::NoSpace(_)), "{short}");
    dir.fail_after(0, Fault::FlushError);
    append_to(&storage, ID);
    assert!(storage.failure().is_some());

    let changes = dir.changes();
    let files = |dir: &SimDir| dir.list(&segment::partition_dir(DELETED)).unwrap();
    let before = files(&dir);
    assert_ne!(before, Vec::<String>::new());
    storage.archive_oldest(1_000, &Gentle(true)).unwrap_err();
    let failed = storage.delete_partitions(&[DELETED]).unwrap_err();
    assert!(matches!(failed, ArchiveError::Failed(_)), "{failed}");
    expire(&storage, Some(0), None);
    assert_eq!(dir.changes(), changes, "something was tried");
    assert_eq!(files(&dir), before);

    // The metadata says it again after a start.
    let dir = dir.crash(0);
    open(&dir).delete_partitions(&[DELETED]).unwrap();
    assert_eq!(files(&dir), Vec::<String>::new());
}

/// What a refused append left in the file is cut off; when that fails, it is no want of
/// room any more.
#[test]
fn failure_to_cut_off_what_found_no_room_is_final() {
    let dir = SimDir::new();
    let storage = open(&dir);
    // The page that a frame begins has room to its end.
    for _ in 0..3 {
        append(&storage);
    }
    dir.fill_up_to(100);
    dir.fail_after(1, Fault::WriteError);
    append(&storage);
    assert!(!dir.fault_pending());
    assert!(storage.failure().is_some());
}
