//! Shows the records of batches to compaction, which runs where nobody knows how
//! they are encoded.

use bytes::{Bytes, BytesMut};
use statecast_proto::batch::{self, BatchError, Compression, RawRecord};

use crate::storage::{EncodedRecord, EncodedRecords, MalformedBatch, RecordCodec};

/// The encoding of `statecast.v1.RecordBatch`.
#[derive(Debug, Clone, Copy)]
pub struct ProtobufRecords;

impl RecordCodec for ProtobufRecords {
    fn unpack<'a>(
        &self,
        payload: &'a [u8],
        room: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], MalformedBatch> {
        batch::uncompressed_in(payload, room).map_err(malformed)
    }

    fn split<'a>(&self, records: &'a [u8]) -> EncodedRecords<'a> {
        Box::new(batch::split(records).map(|record| record.map(encoded).map_err(malformed)))
    }

    fn put(
        &self,
        record: &EncodedRecord<'_>,
        offset_gap: u32,
        timestamp_ms: Option<i64>,
        out: &mut BytesMut,
    ) {
        let &EncodedRecord {
            bytes,
            key,
            is_tombstone,
            timestamp_ms: own_time,
            offset_gap: old_gap,
        } = record;
        let raw = RawRecord {
            bytes,
            key,
            is_tombstone,
            timestamp_ms: own_time,
            offset_gap: old_gap,
        };
        raw.put_moved(offset_gap, timestamp_ms, out);
    }

    fn pack(&self, records: BytesMut, record_count: u32, codec: u16) -> (Bytes, u16) {
        let by_number = |compression: &Compression| u16::from(compression.number()) == codec;
        let compression = Compression::ALL.into_iter().find(by_number);
        // A codec that isn't known couldn't have been unpacked.
        let compression = compression.unwrap_or_default();
        let (payload, compression) = batch::pack(records, record_count, compression);
        (payload, compression.number().into())
    }
}

fn encoded(record: RawRecord<'_>) -> EncodedRecord<'_> {
    EncodedRecord {
        bytes: record.bytes,
        key: record.key,
        is_tombstone: record.is_tombstone,
        timestamp_ms: record.timestamp_ms,
        offset_gap: record.offset_gap,
    }
}

fn malformed(_: BatchError) -> MalformedBatch {
    MalformedBatch
}
