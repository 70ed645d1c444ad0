//! Units that are appended together, and what is to become of each.

use std::collections::BTreeMap;

use super::guards::{Guarded, KnownKeys};
use super::stamps::{Epochs, Expected, History, expected_of_guarded};
use super::world::Fact;
use crate::model::PartitionId;
use crate::storage::{Claim, JournalAppend};

/// A few units, and what is to become of them.
pub(super) struct Group {
    pub(super) appends: Vec<JournalAppend>,
    pub(super) facts: Vec<Fact>,
    /// Those that the appends have.
    pub(super) guards: Vec<Guarded>,
    pub(super) claim: Claim,
    /// How it will be behind them.
    pub(super) histories: BTreeMap<PartitionId, History>,
    pub(super) known_keys: KnownKeys,
}

impl Group {
    /// Says what is to become of the last unit, from the `first` append on.
    pub(super) fn expect_unit(&mut self, first: usize, guards: &[Guarded], epochs: &Epochs) {
        let facts = &mut self.facts[first..];
        let unit: Vec<_> = facts.iter().map(|f| (f.id, f.stamp, f.count)).collect();
        let next = |fact: &Fact| (fact.id, self.histories[&fact.id].next_offset);
        let mut next: BTreeMap<PartitionId, u64> = facts.iter().map(next).collect();
        let (histories, known) = (&mut self.histories, &self.known_keys);
        let expected = expected_of_guarded(histories, &unit, epochs, known, guards);
        for (fact, expected) in facts.iter_mut().zip(expected) {
            fact.expected = expected;
            if expected == Expected::New {
                let next = next.get_mut(&fact.id).expect("it is of the unit");
                self.known_keys.note(fact.id, *next, &fact.keys);
                *next += fact.count;
            }
        }
    }
}
