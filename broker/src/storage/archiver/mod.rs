//! Moves batches from journal files to the segments of their partitions.
//!
//! One pass takes the oldest closed files: one, or more as long as each holds
//! little of every partition (`portion`). The order of its steps is what makes a crash at
//! any moment harmless:
//!
//! 1. append each partition's batches to its active segment (and seal it and
//!    begin the next when it is full). Nobody reads them there yet; a pass that
//!    ends here is repeated, and begins by cutting the segments back;
//! 2. flush the segments;
//! 3. write the snapshot of producers, which knows at least as much as
//! 4. the checkpoint, which is written next: from now on recovery finds the batches
//!    in the segments;
//! 5. let readers find them there;
//! 6. recycle the journal files. A reader that looked one up just before sees
//!    by its checksum that the file went to other use, and looks again.

mod cooling;
mod filler;
mod gather;
mod growing;
mod pass;
mod portion;
mod producers;
mod source;

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use cooling::{Cooling, Written};
use filler::Manner;
use growing::Growing;
use pass::{Done, GivenUp, Pass};
use portion::Portion;

use super::Storage;
use super::checkpoint::{Checkpoint, CheckpointEntry};
use super::dir::{Dir, is_passing};
use super::journal::JournalFailed;
use super::log::{PartitionLog, SealedSegment};
use super::lsn::Generation;
use super::producers::Noted;
use super::segment::{self, Listing, SegmentName, SegmentState};
use crate::model::{Offset, PartitionId};

/// With less that is free on the disk no room is taken ahead: bytes.
const ENOUGH_FREE: u64 = 1 << 30;

/// How much the archiver leaves the disk to others.
pub trait Pace {
    /// Whether to write in small pieces, each of them flushed at once, so that
    /// nobody who flushes the journal waits long for the disk.
    fn is_gentle(&self) -> bool;

    /// Called after each such piece: may wait.
    fn pause(&self);

    /// Whether files that are too few to be worth a pass may wait until more are closed.
    fn may_gather(&self) -> bool {
        false
    }

    /// Whether the broker stops, or the log has failed: work that can be given up is.
    fn is_over(&self) -> bool {
        false
    }
}

/// Why a pass did not finish. Nothing is lost: it is repeated.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The disk is full, or descriptors or memory are short.
    #[error("no room for segments: {0}")]
    NoSpace(Arc<str>),
    /// Writing or flushing failed, here or in the journal. The log takes no more
    /// appends: what the journal holds is left to recovery.
    #[error(transparent)]
    Failed(#[from] JournalFailed),
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
    /// Segments before the start of their log whose files are still to go.
    pub(super) expired: Vec<(PartitionId, SegmentName)>,
    /// Partitions whose directory was searched for such files.
    pub(super) looked_behind: HashSet<PartitionId>,
    /// Partitions whose directory holds nothing that a crash left of compaction.
    swept: HashSet<PartitionId>,
    /// The active segments, as the last pass left them.
    growing: Growing,
    cooling: Cooling,
    /// The snapshot of producers as it was written last.
    noted: Noted,
    /// Where batches are gathered; kept, as new memory is slow.
    arena: Vec<u8>,
}

impl Archiver {
    /// An archiver that goes on behind `archived`, with this snapshot of producers. It
    /// keeps up to `growing_segments` open between passes.
    pub(super) fn new(archived: Generation, noted: Noted, growing_segments: usize) -> Archiver {
        Archiver {
            archived,
            noted,
            growing: Growing::new(growing_segments),
            ..Archiver::default()
        }
    }

    /// Removes what a crash left of compaction, once: what is found later is being
    /// written.
    pub(super) fn sweep(
        &mut self,
        dir: &dyn Dir,
        id: PartitionId,
        listing: &Listing,
    ) -> io::Result<()> {
        if self.swept.contains(&id) {
            return Ok(());
        }
        for path in listing.leftovers() {
            segment::remove_if_there(dir, &path)?;
        }
        self.swept.insert(id);
        Ok(())
    }

    /// As [`Archiver::sweep`], but looks into the directory by itself.
    pub(super) fn look_and_sweep(&mut self, dir: &dyn Dir, id: PartitionId) -> io::Result<()> {
        if self.swept.contains(&id) {
            return Ok(());
        }
        self.sweep(dir, id, &segment::list(dir, id)?)
    }

    /// Something was left behind that is to be removed: looks again.
    pub(super) fn forget_sweep(&mut self, id: PartitionId) {
        self.swept.remove(&id);
    }

    /// Whether files before the start of the partition's log are still to go.
    pub(super) fn expires(&self, id: PartitionId) -> bool {
        self.expired.iter().any(|&(of, _)| of == id)
    }

    /// The partition's directory may hold a segment that nothing refers to, and the active one
    /// may not be as it was kept.
    pub(super) fn doubt(&mut self, id: PartitionId) {
        self.tidy.remove(&id);
        self.growing.release(id);
    }

    /// Takes what has been written and flushed, of which not all stays in the page cache.
    fn cool(&mut self, dir: &dyn Dir, written: &[Written]) {
        for written in written {
            let forget = |part: Written| part.forget_pages(dir, &self.growing);
            self.cooling.push(written, forget);
        }
    }

    /// A segment is to be removed: its room comes back only if it isn't open. What else is
    /// kept of it stays unused.
    pub(super) fn close_if_growing(&mut self, id: PartitionId, name: SegmentName) {
        if self.growing.file_of(id, name.base_offset).is_some() {
            self.growing.release(id);
        }
    }

