//! What a key has: its value, and the version that tells whether it still is the
//! same.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use statecast_proto::batch::Header;
use statecast_proto::v1;

use crate::error::Error;

/// Which change of its key made a value: what to expect of the key when it is to
/// be changed only if it still is the same. Compare it only for equality.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version(u64);

impl Version {
    /// A version that [`Version::number`] was written down of.
    pub fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// As a number, to write it down or show it.
    pub fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseId(u64);

impl LeaseId {
    /// A lease whose [`LeaseId::number`] was written down.
    pub fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// As a number, to write it down or show it.
    pub fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for LeaseId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// A key and its value. Both are slices of the message that they came in, but in a
/// [`StateView`](crate::StateView): copy what is to live long.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The partition that it lies in.
    pub partition: u32,
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// Offset of the record that set it.
    pub offset: u64,
    /// What to expect of the key when it is to be changed.
    pub version: Version,
    /// When it was set, as its producer or else the broker says: milliseconds since
    /// the Unix epoch.
    pub timestamp_ms: i64,
    /// The headers, in the producer's order.
    pub headers: Vec<Header>,
    /// The lease that it ends with, if with one.
    pub lease: Option<LeaseId>,
}

impl Entry {
    pub(crate) fn from_wire(entry: v1::Entry) -> Self {
        Self {
            partition: entry.partition,
            key: entry.key,
            value: entry.value,
            offset: entry.offset,
            version: Version(entry.version),
            timestamp_ms: entry.timestamp_ms,
            headers: headers(entry.headers),
            lease: entry.lease_id.map(LeaseId),
        }
    }
}

pub(crate) fn headers(headers: Vec<v1::Header>) -> Vec<Header> {
    let header = |header: v1::Header| Header {
        name: header.name,
        value: header.value,
    };
    headers.into_iter().map(header).collect()
}

/// Where a change lies that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// The partition.
    pub partition: u32,
    /// Offset of the record.
    pub offset: u64,
    /// The key's version now; after a removal, that of its tombstone.
    pub version: Version,
}

impl Written {
    pub(super) fn from_wire(written: Option<v1::Written>) -> Result<Self, Error> {
        let written = written.ok_or_else(|| Error::protocol("a write without its place"))?;
        Ok(Self {
            partition: written.partition,
            offset: written.offset,
            version: Version(written.version),
        })
    }
}

/// A state of the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AsOf {
    /// As the records of the key's partition below this offset made it.
    Offset(u64),
    /// As the records before the first one that is younger than this made it:
    /// milliseconds since the Unix epoch.
    Time(i64),
}
