//! What arrived and wasn't handed out yet, in its order. Pure.
//!
//! It is bounded though nobody may ask for long: batches by the credit that the
//! broker was given; and what is told of a partition by leaving out what was
//! over before anybody asked: of each partition that the user knows of, at most
//! that it is to be given back and that it is gone, and of each other one that
//! the member has, that it has it.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use statecast_proto::v1::FetchedBatch;

use super::credit::Cost;
use super::event::{AssignedPartition, GroupEvent, RevokeReason, TopicPartition};
use super::shares::ShareId;
use crate::error::Error;

/// A batch as it arrived.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) share: ShareId,
    pub(super) topic: Arc<str>,
    /// Those that are to be handed out.
    pub(super) offsets: Range<u64>,
    pub(super) wire: FetchedBatch,
    pub(super) cost: Cost,
}

/// Records that can't be had.
#[derive(Debug)]
pub(super) struct Missing {
    pub(super) share: ShareId,
    /// Where it goes on.
    pub(super) to: u64,
    pub(super) error: Error,
}

#[derive(Debug)]
pub(super) enum Item {
    Batch(Arrived),
    Missing(Missing),
    Event(GroupEvent),
}

#[derive(Debug)]
enum Entry {
    Item(Item),
    Assigned {
        generation: u64,
        partitions: Vec<(ShareId, AssignedPartition)>,
    },
}

#[derive(Debug, Default)]
pub(super) struct Inbox {
    entries: VecDeque<Entry>,
    /// Shares that the user doesn't know of yet.
    untold: BTreeSet<ShareId>,
    /// Batches among the entries.
    batches: usize,
}

impl Inbox {
    /// Whether the user will wait for the next batch.
    pub(super) fn has_batches(&self) -> bool {
        self.batches > 0
    }

    pub(super) fn batch(&mut self, batch: Arrived) {
        self.batches += 1;
        self.entries.push_back(Entry::Item(Item::Batch(batch)));
    }

    pub(super) fn missing(&mut self, missing: Missing) {
        self.entries.push_back(Entry::Item(Item::Missing(missing)));
    }

    pub(super) fn assigned(
        &mut self,
        generation: u64,
        partitions: Vec<(ShareId, AssignedPartition)>,
    ) {
        self.untold.extend(partitions.iter().map(|(id, _)| *id));
        self.entries.push_back(Entry::Assigned {
            generation,
            partitions,
        });
    }

    /// These are to be given back. What arrived of them isn't handed out any
    /// more; its cost is returned.
    pub(super) fn revoked(
        &mut self,
        shares: &[(ShareId, TopicPartition)],
        deadline: Instant,
        reason: RevokeReason,
    ) -> Cost {
        let (partitions, dropped) = self.end(shares);
        if !partitions.is_empty() {
            self.event(GroupEvent::Revoked {
                partitions,
                deadline,
                reason,
            });
        }
        dropped
    }

    /// These are gone, as for [`Inbox::revoked`].
    pub(super) fn lost(
        &mut self,
        shares: &[(ShareId, TopicPartition)],
        reason: RevokeReason,
    ) -> Cost {
        let (partitions, dropped) = self.end(shares);
        if !partitions.is_empty() {
            self.event(GroupEvent::Lost { partitions, reason });
        }
        dropped
    }

    /// Only the last refusal of a partition is told.
    pub(super) fn refused(&mut self, partition: TopicPartition, offset: u64, error: Error) {
        self.entries.retain(|entry| {
            !matches!(entry, Entry::Item(Item::Event(GroupEvent::CommitRefused { partition: of, .. }))
                if *of == partition)
        });
        self.event(GroupEvent::CommitRefused {
            partition,
            offset,
            error,
        });
    }

    /// Told once, behind everything that came before.
    pub(super) fn caught_up(&mut self) {
        self.entries
            .retain(|entry| !matches!(entry, Entry::Item(Item::Event(GroupEvent::CaughtUp))));
        self.event(GroupEvent::CaughtUp);
    }

    /// The oldest. What it costs to take a batch is its own.
    pub(super) fn pop(&mut self) -> Option<Item> {
        match self.entries.pop_front()? {
            Entry::Item(item) => {
                self.batches -= usize::from(matches!(item, Item::Batch(_)));
                Some(item)
            }
            Entry::Assigned {
                generation,
                partitions,
            } => {
                let told = partitions.into_iter().map(|(id, assigned)| {
                    self.untold.remove(&id);
                    assigned
                });
                Some(Item::Event(GroupEvent::Assigned {
                    generation,
                    partitions: told.collect(),
                }))
            }
        }
    }

    fn event(&mut self, event: GroupEvent) {
        self.entries.push_back(Entry::Item(Item::Event(event)));
    }

