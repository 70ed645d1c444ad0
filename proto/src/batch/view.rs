//! A record as it lies in its batch, read without copying.

use bytes::{Bytes, BytesMut};

use super::error::BatchError;
use super::limits::BatchLimits;
use super::record::{Header, HeaderRef, Record};
use super::wire::{Cursor, Prefix};
use super::{header_tag, record_tag};

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
    header_count: usize,
    /// The encoded record, whose headers were found to be well-formed.
    encoded: &'a [u8],
}

impl<'a> RecordView<'a> {
    #[inline]
    pub(super) fn read(encoded: &'a [u8]) -> Result<RecordView<'a>, BatchError> {
        let mut view = RecordView {
            encoded,
            ..RecordView::default()
        };
        let mut cursor = Cursor::new(encoded);
        while let Some(tag) = cursor.tag()? {
            match tag {
                record_tag::KEY => view.key = Some(cursor.bytes()?),
                record_tag::VALUE => view.value = Some(cursor.bytes()?),
                record_tag::HEADERS => {
                    HeaderRef::read(cursor.bytes()?)?;
                    view.header_count += 1;
                }
                record_tag::TIMESTAMP_MS => {
                    view.timestamp_ms = Some(cursor.varint()?.cast_signed());
                }
                record_tag::OFFSET_GAP => {
                    view.offset_gap = u32::try_from(cursor.varint()?)
                        .map_err(|_| BatchError::Malformed("an offset_gap is over 32 bits"))?;
                }
                _ => cursor.skip(tag, record_tag::LAST)?,
            }
        }
        Ok(view)
    }

    /// Its headers, in order.
    pub fn headers(&self) -> HeaderViews<'a> {
        HeaderViews {
            cursor: Cursor::new(self.encoded),
            remaining: self.header_count,
        }
    }

    /// A record out of its fields, as [`RecordView::put_keyless`] and encoders of
    /// protobuf write them: without the tag and length that go before it in a batch.
    pub fn decode(fields: &'a [u8]) -> Result<RecordView<'a>, BatchError> {
        RecordView::read(fields)
    }

    /// Appends the fields of the record but its key and its gap. If it has no time it
    /// gets `timestamp_ms`.
    pub fn put_keyless(&self, timestamp_ms: i64, out: &mut BytesMut) {
        const READ: &str = "the record was read before";
        let mut cursor = Cursor::new(self.encoded);
        loop {
            let field = cursor.rest();
            let Some(tag) = cursor.tag().expect(READ) else {
                break;
            };
            match tag {
                record_tag::KEY | record_tag::VALUE | record_tag::HEADERS => {
                    cursor.bytes().expect(READ);
                }
                record_tag::TIMESTAMP_MS | record_tag::OFFSET_GAP => {
                    cursor.varint().expect(READ);
                }
                _ => cursor.skip(tag, record_tag::LAST).expect(READ),
            }
            if tag != record_tag::KEY && tag != record_tag::OFFSET_GAP {
                out.extend_from_slice(&field[..field.len() - cursor.rest().len()]);
            }
        }
        if self.timestamp_ms.is_none() {
            let mut prefix = Prefix::default();
            prefix.varint_field(record_tag::TIMESTAMP_MS, timestamp_ms.cast_unsigned());
            prefix.put(out);
        }
    }

    /// The same record as slices of `payload`, in which this one lies.
    #[inline]
    pub(super) fn to_record(self, payload: &Bytes) -> Record {
        let slice = |bytes: Option<&[u8]>| bytes.map(|bytes| payload.slice_ref(bytes));
        let headers = self.headers().map(|header| Header {
            name: header.name.to_owned(),
            value: slice(header.value),
        });
        Record {
            key: slice(self.key),
            value: slice(self.value),
            // Collecting nothing doesn't allocate.
            headers: headers.collect(),
            timestamp_ms: self.timestamp_ms,
            offset_gap: self.offset_gap,
        }
    }
}

/// The headers of a record, borrowed from its batch.
#[derive(Debug, Clone)]
pub struct HeaderViews<'a> {
    cursor: Cursor<'a>,
    remaining: usize,
}

impl<'a> HeaderViews<'a> {
    /// The next header of the record.
    fn advance(&mut self) -> Result<HeaderRef<'a>, BatchError> {
        while let Some(tag) = self.cursor.tag()? {
            match tag {
                record_tag::HEADERS => return HeaderRef::read(self.cursor.bytes()?),
                record_tag::KEY | record_tag::VALUE => drop(self.cursor.bytes()?),
                record_tag::TIMESTAMP_MS | record_tag::OFFSET_GAP => drop(self.cursor.varint()?),
                _ => self.cursor.skip(tag, record_tag::LAST)?,
            }
        }
        Err(BatchError::Malformed("a header is missing"))
    }
}

impl<'a> Iterator for HeaderViews<'a> {
    type Item = HeaderRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<HeaderRef<'a>> {
        self.remaining = self.remaining.checked_sub(1)?;
        Some(self.advance().expect("the record's view read its headers"))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining, Some(self.remaining))
    }
}

impl ExactSizeIterator for HeaderViews<'_> {}

impl<'a> HeaderRef<'a> {
    pub(super) fn read(encoded: &'a [u8]) -> Result<HeaderRef<'a>, BatchError> {
        let mut header = HeaderRef::default();
        let mut cursor = Cursor::new(encoded);
        while let Some(tag) = cursor.tag()? {
            match tag {
                header_tag::NAME => {
                    let limit = BatchLimits::DEFAULT.max_header_name;
                    header.name = std::str::from_utf8(cursor.bytes()?)
                        .map_err(|_| BatchError::HeaderInvalid { limit })?;
                }
                header_tag::VALUE => header.value = Some(cursor.bytes()?),
                _ => cursor.skip(tag, header_tag::LAST)?,
            }
        }
        Ok(header)
    }
}
