//! What passes when something comes back: room, or descriptors. At every step it may
//! be short once; what was tried then fails, nothing is lost, and it goes well later.

use std::sync::Arc;

use super::model::{batch, read_whole};
use super::world::{Gentle, SEGMENT_BYTES, options};
use crate::model::{Offset, PartitionId};
use crate::storage::dir::sim::{Fault, SimDir};
use crate::storage::{
    AppendFailure, ArchiveError, Claim, JournalAppend, PartitionRetention, Storage,
};

const ID: PartitionId = PartitionId(16);
const DELETED: PartitionId = PartitionId(17);

fn open(dir: &SimDir) -> Storage {
    let (storage, report) = Storage::open(Arc::new(dir.clone()), options(), 1 << 70).unwrap();
    assert_eq!(report.damage, []);
    storage.partition(ID).lock().segment_bytes = SEGMENT_BYTES;
    storage
}

/// A batch of 1 KiB, durable; says whether it was refused for now.
fn append(storage: &Storage, id: PartitionId) -> bool {
    let log = storage.partition(id);
    let append = JournalAppend {
        log: log.clone(),
        batch: batch(log.lock().next_offset.0, 1, 1 << 10),
        unit_remaining: 0,
        guards: Vec::new(),
        claim: Claim::User,
    };
    match storage.append(&[append], 1_000) {
        Ok(_) => {}
        Err(AppendFailure::NoSpace(_)) => return true,
        Err(error) => panic!("{error}"),
    }
    storage.flush(storage.written()).unwrap();
    let end = log.lock().next_offset;
    log.publish(end);
    false
}

fn archive(storage: &Storage) -> bool {
    storage.close_journal_file();
    match storage.archive_oldest(1_000, &Gentle(true)) {
        Ok(_) => false,
        Err(ArchiveError::NoSpace(_)) => true,
        Err(error) => panic!("{error}"),
    }
}

/// What may fail for now is tried again at once, and then has to go well.
fn retried(mut attempt: impl FnMut() -> bool) {
    if attempt() {
        assert!(!attempt(), "it was short only once");
    }
}

/// Everything that storage does, a few times.
fn run(storage: &Storage) -> u64 {
    let mut appended = 0;
    retried(|| append(storage, DELETED));
    for _ in 0..5 {
        for _ in 0..3 {
            retried(|| append(storage, ID));
            appended += 1;
        }
        retried(|| archive(storage));
        retried(|| storage.prepare_spare().is_err());
    }
    retried(|| storage.delete_partitions(&[DELETED]).is_err());
    let retention = || PartitionRetention {
        log: storage.partition(ID),
        retention_ms: None,
        retention_bytes: Some(SEGMENT_BYTES),
    };
    retried(|| {
        let removed = storage.apply_retention([retention()].into_iter(), 2_000);
        removed.is_err()
    });
    appended
}

#[test]
fn shortage_at_any_step_is_not_for_ever() {
    for fault in [Fault::DiskFull, Fault::QuotaFull, Fault::Descriptors] {
        for step in 0..400 {
            let dir = SimDir::new();
            let storage = open(&dir);
            dir.fail_after(step, fault);
            let appended = run(&storage);
            assert_eq!(storage.failure(), None, "{fault:?} after {step}");
            let is_over = dir.fault_pending();
            dir.clear_fault();
            let whole = read_whole(&storage, ID, 900);
            assert_eq!(whole.high_watermark, appended);
            assert!(whole.log_start > 0);
            drop(storage);
            let recovered = read_whole(&open(&dir.crash(step)), ID, 900);
            assert_eq!(recovered, whole, "{fault:?} after {step}");
            if is_over {
                break;
            }
            assert!(step < 399, "{fault:?}: there are more steps");
        }
    }
}

#[test]
fn name_of_a_journal_file_that_could_not_be_prepared_is_flushed_when_it_is_taken() {
    for seed in 0..20 {
        let dir = SimDir::new();
        let storage = open(&dir);
        dir.fail_after(0, Fault::DiskFull);
        storage.prepare_spare().unwrap_err();
        assert!(!append(&storage, ID));
        drop(storage);
        let storage = open(&dir.crash(seed));
        assert_eq!(storage.partition(ID).high_watermark(), Offset(1), "{seed}");
    }
}
