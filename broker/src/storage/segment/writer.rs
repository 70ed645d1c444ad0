//! Fills the active segment. Only whoever holds the archiver does that.
//!
//! Its index is written some entries at a time: where thousands of partitions get a
//! little with each pass, another file for each of them would cost as much as the
//! segments. What the file lacks is kept in between, and made again after a start.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::format::{Dropped, Footer, SegmentHeader};
use super::index::{ENTRY_LEN, Index, IndexEntry, is_due};
use super::room::{room_ahead, room_for};
use super::scan::SegmentScan;
use super::state::SegmentState;
use super::{SegmentName, index_path, log_path};
use crate::model::{BatchHeader, Offset, PartitionId};
use crate::storage::dir::{Dir, File, PAGE, is_bad_sector};

/// So many entries of the index are written together. Until then, who reads has to look
/// through what they stand for.
const ENTRIES_AT_ONCE: usize = if cfg!(test) { 2 } else { 8 };

/// The active segment of a partition, open for appending.
#[derive(Debug)]
pub struct SegmentWriter {
    partition: PartitionId,
    file: Arc<dyn File>,
    index: GrowingIndex,
    state: SegmentState,
    /// Its names are new: the directory has to be flushed.
    is_new: bool,
}

impl SegmentWriter {
    /// Begins a segment.
    pub fn create(
        dir: &dyn Dir,
        partition: PartitionId,
        base_offset: Offset,
        created_ms: i64,
    ) -> io::Result<SegmentWriter> {
        let file = dir.create(&log_path(partition, base_offset))?;
        let header = header_of(partition, base_offset, created_ms);
        file.write_all_at(&header.encode(), 0)?;
        let state = SegmentState::empty(base_offset, created_ms);
        Ok(SegmentWriter {
            partition,
            file,
            index: GrowingIndex::of_nothing(&state),
            state,
            is_new: true,
        })
    }

    /// Goes on with a segment where `state` says that it ends; what lies behind
    /// is cut off. With what was kept of it, if it is the same. `None` if its last
    /// page can't be read, and so not be written without losing what may be read
    /// another time: then it ends as it is.
    pub fn open(
        dir: &dyn Dir,
        partition: PartitionId,
        state: SegmentState,
        kept: Option<GrowingSegment>,
    ) -> io::Result<Option<SegmentWriter>> {
        let Opened {
            file,
            len,
            is_new,
            known,
        } = Opened::open(dir, partition, &state, kept)?;
        if !is_writable_at(file.as_ref(), state.len)? {
            if state.batch_count > 0 {
                let page_end = state.len.next_multiple_of(PAGE as u64);
                file.set_len(page_end.min(len))?;
                return Ok(None);
            }
            // There is nothing to lose.
            let header = header_of(partition, state.base_offset, state.created_ms);
            write_pages(file.as_ref(), header.encode().to_vec())?;
        }
        // Shorter only when the file was damaged: the zeros that fill it read
        // as damage, too.
        if len != state.len {
            file.set_len(state.len)?;
        }
        let is_known = known.is_some();
        let mut writer = SegmentWriter {
            partition,
            file,
            index: known.unwrap_or_else(|| GrowingIndex::of_nothing(&state)),
            state,
            is_new,
        };
        if !is_known && is_due(state.len, None) {
            let file = writer.open_index(dir)?;
            writer.mend_index(&file)?;
        }
        Ok(Some(writer))
    }

    fn open_index(&mut self, dir: &dyn Dir) -> io::Result<Arc<dyn File>> {
        let path = index_path(self.partition, self.state.base_offset);
        let (file, is_new) = open_or_create(dir, &path)?;
        self.is_new |= is_new;
        Ok(file)
    }

    /// Makes the index end where the segment does, whatever its file has.
    fn mend_index(&mut self, file: &Arc<dyn File>) -> io::Result<()> {
        let len = usize::try_from(file.len()?).expect("an index is small");
        // To the end of the last page: if that can't be read, nothing can be added.
        let mut bytes = vec![0; len.next_multiple_of(PAGE)];
        let found = match file.read_at(&mut bytes, 0) {
            Err(error) if is_bad_sector(&error) => None,
            read => Index::decode(&bytes[..read?], self.state.len),
        };
        let count = found.as_ref().map(Index::len);
        let found = found.unwrap_or_default();
        let index = SegmentScan::complete_index(&self.file, found, self.state.len)?;
        let index_len = (index.len() * ENTRY_LEN) as u64;
        if count != Some(index.len()) {
            write_pages(file.as_ref(), index.encode())?;
        } else if file.len()? != index_len {
            file.set_len(index_len)?;
        }
        self.index.file_len = index_len;
        self.index.last_entry = index.last_position();
        self.index.lacking.clear();
        Ok(())
    }

