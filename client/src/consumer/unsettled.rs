//! What was processed and not committed when a connection was lost. Pure.
//!
//! Nobody can commit it any more: the partition came back, or went elsewhere, with
//! what the group had committed. It is settled once its records are handed out
//! again, here or to another member, or turn out to be committed: an answer may have
//! been lost with the connection. Or once its topic is gone: then there is nothing left
//! that could be processed twice.

use std::collections::{BTreeMap, BTreeSet};

use super::event::TopicPartition;
use crate::error::Error;

/// By partition, up to where it was processed.
#[derive(Debug, Clone, Default)]
pub(super) struct Unsettled(BTreeMap<TopicPartition, u64>);

impl Unsettled {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A partition was processed up to `offset`, and that isn't known to be committed.
    pub(super) fn add(&mut self, place: TopicPartition, offset: u64) {
        let known = self.0.entry(place).or_default();
        *known = offset.max(*known);
    }

    /// What lies before `offset` is committed, or handed out again.
    pub(super) fn settle(&mut self, place: &TopicPartition, offset: u64) {
        if self.0.get(place).is_some_and(|&known| known <= offset) {
            self.0.remove(place);
        }
    }

    /// Another member has the partition.
    pub(super) fn goes_on(&mut self, place: &TopicPartition) {
        self.0.remove(place);
    }

    /// There are no other partitions than these.
    pub(super) fn keep(&mut self, there: &BTreeSet<TopicPartition>) {
        self.0.retain(|place, _| there.contains(place));
    }

    /// Fails unless all is settled.
    pub(super) fn outcome(&self) -> Result<(), Error> {
        let Some((place, offset)) = self.0.first_key_value() else {
            return Ok(());
        };
        let message = format!(
            "{}/{} was processed up to offset {offset}, which wasn't committed before the \
             connection was lost",
            place.topic, place.partition
        );
        Err(Error::Connection(message.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(partition: u32) -> TopicPartition {
        TopicPartition {
            topic: "t".into(),
            partition,
        }
    }

    #[test]
    fn it_is_settled_when_all_of_it_is_and_not_before() {
        let mut unsettled = Unsettled::default();
        unsettled.add(place(0), 10);
        unsettled.add(place(0), 5);
        unsettled.settle(&place(0), 9);
        unsettled.settle(&place(1), 100);
        let told = unsettled.outcome().unwrap_err().to_string();
        assert!(
            told.starts_with("t/0 was processed up to offset 10"),
            "{told}"
        );
        unsettled.settle(&place(0), 10);
        unsettled.outcome().unwrap();
        unsettled.add(place(1), 3);
        unsettled.goes_on(&place(1));
        assert!(unsettled.is_empty());
        unsettled.add(place(2), 3);
        unsettled.keep(&BTreeSet::from([place(2), place(3)]));
        unsettled.outcome().unwrap_err();
        unsettled.keep(&BTreeSet::from([place(3)]));
        unsettled.outcome().unwrap();
    }
}
