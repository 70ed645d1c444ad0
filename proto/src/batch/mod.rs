//! The record-batch codec: the bytes of `statecast.v1.RecordBatch`, written and
//! read without an intermediate message. Broker and client share it.
//!
//! ```
//! use statecast_proto::batch::{BatchBuilder, Compression, RecordRef, decode};
//!
//! let mut builder = BatchBuilder::new(Compression::None);
//! builder.push(&RecordRef::new(b"lamp", b"on"))?;
//! builder.push(&RecordRef::tombstone(b"lamp"))?;
//! let batch = builder.finish();
//!
//! for record in decode(batch.payload)? {
//!     assert_eq!(record?.key.as_deref(), Some(&b"lamp"[..]));
//! }
//! # Ok::<(), statecast_proto::batch::BatchError>(())
//! ```

mod builder;
mod check;
mod compression;
mod decode;
mod error;
mod form;
mod limits;
mod record;
mod split;
mod view;
mod wire;

pub use builder::{BatchBuilder, EncodedBatch, pack};
pub use check::{BatchSummary, check, check_keyed};
pub use compression::{Compression, UnknownCompression};
pub use decode::{
    RecordViews, Records, count, decode, decode_ref, stated_uncompressed_len, uncompressed,
    uncompressed_in,
};
pub use error::BatchError;
pub use limits::BatchLimits;
pub use record::{Header, HeaderRef, Record, RecordRef};
pub use split::{RawRecord, split};
pub use view::{HeaderViews, RecordView};

/// Tags of the fields of `RecordBatch`.
mod batch_tag {
    use super::wire::{len_tag, varint_tag};

    pub(super) const RECORDS: u32 = len_tag(1);
    pub(super) const COMPRESSION: u32 = varint_tag(2);
    pub(super) const UNCOMPRESSED_SIZE: u32 = varint_tag(3);
    pub(super) const RECORD_COUNT: u32 = varint_tag(4);
    pub(super) const COMPRESSED: u32 = len_tag(5);
    pub(super) const LAST: u32 = COMPRESSED;
}

/// Tags of the fields of `Record`.
mod record_tag {
    use super::wire::{len_tag, varint_tag};

    pub(super) const KEY: u32 = len_tag(1);
    pub(super) const VALUE: u32 = len_tag(2);
    pub(super) const HEADERS: u32 = len_tag(3);
    pub(super) const TIMESTAMP_MS: u32 = varint_tag(4);
    pub(super) const OFFSET_GAP: u32 = varint_tag(5);
    pub(super) const LAST: u32 = OFFSET_GAP;
}

/// Tags of the fields of `Header`.
mod header_tag {
    use super::wire::len_tag;

    pub(super) const NAME: u32 = len_tag(1);
    pub(super) const VALUE: u32 = len_tag(2);
    pub(super) const LAST: u32 = VALUE;
}
