//! From a request to the positions that reading starts from.

use statecast_proto::reason::Reason;
use statecast_proto::v1::{self, start::Position};

use crate::broker::{Broker, Topic};
use crate::limits;
use crate::model::Offset;
use crate::partition::PartitionHandle;
use crate::server::error::Refusal;
use crate::server::reading::Opened;

/// The partitions of a topic that a request reads, each with its start.
pub(super) async fn positions(
    broker: &Broker,
    topic: &Topic,
    request: &v1::FetchRequest,
) -> Result<Vec<Opened>, Refusal> {
    let mut opened = Vec::new();
    for (number, start) in starts(topic, request)? {
        let partition = topic.partition(number)?;
        let position = position(broker, partition, start).await;
        let position = position.map_err(|refusal| refusal.about(&request.topic, number))?;
        let place = Opened::new(topic, number, partition, position);
        opened.push(match request.until_end {
            true => place.until_end(),
            false => place,
        });
    }
    Ok(opened)
}

/// Whether all partitions are read.
pub(super) fn is_whole(request: &v1::FetchRequest) -> bool {
    request.partitions.is_empty() || request.and_others
}

/// Numbers of the partitions, each with the start that counts for it.
fn starts(
    topic: &Topic,
    request: &v1::FetchRequest,
) -> Result<Vec<(u32, Option<Position>)>, Refusal> {
    let default = request.start.and_then(|start| start.position);
    let count = request.partitions.len();
    let limit = limits::PARTITIONS_PER_FETCH;
    if count > limit {
        let message = format_args!("one fetch reads {limit} partitions at most, not {count}");
        return Err(Refusal::invalid(message).beyond(count, limit));
    }
    let own = |named: &v1::PartitionStart| named.start.and_then(|start| start.position);
    let starts = request
        .partitions
        .iter()
        .map(|named| (named.partition, own(named).or(default)));
    let mut starts: Vec<_> = starts.collect();
    starts.sort_by_key(|(number, _)| *number);
    if let Some(twice) = starts.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        let refusal = Refusal::invalid("a partition is named twice");
        return Err(refusal.about(&request.topic, twice[0].0));
    }
    if is_whole(request) {
        let named = |number| {
            starts
                .binary_search_by_key(&number, |(named, _)| *named)
                .is_ok()
        };
        let others = (0..topic.partition_count()).filter(|&number| !named(number));
        let others: Vec<_> = others.map(|number| (number, default)).collect();
        starts.extend(others);
    }
    Ok(starts)
}

/// The offset that a start means.
pub(in crate::server) async fn position(
    broker: &Broker,
    partition: &PartitionHandle,
    start: Option<Position>,
) -> Result<Offset, Refusal> {
    let range = partition.range();
    match start {
        None | Some(Position::Earliest(_)) => Ok(range.log_start_offset),
        Some(Position::Latest(_)) => Ok(range.high_watermark),
        Some(Position::TimestampMs(timestamp_ms)) => {
            let found = broker.offset_at_time(partition, timestamp_ms).await?;
            Ok(found.unwrap_or(range.high_watermark))
        }
        Some(Position::Offset(offset)) => {
            let (low, high) = (range.log_start_offset.0, range.high_watermark.0);
            if (low..=high).contains(&offset) {
                return Ok(Offset(offset));
            }
            let message = format_args!(
                "offset {offset} lies outside of the readable range from {low} to {high}"
            );
            Err(Refusal::new(Reason::OffsetOutOfRange, message)
                .with("offset", offset)
                .with("log_start_offset", low)
                .with("high_watermark", high))
        }
    }
}
