//! Takes a batch apart into its records' bytes, to put them together anew.

use super::error::BatchError;
use super::wire::{Cursor, Value};
use super::{batch_field, record_field};

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
        loop {
            let before = cursor.rest();
            let record = match cursor.field() {
                Ok(None) => return None,
                Ok(Some((batch_field::RECORDS, Value::Bytes(record)))) => record,
                Ok(Some(_)) => continue,
                Err(error) => {
                    cursor = Cursor::new(&[]);
                    return Some(Err(error));
                }
            };
            let bytes = &before[..before.len() - cursor.rest().len()];
            let raw = key_of(record).map(|key| RawRecord { bytes, key });
            if raw.is_err() {
                cursor = Cursor::new(&[]);
            }
            return Some(raw);
        }
    })
}

fn key_of(record: &[u8]) -> Result<Option<&[u8]>, BatchError> {
    let mut key = None;
    let mut cursor = Cursor::new(record);
    while let Some((field, value)) = cursor.field()? {
        if let (record_field::KEY, Value::Bytes(bytes)) = (field, value) {
            key = Some(bytes);
        }
    }
    Ok(key)
}
