//! The numbers by which the broker tells a batch that is sent again from a new
//! one. No I/O.
//!
//! Under an identity that the broker gave, the records of each partition are
//! counted in the order in which they are first sent. A batch keeps its number
//! however often it is sent, over whatever connections, so that of all its copies
//! one is appended. The broker takes a number only when everything before it is
//! there; then no batch can overtake another.
//!
//! - A number that was sent stands for no other records as long as a copy of it
//!   may be on its way: of a connection that is lost the broker may still have
//!   requests, and would take the one for the other. When such a batch was given
//!   up, the partition's numbers are *doubtful*.
//! - A batch gets another number only when it can't be appended under the one that
//!   it had: the broker refused it, and what it misses before it won't come any
//!   more. If a copy may be on its way, it is numbered under another identity.
//! - A partition's batches that aren't settled are all of one identity.

use std::collections::HashMap;
use std::sync::Arc;

use super::batch::CutBatch;
use super::builder::Naming;

/// Batches of a partition that aren't answered, at most. The broker can tell the
/// places of so many of them, whatever other producers append in between.
pub(super) const MAX_UNANSWERED: usize = 32;

/// An identity must be got before anything else is numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The last one, which won't do any more.
    pub(super) former: Option<Identity>,
}

/// Who numbers, as the broker knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) producer_id: u64,
    pub(super) epoch: u32,
}

/// Which batch it is, of all that a producer sends to a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number {
    pub(super) identity: Identity,
    /// How many records were counted before it.
    pub(super) base: u32,
    /// A copy with this number went over a connection that was lost before the
    /// answer came: it may have been appended, and may yet be.
    pub(super) lost: bool,
}

/// A partition that the producer sends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Slot(u32);

#[cfg(test)]
impl Slot {
    /// Of the partition with this number in [`Sequences::test`].
    pub(super) fn test(number: u32) -> Self {
        Self(number)
    }
}

#[cfg(test)]
impl Sequences {
    /// With some partitions; without an identity they have no numbers.
    pub(super) fn test(identity: Option<Identity>) -> Self {
        let naming = if identity.is_some() {
            Naming::Anonymous
        } else {
            Naming::Off
        };
        let mut sequences = Self::new(&naming, 8);
        for partition in 0..16 {
            sequences.slot(&"t".into(), partition);
        }
        if identity.is_some() {
            sequences.identify(identity);
        }
        sequences
    }
}

/// The numbers of all partitions. A partition stays for as long as the producer
/// lives: its numbers must not begin again while the broker remembers them. It
/// takes some 100 bytes.
#[derive(Debug)]
pub(super) struct Sequences {
    standing: Standing,
    /// An identity ends the one before, in all partitions.
    exclusive: bool,
    slots: HashMap<(Arc<str>, u32), Slot>,
    partitions: Vec<Sequence>,
    /// The request that is being put together.
    request: u64,
    /// Batches of a partition in one request, at most.
    max_per_request: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Batches have no numbers: nobody wants them.
    Off,
    Wanted(Wanted),
    Known(Identity),
    /// Batches have no numbers: the broker is too old.
    Unsupported,
}

#[derive(Debug, Default)]
struct Sequence {
    /// Under which the partition's batches are numbered; `None` before the first.
    identity: Option<Identity>,
    /// The number of the next batch.
    next: u32,
    /// Of a batch that was given up, a copy may be on its way: its number isn't to
    /// be used again.
    doubtful: bool,
    /// The last request with batches for this partition, and how many.
    request: u64,
    batches: u32,
}

impl Sequences {
    /// With so many requests on their way at most.
    pub(super) fn new(naming: &Naming, max_in_flight: usize) -> Self {
        let max_per_request = (MAX_UNANSWERED / max_in_flight.max(1)).max(1);
        Self {
            standing: match naming {
                Naming::Off => Standing::Off,
                _ => Standing::Wanted(Wanted { former: None }),
            },
            exclusive: naming.name().is_some(),
            slots: HashMap::new(),
            partitions: Vec::new(),
            request: 0,
            max_per_request: u32::try_from(max_per_request).unwrap_or(u32::MAX),
        }
    }

    /// Of a partition, always the same.
    pub(super) fn slot(&mut self, topic: &Arc<str>, partition: u32) -> Slot {
        let slot = self.slots.entry((Arc::clone(topic), partition));
        *slot.or_insert_with(|| {
            let number = u32::try_from(self.partitions.len());
            self.partitions.push(Sequence::default());
            Slot(number.expect("there are fewer than 2^32 partitions"))
        })
    }

