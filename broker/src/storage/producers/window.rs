//! What a partition knows of one producer: the runs of its last records.
//!
//! A producer's sequence numbers and the offsets of its records both rise by one
//! from record to record. So as long as no other batch comes between, all that
//! there is to know of any number of batches is where they begin and how many
//! records they have: a run. A producer that is alone in its partition has one for
//! ever, in 16 bytes; one that takes turns with others has one for each batch, of
//! which the last few are kept.
//!
//! Invariants:
//! - runs are in the order of their numbers and of their offsets. Where one ends
//!   before the next begins, records were lost to damage.
//! - there is always a last run. It may have no records: then it just says which
//!   number comes next.
//! - sequence numbers are modulo 2^32. Of two numbers, the one is behind the other
//!   that is less than half of that away.

use crate::limits;
use crate::model::Offset;

/// How far back a number can be told from one that is ahead.
const HALF: u32 = 1 << 31;

/// The most records of a run; of a longer one, the last so many are known.
const MAX_RUN: u32 = HALF;

/// Records of a producer with consecutive numbers at consecutive offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SequenceRun {
    /// Where the first record lies.
    pub(super) base_offset: Offset,
    /// Its number.
    pub(super) base_sequence: u32,
    /// How many there are.
    pub(super) count: u32,
}

impl SequenceRun {
    /// The number behind the last record.
    fn next_sequence(&self) -> u32 {
        self.base_sequence.wrapping_add(self.count)
    }

    /// The offset behind the last record.
    fn next_offset(&self) -> Offset {
        self.base_offset.advanced(self.count.into())
    }

    /// As this run was when the log ended at `end`.
    fn before(self, end: Offset) -> SequenceRun {
        let left = end.0.saturating_sub(self.base_offset.0);
        SequenceRun {
            count: u32::try_from(left).map_or(self.count, |left| left.min(self.count)),
            ..self
        }
    }
}

/// What a batch is, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The one that comes next.
    Next,
    /// All of it was appended before, here.
    Known(Offset),
    /// All of it was appended before, but where is not known any more.
    Past,
    /// It is ahead of what comes next, or goes on beyond it.
    Gap,
}

/// What a batch has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// The last run, which was so before.
    Grown(SequenceRun),
    /// A run was added; the oldest one may have gone for that.
    Added {
        /// The one that went.
        dropped: Option<SequenceRun>,
    },
}

/// The last runs of one producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    last: SequenceRun,
    /// Oldest first.
    older: Vec<SequenceRun>,
}

impl Window {
    /// Bytes that a run takes beside the window itself.
    pub(super) const RUN_BYTES: usize = size_of::<SequenceRun>();

    pub(super) fn new(first: SequenceRun) -> Window {
        Window {
            last: first,
            older: Vec::new(),
        }
    }

    /// A window of these runs, oldest first; `None` if there is none, or they are
    /// not in order.
    pub(super) fn of_runs(mut runs: Vec<SequenceRun>) -> Option<Window> {
        let last = runs.pop()?;
        let following = runs.iter().skip(1).chain([&last]);
        let ordered = |(run, next): (&SequenceRun, &SequenceRun)| {
            run.count > 0 && run.next_offset() <= next.base_offset
        };
        let sound = runs.iter().zip(following).all(ordered);
        let small = runs.len() < limits::RUNS_PER_PRODUCER;
        (sound && small).then_some(Window { last, older: runs })
    }

    /// The runs, oldest first.
    pub(super) fn runs(&self) -> impl Iterator<Item = &SequenceRun> {
        self.older.iter().chain([&self.last])
    }

    /// How many runs there are beside the last.
    pub(super) fn older_runs(&self) -> usize {
        self.older.len()
    }

    /// The number of the record that comes next.
    pub(super) fn next_sequence(&self) -> u32 {
        self.last.next_sequence()
    }

    /// What a batch of `count` records is whose first has the number `base`.
    pub(super) fn place(&self, base: u32, count: u32) -> Place {
        let behind = self.next_sequence().wrapping_sub(base);
        if behind == 0 {
            return Place::Next;
        }
        if behind > HALF || count > behind {
            return Place::Gap;
        }
        for run in [&self.last].into_iter().chain(self.older.iter().rev()) {
            let into = base.wrapping_sub(run.base_sequence);
            if into < run.count {
                // One that was cut otherwise when it was sent first may lie in two.
                return match count <= run.count - into {
                    true => Place::Known(run.base_offset.advanced(into.into())),
                    false => Place::Past,
                };
            }
        }
        Place::Past
    }

