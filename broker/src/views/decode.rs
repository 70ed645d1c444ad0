//! From stored batches to the records of keys.

use bytes::{Bytes, BytesMut};
use statecast_proto::batch::{self, BatchError, RecordView};

use super::unpack::Unpacked;
use crate::limits;
use crate::model::Offset;
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

/// A record in a batch that was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// Its offset.
    pub(super) offset: Offset,
    /// Where it begins in the payload: bytes.
    position: usize,
    /// One past the record before it.
    next: Offset,
}

impl Mark {
    /// The first one at or behind an offset; where it begins isn't known.
    pub(super) fn first(batch: &Unpacked, offset: Offset) -> Mark {
        Mark {
            offset,
            position: 0,
            next: batch.header.base_offset,
        }
    }
}

/// Gives each record of a batch at or behind `from` that has a key to `each`, until
/// that says that it has enough.
pub(super) fn each_record(
    batch: &Unpacked,
    from: Offset,
    body: &mut BytesMut,
    each: impl FnMut(KeyRecord<'_>) -> Go,
) -> Result<(), BatchError> {
    each_record_from(batch, Mark::first(batch, from), body, each).map(drop)
}

/// As [`each_record`], from a record on. Returns the one that was given when there was
/// enough: from there on it can be read again.
pub(super) fn each_record_from(
    batch: &Unpacked,
    mark: Mark,
    body: &mut BytesMut,
    mut each: impl FnMut(KeyRecord<'_>) -> Go,
) -> Result<Option<Mark>, BatchError> {
    let payload = &batch.payload[mark.position..];
    let mut records = batch::decode_ref(payload);
    let mut next = mark.next;
    let mut position = mark.position;
    let mut stopped = None;
    while let Some(record) = records.next() {
        let record = record?;
        let offset = next.advanced(u64::from(record.offset_gap));
        let place = Mark {
            offset,
            position,
            next,
        };
        next = offset.advanced(1);
        position = batch.payload.len() - records.rest_len();
        let Some(key) = record.key.filter(|_| offset >= mark.offset) else {
            continue;
        };
        body.clear();
        record.put_keyless(batch.header.append_time_ms, body);
        let record = KeyRecord {
            offset,
            key,
            body,
            is_tombstone: record.value.is_none(),
            lease: lease(&record),
        };
        if each(record) == Go::Stop {
            stopped = Some(place);
            break;
        }
    }
    if body.capacity() > limits::RECORD_ROOM_BYTES {
        // Whoever reads on keeps it: not what the largest record ever took.
        *body = BytesMut::new();
    }
    Ok(stopped)
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

#[cfg(test)]
mod tests {
    use statecast_proto::batch::{BatchBuilder, Compression, RecordRef};

    use super::*;
    use crate::views::unpack::Unpacker;

    #[tokio::test]
    async fn room_for_the_largest_record_is_not_kept_and_reading_goes_on_at_a_mark() {
        let values = ["small".to_owned(), "x".repeat(1 << 20), "last".to_owned()];
        let mut builder = BatchBuilder::new(Compression::None);
        for value in &values {
            builder
                .push(&RecordRef::new(b"key", value.as_bytes()))
                .unwrap();
        }
        let payload = builder.finish().payload;
        let batch = Unpacker::of_payload(Offset(7), 3, payload);
        let mut body = BytesMut::new();
        let mut sizes = Vec::new();
        let mut mark = Some(Mark::first(&batch, Offset(7)));
        while let Some(from) = mark {
            let mut is_first = true;
            let read = each_record_from(&batch, from, &mut body, |record| {
                if !std::mem::take(&mut is_first) {
                    return Go::Stop;
                }
                sizes.push((record.offset.0, record.body.len() > 1 << 20));
                Go::On
            });
            mark = read.unwrap();
            assert!(body.capacity() <= limits::RECORD_ROOM_BYTES);
        }
        assert_eq!(sizes, [(7, false), (8, true), (9, false)]);
    }
}
