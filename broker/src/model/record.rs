//! Records of the internal partitions: what the broker remembers by key.

use bytes::Bytes;

use super::Offset;

/// A record that is to be appended to an internal partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    /// What it is about.
    pub key: Bytes,
    /// What is known of it from now on; `None` for a tombstone.
    pub value: Option<Bytes>,
}

/// A record of an internal partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Where it lies.
    pub offset: Offset,
    /// What it is about.
    pub key: Bytes,
    /// What is known of it from then on; `None` for a tombstone.
    pub value: Option<Bytes>,
}
