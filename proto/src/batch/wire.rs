//! The few parts of the protobuf encoding that a batch needs: varints, tags,
//! and a cursor that gives field after field without copying.

use bytes::BufMut;

use super::error::BatchError;

/// Wire types.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const LEN: u32 = 2;
const FIXED32: u32 = 5;

const TRUNCATED: BatchError = BatchError::Malformed("it ends in the middle of a field");

/// Bytes that `value` takes as a varint.
pub(super) const fn varint_len(value: u64) -> usize {
    // 7 bits a byte, at least one byte.
    ((64 - (value | 1).leading_zeros()) as usize).div_ceil(7)
}

pub(super) fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8((value & 0x7f) as u8);
}

/// Bytes of a field of length `len`, tag included; field numbers are below 16.
pub(super) const fn len_field_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

pub(super) fn put_len_tag(out: &mut impl BufMut, field: u32, len: usize) {
    put_varint(out, u64::from(field << 3 | LEN));
    put_varint(out, len as u64);
}

pub(super) fn put_bytes_field(out: &mut impl BufMut, field: u32, bytes: &[u8]) {
    put_len_tag(out, field, bytes.len());
    out.put_slice(bytes);
}

pub(super) fn put_varint_field(out: &mut impl BufMut, field: u32, value: u64) {
    put_varint(out, u64::from(field << 3 | VARINT));
    put_varint(out, value);
}

/// A field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// A fixed-size number: none of ours.
    Other,
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

    /// The next field's number and value; `None` at the end.
    #[inline]
    pub(super) fn field(&mut self) -> Result<Option<(u32, Value<'a>)>, BatchError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = u32::try_from(self.varint()?)
            .map_err(|_| BatchError::Malformed("a tag is over 32 bits"))?;
        let field = tag >> 3;
        if field == 0 {
            return Err(BatchError::Malformed("a field has number 0"));
        }
        let value = match tag & 7 {
            LEN => Value::Bytes(self.bytes()?),
            VARINT => Value::Varint(self.varint()?),
            FIXED64 => self.skip(8)?,
            FIXED32 => self.skip(4)?,
            _ => return Err(BatchError::Malformed("a field has an unknown wire type")),
        };
        Ok(Some((field, value)))
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, BatchError> {
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
        for (index, &byte) in self.rest.iter().take(10).enumerate() {
            if index == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        match self.rest.len() {
            0..10 => Err(TRUNCATED),
            _ => Err(BatchError::Malformed("a number is over 64 bits")),
        }
    }

    #[inline]
    fn bytes(&mut self) -> Result<&'a [u8], BatchError> {
        let len = usize::try_from(self.varint()?).map_err(|_| TRUNCATED)?;
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn skip(&mut self, len: usize) -> Result<Value<'a>, BatchError> {
        self.rest = self.rest.get(len..).ok_or(TRUNCATED)?;
        Ok(Value::Other)
    }
}