    /// Takes a batch that is ahead of, or comes next to, what is known. Keeps at
    /// most `keep` runs.
    pub(super) fn push(&mut self, batch: SequenceRun, keep: usize) -> Change {
        let before = self.last;
        let goes_on = before.next_sequence() == batch.base_sequence
            && before.next_offset() == batch.base_offset;
        if goes_on {
            let count = before.count.saturating_add(batch.count);
            let excess = count.saturating_sub(MAX_RUN);
            self.last = SequenceRun {
                base_offset: before.base_offset.advanced(excess.into()),
                base_sequence: before.base_sequence.wrapping_add(excess),
                count: count - excess,
            };
            return Change::Grown(before);
        }
        self.last = batch;
        if before.count == 0 {
            return Change::Grown(before);
        }
        // What is over goes one by one, where the bound became lower.
        let full = self.older.len() + 1 >= keep.max(1);
        let dropped = (full && !self.older.is_empty()).then(|| self.older.remove(0));
        if full && dropped.is_none() {
            return Change::Grown(before);
        }
        self.older.push(before);
        Change::Added { dropped }
    }

    /// Takes the last batch back.
    pub(super) fn take_back(&mut self, change: Change) {
        match change {
            Change::Grown(before) => self.last = before,
            Change::Added { dropped } => {
                self.last = self.older.pop().expect("a run was added");
                if let Some(dropped) = dropped {
                    self.older.insert(0, dropped);
                }
            }
        }
    }

