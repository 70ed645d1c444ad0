//! What is final: whichever write or flush it is that fails, it is the last one that
//! is tried, reads go on, and a restart finds everything that was acknowledged.

use std::sync::Arc;

use super::model::{batch, read_whole};
use super::world::{Gentle, SEGMENT_BYTES, options};
use crate::model::{Offset, PartitionId};
use crate::storage::dir::sim::{Fault, SimDir};
use crate::storage::{Claim, JournalAppend, PartitionRetention, Storage};

const ID: PartitionId = PartitionId(16);

fn open(dir: &SimDir) -> Storage {
    let (storage, report) = Storage::open(Arc::new(dir.clone()), options(), 1 << 70).unwrap();
    assert_eq!(report.damage, []);
    storage.partition(ID).lock().segment_bytes = SEGMENT_BYTES;
    storage
}

/// A batch of 1 KiB; readable once it is durable.
fn append(storage: &Storage) {
    let log = storage.partition(ID);
    let append = JournalAppend {
        log: log.clone(),
        batch: batch(log.lock().next_offset.0, 1, 1 << 10),
        unit_remaining: 0,
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

/// Everything that storage writes and flushes for.
fn run(storage: &Storage) {
    for _ in 0..4 {
        for _ in 0..3 {
            append(storage);
        }
        let _ = storage.prove_flushed();
        storage.close_journal_file();
        let _ = storage.archive_oldest(1_000, &Gentle(true));
        let _ = storage.prepare_spare();
        storage.leave_unprepared_file();
    }
    expire(storage, None, Some(SEGMENT_BYTES));
    append(storage);
    expire(storage, Some(10_000), None);
    append(storage);
}

#[test]
fn failed_write_or_flush_is_the_last_one_whatever_it_was_for() {
    for fault in [Fault::WriteError, Fault::ShortWrite, Fault::FlushError] {
        for step in 0.. {
            let dir = SimDir::new();
            let storage = open(&dir);
            dir.fail_after(step, fault);
            run(&storage);
            if dir.fault_pending() {
                assert!(step > 50, "{fault:?}: it has struck nothing");
                break;
            }
            let case = format!("{fault:?} after {step}");
            assert!(storage.failure().is_some(), "{case}");
            let (changes, whole) = (dir.changes(), read_whole(&storage, ID, 900));
            run(&storage);
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
