//! Compacts partitions in the background, on a thread of its own: a pass may take
//! long, and producers wait for the archiver when the journal is full.

use std::cell::Cell;
use std::time::Duration;

use super::engine::Shared;
use super::upkeep::{SWEEP_EVERY, give_way};
use crate::storage::{ArchiveError, CompactionError, Compactor, Lsn, Pace, PartitionCompaction};

/// What compaction waits after each piece while others append: it then writes
/// about 100 MB/s at most.
const PAUSE: Duration = Duration::from_millis(4);

/// What it waits while the archiver has to catch up: about 10 MB/s. Never more: a
/// partition would grow for as long as others are busy.
const LONG_PAUSE: Duration = Duration::from_millis(50);

/// Gives way to everybody else.
struct Reticent<'a> {
    shared: &'a Shared,
    /// Where the journal ended at the last pause.
    written: Cell<Lsn>,
}

impl Pace for Reticent<'_> {
    fn is_gentle(&self) -> bool {
        true
    }

    fn pause(&self) {
        let written = self.shared.storage.written();
        let is_busy = self.written.replace(written) != written;
        if !self.shared.archiver_keeps_up() {
            self.shared.upkeep.pause(LONG_PAUSE);
        } else if is_busy {
            self.shared.upkeep.pause(PAUSE);
        }
    }

    fn is_over(&self) -> bool {
        self.shared.upkeep.is_closed() || self.shared.storage.failure().is_some()
    }
}

impl Shared {
    /// Compacts what the archiver has made of partitions that want it.
    pub(super) fn run_compactor(&self, mut compactor: Compactor) {
        give_way();
        let mut seen = 0;
        loop {
            while self.compact_all(&mut compactor) && !self.upkeep.is_closed() {}
            match self.upkeep.wait_for_archived(seen, SWEEP_EVERY) {
                Some(passes) => seen = passes,
                None => return,
            }
        }
    }

    /// Looks at all partitions; says whether one needs another pass at once.
    pub(super) fn compact_all(&self, compactor: &mut Compactor) -> bool {
        let partitions = self.partitions().into_iter().filter_map(|partition| {
            let log = partition.log.clone();
            let config = partition.config().compaction?;
            Some(PartitionCompaction { log, config })
        });
        let partitions: Vec<PartitionCompaction> = partitions.collect();
        compactor.retain(partitions.iter().map(|partition| partition.log.id()));
        let pace = Reticent {
            shared: self,
            written: Cell::new(self.storage.written()),
        };
        let clock = || self.clock.now_ms();
        let mut has_more = false;
        for partition in &partitions {
            let id = partition.log.id();
            match self.storage.compact(compactor, partition, &clock, &pace) {
                Ok(None) => {}
                Ok(Some(summary)) => {
                    has_more |= summary.has_more;
                    self.counters.compacted(&summary);
                    tracing::debug!("compacted partition {id}: {summary:?}");
                }
                Err(error @ CompactionError::Write(ArchiveError::Failed(_))) => {
                    tracing::error!("{error}: the log is read-only until a restart");
                    return false;
                }
                Err(error) => {
                    tracing::warn!("compacting partition {id}: {error}; trying again later");
                }
            }
        }
        has_more
    }
}
