//! The async shell over `storage`: appends from many tasks meet in one journal
//! writer, readers wait for the high watermark, disk reads run off the runtime.

mod abort_on_panic;
mod compaction;
mod doorbell;
mod engine;
mod hand;
mod handle;
mod haste;
mod jumps;
mod mailbox;
#[cfg(test)]
mod tests;
mod traffic;
mod upkeep;

use std::sync::Arc;

pub use crate::storage::{
    CompactionConfig, KeyConflict, KeyGuard, Read, ReadError, RecordCodec, SequenceError,
    StoredBatch,
};
pub use doorbell::Doorbell;
pub use engine::{Engine, EngineOptions};
use handle::Partition;
pub use handle::PartitionHandle;
pub use traffic::Traffic;

use crate::model::{CheckedBatch, FlushLevel, Offset, PartitionId};

/// What a partition takes from its topic's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionConfig {
    /// When an append is acknowledged.
    pub flush: FlushLevel,
    /// Size at which a segment is sealed: bytes.
    pub segment_bytes: u64,
    /// Records older than this may go: milliseconds. `None` keeps them.
    pub retention_ms: Option<u64>,
    /// Oldest segments go while the partition is larger: bytes.
    pub retention_bytes: Option<u64>,
    /// Only the latest record of each key is kept, if set.
    pub compaction: Option<CompactionConfig>,
    /// Internal partitions may use the reserve when the disk is full.
    pub internal: bool,
}

/// One batch for one partition.
#[derive(Debug, Clone)]
pub struct Append {
    /// Where it goes. Not a handle: there are millions of appends a second, and all
    /// handles count on one counter, which the processors would have to pass round.
    partition: Arc<Partition>,
    /// What is appended.
    pub batch: CheckedBatch,
}

impl Append {
    /// A batch for a partition.
    pub fn new(partition: &PartitionHandle, batch: CheckedBatch) -> Append {
        Append {
            partition: partition.partition().clone(),
            batch,
        }
    }

    /// The partition that it goes to.
    pub fn partition_id(&self) -> PartitionId {
        self.partition.log.id()
    }
}

/// Appends that are placed all or none, and only if all guards hold: no key of theirs
/// was written since somebody looked. When all of it was appended before, by what the
/// batches say of who sent them, it isn't appended again, whether they hold or not.
#[derive(Debug)]
pub struct Unit {
    /// One or more, up to [`UNIT_APPENDS`](crate::limits::UNIT_APPENDS).
    pub appends: Vec<Append>,
    /// As made by [`PartitionHandle::guard`], of any partitions.
    pub guards: Vec<KeyGuard>,
}

/// Where a batch lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// It was appended before, by what it says of who sent it.
    pub duplicate: bool,
}

/// Why an append was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// No space, or descriptors or memory are short; a retry helps once there is.
    /// Nothing of it is in the log.
    #[error("the disk is full")]
    DiskFull,
    /// A write or flush failed, this one or one before: the log takes no more
    /// appends until a restart. Whether this append is in the log then is open.
    #[error("the log is read-only since a write failed: {0}")]
    ReadOnly(Arc<str>),
    /// The partition was deleted meanwhile.
    #[error("partition {0} was deleted")]
    Deleted(PartitionId),
    /// By what it says of who sent it, it may not be appended.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// A key has been written, or may have been, since the one who set a condition has
    /// looked. Nothing of the unit is in the log.
    #[error("a key of partition {} may have been written meanwhile", .0.partition)]
    Conflict(KeyConflict),
    /// More than can be appended as a unit: bytes, with what each batch takes beside its
    /// payload, or batches. Nothing of it is in the log.
    #[error("too much to be appended all or none")]
    UnitTooLarge,
    /// The broker is stopping. Nothing of it is in the log.
    #[error("the broker is stopping")]
    Stopping,
}

/// What compaction has taken from a partition, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// What was true before an offset can be told from the records that are left, if it
    /// isn't lower than this.
    pub state_from: Offset,
    /// Who has read everything before an offset and goes on there, learns of every key
    /// what became of it, if it isn't lower than this.
    pub tombstones_removed_to: Offset,
}

/// The offsets that can be read: `[log_start_offset, high_watermark)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadableRange {
    /// Offset of the oldest record that is kept.
    pub log_start_offset: Offset,
    /// One past the last record that is readable.
    pub high_watermark: Offset,
}
