//! What `Admin` does about consumer groups.

use std::collections::HashSet;

use futures_util::{StreamExt, TryStreamExt, stream};
use statecast_proto::reason::Reason;
use statecast_proto::v1;

use super::Context;
use super::error::Refusal;
use super::fetch::position;
use crate::coordinator::{
    GroupDescription, GroupError, GroupSummary, MemberDescription, PartitionDescription,
};
use crate::group::{GroupState, MemberId, TopicPartition};
use crate::limits;
use crate::partition::ReadError;

pub(super) async fn list(
    context: &Context,
    request: &v1::ListGroupsRequest,
) -> Result<v1::ListGroupsResponse, Refusal> {
    let page_size = request.page_size.unwrap_or(*limits::PAGE_SIZE.end());
    if !limits::PAGE_SIZE.contains(&page_size) {
        return Err(Refusal::invalid("page_size is out of bounds")
            .beyond(page_size, limits::PAGE_SIZE.end()));
    }
    // The token is the last name of the page before.
    let groups = context.broker.groups();
    let (groups, more) = groups
        .list(&request.prefix, &request.page_token, page_size as usize)
        .await;
    let last = groups.last().filter(|_| more);
    Ok(v1::ListGroupsResponse {
        next_page_token: last.map(|group| group.name.to_string()).unwrap_or_default(),
        groups: groups.iter().map(summary).collect(),
    })
}

pub(super) async fn describe(
    context: &Context,
    name: &str,
) -> Result<v1::DescribeGroupResponse, Refusal> {
    let described = context.broker.groups().describe(name).await?;
    let GroupDescription {
        summary: group,
        members,
        partitions: all,
        ..
    } = described;
    let mut partitions = partitions(context, all).await?;
    partitions.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    Ok(v1::DescribeGroupResponse {
        group: Some(summary(&group)),
        members: members.into_iter().map(member).collect(),
        partitions,
    })
}

pub(super) async fn delete(
    context: &Context,
    request: &v1::DeleteGroupRequest,
) -> Result<(), Refusal> {
    let groups = context.broker.groups();
    match &request.topic {
        None => groups.delete(&request.name).await?,
        Some(topic) => {
            let topic = context.broker.topic(topic)?.meta().id;
            groups.forget(&request.name, topic).await?;
        }
    }
    Ok(())
}

pub(super) async fn reset(
    context: &Context,
    request: v1::ResetGroupRequest,
) -> Result<v1::ResetGroupResponse, Refusal> {
    let broker = &context.broker;
    let Some(to) = request.to.and_then(|start| start.position) else {
        return Err(Refusal::invalid("a reset has to say where to"));
    };
    let topic = broker.topic(&request.topic)?;
    let numbers = match request.partitions {
        all if all.is_empty() => (0..topic.partition_count()).collect(),
        named => named,
    };
    let mut seen = HashSet::new();
    let mut positions = Vec::with_capacity(numbers.len());
    for number in numbers {
        let about = |refusal: Refusal| refusal.about(&request.topic, number);
        if !seen.insert(number) {
            return Err(about(Refusal::invalid("a partition is named twice")));
        }
        let partition = topic.partition(number)?;
        let offset = position(broker, partition, Some(to)).await.map_err(about)?;
        let partition = TopicPartition {
            topic: topic.meta().id,
            partition: number,
        };
        positions.push((partition, offset));
    }
    let groups = broker.groups();
    groups
        .reset(&request.name, positions, request.force)
        .await?;
    let described = groups.describe(&request.name).await?.partitions;
    let is_reset = |partition: &PartitionDescription| {
        partition.partition.topic == topic.meta().id
            && seen.contains(&partition.partition.partition)
    };
    let reset: Vec<PartitionDescription> = described.into_iter().filter(is_reset).collect();
    Ok(v1::ResetGroupResponse {
        partitions: partitions(context, reset).await?,
    })
}

fn summary(group: &GroupSummary) -> v1::Group {
    let state = match group.state {
        GroupState::Empty => v1::GroupState::Empty,
        GroupState::Rebalancing => v1::GroupState::Rebalancing,
        GroupState::Stable => v1::GroupState::Stable,
    };
    v1::Group {
        name: group.name.to_string(),
        state: state.into(),
        members: u32::try_from(group.members).unwrap_or(u32::MAX),
        generation: group.generation.0,
    }
}

fn member(member: MemberDescription) -> v1::GroupMember {
    v1::GroupMember {
        member_id: member_id(member.id),
        member_name: member.name,
        client: member.client,
        address: member.address,
        topics: member.topics,
        joined_ms: member.joined_ms,
        stalled: member.stalled,
    }
}

/// How a member is named to people.
pub(super) fn member_id(id: MemberId) -> String {
    format!("{:016x}", id.0)
}

/// Partitions with how far behind the group is, in the same order. Those of topics
/// that are gone are left out.
async fn partitions(
    context: &Context,
    all: Vec<PartitionDescription>,
) -> Result<Vec<v1::GroupPartition>, Refusal> {
    let partitions = all
        .into_iter()
        .map(|description| partition(context, description));
    let partitions = stream::iter(partitions).buffered(limits::DISK_READS);
    let partitions: Vec<Option<v1::GroupPartition>> = partitions.try_collect().await?;
    Ok(partitions.into_iter().flatten().collect())
}

async fn partition(
    context: &Context,
    description: PartitionDescription,
) -> Result<Option<v1::GroupPartition>, Refusal> {
    let PartitionDescription {
        partition: TopicPartition { topic, partition },
        member,
        committed,
        left_behind,
    } = description;
    let broker = &context.broker;
    let Some(topic) = broker.topic_by_id(topic) else {
        return Ok(None);
    };
    let Ok(handle) = topic.partition(partition) else {
        return Ok(None);
    };
    let range = handle.range();
    let next = committed.map_or(range.log_start_offset, |committed| committed.offset);
    let name = topic.meta().name.as_str();
    let lag = match broker.lag(handle, next).await {
        Ok(lag) => lag,
        Err(ReadError::Deleted(_)) => return Ok(None),
        Err(error) => return Err(Refusal::from(error).about(name, partition)),
    };
    Ok(Some(v1::GroupPartition {
        topic: name.to_owned(),
        partition,
        member_id: member.map(member_id),
        committed_offset: committed.map(|committed| committed.offset.0),
        committed_ms: committed.map(|committed| committed.at_ms),
        high_watermark: range.high_watermark.0,
        log_start_offset: range.log_start_offset.0,
        lag: lag.records,
        lag_ms: lag.age_ms,
        left_behind,
    }))
}

impl From<GroupError> for Refusal {
    fn from(error: GroupError) -> Refusal {
        match error {
            GroupError::NotFound(_) => Refusal::new(Reason::GroupNotFound, &error),
            GroupError::Active(_) | GroupError::Read(_) => {
                Refusal::new(Reason::GroupActive, &error)
            }
            GroupError::TooManyOffsets => Refusal::new(Reason::TooManyPartitions, &error)
                .with("limit", limits::COMMITTED_OFFSETS),
            GroupError::Log(error) => error.into(),
        }
    }
}
