//! Batches that say who sent them: new ones, ones that are sent again, and ones
//! that should not be. What the log makes of each is told beforehand by what lies in
//! it, as plainly as it can be said.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::guards::{Guarded, KnownKeys};
use super::model::batch;
use super::world::World;
use crate::model::{
    CheckedBatch, PartitionId, ProducerFence, ProducerStamp, RequestStamp, Stamp, StoredStamp,
};
use crate::storage::{AppendFailure, Claim, JournalAppend, Placed, SequenceError};

/// Of this many batches at the end of a producer's, the offsets are known even if a
/// crash takes some.
const SURELY_KNOWN: usize = 4;

/// Ids below were given out before a damage.
pub(super) const GIVEN_BELOW: u64 = 100;

/// A batch with a stamp, as it lies in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamped {
    pub(super) stamp: StoredStamp,
    pub(super) base: u64,
    pub(super) count: u64,
}

/// What is to become of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// It gets the next offset.
    New,
    /// It lies there already.
    Duplicate(u64),
    /// So it does, but where may be forgotten.
    Old(u64),
    Refused(SequenceError),
    /// A guard of its unit doesn't hold: of this partition, until somebody has seen so much.
    Conflict(PartitionId, u64),
    /// It is refused: numbers before it are missing. Which epoch the producer had last
    /// may be forgotten, and with it that there is a producer.
    Missing,
    /// It is not appended.
    NotNew,
    /// Something was damaged: nobody can say.
    Open,
}

/// The epochs that were given out, by producer: what the metadata would say.
#[derive(Debug, Clone, Default)]
pub(super) struct Epochs(BTreeMap<u64, Arc<ProducerFence>>);

impl Epochs {
    fn newest(&self, id: u64) -> u16 {
        self.0.get(&id).and_then(|fence| fence.epoch()).unwrap_or(0)
    }

    fn fence(&mut self, id: u64) -> Arc<ProducerFence> {
        let new = || Arc::new(ProducerFence::new(0));
        self.0.entry(id).or_insert_with(new).clone()
    }

    fn stamp(&mut self, id: u64, epoch: u16, base_sequence: u32) -> Stamp {
        Stamp::Producer(ProducerStamp {
            id,
            epoch,
            base_sequence,
            fence: Some(self.fence(id)),
        })
    }

    fn restamp(&mut self, stamp: StoredStamp) -> Stamp {
        match stamp {
            StoredStamp::Request(stamp) => Stamp::Request(stamp),
            StoredStamp::Producer {
                id,
                epoch,
                base_sequence,
            } => self.stamp(id, epoch, base_sequence),
        }
    }
}

/// What lies in a partition with stamps, in the order of offsets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct History {
    batches: Vec<Stamped>,
    /// The offset that the partition gives out next.
    pub(super) next_offset: u64,
    /// Damage took something: what is here is not all that was there.
    pub(super) is_partial: bool,
    /// Nobody knows what of this group came before.
    is_open: bool,
    /// Producers whose first batches of an epoch a crash took.
    set_back: BTreeSet<u64>,
}

impl History {
    pub(super) fn push(&mut self, stamped: Stamped) {
        if let StoredStamp::Producer { id, .. } = stamped.stamp {
            self.set_back.remove(&id);
        }
        self.batches.push(stamped);
    }

    /// A crash took the others.
    pub(super) fn retain(&mut self, keep: impl Fn(&Stamped) -> bool) {
        let lost = self.batches.extract_if(.., |stamped| !keep(stamped));
        let lost: Vec<StoredStamp> = lost.map(|stamped| stamped.stamp).collect();
        for stamp in lost {
            if let StoredStamp::Producer { id, epoch, .. } = stamp
                && self.next(id).is_some_and(|(newest, _)| newest < epoch)
            {
                self.set_back.insert(id);
            }
        }
    }

    /// The number that comes next of a producer in this epoch; `None` if nobody knows
    /// the producer.
    fn next_in(&self, producer: u64, epoch: u16) -> Option<u32> {
        let (newest, next) = self.next(producer)?;
        Some(if newest == epoch { next } else { 0 })
    }

