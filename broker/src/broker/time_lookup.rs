//! From a time to an offset, exact to the record.

use statecast_proto::batch;

use crate::model::Offset;
use crate::partition::{PartitionHandle, Read, ReadError, StoredBatch};

/// The first record at or after `timestamp_ms` (milliseconds since the Unix
/// epoch) below the high watermark. The log knows the batch; the record is
/// looked up in it.
pub(super) async fn offset_at_time(
    partition: &PartitionHandle,
    timestamp_ms: i64,
) -> Result<Option<Offset>, ReadError> {
    let Some(base) = partition.offset_at_time(timestamp_ms).await? else {
        return Ok(None);
    };
    let end = partition.range().high_watermark;
    if base >= end {
        return Ok(Some(base));
    }
    match partition.read(base, end, 1).await? {
        Read::Batches(batches) => {
            let within = batches
                .first()
                .map(|batch| offset_in_batch(batch, timestamp_ms));
            // Retention may have taken records of its front since.
            Ok(Some(within.map_or(base, |offset| offset.max(base))))
        }
        // It went between the two looks; where reading goes on is as good.
        Read::Truncated { log_start_offset } => Ok(Some(log_start_offset)),
        Read::Quarantined { to } => Ok(Some(to)),
    }
}

/// The first record of a batch at or after a time; its first one if it can't be
/// told.
fn offset_in_batch(stored: &StoredBatch, timestamp_ms: i64) -> Offset {
    let header = &stored.header;
    let Ok(records) = batch::decode(stored.payload.clone()) else {
        return header.base_offset;
    };
    let mut offset = header.base_offset;
    for record in records {
        let Ok(record) = record else { break };
        offset = offset.advanced(u64::from(record.offset_gap));
        if record.timestamp_ms.unwrap_or(header.append_time_ms) >= timestamp_ms {
            return offset;
        }
        offset = offset.advanced(1);
    }
    header.base_offset
}
