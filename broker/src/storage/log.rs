//! What storage knows of one partition: its offsets, and where each lies.
//!
//! Offsets rise through three places, oldest first: sealed segments, the active
//! segment, the journal. A batch is in segments once the archiver has made it
//! durable there and written the checkpoint; until then the run index says
//! where in the journal it is. Nothing is in both.
//!
//! Invariants, asserted where the fields change:
//! - `log_start <= archived_end() <= next_offset`, and the high watermark lies
//!   between `log_start` and `next_offset`.
//! - runs are in the order of offsets and of lsns. Where one ends before the
//!   next begins, the offsets between are quarantined.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::lsn::Generation;
use super::producers::ProducerTable;
use super::recent_keys::RecentKeys;
use super::runs::{Run, RunIndex};
use super::segment::{Dropped, SegmentExtent, SegmentName, SegmentState};
use crate::limits;
use crate::model::{Offset, PartitionId};

/// A segment that never changes again, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedSegment {
    /// Its name.
    pub name: SegmentName,
    /// `None` until somebody has looked into the file, once.
    pub extent: Option<SegmentExtent>,
}

impl SealedSegment {
    /// One that was just sealed, and ended so.
    pub fn known(name: SegmentName, state: &SegmentState) -> SealedSegment {
        SealedSegment {
            name,
            extent: Some(state.extent()),
        }
    }
}

/// A half-open range of offsets that were lost to damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuarantinedRange {
    /// The first offset lost.
    pub from: Offset,
    /// One past the last.
    pub to: Offset,
}

/// One partition. Shared by the writer, the archiver and every reader. Its fields lie in
/// memory in this order.
#[derive(Debug)]
#[repr(C)]
pub struct PartitionLog {
    id: PartitionId,
    /// Read on every fetch, without the lock.
    high_watermark: AtomicU64,
    /// Held for moments only, never across file access.
    state: Mutex<LogState>,
}

/// The part of a partition that changes under its lock.
///
/// Its fields lie in memory in this order: what an append touches comes first and together,
/// since of thousands of partitions none is in the processor's cache.
#[derive(Debug)]
#[repr(C)]
pub struct LogState {
    /// The partition was deleted: no append, no read, no archiving.
    pub deleted: bool,
    /// Newest journal file that has batches of this partition.
    pub last_generation: Generation,
    /// Offset that the next append gets.
    pub next_offset: Offset,
    /// The keys of the last records; `None` until a guard needs them.
    pub recent_keys: Option<Box<RecentKeys>>,
    /// What is known of those who say who they are; `None` until one comes. In place: on
    /// the way of an append, each pointer that is followed is one more wait for memory.
    pub producers: Option<ProducerTable>,
    /// Batches in the journal that are not in segments yet.
    pub runs: RunIndex,
    /// Offset of the oldest record that is kept.
    pub log_start: Offset,
    /// The segments, without the names of the sealed ones.
    pub active: Option<SegmentState>,
    /// The sealed segments, in order. `None` until they are first needed: a
    /// start doesn't list every directory.
    pub sealed: Option<Vec<SealedSegment>>,
    /// What compaction has dropped from the sealed segments, at least; `None` until
    /// somebody asks.
    pub dropped: Option<Dropped>,
    /// Damage found so far.
    pub quarantined: Vec<QuarantinedRange>,
    /// Size at which a segment is sealed: bytes.
    pub segment_bytes: u64,
}

/// What an append touches of the state lies in its first 256 bytes.
const _: () = assert!(std::mem::offset_of!(LogState, log_start) <= 256);

impl PartitionLog {
    /// An empty partition.
    pub fn new(id: PartitionId) -> PartitionLog {
        PartitionLog::recovered(id, Offset::ZERO, Offset::ZERO, None)
    }

    /// A partition as a checkpoint describes it.
    pub fn recovered(
        id: PartitionId,
        log_start: Offset,
        archived_end: Offset,
        active: Option<SegmentState>,
    ) -> PartitionLog {
        assert!(log_start <= archived_end, "a log starts before it ends");
        PartitionLog {
            id,
            high_watermark: AtomicU64::new(archived_end.0),
            state: Mutex::new(LogState {
                deleted: false,
                log_start,
                next_offset: archived_end,
                runs: RunIndex::default(),
                last_generation: Generation::ZERO,
                active,
                sealed: None,
                dropped: None,
                quarantined: Vec::new(),
                segment_bytes: limits::DEFAULT_SEGMENT_BYTES,
                producers: None,
                recent_keys: None,
            }),
        }
    }

