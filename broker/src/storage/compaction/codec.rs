//! What compaction has to know of the records in a batch. Payloads are opaque to
//! storage; the layer above, which knows their encoding, hands this in.

use std::fmt;

use bytes::{Bytes, BytesMut};

/// A record as it lies in its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodedRecord<'a> {
    /// The encoded record.
    pub bytes: &'a [u8],
    /// What it is about. A record without a key is never superseded.
    pub key: Option<&'a [u8]>,
    /// It has a key and no value: it says that the key is gone.
    pub is_tombstone: bool,
    /// Milliseconds since the Unix epoch; absent when it has the time of its
    /// batch.
    pub timestamp_ms: Option<i64>,
    /// Unused offsets between the record before and this one.
    pub offset_gap: u32,
}

/// A payload that is not an encoded batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedBatch;

/// The records of a batch. Ends after an error.
pub type EncodedRecords<'a> =
    Box<dyn Iterator<Item = Result<EncodedRecord<'a>, MalformedBatch>> + 'a>;

/// Takes batches apart and puts them together.
pub trait RecordCodec: Send + Sync + fmt::Debug {
    /// The uncompressed form of a payload: itself, or what is put into `room`.
    fn unpack<'a>(
        &self,
        payload: &'a [u8],
        room: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], MalformedBatch>;

    /// The records of an uncompressed payload, in order.
    fn split<'a>(&self, records: &'a [u8]) -> EncodedRecords<'a>;

    /// Appends a record to an uncompressed payload in which `offset_gap` offsets
    /// lie unused before it. If it has no time it gets `timestamp_ms`.
    fn put(
        &self,
        record: &EncodedRecord<'_>,
        offset_gap: u32,
        timestamp_ms: Option<i64>,
        out: &mut BytesMut,
    );

    /// The payload of a batch with these records, compressed by `codec` unless
    /// that makes it no smaller; and how it is compressed. Codecs are numbered as
    /// in the attributes of a batch header.
    fn pack(&self, records: BytesMut, record_count: u32, codec: u16) -> (Bytes, u16);
}
