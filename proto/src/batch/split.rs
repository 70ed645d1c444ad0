//! Takes a batch apart into its records' bytes, to put them together anew.

use super::batch_tag;
use super::error::BatchError;
use super::form::CompressedForm;
use super::view::RecordView;
use super::wire::Cursor;

/// A record as it lies in its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawRecord<'a> {
    /// The whole field, tag and length included: several of them, one after the
    /// other, are a batch.
    pub bytes: &'a [u8],
    /// Decides the partition.
    pub key: Option<&'a [u8]>,
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
            let key = RecordView::read(cursor.bytes()?)?.key;
            let bytes = &from[..from.len() - cursor.rest().len()];
            return Ok(Some(RawRecord { bytes, key }));
        }
        CompressedForm::read_absent(tag, cursor)?;
    }
}
