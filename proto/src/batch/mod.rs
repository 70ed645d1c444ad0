//! The record-batch codec: the bytes of `statecast.v1.RecordBatch`, written and
//! read without an intermediate message. Broker and client share it.

mod builder;
mod check;
mod compression;
mod decode;
mod error;
mod limits;
mod split;
mod wire;

pub use builder::{BatchBuilder, EncodedBatch, HeaderRef, RecordRef};
pub use check::{BatchSummary, check};
pub use compression::{Compression, UnknownCompression};
pub use decode::{
    Header, HeaderView, HeaderViews, Record, RecordView, RecordViews, Records, decode, decode_ref,
    uncompressed,
};
pub use error::BatchError;
pub use limits::BatchLimits;
pub use split::{RawRecord, split};

/// Field numbers of `RecordBatch`.
mod batch_field {
    pub(super) const RECORDS: u32 = 1;
    pub(super) const COMPRESSION: u32 = 2;
    pub(super) const UNCOMPRESSED_SIZE: u32 = 3;
    pub(super) const RECORD_COUNT: u32 = 4;
    pub(super) const COMPRESSED: u32 = 5;
}

/// Field numbers of `Record`.
mod record_field {
    pub(super) const KEY: u32 = 1;
    pub(super) const VALUE: u32 = 2;
    pub(super) const HEADERS: u32 = 3;
    pub(super) const TIMESTAMP_MS: u32 = 4;
    pub(super) const OFFSET_GAP: u32 = 5;
}

/// Field numbers of `Header`.
mod header_field {
    pub(super) const NAME: u32 = 1;
    pub(super) const VALUE: u32 = 2;
}
