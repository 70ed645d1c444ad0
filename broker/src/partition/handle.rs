//! A partition, as the layers above see it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::doorbell::{Doorbell, Waiters};
use super::engine::Shared;
use super::{Compacted, PartitionConfig, ReadableRange};
use crate::model::{FlushLevel, KeyHash, Offset, PartitionId, RequestStamp};
use crate::storage::{Claim, KeyGuard, PartitionLog, Read, ReadError, ReadRequest};

/// A partition. Cheap to clone.
#[derive(Clone)]
pub struct PartitionHandle {
    partition: Arc<Partition>,
    engine: Arc<Shared>,
}

/// What the clones of a handle share.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) log: Arc<PartitionLog>,
    pub(super) waiters: Waiters,
    /// What space its appends may take.
    pub(super) claim: Claim,
    /// That of the configuration, for each append to look at: encoded by
    /// [`encode_flush`].
    flush: AtomicU64,
    /// Changed when a topic is altered.
    config: Mutex<PartitionConfig>,
}

impl Partition {
    pub(super) fn new(log: Arc<PartitionLog>, config: PartitionConfig) -> Partition {
        log.lock().segment_bytes = config.segment_bytes;
        Partition {
            log,
            waiters: Waiters::default(),
            claim: match config.internal {
                true => Claim::Internal,
                false => Claim::User,
            },
            flush: AtomicU64::new(encode_flush(config.flush)),
            config: Mutex::new(config),
        }
    }

    /// When an append that is submitted now is acknowledged.
    pub(super) fn flush(&self) -> FlushLevel {
        decode_flush(self.flush.load(Ordering::Relaxed))
    }

    pub(super) fn config(&self) -> PartitionConfig {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets readers see everything below `offset`, and wakes those who wait.
    pub(super) fn publish(&self, offset: Offset) {
        if self.log.publish(offset) {
            self.waiters.ring_below(offset);
        }
    }
}

impl PartitionHandle {
    pub(super) fn new(partition: Arc<Partition>, engine: Arc<Shared>) -> PartitionHandle {
        PartitionHandle { partition, engine }
    }

    pub(super) fn partition(&self) -> &Arc<Partition> {
        &self.partition
    }

    /// Has the processor bring what an append needs of it: the count of its handles, too,
    /// which lies elsewhere.
    pub fn fetch(&self) {
        let flush = self.partition.flush.load(Ordering::Relaxed);
        std::hint::black_box((flush, Arc::strong_count(&self.partition)));
    }

    /// Its id in this data directory.
    pub fn id(&self) -> PartitionId {
        self.partition.log.id()
    }

    /// The offsets that can be read now.
    pub fn range(&self) -> ReadableRange {
        ReadableRange {
            log_start_offset: self.partition.log.lock().log_start,
            high_watermark: self.partition.log.high_watermark(),
        }
    }

    /// One past the last record that is readable now.
    pub fn high_watermark(&self) -> Offset {
        self.partition.log.high_watermark()
    }

    /// Batches from `from` on, up to the high watermark or `until`, whichever
    /// is lower, of at most `max_bytes` in all but at least one. From memory at
    /// once, from disk off the runtime.
    pub async fn read(
        &self,
        from: Offset,
        until: Offset,
        max_bytes: usize,
    ) -> Result<Read, ReadError> {
        let request = ReadRequest {
            from,
            until,
            max_bytes,
        };
        let cached = self
            .engine
            .storage
            .read_cached(&self.partition.log, request)?;
        let read = match cached {
            Some(read) => read,
            None => {
                let log = self.partition.log.clone();
                self.engine
                    .off_runtime(move |storage| storage.read(&log, request))
                    .await?
            }
        };
        if let Read::Batches(batches) = &read {
            self.engine.counters.read(batches);
        }
        Ok(read)
    }

    /// The first offset of the first batch that has a record at or after
    /// `timestamp_ms`, below the high watermark; `None` when there is none.
    pub async fn offset_at_time(&self, timestamp_ms: i64) -> Result<Option<Offset>, ReadError> {
        let log = self.partition.log.clone();
        self.engine
            .off_runtime(move |storage| storage.offset_at_time(&log, timestamp_ms))
            .await
    }

