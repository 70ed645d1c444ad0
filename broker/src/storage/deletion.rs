//! Deleting partitions.

use std::io;
use std::path::Path;
use std::sync::{MutexGuard, PoisonError, TryLockError};

use super::archiver::ArchiveError;
use super::runs::RunIndex;
use super::segment;
use super::{PARTITIONS_DIR, Storage};
use crate::model::PartitionId;

impl Storage {
    /// Removes partitions with all their records. What lies in the journal is
    /// dropped when its file is archived. Their ids must not be used again.
    ///
    /// Their files go at once or, while the archiver is at work, when it has
    /// done: it may be writing them. Where something is short, or the log has failed,
    /// they stay for later, at the latest for the next start.
    pub fn delete_partitions(&self, ids: &[PartitionId]) -> Result<(), ArchiveError> {
        for id in ids {
            let log = {
                let mut logs = self.logs.write().unwrap_or_else(PoisonError::into_inner);
                logs.remove(id)
            };
            if let Some(log) = log {
                let mut state = log.lock();
                state.deleted = true;
                state.runs = RunIndex::default();
                state.producers = None;
                state.recent_keys = None;
            }
        }
        self.doomed().extend(ids);
        self.remove_doomed()
    }

    /// Removes the files of deleted partitions. Whoever was the archiver calls
    /// this afterwards: a deletion that found it at work left them to it.
    pub(super) fn remove_doomed(&self) -> Result<(), ArchiveError> {
        // Looks again after each round: one that came too late for it, and found
        // the archiver still taken, has left its files.
        while !self.doomed().is_empty() {
            self.check_unfailed()?;
            let mut archiver = match self.archiver.try_lock() {
                Ok(archiver) => archiver,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return Ok(()),
            };
            let doomed = std::mem::take(&mut *self.doomed());
            for (index, &id) in doomed.iter().enumerate() {
                self.segments.forget_partition(id);
                archiver.forget(id);
                let removed = self.dir.remove_dir_all(&segment::partition_dir(id));
                // A reader may have opened a segment just before it went.
                self.segments.forget_partition(id);
                if let Err(error) = removed {
                    self.doomed().extend(&doomed[index..]);
                    return Err(self.removing_failed(&error));
                }
            }
            // Whoever flushes the directory learns of its errors, once: the archiver,
            // whose names lie there too, would not.
            self.dir
                .sync_dir(Path::new(PARTITIONS_DIR))
                .map_err(|error| self.removing_failed(&error))?;
        }
        Ok(())
    }

    fn removing_failed(&self, error: &io::Error) -> ArchiveError {
        self.writing_failed("removing partitions", error)
    }

    fn doomed(&self) -> MutexGuard<'_, Vec<PartitionId>> {
        self.doomed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