    /// Epoch and number of what comes next of a producer.
    fn next(&self, producer: u64) -> Option<(u16, u32)> {
        let next = |stamped: &Stamped| match stamped.stamp {
            StoredStamp::Producer {
                id,
                epoch,
                base_sequence,
            } if id == producer => {
                let count = u32::try_from(stamped.count).unwrap();
                Some((epoch, base_sequence.wrapping_add(count)))
            }
            _ => None,
        };
        self.batches.iter().rev().find_map(next)
    }

    fn expected(&self, stamp: StoredStamp, count: u64, epochs: &Epochs) -> Expected {
        let same = |stamped: &&Stamped| stamped.stamp == stamp && stamped.count == count;
        let found = self.batches.iter().find(same).map(|stamped| stamped.base);
        if self.is_open {
            return Expected::Open;
        }
        let is_of_before = |id| id < GIVEN_BELOW;
        let (id, epoch, base_sequence) = match stamp {
            StoredStamp::Request(_) if self.is_partial => return Expected::Open,
            StoredStamp::Producer { id, .. } if self.is_partial && is_of_before(id) => {
                return Expected::Open;
            }
            StoredStamp::Producer {
                id,
                epoch,
                base_sequence,
            } => (id, epoch, base_sequence),
            StoredStamp::Request(_) => {
                let mut all = self.batches.iter();
                return match (found, all.find(|stamped| stamped.stamp == stamp)) {
                    (Some(base), _) => Expected::Duplicate(base),
                    (None, Some(other)) => Expected::Refused(SequenceError::OtherRequest {
                        records: u32::try_from(other.count).unwrap(),
                    }),
                    (None, None) => Expected::New,
                };
            }
        };
        let gap = |expected| Expected::Refused(SequenceError::Gap { expected });
        let newest = epochs.newest(id);
        if epoch < newest {
            return Expected::Refused(SequenceError::Fenced { epoch: newest });
        }
        match self.next_in(id, epoch) {
            None if base_sequence == 0 => Expected::New,
            None => Expected::Refused(SequenceError::Expired),
            Some(next) if base_sequence == next => Expected::New,
            // A snapshot knows one epoch of each producer. If that had begun behind the
            // checkpoint, the snapshot knows nothing; and if a crash then takes the
            // frames behind the checkpoint, too, nothing tells of the epoch before. It
            // need not: an epoch is given out by a record that is durable before anybody
            // hears of it, so all batches of the one before are fenced, now and after
            // any crash. And of the new one just those numbers are missing that are
            // not in the log: 0 is taken, all others are refused.
            Some(0) if self.set_back.contains(&id) => Expected::Missing,
            Some(next) if base_sequence > next => gap(next),
            Some(next) if u64::from(base_sequence) + count > u64::from(next) => gap(next),
            Some(_) => match (found, self.place(id, epoch, base_sequence, count)) {
                (Some(base), _) if self.is_surely_known(id, base) => Expected::Duplicate(base),
                (_, Some(base)) => Expected::Old(base),
                (_, None) => Expected::Refused(SequenceError::TooOld),
            },
        }
    }

    /// Where records of a producer lie that were appended in any batches, if they lie
    /// one behind the other.
    fn place(&self, producer: u64, of_epoch: u16, base: u32, count: u64) -> Option<u64> {
        let offset = |number: u64| {
            self.batches.iter().find_map(|stamped| match stamped.stamp {
                StoredStamp::Producer {
                    id,
                    epoch,
                    base_sequence,
                } if (id, epoch) == (producer, of_epoch) => {
                    let into = number.checked_sub(base_sequence.into())?;
                    (into < stamped.count).then(|| stamped.base + into)
                }
                _ => None,
            })
        };
        let first = offset(base.into())?;
        let follows = |nth| offset(u64::from(base) + nth) == Some(first + nth);
        (0..count).all(follows).then_some(first)
    }

    fn is_surely_known(&self, producer: u64, base: u64) -> bool {
        let behind = self.batches.iter().rev();
        let behind = behind.take_while(|stamped| stamped.base > base);
        let is_ours = |stamped: &&Stamped| matches!(stamped.stamp, StoredStamp::Producer { id, .. } if id == producer);
        behind.filter(is_ours).count() < SURELY_KNOWN
    }

