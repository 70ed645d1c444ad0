//! What a member takes before it gives more.
//!
//! A batch that is larger than what is left is sent all the same. The difference is
//! owed, and what the member gives next pays it first: else each such batch would
//! let the member be sent more than it takes, for good.

use statecast_proto::v1;

use crate::server::reading::Allowance;

#[derive(Debug)]
pub(super) struct Credit {
    left: Allowance,
    /// Beyond what was given; only of what nothing is left of.
    owed: Allowance,
}

impl Credit {
    pub(super) fn new(capacity: Allowance) -> Credit {
        Credit {
            left: capacity,
            owed: Allowance {
                bytes: 0,
                records: 0,
            },
        }
    }

    /// How much may be sent.
    pub(super) fn left(&self) -> Allowance {
        self.left
    }

    /// A batch is sent.
    pub(super) fn spend(&mut self, batch: &v1::FetchedBatch) {
        if self.left == Allowance::UNLIMITED {
            return;
        }
        let bytes = batch.batch.len() as u64;
        let records = batch.next_offset - batch.base_offset;
        spend(&mut self.left.bytes, &mut self.owed.bytes, bytes);
        spend(&mut self.left.records, &mut self.owed.records, records);
    }

    /// The member takes more.
    pub(super) fn give(&mut self, credit: Allowance) {
        give(&mut self.left.bytes, &mut self.owed.bytes, credit.bytes);
        let (left, owed) = (&mut self.left.records, &mut self.owed.records);
        give(left, owed, credit.records);
    }
}

fn spend(left: &mut u64, owed: &mut u64, amount: u64) {
    *owed = owed.saturating_add(amount.saturating_sub(*left));
    *left = left.saturating_sub(amount);
}

fn give(left: &mut u64, owed: &mut u64, amount: u64) {
    let paid = amount.min(*owed);
    *owed -= paid;
    *left = left.saturating_add(amount - paid);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(bytes: usize, records: u64) -> v1::FetchedBatch {
        v1::FetchedBatch {
            batch: vec![0; bytes].into(),
            next_offset: records,
            ..v1::FetchedBatch::default()
        }
    }

    fn allowance(bytes: u64, records: u64) -> Allowance {
        Allowance { bytes, records }
    }

    #[test]
    fn what_was_sent_beyond_the_credit_is_paid_before_more_is_sent() {
        let mut credit = Credit::new(allowance(10, 10));
        for _ in 0..1000 {
            credit.spend(&batch(9, 1));
            credit.spend(&batch(100, 20));
            assert_eq!(credit.left(), allowance(0, 0));
            credit.give(allowance(100, 20));
            credit.give(allowance(9, 1));
            assert_eq!(credit.left(), allowance(10, 10), "as much as it takes");
        }
    }

    #[test]
    fn who_sets_no_bound_owes_nothing() {
        let mut credit = Credit::new(Allowance::UNLIMITED);
        credit.spend(&batch(100, 20));
        credit.give(allowance(100, 20));
        assert_eq!(credit.left(), Allowance::UNLIMITED);
    }
}
