//! What went through the log: counters for those who watch it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::storage::StoredBatch;

/// Counts since the start. Each field rises on its own: together they are
/// of about the same moment.
#[derive(Debug, Default)]
pub(super) struct Counters {
    appended_records: AtomicU64,
    appended_batches: AtomicU64,
    appended_bytes: AtomicU64,
    read_batches: AtomicU64,
    read_bytes: AtomicU64,
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

    pub(super) fn traffic(&self) -> Traffic {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            appended_records: load(&self.appended_records),
            appended_batches: load(&self.appended_batches),
            appended_bytes: load(&self.appended_bytes),
            read_batches: load(&self.read_batches),
            read_bytes: load(&self.read_bytes),
        }
    }
}