    /// No number of a producer, and no request, may lie in the log twice.
    pub(super) fn check_is_new(&self, new: Stamped) {
        for old in &self.batches {
            let is_same = match (old.stamp, new.stamp) {
                (
                    StoredStamp::Producer {
                        id: old_id,
                        epoch: old_epoch,
                        base_sequence: old_base,
                    },
                    StoredStamp::Producer {
                        id,
                        epoch,
                        base_sequence,
                    },
                ) => {
                    let (old_base, base) = (u64::from(old_base), u64::from(base_sequence));
                    let overlap = old_base < base + new.count && base < old_base + old.count;
                    (id, epoch) == (old_id, old_epoch) && overlap
                }
                // Of requests nothing is left if the snapshot is lost.
                (old, new) => old == new && !self.is_partial,
            };
            assert!(!is_same, "{new:?} lies in the log already: {old:?}");
        }
    }
}

impl Expected {
    pub(super) fn check(self, placed: Placed) {
        let is_as_expected = match (self, placed) {
            (Expected::New, Placed::At(_))
            | (Expected::Old(_), Placed::Refused(SequenceError::TooOld))
            | (
                Expected::Missing,
                Placed::Refused(SequenceError::Gap { expected: 0 } | SequenceError::Expired),
            ) => true,
            (Expected::Duplicate(base) | Expected::Old(base), Placed::Duplicate(offset)) => {
                offset.0 == base
            }
            (Expected::Refused(expected), Placed::Refused(error)) => error == expected,
            (Expected::Conflict(partition, wait_for), Placed::Conflict(conflict)) => {
                (conflict.partition, conflict.wait_for.0) == (partition, wait_for)
            }
            (Expected::NotNew, placed) => !matches!(placed, Placed::At(_)),
            (Expected::Open, placed) => placed != Placed::Deleted,
            _ => false,
        };
        assert!(is_as_expected, "expected {self:?}, not {placed:?}");
    }
}

/// An append, as far as it matters here: partition, stamp, records.
pub(super) type Fact = (PartitionId, Option<StoredStamp>, u64);

/// What is to become of the appends of a unit that is placed under conditions.
pub(super) fn expected_of_guarded(
    histories: &mut BTreeMap<PartitionId, History>,
    unit: &[Fact],
    epochs: &Epochs,
    known: &KnownKeys,
    guards: &[Guarded],
) -> Vec<Expected> {
    let is_open = guards.iter().any(|guarded| histories[&guarded.id].is_open);
    if is_open {
        for (id, _, _) in unit {
            histories.get_mut(id).expect("it is there").is_open = true;
        }
        return vec![Expected::Open; unit.len()];
    }
    let before = histories.clone();
    let expected = expected_of_unit(histories, unit, epochs);
    match known.expected(guards) {
        Some(conflict) if expected[0] == Expected::New => {
            *histories = before;
            vec![conflict; unit.len()]
        }
        _ => expected,
    }
}

/// What is to become of the appends of a unit: all or nothing. Takes those that are
/// new as appended.
pub(super) fn expected_of_unit(
    histories: &mut BTreeMap<PartitionId, History>,
    unit: &[Fact],
    epochs: &Epochs,
) -> Vec<Expected> {
    let of_unit = unit.iter().map(|(id, ..)| (*id, histories[id].clone()));
    let mut after: BTreeMap<PartitionId, History> = of_unit.collect();
    let mut expected = Vec::new();
    for &(id, stamp, count) in unit {
        let history = after.get_mut(&id).expect("it is of the unit");
        let of_stamp = |stamp| history.expected(stamp, count, epochs);
        expected.push(stamp.map_or(Expected::New, of_stamp));
        if expected.last() == Some(&Expected::New) {
            let base = history.next_offset;
            history.next_offset += count;
            history
                .batches
                .extend(stamp.map(|stamp| Stamped { stamp, base, count }));
        }
    }
    let all = |expected| vec![expected; unit.len()];
    let is_refused =
        |expected: &&Expected| matches!(expected, Expected::Refused(_) | Expected::Missing);
    let is_old = |expected: &Expected| matches!(expected, Expected::Old(_));
    if expected.contains(&Expected::Open) {
        for (id, _, _) in unit {
            let history = histories.get_mut(id).expect("it is there");
            history.is_open = true;
        }
        return all(Expected::Open);
    }
    if unit.len() > 1 && expected.iter().any(is_old) {
        return all(Expected::NotNew);
    }
    if let Some(refused) = expected.iter().find(is_refused) {
        return all(*refused);
    }
    let new = expected.iter().filter(|e| **e == Expected::New).count();
    if new == unit.len() {
        histories.extend(after);
    } else if new > 0 {
        return all(Expected::Refused(SequenceError::SplitUnit));
    }
    expected
}

