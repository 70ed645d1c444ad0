//! `ListOffsets`.

use statecast_proto::v1;

use super::error::Refusal;
use crate::broker::Broker;
use crate::limits;

pub(super) async fn list_offsets(
    broker: &Broker,
    request: v1::ListOffsetsRequest,
) -> Result<v1::ListOffsetsResponse, Refusal> {
    let topic = broker.topic(&request.topic)?;
    if request.partitions.len() > limits::PARTITIONS_PER_FETCH {
        return Err(Refusal::invalid("more partitions than a topic can have")
            .beyond(request.partitions.len(), limits::PARTITIONS_PER_FETCH));
    }
    let numbers = match request.partitions {
        all if all.is_empty() => (0..topic.partition_count()).collect(),
        named => named,
    };
    let mut partitions = Vec::with_capacity(numbers.len());
    for number in numbers {
        let partition = topic.partition(number)?;
        let offset_at_time = match request.timestamp_ms {
            Some(timestamp_ms) => broker
                .offset_at_time(partition, timestamp_ms)
                .await
                .map_err(|error| Refusal::from(error).about(&request.topic, number))?,
            None => None,
        };
        let range = partition.range();
        partitions.push(v1::PartitionOffsets {
            partition: number,
            log_start_offset: range.log_start_offset.0,
            high_watermark: range.high_watermark.0,
            offset_at_time: offset_at_time.map(|offset| offset.0),
        });
    }
    Ok(v1::ListOffsetsResponse { partitions })
}