    /// Whether nothing may be sent before the broker has given an identity.
    pub(super) fn is_blocked(&self) -> bool {
        matches!(self.standing, Standing::Wanted(_))
    }

    /// What the broker is to be asked before the next connection is used; one that
    /// was too old to answer may have been replaced.
    pub(super) fn wanted(&self) -> Option<Wanted> {
        match self.standing {
            Standing::Wanted(wanted) => Some(wanted),
            Standing::Unsupported => Some(Wanted { former: None }),
            Standing::Off | Standing::Known(_) => None,
        }
    }

    /// The broker gave an identity; `None` if it is too old to.
    pub(super) fn identify(&mut self, identity: Option<Identity>) {
        self.standing = identity.map_or(Standing::Unsupported, Standing::Known);
    }

    /// Numbers a batch that is sent for the first time.
    pub(super) fn number(&mut self, batch: &mut CutBatch) {
        if batch.number.is_some() {
            return;
        }
        let newest = match self.standing {
            Standing::Known(identity) => identity,
            Standing::Off | Standing::Unsupported => return,
            Standing::Wanted(_) => unreachable!("nothing is sent without an identity"),
        };
        let sequence = &mut self.partitions[batch.slot.0 as usize];
        batch.number = Some(Number {
            identity: *sequence.identity.get_or_insert(newest),
            base: sequence.next,
            lost: false,
        });
        sequence.next = sequence.next.wrapping_add(batch.encoded.record_count);
    }

    /// A request is put together.
    pub(super) fn begin_request(&mut self) {
        self.request += 1;
    }

    /// Whether the request takes another batch of this partition; counts it.
    pub(super) fn admit(&mut self, slot: Slot) -> bool {
        if self.standing == Standing::Off {
            return true;
        }
        let sequence = &mut self.partitions[slot.0 as usize];
        if sequence.request != self.request {
            sequence.request = self.request;
            sequence.batches = 0;
        }
        let room = sequence.batches < self.max_per_request;
        sequence.batches += u32::from(room);
        room
    }

    /// The batch is given up, or refused for good.
    pub(super) fn give_up(&mut self, batch: &CutBatch) {
        if batch.is_lost() {
            self.doubt(batch);
        }
    }

    /// The batch is given up, and nobody knows whether it was appended.
    pub(super) fn doubt(&mut self, batch: &CutBatch) {
        let Some(number) = batch.number else { return };
        let sequence = &mut self.partitions[batch.slot.0 as usize];
        sequence.doubtful |= sequence.identity == Some(number.identity);
    }

    /// Whether numbers that were used must not be used again.
    pub(super) fn is_doubtful(&self, slot: Slot) -> bool {
        self.partitions[slot.0 as usize].doubtful
    }

    /// The partition's next batch has this number.
    pub(super) fn restart(&mut self, slot: Slot, next: u32) {
        self.partitions[slot.0 as usize].next = next;
    }

    /// Whether a partition can leave its identity only together with all others:
    /// nothing is appended any more under a name's former identity.
    pub(super) fn is_exclusive(&self) -> bool {
        self.exclusive
    }

    /// The partition's next batch is the first of an identity that it didn't have
    /// before.
    pub(super) fn leave(&mut self, slot: Slot) {
        let sequence = &mut self.partitions[slot.0 as usize];
        let left = sequence.leave();
        if let Standing::Known(newest) = self.standing
            && left == Some(newest)
        {
            let former = Some(newest);
            self.standing = Standing::Wanted(Wanted { former });
        }
    }

    /// As [`Sequences::leave`], of all partitions.
    pub(super) fn leave_all(&mut self) {
        for sequence in &mut self.partitions {
            sequence.leave();
        }
        if let Standing::Known(newest) = self.standing {
            let former = Some(newest);
            self.standing = Standing::Wanted(Wanted { former });
        }
    }
}

impl Sequence {
    /// Returns the identity that it had.
    fn leave(&mut self) -> Option<Identity> {
        self.next = 0;
        self.doubtful = false;
        self.identity.take()
    }
}

#[cfg(test)]
mod tests {
    use super::super::batch::test_batch;
    use super::*;

    const FIRST: Identity = Identity {
        producer_id: 7,
        epoch: 0,
    };
    const SECOND: Identity = Identity {
        producer_id: 7,
        epoch: 1,
    };

