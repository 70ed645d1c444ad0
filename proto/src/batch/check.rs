//! Checks a batch in one pass, before it is taken.

use super::compression::Compression;
use super::error::BatchError;
use super::limits::BatchLimits;
use super::wire::{Cursor, Value};
use super::{batch_field, header_field, record_field};

/// What a check found out on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSummary {
    /// Records in the batch; at least 1.
    pub record_count: u32,
    /// The latest time that a record carries: milliseconds since the Unix epoch.
    /// Absent when a record carries none.
    pub max_timestamp_ms: Option<i64>,
    /// Of the batch.
    pub compression: Compression,
    /// Size of the records, decompressed: bytes.
    pub uncompressed_len: u32,
}

/// Checks that `payload` is a well-formed `RecordBatch` within `limits`, as a
/// producer may send it. Doesn't allocate, unless the batch is compressed: then
/// its records are decompressed into `scratch`.
pub fn check(
    payload: &[u8],
    limits: &BatchLimits,
    scratch: &mut Vec<u8>,
) -> Result<BatchSummary, BatchError> {
    let outer = Outer::read(payload, limits)?;
    let Some(compressed) = outer.compressed else {
        return outer.records.summary(Compression::None, payload.len());
    };
    let size = outer.uncompressed_size;
    if size > limits.max_uncompressed as u64 {
        return Err(BatchError::UncompressedTooLarge {
            size: usize::try_from(size).unwrap_or(usize::MAX),
            limit: limits.max_uncompressed,
        });
    }
    let size = usize::try_from(size).expect("it is within the limit");
    outer.compression.decompress(compressed, size, scratch)?;
    let inner = Outer::read(scratch, limits)?;
    if inner.compressed.is_some() || inner.has_compressed_fields {
        return Err(BatchError::Malformed(
            "a compressed batch within a compressed batch",
        ));
    }
    if u64::from(inner.records.count) != outer.record_count {
        return Err(BatchError::Malformed(
            "record_count is not the number of records",
        ));
    }
    inner.records.summary(outer.compression, size)
}

/// The fields of a batch.
struct Outer<'a> {
    records: Tally,
    compression: Compression,
    uncompressed_size: u64,
    record_count: u64,
    compressed: Option<&'a [u8]>,
    has_compressed_fields: bool,
}

impl<'a> Outer<'a> {
    fn read(payload: &'a [u8], limits: &BatchLimits) -> Result<Outer<'a>, BatchError> {
        let mut outer = Outer {
            records: Tally {
                count: 0,
                max_timestamp_ms: i64::MIN,
                all_timed: true,
            },
            compression: Compression::None,
            uncompressed_size: 0,
            record_count: 0,
            compressed: None,
            has_compressed_fields: false,
        };
        let mut cursor = Cursor::new(payload);
        while let Some((field, value)) = cursor.field()? {
            match (field, value) {
                (batch_field::RECORDS, Value::Bytes(record)) => {
                    outer.records.add(record, limits)?;
                }
                (batch_field::COMPRESSION, Value::Varint(number)) => {
                    outer.compression = Compression::from_number(number)?;
                    outer.has_compressed_fields |= number != 0;
                }
                (batch_field::UNCOMPRESSED_SIZE, Value::Varint(size)) => {
                    outer.uncompressed_size = size;
                    outer.has_compressed_fields |= size != 0;
                }
                (batch_field::RECORD_COUNT, Value::Varint(count)) => {
                    outer.record_count = count;
                    outer.has_compressed_fields |= count != 0;
                }
                (batch_field::COMPRESSED, Value::Bytes(bytes)) => {
                    outer.compressed = Some(bytes).filter(|bytes| !bytes.is_empty());
                }
                (batch_field::RECORDS..=batch_field::COMPRESSED, _) => {
                    return Err(BatchError::Malformed(
                        "a field of the batch has the wrong type",
                    ));
                }
                _ => {}
            }
        }
        let is_compressed = outer.compressed.is_some();
        if is_compressed && outer.records.count > 0 {
            return Err(BatchError::Malformed(
                "it has both records and compressed records",
            ));
        }
        if !is_compressed && outer.has_compressed_fields {
            return Err(BatchError::Malformed(
                "it says that it is compressed, and is not",
            ));
        }
        Ok(outer)
    }
}

/// What is counted over all records.
struct Tally {
    count: u32,
    max_timestamp_ms: i64,
    all_timed: bool,
}

impl Tally {
    #[inline]
    fn add(&mut self, record: &[u8], limits: &BatchLimits) -> Result<(), BatchError> {
        if self.count >= limits.max_records {
            return Err(BatchError::TooManyRecords {
                limit: limits.max_records,
            });
        }
        if record.len() > limits.max_record {
            return Err(BatchError::RecordTooLarge {
                size: record.len(),
                limit: limits.max_record,
            });
        }
        self.count += 1;
        match check_record(record, limits)? {
            Some(timestamp_ms) => self.max_timestamp_ms = self.max_timestamp_ms.max(timestamp_ms),
            None => self.all_timed = false,
        }
        Ok(())
    }

