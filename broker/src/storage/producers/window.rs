//! What a partition knows of one producer: the runs of its last records.
//!
//! A producer's sequence numbers and the offsets of its records both rise by one
//! from record to record. So as long as no other batch comes between, all that
//! there is to know of any number of batches is where they begin and how many
//! records they have: a run. A producer that is alone in its partition has one for
//! each journal file; one that takes turns with others has one for each batch. The
//! last few are kept. There may be a window for every producer in every partition,
//! so all runs but the last are packed.
//!
//! Invariants:
//! - runs are in the order of their offsets, and the number behind each is the first
//!   one of the next. Where records were lost between two, the older one is forgotten.
//! - there is always a last run. It may have no records: then it just says which
//!   number comes next.
//! - a run lies in one journal file, or in files that are archived.
//! - sequence numbers are modulo 2^32. Of two numbers, the one is behind the other
//!   that is less than half of that away.

use super::packed::{PackedRun, PackedRuns};
use crate::limits;
use crate::model::Offset;

/// How far back a number can be told from one that is ahead.
const HALF: u32 = 1 << 31;

/// The most records of a run.
const MAX_RUN: u32 = HALF - 1;

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

    /// Whether another run is a part of the same one, as long as that is not too long.
    fn is_continued_by(&self, next: &SequenceRun) -> bool {
        self.next_sequence() == next.base_sequence
            && self.next_offset() == next.base_offset
            && self.count.saturating_add(next.count) <= MAX_RUN
    }

    /// As this run was when the log ended at `end`.
    fn before(self, end: Offset) -> SequenceRun {
        let left = end.0.saturating_sub(self.base_offset.0);
        SequenceRun {
            count: u32::try_from(left).map_or(self.count, |left| left.min(self.count)),
            ..self
        }
    }

    /// The end of this run, should it be too long.
    fn bounded(self) -> SequenceRun {
        let excess = self.count.saturating_sub(MAX_RUN);
        SequenceRun {
            base_offset: self.base_offset.advanced(excess.into()),
            base_sequence: self.base_sequence.wrapping_add(excess),
            count: self.count - excess,
        }
    }
}

impl PackedRun {
    /// A run that another one follows; `None` if that is not directly behind it, or
    /// too far away.
    fn pack(run: KnownRun, next: &SequenceRun) -> Option<PackedRun> {
        let KnownRun { run, begins_file } = run;
        let distance = next.base_offset.0.checked_sub(run.base_offset.0)?;
        let follows = run.next_sequence() == next.base_sequence && run.count > 0;
        follows.then_some(PackedRun {
            distance: u32::try_from(distance).ok()?,
            count: run.count,
            begins_file,
        })
    }

    /// The run, which `next` follows.
    fn unpack(self, next: &SequenceRun) -> KnownRun {
        KnownRun {
            run: SequenceRun {
                base_offset: Offset(next.base_offset.0 - u64::from(self.distance)),
                base_sequence: next.base_sequence.wrapping_sub(self.count),
                count: self.count,
            },
            begins_file: self.begins_file,
        }
    }
}

/// A run of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KnownRun {
    pub(super) run: SequenceRun,
    /// Whether its first batch is the first one of the producer in a journal file.
    pub(super) begins_file: bool,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// The last run, which was so before.
    Grown(KnownRun),
    /// A run was added; the oldest one may have gone for that.
    Added {
        /// The one that went.
        dropped: Option<PackedRun>,
    },
    /// All that was known went: the batch doesn't follow on it.
    Restarted(Box<Window>),
}

/// The last runs of one producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    last: KnownRun,
    older: PackedRuns,
}

impl Window {
    /// A window whose first run, if it has records, begins a journal file.
    pub(super) fn new(first: SequenceRun) -> Window {
        Window {
            last: KnownRun {
                run: first,
                begins_file: first.count > 0,
            },
            older: PackedRuns::default(),
        }
    }

