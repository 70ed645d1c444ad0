//! The compressed form of a batch.

use super::batch_tag;
use super::compression::Compression;
use super::error::BatchError;
use super::wire::Cursor;

/// The fields of a batch beside its records.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CompressedForm<'a> {
    pub(super) compression: Compression,
    pub(super) record_count: u64,
    uncompressed_size: u64,
    compressed: &'a [u8],
}

impl<'a> CompressedForm<'a> {
    /// Reads the value of the field that `tag` begins.
    pub(super) fn read(&mut self, tag: u32, cursor: &mut Cursor<'a>) -> Result<(), BatchError> {
        match tag {
            batch_tag::COMPRESSION => {
                self.compression = Compression::from_number(cursor.varint()?)?;
            }
            batch_tag::UNCOMPRESSED_SIZE => self.uncompressed_size = cursor.varint()?,
            batch_tag::RECORD_COUNT => self.record_count = cursor.varint()?,
            batch_tag::COMPRESSED => self.compressed = cursor.bytes()?,
            _ => cursor.skip(tag, batch_tag::LAST)?,
        }
        Ok(())
    }

    /// Reads the value of the field that `tag` begins in a batch that isn't
    /// compressed: the field says nothing.
    #[cold]
    pub(super) fn read_absent(tag: u32, cursor: &mut Cursor<'a>) -> Result<(), BatchError> {
        let mut form = CompressedForm::default();
        form.read(tag, cursor)?;
        if form.is_absent() {
            Ok(())
        } else {
            Err(BatchError::Malformed(
                "it has both records and compressed records",
            ))
        }
    }

    /// Whether no field has another value than it has when it is absent.
    pub(super) fn is_absent(&self) -> bool {
        self.compression == Compression::None
            && self.record_count == 0
            && self.uncompressed_size == 0
            && self.compressed.is_empty()
    }

    /// What the records take, uncompressed, as it says: bytes.
    pub(super) fn uncompressed_len(&self) -> usize {
        usize::try_from(self.uncompressed_size).unwrap_or(usize::MAX)
    }

    /// Decompresses the records into `out`, which never grows beyond `limit`
    /// bytes, whatever the batch says.
    pub(super) fn decompress(&self, limit: usize, out: &mut Vec<u8>) -> Result<(), BatchError> {
        let size = self.uncompressed_len();
        if size > limit {
            return Err(BatchError::UncompressedTooLarge { size, limit });
        }
        self.compression.decompress(self.compressed, size, out)
    }
}
