//! Where in a partition a time begins.

use std::io;

use super::Storage;
use super::log::PartitionLog;
use super::read::ReadError;
use super::segment::SegmentEnd;
use crate::model::Offset;

impl Storage {
    /// The first offset of the first readable batch that has a record at or
    /// after `timestamp_ms`; `None` when there is none. Blocks.
    pub fn offset_at_time(
        &self,
        log: &PartitionLog,
        timestamp_ms: i64,
    ) -> Result<Option<Offset>, ReadError> {
        if log.lock().deleted {
            return Err(ReadError::Deleted(log.id()));
        }
        let found = match self.in_segments_at_time(log, timestamp_ms)? {
            Some(offset) => Some(offset),
            None => in_journal_at_time(log, timestamp_ms),
        };
        let start = log.lock().log_start;
        let high_watermark = log.high_watermark();
        Ok(found
            .map(|offset| offset.max(start))
            .filter(|&offset| offset < high_watermark))
    }

    fn in_segments_at_time(
        &self,
        log: &PartitionLog,
        timestamp_ms: i64,
    ) -> io::Result<Option<Offset>> {
        let sealed = self.sealed_segments(log)?;
        let active = log.lock().active;
        let nexts = sealed
            .iter()
            .skip(1)
            .copied()
            .chain(active.map(|active| active.base_offset));
        for (&base, next) in sealed.iter().zip(nexts) {
            let reader = match self.segments.open(self.dir.as_ref(), log.id(), base) {
                Ok(reader) => reader,
                // Retention removed it just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let end = reader.sealed_end(next)?;
            if let Some(offset) = reader.offset_at_time(timestamp_ms, end)? {
                return Ok(Some(offset));
            }
        }
        let Some(active) = active.filter(|active| active.max_timestamp_ms >= timestamp_ms) else {
            return Ok(None);
        };
        let reader = self
            .segments
            .open(self.dir.as_ref(), log.id(), active.base_offset)?;
        let end = SegmentEnd {
            len: active.len,
            next_offset: active.next_offset,
        };
        reader.offset_at_time(timestamp_ms, end)
    }
}

fn in_journal_at_time(log: &PartitionLog, timestamp_ms: i64) -> Option<Offset> {
    let state = log.lock();
    let run = state
        .runs
        .iter()
        .find(|run| run.max_timestamp_ms >= timestamp_ms)?;
    Some(run.base_offset)
}
