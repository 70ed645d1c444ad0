//! Moves batches from journal files to the segments of their partitions.
//!
//! One pass takes the oldest closed file. The order of its steps is what makes
//! a crash at any moment harmless:
//!
//! 1. append each partition's batches to its active segment (and seal it and
//!    begin the next when it is full). Nobody reads them there yet; a pass that
//!    ends here is repeated, and begins by cutting the segments back;
//! 2. flush the segments;
//! 3. write the checkpoint: from now on recovery finds them in the segments;
//! 4. let readers find them there;
//! 5. recycle the journal file. A reader that looked one up just before sees
//!    by its checksum that the file went to other use, and looks again.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::checkpoint::{Checkpoint, CheckpointEntry};
use super::dir::Dir;
use super::journal::{
    ClosedFile, FRAME_HEADER_LEN, FRAME_PREFIX_LEN, Frame, JournalFailed, WINDOW, Window, frame_len,
};
use super::log::{PartitionLog, Run};
use super::lsn::Generation;
use super::segment::{self, SegmentState, SegmentWriter};
use super::{PARTITIONS_DIR, Storage};
use crate::model::{BatchHeader, Offset, PartitionId};

/// Segments are written in pieces of this size: bytes.
const PIECE: usize = 1 << 20;

/// Batches from this size on are not gathered: bytes.
const LARGE: usize = 64 << 10;

/// Up to so many segments are flushed one by one, more by one `syncfs`.
const MAX_SINGLE_FLUSHES: usize = 64;

/// Why a pass did not finish. Nothing is lost: it is repeated.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The disk is full.
    #[error("no space for segments: {0}")]
    NoSpace(io::Error),
    /// Reading the journal or writing segments failed.
    #[error("archiving failed: {0}")]
    Io(io::Error),
    /// The journal failed: what it holds is left to recovery.
    #[error(transparent)]
    Journal(#[from] JournalFailed),
}

impl From<io::Error> for ArchiveError {
    fn from(error: io::Error) -> ArchiveError {
        match error.kind() {
            io::ErrorKind::StorageFull => ArchiveError::NoSpace(error),
            _ => ArchiveError::Io(error),
        }
    }
}

/// What the archiver keeps between passes. Whoever holds it is the only one
/// that changes files of segments.
#[derive(Debug, Default)]
pub(super) struct Archiver {
    /// The newest journal file that is in segments.
    pub(super) archived: Generation,
    /// Partitions whose directory is known to hold nothing that an unfinished
    /// pass left behind.
    tidy: HashSet<PartitionId>,
    file: Vec<u8>,
    piece: Vec<u8>,
}

impl Archiver {
    /// An archiver that goes on behind `archived`.
    pub(super) fn new(archived: Generation) -> Archiver {
        Archiver {
            archived,
            ..Archiver::default()
        }
    }

    /// The partition was deleted.
    pub(super) fn forget(&mut self, id: PartitionId) {
        self.tidy.remove(&id);
    }
}

/// What a pass did for one partition.
struct Moved {
    log: Arc<PartitionLog>,
    sealed: Vec<Offset>,
    active: SegmentState,
}

impl Storage {
    /// Archives the oldest closed journal file; says whether there was one.
    /// `gently` leaves the disk to others between pieces.
    pub fn archive_oldest(&self, now_ms: i64, gently: bool) -> Result<bool, ArchiveError> {
        let Some(closed) = self.journal.files().oldest_closed() else {
            return Ok(false);
        };
        // Frames of topics with a lower flush level may not be durable yet.
        self.journal.flush(closed.end)?;
        let mut archiver = self.archiver();
        let pass = Pass {
            storage: self,
            closed: &closed,
            now_ms,
            gently,
        };
        let moved = match pass.fill_segments(&mut archiver) {
            Ok(moved) => moved,
            Err(error) => {
                for id in &closed.touched {
                    archiver.tidy.remove(id);
                }
                return Err(error.into());
            }
        };
        self.checkpoint(closed.covers, &moved)
            .store(self.dir.as_ref())?;
        archiver.archived = closed.covers;
        for moved in moved {
            moved.publish(closed.generation);
        }
        if self.journal.files().closed_count() <= 1 {
            // Nothing more to do for now: give the memory back.
            archiver.file = Vec::new();
        }
        drop(archiver);
        self.journal.files().recycle_oldest()?;
        Ok(true)
    }

