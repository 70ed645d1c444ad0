//! Takes a batch apart into its records' bytes, to put them together anew.

use bytes::{BufMut, BytesMut};

use super::error::BatchError;
use super::form::CompressedForm;
use super::view::RecordView;
use super::wire::{Cursor, Prefix, varint_len};
use super::{batch_tag, record_tag};

/// A record as it lies in its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawRecord<'a> {
    /// The whole field, tag and length included: several of them, one after the
    /// other, are a batch.
    pub bytes: &'a [u8],
    /// Decides the partition.
    pub key: Option<&'a [u8]>,
    /// It has a key and no value: it says that the key is gone.
    pub is_tombstone: bool,
    /// Milliseconds since the Unix epoch, if the producer gave it.
    pub timestamp_ms: Option<i64>,
    /// Unused offsets between the record before and this one.
    pub offset_gap: u32,
}

/// The records of an uncompressed batch, in order. Ends after an error.
pub fn split(payload: &[u8]) -> impl Iterator<Item = Result<RawRecord<'_>, BatchError>> {
    let mut cursor = Cursor::new(payload);
    std::iter::from_fn(move || {
        let record = next_record(&mut cursor);
        if record.is_err() {
            cursor = Cursor::new(&[]);
        }
        record.transpose()
    })
}

fn next_record<'a>(cursor: &mut Cursor<'a>) -> Result<Option<RawRecord<'a>>, BatchError> {
    loop {
        let from = cursor.rest();
        let Some(tag) = cursor.tag()? else {
            return Ok(None);
        };
        if tag == batch_tag::RECORDS {
            let view = RecordView::read(cursor.bytes()?)?;
            let bytes = &from[..from.len() - cursor.rest().len()];
            return Ok(Some(RawRecord {
                bytes,
                key: view.key,
                is_tombstone: view.key.is_some() && view.value.is_none(),
                timestamp_ms: view.timestamp_ms,
                offset_gap: view.offset_gap,
            }));
        }
        CompressedForm::read_absent(tag, cursor)?;
    }
}

impl RawRecord<'_> {
    /// Appends the record to an uncompressed batch in which `offset_gap` offsets
    /// lie unused before it. If it has no time it gets `timestamp_ms`. All else
    /// stays as it is, fields of later versions included.
    pub fn put_moved(&self, offset_gap: u32, timestamp_ms: Option<i64>, out: &mut BytesMut) {
        let new_time = timestamp_ms.filter(|_| self.timestamp_ms.is_none());
        if offset_gap == self.offset_gap && new_time.is_none() {
            out.put_slice(self.bytes);
            return;
        }
        let mut kept_len = 0;
        self.without_gap(|kept| kept_len += kept.len());
        let number_len = |number: u64| 1 + varint_len(number);
        let time_len = new_time.map_or(0, |time| number_len(time.cast_unsigned()));
        let gap_len = match offset_gap {
            0 => 0,
            gap => number_len(gap.into()),
        };
        // `Prefix` needs so much room, whatever it writes.
        out.reserve(self.bytes.len() + time_len + gap_len + 3 * Prefix::MAX_LEN);
        let mut prefix = Prefix::default();
        prefix.len_field(batch_tag::RECORDS, kept_len + time_len + gap_len);
        prefix.put(out);
        self.without_gap(|kept| out.put_slice(kept));
        if let Some(time) = new_time {
            prefix.varint_field(record_tag::TIMESTAMP_MS, time.cast_unsigned());
            prefix.put(out);
        }
        if offset_gap > 0 {
            prefix.varint_field(record_tag::OFFSET_GAP, offset_gap.into());
            prefix.put(out);
        }
    }

    /// Gives all fields of the record but its gap to `each`, piece by piece.
    fn without_gap(&self, mut each: impl FnMut(&[u8])) {
        const READ: &str = "the record was read before";
        let mut batch = Cursor::new(self.bytes);
        batch.tag().expect(READ);
        let mut cursor = Cursor::new(batch.bytes().expect(READ));
        let mut piece = cursor.rest();
        loop {
            let field = cursor.rest();
            let Some(tag) = cursor.tag().expect(READ) else {
                each(piece);
                return;
            };
            match tag {
                record_tag::KEY | record_tag::VALUE | record_tag::HEADERS => {
                    cursor.bytes().expect(READ);
                }
                record_tag::TIMESTAMP_MS => drop(cursor.varint().expect(READ)),
                record_tag::OFFSET_GAP => {
                    each(&piece[..piece.len() - field.len()]);
                    cursor.varint().expect(READ);
                    piece = cursor.rest();
                }
                _ => cursor.skip(tag, record_tag::LAST).expect(READ),
            }
        }
    }
}
