//! The run index: where in the journal the batches of a partition lie that are not in
//! segments yet. There may be two million of them, so they are packed.
//!
//! Runs come in chunks, each of one journal file and without holes. The first run of a chunk is told in
//! full, the others by how they differ from the one before: some eight bytes. To look
//! one up is to find its chunk, and to go through that.
//!
//! Invariants:
//! - runs are in the order of offsets and of lsns, and don't overlap.
//! - there is a newest chunk, unless there is no run at all.

use std::collections::VecDeque;

use super::lsn::{Generation, Lsn};
use super::varint;
use crate::model::Offset;

/// A chunk that has so many bytes is followed by another one.
const CHUNK_BYTES: usize = 192;

/// By how much room for runs grows: bytes.
const GROWTH: usize = 64;

/// Where a batch lies in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Place of its frame.
    pub lsn: Lsn,
    /// Size of its payload in bytes.
    pub payload_len: u32,
    /// Offsets that it covers.
    pub span: u32,
    /// The latest time of its records: milliseconds since the Unix epoch.
    pub max_timestamp_ms: i64,
}

impl Run {
    /// One past the last offset.
    pub fn next_offset(&self) -> Offset {
        self.base_offset.advanced(u64::from(self.span))
    }
}

/// The runs of one partition.
#[derive(Debug, Default)]
pub struct RunIndex {
    /// Chunks that don't grow any more, oldest first.
    older: VecDeque<Chunk<Box<[u8]>>>,
    newest: Option<Newest>,
}

/// Runs of one journal file.
#[derive(Debug)]
struct Chunk<B> {
    first: Run,
    /// The others.
    packed: B,
}

/// The chunk that grows.
#[derive(Debug)]
struct Newest {
    chunk: Chunk<Vec<u8>>,
    last: Run,
}

impl RunIndex {
    /// The oldest.
    pub fn first(&self) -> Option<Run> {
        let oldest = self.older.front().map(|chunk| chunk.first);
        oldest.or(self.newest.as_ref().map(|newest| newest.chunk.first))
    }

    /// The newest.
    pub fn last(&self) -> Option<Run> {
        self.newest.as_ref().map(|newest| newest.last)
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = Run> {
        self.chunks_from(0).flatten()
    }

    /// Those from the one on that covers `offset`, or else from the first behind it.
    pub fn from(&self, offset: Offset) -> impl Iterator<Item = Run> {
        let begins_before = |chunk: &Chunk<_>| chunk.first.base_offset <= offset;
        let behind = self.older.partition_point(begins_before);
        let in_newest = self
            .newest
            .as_ref()
            .is_some_and(|newest| newest.chunk.first.base_offset <= offset);
        // The one before may cover it, too.
        let index = match in_newest {
            true => self.older.len(),
            false => behind.saturating_sub(1),
        };
        let runs = self.chunks_from(index).flatten();
        runs.skip_while(move |run| run.next_offset() <= offset)
    }

    /// The first that lies in a later file.
    pub fn first_behind(&self, generation: Generation) -> Option<Run> {
        let is_archived = |chunk: &Chunk<_>| chunk.generation() <= generation;
        match self.older.get(self.older.partition_point(is_archived)) {
            Some(chunk) => Some(chunk.first),
            None => {
                let newest = self.newest.as_ref().map(|newest| newest.chunk.first)?;
                (newest.lsn.generation() > generation).then_some(newest)
            }
        }
    }

    /// Adds the newest.
    pub fn push(&mut self, run: Run) {
        if let Some(newest) = &mut self.newest {
            assert!(newest.last.lsn < run.lsn, "runs are in order");
            if newest.has_room_for(&run) {
                return newest.push(run);
            }
        }
        let newest = Newest {
            chunk: Chunk {
                first: run,
                packed: Vec::new(),
            },
            last: run,
        };
        if let Some(Newest { chunk, .. }) = self.newest.replace(newest) {
            if self.older.len() == self.older.capacity() {
                // Doubling wastes much where thousands of partitions have a few.
                self.older.reserve_exact((self.older.len() / 4).max(4));
            }
            self.older.push_back(Chunk {
                first: chunk.first,
                packed: chunk.packed.into_boxed_slice(),
            });
        }
    }

    /// Removes the newest.
    pub fn pop(&mut self) -> Option<Run> {
        let newest = self.newest.as_mut()?;
        let last = newest.last;
        if !newest.pop() {
            self.newest = self.older.pop_back().map(Newest::reopen);
        }
        Some(last)
    }

    /// Removes those that lie in a file up to this one.
    pub fn remove_up_to(&mut self, generation: Generation) {
        let is_archived = |chunk: &Chunk<_>| chunk.generation() <= generation;
        let gone = self.older.partition_point(is_archived);
        self.older.drain(..gone);
        let archived = |newest: &mut Newest| newest.last.lsn.generation() <= generation;
        self.newest.take_if(archived);
        // What a burst took goes back.
        self.older.shrink_to(2 * self.older.len());
    }

    fn chunks_from(&self, index: usize) -> impl Iterator<Item = Runs<'_>> {
        let older = self.older.range(index..).map(Chunk::runs);
        older.chain(self.newest.iter().map(|newest| newest.chunk.runs()))
    }
}

