//! Lets the page cache forget what was archived a while ago.
//!
//! The archiver writes everything that is ever produced. Left alone, all of it
//! would stay in the page cache until memory runs out: pages that nobody reads
//! push out those that somebody does, and on a virtual machine every page is
//! memory that the host has to hand out first, which costs ten times the copy
//! into it (docs/adr/0005). So the newest of what was archived stays, for readers a
//! little behind, and the pages of the rest are given back and used again.
//! What a reader brings in later is not touched.
//!
//! To give pages back, a file is opened, whatever there is of it. So what is written
//! of a segment grows together to one part, and parts to spans, oldest first, of which
//! each is given back as a whole. Invariants:
//!
//! - whatever lies in a span was written before all that lies in a later one: what goes is
//!   always older than what stays.
//! - a span is closed as soon as its parts are large enough on average, or it has half
//!   of what may stay. So at least the newer half of that does stay.
//! - no more than [`WARM_BYTES`] stay, in [`WARM_PARTS`], but for what one call adds.

use std::collections::{BTreeMap, VecDeque};

use super::growing::Growing;
use crate::model::{Offset, PartitionId};
use crate::storage::dir::Dir;
use crate::storage::segment;

/// What stays of what was archived: bytes.
const WARM_BYTES: u64 = if cfg!(test) { 64 << 10 } else { 1 << 30 };

/// The most parts of segments that are remembered. Where more than half as many partitions
/// get something with a pass, a span is over before any of them got more; so nearly each
/// pass gives back a little of every segment, and has to open those that aren't open.
const WARM_PARTS: usize = if cfg!(test) { 64 } else { 32 << 10 };

/// Parts that have so much on average are worth opening their files: bytes.
const ENOUGH_PER_PART: u64 = if cfg!(test) { 8 << 10 } else { 256 << 10 };

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

/// What was written and may be in the page cache.
#[derive(Debug, Default)]
pub(super) struct Cooling {
    /// Those that don't grow any more, oldest first.
    closed: VecDeque<Span>,
    newest: Span,
    /// In all spans.
    bytes: u64,
    parts: usize,
}

/// What was written in some time.
#[derive(Debug, Default)]
struct Span {
    /// One for each segment, known by its base offset: its first byte, and one past its last.
    parts: BTreeMap<(PartitionId, Offset), (u64, u64)>,
    bytes: u64,
}

impl Cooling {
    /// Takes what has been written and flushed; lets go of the oldest, which `forget` is
    /// called with.
    pub(super) fn push(&mut self, written: &Written, mut forget: impl FnMut(Written)) {
        let parts_before = self.newest.parts.len();
        let grown = self.newest.push(written);
        self.bytes += grown;
        self.parts += self.newest.parts.len() - parts_before;
        if self.newest.is_enough() {
            self.closed.push_back(std::mem::take(&mut self.newest));
        }
        while (self.bytes > WARM_BYTES || self.parts > WARM_PARTS)
            && let Some(oldest) = self.closed.pop_front()
        {
            self.bytes -= oldest.bytes;
            self.parts -= oldest.parts.len();
            oldest.into_parts().for_each(&mut forget);
        }
    }
}

impl Span {
    /// Says by how much it has grown: bytes.
    fn push(&mut self, written: &Written) -> u64 {
        let key = (written.partition, written.base_offset);
        let part = self
            .parts
            .entry(key)
            .or_insert((written.from, written.from));
        let len_before = part.1 - part.0;
        // What lies between two, if anything does, is the archiver's, too, and older.
        *part = (part.0.min(written.from), part.1.max(written.to));
        let grown = part.1 - part.0 - len_before;
        self.bytes += grown;
        grown
    }

    /// Whether what follows begins another one.
    fn is_enough(&self) -> bool {
        self.bytes >= WARM_BYTES / 2
            || self.parts.len() >= WARM_PARTS / 2
            || self.bytes >= ENOUGH_PER_PART * self.parts.len() as u64
    }

    fn into_parts(self) -> impl Iterator<Item = Written> {
        let parts = self.parts.into_iter();
        parts.map(|((partition, base_offset), (from, to))| Written {
            partition,
            base_offset,
            from,
            to,
        })
    }
}

