//! How far behind a reader is.

use crate::model::Offset;
use crate::partition::{PartitionHandle, Read, ReadError};

/// What somebody who goes on at some offset has not read yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lag {
    /// Records.
    pub records: u64,
    /// How long ago the oldest of them was appended: milliseconds.
    pub age_ms: u64,
}

/// The lag of a reader that goes on at `next`.
pub(super) async fn lag(
    partition: &PartitionHandle,
    next: Offset,
    now_ms: i64,
) -> Result<Lag, ReadError> {
    let range = partition.range();
    let end = range.high_watermark;
    let mut oldest = next.max(range.log_start_offset);
    let records = end.0.saturating_sub(oldest.0);
    while oldest < end {
        match partition.read(oldest, end, 1).await? {
            Read::Batches(batches) => {
                let appended = batches.first().map(|batch| batch.header.append_time_ms);
                let age_ms = now_ms.saturating_sub(appended.unwrap_or(now_ms));
                let age_ms = u64::try_from(age_ms).unwrap_or_default();
                return Ok(Lag { records, age_ms });
            }
            Read::Truncated { log_start_offset } => oldest = log_start_offset,
            Read::Quarantined { to } => oldest = to,
        }
    }
    Ok(Lag { records, age_ms: 0 })
}
