//! Checks a batch in one pass, before it is taken.

use super::compression::Compression;
use super::error::BatchError;
use super::form::CompressedForm;
use super::limits::BatchLimits;
use super::record::HeaderRef;
use super::wire::Cursor;
use super::{batch_tag, record_tag};

/// What a check found out on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSummary {
    /// Records in the batch; at least 1.
    pub record_count: u32,
    /// The latest time that a record carries: milliseconds since the Unix epoch.
    /// Absent when none carries one.
    pub max_timestamp_ms: Option<i64>,
    /// Whether every record carries a time. Those that don't have the one at which the
    /// broker appends the batch.
    pub all_timed: bool,
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
    check_with(payload, limits, scratch, &mut AnyKeys)
}

/// As [`check`], and each record has to have a key that is not empty, which is given to
/// `each_key` in the order of the records, and no header with the name `reserved`. It may
/// have been called when a later record turns out to be wrong.
pub fn check_keyed(
    payload: &[u8],
    limits: &BatchLimits,
    scratch: &mut Vec<u8>,
    reserved: Option<&'static str>,
    each_key: impl FnMut(&[u8]),
) -> Result<BatchSummary, BatchError> {
    let mut keys = EachKey { reserved, each_key };
    check_with(payload, limits, scratch, &mut keys)
}

/// What is wanted of the keys of records, and of their headers; `record` is the number of
/// the record, from 0.
trait Keys {
    /// A record has this key.
    fn take(&mut self, record: u32, key: Option<&[u8]>) -> Result<(), BatchError>;

    /// A record has a header with this name.
    fn header(&mut self, record: u32, name: &str) -> Result<(), BatchError>;
}

/// Nothing: the compiler leaves it out.
struct AnyKeys;

impl Keys for AnyKeys {
    #[inline]
    fn take(&mut self, _record: u32, _key: Option<&[u8]>) -> Result<(), BatchError> {
        Ok(())
    }

    #[inline]
    fn header(&mut self, _record: u32, _name: &str) -> Result<(), BatchError> {
        Ok(())
    }
}

/// There is one.
struct EachKey<F> {
    reserved: Option<&'static str>,
    each_key: F,
}

impl<F: FnMut(&[u8])> Keys for EachKey<F> {
    #[inline]
    fn take(&mut self, record: u32, key: Option<&[u8]>) -> Result<(), BatchError> {
        match key {
            Some(key) if !key.is_empty() => {
                (self.each_key)(key);
                Ok(())
            }
            _ => Err(BatchError::KeyRequired { record }),
        }
    }

    #[inline]
    fn header(&mut self, record: u32, name: &str) -> Result<(), BatchError> {
        match self.reserved {
            Some(reserved) if reserved == name => Err(BatchError::HeaderReserved {
                record,
                name: reserved,
            }),
            _ => Ok(()),
        }
    }
}

fn check_with(
    payload: &[u8],
    limits: &BatchLimits,
    scratch: &mut Vec<u8>,
    keys: &mut impl Keys,
) -> Result<BatchSummary, BatchError> {
    let (records, form) = read(payload, limits, keys)?;
    if form.is_absent() {
        return records.summary(Compression::None, payload.len());
    }
    if records.count > 0 {
        return Err(BatchError::Malformed(
            "it has both records and compressed records",
        ));
    }
    form.decompress(limits.max_uncompressed, scratch)?;
    let (records, inner) = read(scratch, limits, keys)?;
    if !inner.is_absent() {
        return Err(BatchError::Malformed(
            "a compressed batch within a compressed batch",
        ));
    }
    if u64::from(records.count) != form.record_count {
        return Err(BatchError::Malformed(
            "record_count is not the number of records",
        ));
    }
    records.summary(form.compression, scratch.len())
}

