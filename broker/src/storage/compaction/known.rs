//! What compaction remembers of a partition from pass to pass. In memory only:
//! what is forgotten with a restart is found again, or done a little later.

use std::collections::{HashSet, VecDeque};

use crate::model::Offset;
use crate::storage::segment::SegmentName;

/// More moments than these are put together.
const MOMENTS: usize = 64;

/// What is known of a partition.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Base offset of the active segment when there was nothing to do last: until
    /// it changes there is nothing new.
    pub(super) idle_since: Option<Offset>,
    /// Segments that are left as they are.
    pub(super) damaged: HashSet<SegmentName>,
    /// When passes ended, and up to where they had compacted; both rise.
    passes: VecDeque<Moment>,
}

#[derive(Debug, Clone, Copy)]
struct Moment {
    at_ms: i64,
    compacted_to: Offset,
}

impl Known {
    /// A pass ended.
    pub(super) fn note_pass(&mut self, compacted_to: Offset, at_ms: i64) {
        let last = self.passes.back();
        if last.is_some_and(|last| last.compacted_to >= compacted_to || last.at_ms > at_ms) {
            return;
        }
        self.passes.push_back(Moment {
            at_ms,
            compacted_to,
        });
        if self.passes.len() > MOMENTS {
            // The earlier of the two that are closest: nothing is taken to be older
            // than it is.
            let distance = |at: &usize| {
                let (this, next) = (self.passes[*at], self.passes[*at + 1]);
                next.at_ms - this.at_ms
            };
            let closest = (0..MOMENTS).min_by_key(distance);
            self.passes.remove(closest.expect("there are many"));
        }
    }

    /// Up to where it was compacted `age_ms` ago, as far as is remembered.
    pub(super) fn compacted_before(&mut self, age_ms: u64, now_ms: i64) -> Offset {
        let is_old =
            |moment: &Moment| i128::from(now_ms) - i128::from(moment.at_ms) >= i128::from(age_ms);
        // The newest of the old ones says all that they do.
        while self.passes.get(1).is_some_and(is_old) {
            self.passes.pop_front();
        }
        let oldest = self.passes.front().copied();
        oldest
            .filter(is_old)
            .map_or(Offset::ZERO, |moment| moment.compacted_to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_compacted_before_is_what_the_last_pass_before_had_reached() {
        let mut known = Known::default();
        assert_eq!(known.compacted_before(0, 5), Offset(0));
        known.note_pass(Offset(10), 100);
        known.note_pass(Offset(20), 200);
        known.note_pass(Offset(30), 300);
        for (now, expected) in [(149, 0), (150, 10), (249, 10), (250, 20), (400, 30)] {
            assert_eq!(known.compacted_before(50, now), Offset(expected), "{now}");
        }
    }

    #[test]
    fn many_passes_are_remembered_in_bounded_memory_and_none_as_older_than_it_is() {
        let mut known = Known::default();
        for pass in 1..=10_000 {
            known.note_pass(Offset(pass), i64::try_from(pass).unwrap() * 10);
        }
        assert_eq!(known.passes.len(), MOMENTS);
        for age in (0..100).rev().map(|thousands| thousands * 1000) {
            let expected = (100_000 - age) / 10;
            let found = known.compacted_before(age, 100_000).0;
            assert!(found <= expected, "{age}");
        }
        assert_eq!(known.compacted_before(0, 100_000), Offset(10_000));
    }
}
