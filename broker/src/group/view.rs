//! What a group looks like from outside.

use super::{Generation, MemberId, MemberName, Subscription};

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
    /// When it is to be given back: milliseconds, on the group's clock. Absent when
    /// it isn't.
    pub revoke_deadline_ms: Option<u64>,
}