    /// What the checkpoint says once the files up to `archived` are in segments
    /// and `moved` is what that changed.
    fn checkpoint(&self, archived: Generation, moved: &[Moved]) -> Checkpoint {
        let moved_states: std::collections::HashMap<PartitionId, SegmentState> = moved
            .iter()
            .map(|moved| (moved.log.id(), moved.active))
            .collect();
        let entry = |log: &Arc<PartitionLog>| {
            let state = log.lock();
            let active = moved_states.get(&log.id()).copied().or(state.active);
            let remaining = state
                .runs
                .iter()
                .find(|run| run.lsn.generation() > archived);
            CheckpointEntry {
                partition: log.id(),
                log_start: state.log_start,
                archived_end: remaining.map_or(state.next_offset, |run| run.base_offset),
                active,
            }
        };
        let mut partitions: Vec<CheckpointEntry> = self
            .logs()
            .values()
            .map(entry)
            .filter(|entry| entry.archived_end > Offset::ZERO)
            .collect();
        partitions.sort_unstable_by_key(|entry| entry.partition);
        Checkpoint {
            archived,
            partitions,
        }
    }

    /// Writes the checkpoint as things stand: `archiver` keeps them so.
    pub(super) fn store_checkpoint(&self, archiver: &mut Archiver) -> io::Result<()> {
        self.checkpoint(archiver.archived, &[])
            .store(self.dir.as_ref())
    }
}

impl Moved {
    /// Lets readers find the batches in the segments.
    fn publish(self, archived: Generation) {
        let mut state = self.log.lock();
        while state
            .runs
            .front()
            .is_some_and(|run| run.lsn.generation() <= archived)
        {
            state.runs.pop_front();
        }
        state.active = Some(self.active);
        if let Some(sealed) = &mut state.sealed {
            sealed.extend(self.sealed);
        }
    }
}

/// One pass over one journal file.
struct Pass<'a> {
    storage: &'a Storage,
    closed: &'a ClosedFile,
    now_ms: i64,
    gently: bool,
}

