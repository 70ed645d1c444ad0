//! Where in a partition a time begins.

use std::io;

use super::Storage;
use super::log::PartitionLog;
use super::read::{Opened, ReadError};
use super::segment::{self, SegmentEnd, SegmentState};
use crate::model::{Offset, PartitionId};

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
        // The journal first: what the archiver moves meanwhile is then found in
        // segments, which count more, as they are older.
        let in_journal = in_journal_at_time(log, timestamp_ms);
        let found = self.in_segments_at_time(log, timestamp_ms)?.or(in_journal);
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
        let (sealed, active) = self.segments_of(log)?;
        let nexts = sealed
            .iter()
            .skip(1)
            .copied()
            .chain(active.map(|active| active.base_offset));
        for (&base, next_offset) in sealed.iter().zip(nexts) {
            let ends_before = match self.sealed_state(log.id(), base) {
                Ok(footer) => footer.is_some_and(|state| state.max_timestamp_ms < timestamp_ms),
                Err(error) if error.kind() == io::ErrorKind::NotFound => true,
                Err(error) => return Err(error),
            };
            if ends_before {
                continue;
            }
            let Opened::Segment(reader) = self.open_segment(log, base)? else {
                continue;
            };
            let len = reader.sealed_len()?;
            let end = SegmentEnd { len, next_offset };
            if let Some(offset) = reader.offset_at_time(timestamp_ms, end)? {
                return Ok(Some(offset));
            }
        }
        let Some(active) = active.filter(|active| active.max_timestamp_ms >= timestamp_ms) else {
            return Ok(None);
        };
        let Opened::Segment(reader) = self.open_segment(log, active.base_offset)? else {
            return Ok(None);
        };
        let end = SegmentEnd {
            len: active.len,
            next_offset: active.next_offset,
        };
        reader.offset_at_time(timestamp_ms, end)
    }

    /// What the footer of a sealed segment says, if it is whole.
    fn sealed_state(&self, id: PartitionId, base: Offset) -> io::Result<Option<SegmentState>> {
        let file = self.dir.open(&segment::log_path(id, base))?;
        Ok(segment::read_footer(file.as_ref())?.map(|footer| footer.state))
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