    /// A window of these archived runs, oldest first; `None` if there is none, or
    /// they are not in order.
    pub(super) fn of_runs(runs: &[SequenceRun]) -> Option<Window> {
        let runs: Vec<SequenceRun> = runs.iter().copied().map(SequenceRun::bounded).collect();
        let (&last, older) = runs.split_last()?;
        let ordered = |pair: &[SequenceRun]| {
            pair[0].count > 0 && pair[0].next_offset() <= pair[1].base_offset
        };
        let sound = runs.windows(2).all(ordered) && older.len() < limits::RUNS_PER_PRODUCER;
        let archived = |run: &SequenceRun| KnownRun {
            run: *run,
            begins_file: false,
        };
        let packed = runs.windows(2).rev();
        let packed = packed.map_while(|pair| PackedRun::pack(archived(&pair[0]), &pair[1]));
        let mut newest_first: Vec<PackedRun> = packed.collect();
        let mut older = PackedRuns::default();
        while let Some(run) = newest_first.pop() {
            older.push_newest(run);
        }
        older.shrink_to_fit();
        sound.then_some(Window {
            last: archived(&last),
            older,
        })
    }

    /// The runs, oldest first.
    pub(super) fn runs(&self) -> impl Iterator<Item = KnownRun> {
        let mut next = self.oldest().run;
        let older = self.older.iter().map(move |packed| {
            let run = SequenceRun {
                count: packed.count,
                ..next
            };
            next.base_offset = run.base_offset.advanced(packed.distance.into());
            next.base_sequence = run.next_sequence();
            KnownRun {
                run,
                begins_file: packed.begins_file,
            }
        });
        older.chain([self.last])
    }

    fn oldest(&self) -> KnownRun {
        let Some(oldest) = self.older.iter().next() else {
            return self.last;
        };
        let SequenceRun {
            base_offset,
            base_sequence,
            ..
        } = self.last.run;
        let (distances, counts) = self.older.sums_behind_oldest();
        oldest.unpack(&SequenceRun {
            base_offset: Offset(base_offset.0 - distances),
            base_sequence: base_sequence.wrapping_sub(counts),
            count: 0,
        })
    }

    /// Where the oldest run begins.
    pub(super) fn base_offset(&self) -> Offset {
        self.oldest().run.base_offset
    }

    /// Memory that it takes beside itself: bytes.
    pub(super) fn older_bytes(&self) -> usize {
        self.older.bytes()
    }

    /// The number of the record that comes next.
    pub(super) fn next_sequence(&self) -> u32 {
        self.last.run.next_sequence()
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
        let mut run = self.last.run;
        let mut older = self.older.iter().rev();
        loop {
            let into = base.wrapping_sub(run.base_sequence);
            if into < run.count {
                // One that was cut otherwise when it was sent first may lie in two.
                return match count <= run.count - into {
                    true => Place::Known(run.base_offset.advanced(into.into())),
                    false => Place::Past,
                };
            }
            let Some(packed) = older.next() else {
                return Place::Past;
            };
            run = packed.unpack(&run).run;
        }
    }

    /// Takes a batch that is ahead of, or comes next to, what is known, and says
    /// whether it begins a journal file for the producer. Keeps `keep` runs, or as many as
    /// there are if those are more, and two at least. `shed` gets the runs that go for it, oldest first.
    pub(super) fn push(
        &mut self,
        batch: SequenceRun,
        begins_file: bool,
        keep: usize,
        mut shed: impl FnMut(KnownRun),
    ) -> Change {
        let before = self.last;
        if !begins_file && before.run.is_continued_by(&batch) {
            self.last.run.count += batch.count;
            return Change::Grown(before);
        }
        let added = KnownRun {
            run: batch,
            begins_file,
        };
        if before.run.count == 0 && self.older.is_empty() {
            self.last = added;
            return Change::Grown(before);
        }
        let Some(packed) = PackedRun::pack(before, &batch) else {
            self.runs().for_each(shed);
            let fresh = Window {
                last: added,
                older: PackedRuns::default(),
            };
            return Change::Restarted(Box::new(std::mem::replace(self, fresh)));
        };
        // Where the bound became lower, what is over stays, but nothing is added to it.
        let full = self.older.count() + 1 >= keep.max(2);
        let dropped = full.then(|| {
            shed(self.oldest());
            self.older.pop_oldest().expect("it keeps two at least")
        });
        self.older.push_newest(packed);
        self.last = added;
        Change::Added { dropped }
    }

