//! Records: to be encoded, and decoded.

use bytes::Bytes;

use super::record_tag;
use super::wire::{len_field_len, varint_len};

/// A record to be encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecordRef<'a> {
    /// Decides the partition. Absent and empty are different.
    pub key: Option<&'a [u8]>,
    /// Absent, with a key, makes a tombstone. Absent and empty are different.
    pub value: Option<&'a [u8]>,
    /// In order; names may repeat.
    pub headers: &'a [HeaderRef<'a>],
    /// Milliseconds since the Unix epoch. Default: the time of the append.
    pub timestamp_ms: Option<i64>,
}

/// A header of a record, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeaderRef<'a> {
    /// 1 to 256 bytes.
    pub name: &'a str,
    /// Absent and empty are different.
    pub value: Option<&'a [u8]>,
}

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

impl<'a> RecordRef<'a> {
    /// A record with a key and a value.
    pub fn new(key: &'a [u8], value: &'a [u8]) -> RecordRef<'a> {
        RecordRef {
            key: Some(key),
            value: Some(value),
            ..RecordRef::default()
        }
    }

    /// A record without a key.
    pub fn of_value(value: &'a [u8]) -> RecordRef<'a> {
        RecordRef {
            value: Some(value),
            ..RecordRef::default()
        }
    }

    /// A record that says that the key is gone.
    pub fn tombstone(key: &'a [u8]) -> RecordRef<'a> {
        RecordRef {
            key: Some(key),
            ..RecordRef::default()
        }
    }

    /// Size of the encoded record without its own tag and length: bytes.
    #[inline]
    pub(super) fn encoded_len(&self) -> usize {
        let bytes_len = |bytes: Option<&[u8]>| bytes.map_or(0, |bytes| len_field_len(bytes.len()));
        let mut len = bytes_len(self.key) + bytes_len(self.value);
        for header in self.headers {
            len += len_field_len(header.encoded_len());
        }
        if let Some(timestamp_ms) = self.timestamp_ms {
            len += varint_len(u64::from(record_tag::TIMESTAMP_MS))
                + varint_len(timestamp_ms.cast_unsigned());
        }
        len
    }
}

impl HeaderRef<'_> {
    /// Size of the encoded header without its own tag and length: bytes.
    pub(super) fn encoded_len(&self) -> usize {
        len_field_len(self.name.len()) + self.value.map_or(0, |value| len_field_len(value.len()))
    }
}
