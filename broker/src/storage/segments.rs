//! Which segments a partition has.

use std::io;

use super::Storage;
use super::archiver::ArchiveError;
use super::dir::is_passing;
use super::log::{PartitionLog, SealedSegment};
use super::segment::{self, SegmentExtent, SegmentName, SegmentState, recover_state};

impl Storage {
    /// The partition's segments, of one moment: the sealed ones, in order, and
    /// the active one.
    pub(super) fn segments_of(
        &self,
        log: &PartitionLog,
    ) -> io::Result<(Vec<SegmentName>, Option<SegmentState>)> {
        loop {
            self.find_sealed(log)?;
            let state = log.lock();
            if let Some(sealed) = &state.sealed {
                return Ok((names(sealed), state.active));
            }
        }
    }

    /// Sizes and latest times of the partition's sealed segments, in order, and the
    /// active one. Opens only files that nobody looked into since the start.
    pub(super) fn extents_of(&self, log: &PartitionLog) -> io::Result<Extents> {
        let (names, active) = self.segments_of(log)?;
        let mut sealed = Vec::with_capacity(names.len());
        for name in names {
            match self.extent_of(log, name) {
                Ok(extent) => sealed.push((name, extent)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // Otherwise retention or compaction removed it just now.
                    if log.lock().has_segment(name) {
                        sealed.push((name, SegmentExtent::OF_NOTHING));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        date_unreadable(&mut sealed, active);
        Ok(Extents { sealed, active })
    }

    fn extent_of(&self, log: &PartitionLog, name: SegmentName) -> io::Result<SegmentExtent> {
        if let Some(extent) = log.lock().sealed_mut(name).and_then(|sealed| sealed.extent) {
            return Ok(extent);
        }
        let extent = recover_state(self.dir.as_ref(), log.id(), name)?.extent();
        if let Some(sealed) = log.lock().sealed_mut(name) {
            sealed.extent = Some(extent);
        }
        Ok(extent)
    }

    /// Finds out which sealed segments the partition has: lists the directory when it
    /// is first asked.
    fn find_sealed(&self, log: &PartitionLog) -> io::Result<()> {
        loop {
            let active = {
                let state = log.lock();
                if state.sealed.is_some() {
                    return Ok(());
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
            let unknown = |name| SealedSegment { name, extent: None };
            state.sealed = Some(sealed.into_iter().map(unknown).collect());
        }
    }

    /// Bytes in the segments of a partition. Blocks.
    pub fn segment_bytes(&self, log: &PartitionLog) -> io::Result<u64> {
        let Extents { sealed, active } = self.extents_of(log)?;
        let sealed: u64 = sealed.iter().map(|(_, extent)| extent.len).sum();
        Ok(sealed + active.map_or(0, |active| active.len))
    }
}

impl Storage {
    /// Writes the indexes of sealed segments that were lost, or torn by a crash, and
    /// that readers had to make again: the next one who opens the segment finds them.
    /// Says how many there were. Blocks.
    pub fn restore_indexes(&self) -> Result<usize, ArchiveError> {
        self.check_unfailed()?;
        let archiver = self.archiver();
        let mut restored = 0;
        for (id, name, reader) in self.segments.readers() {
            let Some(log) = self.log(id) else { continue };
            let sealed = log.lock().sealed_mut(name).copied();
            let Some(extent) = sealed.and_then(|sealed| sealed.extent) else {
                // It grows still, is gone, or retention will look at it first.
                continue;
            };
            let Some(index) = reader.rebuilt_index(extent.len) else {
                continue;
            };
            match segment::write_index(self.dir.as_ref(), id, name, &index) {
                Err(error) if is_passing(&error) => break,
                written => {
                    written.map_err(|error| self.writing_failed("writing an index", &error))?;
                }
            }
            reader.index_is_restored();
            restored += 1;
        }
        drop(archiver);
        self.remove_doomed()?;
        Ok(restored)
    }
}

/// What the segments of a partition hold.
pub(super) struct Extents {
    /// In order.
    pub(super) sealed: Vec<(SegmentName, SegmentExtent)>,
    pub(super) active: Option<SegmentState>,
}

/// A segment of whose batches none can be read, or has a record, tells no time: it is as
/// old as the one behind it, and stays as long as none behind it tells one. It may be read
/// another time, and isn't to go for that.
fn date_unreadable(sealed: &mut [(SegmentName, SegmentExtent)], active: Option<SegmentState>) {
    let active = active.filter(|active| active.batch_count > 0);
    let mut later_ms = active.map_or(i64::MAX, |active| active.max_timestamp_ms);
    let there = |extent: &SegmentExtent| *extent != SegmentExtent::OF_NOTHING;
    let extents = sealed.iter_mut().map(|(_, extent)| extent);
    for extent in extents.rev().filter(|extent| there(extent)) {
        if extent.max_timestamp_ms == i64::MIN {
            extent.max_timestamp_ms = later_ms;
        }
        later_ms = extent.max_timestamp_ms;
    }
}

fn names(sealed: &[SealedSegment]) -> Vec<SegmentName> {
    sealed.iter().map(|segment| segment.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Offset;

    fn sealed(times: &[(u64, i64)]) -> Vec<(SegmentName, SegmentExtent)> {
        let extent = |&(len, max_timestamp_ms)| SegmentExtent {
            len,
            max_timestamp_ms,
        };
        let names = (0..).map(|base| SegmentName::from(Offset(base)));
        names.zip(times.iter().map(extent)).collect()
    }

    fn dated(times: &[(u64, i64)], active: Option<SegmentState>) -> Vec<i64> {
        let mut sealed = sealed(times);
        date_unreadable(&mut sealed, active);
        let time = |(_, extent): (_, SegmentExtent)| extent.max_timestamp_ms;
        sealed.into_iter().map(time).collect()
    }

    #[test]
    fn what_tells_no_time_is_as_old_as_what_is_behind_it_or_as_young_as_can_be() {
        const NONE: i64 = i64::MIN;
        let empty = SegmentState::empty(Offset(9), 0);
        let active = SegmentState {
            max_timestamp_ms: 7,
            batch_count: 1,
            ..empty
        };
        let times = [(70, NONE), (70, 3), (70, NONE), (70, NONE)];
        assert_eq!(dated(&times, Some(active)), [3, 3, 7, 7]);
        // Nothing that was appended since says how old it is.
        for active in [Some(empty), None] {
            assert_eq!(dated(&times, active), [3, 3, i64::MAX, i64::MAX]);
        }
        // Of a file that is lost there is nothing to keep.
        assert_eq!(dated(&[(0, NONE)], Some(active)), [NONE]);
    }
}