/// Reads all fields of a batch.
fn read<'a>(
    payload: &'a [u8],
    limits: &BatchLimits,
    keys: &mut impl Keys,
) -> Result<(Tally, CompressedForm<'a>), BatchError> {
    let mut records = Tally::new();
    let mut form = CompressedForm::default();
    let mut cursor = Cursor::new(payload);
    while let Some(tag) = cursor.tag()? {
        if tag == batch_tag::RECORDS {
            records.add(cursor.bytes()?, limits, keys)?;
        } else {
            form.read(tag, &mut cursor)?;
        }
    }
    Ok((records, form))
}

/// What is counted over all records.
struct Tally {
    count: u32,
    /// Of those that carry one.
    max_timestamp_ms: Option<i64>,
    all_timed: bool,
}

impl Tally {
    fn new() -> Tally {
        Tally {
            count: 0,
            max_timestamp_ms: None,
            all_timed: true,
        }
    }

    #[inline]
    fn add(
        &mut self,
        record: &[u8],
        limits: &BatchLimits,
        keys: &mut impl Keys,
    ) -> Result<(), BatchError> {
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
        let number = self.count;
        let (key, timestamp_ms) = check_record(record, limits, |name| keys.header(number, name))?;
        match timestamp_ms {
            // Anything is later than none.
            Some(_) => self.max_timestamp_ms = self.max_timestamp_ms.max(timestamp_ms),
            None => self.all_timed = false,
        }
        keys.take(number, key)?;
        self.count += 1;
        Ok(())
    }

    fn summary(&self, compression: Compression, len: usize) -> Result<BatchSummary, BatchError> {
        if self.count == 0 {
            return Err(BatchError::Empty);
        }
        Ok(BatchSummary {
            record_count: self.count,
            max_timestamp_ms: self.max_timestamp_ms,
            all_timed: self.all_timed,
            compression,
            uncompressed_len: u32::try_from(len)
                .map_err(|_| BatchError::Malformed("it is over 4 GiB"))?,
        })
    }
}

/// Checks a record, and gives the names of its headers to `each_header`; returns its key
/// and its time.
#[inline]
fn check_record<'a>(
    record: &'a [u8],
    limits: &BatchLimits,
    mut each_header: impl FnMut(&str) -> Result<(), BatchError>,
) -> Result<(Option<&'a [u8]>, Option<i64>), BatchError> {
    let mut key = None;
    let mut timestamp_ms = None;
    let mut headers = 0;
    let mut cursor = Cursor::new(record);
    while let Some(tag) = cursor.tag()? {
        match tag {
            record_tag::KEY => {
                // Of a field that comes twice the last one counts.
                let bytes = cursor.bytes()?;
                let (size, limit) = (bytes.len(), limits.max_key);
                if size > limit {
                    return Err(BatchError::KeyTooLarge { size, limit });
                }
                key = Some(bytes);
            }
            record_tag::VALUE => drop(cursor.bytes()?),
            record_tag::HEADERS => {
                headers += 1;
                if headers > limits.max_headers {
                    return Err(BatchError::TooManyHeaders {
                        limit: limits.max_headers,
                    });
                }
                each_header(check_header(cursor.bytes()?, limits)?)?;
            }
            record_tag::TIMESTAMP_MS => timestamp_ms = Some(cursor.varint()?.cast_signed()),
            record_tag::OFFSET_GAP => {
                if cursor.varint()? != 0 {
                    return Err(BatchError::Malformed("a producer set offset_gap"));
                }
            }
            _ => cursor.skip(tag, record_tag::LAST)?,
        }
    }
    Ok((key, timestamp_ms))
}

/// Checks a header; returns its name.
fn check_header<'a>(header: &'a [u8], limits: &BatchLimits) -> Result<&'a str, BatchError> {
    let name = HeaderRef::read(header)?.name;
    if (1..=limits.max_header_name).contains(&name.len()) {
        Ok(name)
    } else {
        Err(BatchError::HeaderInvalid {
            limit: limits.max_header_name,
        })
    }
}
