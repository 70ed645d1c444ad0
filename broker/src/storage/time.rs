//! Where in a partition a time begins.

use std::io;

use super::Storage;
use super::log::PartitionLog;
use super::read::{Opened, ReadError};
use super::segment::{self, SegmentEnd, SegmentName, SegmentState};
use crate::model::{Offset, PartitionId};

/// What came of a search through the segments of one moment.
enum Found {
    /// The place, if there is one.
    Place(Option<Offset>),
    /// They have changed meanwhile: what was sought may have gone where the
    /// search had been already.
    Moved,
}

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
        loop {
            if let Found::Place(place) = self.search_segments(log, timestamp_ms)? {
                return Ok(place);
            }
        }
    }

    /// Searches the segments of one moment.
    fn search_segments(&self, log: &PartitionLog, timestamp_ms: i64) -> io::Result<Found> {
        let (sealed, active) = self.segments_of(log)?;
        let nexts = sealed
            .iter()
            .skip(1)
            .map(|name| name.base_offset)
            .chain(active.map(|active| active.base_offset));
        for (&name, next_offset) in sealed.iter().zip(nexts) {
            match self.sealed_state(log.id(), name) {
                Ok(Some(state)) if state.max_timestamp_ms < timestamp_ms => continue,
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                // Whether it may be missing is found out below.
                _ => {}
            }
            let reader = match self.open_segment(log, name)? {
                Opened::Segment(reader) => reader,
                Opened::Lost => continue,
                Opened::Gone => return Ok(gone(log)),
            };
            let len = reader.sealed_len()?;
            let end = SegmentEnd { len, next_offset };
            if let Some(offset) = reader.offset_at_time(timestamp_ms, end)? {
                return Ok(Found::Place(Some(offset)));
            }
        }
        let Some(active) = active.filter(|active| active.max_timestamp_ms >= timestamp_ms) else {
            return Ok(Found::Place(None));
        };
        let reader = match self.open_segment(log, active.base_offset.into())? {
            Opened::Segment(reader) => reader,
            Opened::Lost => return Ok(Found::Place(None)),
            Opened::Gone => return Ok(gone(log)),
        };
        let end = SegmentEnd {
            len: active.len,
            next_offset: active.next_offset,
        };
        let place = reader.offset_at_time(timestamp_ms, end)?;
        Ok(Found::Place(place))
    }

    /// What the footer of a sealed segment says, if it is whole.
    fn sealed_state(&self, id: PartitionId, name: SegmentName) -> io::Result<Option<SegmentState>> {
        let file = self.dir.open(&segment::log_path(id, name))?;
        Ok(segment::read_footer(file.as_ref())?.map(|footer| footer.state))
    }
}

/// A segment went while the search was under way.
fn gone(log: &PartitionLog) -> Found {
    match log.lock().deleted {
        true => Found::Place(None),
        false => Found::Moved,
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
