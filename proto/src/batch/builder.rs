//! Encodes records, one after the other, into a batch.

use bytes::{Bytes, BytesMut};

use super::compression::Compression;
use super::error::BatchError;
use super::limits::BatchLimits;
use super::record::RecordRef;
use super::wire::{Prefix, len_field_len};
use super::{batch_tag, header_tag, record_tag};

/// A batch, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedBatch {
    /// The bytes of a `statecast.v1.RecordBatch`.
    pub payload: Bytes,
    /// Records in it.
    pub record_count: u32,
    /// CRC-32 of the payload.
    pub checksum: u32,
}

/// Encodes records, one after the other, into a batch. The buffer is used again
/// once the batches made before are dropped.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    compression: Compression,
    records: BytesMut,
    record_count: u32,
    /// Size of the batch before: the next one is likely to get as large.
    expected_len: usize,
}

impl BatchBuilder {
    /// An empty batch.
    pub fn new(compression: Compression) -> BatchBuilder {
        BatchBuilder {
            compression,
            ..BatchBuilder::default()
        }
    }

    /// Appends a record. One that is over a limit is refused, and the batch
    /// stays as it was.
    #[inline]
    pub fn push(&mut self, record: &RecordRef<'_>) -> Result<(), BatchError> {
        let len = record.encoded_len();
        let size = self.records.len() + len_field_len(len);
        self.admit(record, len, size)?;
        if self.is_empty() {
            self.records
                .reserve(size.max(self.expected_len) + Prefix::MAX_LEN);
        }
        put_record(&mut self.records, record, len);
        self.record_count += 1;
        Ok(())
    }

    /// Whether a record of `len` bytes, which makes it a batch of `size` bytes,
    /// is within all limits.
    #[inline]
    fn admit(&self, record: &RecordRef<'_>, len: usize, size: usize) -> Result<(), BatchError> {
        const LIMITS: BatchLimits = BatchLimits::DEFAULT;
        if self.record_count >= LIMITS.max_records {
            return Err(BatchError::TooManyRecords {
                limit: LIMITS.max_records,
            });
        }
        let key_len = record.key.map_or(0, <[u8]>::len);
        if key_len > LIMITS.max_key {
            return Err(BatchError::KeyTooLarge {
                size: key_len,
                limit: LIMITS.max_key,
            });
        }
        if record.headers.len() > LIMITS.max_headers as usize {
            return Err(BatchError::TooManyHeaders {
                limit: LIMITS.max_headers,
            });
        }
        let fits = |name: &str| (1..=LIMITS.max_header_name).contains(&name.len());
        if !record.headers.iter().all(|header| fits(header.name)) {
            return Err(BatchError::HeaderInvalid {
                limit: LIMITS.max_header_name,
            });
        }
        if len > LIMITS.max_record {
            return Err(BatchError::RecordTooLarge {
                size: len,
                limit: LIMITS.max_record,
            });
        }
        if size > LIMITS.max_uncompressed {
            return Err(BatchError::UncompressedTooLarge {
                size,
                limit: LIMITS.max_uncompressed,
            });
        }
        Ok(())
    }

    /// Size of the records so far, uncompressed: bytes. The finished batch is
    /// never larger.
    pub fn encoded_len(&self) -> usize {
        self.records.len()
    }

    /// Records so far.
    pub fn record_count(&self) -> u32 {
        self.record_count
    }

    /// Whether there is no record yet.
    pub fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// The batch of all records so far; the builder is empty then. Records that
    /// don't get smaller by compression are left as they are.
    pub fn finish(&mut self) -> EncodedBatch {
        let records = self.records.split();
        let record_count = std::mem::take(&mut self.record_count);
        self.expected_len = records.len();
        let (payload, _) = pack(records, record_count, self.compression);
        EncodedBatch {
            checksum: crate::checksum(&payload),
            payload,
            record_count,
        }
    }
}

/// The payload of a batch that consists of `records`, an uncompressed batch of
/// `record_count` records; and how it is compressed: not at all, when that
/// makes it no smaller.
pub fn pack(
    records: BytesMut,
    record_count: u32,
    compression: Compression,
) -> (Bytes, Compression) {
    let compressed = match compression {
        Compression::None => None,
        codec => compressed_form(codec, &records, record_count),
    };
    match compressed {
        Some(payload) => (payload, compression),
        None => (records.freeze(), Compression::None),
    }
}

#[inline]
fn put_record(out: &mut BytesMut, record: &RecordRef<'_>, len: usize) {
    let mut prefix = Prefix::default();
    prefix.len_field(batch_tag::RECORDS, len);
    if let Some(key) = record.key {
        prefix.put_with(out, record_tag::KEY, key);
    }
    if let Some(value) = record.value {
        prefix.put_with(out, record_tag::VALUE, value);
    }
    for header in record.headers {
        prefix.len_field(record_tag::HEADERS, header.encoded_len());
        prefix.put_with(out, header_tag::NAME, header.name.as_bytes());
        if let Some(value) = header.value {
            prefix.put_with(out, header_tag::VALUE, value);
        }
    }
    if let Some(timestamp_ms) = record.timestamp_ms {
        prefix.varint_field(record_tag::TIMESTAMP_MS, timestamp_ms.cast_unsigned());
    }
    prefix.put(out);
}

/// The compressed form of a batch; `None` when it isn't smaller.
fn compressed_form(codec: Compression, records: &[u8], record_count: u32) -> Option<Bytes> {
    codec.with_compressed(records, |compressed| {
        let mut out = BytesMut::with_capacity(compressed.len() + 64);
        let mut prefix = Prefix::default();
        prefix.varint_field(batch_tag::COMPRESSION, u64::from(codec.number()));
        prefix.varint_field(batch_tag::UNCOMPRESSED_SIZE, records.len() as u64);
        prefix.put(&mut out);
        prefix.varint_field(batch_tag::RECORD_COUNT, u64::from(record_count));
        prefix.put_with(&mut out, batch_tag::COMPRESSED, compressed);
        (out.len() < records.len()).then(|| out.freeze())
    })
}
