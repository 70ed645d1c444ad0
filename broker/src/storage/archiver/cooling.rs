//! Lets the page cache forget what was archived a while ago.
//!
//! The archiver writes everything that is ever produced. Left alone, all of it
//! would stay in the page cache until memory runs out: pages that nobody reads
//! push out those that somebody does, and on a virtual machine every page is
//! memory that the host has to hand out first, which costs ten times the copy
//! into it (docs/adr/0005). So the newest of what was archived stays, for readers a
//! little behind, and the pages of the rest are given back and used again.
//! What a reader brings in later is not touched.

use std::collections::VecDeque;

use crate::model::{Offset, PartitionId};
use crate::storage::dir::Dir;
use crate::storage::segment;

/// What stays of what was archived: bytes.
const WARM_BYTES: u64 = if cfg!(test) { 64 << 10 } else { 1 << 30 };

/// The most parts of segments that are remembered.
const WARM_PARTS: usize = 32 << 10;

/// Of the page cache: bytes. A larger one costs nothing but a little effect.
const PAGE: u64 = 4096;

/// A part of a segment that the archiver has written.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) partition: PartitionId,
    /// Of the segment.
    pub(super) base_offset: Offset,
    /// The first byte.
    pub(super) from: u64,
    /// One past the last.
    pub(super) to: u64,
}

/// What was written and may be in the page cache, oldest first.
#[derive(Debug, Default)]
pub(super) struct Cooling {
    warm: VecDeque<Written>,
    bytes: u64,
}

impl Cooling {
    /// Takes what has been written and flushed; lets go of the oldest.
    pub(super) fn push(&mut self, dir: &dyn Dir, written: Written) {
        self.bytes += written.to - written.from;
        self.warm.push_back(written);
        while (self.bytes > WARM_BYTES || self.warm.len() > WARM_PARTS)
            && let Some(oldest) = self.warm.pop_front()
        {
            self.bytes -= oldest.to - oldest.from;
            // Of a page that is only half in the range, nothing would go.
            let from = oldest.from / PAGE * PAGE;
            // Only a hint; and retention may have removed the file.
            let path = segment::log_path(oldest.partition, oldest.base_offset);
            let _ = dir.forget_pages(&path, from, oldest.to);
        }
    }
}
