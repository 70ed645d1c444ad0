//! From stored batches to the records of keys.

use bytes::{Bytes, BytesMut};
use statecast_proto::batch::{self, BatchError, RecordView};

use crate::model::Offset;
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

/// Gives each record of a batch at or behind `from` that has a key to `each`, until
/// that says that it has enough.
pub(super) fn each_record(
    batch: &StoredBatch,
    from: Offset,
    body: &mut BytesMut,
    mut each: impl FnMut(KeyRecord<'_>) -> Go,
) -> Result<(), BatchError> {
    let header = &batch.header;
    let payload = batch::uncompressed(batch.payload.clone())?;
    let mut next = header.base_offset;
    for record in batch::decode_ref(&payload) {
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