impl World {
    /// A stamp for a batch of `count` records, or another count where it is one that
    /// lies there already.
    pub(super) fn some_stamp(&mut self, history: &History, count: u32) -> (Stamp, u32) {
        if self.random.one_in(4) {
            let name = self.random.between(0, 8).to_le_bytes();
            let stamp = RequestStamp::of(&name);
            let mut all = history.batches.iter();
            let known = all.find(|stamped| stamped.stamp == StoredStamp::Request(stamp));
            let again = known.filter(|_| self.random.one_in(2));
            let count = again.map_or(count, |known| u32::try_from(known.count).unwrap());
            return (Stamp::Request(stamp), count);
        }
        let id = self.some_producer();
        let epoch = self.epochs.newest(id);
        let next = history.next_in(id, epoch).unwrap_or(0);
        let (epoch, base_sequence) = match self.random.between(0, 20) {
            0 => (epoch.saturating_sub(1), next),
            1 => (
                epoch,
                next + u32::try_from(self.random.between(1, 5)).unwrap(),
            ),
            2 => (epoch, next.saturating_sub(1)),
            3..8 => match self.resent(history, id) {
                Some(resent) => return resent,
                None => (epoch, next),
            },
            _ => (epoch, next),
        };
        (self.epochs.stamp(id, epoch, base_sequence), count)
    }

    fn some_producer(&mut self) -> u64 {
        2 + 2 * self.random.between(0, 4) + self.id_offset
    }

    /// A producer begins anew.
    pub(super) fn begin_epoch(&mut self) {
        let id = self.some_producer();
        let next = self.epochs.newest(id) + 1;
        self.epochs.fence(id).raise(next);
    }

    /// A batch that lies there, to be sent again.
    fn resent(&mut self, history: &History, producer_id: u64) -> Option<(Stamp, u32)> {
        let is_theirs = |stamped: &&Stamped| matches!(stamped.stamp, StoredStamp::Producer { id, .. } if id == producer_id);
        let theirs: Vec<Stamped> = history.batches.iter().filter(is_theirs).copied().collect();
        // Mostly one of the last.
        let back = match self.random.one_in(4) {
            true => self.random.between(0, theirs.len() as u64 + 1),
            false => self.random.between(0, SURELY_KNOWN as u64),
        };
        let index = theirs
            .len()
            .checked_sub(1 + usize::try_from(back).unwrap())?;
        let count = u32::try_from(theirs[index].count).unwrap();
        Some((self.epochs.restamp(theirs[index].stamp), count))
    }

    /// Sends everything that lies in the log with a stamp once more.
    pub(super) fn resend_all(&mut self) {
        let partitions = self.model.partitions.iter();
        let histories: Vec<(PartitionId, History)> = partitions
            .map(|(id, partition)| (*id, partition.history.clone()))
            .collect();
        for (id, history) in histories {
            for stamped in &history.batches {
                let expected = history.expected(stamped.stamp, stamped.count, &self.epochs);
                expected.check(self.resend(id, stamped));
            }
        }
    }

    fn resend(&mut self, id: PartitionId, stamped: &Stamped) -> Placed {
        let stamp = self.epochs.restamp(stamped.stamp);
        let append = JournalAppend {
            log: self.storage().partition(id),
            batch: CheckedBatch {
                stamp: Some(stamp),
                ..batch(0, u32::try_from(stamped.count).unwrap(), 10)
            },
            unit_remaining: 0,
            guards: Vec::new(),
            claim: Claim::User,
        };
        let group = [append];
        loop {
            match self.storage().append(&group, 0) {
                Ok(written) => return written.placed[0],
                Err(AppendFailure::JournalFull) => self.archive(),
                Err(error) => panic!("no fault is set, but: {error}"),
            }
        }
    }
}
