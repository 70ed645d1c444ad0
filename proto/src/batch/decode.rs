//! Reads the records of a batch, without copying them.

use bytes::Bytes;

use super::compression::Compression;
use super::error::BatchError;
use super::limits::BatchLimits;
use super::wire::{Cursor, Value};
use super::{batch_field, header_field, record_field};

/// A record of a batch; its bytes are slices of the batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Absent and empty are different.
    pub key: Option<Bytes>,
    /// Absent, with a key, is a tombstone.
    pub value: Option<Bytes>,
    /// In order; names may repeat.
    pub headers: Vec<Header>,
    /// Milliseconds since the Unix epoch, if the producer gave it.
    pub timestamp_ms: Option<i64>,
    /// Unused offsets between the record before and this one.
    pub offset_gap: u32,
}

/// A header of a record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Header {
    /// 1 to 256 bytes.
    pub name: String,
    /// Absent and empty are different.
    pub value: Option<Bytes>,
}

/// A record of a batch, borrowed from it.
#[derive(Debug, Clone, Copy, Default)]
pub struct RecordView<'a> {
    /// Absent and empty are different.
    pub key: Option<&'a [u8]>,
    /// Absent, with a key, is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Milliseconds since the Unix epoch, if the producer gave it.
    pub timestamp_ms: Option<i64>,
    /// Unused offsets between the record before and this one.
    pub offset_gap: u32,
    has_headers: bool,
    record: &'a [u8],
}

/// A header of a record, borrowed from its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderView<'a> {
    /// 1 to 256 bytes.
    pub name: &'a str,
    /// Absent and empty are different.
    pub value: Option<&'a [u8]>,
}

/// The uncompressed form of a batch: itself, if it is not compressed. What it
/// decompresses to is bounded by the documented limit.
pub fn uncompressed(payload: Bytes) -> Result<Bytes, BatchError> {
    let mut compression = Compression::None;
    let mut size = 0;
    let mut compressed: &[u8] = &[];
    let mut cursor = Cursor::new(&payload);
    while let Some((field, value)) = cursor.field()? {
        match (field, value) {
            // Records come first, and a batch has either them or the rest.
            (batch_field::RECORDS, _) => return Ok(payload),
            (batch_field::COMPRESSION, Value::Varint(number)) => {
                compression = Compression::from_number(number)?;
            }
            (batch_field::UNCOMPRESSED_SIZE, Value::Varint(bytes)) => size = bytes,
            (batch_field::COMPRESSED, Value::Bytes(bytes)) => compressed = bytes,
            _ => {}
        }
    }
    if compressed.is_empty() {
        return Ok(payload);
    }
    let limit = BatchLimits::DEFAULT.max_uncompressed;
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    if size > limit {
        return Err(BatchError::UncompressedTooLarge { size, limit });
    }
    let mut records = Vec::new();
    compression.decompress(compressed, size, &mut records)?;
    Ok(records.into())
}

/// The records of a batch, in order. Decompresses it first, if need be.
pub fn decode(payload: Bytes) -> Result<Records, BatchError> {
    Ok(Records {
        payload: uncompressed(payload)?,
        position: 0,
    })
}

/// The records of an uncompressed batch, in order, borrowed from it.
pub fn decode_ref(payload: &[u8]) -> RecordViews<'_> {
    RecordViews {
        cursor: Cursor::new(payload),
    }
}

/// The records of a batch.
#[derive(Debug, Clone)]
pub struct Records {
    payload: Bytes,
    position: usize,
}

impl Iterator for Records {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut views = decode_ref(&self.payload[self.position..]);
        let view = views.next();
        self.position = self.payload.len() - views.cursor.rest().len();
        match view? {
            Ok(view) => Some(view.to_record(&self.payload)),
            Err(error) => {
                self.position = self.payload.len();
                Some(Err(error))
            }
        }
    }
}