    /// Adds what the file of the index lacks.
    fn write_index(&mut self, dir: &dyn Dir) -> io::Result<()> {
        if self.index.lacking.is_empty() {
            return Ok(());
        }
        let file = self.open_index(dir)?;
        let file_len = self.index.file_len;
        if file_len == 0 && !file.is_empty()? {
            // A pass that didn't finish left it. Nothing of it counts, and it may not even
            // be readable.
            file.set_len(0)?;
        }
        // Shorter or longer only if somebody meddled.
        if file.len()? != file_len || !is_writable_at(file.as_ref(), file_len)? {
            return self.mend_index(&file);
        }
        let lacking = self.index.lacking.drain(..);
        let entries: Vec<u8> = lacking.flat_map(|entry| entry.encode()).collect();
        file.write_all_at(&entries, file_len)?;
        self.index.file_len += entries.len() as u64;
        Ok(())
    }

    /// The segment as it is now, for when it is opened again.
    pub fn take_growing(&mut self) -> GrowingSegment {
        let taken = GrowingIndex::of_nothing(&self.state);
        let mut index = std::mem::replace(&mut self.index, taken);
        index.segment_len = self.state.len;
        GrowingSegment {
            index,
            file: Some(self.file.clone()),
        }
    }

    /// Whose segment it is.
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// How far it has been filled.
    pub fn state(&self) -> SegmentState {
        self.state
    }

    /// Takes room ahead on the disk, before so many bytes are appended, if the segment is small.
    pub fn take_room(&self, bytes: usize) {
        if let Some(room) = room_ahead(self.state.len, self.state.len + bytes as u64) {
            self.file.take_room(room.start, room.end);
        }
    }

    /// Appends batches: their bytes back to back, and the headers in them.
    pub fn append(
        &mut self,
        dir: &dyn Dir,
        bytes: &[u8],
        batches: &[BatchHeader],
    ) -> io::Result<()> {
        self.file.write_all_at(bytes, self.state.len)?;
        for batch in batches {
            let position = self.state.len;
            if is_due(position, self.index.last_entry) {
                self.index.add(IndexEntry {
                    base_offset: batch.base_offset,
                    position,
                    max_timestamp_before_ms: self.state.max_timestamp_ms,
                });
            }
            self.state.add(batch);
        }
        match self.index.lacking.len() >= ENTRIES_AT_ONCE {
            true => self.write_index(dir),
            false => Ok(()),
        }
    }

    /// Whether its names are new, so that its directory has to be flushed.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Makes what was appended durable.
    pub fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Ends the segment: it never changes again. Durable on return, but for
    /// its name.
    pub fn seal(mut self, dir: &dyn Dir) -> io::Result<()> {
        self.write_index(dir)?;
        self.file
            .write_all_at(&Footer { state: self.state }.encode(), self.state.len)?;
        if room_for(self.state.len) > self.state.len {
            // Gives back what it didn't need.
            self.file.set_len(self.file.len()?)?;
        }
        self.file.sync_data()
    }
}

/// The file of a segment that grows on.
struct Opened {
    file: Arc<dyn File>,
    /// How long it is: bytes.
    len: u64,
    is_new: bool,
    /// Its index, if it was kept.
    known: Option<GrowingIndex>,
}

impl Opened {
    /// What was kept of the segment is taken if it was kept in this state, and if the file,
    /// should it be open, still has a name: somebody may have removed or replaced it.
    fn open(
        dir: &dyn Dir,
        partition: PartitionId,
        state: &SegmentState,
        kept: Option<GrowingSegment>,
    ) -> io::Result<Opened> {
        let by_path = |known| {
            let (file, is_new) = open_or_create(dir, &log_path(partition, state.base_offset))?;
            Ok(Opened {
                len: file.len()?,
                file,
                is_new,
                known,
            })
        };
        let Some(kept) = kept.filter(|kept| kept.index.is_of(state)) else {
            return by_path(None);
        };
        let Some(file) = kept.file else {
            return by_path(Some(kept.index));
        };
        match file.len_if_named()? {
            None => by_path(None),
            Some(len) => Ok(Opened {
                file,
                len,
                is_new: false,
                known: Some(kept.index),
            }),
        }
    }
}