    /// Takes the last batch back.
    pub(super) fn take_back(&mut self, change: Change) {
        match change {
            Change::Grown(before) => self.last = before,
            Change::Added { dropped } => {
                let packed = self.older.pop_newest().expect("a run was added");
                self.last = packed.unpack(&self.last.run);
                if let Some(dropped) = dropped {
                    self.older.push_oldest(dropped);
                }
            }
            Change::Restarted(before) => *self = *before,
        }
    }

    /// What was known when the log ended at `end`: oldest first, at least one run.
    /// `next` is the number that came next then, if it is not that of the oldest run.
    pub(super) fn runs_before(&self, end: Offset, next: Option<u32>) -> Vec<SequenceRun> {
        let oldest = self.oldest().run;
        if oldest.base_offset >= end {
            return vec![SequenceRun {
                base_offset: end,
                base_sequence: next.unwrap_or(oldest.base_sequence),
                count: 0,
            }];
        }
        let runs = self.runs().map(|known| known.run);
        let there = runs.take_while(|run| run.base_offset < end);
        let mut told: Vec<SequenceRun> = Vec::with_capacity(self.older.count() + 1);
        for run in there.map(|run| run.before(end)) {
            // That another file began doesn't matter any more.
            match told.last_mut() {
                Some(last) if last.is_continued_by(&run) => last.count += run.count,
                _ => told.push(run),
            }
        }
        told
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
        window.runs().map(|known| known.run).collect()
    }

    /// Takes a batch that goes to the same file as the one before.
    fn push(window: &mut Window, batch: SequenceRun) -> Change {
        window.push(batch, false, KEEP, drop)
    }

