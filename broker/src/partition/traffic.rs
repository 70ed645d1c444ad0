//! What went through the log: counters for those who watch it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::storage::{CompactionSummary, StoredBatch};

/// Counts since the start. Each field rises on its own: together they are
/// of about the same moment.
#[derive(Debug, Default)]
pub(super) struct Counters {
    appended_records: AtomicU64,
    appended_batches: AtomicU64,
    appended_bytes: AtomicU64,
    read_batches: AtomicU64,
    read_bytes: AtomicU64,
    compaction_read_bytes: AtomicU64,
    compaction_written_bytes: AtomicU64,
    compaction_dropped_records: AtomicU64,
}

/// What went through the log since the broker was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Records that were appended and acknowledged.
    pub appended_records: u64,
    /// The batches that they came in.
    pub appended_batches: u64,
    /// The size of those, headers included: bytes.
    pub appended_bytes: u64,
    /// Batches that were read, once for each reader.
    pub read_batches: u64,
    /// The size of those: bytes.
    pub read_bytes: u64,
    /// What compaction read: bytes.
    pub compaction_read_bytes: u64,
    /// What compaction wrote in the place of more: bytes.
    pub compaction_written_bytes: u64,
    /// Records that compaction dropped.
    pub compaction_dropped_records: u64,
}

impl Counters {
    pub(super) fn appended(&self, records: u64, batches: u64, bytes: u64) {
        self.appended_records.fetch_add(records, Ordering::Relaxed);
        self.appended_batches.fetch_add(batches, Ordering::Relaxed);
        self.appended_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn read(&self, batches: &[StoredBatch]) {
        let bytes: usize = batches.iter().map(|batch| batch.header.batch_len()).sum();
        self.read_batches
            .fetch_add(batches.len() as u64, Ordering::Relaxed);
        self.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn compacted(&self, summary: &CompactionSummary) {
        let counts = [
            (&self.compaction_read_bytes, summary.read_bytes),
            (&self.compaction_written_bytes, summary.written_bytes),
            (&self.compaction_dropped_records, summary.dropped_records),
        ];
        for (counter, count) in counts {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    pub(super) fn traffic(&self) -> Traffic {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            appended_records: load(&self.appended_records),
            appended_batches: load(&self.appended_batches),
            appended_bytes: load(&self.appended_bytes),
            read_batches: load(&self.read_batches),
            read_bytes: load(&self.read_bytes),
            compaction_read_bytes: load(&self.compaction_read_bytes),
            compaction_written_bytes: load(&self.compaction_written_bytes),
            compaction_dropped_records: load(&self.compaction_dropped_records),
        }
    }
}
