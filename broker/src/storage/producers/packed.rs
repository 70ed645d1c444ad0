//! The runs of a window before its last one, packed: a run takes two bytes where
//! producers take turns with batches of a few records. There may be dozens of them for
//! every producer in every partition. They come and go at both ends.

use crate::storage::varint;

/// By how much room for packed runs grows: bytes. Doubling wastes much where there are
/// hundreds of thousands.
const GROWTH: usize = 16;

/// A run before the last, told by the one behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackedRun {
    /// From its first offset to that of the next run.
    pub(super) distance: u32,
    /// How many records it has.
    pub(super) count: u32,
    /// Whether it begins a file.
    pub(super) begins_file: bool,
}

/// Runs of which each is told by the one behind it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PackedRuns {
    /// Two numbers for each, oldest first.
    bytes: Vec<u8>,
}

impl PackedRuns {
    /// Memory that they take: bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        varint::count(&self.bytes) / 2
    }

    /// The runs, oldest first or newest first.
    pub(super) fn iter(&self) -> Iter<'_> {
        Iter(&self.bytes)
    }

    /// Distances and counts of all but the oldest, each summed up, counts modulo 2^32. Where
    /// all numbers take one byte, which is the rule, without a look at each by itself.
    pub(super) fn sums_behind_oldest(&self) -> (u64, u32) {
        if self.bytes.iter().all(|&byte| varint::is_last(byte)) {
            let (runs, _) = self.bytes.as_chunks();
            let behind = runs.iter().skip(1);
            return behind.fold((0, 0), |(distances, counts), &[distance, count]| {
                (
                    distances + u64::from(distance),
                    counts + u32::from(count >> 1),
                )
            });
        }
        let behind = self.iter().skip(1);
        behind.fold((0, 0), |(distances, counts), run| {
            let distances = distances + u64::from(run.distance);
            (distances, counts.wrapping_add(run.count))
        })
    }

    /// Adds the newest.
    pub(super) fn push_newest(&mut self, run: PackedRun) {
        let len: usize = numbers(run).into_iter().map(varint::len).sum();
        if self.bytes.capacity() - self.bytes.len() < len {
            self.bytes.reserve_exact(GROWTH.max(len));
        }
        put(&mut self.bytes, run);
    }

    /// Removes the newest.
    pub(super) fn pop_newest(&mut self) -> Option<PackedRun> {
        let mut left = self.iter();
        let run = left.next_back()?;
        let len = left.0.len();
        self.bytes.truncate(len);
        Some(run)
    }

    /// Adds the oldest.
    pub(super) fn push_oldest(&mut self, run: PackedRun) {
        let mut bytes = Vec::with_capacity(self.bytes.len() + GROWTH);
        put(&mut bytes, run);
        bytes.extend_from_slice(&self.bytes);
        self.bytes = bytes;
    }

    /// Removes the oldest.
    pub(super) fn pop_oldest(&mut self) -> Option<PackedRun> {
        let mut left = self.iter();
        let run = left.next()?;
        let gone = self.bytes.len() - left.0.len();
        self.bytes.drain(..gone);
        Some(run)
    }

    /// Gives back what room was made for more.
    pub(super) fn shrink_to_fit(&mut self) {
        self.bytes.shrink_to_fit();
    }
}

fn put(out: &mut Vec<u8>, run: PackedRun) {
    for number in numbers(run) {
        varint::put(out, number);
    }
}

fn numbers(run: PackedRun) -> [u64; 2] {
    let count = u64::from(run.count) << 1 | u64::from(run.begins_file);
    [run.distance.into(), count]
}

/// Goes through packed runs.
#[derive(Debug, Clone)]
pub(super) struct Iter<'a>(&'a [u8]);

impl Iterator for Iter<'_> {
    type Item = PackedRun;

    fn next(&mut self) -> Option<PackedRun> {
        let distance = varint::take(&mut self.0)?;
        let count = varint::take(&mut self.0)?;
        unpacked(distance, count)
    }
}

impl DoubleEndedIterator for Iter<'_> {
    fn next_back(&mut self) -> Option<PackedRun> {
        let count = varint::take_last(&mut self.0)?;
        let distance = varint::take_last(&mut self.0)?;
        unpacked(distance, count)
    }
}

fn unpacked(distance: u64, count: u64) -> Option<PackedRun> {
    Some(PackedRun {
        distance: u32::try_from(distance).ok()?,
        count: u32::try_from(count >> 1).ok()?,
        begins_file: count & 1 == 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs() -> Vec<PackedRun> {
        let numbers = [1, 0, 127, 128, 300, 1 << 14, 1 << 21, (1 << 31) - 1];
        let distances = numbers.into_iter().chain([1 << 31, u32::MAX]);
        distances
            .zip(numbers.into_iter().rev().cycle())
            .map(|(distance, count)| PackedRun {
                distance,
                count,
                begins_file: distance % 3 == 0,
            })
            .collect()
    }

    #[test]
    fn runs_come_back_from_both_ends() {
        let all = runs();
        let mut packed = PackedRuns::default();
        for (nth, &run) in all.iter().enumerate() {
            assert_eq!(packed.count(), nth);
            packed.push_newest(run);
        }
        assert!(packed.iter().eq(all.iter().copied()));
        assert!(packed.iter().rev().eq(all.iter().rev().copied()));
        let mut other = PackedRuns::default();
        for &run in all.iter().rev() {
            other.push_oldest(run);
        }
        assert_eq!(other, packed);
        for &run in &all {
            assert_eq!(packed.pop_oldest(), Some(run));
        }
        assert_eq!(packed.pop_oldest(), None);
        for &run in all.iter().rev() {
            assert_eq!(other.pop_newest(), Some(run));
        }
        assert_eq!(other.pop_newest(), None);
        assert!(other.is_empty());
    }

    #[test]
    fn a_run_of_few_records_takes_two_bytes() {
        let mut packed = PackedRuns::default();
        packed.push_newest(PackedRun {
            distance: 16,
            count: 1,
            begins_file: true,
        });
        assert_eq!(packed.bytes(), 2);
    }

    #[test]
    fn sums_are_those_of_the_runs_whatever_their_numbers_take() {
        let small = |run: &PackedRun| run.distance < 128 && run.count < 64;
        for few in [false, true] {
            let runs = runs().into_iter().chain((1..99).map(|distance| PackedRun {
                distance,
                count: 99 - distance,
                begins_file: distance % 2 == 0,
            }));
            let runs: Vec<PackedRun> = runs.filter(|run| !few || small(run)).collect();
            let mut packed = PackedRuns::default();
            assert_eq!(packed.sums_behind_oldest(), (0, 0));
            for (nth, &run) in runs.iter().enumerate() {
                packed.push_newest(run);
                let behind = &runs[1..=nth];
                let distances = behind.iter().map(|run| u64::from(run.distance)).sum();
                let counts = behind.iter().map(|run| run.count);
                let counts = counts.fold(0_u32, u32::wrapping_add);
                assert_eq!(packed.sums_behind_oldest(), (distances, counts));
            }
            assert_eq!(packed.bytes() == 2 * runs.len(), few);
        }
    }
}
