//! What compaction has dropped from a partition: each segment that it made says so
//! itself, before it counts. So whoever relies on what is missing there finds out, also
//! after a crash.

use std::io;

use super::Storage;
use super::log::{LogState, PartitionLog};
use super::segment::{self, Dropped, SEGMENT_HEADER_LEN, SegmentHeader, SegmentName};

impl Storage {
    /// What compaction has dropped from a partition. To be asked after what was dropped
    /// may have been missed. The first time, it reads the headers of the segments that
    /// compaction made, and blocks.
    pub fn dropped(&self, log: &PartitionLog) -> io::Result<Dropped> {
        loop {
            if let Some(dropped) = log.lock().dropped {
                return Ok(dropped);
            }
            let (mut names, _) = self.segments_of(log)?;
            names.retain(|name| name.compacted.is_some());
            let mut dropped = Dropped::default();
            for &name in &names {
                dropped = dropped.and(self.dropped_from(log, name)?);
            }
            let mut state = log.lock();
            if compacted(&state).eq(names) || state.deleted {
                state.dropped = Some(dropped);
            }
        }
    }

    /// What a segment says. If it is damaged, that may be all that there is.
    fn dropped_from(&self, log: &PartitionLog, name: SegmentName) -> io::Result<Dropped> {
        let mut head = [0; SEGMENT_HEADER_LEN];
        let path = segment::log_path(log.id(), name);
        match self.dir.open(&path) {
            Ok(file) => drop(file.read_salvaging(&mut head, 0)?),
            // Lost, or gone this moment: then this counts for nothing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let is_its = |header: &SegmentHeader| {
            header.partition == log.id() && header.base_offset == name.base_offset
        };
        let header = SegmentHeader::decode(&head).filter(is_its);
        Ok(header.map_or_else(|| everything(&log.lock()), |header| header.dropped))
    }
}

fn compacted(state: &LogState) -> impl Iterator<Item = SegmentName> {
    let sealed = state.sealed.iter().flatten().map(|segment| segment.name);
    sealed.filter(|name| name.compacted.is_some())
}

fn everything(state: &LogState) -> Dropped {
    Dropped {
        superseded_to: state.archived_end(),
        tombstones_to: state.archived_end(),
    }
}
