//! What groups look like from outside.

use super::offsets::Committed;
use crate::group::{Generation, GroupName, GroupState, MemberId, TopicPartition};
use crate::model::PartitionId;

/// A group in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSummary {
    /// Its name.
    pub name: GroupName,
    /// What it is doing.
    pub state: GroupState,
    /// How many members it has, those included that may come again.
    pub members: usize,
    /// The latest generation.
    pub generation: Generation,
}

/// Everything about a group.
#[derive(Debug, Clone)]
pub struct GroupDescription {
    /// In short.
    pub summary: GroupSummary,
    /// In the order in which they joined.
    pub members: Vec<MemberDescription>,
    /// What is read or was committed, in ascending order.
    pub partitions: Vec<PartitionDescription>,
    /// When it began, no partition had this id or a higher one.
    pub next_partition: PartitionId,
}

/// A member.
#[derive(Debug, Clone)]
pub struct MemberDescription {
    /// Which one.
    pub id: MemberId,
    /// Its name beyond its stream; empty when it has none.
    pub name: String,
    /// As it calls itself; empty while it is not connected.
    pub client: String,
    /// Where it is connected from; empty while it isn't.
    pub address: String,
    /// As it asked for them.
    pub topics: Vec<String>,
    /// Since when it is a member: milliseconds since the Unix epoch.
    pub joined_ms: i64,
    /// Whether it lost its partitions since it held records for too long.
    pub stalled: bool,
}

/// A partition of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionDescription {
    /// Which one.
    pub partition: TopicPartition,
    /// Who has it.
    pub member: Option<MemberId>,
    /// What was committed last and is durable.
    pub committed: Option<Committed>,
    /// The group has members, and none of them reads the topic.
    pub left_behind: bool,
}

/// Figures of all groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GroupCounts {
    /// Groups.
    pub groups: usize,
    /// Members that are connected.
    pub members: usize,
    /// Offsets that were committed since the start.
    pub commits: u64,
    /// Changes of who has what since the start.
    pub rebalances: u64,
}