    /// Drops what is there of these shares. Those of them that the user knows
    /// of, and the cost of what was dropped.
    fn end(&mut self, shares: &[(ShareId, TopicPartition)]) -> (Vec<TopicPartition>, Cost) {
        let ending: BTreeSet<ShareId> = shares.iter().map(|(id, _)| *id).collect();
        let mut dropped = Cost::default();
        let mut batches = 0;
        self.entries.retain_mut(|entry| match entry {
            Entry::Item(Item::Batch(batch)) if ending.contains(&batch.share) => {
                dropped.bytes += batch.cost.bytes;
                dropped.records += batch.cost.records;
                batches += 1;
                false
            }
            Entry::Item(Item::Missing(missing)) => !ending.contains(&missing.share),
            Entry::Item(_) => true,
            Entry::Assigned { partitions, .. } => {
                partitions.retain(|(id, _)| !ending.contains(id));
                !partitions.is_empty()
            }
        });
        self.batches -= batches;
        let told = shares.iter().filter(|(id, _)| !self.untold.remove(id));
        (told.map(|(_, place)| place.clone()).collect(), dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::shares::Shares;
    use statecast_proto::v1;

    /// Shares of the first partitions of a topic, as they are told.
    fn shares(count: u32) -> Vec<(ShareId, AssignedPartition)> {
        let mut shares = Shares::default();
        let share = |partition| {
            let wire = v1::AssignedPartition {
                partition,
                ..v1::AssignedPartition::default()
            };
            let assigned = AssignedPartition {
                topic: "t".into(),
                partition,
                offset: 0,
                committed: false,
                high_watermark: 0,
            };
            (shares.assign(&"t".into(), 1, &wire).0, assigned)
        };
        (0..count).map(share).collect()
    }

    fn place(share: &(ShareId, AssignedPartition)) -> (ShareId, TopicPartition) {
        let place = TopicPartition {
            topic: "t".into(),
            partition: share.1.partition,
        };
        (share.0, place)
    }

    fn batch(share: &(ShareId, AssignedPartition)) -> Arrived {
        Arrived {
            share: share.0,
            topic: "t".into(),
            offsets: 0..1,
            wire: FetchedBatch::default(),
            cost: Cost {
                bytes: 10,
                records: 1,
            },
        }
    }

    /// What is told, in short.
    fn told(inbox: &mut Inbox) -> Vec<String> {
        let name = |item| match item {
            Item::Batch(_) => "batch".to_owned(),
            Item::Missing(_) => "missing".to_owned(),
            Item::Event(GroupEvent::Assigned { partitions, .. }) => {
                format!("assigned {}", partitions.len())
            }
            Item::Event(GroupEvent::Revoked { partitions, .. }) => {
                format!("revoked {}", partitions.len())
            }
            Item::Event(GroupEvent::Lost { partitions, .. }) => {
                format!("lost {}", partitions.len())
            }
            Item::Event(GroupEvent::CaughtUp) => "caught up".to_owned(),
            Item::Event(event) => format!("{event:?}"),
        };
        std::iter::from_fn(|| inbox.pop()).map(name).collect()
    }

    #[test]
    fn order_is_that_of_arrival() {
        let mut inbox = Inbox::default();
        let shares = shares(1);
        inbox.assigned(1, shares.clone());
        inbox.batch(batch(&shares[0]));
        inbox.caught_up();
        assert!(inbox.has_batches());
        assert_eq!(told(&mut inbox), ["assigned 1", "batch", "caught up"]);
        assert!(!inbox.has_batches());
    }

    #[test]
    fn batches_of_what_is_revoked_are_dropped_and_cost_what_they_did() {
        let mut inbox = Inbox::default();
        let shares = shares(2);
        inbox.assigned(1, shares.clone());
        assert!(inbox.pop().is_some());
        for share in [&shares[0], &shares[1], &shares[0]] {
            inbox.batch(batch(share));
        }
        let reason = RevokeReason::Rebalance;
        let now = crate::clock::now();
        let dropped = inbox.revoked(&[place(&shares[0])], now, reason);
        assert_eq!((dropped.bytes, dropped.records), (20, 2));
        assert_eq!(told(&mut inbox), ["batch", "revoked 1"]);
    }

    #[test]
    fn what_came_and_went_untold_is_not_told() {
        let mut inbox = Inbox::default();
        let reason = RevokeReason::Rebalance;
        for _ in 0..1000 {
            let shares = shares(3);
            inbox.assigned(1, shares.clone());
            let places: Vec<_> = shares.iter().map(place).collect();
            inbox.revoked(&places, crate::clock::now(), reason);
            inbox.lost(&[], reason);
        }
        let last = shares(2);
        inbox.assigned(2, last.clone());
        inbox.lost(&[place(&last[1])], reason);
        assert_eq!(inbox.entries.len(), 1);
        assert_eq!(told(&mut inbox), ["assigned 1"]);
        inbox.lost(&[place(&last[0])], reason);
        assert_eq!(told(&mut inbox), ["lost 1"]);
    }

    #[test]
    fn catching_up_is_told_once_behind_the_last_batch() {
        let mut inbox = Inbox::default();
        let shares = shares(1);
        for _ in 0..3 {
            inbox.batch(batch(&shares[0]));
            inbox.caught_up();
        }
        assert_eq!(told(&mut inbox), ["batch", "batch", "batch", "caught up"]);
    }

    #[test]
    fn last_refusal_of_a_partition_is_told() {
        let mut inbox = Inbox::default();
        let (_, place) = place(&shares(1)[0]);
        for offset in 0..10 {
            inbox.refused(place.clone(), offset, Error::Closed);
        }
        let Some(Item::Event(GroupEvent::CommitRefused { offset: 9, .. })) = inbox.pop() else {
            panic!("the last one");
        };
        assert!(inbox.pop().is_none());
    }
}