/// A segment that grows, between one time that it is written to and the next.
#[derive(Debug)]
pub struct GrowingSegment {
    index: GrowingIndex,
    /// `None` if it is to be opened again.
    file: Option<Arc<dyn File>>,
}

impl GrowingSegment {
    /// Whether its file is open.
    pub fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Whether it tells more than is known without it.
    pub fn is_worth_keeping(&self) -> bool {
        self.is_open() || self.index.last_entry.is_some()
    }

    /// Closes the file.
    pub fn close(&mut self) {
        self.file = None;
    }

    /// The file, if it is open and of the segment of this name.
    pub fn file_of(&self, base_offset: Offset) -> Option<&dyn File> {
        let file = self.file.as_deref();
        file.filter(|_| self.index.base_offset == base_offset)
    }
}

/// The index of a segment that grows.
#[derive(Debug)]
struct GrowingIndex {
    /// Of its segment.
    base_offset: Offset,
    /// How far the segment had been filled: bytes.
    segment_len: u64,
    /// What its file holds: bytes.
    file_len: u64,
    /// The place that the last entry names, whether or not the file has it.
    last_entry: Option<u64>,
    /// Entries that the file lacks.
    lacking: Vec<IndexEntry>,
}

impl GrowingIndex {
    fn of_nothing(state: &SegmentState) -> GrowingIndex {
        GrowingIndex {
            base_offset: state.base_offset,
            segment_len: state.len,
            file_len: 0,
            last_entry: None,
            lacking: Vec::new(),
        }
    }

    /// Whether it is that of a segment in this state. Retention may have begun another
    /// segment since; and an index that has more than the segment would mislead its readers.
    fn is_of(&self, state: &SegmentState) -> bool {
        (self.base_offset, self.segment_len) == (state.base_offset, state.len)
    }

    fn add(&mut self, entry: IndexEntry) {
        self.last_entry = Some(entry.position);
        if self.lacking.len() == self.lacking.capacity() {
            // Doubling wastes much where thousands of partitions have a few.
            self.lacking.reserve_exact(ENTRIES_AT_ONCE / 2);
        }
        self.lacking.push(entry);
    }
}

/// Writes the whole index of a segment anew. Not durable: it can be made again.
pub fn write_index(
    dir: &dyn Dir,
    partition: PartitionId,
    name: SegmentName,
    index: &Index,
) -> io::Result<()> {
    let (file, _) = open_or_create(dir, &index_path(partition, name))?;
    write_pages(file.as_ref(), index.encode())
}

fn header_of(partition: PartitionId, base_offset: Offset, created_ms: i64) -> SegmentHeader {
    SegmentHeader {
        partition,
        base_offset,
        created_ms,
        compacted_to: Offset::ZERO,
        dropped: Dropped::default(),
    }
}

/// Writes all of a file, in whole pages: what is there may not be readable.
fn write_pages(file: &dyn File, mut bytes: Vec<u8>) -> io::Result<()> {
    let len = bytes.len() as u64;
    bytes.resize(bytes.len().next_multiple_of(PAGE), 0);
    file.write_all_at(&bytes, 0)?;
    file.set_len(len)
}

/// Whether a file can be written from `position` on: what is begun of its page is read
/// first.
fn is_writable_at(file: &dyn File, position: u64) -> io::Result<bool> {
    let begun = position % PAGE as u64;
    if begun == 0 {
        return Ok(true);
    }
    let read = || file.read_at(&mut [0; PAGE], position - begun);
    // Twice: a disk may fail to read what it reads the next time.
    match read().or_else(|_| read()) {
        Err(error) if is_bad_sector(&error) => Ok(false),
        read => read.map(|_| true),
    }
}

fn open_or_create(dir: &dyn Dir, path: &Path) -> io::Result<(Arc<dyn File>, bool)> {
    match dir.open(path) {
        Ok(file) => Ok((file, false)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((dir.create(path)?, true)),
        Err(error) => Err(error),
    }
}
