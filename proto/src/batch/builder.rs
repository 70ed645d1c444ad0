//! Encodes records, one after the other, into a batch.

use bytes::{Bytes, BytesMut};

use super::compression::Compression;
use super::error::BatchError;
use super::limits::BatchLimits;
use super::wire::{len_field_len, put_bytes_field, put_len_tag, put_varint_field, varint_len};
use super::{batch_field, header_field, record_field};

/// A record to be encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecordRef<'a> {
    /// Decides the partition. Absent and empty are different.
    pub key: Option<&'a [u8]>,
    /// Absent, with a key, makes a tombstone. Absent and empty are different.
    pub value: Option<&'a [u8]>,
    /// In order; names may repeat.
    pub headers: &'a [HeaderRef<'a>],
    /// Milliseconds since the Unix epoch. Default: the time of the append.
    pub timestamp_ms: Option<i64>,
}

/// A header to be encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeaderRef<'a> {
    /// 1 to 256 bytes.
    pub name: &'a str,
    /// Absent and empty are different.
    pub value: Option<&'a [u8]>,
}

impl<'a> RecordRef<'a> {
    /// A record with a key and a value.
    pub fn new(key: &'a [u8], value: &'a [u8]) -> RecordRef<'a> {
        RecordRef {
            key: Some(key),
            value: Some(value),
            ..RecordRef::default()
        }
    }

    /// A record without a key.
    pub fn of_value(value: &'a [u8]) -> RecordRef<'a> {
        RecordRef {
            value: Some(value),
            ..RecordRef::default()
        }
    }

    /// A record that says that the key is gone.
    pub fn tombstone(key: &'a [u8]) -> RecordRef<'a> {
        RecordRef {
            key: Some(key),
            ..RecordRef::default()
        }
    }

    /// Size of the encoded record: bytes.
    fn encoded_len(&self) -> usize {
        let mut len = self.key.map_or(0, |key| len_field_len(key.len()))
            + self.value.map_or(0, |value| len_field_len(value.len()));
        for header in self.headers {
            len += len_field_len(header.encoded_len());
        }
        if let Some(timestamp_ms) = self.timestamp_ms {
            len += 1 + varint_len(timestamp_ms.cast_unsigned());
        }
        len
    }

    fn check(&self) -> Result<(), BatchError> {
        let limits = BatchLimits::DEFAULT;
        if let Some(size) = self
            .key
            .map(<[u8]>::len)
            .filter(|&size| size > limits.max_key)
        {
            return Err(BatchError::KeyTooLarge {
                size,
                limit: limits.max_key,
            });
        }
        if self.headers.len() > limits.max_headers as usize {
            return Err(BatchError::TooManyHeaders {
                limit: limits.max_headers,
            });
        }
        let valid =
            |header: &HeaderRef<'_>| (1..=limits.max_header_name).contains(&header.name.len());
        if !self.headers.iter().all(valid) {
            return Err(BatchError::HeaderInvalid {
                limit: limits.max_header_name,
            });
        }
        Ok(())
    }
}

impl HeaderRef<'_> {
    fn encoded_len(&self) -> usize {
        len_field_len(self.name.len()) + self.value.map_or(0, |value| len_field_len(value.len()))
    }
}

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
    pub fn push(&mut self, record: &RecordRef<'_>) -> Result<(), BatchError> {
        let limits = BatchLimits::DEFAULT;
        if self.record_count >= limits.max_records {
            return Err(BatchError::TooManyRecords {
                limit: limits.max_records,
            });
        }
        record.check()?;
        let len = record.encoded_len();
        if len > limits.max_record {
            return Err(BatchError::RecordTooLarge {
                size: len,
                limit: limits.max_record,
            });
        }
        let size = self.records.len() + len_field_len(len);
        if size > limits.max_uncompressed {
            return Err(BatchError::UncompressedTooLarge {
                size,
                limit: limits.max_uncompressed,
            });
        }
        self.records.reserve(len_field_len(len));
        self.put(record, len);
        self.record_count += 1;
        Ok(())
    }

    fn put(&mut self, record: &RecordRef<'_>, len: usize) {
        let out = &mut self.records;
        put_len_tag(out, batch_field::RECORDS, len);
        if let Some(key) = record.key {
            put_bytes_field(out, record_field::KEY, key);
        }
        if let Some(value) = record.value {
            put_bytes_field(out, record_field::VALUE, value);
        }
        for header in record.headers {
            put_len_tag(out, record_field::HEADERS, header.encoded_len());
            put_bytes_field(out, header_field::NAME, header.name.as_bytes());
            if let Some(value) = header.value {
                put_bytes_field(out, header_field::VALUE, value);
            }
        }
        if let Some(timestamp_ms) = record.timestamp_ms {
            put_varint_field(
                out,
                record_field::TIMESTAMP_MS,
                timestamp_ms.cast_unsigned(),
            );
        }
    }

    /// Size of the records so far, uncompressed: bytes.
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

    /// The batch of all records so far; the builder is empty then.
    pub fn finish(&mut self) -> EncodedBatch {
        let records = self.records.split();
        let record_count = std::mem::take(&mut self.record_count);
        let payload = match self.compression {
            Compression::None => records.freeze(),
            codec => compressed(codec, &records, record_count),
        };
        EncodedBatch {
            checksum: crc32fast::hash(&payload),
            payload,
            record_count,
        }
    }
}

fn compressed(codec: Compression, records: &[u8], record_count: u32) -> Bytes {
    let bytes = codec.compress(records);
    let mut out = BytesMut::with_capacity(bytes.len() + 32);
    put_varint_field(
        &mut out,
        batch_field::COMPRESSION,
        u64::from(codec.number()),
    );
    put_varint_field(
        &mut out,
        batch_field::UNCOMPRESSED_SIZE,
        records.len() as u64,
    );
    put_varint_field(&mut out, batch_field::RECORD_COUNT, u64::from(record_count));
    put_bytes_field(&mut out, batch_field::COMPRESSED, &bytes);
    out.freeze()
}
