//! Which segments a partition has.

use std::io;

use super::Storage;
use super::log::PartitionLog;
use super::segment::{self, SegmentName, SegmentState, recover_state};

impl Storage {
    /// The partition's segments, of one moment: the sealed ones, in order, and
    /// the active one.
    pub(super) fn segments_of(
        &self,
        log: &PartitionLog,
    ) -> io::Result<(Vec<SegmentName>, Option<SegmentState>)> {
        loop {
            self.sealed_segments(log)?;
            let state = log.lock();
            if let Some(sealed) = &state.sealed {
                return Ok((sealed.clone(), state.active));
            }
        }
    }

    /// The partition's sealed segments, in order. Lists the directory when it is
    /// first asked.
    fn sealed_segments(&self, log: &PartitionLog) -> io::Result<Vec<SegmentName>> {
        loop {
            let active = {
                let state = log.lock();
                if let Some(sealed) = &state.sealed {
                    return Ok(sealed.clone());
                }
                state.active.map(|active| active.base_offset)
            };
            let listed = segment::list(self.dir.as_ref(), log.id())?.current();
            let mut state = log.lock();
            // Another one was first, and compaction may have gone on from there;
            // or the archiver sealed one meanwhile, which the list may lack.
            if state.sealed.is_some() || state.active.map(|active| active.base_offset) != active {
                continue;
            }
            let Some(active) = active else {
                state.sealed = Some(Vec::new());
                continue;
            };
            let start = state.log_start;
            let mut sealed = listed;
            sealed.retain(|name| name.base_offset < active);
            // Retention may have been interrupted before it removed the oldest.
            let nexts = sealed.iter().skip(1).map(|name| name.base_offset);
            let gone = nexts
                .chain([active])
                .take_while(|&next| next <= start)
                .count();
            sealed.drain(..gone.min(sealed.len()));
            state.sealed = Some(sealed);
        }
    }

    /// Bytes in the segments of a partition. Blocks.
    pub fn segment_bytes(&self, log: &PartitionLog) -> io::Result<u64> {
        let mut bytes = log.lock().active.map_or(0, |active| active.len);
        for name in self.sealed_segments(log)? {
            match recover_state(self.dir.as_ref(), log.id(), name) {
                Ok(state) => bytes += state.len,
                // Retention or compaction removed it just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }
}
