//! Partitions change hands.

use super::assignment::{Seat, plan};
use super::changes::Changes;
use super::members::Presence;
use super::partitions::{Hold, Slot};
use super::{Generation, Group, MemberId, RevokeReason, TopicList, TopicPartition};
use crate::model::TopicId;

impl Group {
    /// Makes a new plan and begins to carry it out.
    pub(super) fn rebalance(&mut self, changes: &mut Changes) {
        let active = self.members.iter();
        let active = active.filter(|(_, member)| member.presence == Presence::Active);
        let (ids, interests): (Vec<_>, Vec<_>) =
            active.map(|(id, member)| (id, member.interest)).unzip();
        let (partitions, seats) = self.seats(&ids);
        for (partition, to) in partitions.into_iter().zip(plan(&interests, &seats)) {
            self.carry_out(partition, to.map(|at| ids[at]), changes);
        }
    }

    /// What there is to distribute among the active members, in ascending order:
    /// everything but what is kept for members that are away.
    fn seats(&self, active: &[MemberId]) -> (Vec<TopicPartition>, Vec<Seat>) {
        let mut partitions = Vec::new();
        let mut seats = Vec::new();
        let mut before: Option<(TopicId, usize)> = None;
        for (partition, readers, slot) in self.partitions.iter() {
            let owner = match slot.hold() {
                Hold::Held(owner) if !self.is_connected(owner) => continue,
                // Absent when it is stalled.
                Hold::Held(owner) => active.binary_search(&owner).ok(),
                Hold::Free | Hold::Revoking(_) => None,
            };
            let topic = match before {
                Some((id, topic)) if id == partition.topic => topic,
                Some((_, topic)) => topic + 1,
                None => 0,
            };
            before = Some((partition.topic, topic));
            partitions.push(partition);
            seats.push(Seat {
                topic,
                readers,
                owner,
            });
        }
        (partitions, seats)
    }

    /// A partition is to go to this member.
    fn carry_out(
        &mut self,
        partition: TopicPartition,
        to: Option<MemberId>,
        changes: &mut Changes,
    ) {
        let slot = self.partitions.get_mut(partition);
        let slot = slot.expect("what is planned is there");
        slot.plan(to);
        match (slot.hold(), to) {
            (Hold::Free, Some(to)) => take(slot, partition, to, changes),
            (Hold::Held(owner), to) if to != Some(owner) => {
                self.revoke(partition, owner, changes);
            }
            (Hold::Free, None) | (Hold::Held(_) | Hold::Revoking(_), _) => {}
        }
    }

    fn revoke(&mut self, partition: TopicPartition, owner: MemberId, changes: &mut Changes) {
        let member = self.members.get(owner).expect("owners are members");
        let reason = match member.presence {
            Presence::Stalled => RevokeReason::MaxProcessingTime,
            Presence::Active | Presence::Away => RevokeReason::Rebalance,
        };
        let timeout_ms = u64::from(member.revoke_timeout_ms);
        let deadline_ms = self.now_ms.saturating_add(timeout_ms);
        let generation = changes.generation();
        self.partitions
            .revoke(partition, generation, deadline_ms, reason);
        changes.revoke(owner, partition, deadline_ms, reason);
    }

    /// A member gives back what it was asked for, in the generation that it says.
    pub(super) fn give_back(
        &mut self,
        member: MemberId,
        partitions: &[(TopicPartition, Generation)],
        changes: &mut Changes,
    ) {
        for &(partition, generation) in partitions {
            let slot = self.partitions.get_mut(partition);
            let slot = slot.filter(|slot| {
                let revoking = slot.revoked_from(member);
                revoking.is_some_and(|revoking| revoking.generation == generation)
            });
            if let Some(slot) = slot {
                slot.release();
                changes.free(partition);
            }
        }
    }

    /// Assigns what became free to whom the plan gives it.
    pub(super) fn hand_over(&mut self, changes: &mut Changes) {
        for partition in changes.take_freed() {
            // Nobody may read it any more.
            let Some(slot) = self.partitions.get_mut(partition) else {
                continue;
            };
            if let Some(to) = slot.next() {
                take(slot, partition, to, changes);
            }
        }
    }

    /// The group begins anew with these partitions.
    pub(super) fn reset(&mut self, partitions: &[TopicPartition], changes: &mut Changes) {
        for &partition in partitions {
            let slot = self.partitions.get(partition);
            let Some(owner) = slot.and_then(Slot::owner) else {
                continue;
            };
            // Who is away begins where the group is when it comes again.
            if !self.is_connected(owner) {
                continue;
            }
            let slot = self.partitions.get_mut(partition);
            let slot = slot.expect("it has an owner");
            // It is named twice.
            if slot.since() == changes.generation() {
                continue;
            }
            let keeps = slot.hold() == Hold::Held(owner);
            slot.release();
            changes.lose(owner, partition, RevokeReason::Rebalance);
            if keeps {
                take(slot, partition, owner, changes);
            } else {
                changes.free(partition);
            }
        }
    }

    /// There are other topics now.
    pub(super) fn change_topics(&mut self, topics: TopicList, changes: &mut Changes) {
        let difference = topics.since(&self.topics);
        for id in difference.gone {
            for (partition, slot) in self.partitions.remove(id) {
                let owner = slot.owner().filter(|owner| self.is_connected(*owner));
                if let Some(owner) = owner {
                    changes.lose(owner, partition, RevokeReason::TopicDeleted);
                }
                self.replan();
            }
        }
        for topic in difference.grown {
            let readers = self.interests.that_fit(topic.name.as_str());
            if !readers.is_empty() {
                self.partitions.read(topic.id, topic.partitions, readers);
                self.replan();
            }
        }
        self.topics = topics;
    }
}

/// A free partition gets its owner.
fn take(slot: &mut Slot, partition: TopicPartition, owner: MemberId, changes: &mut Changes) {
    slot.assign(owner, changes.generation());
    changes.assign(owner, partition);
}
