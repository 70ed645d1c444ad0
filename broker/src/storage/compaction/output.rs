//! A segment that compaction writes. It has a name that doesn't count until it is
//! finished and takes the place of others.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::merge::BatchSink;
use crate::model::{BatchHeader, Offset, PartitionId};
use crate::storage::dir::{Dir, File};
use crate::storage::segment::{self, Dropped, Footer, Index, SegmentHeader, SegmentState};

/// A segment that is being written.
#[derive(Debug)]
pub(super) struct Output {
    partition: PartitionId,
    file: Arc<dyn File>,
    path: PathBuf,
    state: SegmentState,
    index: Index,
    /// The end of the segment, which is not written yet.
    buffer: Vec<u8>,
}

/// A segment whose bytes are durable.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) path: PathBuf,
    pub(super) state: SegmentState,
    pub(super) index: Index,
    pub(super) dropped: Dropped,
}

impl Output {
    /// Begins a segment. Whoever calls this is the archiver for so long.
    pub(super) fn create(
        dir: &dyn Dir,
        partition: PartitionId,
        base_offset: Offset,
        created_ms: i64,
    ) -> io::Result<Output> {
        let path = segment::unfinished_path(partition, base_offset);
        segment::remove_if_there(dir, &path)?;
        let file = dir.create(&path)?;
        Ok(Output {
            partition,
            file,
            path,
            state: SegmentState::empty(base_offset, created_ms),
            index: Index::default(),
            buffer: Vec::new(),
        })
    }

    /// Where it lies until it counts.
    pub(super) fn path(&self) -> &PathBuf {
        &self.path
    }

    /// Size of the header and all batches: bytes.
    pub(super) fn len(&self) -> u64 {
        self.state.len
    }

    /// Bytes that were not written yet.
    pub(super) fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Writes what was not written yet.
    pub(super) fn write(&mut self) -> io::Result<()> {
        let at = self.state.len - self.buffer.len() as u64;
        self.file.write_all_at(&self.buffer, at)?;
        self.buffer.clear();
        Ok(())
    }

    /// Makes what was written durable.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Ends the segment, which says what was dropped from it: before anybody can miss
    /// that. Its bytes are durable on return.
    pub(super) fn finish(mut self, compacted_to: Offset, dropped: Dropped) -> io::Result<Finished> {
        let footer = Footer { state: self.state };
        self.write()?;
        self.file.write_all_at(&footer.encode(), self.state.len)?;
        let header = SegmentHeader {
            partition: self.partition,
            base_offset: self.state.base_offset,
            created_ms: self.state.created_ms,
            compacted_to: compacted_to.min(self.state.next_offset),
            dropped,
        };
        self.file.write_all_at(&header.encode(), 0)?;
        self.file.sync_data()?;
        Ok(Finished {
            path: self.path,
            state: self.state,
            index: self.index,
            dropped,
        })
    }
}

impl BatchSink for Output {
    fn take(&mut self, header: &BatchHeader, payload: &[u8]) {
        assert_eq!(
            header.base_offset, self.state.next_offset,
            "a compacted segment has no holes"
        );
        self.index
            .add(header, self.state.len, self.state.max_timestamp_ms);
        self.buffer.extend_from_slice(&header.encode());
        self.buffer.extend_from_slice(payload);
        self.state.add(header);
    }
}