    /// The partition was deleted.
    pub(super) fn forget(&mut self, id: PartitionId) {
        self.tidy.remove(&id);
        self.looked_behind.remove(&id);
        self.swept.remove(&id);
        self.growing.release(id);
        self.expired.retain(|&(of, _)| of != id);
    }
}

/// What a pass did for one partition.
struct Moved {
    log: Arc<PartitionLog>,
    sealed: Vec<SealedSegment>,
    active: Option<SegmentState>,
}

impl Storage {
    /// Archives the oldest closed journal files; says how many there were: none,
    /// too, if the broker stops.
    pub fn archive_oldest(&self, now_ms: i64, pace: &dyn Pace) -> Result<usize, ArchiveError> {
        let archived = self.run_pass(now_ms, pace);
        // Above all when there was no space: this gives some back.
        let removed = self.remove_doomed();
        let count = archived?;
        removed?;
        Ok(count)
    }

    fn run_pass(&self, now_ms: i64, pace: &dyn Pace) -> Result<usize, ArchiveError> {
        self.check_unfailed()?;
        let portion = self.portion();
        if pace.may_gather() && !portion.is_worthwhile {
            return Ok(0);
        }
        let is_short = self.archiver().growing.is_short();
        // There may be room for one where there is none for many.
        let count = if is_short { 1 } else { portion.files };
        let files = self.journal.files().oldest_closed(count);
        let Some(newest) = files.last() else {
            return Ok(0);
        };
        // Frames of topics with a lower flush level may not be durable yet.
        self.journal.flush(newest.end)?;
        let mut archiver = self.archiver();
        let pass = Pass {
            storage: self,
            files: &files,
            manner: Manner {
                now_ms,
                pace,
                takes_room: !is_short && self.has_room_ahead(),
            },
        };
        let filled = pass.fill_segments(&mut archiver).and_then(|done| {
            // The journal may have failed meanwhile.
            self.check_unfailed().map_err(io::Error::other)?;
            self.snapshot_producers(newest.covers, &mut archiver)?;
            self.checkpoint(newest.covers, &done.moved, &archiver.noted)
                .store(self.dir.as_ref())?;
            Ok(done)
        });
        let Done { moved, written } = match filled {
            Ok(done) => done,
            Err(error) => {
                for &id in files.iter().flat_map(|file| &file.touched) {
                    archiver.doubt(id);
                }
                match is_passing(&error) {
                    true => archiver.growing.note_shortage(),
                    false => archiver.growing.close_all(),
                }
                if GivenUp::is(&error) {
                    return Ok(0);
                }
                return Err(self.archiving_failed(&error));
            }
        };
        archiver.archived = newest.covers;
        archiver.growing.note_done();
        for moved in moved {
            moved.publish(newest.generation);
        }
        archiver.cool(self.dir.as_ref(), &written);
        if self.journal.files().closed_count() <= files.len() {
            // Nothing more to do for now: give back memory, and open files.
            archiver.arena = Vec::new();
            archiver.growing.close_all();
        }
        drop(archiver);
        for _ in &files {
            let recycled = self.journal.files().recycle_oldest();
            recycled.map_err(|error| self.archiving_failed(&error))?;
        }
        Ok(files.len())
    }

    fn portion(&self) -> Portion {
        let files = self.journal.files();
        Portion::of(&files.closed_contents(), files.size().max_files)
    }

    /// Whether there is so much room that some may be taken before it is needed.
    fn has_room_ahead(&self) -> bool {
        self.dir
            .available_bytes()
            .is_ok_and(|bytes| bytes >= ENOUGH_FREE)
    }

    /// Whether so much waits for the archiver that a pass is worth its cost.
    pub fn is_pass_worthwhile(&self) -> bool {
        self.portion().is_worthwhile
    }

    /// What the checkpoint says once the files up to `archived` are in segments
    /// and `moved` is what that changed.
    fn checkpoint(&self, archived: Generation, moved: &[Moved], noted: &Noted) -> Checkpoint {
        let moved_states: HashMap<PartitionId, SegmentState> = moved
            .iter()
            .filter_map(|moved| Some((moved.log.id(), moved.active?)))
            .collect();
        let entry = |log: &Arc<PartitionLog>| {
            let state = log.lock();
            let active = moved_states.get(&log.id()).copied().or(state.active);
            CheckpointEntry {
                partition: log.id(),
                log_start: state.log_start,
                archived_end: state.end_of(archived),
                active,
                has_producers: noted.partitions.contains(&log.id()),
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
    pub(super) fn store_checkpoint(&self, archiver: &mut Archiver) -> Result<(), ArchiveError> {
        self.checkpoint(archiver.archived, &[], &archiver.noted)
            .store(self.dir.as_ref())
            .map_err(|error| self.archiving_failed(&error))
    }

    fn archiving_failed(&self, error: &io::Error) -> ArchiveError {
        self.writing_failed("archiving", error)
    }

    /// Want of room, descriptors or memory passes. After any other failure nobody
    /// knows what is on the disk and what only seems to be, so it is final, as in
    /// the journal.
    pub(super) fn writing_failed(&self, what: &str, error: &io::Error) -> ArchiveError {
        match is_passing(error) {
            true => ArchiveError::NoSpace(error.to_string().into()),
            false => ArchiveError::Failed(self.journal.fail(what, error)),
        }
    }
}

impl Moved {
    /// Lets readers find the batches in the segments.
    fn publish(self, archived: Generation) {
        let mut state = self.log.lock();
        state.runs.remove_up_to(archived);
        state.active = self.active;
        if let Some(sealed) = &mut state.sealed {
            sealed.extend(self.sealed);
        }
    }
}