impl<B: AsRef<[u8]>> Chunk<B> {
    fn generation(&self) -> Generation {
        self.first.lsn.generation()
    }

    fn runs(&self) -> Runs<'_> {
        Runs {
            last: None,
            first: Some(self.first),
            packed: self.packed.as_ref(),
        }
    }
}

impl Newest {
    /// A chunk that had another one behind it.
    fn reopen(chunk: Chunk<Box<[u8]>>) -> Newest {
        Newest {
            last: chunk.runs().last().expect("a chunk has a run"),
            chunk: Chunk {
                first: chunk.first,
                packed: chunk.packed.into_vec(),
            },
        }
    }

    fn has_room_for(&self, run: &Run) -> bool {
        self.chunk.packed.len() < CHUNK_BYTES
            && run.lsn.generation() == self.chunk.generation()
            && run.base_offset == self.last.next_offset()
    }

    fn push(&mut self, run: Run) {
        let numbers = difference(&self.last, &run);
        let len: usize = numbers.into_iter().map(varint::len).sum();
        let packed = &mut self.chunk.packed;
        if packed.capacity() - packed.len() < len {
            packed.reserve_exact(GROWTH);
        }
        for number in numbers {
            varint::put(packed, number);
        }
        self.last = run;
    }

    /// Removes the last run; false if it is the only one.
    fn pop(&mut self) -> bool {
        let mut runs = self.chunk.runs();
        let (mut before, mut kept) = (None, 0);
        while let Some(run) = runs.next().filter(|run| *run != self.last) {
            before = Some(run);
            kept = self.chunk.packed.len() - runs.packed.len();
        }
        let Some(before) = before else {
            return false;
        };
        self.chunk.packed.truncate(kept);
        self.last = before;
        true
    }
}

/// Goes through the runs of a chunk.
#[derive(Debug)]
struct Runs<'a> {
    /// The one before.
    last: Option<Run>,
    /// Told in full.
    first: Option<Run>,
    packed: &'a [u8],
}

impl Iterator for Runs<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let run = match self.first.take() {
            Some(first) => first,
            None => following(self.last?, &mut self.packed)?,
        };
        self.last = Some(run);
        Some(run)
    }
}

/// How the run that follows `last`, in the same file and without a hole between, is
/// told.
fn difference(last: &Run, run: &Run) -> [u64; 4] {
    let later_ms = run.max_timestamp_ms.wrapping_sub(last.max_timestamp_ms);
    [
        run.lsn.0 - last.lsn.0,
        run.payload_len.into(),
        run.span.into(),
        // Small whatever its sign is.
        (later_ms << 1 ^ later_ms >> 63).cast_unsigned(),
    ]
}