impl Written {
    /// Lets the page cache forget it.
    pub(super) fn forget_pages(&self, dir: &dyn Dir, growing: &Growing) {
        // Of a page that is only half in the range, nothing would go.
        let from = self.from / PAGE * PAGE;
        // Only a hint; and retention may have removed the file.
        let _ = match growing.file_of(self.partition, self.base_offset) {
            Some(file) => file.forget_pages(from, self.to),
            None => {
                let path = segment::log_path(self.partition, self.base_offset);
                dir.forget_pages(&path, from, self.to)
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::dir::sim::SimDir;

    /// Appends to segments in a simulated tree.
    #[derive(Default)]
    struct Archived {
        cooling: Cooling,
        lens: BTreeMap<u32, u64>,
    }

    impl Archived {
        fn append(&mut self, dir: &SimDir, partition: u32, len: u64) {
            let end = self.lens.entry(partition).or_default();
            let written = Written {
                partition: PartitionId(partition),
                base_offset: Offset::ZERO,
                from: *end,
                to: *end + len,
            };
            *end += len;
            let growing = Growing::default();
            self.cooling
                .push(&written, |part| part.forget_pages(dir, &growing));
        }

        /// What all spans say that they hold.
        fn assert_counted(&self) {
            let spans = || self.cooling.closed.iter().chain([&self.cooling.newest]);
            let len =
                |span: &Span| -> u64 { span.parts.values().map(|(from, to)| to - from).sum() };
            assert!(spans().all(|span| span.bytes == len(span)));
            assert_eq!(self.cooling.bytes, spans().map(len).sum::<u64>());
            let parts: usize = spans().map(|span| span.parts.len()).sum();
            assert_eq!(self.cooling.parts, parts);
        }
    }

    #[test]
    fn little_pieces_of_a_segment_are_forgotten_together_and_the_newer_half_stays() {
        let dir = SimDir::new();
        let mut archived = Archived::default();
        let (partitions, piece) = (8, PAGE / 4);
        let rounds = 64;
        let mut forgotten_to = BTreeMap::new();
        let mut calls = 0;
        for round in 1..=rounds {
            for partition in 0..partitions {
                archived.append(&dir, partition, piece);
                archived.assert_counted();
                assert!(archived.cooling.bytes <= WARM_BYTES);
            }
            for (path, from, to) in dir.take_forgotten() {
                // Without a gap, and each segment by itself.
                let before = forgotten_to.insert(path, to).unwrap_or(0);
                assert_eq!(from, before / PAGE * PAGE);
                assert!(round * piece - to >= WARM_BYTES / 2 / u64::from(partitions));
                calls += 1;
            }
        }
        let forgotten: u64 = forgotten_to.values().sum();
        assert_eq!(
            forgotten + archived.cooling.bytes,
            rounds * u64::from(partitions) * piece
        );
        assert!(calls > 0);
        // Half of what stays, of each partition, is four pieces.
        assert_eq!(forgotten, calls * 4 * piece);
    }

    #[test]
    fn large_pieces_are_forgotten_one_by_one() {
        let dir = SimDir::new();
        let mut archived = Archived::default();
        for _ in 0..20 {
            archived.append(&dir, 1, ENOUGH_PER_PART);
            archived.assert_counted();
        }
        assert_eq!(archived.cooling.bytes, WARM_BYTES);
        let forgotten = dir.take_forgotten();
        let pieces = 20 - WARM_BYTES / ENOUGH_PER_PART;
        let path = segment::log_path(PartitionId(1), Offset::ZERO);
        let piece = |nth| {
            (
                path.clone(),
                nth * ENOUGH_PER_PART,
                (nth + 1) * ENOUGH_PER_PART,
            )
        };
        assert_eq!(forgotten, (0..pieces).map(piece).collect::<Vec<_>>());
    }

    #[test]
    fn no_more_parts_are_remembered_than_may_be() {
        let dir = SimDir::new();
        let mut archived = Archived::default();
        for partition in 0..1000 {
            archived.append(&dir, partition, 1);
            archived.assert_counted();
            assert!(archived.cooling.parts <= WARM_PARTS);
        }
        // The oldest, of course.
        let forgotten = dir.take_forgotten();
        assert_eq!(forgotten.len(), 1000 - archived.cooling.parts);
        assert_eq!(
            forgotten.first().map(|(path, ..)| path.clone()),
            Some(segment::log_path(PartitionId(0), Offset::ZERO))
        );
    }
}
