//! The async shell over `storage`: appends from many tasks meet in one journal
//! writer, readers wait for the high watermark, disk reads run off the runtime.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::model::{BatchHeader, CheckedBatch, Offset, PartitionId};

/// When an append is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushLevel {
    /// When it is durable. The default.
    Always,
    /// When it is written; made durable at least this often.
    Interval(Duration),
    /// When it is written; the operating system makes it durable.
    Os,
}

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
    /// Internal partitions may use the reserve when the disk is full.
    pub internal: bool,
}

/// One batch for one partition.
#[derive(Debug, Clone)]
pub struct Append {
    /// Where it goes.
    pub partition: PartitionHandle,
    /// What is appended.
    pub batch: CheckedBatch,
}

/// Why an append was refused; nothing of it is in the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// No space; a retry helps once there is.
    #[error("the disk is full")]
    DiskFull,
    /// A write or flush failed: the log takes no more appends until a restart.
    #[error("the log is read-only since a write failed: {0}")]
    ReadOnly(Arc<str>),
    /// The partition was deleted meanwhile.
    #[error("partition {0} was deleted")]
    Deleted(PartitionId),
    /// The broker is stopping.
    #[error("the broker is stopping")]
    Stopping,
}

/// Why a read failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Beyond the high watermark.
    #[error("offset {offset} lies beyond the high watermark {high_watermark}")]
    BeyondEnd {
        /// What was asked for.
        offset: Offset,
        /// The end of what is readable.
        high_watermark: Offset,
    },
    /// The partition was deleted.
    #[error("partition {0} was deleted")]
    Deleted(PartitionId),
    /// The disk failed to read.
    #[error("reading failed: {0}")]
    Io(Arc<str>),
}

/// The offsets that can be read: `[log_start_offset, high_watermark)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadableRange {
    /// Offset of the oldest record that is kept.
    pub log_start_offset: Offset,
    /// One past the last record that is readable.
    pub high_watermark: Offset,
}

/// What a read found at the offset that was asked for.
#[derive(Debug, Clone)]
pub enum Read {
    /// Batches in order; the first contains the offset asked for and may begin
    /// before it. Empty only when the offset is the high watermark.
    Batches(Vec<StoredBatch>),
    /// The offset is below the readable range: go on at `log_start_offset`.
    Truncated {
        /// Offset of the oldest record that is kept.
        log_start_offset: Offset,
    },
    /// The offsets from the one asked for up to `to` are damaged: go on there.
    Quarantined {
        /// One past the last damaged offset.
        to: Offset,
    },
}

/// A batch as it lies in the log; its checksums were verified if it came from
/// disk.
#[derive(Debug, Clone)]
pub struct StoredBatch {
    /// The broker's header.
    pub header: BatchHeader,
    /// The encoded `RecordBatch`.
    pub payload: Bytes,
}

/// Wakes one reader of several partitions: says which of them have news.
#[derive(Debug, Default)]
pub struct Doorbell {}

impl Doorbell {
    /// Waits until a partition rang; returns the slots of those that did since
    /// the last call.
    pub async fn rung(&self) -> Vec<usize> {
        unimplemented!()
    }
}

/// A partition, as the layers above use it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PartitionHandle {}

impl PartitionHandle {
    /// Its id in this data directory.
    pub fn id(&self) -> PartitionId {
        unimplemented!()
    }

    /// The offsets that can be read now.
    pub fn range(&self) -> ReadableRange {
        unimplemented!()
    }

    /// Batches from `from` on, up to the high watermark or `until`, whichever
    /// is lower, of at most `max_bytes` in all but at least one.
    pub async fn read(
        &self,
        _from: Offset,
        _until: Offset,
        _max_bytes: usize,
    ) -> Result<Read, ReadError> {
        unimplemented!()
    }

    /// The first offset whose record's time is at or after `timestamp_ms`.
    /// Exact to the batch: its first record's offset.
    pub async fn offset_at_time(&self, _timestamp_ms: i64) -> Result<Option<Offset>, ReadError> {
        unimplemented!()
    }

    /// Rings `bell` with `slot`, once, when the high watermark is or moves
    /// beyond `offset`, or the partition is deleted.
    pub fn ring_beyond(&self, _offset: Offset, _bell: &Arc<Doorbell>, _slot: usize) {
        unimplemented!()
    }

    /// Takes a changed configuration.
    pub fn configure(&self, _config: PartitionConfig) {
        unimplemented!()
    }

    /// Bytes in segments.
    pub fn segment_bytes(&self) -> u64 {
        unimplemented!()
    }

    /// Half-open ranges of offsets known to be damaged.
    pub fn quarantined(&self) -> Vec<(Offset, Offset)> {
        unimplemented!()
    }
}

/// The running log: every partition's appends go through it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {}

impl Engine {
    /// The handle of a partition; the partition begins to exist if it didn't.
    pub fn partition(&self, _id: PartitionId, _config: PartitionConfig) -> PartitionHandle {
        unimplemented!()
    }

    /// Removes partitions with all their records; the space comes back. Ids are
    /// never used again.
    pub async fn delete(&self, _ids: Vec<PartitionId>) {
        unimplemented!()
    }

    /// Ids of the partitions that recovery found on disk.
    pub fn recovered_partitions(&self) -> Vec<PartitionId> {
        unimplemented!()
    }

    /// Appends batches to partitions, in this order. Resolves when each is as
    /// durable as its partition's flush level says; waits while the mailbox is
    /// full. One result per batch: the offset of its first record.
    pub async fn append(&self, _batches: Vec<Append>) -> Vec<Result<Offset, AppendError>> {
        unimplemented!()
    }

    /// Whether appends are still taken: false after a write or flush failed.
    pub fn writable(&self) -> bool {
        unimplemented!()
    }

    /// Flushes what was appended and ends the threads.
    pub async fn stop(&self) {
        unimplemented!()
    }
}
