//! What the member takes before it must give more: bounds the memory of a
//! consumer. Pure.
//!
//! The broker subtracts each batch that it sends from what it was given; what
//! the consumer is done with is given again. So the batches that are queued,
//! being processed, and those whose credit wasn't given again yet, never are
//! more than the capacity and a batch.

use statecast_proto::v1;

/// A size in both units that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Cost {
    pub(super) bytes: u64,
    pub(super) records: u64,
}

impl Cost {
    /// What the broker subtracts for a batch.
    pub(super) fn of(batch: &v1::FetchedBatch) -> Self {
        Self {
            bytes: batch.batch.len() as u64,
            records: batch.next_offset.saturating_sub(batch.base_offset),
        }
    }

    fn add(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.records = self.records.saturating_add(other.records);
    }

    fn without(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(other.bytes),
            records: self.records.saturating_sub(other.records),
        }
    }

    fn is_nothing(self) -> bool {
        self == Self::default()
    }

    fn into_wire(self) -> v1::Credit {
        v1::Credit {
            bytes: Some(self.bytes),
            records: Some(self.records),
        }
    }
}

/// Once this part of the capacity is free, the broker is told.
const PART: u64 = 4;

#[derive(Debug)]
pub(super) struct Credit {
    capacity: Cost,
    /// Of batches that the user has.
    taken: Cost,
    /// To be given again.
    free: Cost,
    /// To be given again once the user asks for more: a member that gives
    /// credit counts as one that makes progress.
    withheld: Cost,
    /// The broker took the user for stuck, and it hasn't asked for more since.
    stuck: bool,
    /// It has asked for more since: something is to be given, though it may be
    /// nothing.
    moves: bool,
}

impl Credit {
    pub(super) fn new(capacity: Cost) -> Self {
        Self {
            capacity,
            taken: Cost::default(),
            free: Cost::default(),
            withheld: Cost::default(),
            stuck: false,
            moves: false,
        }
    }

    /// A stream begins: nothing is queued. What it is given first.
    pub(super) fn begin(&mut self) -> v1::Credit {
        self.free = Cost::default();
        self.withheld = Cost::default();
        self.stuck = false;
        self.moves = false;
        self.capacity.without(self.taken).into_wire()
    }

    /// The user takes a batch.
    pub(super) fn take(&mut self, cost: Cost) {
        self.taken.add(cost);
    }

    /// The user is done with a batch.
    pub(super) fn finish(&mut self, cost: Cost) {
        self.taken = self.taken.without(cost);
        self.free.add(cost);
    }

    /// A batch isn't to be handed out any more.
    pub(super) fn withhold(&mut self, cost: Cost) {
        self.withheld.add(cost);
    }

    /// The user asks for more.
    pub(super) fn ask(&mut self) {
        let withheld = std::mem::take(&mut self.withheld);
        self.free.add(withheld);
        self.moves |= std::mem::take(&mut self.stuck);
    }

    /// The broker takes the user for stuck.
    pub(super) fn is_stuck(&mut self) {
        self.stuck = true;
    }

    /// Whether something is to be given: at once if `any`, else once it is
    /// worth a message.
    pub(super) fn is_due(&self, any: bool) -> bool {
        let Cost { bytes, records } = self.free;
        let much = bytes >= self.capacity.bytes.div_ceil(PART)
            || records >= self.capacity.records.div_ceil(PART);
        self.moves || (!self.free.is_nothing() && (any || much))
    }

    /// Gives what is free.
    pub(super) fn give(&mut self) -> v1::Credit {
        self.moves = false;
        std::mem::take(&mut self.free).into_wire()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(bytes: u64, records: u64) -> Cost {
        Cost { bytes, records }
    }

    fn wire(bytes: u64, records: u64) -> v1::Credit {
        cost(bytes, records).into_wire()
    }

    #[test]
    fn credit_comes_back_when_a_batch_is_finished() {
        let mut credit = Credit::new(cost(1000, 100));
        assert_eq!(credit.begin(), wire(1000, 100));
        credit.take(cost(300, 3));
        assert!(!credit.is_due(true));
        credit.finish(cost(300, 3));
        assert!(credit.is_due(false));
        assert_eq!(credit.give(), wire(300, 3));
        assert!(!credit.is_due(true));
    }

    #[test]
    fn little_credit_waits_for_more_or_for_a_reason() {
        let mut credit = Credit::new(cost(1000, 100));
        credit.begin();
        credit.finish(cost(10, 1));
        assert!(!credit.is_due(false));
        assert!(credit.is_due(true));
        credit.finish(cost(10, 24));
        assert!(credit.is_due(false), "a quarter of the records");
    }

    #[test]
    fn dropped_batches_are_no_progress_until_the_user_asks() {
        let mut credit = Credit::new(cost(1000, 100));
        credit.begin();
        credit.withhold(cost(500, 50));
        assert!(!credit.is_due(true));
        credit.ask();
        assert_eq!(credit.give(), wire(500, 50));
    }

    #[test]
    fn member_that_moves_says_so_even_without_credit() {
        let mut credit = Credit::new(cost(1000, 100));
        credit.begin();
        credit.is_stuck();
        assert!(!credit.is_due(true));
        credit.ask();
        assert!(credit.is_due(false));
        assert_eq!(credit.give(), wire(0, 0));
        assert!(!credit.is_due(true));
    }

    #[test]
    fn new_stream_is_given_what_the_user_does_not_hold() {
        let mut credit = Credit::new(cost(1000, 100));
        credit.begin();
        credit.take(cost(400, 40));
        credit.finish(cost(100, 10));
        assert_eq!(credit.begin(), wire(700, 70));
        assert!(!credit.is_due(true), "given with the new stream");
        credit.take(cost(5000, 500));
        assert_eq!(credit.begin(), wire(0, 0));
    }
}
