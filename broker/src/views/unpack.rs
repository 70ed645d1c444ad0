//! Batches as their records can be read: unpacked, and a few of them kept, since one
//! that is large is read piece by piece, and by many.
//!
//! What is kept was in the log at some time, and what it says of its offsets stays true:
//! compaction may have dropped some of it since, and retention all. So whoever relies on
//! what the log has now asks for that afterwards, as after a read.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use statecast_proto::batch::{self, BatchError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits;
use crate::model::{BatchHeader, Offset, PartitionId};
use crate::partition::StoredBatch;

/// Who unpacks batches: the large ones off the runtime, which has calls of others to
/// serve, and few at a time, since each may take much more memory than before.
#[derive(Debug, Clone)]
pub(super) struct Unpacker {
    turns: Arc<Semaphore>,
    kept: Arc<Mutex<Kept>>,
}

/// A batch whose records can be read.
#[derive(Debug)]
pub(super) struct Unpacked {
    pub(super) header: BatchHeader,
    pub(super) payload: Bytes,
    _turn: Option<OwnedSemaphorePermit>,
}

/// The batches that were read last.
#[derive(Debug, Default)]
struct Kept {
    /// The one that was asked for last is the last one.
    batches: VecDeque<(PartitionId, Arc<Unpacked>)>,
    bytes: usize,
}

impl Unpacker {
    pub(super) fn new() -> Unpacker {
        Unpacker {
            turns: Arc::new(Semaphore::new(limits::UNPACKED_AT_ONCE)),
            kept: Arc::default(),
        }
    }

    pub(super) async fn unpack(&self, batch: &StoredBatch) -> Result<Unpacked, BatchError> {
        let (header, payload) = (batch.header, batch.payload.clone());
        let is_large = batch::stated_uncompressed_len(&payload) > limits::CHECKED_IN_PLACE_BYTES;
        let (payload, turn) = if is_large {
            let turn = self.turns.clone().acquire_owned().await;
            let unpack = move || batch::uncompressed(payload);
            let unpacked = tokio::task::spawn_blocking(unpack).await;
            let ended = |_| BatchError::Malformed("it can't be unpacked");
            (unpacked.map_err(ended)??, turn.ok())
        } else {
            (batch::uncompressed(payload)?, None)
        };
        Ok(Unpacked {
            header,
            payload,
            _turn: turn,
        })
    }

    /// The batch that an offset lies in, if it is kept.
    pub(super) fn kept(&self, partition: PartitionId, offset: Offset) -> Option<Arc<Unpacked>> {
        let mut kept = self.lock();
        let is_it = |(of, batch): &(PartitionId, Arc<Unpacked>)| {
            let Unpacked { header, .. } = batch.as_ref();
            *of == partition && (header.base_offset..header.next_offset()).contains(&offset)
        };
        let at = kept.batches.iter().rposition(is_it)?;
        let found = kept.batches.remove(at)?;
        let batch = found.1.clone();
        kept.batches.push_back(found);
        Some(batch)
    }

    /// Keeps a batch, instead of those that nobody has asked for the longest; not a small
    /// one, which is read again as fast.
    pub(super) fn keep(&self, partition: PartitionId, batch: Unpacked) -> Arc<Unpacked> {
        // What it takes is bounded here from now on.
        let batch = Arc::new(Unpacked {
            _turn: None,
            ..batch
        });
        let bytes = batch.payload.len();
        if !(limits::KEPT_BATCH_BYTES..=limits::KEPT_BATCHES_BYTES).contains(&bytes) {
            return batch;
        }
        let mut kept = self.lock();
        kept.bytes += bytes;
        kept.batches.push_back((partition, batch.clone()));
        while kept.bytes > limits::KEPT_BATCHES_BYTES
            && let Some((_, oldest)) = kept.batches.pop_front()
        {
            kept.bytes -= oldest.payload.len();
        }
        batch
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Unpacker {
    /// A batch that isn't compressed.
    pub(super) fn of_payload(base_offset: Offset, record_count: u32, payload: Bytes) -> Unpacked {
        Unpacked {
            header: BatchHeader {
                payload_crc: 0,
                payload_len: 0,
                base_offset,
                record_count,
                offset_span: record_count,
                append_time_ms: 0,
                max_timestamp_ms: 0,
                producer_id: 0,
                base_sequence: 0,
                leader_epoch: 0,
                uncompressed_len: 0,
                producer_epoch: 0,
                attributes: 0,
            },
            payload,
            _turn: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(base_offset: u64, bytes: usize) -> Unpacked {
        Unpacker::of_payload(Offset(base_offset), 1, Bytes::from(vec![0; bytes]))
    }

    #[test]
    fn large_batches_are_kept_as_long_as_others_are_not_wanted_more() {
        let unpacker = Unpacker::new();
        let third = limits::KEPT_BATCHES_BYTES / 3;
        let id = PartitionId(20);
        unpacker.keep(id, batch(0, limits::KEPT_BATCH_BYTES - 1));
        assert!(unpacker.kept(id, Offset(0)).is_none(), "it is small");
        for base_offset in 1..=3 {
            unpacker.keep(id, batch(base_offset, third));
        }
        assert!(unpacker.kept(id, Offset(1)).is_some());
        assert!(unpacker.kept(PartitionId(21), Offset(1)).is_none());
        unpacker.keep(id, batch(4, third));
        let kept: Vec<u64> = (0..6)
            .filter(|&offset| unpacker.kept(id, Offset(offset)).is_some())
            .collect();
        assert_eq!(kept, [1, 3, 4]);
        unpacker.keep(id, batch(5, limits::KEPT_BATCHES_BYTES + 1));
        assert!(
            unpacker.kept(id, Offset(5)).is_none(),
            "nothing fits beside it"
        );
        assert!(unpacker.lock().bytes <= limits::KEPT_BATCHES_BYTES);
    }
}