    /// Its id in this data directory.
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// One past the last record that may be read.
    pub fn high_watermark(&self) -> Offset {
        Offset(self.high_watermark.load(Ordering::Acquire))
    }

    /// Lets readers see the records below `offset`. Never goes back: two
    /// groups may be published in either order. Says whether it moved.
    pub fn publish(&self, offset: Offset) -> bool {
        self.high_watermark.fetch_max(offset.0, Ordering::AcqRel) < offset.0
    }

    /// The state, for as long as the guard lives.
    pub fn lock(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogState {
    /// One past the last offset that is to be looked for in segments. It can
    /// lie behind the end of the active segment: then the offsets between are
    /// quarantined.
    pub fn archived_end(&self) -> Offset {
        self.runs
            .first()
            .map_or(self.next_offset, |run| run.base_offset)
    }

    /// One past the last offset that the journal files up to `archived`, and all
    /// before, gave out.
    pub fn end_of(&self, archived: Generation) -> Offset {
        let behind = self.runs.first_behind(archived);
        behind.map_or(self.next_offset, |run| run.base_offset)
    }

    /// Whether offsets were archived, and no segment says so: retention found no
    /// room to begin one.
    pub fn lacks_active(&self) -> bool {
        self.active.is_none() && self.archived_end() > Offset::ZERO && !self.deleted
    }

    /// Takes a batch that lies in the journal, at the next offset.
    pub fn push_run(&mut self, run: Run) {
        assert_eq!(run.base_offset, self.next_offset, "offsets are dense");
        self.runs.push(run);
        self.next_offset = run.next_offset();
        self.last_generation = run.lsn.generation();
    }

    /// Takes back the last batch: its write failed, and nobody has seen it.
    pub fn take_back(&mut self, base_offset: Offset) {
        if self.deleted {
            // Meanwhile; its runs are gone.
            return;
        }
        let run = self.runs.pop().expect("the batch was just placed");
        assert_eq!(
            run.base_offset, base_offset,
            "the last batch is taken back first"
        );
        self.next_offset = base_offset;
        if let Some(recent) = &mut self.recent_keys {
            recent.take_back(base_offset);
        }
    }

    /// Sets offsets from the next one up to `to` aside as lost. They are never
    /// given to other records.
    pub fn skip_damaged(&mut self, to: Offset) {
        assert!(to > self.next_offset, "a lost range is not empty");
        self.quarantined.push(QuarantinedRange {
            from: self.next_offset,
            to,
        });
        self.next_offset = to;
    }

    /// Remembers damage that a read came upon.
    pub fn note_quarantined(&mut self, from: Offset, to: Offset) {
        let known = self
            .quarantined
            .iter()
            .any(|range| range.from <= from && to <= range.to);
        if !known && self.quarantined.len() < limits::QUARANTINED_RANGES {
            self.quarantined.push(QuarantinedRange { from, to });
        }
    }

    /// Whether a segment still is one of those that make up the log: false when
    /// retention or compaction removed it, or the partition was deleted.
    pub fn has_segment(&self, name: SegmentName) -> bool {
        if self.deleted {
            return false;
        }
        let is_active = |active: SegmentState| name == active.base_offset.into();
        self.active.is_some_and(is_active)
            || match &self.sealed {
                Some(sealed) => sealed.binary_search_by_key(&name, |s| s.name).is_ok(),
                None => self.log_start <= name.base_offset,
            }
    }

    /// What is known of a sealed segment, if it is one of the log's.
    pub fn sealed_mut(&mut self, name: SegmentName) -> Option<&mut SealedSegment> {
        let sealed = self.sealed.as_mut()?;
        let at = sealed.binary_search_by_key(&name, |segment| segment.name);
        sealed.get_mut(at.ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::lsn::Lsn;

    #[test]
    fn taking_back_from_a_partition_that_was_deleted_meanwhile_does_nothing() {
        let log = PartitionLog::new(PartitionId(3));
        let mut state = log.lock();
        state.push_run(Run {
            base_offset: Offset::ZERO,
            lsn: Lsn::new(Generation(1), 4096),
            payload_len: 10,
            span: 2,
            max_timestamp_ms: 0,
        });
        // What a deletion does.
        state.deleted = true;
        state.runs = RunIndex::default();
        state.take_back(Offset::ZERO);
        assert_eq!(state.next_offset, Offset(2));
    }
}
