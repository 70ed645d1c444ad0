//! The few parts of the protobuf encoding that a batch needs: varints, tags,
//! and a cursor that reads field after field without copying.

use bytes::{BufMut, BytesMut};

use super::error::BatchError;

/// Wire types. The groups of old, 3 and 4, have no place in proto3.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const LEN: u32 = 2;
const FIXED32: u32 = 5;

/// Bytes of the longest varint.
const MAX_VARINT: usize = 10;

const TRUNCATED: BatchError = BatchError::Malformed("it ends in the middle of a field");

/// The tag of a field that holds bytes, a string or a message.
pub(super) const fn len_tag(field: u32) -> u32 {
    field << 3 | LEN
}

/// The tag of a field that holds a number.
pub(super) const fn varint_tag(field: u32) -> u32 {
    field << 3 | VARINT
}

/// Bytes that `value` takes as a varint.
#[inline]
pub(super) const fn varint_len(value: u64) -> usize {
    // 7 bits a byte, at least one byte.
    ((64 - (value | 1).leading_zeros()) as usize).div_ceil(7)
}

/// Bytes of a field of length `len`, tag included; field numbers are below 16.
#[inline]
pub(super) const fn len_field_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

/// Tags, lengths and numbers that stand next to each other. They are put
/// together in a register and written with one store.
#[derive(Debug, Default)]
pub(super) struct Prefix {
    /// The bytes, the first in the lowest bits.
    bytes: u128,
    /// How many they are.
    len: usize,
}

impl Prefix {
    /// Most bytes that it holds: tag and length of a record (5), and of a header
    /// (5) and its name (3), or tag and value of a time (11). A buffer needs room
    /// for so many, whatever is written.
    pub(super) const MAX_LEN: usize = size_of::<u128>();

    /// Adds the tag and length of a field.
    #[inline]
    pub(super) fn len_field(&mut self, tag: u32, len: usize) {
        self.varint_field(tag, len as u64);
    }

    /// Adds a field that is a number.
    #[inline]
    pub(super) fn varint_field(&mut self, tag: u32, value: u64) {
        self.varint(u64::from(tag));
        self.varint(value);
    }

    #[inline]
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value & 0x7f | 0x80);
            value >>= 7;
        }
        self.push(value);
    }

    #[inline]
    fn push(&mut self, byte: u64) {
        debug_assert!(self.len < Prefix::MAX_LEN, "the prefix is full");
        self.bytes |= u128::from(byte) << (8 * self.len);
        self.len += 1;
    }

    /// Writes what was added, and begins anew.
    #[inline]
    pub(super) fn put(&mut self, out: &mut BytesMut) {
        let end = out.len() + self.len;
        out.put_slice(&self.bytes.to_le_bytes());
        out.truncate(end);
        *self = Prefix::default();
    }

    /// Writes what was added and a field of bytes behind it, and begins anew.
    #[inline]
    pub(super) fn put_with(&mut self, out: &mut BytesMut, tag: u32, bytes: &[u8]) {
        self.len_field(tag, bytes.len());
        self.put(out);
        out.put_slice(bytes);
    }
}

/// Reads the fields of a message one by one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(message: &'a [u8]) -> Cursor<'a> {
        Cursor { rest: message }
    }

    /// What has not been read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next field's tag, `None` at the end. Its value is to be read next.
    #[inline]
    pub(super) fn tag(&mut self) -> Result<Option<u32>, BatchError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        match u32::try_from(self.varint()?) {
            Ok(tag) => Ok(Some(tag)),
            Err(_) => Err(BatchError::Malformed("a tag is over 32 bits")),
        }
    }

    /// The value of a field whose tag says that it is a number.
    #[inline]
    pub(super) fn varint(&mut self) -> Result<u64, BatchError> {
        match self.rest.split_first() {
            // Nearly all of ours are small.
            Some((&byte, rest)) if byte < 0x80 => {
                self.rest = rest;
                Ok(u64::from(byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, BatchError> {
        let mut value = 0;
        for (index, &byte) in self.rest.iter().take(MAX_VARINT).enumerate() {
            if index == MAX_VARINT - 1 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        if self.rest.len() < MAX_VARINT {
            Err(TRUNCATED)
        } else {
            Err(BatchError::Malformed("a number is over 64 bits"))
        }
    }

    /// The value of a field whose tag says that it has a length.
    #[inline]
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], BatchError> {
        let len = usize::try_from(self.varint()?).map_err(|_| TRUNCATED)?;
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// Skips the value of a field that a later version added: one whose number
    /// is above that of `last`, the last field known to this one.
    pub(super) fn skip(&mut self, tag: u32, last: u32) -> Result<(), BatchError> {
        let field = tag >> 3;
        if field == 0 {
            return Err(BatchError::Malformed("a field has number 0"));
        }
        if field <= last >> 3 {
            return Err(BatchError::Malformed("a field has the wrong type"));
        }
        match tag & 7 {
            VARINT => self.varint().map(drop),
            LEN => self.bytes().map(drop),
            FIXED64 => self.skip_bytes(8),
            FIXED32 => self.skip_bytes(4),
            _ => Err(BatchError::Malformed("a field has an unknown wire type")),
        }
    }

    fn skip_bytes(&mut self, len: usize) -> Result<(), BatchError> {
        self.rest = self.rest.get(len..).ok_or(TRUNCATED)?;
        Ok(())
    }
}
