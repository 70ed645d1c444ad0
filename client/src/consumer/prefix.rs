//! Up to where the records of a partition are finished, when they are finished
//! in any order. Pure.
//!
//! Every record before the position is finished. It only grows, and it is the
//! greatest such offset: nothing finished is held back for longer than the
//! oldest record before it that isn't.

use std::collections::BTreeSet;

#[derive(Debug)]
pub(super) struct Prefix {
    /// Records that were begun and aren't finished. As many as are being worked
    /// on and waiting, whatever lies between them.
    unfinished: BTreeSet<u64>,
    /// One past the last offset that was begun or passed.
    end: u64,
}

impl Prefix {
    /// Nothing before `start` concerns it.
    pub(super) fn new(start: u64) -> Self {
        Self {
            unfinished: BTreeSet::new(),
            end: start,
        }
    }

    /// A record is worked on from now on. They are begun in their order.
    pub(super) fn begin(&mut self, offset: u64) {
        assert!(offset >= self.end, "records are begun in their order");
        self.unfinished.insert(offset);
        self.end = offset.saturating_add(1);
    }

    /// There are no more records before `end`.
    pub(super) fn pass(&mut self, end: u64) {
        self.end = self.end.max(end);
    }

    /// A record is finished. True when the position grew.
    pub(super) fn finish(&mut self, offset: u64) -> bool {
        let was_oldest = self.unfinished.first() == Some(&offset);
        self.unfinished.remove(&offset) && was_oldest
    }

    /// Everything before this offset is finished.
    pub(super) fn position(&self) -> u64 {
        self.unfinished.first().copied().unwrap_or(self.end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn position_waits_for_the_oldest_record() {
        let mut prefix = Prefix::new(5);
        (5..8).for_each(|offset| prefix.begin(offset));
        assert!(!prefix.finish(6));
        assert!(!prefix.finish(7));
        assert_eq!(prefix.position(), 5);
        assert!(prefix.finish(5));
        assert_eq!(prefix.position(), 8);
    }

    #[test]
    fn offsets_without_records_do_not_hold_it_back() {
        let mut prefix = Prefix::new(0);
        prefix.begin(3);
        prefix.begin(9);
        assert!(prefix.finish(3));
        assert_eq!(prefix.position(), 9);
        prefix.pass(20);
        assert_eq!(prefix.position(), 9);
        assert!(prefix.finish(9));
        assert_eq!(prefix.position(), 20);
    }

    proptest! {
        /// Any gaps between records, finished in any order, some never: the
        /// position is always the oldest record that isn't, or the end.
        #[test]
        fn position_is_the_greatest_before_which_all_is_finished(
            start in 0_u64..100,
            records in prop::collection::vec((0_u64..4, any::<u16>(), any::<bool>()), 0..60),
        ) {
            let mut prefix = Prefix::new(start);
            let mut offsets = Vec::new();
            let mut end = start;
            for (gap, order, finishes) in records {
                prefix.begin(end + gap);
                offsets.push((order, end + gap, finishes));
                end += gap + 1;
            }
            let mut open: Vec<u64> = offsets.iter().map(|record| record.1).collect();
            let mut finishing: Vec<_> = offsets.into_iter().filter(|record| record.2).collect();
            finishing.sort_unstable();
            let mut position = prefix.position();
            for (_, offset, _) in finishing {
                let grew = prefix.finish(offset);
                open.retain(|other| *other != offset);
                let expected = open.first().copied().unwrap_or(end);
                prop_assert_eq!(prefix.position(), expected);
                prop_assert_eq!(grew, expected > position);
                position = expected;
            }
        }
    }
}