impl Pass<'_> {
    /// Steps 1 and 2.
    fn fill_segments(&self, archiver: &mut Archiver) -> io::Result<Vec<Moved>> {
        let mut journal = self.window(std::mem::take(&mut archiver.file))?;
        let mut touched = self.closed.touched.clone();
        touched.sort_unstable();
        let mut moved = Vec::with_capacity(touched.len());
        let mut writers = Vec::new();
        let flush_singly = touched.len() <= MAX_SINGLE_FLUSHES;
        for id in touched {
            let Some(log) = self.storage.log(id) else {
                continue;
            };
            let Some((writer, sealed)) = self.fill_partition(&log, &mut journal, archiver)? else {
                continue;
            };
            moved.push(Moved {
                log,
                sealed,
                active: writer.state(),
            });
            if flush_singly {
                writers.push(writer);
            }
        }
        archiver.file = journal.into_buffer();
        if flush_singly {
            for writer in &mut writers {
                writer.flush()?;
                if writer.is_new() {
                    self.dir()
                        .sync_dir(&segment::partition_dir(writer.partition()))?;
                }
            }
            self.dir().sync_dir(Path::new(PARTITIONS_DIR))?;
        } else {
            self.dir().sync_all()?;
        }
        Ok(moved)
    }

    fn dir(&self) -> &dyn Dir {
        self.storage.dir.as_ref()
    }

    /// How the journal file is read: many small frames of many partitions are
    /// all over the file, so it is read as a whole, once; otherwise in pieces
    /// that stay in the processor's cache.
    fn window(&self, buffer: Vec<u8>) -> io::Result<Window<'_>> {
        let len = self.closed.end.position() as usize;
        let frame_len = len / self.closed.frames.max(1);
        let read_ahead = match self.closed.touched.len() {
            0 | 1 => WINDOW,
            _ if frame_len >= LARGE => 0,
            _ => len,
        };
        let mut window = Window::new(self.closed.file.file().as_ref(), len, read_ahead, buffer);
        if read_ahead == len {
            window.get(0, len)?;
        }
        Ok(window)
    }

    /// Appends the partition's batches in this file to its segments.
    fn fill_partition(
        &self,
        log: &PartitionLog,
        journal: &mut Window<'_>,
        archiver: &mut Archiver,
    ) -> io::Result<Option<(SegmentWriter, Vec<Offset>)>> {
        let (runs, active, segment_bytes) = {
            let state = log.lock();
            let here = |run: &&Run| run.lsn.generation() <= self.closed.generation;
            let runs: Vec<Run> = state.runs.iter().take_while(here).copied().collect();
            (runs, state.active, state.segment_bytes)
        };
        let Some(first) = runs.first() else {
            return Ok(None);
        };
        if archiver.tidy.insert(log.id()) {
            // A delete that was interrupted may have removed it.
            self.dir().create_dir(&segment::partition_dir(log.id()))?;
            self.clear_leftovers(log.id(), active.map(|active| active.base_offset))?;
        }
        let mut writer = match active {
            Some(state) => SegmentWriter::open(self.dir(), log.id(), state)?,
            None => self.begin_segment(log.id(), first.base_offset)?,
        };
        let mut sealed = Vec::new();
        let mut flushed = writer.state().len;
        let mut filler = Filler {
            piece: std::mem::take(&mut archiver.piece),
            headers: Vec::new(),
        };
        for run in &runs {
            let frame = journal.get(
                run.lsn.position() as usize,
                frame_len(run.payload_len as usize),
            )?;
            let Some(body) = body_of(frame, run, self.closed.seed) else {
                log.lock()
                    .note_quarantined(run.base_offset, run.next_offset());
                continue;
            };
            let is_full =
                writer.state().len + filler.len() + body.bytes.len() as u64 > segment_bytes;
            if is_full && (writer.state().batch_count > 0 || filler.len() > 0) {
                filler.flush_to(self.dir(), &mut writer)?;
                sealed.push(writer.state().base_offset);
                writer.seal()?;
                writer = self.begin_segment(log.id(), run.base_offset)?;
                flushed = 0;
            }
            filler.push(self.dir(), &mut writer, &body)?;
            if self.gently && writer.state().len - flushed >= PIECE as u64 {
                writer.flush()?;
                flushed = writer.state().len;
            }
        }
        filler.flush_to(self.dir(), &mut writer)?;
        archiver.piece = filler.piece;
        Ok(Some((writer, sealed)))
    }

    fn begin_segment(&self, id: PartitionId, base_offset: Offset) -> io::Result<SegmentWriter> {
        SegmentWriter::create(self.dir(), id, base_offset, self.now_ms)
    }

    /// Removes segments behind the active one: an unfinished pass made them.
    fn clear_leftovers(&self, id: PartitionId, active: Option<Offset>) -> io::Result<()> {
        for base in segment::list(self.dir(), id)? {
            if active.is_none_or(|active| base > active) {
                self.storage.segments.forget(id, base);
                segment::remove(self.dir(), id, base)?;
            }
        }
        Ok(())
    }
}

/// A batch in a journal file.
struct Body<'a> {
    header: BatchHeader,
    bytes: &'a [u8],
}

/// The batch that a run points to, if it is still what was written.
fn body_of<'a>(bytes: &'a [u8], run: &Run, seed: u32) -> Option<Body<'a>> {
    let frame = Frame::decode(bytes, run.lsn, seed)?;
    let end = FRAME_PREFIX_LEN + run.payload_len as usize;
    let matches = frame.batch.base_offset == run.base_offset
        && frame.batch.matches(bytes.get(FRAME_PREFIX_LEN..end)?);
    matches.then(|| Body {
        header: frame.batch,
        bytes: &bytes[FRAME_HEADER_LEN..end],
    })
}

/// Gathers batches, so that segments are written in large pieces.
struct Filler {
    piece: Vec<u8>,
    headers: Vec<BatchHeader>,
}

impl Filler {
    fn len(&self) -> u64 {
        self.piece.len() as u64
    }

    /// Takes a batch; writes what was gathered when it is enough. Large ones are
    /// written as they lie.
    fn push(
        &mut self,
        dir: &dyn Dir,
        writer: &mut SegmentWriter,
        body: &Body<'_>,
    ) -> io::Result<()> {
        if body.bytes.len() >= LARGE {
            self.flush_to(dir, writer)?;
            return writer.append(dir, body.bytes, &[body.header]);
        }
        self.piece.extend_from_slice(body.bytes);
        self.headers.push(body.header);
        match self.piece.len() >= PIECE {
            true => self.flush_to(dir, writer),
            false => Ok(()),
        }
    }

    fn flush_to(&mut self, dir: &dyn Dir, writer: &mut SegmentWriter) -> io::Result<()> {
        if !self.headers.is_empty() {
            writer.append(dir, &self.piece, &self.headers)?;
            self.piece.clear();
            self.headers.clear();
        }
        Ok(())
    }
}
