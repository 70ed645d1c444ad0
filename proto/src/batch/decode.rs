//! Reads the records of a batch, without copying them.

use bytes::Bytes;

use super::batch_tag;
use super::error::BatchError;
use super::form::CompressedForm;
use super::limits::BatchLimits;
use super::record::Record;
use super::view::RecordView;
use super::wire::Cursor;

/// The records of a batch, in order. Decompresses it first, if need be.
pub fn decode(payload: Bytes) -> Result<Records, BatchError> {
    Ok(Records {
        payload: uncompressed(payload)?,
        position: 0,
    })
}

/// The records of an uncompressed batch, in order, borrowed from it: faster
/// than [`decode`], which counts each key and value as a user of the batch.
pub fn decode_ref(payload: &[u8]) -> RecordViews<'_> {
    RecordViews {
        cursor: Cursor::new(payload),
    }
}

/// The uncompressed form of a batch: itself, if it is not compressed. What it
/// decompresses to is bounded by the documented limit.
pub fn uncompressed(payload: Bytes) -> Result<Bytes, BatchError> {
    let mut records = Vec::new();
    if decompress(&payload, &mut records)? {
        return Ok(records.into());
    }
    Ok(payload)
}

/// As [`uncompressed`], with room for the records that is used again and again.
pub fn uncompressed_in<'a>(
    payload: &'a [u8],
    room: &'a mut Vec<u8>,
) -> Result<&'a [u8], BatchError> {
    match decompress(payload, room)? {
        true => Ok(room),
        false => Ok(payload),
    }
}

/// Decompresses a batch into `out`; false when it is not compressed.
fn decompress(payload: &[u8], out: &mut Vec<u8>) -> Result<bool, BatchError> {
    let mut form = CompressedForm::default();
    let mut cursor = Cursor::new(payload);
    while let Some(tag) = cursor.tag()? {
        if tag == batch_tag::RECORDS {
            // It is not compressed, or it contradicts itself, which reading the
            // records finds out.
            return Ok(false);
        }
        form.read(tag, &mut cursor)?;
    }
    if form.is_absent() {
        return Ok(false);
    }
    form.decompress(BatchLimits::DEFAULT.max_uncompressed, out)?;
    Ok(true)
}

/// How many records a batch has, or says that it has if it is compressed. Looks at
/// none of them.
pub fn count(payload: &[u8]) -> Result<u64, BatchError> {
    let mut records = 0;
    let mut form = CompressedForm::default();
    let mut cursor = Cursor::new(payload);
    while let Some(tag) = cursor.tag()? {
        if tag == batch_tag::RECORDS {
            cursor.bytes()?;
            records += 1;
        } else {
            form.read(tag, &mut cursor)?;
        }
    }
    Ok(if form.is_absent() {
        records
    } else {
        form.record_count
    })
}

/// What a batch says that its records take, uncompressed: bytes; 0 when it isn't
/// compressed. Looks at no records, so it is fast whatever the batch holds, and
/// only a check finds out whether it is true.
pub fn stated_uncompressed_len(payload: &[u8]) -> usize {
    let mut form = CompressedForm::default();
    let mut cursor = Cursor::new(payload);
    while let Ok(Some(tag)) = cursor.tag() {
        if tag == batch_tag::RECORDS || form.read(tag, &mut cursor).is_err() {
            return 0;
        }
    }
    form.uncompressed_len()
}

/// The records of a batch. Ends after an error.
#[derive(Debug, Clone)]
pub struct Records {
    payload: Bytes,
    /// Where the next record begins.
    position: usize,
}

impl Iterator for Records {
    type Item = Result<Record, BatchError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let mut views = decode_ref(&self.payload[self.position..]);
        let view = views.next();
        self.position = self.payload.len() - views.cursor.rest().len();
        Some(view?.map(|view| view.to_record(&self.payload)))
    }
}

/// The records of a batch, borrowed from it. Ends after an error.
#[derive(Debug, Clone)]
pub struct RecordViews<'a> {
    cursor: Cursor<'a>,
}

impl<'a> RecordViews<'a> {
    /// How much of the batch is still to be read: bytes.
    #[must_use]
    pub fn rest_len(&self) -> usize {
        self.cursor.rest().len()
    }

    #[inline]
    fn advance(&mut self) -> Result<Option<RecordView<'a>>, BatchError> {
        while let Some(tag) = self.cursor.tag()? {
            if tag == batch_tag::RECORDS {
                return RecordView::read(self.cursor.bytes()?).map(Some);
            }
            CompressedForm::read_absent(tag, &mut self.cursor)?;
        }
        Ok(None)
    }
}

impl<'a> Iterator for RecordViews<'a> {
    type Item = Result<RecordView<'a>, BatchError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match self.advance() {
            Ok(None) => None,
            Ok(Some(view)) => Some(Ok(view)),
            Err(error) => {
                self.cursor = Cursor::new(&[]);
                Some(Err(error))
            }
        }
    }
}
