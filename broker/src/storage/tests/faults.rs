//! What goes wrong in a world, and what storage may make of it: a power cut is over
//! with a restart, a shortage passes, a bad read is no news, and after any other
//! failure the log is read-only until a restart.

use std::fmt::Display;
use std::sync::Arc;

use super::model::batch;
use super::stamps::GIVEN_BELOW;
use super::world::{Gentle, World, options};
use crate::model::PartitionId;
use crate::storage::dir::Dir;
use crate::storage::dir::sim::Fault;
use crate::storage::{
    AppendFailure, ArchiveError, Claim, JournalAppend, JournalDamage, ReadRequest, RetentionError,
    Storage,
};

/// Leaves it open what is on the disk.
const LASTING: [Fault; 3] = [Fault::WriteError, Fault::ShortWrite, Fault::FlushError];

/// Something comes back.
const SHORTAGES: [Fault; 3] = [Fault::DiskFull, Fault::QuotaFull, Fault::Descriptors];

impl World {
    /// One random step, in which something may go wrong.
    pub(super) fn step(&mut self) {
        if self.random.one_in(10) {
            self.set_fault(40);
        }
        self.step_without_fault();
        if self.dir.has_crashed() {
            self.reopen_after_crash();
            self.check_all();
        } else if self.has_failed() {
            self.check_read_only();
            self.crash_now();
            self.check_all();
        } else {
            self.check_nothing_was_swallowed();
            self.check_removed_files_are_closed();
        }
    }

    /// Each would take its room for as long as it is open.
    fn check_removed_files_are_closed(&self) {
        if self.dir.held_without_a_name() > 0 && !self.dir.fault_pending() {
            // The journal lets go of a file with the next flush.
            let storage = self.storage();
            storage.flush(storage.written()).unwrap();
            assert_eq!(self.dir.held_without_a_name(), 0, "a removed file is open");
        }
    }

    /// A write or flush that has failed makes the log fail.
    fn check_nothing_was_swallowed(&mut self) {
        if !self.dir.fault_pending() {
            let fault = self.fault.take();
            let is_lasting = fault.is_some_and(|fault| LASTING.contains(&fault));
            assert!(
                !is_lasting || self.has_failed(),
                "{fault:?}, and it goes on"
            );
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.storage().failure().is_some()
    }

    /// Lets something go wrong within so many operations. Mostly the power goes.
    fn set_fault(&mut self, within: u64) {
        let after = self.random.between(0, within);
        let fault = match self.random.between(0, 14) {
            nth @ 0..3 => LASTING[usize::try_from(nth).unwrap()],
            nth @ 3..6 => SHORTAGES[usize::try_from(nth - 3).unwrap()],
            6 => Fault::ReadError,
            _ => Fault::Crash,
        };
        self.dir.fail_after(after, fault);
        self.fault = Some(fault);
    }

    fn is_short(&self) -> bool {
        self.fault.is_some_and(|fault| SHORTAGES.contains(&fault))
    }

    /// Something was refused for now.
    pub(super) fn expect_shortage(&self, error: &dyn Display) {
        assert!(
            self.full || self.is_short(),
            "nothing is short, yet: {error}"
        );
        assert_eq!(self.storage().failure(), None, "it passes");
    }

    /// Something failed for good, and with it the log.
    pub(super) fn expect_failure(&self, error: &dyn Display) {
        if self.dir.has_crashed() {
            return;
        }
        let is_lasting = self.fault.is_some_and(|fault| LASTING.contains(&fault));
        assert!(is_lasting, "nothing goes wrong, yet: {error}");
        assert!(self.has_failed(), "appends go on after: {error}");
    }

    pub(super) fn expect_retention_failure(&self, error: &RetentionError) {
        match self.has_failed() || self.dir.has_crashed() {
            true => self.expect_failure(error),
            // A full disk is no obstacle to it.
            false => assert!(self.is_short(), "retention needs no room, yet: {error}"),
        }
    }

    /// A read may be what finds no descriptor: it fails, and does no harm.
    pub(super) fn read_with_fault(&self, id: PartitionId) {
        if self.fault == Some(Fault::Descriptors) {
            let log = self.storage().partition(id);
            let request = ReadRequest {
                from: log.lock().log_start,
                until: log.high_watermark(),
                max_bytes: 1,
            };
            let _ = self.storage().read(&log, request);
            self.dir.clear_fault();
        }
    }

    /// Reads go on, and nothing else does.
    fn check_read_only(&mut self) {
        self.check_all();
        let changes = self.dir.changes();
        if let Some(&id) = self.model.partitions.keys().next() {
            let append = JournalAppend {
                log: self.storage().partition(id),
                batch: batch(0, 1, 0),
                unit_remaining: 0,
                guards: Vec::new(),
                claim: Claim::Internal,
            };
            let refused = self.storage().append(&[append], self.now_ms);
            assert!(matches!(refused, Err(AppendFailure::Failed(_))));
        }
        let pace = Gentle(true);
        let archived = self.storage().archive_oldest(self.now_ms, &pace);
        assert!(matches!(archived, Err(ArchiveError::Failed(_))));
        self.storage().prepare_spare().unwrap_err();
        self.storage().prove_flushed().unwrap_err();
        let _ = self.storage().flush(self.storage().written());
        assert_eq!(self.dir.changes(), changes, "something was tried");
    }

    /// Cuts the power, whatever was going on.
    pub(super) fn crash_now(&mut self) {
        self.dir.fail_after(0, Fault::Crash);
        let _ = self.dir.sync_all();
        self.reopen_after_crash();
    }

    fn reopen_after_crash(&mut self) {
        loop {
            let seed = self.random.next();
            self.close();
            self.dir = self.dir.crash(seed);
            self.dir.set_capacity(None);
            self.fault = None;
            assert_eq!(self.inspect(), [], "a crash damages nothing");
            // Recovery may be interrupted, too, and so may the next one.
            if self.random.one_in(4) {
                self.set_fault(30);
            }
            let salt = u128::from(self.random.next()) << 64;
            match Storage::open(Arc::new(self.dir.clone()), options(), salt) {
                Ok((storage, report)) => {
                    self.storage = Some(storage);
                    self.check_nothing_was_swallowed();
                    // What a deleted partition lacks is no damage.
                    let damage = report.damage.iter().filter(|damage| match damage {
                        JournalDamage::Offsets { partition, .. } => {
                            !self.deleted.contains(partition)
                        }
                        _ => true,
                    });
                    assert_eq!(damage.count(), 0, "nothing was damaged: {report:?}");
                    self.dir.clear_fault();
                    self.fault = None;
                    assert_eq!(report.lost_producers, 0, "a crash takes no snapshot");
                    self.storage().resume_producers(self.now_ms, GIVEN_BELOW);
                    break;
                }
                Err(error) => assert!(self.fault.is_some(), "recovery failed: {error}"),
            }
        }
        self.storage()
            .delete_partitions(&self.deleted.clone())
            .expect("no fault is set");
        self.reconcile();
    }
}