    fn summary(&self, compression: Compression, len: usize) -> Result<BatchSummary, BatchError> {
        if self.count == 0 {
            return Err(BatchError::Empty);
        }
        Ok(BatchSummary {
            record_count: self.count,
            max_timestamp_ms: self.all_timed.then_some(self.max_timestamp_ms),
            compression,
            uncompressed_len: u32::try_from(len)
                .map_err(|_| BatchError::Malformed("it is over 4 GiB"))?,
        })
    }
}

/// Checks a record; returns its time.
#[inline]
fn check_record(record: &[u8], limits: &BatchLimits) -> Result<Option<i64>, BatchError> {
    let mut timestamp_ms = None;
    let mut headers = 0;
    let mut cursor = Cursor::new(record);
    while let Some((field, value)) = cursor.field()? {
        match (field, value) {
            (record_field::KEY, Value::Bytes(key)) if key.len() > limits.max_key => {
                return Err(BatchError::KeyTooLarge {
                    size: key.len(),
                    limit: limits.max_key,
                });
            }
            (record_field::KEY | record_field::VALUE, Value::Bytes(_))
            | (record_field::OFFSET_GAP, Value::Varint(0)) => {}
            (record_field::HEADERS, Value::Bytes(header)) => {
                headers += 1;
                if headers > limits.max_headers {
                    return Err(BatchError::TooManyHeaders {
                        limit: limits.max_headers,
                    });
                }
                check_header(header, limits)?;
            }
            (record_field::TIMESTAMP_MS, Value::Varint(time)) => {
                timestamp_ms = Some(time.cast_signed());
            }
            (record_field::OFFSET_GAP, Value::Varint(_)) => {
                return Err(BatchError::Malformed("a producer set offset_gap"));
            }
            (record_field::KEY..=record_field::OFFSET_GAP, _) => {
                return Err(BatchError::Malformed(
                    "a field of a record has the wrong type",
                ));
            }
            _ => {}
        }
    }
    Ok(timestamp_ms)
}

fn check_header(header: &[u8], limits: &BatchLimits) -> Result<(), BatchError> {
    let invalid = BatchError::HeaderInvalid {
        limit: limits.max_header_name,
    };
    let mut name: &[u8] = &[];
    let mut cursor = Cursor::new(header);
    while let Some((field, value)) = cursor.field()? {
        match (field, value) {
            (header_field::NAME, Value::Bytes(bytes)) => name = bytes,
            (header_field::VALUE, Value::Bytes(_)) => {}
            (header_field::NAME | header_field::VALUE, _) => {
                return Err(BatchError::Malformed(
                    "a field of a header has the wrong type",
                ));
            }
            _ => {}
        }
    }
    let fits = (1..=limits.max_header_name).contains(&name.len());
    if fits && std::str::from_utf8(name).is_ok() {
        Ok(())
    } else {
        Err(invalid)
    }
}