/// The run that is told behind `last`.
fn following(last: Run, packed: &mut &[u8]) -> Option<Run> {
    let further = varint::take(packed)?;
    let payload_len = varint::take(packed)?;
    let span = varint::take(packed)?;
    let later_ms = varint::take(packed)?;
    let later_ms = (later_ms >> 1).cast_signed() ^ -(later_ms & 1).cast_signed();
    Some(Run {
        base_offset: last.next_offset(),
        lsn: Lsn(last.lsn.0 + further),
        payload_len: u32::try_from(payload_len).ok()?,
        span: u32::try_from(span).ok()?,
        max_timestamp_ms: last.max_timestamp_ms.wrapping_add(later_ms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs in several files, some with holes before them.
    fn runs() -> Vec<Run> {
        let times = [0, i64::MAX, 5, i64::MIN, -1, 1, 1 << 40];
        let mut base_offset = Offset(7);
        (0..300_u32)
            .map(|nth| {
                if nth % 41 == 40 {
                    base_offset = base_offset.advanced(1 << 33);
                }
                let run = Run {
                    base_offset,
                    lsn: Lsn::new(Generation(3 + 2 * (nth / 70)), 4096 + nth * 1000),
                    payload_len: nth * nth * 40,
                    span: if nth % 90 == 5 { u32::MAX } else { 1 + nth % 3 },
                    max_timestamp_ms: times[nth as usize % 30 % times.len()],
                };
                base_offset = run.next_offset();
                run
            })
            .collect()
    }

    fn index(runs: &[Run]) -> RunIndex {
        let mut index = RunIndex::default();
        for &run in runs {
            index.push(run);
        }
        index
    }

    fn assert_has(index: &RunIndex, runs: &[Run]) {
        assert!(index.iter().eq(runs.iter().copied()));
        assert_eq!(index.first().as_ref(), runs.first());
        assert_eq!(index.last().as_ref(), runs.last());
    }

    #[test]
    fn runs_come_out_as_they_went_in() {
        let runs = runs();
        for count in 0..=runs.len() {
            assert_has(&index(&runs[..count]), &runs[..count]);
        }
    }

    #[test]
    fn newest_run_can_be_taken_back_and_others_added_then() {
        let runs = runs();
        let mut index = index(&runs);
        for count in (0..runs.len()).rev() {
            assert_eq!(index.pop(), Some(runs[count]));
            assert_has(&index, &runs[..count]);
            index.push(runs[count]);
            assert_has(&index, &runs[..=count]);
            index.pop();
        }
        assert_eq!(index.pop(), None);
    }

    #[test]
    fn runs_are_found_by_offset() {
        let runs = runs();
        let index = index(&runs);
        let ends = runs
            .iter()
            .flat_map(|run| [run.base_offset, run.next_offset()]);
        let near = ends.flat_map(|offset| [offset.0 - 1, offset.0, offset.0 + 1]);
        for offset in near.map(Offset) {
            let first = runs.partition_point(|run| run.next_offset() <= offset);
            assert!(index.from(offset).eq(runs[first..].iter().copied()));
        }
        assert!(RunIndex::default().from(Offset(5)).next().is_none());
    }

    #[test]
    fn runs_of_archived_files_go() {
        let runs = runs();
        for generation in (0..14).map(Generation) {
            let mut index = index(&runs);
            let is_archived = |run: &Run| run.lsn.generation() <= generation;
            let left = &runs[runs.partition_point(is_archived)..];
            assert_eq!(index.first_behind(generation), left.first().copied());
            index.remove_up_to(generation);
            assert_has(&index, left);
        }
    }

    #[test]
    fn run_of_one_partition_of_thousands_takes_eight_bytes() {
        let run = |nth: u32| Run {
            base_offset: Offset(nth.into()),
            lsn: Lsn::new(Generation(1), 4096 + nth * 10_000 * 264),
            payload_len: 211,
            span: 1,
            max_timestamp_ms: 1_700_000_000_000 + i64::from(nth) * 20,
        };
        let index = index(&[run(0), run(1), run(2)]);
        let newest = index.newest.expect("there are runs");
        assert_eq!(newest.chunk.packed.len(), 2 * 8);
    }
}
