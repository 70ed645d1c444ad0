//! Why bytes are not a batch that can be taken.

use crate::reason::Reason;

/// Why bytes are not a batch that can be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// Not the encoding of a `RecordBatch`, or one that contradicts itself.
    #[error("malformed record batch: {0}")]
    Malformed(&'static str),
    /// No record in it.
    #[error("a record batch has at least one record")]
    Empty,
    /// More records than a batch may have.
    #[error("a record batch has at most {limit} records")]
    TooManyRecords {
        /// The bound.
        limit: u32,
    },
    /// More headers than a record may have.
    #[error("a record has at most {limit} headers")]
    TooManyHeaders {
        /// The bound.
        limit: u32,
    },
    /// The name of a header is empty, too long or not UTF-8.
    #[error("the name of a header is 1 to {limit} bytes of UTF-8")]
    HeaderInvalid {
        /// The bound: bytes.
        limit: usize,
    },
    /// A header with a name that only the broker gives one.
    #[error("record {record} of the batch has the header {name}, which only the broker writes")]
    HeaderReserved {
        /// Number of the record in the batch, from 0.
        record: u32,
        /// The name.
        name: &'static str,
    },
    /// A record without a key, or with an empty one, where it needs one.
    #[error("record {record} of the batch has no key: every record of a compacted topic has one")]
    KeyRequired {
        /// Its number in the batch, from 0.
        record: u32,
    },
    /// A key that is too long.
    #[error("a key of {size} bytes is over the limit of {limit}")]
    KeyTooLarge {
        /// Its size in bytes.
        size: usize,
        /// The bound: bytes.
        limit: usize,
    },
    /// A record that is too large.
    #[error("a record of {size} bytes is over the limit of {limit}")]
    RecordTooLarge {
        /// Its encoded size in bytes.
        size: usize,
        /// The bound: bytes.
        limit: usize,
    },
    /// The records of a compressed batch take too much once decompressed.
    #[error("a batch of {size} bytes uncompressed is over the limit of {limit}")]
    UncompressedTooLarge {
        /// What the batch says: bytes.
        size: usize,
        /// The bound: bytes.
        limit: usize,
    },
}

impl BatchError {
    /// The stable reason that goes over the wire.
    pub fn reason(&self) -> Reason {
        match self {
            BatchError::Malformed(_) => Reason::BatchMalformed,
            BatchError::Empty => Reason::BatchEmpty,
            BatchError::TooManyRecords { .. } => Reason::TooManyRecords,
            BatchError::TooManyHeaders { .. } => Reason::TooManyHeaders,
            BatchError::HeaderInvalid { .. } => Reason::HeaderInvalid,
            BatchError::HeaderReserved { .. } => Reason::HeaderReserved,
            BatchError::KeyRequired { .. } => Reason::KeyRequired,
            BatchError::KeyTooLarge { .. } => Reason::KeyTooLarge,
            BatchError::RecordTooLarge { .. } => Reason::RecordTooLarge,
            BatchError::UncompressedTooLarge { .. } => Reason::BatchTooLarge,
        }
    }

    /// The bound that was exceeded, if that is what is wrong.
    pub fn limit(&self) -> Option<u64> {
        match *self {
            BatchError::TooManyRecords { limit } | BatchError::TooManyHeaders { limit } => {
                Some(u64::from(limit))
            }
            BatchError::HeaderInvalid { limit }
            | BatchError::KeyTooLarge { limit, .. }
            | BatchError::RecordTooLarge { limit, .. }
            | BatchError::UncompressedTooLarge { limit, .. } => Some(limit as u64),
            BatchError::Malformed(_)
            | BatchError::Empty
            | BatchError::HeaderReserved { .. }
            | BatchError::KeyRequired { .. } => None,
        }
    }

    /// The number in the batch, from 0, of the record that it is about, where it is
    /// known.
    pub fn record(&self) -> Option<u32> {
        match *self {
            BatchError::KeyRequired { record } | BatchError::HeaderReserved { record, .. } => {
                Some(record)
            }
            _ => None,
        }
    }

    /// What exceeds the bound, where that was counted to its end.
    pub fn size(&self) -> Option<u64> {
        match *self {
            BatchError::KeyTooLarge { size, .. }
            | BatchError::RecordTooLarge { size, .. }
            | BatchError::UncompressedTooLarge { size, .. } => Some(size as u64),
            _ => None,
        }
    }
}
