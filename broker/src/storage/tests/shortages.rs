//! What passes when something comes back: room, or descriptors. At every step it may
//! be short once; what was tried then fails, nothing is lost, and it goes well later.

use std::sync::Arc;

use super::model::{batch, read_whole};
use super::passes::is_open;
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

/// Leaves more closed journal files than a pass takes. Says how many batches that took.
fn close_files(storage: &Storage) -> u64 {
    let mut appended = 0;
    while storage.archiver_lag() < 4 {
        retried(|| append(storage, ID));
        appended += 1;
        storage.close_journal_file();
    }
    appended
}

fn expire(storage: &Storage, retention_ms: Option<u64>, retention_bytes: Option<u64>) {
    retried(|| {
        let retention = PartitionRetention {
            log: storage.partition(ID),
            retention_ms,
            retention_bytes,
        };
        let removed = storage.apply_retention([retention].into_iter(), 2_000);
        removed.is_err()
    });
}

/// What a run has done.
#[derive(Debug, Default)]
struct Done {
    /// Batches.
    appended: u64,
    /// Passes that kept the active segment open.
    kept: usize,
}

const PASSES: usize = 6;

/// Everything that storage does, a few times.
fn run(dir: &SimDir, storage: &Storage) -> Done {
    let mut done = Done::default();
    retried(|| append(storage, DELETED));
    for nth in 0..PASSES {
        done.appended += close_files(storage);
        retried(|| archive(storage));
        done.kept += usize::from(is_open(storage, dir, ID));
        retried(|| storage.prepare_spare().is_err());
        match nth {
            3 => expire(storage, None, Some(SEGMENT_BYTES)),
            // The active segment, too.
            4 => expire(storage, Some(100), None),
            _ => {}
        }
    }
    retried(|| storage.delete_partitions(&[DELETED]).is_err());
    done
}

#[test]
fn shortage_at_any_step_is_not_for_ever() {
    for fault in [Fault::DiskFull, Fault::QuotaFull, Fault::Descriptors] {
        for step in 0..1_000 {
            let dir = SimDir::new();
            let storage = open(&dir);
            dir.fail_after(step, fault);
            let Done { appended, kept } = run(&dir, &storage);
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
                assert_eq!(kept, PASSES);
                break;
            }
            assert!(step < 999, "{fault:?}: there are more steps");
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