    /// What was known when the log ended at `end`: oldest first, at least one run.
    /// `next` is the number that came next then, if it is not that of the oldest run.
    pub(super) fn runs_before(
        &self,
        end: Offset,
        next: Option<u32>,
    ) -> impl Iterator<Item = SequenceRun> {
        let oldest = self.runs().next().expect("there is always a last run");
        let next = (oldest.base_offset >= end).then_some(SequenceRun {
            base_offset: end,
            base_sequence: next.unwrap_or(oldest.base_sequence),
            count: 0,
        });
        let there = self.runs().take_while(move |run| run.base_offset < end);
        there.map(move |run| run.before(end)).chain(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: usize = 4;

    fn run(base_sequence: u32, count: u32, base_offset: u64) -> SequenceRun {
        SequenceRun {
            base_offset: Offset(base_offset),
            base_sequence,
            count,
        }
    }

    fn runs(window: &Window) -> Vec<SequenceRun> {
        window.runs().copied().collect()
    }

    #[test]
    fn batches_that_follow_each_other_are_one_run() {
        let mut window = Window::new(run(0, 3, 100));
        window.push(run(3, 2, 103), KEEP);
        window.push(run(5, 1, 105), KEEP);
        assert_eq!(runs(&window), [run(0, 6, 100)]);
        assert_eq!(window.place(6, 9), Place::Next);
        assert_eq!(window.place(0, 3), Place::Known(Offset(100)));
        assert_eq!(window.place(3, 2), Place::Known(Offset(103)));
        assert_eq!(window.place(5, 1), Place::Known(Offset(105)));
        assert_eq!(window.place(5, 2), Place::Gap, "half of it is new");
        assert_eq!(window.place(7, 1), Place::Gap);
    }

    #[test]
    fn batches_of_others_between_them_make_runs_of_which_the_last_are_kept() {
        let mut window = Window::new(run(0, 1, 0));
        for nth in 1..6_u32 {
            window.push(run(nth, 1, u64::from(nth) * 10), KEEP);
        }
        let kept: Vec<u32> = window.runs().map(|run| run.base_sequence).collect();
        assert_eq!(kept, [2, 3, 4, 5]);
        assert_eq!(window.place(1, 1), Place::Past);
        assert_eq!(window.place(2, 1), Place::Known(Offset(20)));
        assert_eq!(window.place(2, 2), Place::Past, "it lies in two runs");
        assert_eq!(window.place(6, 1), Place::Next);
    }

    #[test]
    fn numbers_begin_again_after_the_last() {
        let mut window = Window::new(run(u32::MAX - 1, 1, 10));
        window.push(run(u32::MAX, 3, 11), KEEP);
        assert_eq!(window.next_sequence(), 2);
        assert_eq!(window.place(2, 1), Place::Next);
        assert_eq!(window.place(0, 2), Place::Known(Offset(12)));
        assert_eq!(window.place(u32::MAX, 3), Place::Known(Offset(11)));
        assert_eq!(window.place(u32::MAX, 4), Place::Gap);
        assert_eq!(window.place(3, 1), Place::Gap);
        assert_eq!(window.place(u32::MAX - 2, 1), Place::Past);
        assert_eq!(window.place(2_u32.wrapping_sub(HALF), 1), Place::Past);
        assert_eq!(window.place(1_u32.wrapping_sub(HALF), 1), Place::Gap);
    }

    #[test]
    fn of_a_run_without_an_end_the_last_records_are_known() {
        let mut window = Window::new(run(0, MAX_RUN - 1, 0));
        let change = window.push(run(MAX_RUN - 1, 3, u64::from(MAX_RUN - 1)), KEEP);
        assert_eq!(runs(&window), [run(2, MAX_RUN, 2)]);
        assert_eq!(window.place(2, 1), Place::Known(Offset(2)));
        window.take_back(change);
        assert_eq!(runs(&window), [run(0, MAX_RUN - 1, 0)]);
    }

    #[test]
    fn a_run_without_records_says_what_comes_next() {
        let mut window = Window::new(run(7, 0, 50));
        assert_eq!(window.place(7, 2), Place::Next);
        assert_eq!(window.place(6, 1), Place::Past);
        let change = window.push(run(7, 2, 60), KEEP);
        assert_eq!(runs(&window), [run(7, 2, 60)]);
        window.take_back(change);
        assert_eq!(runs(&window), [run(7, 0, 50)]);
    }

    #[test]
    fn what_is_taken_back_leaves_no_trace() {
        let mut window = Window::new(run(0, 1, 0));
        let mut changes = Vec::new();
        let mut states = Vec::new();
        let mut offset = 1;
        let mut sequence = 1;
        for nth in 0..20_u32 {
            states.push(window.clone());
            offset += u64::from(nth % 3);
            changes.push(window.push(run(sequence, 2, offset), KEEP));
            assert!(window.older_runs() < KEEP);
            sequence += 2;
            offset += 2;
        }
        while let (Some(change), Some(state)) = (changes.pop(), states.pop()) {
            window.take_back(change);
            assert_eq!(window, state);
        }
    }

    #[test]
    fn what_was_known_at_an_earlier_end_of_the_log_can_be_told() {
        let mut window = Window::new(run(10, 4, 100));
        window.push(run(14, 2, 110), KEEP);
        window.push(run(16, 2, 120), KEEP);
        let before = |end| window.runs_before(Offset(end), Some(9)).collect::<Vec<_>>();
        assert_eq!(before(500), runs(&window));
        assert_eq!(
            before(121),
            [run(10, 4, 100), run(14, 2, 110), run(16, 1, 120)]
        );
        assert_eq!(before(120), [run(10, 4, 100), run(14, 2, 110)]);
        assert_eq!(before(102), [run(10, 2, 100)]);
        assert_eq!(before(100), [run(9, 0, 100)]);
        let without = window.runs_before(Offset(7), None);
        assert_eq!(without.collect::<Vec<_>>(), [run(10, 0, 7)]);
    }

    #[test]
    fn runs_out_of_order_are_no_window() {
        assert_eq!(Window::of_runs(Vec::new()), None);
        assert_eq!(Window::of_runs(vec![run(0, 2, 5), run(2, 1, 6)]), None);
        assert_eq!(Window::of_runs(vec![run(0, 0, 5), run(0, 1, 6)]), None);
        let good = vec![run(0, 2, 5), run(2, 1, 7)];
        assert_eq!(Window::of_runs(good.clone()).map(|w| runs(&w)), Some(good));
        let many = |n| (0..n).map(|nth| run(nth, 1, u64::from(nth))).collect();
        let most = u32::try_from(limits::RUNS_PER_PRODUCER).unwrap();
        assert!(Window::of_runs(many(most)).is_some());
        assert!(Window::of_runs(many(most + 1)).is_none());
    }
}