    fn numbered() -> (Sequences, Slot, Slot) {
        (Sequences::test(Some(FIRST)), Slot::test(0), Slot::test(1))
    }

    fn next(sequences: &mut Sequences, slot: Slot, records: u32) -> CutBatch {
        let mut batch = test_batch(slot, records);
        sequences.number(&mut batch);
        batch
    }

    fn number(sequences: &mut Sequences, slot: Slot, records: u32) -> (Identity, u32) {
        let number = next(sequences, slot, records).number.unwrap();
        (number.identity, number.base)
    }

    #[test]
    fn each_partition_counts_its_records_modulo_2_to_the_32() {
        let (mut sequences, a, b) = numbered();
        assert_eq!(number(&mut sequences, a, 3), (FIRST, 0));
        assert_eq!(number(&mut sequences, a, 4), (FIRST, 3));
        assert_eq!(number(&mut sequences, b, 1), (FIRST, 0));
        sequences.restart(a, u32::MAX - 1);
        assert_eq!(number(&mut sequences, a, 5), (FIRST, u32::MAX - 1));
        assert_eq!(number(&mut sequences, a, 1), (FIRST, 3));
    }

    #[test]
    fn batch_that_has_a_number_keeps_it() {
        let (mut sequences, a, _) = numbered();
        let mut batch = next(&mut sequences, a, 3);
        let before = batch.number;
        sequences.number(&mut batch);
        assert_eq!(batch.number, before);
        assert_eq!(number(&mut sequences, a, 1), (FIRST, 3));
    }

    #[test]
    fn partition_is_found_again_by_its_name() {
        let (mut sequences, a, b) = numbered();
        assert_ne!(a, b);
        assert_eq!(sequences.slot(&"t".into(), 1), b);
        assert_ne!(sequences.slot(&"u".into(), 1), b);
    }

    #[test]
    fn partition_that_leaves_an_identity_waits_for_one_that_it_did_not_have() {
        let (mut sequences, a, b) = numbered();
        number(&mut sequences, a, 3);
        number(&mut sequences, b, 3);
        sequences.leave(a);
        assert!(sequences.is_blocked());
        assert_eq!(sequences.wanted().unwrap().former, Some(FIRST));
        sequences.identify(Some(SECOND));
        assert_eq!(sequences.wanted(), None);
        assert_eq!(number(&mut sequences, a, 1), (SECOND, 0));
        // Others go on as they did, and move on without another one.
        assert_eq!(number(&mut sequences, b, 1), (FIRST, 3));
        sequences.leave(b);
        assert!(!sequences.is_blocked());
        assert_eq!(number(&mut sequences, b, 1), (SECOND, 0));
    }

    #[test]
    fn doubt_lasts_as_long_as_the_identity() {
        let (mut sequences, a, _) = numbered();
        let mut batch = next(&mut sequences, a, 3);
        sequences.give_up(&batch);
        assert!(!sequences.is_doubtful(a), "its one copy was answered");
        batch.number.as_mut().unwrap().lost = true;
        sequences.give_up(&batch);
        assert!(sequences.is_doubtful(a));
        sequences.leave(a);
        sequences.give_up(&batch);
        assert!(!sequences.is_doubtful(a));
    }

    #[test]
    fn nothing_is_numbered_unless_wanted_and_known_to_the_broker() {
        let mut off = Sequences::new(&Naming::Off, 8);
        assert_eq!(off.wanted(), None);
        let slot = off.slot(&"t".into(), 0);
        assert_eq!(next(&mut off, slot, 1).number, None);

        let (mut old, a, _) = numbered();
        old.identify(None);
        assert!(old.wanted().is_some() && !old.is_blocked());
        assert_eq!(next(&mut old, a, 1).number, None);
    }

    #[test]
    fn requests_hold_no_more_batches_of_a_partition_than_the_broker_remembers() {
        let (mut sequences, a, b) = numbered();
        for _ in 0..3 {
            sequences.begin_request();
            let admitted = (0..9).filter(|_| sequences.admit(a)).count();
            assert_eq!(admitted * 8, MAX_UNANSWERED);
            assert!(sequences.admit(b));
        }
        let mut off = Sequences::new(&Naming::Off, 8);
        let slot = off.slot(&"t".into(), 0);
        off.begin_request();
        assert!((0..100).all(|_| off.admit(slot)));
    }
}
