//! Segments: the files that a partition's log consists of once it has left the
//! journal. `partitions/<id>/<name>.log` holds a header and the batches, back to
//! back; `.index` beside it makes them findable. The name is the base offset, and
//! more when compaction made the segment in the place of others.
//!
//! How much of the active segment counts is told by the checkpoint, not by the
//! file: what lies behind was written by an archiver pass that didn't finish. A
//! sealed segment ends with a footer.

mod cache;
mod format;
mod index;
mod name;
mod reader;
mod room;
mod scan;
mod state;
#[cfg(test)]
mod tests;
mod writer;

pub use cache::SegmentCache;
pub use format::{Dropped, Footer, SEGMENT_HEADER_LEN, SegmentHeader};
pub use index::Index;
pub use name::{
    Compacted, Listing, SegmentName, index_path, list, log_path, parse_path, partition_dir, remove,
    remove_if_there, unfinished_path,
};
pub use reader::{SegmentEnd, SegmentRead, SegmentReader};
pub use scan::{ScannedBatch, SegmentScan, read_footer, recover_state};
pub use state::{SegmentExtent, SegmentState};
pub use writer::{GrowingSegment, SegmentWriter, write_index};
#[cfg(test)]
pub use {
    format::FOOTER_LEN,
    index::{ENTRY_LEN, IndexEntry},
};
