//! From stored batches to the records of keys.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use statecast_proto::batch::{self, BatchError, RecordView};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits;
use crate::model::{BatchHeader, Offset};
use crate::partition::StoredBatch;
use crate::state::{LeaseId, Update};

/// The header that says which lease a key ends with: the id as 8 bytes, the highest
/// first. Only the broker writes it.
pub const LEASE_HEADER: &str = "statecast-lease";

/// A change of a key, as it lies in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Number of the partition.
    pub partition: u32,
    /// Offset of the record.
    pub offset: Offset,
    /// The key.
    pub key: Bytes,
    /// The record without its key, with a time.
    pub body: Bytes,
    /// The key is gone.
    pub is_tombstone: bool,
}

impl Change {
    /// Bytes that it takes in memory, about.
    pub(super) fn size(&self) -> usize {
        size_of::<Change>() + self.key.len() + self.body.len()
    }
}

/// A record of a key, borrowed.
pub(super) struct KeyRecord<'a> {
    pub(super) offset: Offset,
    pub(super) key: &'a [u8],
    pub(super) body: &'a [u8],
    pub(super) is_tombstone: bool,
    pub(super) lease: Option<LeaseId>,
}

impl KeyRecord<'_> {
    pub(super) fn update(&self) -> Update<'_> {
        Update {
            offset: self.offset,
            key: self.key,
            body: (!self.is_tombstone).then_some(self.body),
            lease: self.lease,
        }
    }

    pub(super) fn to_change(&self, partition: u32) -> Change {
        Change {
            partition,
            offset: self.offset,
            key: Bytes::copy_from_slice(self.key),
            body: Bytes::copy_from_slice(self.body),
            is_tombstone: self.is_tombstone,
        }
    }
}

/// Who unpacks batches: the large ones off the runtime, which has calls of others to
/// serve, and few at a time, since each may take much more memory than before.
#[derive(Debug, Clone)]
pub(super) struct Unpacker(Arc<Semaphore>);

/// A batch whose records can be read.
pub(super) struct Unpacked {
    header: BatchHeader,
    payload: Bytes,
    _turn: Option<OwnedSemaphorePermit>,
}

impl Unpacker {
    pub(super) fn new() -> Unpacker {
        Unpacker(Arc::new(Semaphore::new(limits::UNPACKED_AT_ONCE)))
    }

    pub(super) async fn unpack(&self, batch: &StoredBatch) -> Result<Unpacked, BatchError> {
        let (header, payload) = (batch.header, batch.payload.clone());
        let is_large = batch::stated_uncompressed_len(&payload) > limits::CHECKED_IN_PLACE_BYTES;
        let (payload, turn) = if is_large {
            let turn = self.0.clone().acquire_owned().await;
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
}

/// Gives each record of a batch at or behind `from` that has a key to `each`, until
/// that says that it has enough.
pub(super) fn each_record(
    batch: &Unpacked,
    from: Offset,
    body: &mut BytesMut,
    mut each: impl FnMut(KeyRecord<'_>) -> Go,
) -> Result<(), BatchError> {
    let Unpacked {
        header, payload, ..
    } = batch;
    let mut next = header.base_offset;
    for record in batch::decode_ref(payload) {
        let record = record?;
        let offset = next.advanced(u64::from(record.offset_gap));
        next = offset.advanced(1);
        let Some(key) = record.key.filter(|_| offset >= from) else {
            continue;
        };
        body.clear();
        record.put_keyless(header.append_time_ms, body);
        let record = KeyRecord {
            offset,
            key,
            body,
            is_tombstone: record.value.is_none(),
            lease: lease(&record),
        };
        if each(record) == Go::Stop {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether another record is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Go {
    On,
    Stop,
}

fn lease(record: &RecordView<'_>) -> Option<LeaseId> {
    let mut headers = record.headers();
    let header = headers.find(|header| header.name == LEASE_HEADER)?;
    lease_of_header(header.value?)
}

/// The lease that the value of a [`LEASE_HEADER`] names.
pub fn lease_of_header(value: &[u8]) -> Option<LeaseId> {
    let id = u64::from_be_bytes(value.try_into().ok()?);
    id.try_into().ok().map(LeaseId)
}
