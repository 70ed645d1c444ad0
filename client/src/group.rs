//! Consumer groups as those see them who look after them.

use std::time::Duration;

use statecast_proto::v1;
use statecast_proto::v1::admin_client::AdminClient;

use crate::admin::Admin;
use crate::error::Error;
use crate::reader::Start;

/// What a group is up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupState {
    /// It has no members.
    Empty,
    /// Partitions are on their way from one member to another.
    Rebalancing,
    /// Every partition has its member.
    Stable,
    /// This library is older than the state.
    Unknown,
}

/// A consumer group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Group {
    /// Its name.
    pub name: String,
    /// What it is up to.
    pub state: GroupState,
    /// Number of members, those included that may still come again.
    pub members: u32,
    /// Grows with each change of who has what.
    pub generation: u64,
}

impl Group {
    fn from_wire(group: v1::Group) -> Self {
        let state = match group.state() {
            v1::GroupState::Unspecified => GroupState::Unknown,
            v1::GroupState::Empty => GroupState::Empty,
            v1::GroupState::Rebalancing => GroupState::Rebalancing,
            v1::GroupState::Stable => GroupState::Stable,
        };
        Self {
            state,
            name: group.name,
            members: group.members,
            generation: group.generation,
        }
    }
}

/// A group with its members and partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupDescription {
    /// The group.
    pub group: Group,
    /// Its members.
    pub members: Vec<GroupMember>,
    /// What it reads or has committed, by topic and partition.
    pub partitions: Vec<GroupPartition>,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupMember {
    /// What the broker calls it.
    pub id: String,
    /// The name that it joined with, if it has one.
    pub name: Option<String>,
    /// As it called itself; empty when it is not connected now.
    pub client: String,
    /// Where it is connected from; empty when it is not connected now.
    pub address: String,
    /// The topics and patterns that it asked for.
    pub topics: Vec<String>,
    /// Since when it is a member: milliseconds since the Unix epoch.
    pub joined_ms: i64,
    /// It lost its partitions since it didn't process what it held in time.
    pub stalled: bool,
}

impl GroupMember {
    fn from_wire(member: v1::GroupMember) -> Self {
        Self {
            id: member.member_id,
            name: Some(member.member_name).filter(|name| !name.is_empty()),
            client: member.client,
            address: member.address,
            topics: member.topics,
            joined_ms: member.joined_ms,
            stalled: member.stalled,
        }
    }
}

/// How far a group is in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupPartition {
    /// Name of the topic.
    pub topic: String,
    /// Number of the partition, from 0.
    pub partition: u32,
    /// The member that has it; `None` while nobody has.
    pub member_id: Option<String>,
    /// Where the group goes on; `None` when nothing was committed.
    pub committed_offset: Option<u64>,
    /// When that was committed: milliseconds since the Unix epoch.
    pub committed_ms: Option<i64>,
    /// One past the last record that is readable.
    pub high_watermark: u64,
    /// Offset of the oldest record that is kept.
    pub log_start_offset: u64,
    /// Records that are not committed yet.
    pub lag: u64,
    /// How long ago the oldest of them was appended; zero without lag.
    pub lag_time: Duration,
    /// The group has members, and none of them reads the topic any more: the lag is
    /// no backlog.
    pub left_behind: bool,
}

impl GroupPartition {
    fn from_wire(partition: v1::GroupPartition) -> Self {
        Self {
            topic: partition.topic,
            partition: partition.partition,
            member_id: partition.member_id,
            committed_offset: partition.committed_offset,
            committed_ms: partition.committed_ms,
            high_watermark: partition.high_watermark,
            log_start_offset: partition.log_start_offset,
            lag: partition.lag,
            lag_time: Duration::from_millis(partition.lag_ms),
            left_behind: partition.left_behind,
        }
    }
}

impl Admin {
    /// All groups whose name has this prefix, in the order of their names.
    pub async fn list_groups(&self, prefix: &str) -> Result<Vec<Group>, Error> {
        let mut groups = Vec::new();
        let mut request = v1::ListGroupsRequest {
            prefix: prefix.to_owned(),
            page_size: None,
            page_token: String::new(),
        };
        loop {
            let call = |channel, request| async move {
                AdminClient::new(channel).list_groups(request).await
            };
            let page = self.client.repeatedly(request.clone(), call).await?;
            groups.extend(page.groups.into_iter().map(Group::from_wire));
            if page.next_page_token.is_empty() {
                return Ok(groups);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// A group with its members, and how far it is in each partition.
    pub async fn describe_group(&self, name: &str) -> Result<GroupDescription, Error> {
        let request = v1::DescribeGroupRequest {
            name: name.to_owned(),
        };
        let call = |channel, request| async move {
            AdminClient::new(channel).describe_group(request).await
        };
        let answer = self.client.repeatedly(request, call).await?;
        let group = answer
            .group
            .ok_or_else(|| Error::protocol("the answer holds no group"))?;
        let partitions = answer.partitions.into_iter();
        Ok(GroupDescription {
            group: Group::from_wire(group),
            members: answer
                .members
                .into_iter()
                .map(GroupMember::from_wire)
                .collect(),
            partitions: partitions.map(GroupPartition::from_wire).collect(),
        })
    }

    /// Forgets a group that has no members, with what it committed.
    pub async fn delete_group(&self, name: &str) -> Result<(), Error> {
        self.delete(name, None).await
    }

    /// Forgets what a group has committed for a topic. Refused while a member of the
    /// group reads the topic.
    pub async fn delete_group_offsets(&self, name: &str, topic: &str) -> Result<(), Error> {
        self.delete(name, Some(topic.to_owned())).await
    }

    async fn delete(&self, name: &str, topic: Option<String>) -> Result<(), Error> {
        let request = v1::DeleteGroupRequest {
            name: name.to_owned(),
            topic,
        };
        let channel = self.client.produce_channel();
        let call = |channel| async { AdminClient::new(channel).delete_group(request).await };
        self.client.once(channel, call).await?;
        Ok(())
    }

    /// Commits other offsets for a group, in these partitions of a topic, or in
    /// all when none is named. An offset needs to lie within the readable range.
    /// Returns where the group goes on.
    ///
    /// Refused while the group has members, unless `force`: they then lose what
    /// they have of the topic, and begin again there.
    pub async fn reset_group(
        &self,
        name: &str,
        topic: &str,
        partitions: &[u32],
        to: Start,
        force: bool,
    ) -> Result<Vec<GroupPartition>, Error> {
        let request = v1::ResetGroupRequest {
            name: name.to_owned(),
            topic: topic.to_owned(),
            partitions: partitions.to_vec(),
            to: Some(to.into_wire()),
            force,
        };
        let channel = self.client.produce_channel();
        let call = |channel| async { AdminClient::new(channel).reset_group(request).await };
        let answer = self.client.once(channel, call).await?;
        let partitions = answer.partitions.into_iter();
        Ok(partitions.map(GroupPartition::from_wire).collect())
    }
}