    /// Rings `bell` with `slot`, once, when the high watermark is or moves
    /// beyond `offset`, or the partition is deleted.
    pub fn ring_beyond(&self, offset: Offset, bell: &Arc<Doorbell>, slot: usize) {
        let high_watermark = || self.high_watermark();
        self.partition
            .waiters
            .add(offset, bell, slot, high_watermark);
        // The partition may have gone before the waiter was there.
        if self.partition.log.lock().deleted {
            self.partition.waiters.ring_below(Offset(u64::MAX));
        }
    }

    /// Rings `bell` with `slot` no more; it may have rung already.
    pub fn stop_ringing(&self, bell: &Arc<Doorbell>, slot: usize) {
        self.partition.waiters.remove(bell, slot);
    }

    /// Takes a changed configuration.
    pub fn configure(&self, config: PartitionConfig) {
        self.partition.log.lock().segment_bytes = config.segment_bytes;
        let flush = encode_flush(config.flush);
        self.partition.flush.store(flush, Ordering::Relaxed);
        *self
            .partition
            .config
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// A guard for a unit of appends: it holds as long as no record with this key lies at
    /// or beyond `seen`. For partitions of compacted topics. The keys that were placed
    /// from `seen` on are remembered while the guard lives, unless there are too many; so
    /// it is to be made before [`PartitionHandle::forget_keys_below`] is told of more.
    pub fn guard(&self, key: KeyHash, seen: Offset) -> KeyGuard {
        self.engine.storage.guard(&self.partition.log, key, seen)
    }

    /// A guard that never holds: a unit with it is told where it lies in the log, if it
    /// was appended before, and is refused otherwise.
    pub fn closed_guard(&self) -> KeyGuard {
        KeyGuard::closed(&self.partition.log)
    }

    /// Who makes guards has seen everything below `offset`, and needs to know no more of
    /// the keys there.
    pub fn forget_keys_below(&self, offset: Offset) {
        if let Some(recent) = &mut self.partition.log.lock().recent_keys {
            recent.forget_below(offset);
        }
    }

    /// Where the records of a request lie that was appended before, if that is still
    /// remembered. It may not be durable yet: made again, it is answered once it is.
    pub fn appended_before(&self, stamp: RequestStamp) -> Option<Offset> {
        let now_ms = self.engine.producers_now_ms();
        self.engine
            .storage
            .appended_before(&self.partition.log, stamp, now_ms)
    }

    /// What compaction has taken from the partition. It may take more at any moment:
    /// who relies on what was read asks afterwards. From memory but for the first time.
    pub async fn compacted(&self) -> Result<Compacted, ReadError> {
        let known = self.partition.log.lock().dropped;
        let dropped = match known {
            Some(dropped) => dropped,
            None => {
                let log = self.partition.log.clone();
                self.engine
                    .off_runtime(move |storage| Ok(storage.dropped(&log)?))
                    .await?
            }
        };
        Ok(Compacted {
            state_from: dropped.superseded_to,
            tombstones_removed_to: dropped.tombstones_to,
        })
    }

    /// Half-open ranges of offsets known to be damaged.
    pub fn quarantined(&self) -> Vec<(Offset, Offset)> {
        let state = self.partition.log.lock();
        state
            .quarantined
            .iter()
            .map(|range| (range.from, range.to))
            .collect()
    }
}

/// A flush level as one number: milliseconds, 0 for always.
fn encode_flush(level: FlushLevel) -> u64 {
    match level {
        FlushLevel::Always => 0,
        FlushLevel::Interval(interval) => {
            let ms = u64::try_from(interval.as_millis()).unwrap_or(OS - 1);
            ms.clamp(1, OS - 1)
        }
        FlushLevel::Os => OS,
    }
}

const OS: u64 = u64::MAX;

fn decode_flush(encoded: u64) -> FlushLevel {
    match encoded {
        0 => FlushLevel::Always,
        OS => FlushLevel::Os,
        ms => FlushLevel::Interval(Duration::from_millis(ms)),
    }
}

impl fmt::Debug for PartitionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PartitionHandle").field(&self.id()).finish()
    }
}
