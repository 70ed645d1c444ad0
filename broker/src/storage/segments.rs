//! Which segments a partition has.

use std::io;

use super::Storage;
use super::log::PartitionLog;
use super::segment::{self, SegmentState, recover_state};
use crate::model::Offset;

impl Storage {
    /// The partition's segments, of one moment: the base offsets of the sealed
    /// ones, ascending, and the active one.
    pub(super) fn segments_of(
        &self,
        log: &PartitionLog,
    ) -> io::Result<(Vec<Offset>, Option<SegmentState>)> {
        loop {
            self.sealed_segments(log)?;
            let state = log.lock();
            if let Some(sealed) = &state.sealed {
                return Ok((sealed.clone(), state.active));
            }
        }
    }

    /// The base offsets of the partition's sealed segments, ascending. Lists
    /// the directory when it is first asked.
    fn sealed_segments(&self, log: &PartitionLog) -> io::Result<Vec<Offset>> {
        loop {
            let active = {
                let state = log.lock();
                if let Some(sealed) = &state.sealed {
                    return Ok(sealed.clone());
                }
                state.active.map(|active| active.base_offset)
            };
            let listed = segment::list(self.dir.as_ref(), log.id())?;
            let mut state = log.lock();
            // The archiver sealed one meanwhile: the list may lack it.
            if state.active.map(|active| active.base_offset) != active {
                continue;
            }
            let start = state.log_start;
            let before = |base: &Offset| active.is_some_and(|active| *base < active);
            let mut sealed: Vec<Offset> = listed.into_iter().filter(before).collect();
            // Retention may have been interrupted before it removed the oldest.
            let gone = sealed
                .partition_point(|&base| base <= start)
                .saturating_sub(1);
            sealed.drain(..gone);
            state.sealed = Some(sealed);
        }
    }

    /// Bytes in the segments of a partition. Blocks.
    pub fn segment_bytes(&self, log: &PartitionLog) -> io::Result<u64> {
        let mut bytes = log.lock().active.map_or(0, |active| active.len);
        for base in self.sealed_segments(log)? {
            match recover_state(self.dir.as_ref(), log.id(), base) {
                Ok(state) => bytes += state.len,
                // Retention removed it just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }
}
