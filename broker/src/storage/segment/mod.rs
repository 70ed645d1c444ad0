//! Segments: the files that a partition's log consists of once it has left the
//! journal. `partitions/<id>/<base offset>.log` holds a header and the batches,
//! back to back, as they came; `.index` beside it makes them findable.
//!
//! How much of the active segment counts is told by the checkpoint, not by the
//! file: what lies behind was written by an archiver pass that didn't finish. A
//! sealed segment ends with a footer.

mod cache;
mod format;
mod index;
mod reader;
mod scan;
mod state;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::path::{Path, PathBuf};

pub use cache::SegmentCache;
pub use format::{SEGMENT_HEADER_LEN, SegmentHeader};
pub use index::Index;
pub use reader::{SegmentEnd, SegmentRead, SegmentReader};
pub use scan::{ScannedBatch, SegmentScan, read_footer, recover_state};
pub use state::SegmentState;
pub use writer::SegmentWriter;
#[cfg(test)]
pub use {
    format::{FOOTER_LEN, Footer},
    index::{ENTRY_LEN, IndexEntry},
};

use super::PARTITIONS_DIR;
use super::dir::Dir;
use crate::model::{Offset, PartitionId};

/// The directory of a partition's segments.
pub fn partition_dir(id: PartitionId) -> PathBuf {
    Path::new(PARTITIONS_DIR).join(id.to_string())
}

/// The file of a segment.
pub fn log_path(id: PartitionId, base_offset: Offset) -> PathBuf {
    partition_dir(id).join(format!("{:020}.log", base_offset.0))
}

/// The index of a segment.
pub fn index_path(id: PartitionId, base_offset: Offset) -> PathBuf {
    partition_dir(id).join(format!("{:020}.index", base_offset.0))
}

/// Whose segment or index a path names; `None` when it names neither.
pub fn parse_path(path: &Path) -> Option<(PartitionId, Offset)> {
    let base_offset = path.file_stem()?.to_str()?.parse().ok()?;
    let partition = path.parent()?.file_name()?.to_str()?.parse().ok()?;
    let (id, base_offset) = (PartitionId(partition), Offset(base_offset));
    let is_ours = path == log_path(id, base_offset) || path == index_path(id, base_offset);
    is_ours.then_some((id, base_offset))
}

/// Base offsets of the segments on disk, ascending; none when there is no such
/// partition.
pub fn list(dir: &dyn Dir, id: PartitionId) -> io::Result<Vec<Offset>> {
    let names = dir.list(&partition_dir(id))?;
    let base = |name: &String| name.strip_suffix(".log")?.parse().ok().map(Offset);
    // The names have leading zeros: their order is the order of the offsets.
    Ok(names.iter().filter_map(base).collect())
}

/// Removes a segment and its index.
pub fn remove(dir: &dyn Dir, id: PartitionId, base_offset: Offset) -> io::Result<()> {
    for path in [index_path(id, base_offset), log_path(id, base_offset)] {
        match dir.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
