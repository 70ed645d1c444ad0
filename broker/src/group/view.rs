//! What a group looks like from outside.

use super::members::Presence;
use super::partitions::{Hold, Slot};
use super::{CommitRefusal, Generation, Group, MemberId, MemberName, Subscription, TopicPartition};

/// What a group is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupState {
    /// It has no members.
    Empty,
    /// Partitions are on their way from one member to another, or have none.
    Rebalancing,
    /// Every partition has its member.
    Stable,
}

/// A member.
#[derive(Debug, Clone, Copy)]
pub struct MemberView<'a> {
    /// Which one. A member that comes again has another id.
    pub id: MemberId,
    /// Its name beyond its stream, if it has one.
    pub name: Option<&'a MemberName>,
    /// What it reads.
    pub subscription: &'a Subscription,
    /// Whether it is there; otherwise it may come again.
    pub connected: bool,
    /// Whether it lost its partitions since it held records for too long.
    pub stalled: bool,
}

/// Who has a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ownership {
    /// The owner.
    pub member: MemberId,
    /// The generation in which it was assigned.
    pub generation: Generation,
    /// In which generation it was decided that it is to be given back, and when it is:
    /// milliseconds, on the group's clock. Absent when it isn't.
    pub revoke: Option<(Generation, u64)>,
}

impl Group {
    /// Whether a commit of a partition by a member is good at this time; of which
    /// generation's assignment it is, if the member says so. [`Generation::ZERO`] is
    /// that of none: the member has not been told that it has the partition.
    pub fn check_commit(
        &self,
        member: MemberId,
        partition: TopicPartition,
        generation: Option<Generation>,
        now_ms: u64,
    ) -> Result<(), CommitRefusal> {
        let slot = self.partitions.get(partition);
        let slot = slot.ok_or(CommitRefusal::NotAssigned)?;
        let is_over = match slot.hold() {
            Hold::Revoking(revoking) => revoking.deadline_ms <= now_ms,
            Hold::Free | Hold::Held(_) => false,
        };
        if slot.owner() == Some(member) {
            let is_stale = generation.is_some_and(|generation| generation != slot.since());
            return match is_over || is_stale {
                true => Err(CommitRefusal::StaleGeneration),
                false => Ok(()),
            };
        }
        let was_before = generation
            .is_some_and(|generation| generation > Generation::ZERO && generation < slot.since());
        match was_before || slot.previous() == Some(member) {
            true => Err(CommitRefusal::StaleGeneration),
            false => Err(CommitRefusal::NotAssigned),
        }
    }

    /// The latest generation.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// What the group is doing.
    pub fn state(&self) -> GroupState {
        if self.is_empty() {
            return GroupState::Empty;
        }
        let is_settled = |slot: &Slot| matches!(slot.hold(), Hold::Held(_));
        let settled = self.partitions.iter().all(|(_, _, slot)| is_settled(slot));
        match settled && !self.is_replanning() {
            true => GroupState::Stable,
            false => GroupState::Rebalancing,
        }
    }

    /// Whether it has no members, not even ones that may come again.
    pub fn is_empty(&self) -> bool {
        self.members.len() == 0
    }

    /// The members, in the order of their ids, those included that may come again.
    pub fn members(&self) -> impl Iterator<Item = MemberView<'_>> {
        self.members.iter().map(|(id, member)| MemberView {
            id,
            name: member.name.as_ref(),
            subscription: self.interests.subscription(member.interest),
            connected: member.is_connected(),
            stalled: member.presence == Presence::Stalled,
        })
    }

    /// Who has a partition.
    pub fn owner(&self, partition: TopicPartition) -> Option<Ownership> {
        self.partitions.get(partition).and_then(ownership)
    }

    /// All partitions of the topics that members read, in ascending order, and who
    /// has them.
    pub fn partitions(&self) -> impl Iterator<Item = (TopicPartition, Option<Ownership>)> {
        let all = self.partitions.iter();
        all.map(|(partition, _, slot)| (partition, ownership(slot)))
    }
}

fn ownership(slot: &Slot) -> Option<Ownership> {
    let revoke = match slot.hold() {
        Hold::Revoking(revoking) => Some((revoking.generation, revoking.deadline_ms)),
        Hold::Free | Hold::Held(_) => None,
    };
    Some(Ownership {
        member: slot.owner()?,
        generation: slot.since(),
        revoke,
    })
}