    #[test]
    fn batches_that_follow_each_other_are_one_run() {
        let mut window = Window::new(run(0, 3, 100));
        push(&mut window, run(3, 2, 103));
        push(&mut window, run(5, 1, 105));
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
            push(&mut window, run(nth, 1, u64::from(nth) * 10));
        }
        let kept: Vec<u32> = window.runs().map(|known| known.run.base_sequence).collect();
        assert_eq!(kept, [2, 3, 4, 5]);
        assert_eq!(window.place(1, 1), Place::Past);
        assert_eq!(window.place(2, 1), Place::Known(Offset(20)));
        assert_eq!(window.place(2, 2), Place::Past, "it lies in two runs");
        assert_eq!(window.place(6, 1), Place::Next);
    }

    #[test]
    fn numbers_begin_again_after_the_last() {
        let mut window = Window::new(run(u32::MAX - 1, 1, 10));
        push(&mut window, run(u32::MAX, 3, 11));
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
    fn a_run_that_would_become_too_long_is_followed_by_another() {
        let mut window = Window::new(run(0, MAX_RUN - 1, 0));
        let change = push(&mut window, run(MAX_RUN - 1, 3, u64::from(MAX_RUN - 1)));
        let second = run(MAX_RUN - 1, 3, u64::from(MAX_RUN - 1));
        assert_eq!(runs(&window), [run(0, MAX_RUN - 1, 0), second]);
        assert_eq!(window.place(7, 1), Place::Known(Offset(7)));
        window.take_back(change);
        assert_eq!(runs(&window), [run(0, MAX_RUN - 1, 0)]);
    }

    #[test]
    fn a_run_without_records_says_what_comes_next() {
        let mut window = Window::new(run(7, 0, 50));
        assert_eq!(window.place(7, 2), Place::Next);
        assert_eq!(window.place(6, 1), Place::Past);
        let change = push(&mut window, run(7, 2, 60));
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
        for nth in 0..60_u32 {
            states.push(window.clone());
            offset += match nth % 17 {
                16 => 1 << 33,
                nth => u64::from(nth % 3),
            };
            let batch = run(sequence, 2, offset);
            changes.push(window.push(batch, nth % 5 == 0, KEEP, drop));
            assert!(window.older.count() < KEEP);
            sequence += 2;
            offset += 2;
        }
        while let (Some(change), Some(state)) = (changes.pop(), states.pop()) {
            window.take_back(change);
            assert_eq!(window, state);
        }
    }

    #[test]
    fn a_batch_that_begins_a_file_begins_a_run_and_what_goes_for_it_is_told() {
        let mut window = Window::new(run(0, 1, 0));
        let mut shed = Vec::new();
        let begins: [bool; 8] = [false, true, false, true, true, false, true, true];
        for (nth, begins_file) in (1..).zip(begins) {
            let batch = run(nth, 1, u64::from(nth));
            window.push(batch, begins_file, KEEP, |known| shed.push(known));
        }
        let known = |run, begins_file| KnownRun { run, begins_file };
        let left: Vec<_> = window.runs().collect();
        let last = [run(4, 1, 4), run(5, 2, 5), run(7, 1, 7), run(8, 1, 8)];
        assert_eq!(left, last.map(|run| known(run, true)));
        assert_eq!(shed, [known(run(0, 2, 0), true), known(run(2, 2, 2), true)]);
        // Records that were lost end what is known.
        window.push(run(20, 1, 20), false, KEEP, |known| shed.push(known));
        assert_eq!(shed[2..], left);
        assert_eq!(runs(&window), [run(20, 1, 20)]);
        assert_eq!(window.place(8, 1), Place::Past);
    }

    #[test]
    fn what_was_known_at_an_earlier_end_of_the_log_can_be_told() {
        let mut window = Window::new(run(10, 4, 100));
        push(&mut window, run(14, 2, 110));
        push(&mut window, run(16, 2, 120));
        let before = |end| window.runs_before(Offset(end), Some(9));
        assert_eq!(before(500), runs(&window));
        assert_eq!(
            before(121),
            [run(10, 4, 100), run(14, 2, 110), run(16, 1, 120)]
        );
        assert_eq!(before(120), [run(10, 4, 100), run(14, 2, 110)]);
        assert_eq!(before(102), [run(10, 2, 100)]);
        assert_eq!(before(100), [run(9, 0, 100)]);
        assert_eq!(window.runs_before(Offset(7), None), [run(10, 0, 7)]);
        // That another file began makes no difference.
        window.push(run(18, 2, 122), true, KEEP, drop);
        assert_eq!(window.runs().count(), 4);
        let told = window.runs_before(Offset(500), None);
        assert_eq!(told[2..], [run(16, 4, 120)]);
    }

    #[test]
    fn runs_out_of_order_are_no_window() {
        let of = |runs: &[SequenceRun]| Window::of_runs(runs);
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[run(0, 2, 5), run(2, 1, 6)]), None);
        assert_eq!(of(&[run(0, 0, 5), run(0, 1, 6)]), None);
        let good = [run(0, 2, 5), run(2, 1, 7), run(3, 1, 1 << 31)];
        assert_eq!(of(&good).map(|w| runs(&w)), Some(good.to_vec()));
        // Of those that don't follow each other, the last are known.
        let lost = [run(0, 2, 5), run(3, 1, 8), run(4, 1, 10)];
        assert_eq!(of(&lost).map(|w| runs(&w)), Some(lost[1..].to_vec()));
        let far = [run(0, 2, 5), run(2, 1, 1 << 33)];
        assert_eq!(of(&far).map(|w| runs(&w)), Some(far[1..].to_vec()));
        let long = [run(0, u32::MAX, 0)];
        let end = run(HALF, MAX_RUN, HALF.into());
        assert_eq!(of(&long).map(|w| runs(&w)), Some(vec![end]));
        let before_long = [run(0, 2, 5), run(2, u32::MAX, 7)];
        let end = run(2 + HALF, MAX_RUN, 7 + u64::from(HALF));
        assert_eq!(of(&before_long).map(|w| runs(&w)), Some(vec![end]));
        let many = |n| (0..n).map(|nth| run(nth, 1, u64::from(nth)));
        let many = |n| many(n).collect::<Vec<SequenceRun>>();
        let most = u32::try_from(limits::RUNS_PER_PRODUCER).unwrap();
        assert!(of(&many(most)).is_some());
        assert_eq!(of(&many(most + 1)), None);
    }
}
