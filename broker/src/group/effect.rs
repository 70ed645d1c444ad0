//! What is to be done and told when something happened to a group.

use super::{Generation, MemberId, TopicPartition};

/// Something to do. The effects of one event are complete, and in the order in
/// which they are to be done: first the generation, then who is expelled, then
/// what is lost, assigned, and revoked. Each names only members that are
/// connected; partitions are in ascending order, and at least one. Nothing else is
/// said to members that leave, are expelled or are away: what they had is gone, or
/// kept for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The group's generation now: who has what changes, or is about to. It has to be
    /// durable before any later effect of the same list is told to anybody, so that a
    /// restart goes on behind it.
    Generation(Generation),
    /// A member is gone, with all that it had: its stream ends.
    Expel {
        /// Who.
        member: MemberId,
        /// Why.
        reason: ExpelReason,
    },
    /// A member has these partitions no longer.
    Lost {
        /// Who.
        member: MemberId,
        /// Since when.
        generation: Generation,
        /// What.
        partitions: Vec<TopicPartition>,
        /// Why.
        reason: RevokeReason,
    },
    /// A member has these partitions from now on, besides those that it had.
    Assign {
        /// Who.
        member: MemberId,
        /// Since when; commits of these partitions may name it.
        generation: Generation,
        /// What.
        partitions: Vec<TopicPartition>,
    },
    /// A member is to give these partitions back, and gets no more of their records.
    /// Until it has, and no longer than until the deadline, they are still its own.
    Revoke {
        /// Who.
        member: MemberId,
        /// The one in which it was decided.
        generation: Generation,
        /// What.
        partitions: Vec<TopicPartition>,
        /// From when on it has lost them: milliseconds, on the clock of
        /// [`Group::handle`](super::Group::handle).
        deadline_ms: u64,
        /// Why.
        reason: RevokeReason,
    },
}

/// Why partitions are taken from a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RevokeReason {
    /// Others are to have them, or the group begins anew with them.
    Rebalance,
    /// The member held records for too long without committing.
    MaxProcessingTime,
    /// There is no such topic any more.
    TopicDeleted,
}

/// Why a member has to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum ExpelReason {
    /// It was not heard of for its session timeout.
    #[error("the member was not heard of within its session timeout")]
    MemberExpired,
    /// Another one joined with its name.
    #[error("another member joined with the same name")]
    MemberReplaced,
    /// It never was one: the group is full.
    #[error(
        "the group has {} members, which is the most",
        crate::limits::MEMBERS_PER_GROUP
    )]
    TooManyMembers,
    /// It never was one: the members' subscriptions differ too much.
    #[error(
        "the group has {} different subscriptions, which is the most",
        crate::limits::SUBSCRIPTIONS_PER_GROUP
    )]
    TooManySubscriptions,
}

/// Why a commit is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommitRefusal {
    /// The member doesn't have this partition.
    #[error("the partition is not assigned to this member")]
    NotAssigned,
    /// The member had this partition, and has it no longer, or anew.
    #[error("the partition was given to another member, or was assigned anew since then")]
    StaleGeneration,
}
