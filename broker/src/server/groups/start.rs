//! Where a member begins to read what it was assigned.

use std::collections::HashSet;
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use statecast_proto::reason::Reason;

use crate::broker::{Broker, Topic};
use crate::coordinator::{Assignment, Starter};
use crate::group::{Generation, GroupName, Subscription, TopicPartition};
use crate::limits;
use crate::model::Offset;
use crate::server::error::Refusal;
use crate::server::reading::Opened;

/// Where reading begins when nothing was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GroupStart {
    Earliest,
    Latest,
    /// Milliseconds since the Unix epoch.
    Timestamp(i64),
    Fail,
}

/// A partition that was assigned, and where in it to begin.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) partition: TopicPartition,
    pub(super) opened: Opened,
    pub(super) committed: bool,
    /// It was found out just now, and isn't the beginning.
    is_chosen: bool,
}

/// Partitions of a generation, while it is found out where they begin.
pub(super) type Opening = (
    Generation,
    Pin<Box<dyn Future<Output = Result<Vec<Started>, Refusal>> + Send>>,
);

/// Waits for what is being opened, if anything is. May be given up at any time.
pub(super) async fn opened(
    opening: &mut Option<Opening>,
) -> (Generation, Result<Vec<Started>, Refusal>) {
    let Some((generation, future)) = opening else {
        return pending().await;
    };
    let opened = (*generation, future.await);
    *opening = None;
    opened
}

/// For a member that starts nowhere by itself: fails if the group has committed nothing
/// for one of the partitions that it is to read, other than those that are new to the
/// group. Only the join fails so: whatever is created later begins at its beginning,
/// and does nothing to members that are there.
pub(super) async fn expect_commits(
    broker: &Broker,
    group: &GroupName,
    subscription: &Subscription,
) -> Result<(), Refusal> {
    let described = broker.groups().describe(group.as_str()).await.ok();
    let next_partition = described.as_ref().map(|group| group.next_partition);
    let next_partition = next_partition.unwrap_or_else(|| broker.next_partition());
    let partitions = described.map(|group| group.partitions).unwrap_or_default();
    let committed = partitions.iter().filter(|of| of.committed.is_some());
    let committed: HashSet<TopicPartition> = committed.map(|of| of.partition).collect();
    let (topics, _) = broker.topics("", "", usize::MAX);
    for topic in topics {
        let topic_name = &topic.meta().name;
        if !subscription.fits(topic_name.as_str()) {
            continue;
        }
        for (number, partition) in (0..).zip(topic.partitions()) {
            let place = TopicPartition {
                topic: topic.meta().id,
                partition: number,
            };
            if partition.id() < next_partition && !committed.contains(&place) {
                return Err(nothing_committed().about(topic_name.as_str(), number));
            }
        }
    }
    Ok(())
}

fn nothing_committed() -> Refusal {
    let message = "the group has committed nothing for this partition";
    Refusal::new(Reason::NoCommittedOffset, message)
}

/// Finds out where the partitions of an assignment begin. Where that isn't at their
/// beginning and nothing was committed, it is committed before anybody is told: what
/// comes from then on is the group's to read, though this member may go before it has
/// read anything.
///
/// Partitions that went on meanwhile, or whose topic was deleted, are left out: they
/// will be said to be lost.
pub(super) async fn start(
    broker: Broker,
    member: Starter,
    generation: Generation,
    assignments: Vec<Assignment>,
    start: GroupStart,
) -> Result<Vec<Started>, Refusal> {
    let mut started = positions(broker, &member, assignments, start).await?;
    let places = started.iter().filter(|started| started.is_chosen);
    let places = places.map(|started| (started.partition, started.opened.position));
    let places: Vec<(TopicPartition, Offset)> = places.collect();
    if places.is_empty() {
        return Ok(started);
    }
    let kept = member.begin(generation, places).await?;
    started.retain(|started| !started.is_chosen || kept.contains(&started.partition));
    Ok(started)
}

/// The places where reading begins.
async fn positions(
    broker: Broker,
    member: &Starter,
    assignments: Vec<Assignment>,
    start: GroupStart,
) -> Result<Vec<Started>, Refusal> {
    let places = assignments.into_iter().filter_map(|assignment| {
        let topic = broker.topic_by_id(assignment.partition.topic)?;
        Some((topic, assignment))
    });
    let places: Vec<(Arc<Topic>, Assignment)> = places.collect();
    let starts = places.into_iter().filter_map(|(topic, assignment)| {
        let number = assignment.partition.partition;
        let partition = topic.partition(number).ok()?.clone();
        // What came since the group began is the group's to read.
        let start = match member.is_new(partition.id()) {
            true => GroupStart::Earliest,
            false => start,
        };
        let broker = &broker;
        Some(async move {
            let mut opened = Opened::new(&topic, number, &partition, Offset::ZERO);
            let position = position(broker, &opened, assignment.committed, start).await;
            let about = |refusal: Refusal| refusal.about(opened.topic.as_str(), number);
            opened.position = position.map_err(about)?;
            Ok(Started {
                partition: assignment.partition,
                opened,
                committed: assignment.committed.is_some(),
                is_chosen: assignment.committed.is_none() && start != GroupStart::Earliest,
            })
        })
    });
    let starts = stream::iter(starts).buffered(limits::DISK_READS);
    starts.try_collect().await
}

async fn position(
    broker: &Broker,
    opened: &Opened,
    committed: Option<Offset>,
    start: GroupStart,
) -> Result<Offset, Refusal> {
    let range = opened.partition.range();
    if let Some(committed) = committed {
        if committed > range.high_watermark {
            tracing::warn!(
                topic = %opened.topic,
                partition = opened.number,
                "offset {committed} was committed, the log ends at {}: records that were not durable are lost",
                range.high_watermark
            );
        }
        // What lies below the readable range is said to be truncated.
        return Ok(committed.min(range.high_watermark));
    }
    match start {
        GroupStart::Earliest => Ok(range.log_start_offset),
        GroupStart::Latest => Ok(range.high_watermark),
        GroupStart::Timestamp(timestamp_ms) => {
            let found = broker
                .offset_at_time(&opened.partition, timestamp_ms)
                .await?;
            Ok(found.unwrap_or(range.high_watermark))
        }
        // The group was forgotten while the member joined.
        GroupStart::Fail => Err(nothing_committed()),
    }
}
