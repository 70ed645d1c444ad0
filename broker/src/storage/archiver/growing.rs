//! What is kept of the segments that grow, between passes.
//!
//! Where thousands of partitions get a little with each pass, to open their segments again
//! costs half as much as to write them. So files stay open behind a pass that leaves more to
//! do; one that takes all that there is closes them.
//!
//! Whatever is kept of a segment is only used if the segment still ends where it was left,
//! and its file has a name. And a file whose segment is to go is closed before, so that its
//! room comes back. Segments are removed only by whoever holds the archiver:
//! - retention closes those that go with [`super::Archiver::close_if_growing`]. Where it
//!   begins a segment, it removes what an attempt before has left there: that lies at the end
//!   of the log, behind any that is kept;
//! - deletion drops what is kept of the partition first, with [`super::Archiver::forget`];
//! - a pass removes what an unfinished one has left in a directory that isn't known to be
//!   tidy. Of such a partition nothing is kept: [`super::Archiver::doubt`];
//! - compaction removes sealed segments. A pass that seals one has taken it, and puts the
//!   next one here.

use std::collections::HashMap;

use crate::model::{Offset, PartitionId};
use crate::storage::dir::File;
use crate::storage::segment::GrowingSegment;

/// How many files the second pass after a shortage keeps open; each that follows may keep
/// twice as many and as many more, up to what there may be at most.
const OPEN_AFTER_SHORTAGE: usize = 64;

/// The active segments, as the last pass left them. At most so many are open as may be.
#[derive(Debug, Default)]
pub(super) struct Growing {
    segments: HashMap<PartitionId, GrowingSegment>,
    /// How many of them are open.
    open: usize,
    /// How many may be, for now.
    may_open: usize,
    most_open: usize,
    /// No pass was done since one found something short.
    shortage: bool,
}

impl Growing {
    /// None yet. Up to `most_open` will be kept open.
    pub(super) fn new(most_open: usize) -> Growing {
        Growing {
            may_open: most_open,
            most_open,
            ..Growing::default()
        }
    }

    /// What is known of a partition's active segment; its file, too, if it is open. From
    /// now on that's the caller's.
    pub(super) fn take(&mut self, id: PartitionId) -> Option<GrowingSegment> {
        let taken = self.segments.remove(&id)?;
        self.open -= usize::from(taken.is_open());
        Some(taken)
    }

    /// Keeps what is known of a partition's active segment.
    pub(super) fn put(&mut self, id: PartitionId, mut segment: GrowingSegment) {
        self.release(id);
        if self.open >= self.may_open {
            segment.close();
        }
        self.open += usize::from(segment.is_open());
        if segment.is_worth_keeping() {
            self.segments.insert(id, segment);
        }
    }

    /// The file of a segment, if it is open.
    pub(super) fn file_of(&self, id: PartitionId, base_offset: Offset) -> Option<&dyn File> {
        self.segments.get(&id)?.file_of(base_offset)
    }

    /// Closes the partition's segment, and keeps nothing of it: it is looked into again
    /// before it grows on.
    pub(super) fn release(&mut self, id: PartitionId) {
        drop(self.take(id));
    }

    /// Closes all files, and gives back the memory of what is not worth keeping then.
    pub(super) fn close_all(&mut self) {
        self.segments.retain(|_, segment| {
            segment.close();
            segment.is_worth_keeping()
        });
        self.segments.shrink_to_fit();
        self.open = 0;
    }

    /// A pass found something short, perhaps descriptors: closes all files. With as many
    /// open the next pass would come no further, so until one is done none is kept.
    pub(super) fn note_shortage(&mut self) {
        self.close_all();
        self.may_open = 0;
        self.shortage = true;
    }

    /// Whether no pass was done since one found something short.
    pub(super) fn is_short(&self) -> bool {
        self.shortage
    }

    /// A pass is done.
    pub(super) fn note_done(&mut self) {
        self.shortage = false;
        let more = self.may_open.saturating_mul(2);
        let more = more.saturating_add(OPEN_AFTER_SHORTAGE);
        self.may_open = self.most_open.min(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::dir::Dir;
    use crate::storage::dir::sim::SimDir;
    use crate::storage::segment::{SegmentWriter, partition_dir};

    #[test]
    fn nothing_is_left_of_what_was_only_open() {
        let dir = SimDir::new();
        dir.create_dir(crate::storage::PARTITIONS_DIR.as_ref())
            .unwrap();
        let mut growing = Growing::new(100);
        for id in (0..200).map(PartitionId) {
            dir.create_dir(&partition_dir(id)).unwrap();
            let mut writer = SegmentWriter::create(&dir, id, Offset::ZERO, 0).unwrap();
            growing.put(id, writer.take_growing());
        }
        assert_eq!(dir.open_files(), 100);
        assert!(growing.segments.capacity() >= 100);
        growing.close_all();
        assert_eq!(dir.open_files(), 0);
        assert_eq!(growing.segments.capacity(), 0);
    }
}