/// The records of a batch, borrowed from it.
#[derive(Debug, Clone)]
pub struct RecordViews<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Iterator for RecordViews<'a> {
    type Item = Result<RecordView<'a>, BatchError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.cursor.field() {
                Ok(None) => return None,
                Ok(Some((batch_field::RECORDS, Value::Bytes(record)))) => {
                    let view = RecordView::read(record);
                    if view.is_err() {
                        self.cursor = Cursor::new(&[]);
                    }
                    return Some(view);
                }
                Ok(Some(_)) => {}
                Err(error) => {
                    self.cursor = Cursor::new(&[]);
                    return Some(Err(error));
                }
            }
        }
    }
}

impl<'a> RecordView<'a> {
    #[inline]
    fn read(record: &'a [u8]) -> Result<RecordView<'a>, BatchError> {
        let mut view = RecordView {
            record,
            ..RecordView::default()
        };
        let mut cursor = Cursor::new(record);
        while let Some((field, value)) = cursor.field()? {
            match (field, value) {
                (record_field::KEY, Value::Bytes(key)) => view.key = Some(key),
                (record_field::VALUE, Value::Bytes(value)) => view.value = Some(value),
                (record_field::HEADERS, Value::Bytes(_)) => view.has_headers = true,
                (record_field::TIMESTAMP_MS, Value::Varint(time)) => {
                    view.timestamp_ms = Some(time.cast_signed());
                }
                (record_field::OFFSET_GAP, Value::Varint(gap)) => {
                    view.offset_gap = u32::try_from(gap)
                        .map_err(|_| BatchError::Malformed("an offset_gap is over 32 bits"))?;
                }
                (record_field::KEY..=record_field::OFFSET_GAP, _) => {
                    return Err(BatchError::Malformed(
                        "a field of a record has the wrong type",
                    ));
                }
                _ => {}
            }
        }
        Ok(view)
    }

    /// Its headers, in order.
    pub fn headers(&self) -> HeaderViews<'a> {
        let message = if self.has_headers { self.record } else { &[] };
        HeaderViews {
            cursor: Cursor::new(message),
        }
    }

    fn to_record(self, payload: &Bytes) -> Result<Record, BatchError> {
        let owned = |bytes: &[u8]| payload.slice_ref(bytes);
        let header = |header: Result<HeaderView<'_>, BatchError>| {
            header.map(|HeaderView { name, value }| Header {
                name: name.to_owned(),
                value: value.map(owned),
            })
        };
        // Collecting nothing doesn't allocate.
        let headers = self.headers().map(header).collect::<Result<_, _>>()?;
        Ok(Record {
            key: self.key.map(owned),
            value: self.value.map(owned),
            headers,
            timestamp_ms: self.timestamp_ms,
            offset_gap: self.offset_gap,
        })
    }
}

/// The headers of a record, borrowed from its batch.
#[derive(Debug, Clone)]
pub struct HeaderViews<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Iterator for HeaderViews<'a> {
    type Item = Result<HeaderView<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.cursor.field() {
                Ok(None) => return None,
                Ok(Some((record_field::HEADERS, Value::Bytes(header)))) => {
                    return Some(HeaderView::read(header));
                }
                Ok(Some(_)) => {}
                Err(error) => {
                    self.cursor = Cursor::new(&[]);
                    return Some(Err(error));
                }
            }
        }
    }
}

impl<'a> HeaderView<'a> {
    fn read(header: &'a [u8]) -> Result<HeaderView<'a>, BatchError> {
        let mut view = HeaderView {
            name: "",
            value: None,
        };
        let mut cursor = Cursor::new(header);
        while let Some((field, value)) = cursor.field()? {
            match (field, value) {
                (header_field::NAME, Value::Bytes(name)) => {
                    view.name = std::str::from_utf8(name)
                        .map_err(|_| BatchError::Malformed("a header's name is not UTF-8"))?;
                }
                (header_field::VALUE, Value::Bytes(value)) => view.value = Some(value),
                _ => {}
            }
        }
        Ok(view)
    }
}
