//! One pass: moves what some closed journal files hold to segments.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::cooling::Written;
use super::filler::{Filled, Filler, Manner};
use super::gather::{ROUND_BYTES, Round};
use super::source::{Source, body_len};
use super::{Archiver, Moved};
use crate::model::{BatchHeader, Offset, PartitionId};
use crate::storage::dir::Dir;
use crate::storage::journal::ClosedFile;
use crate::storage::log::PartitionLog;
use crate::storage::runs::Run;
use crate::storage::segment::{self, SegmentWriter};
use crate::storage::{PARTITIONS_DIR, Storage};

/// Small batches are written in pieces of this size: bytes. Tests, whose journal
/// files are tiny, have smaller bounds.
const PIECE: usize = if cfg!(test) { 1 << 10 } else { 1 << 20 };

/// Batches from this size on are written as they lie: bytes.
const LARGE: usize = if cfg!(test) { 256 } else { 64 << 10 };

/// Up to so many segments are flushed one by one, more by one `syncfs`.
pub(super) const MAX_SINGLE_FLUSHES: usize = 64;

/// The kernel is asked to begin writing each time that so much was appended to segments
/// which one `syncfs` will flush: bytes. It then has little left to wait for.
const WRITEBACK: u64 = if cfg!(test) { 8 << 10 } else { 48 << 20 };

/// The broker stops: the pass is left where it is.
#[derive(Debug, thiserror::Error)]
#[error("the pass was given up")]
pub(super) struct GivenUp;

impl GivenUp {
    /// Whether that is why a pass did not finish.
    pub(super) fn is(error: &io::Error) -> bool {
        let given_up = |error: &(dyn std::error::Error + 'static)| error.is::<GivenUp>();
        error.get_ref().is_some_and(|error| given_up(error))
    }
}

/// One pass over journal files, in their order.
pub(super) struct Pass<'a> {
    pub(super) storage: &'a Storage,
    pub(super) files: &'a [ClosedFile],
    pub(super) manner: Manner<'a>,
}

/// What a pass did.
pub(super) struct Done {
    pub(super) moved: Vec<Moved>,
    pub(super) written: Vec<Written>,
}

/// What a pass has done so far.
struct Progress {
    done: Done,
    /// Kept open, where they are to be flushed one by one; `None` where one `syncfs` does it.
    unflushed: Option<Vec<SegmentWriter>>,
    /// What was appended since the kernel was asked to begin writing: bytes.
    unwritten: u64,
}

impl Pass<'_> {
    /// Appends to the segments and flushes them.
    pub(super) fn fill_segments(&self, archiver: &mut Archiver) -> io::Result<Done> {
        let touched = self.touched();
        let mut progress = Progress {
            done: Done {
                moved: Vec::with_capacity(touched.len()),
                written: Vec::new(),
            },
            unflushed: (touched.len() <= MAX_SINGLE_FLUSHES).then(Vec::new),
            unwritten: 0,
        };
        let mut source = Source::new(self.files);
        let mut round = Round::default();
        // One for all partitions: to make it grow for each costs as much as to fill it.
        let mut runs: Vec<Run> = Vec::new();
        for id in touched {
            let Some(log) = self.storage.log(id) else {
                continue;
            };
            runs.clear();
            self.add_runs_of(&log, &mut runs);
            let bytes: usize = runs.iter().map(body_len).sum();
            if runs.is_empty() {
                continue;
            }
            self.check_over()?;
            if is_streamed(bytes, runs.len()) {
                self.stream(&log, &runs, &mut source, archiver, &mut progress)?;
                continue;
            }
            if round.is_full_for(bytes) {
                let full = std::mem::take(&mut round);
                self.gather(full, &mut source, archiver, &mut progress)?;
            }
            round.push(log, &runs);
        }
        self.gather(round, &mut source, archiver, &mut progress)?;
        self.flush(progress)
    }

    /// The partitions that have batches in the files, ascending.
    fn touched(&self) -> Vec<PartitionId> {
        let all = self.files.iter().flat_map(|file| &file.touched);
        let mut touched: Vec<PartitionId> = all.copied().collect();
        touched.sort_unstable();
        touched.dedup();
        touched
    }

    /// Adds what the partition has in the files.
    fn add_runs_of(&self, log: &PartitionLog, runs: &mut Vec<Run>) {
        let Some(newest) = self.files.last() else {
            return;
        };
        let here = |run: &Run| run.lsn.generation() <= newest.generation;
        runs.extend(log.lock().runs.iter().take_while(here));
    }

    /// Copies the batches of one partition in the order in which they lie.
    fn stream(
        &self,
        log: &Arc<PartitionLog>,
        runs: &[Run],
        source: &mut Source<'_>,
        archiver: &mut Archiver,
        progress: &mut Progress,
    ) -> io::Result<()> {
        let mut filler = self.open(log, runs[0].base_offset, archiver)?;
        let mut piece: Vec<u8> = Vec::new();
        let mut headers: Vec<BatchHeader> = Vec::new();
        for run in runs {
            self.check_over()?;
            if piece.len() >= PIECE {
                filler.append(&piece, &headers)?;
                piece.clear();
                headers.clear();
            }
            let Some(body) = source.body(run)? else {
                log.lock()
                    .note_quarantined(run.base_offset, run.next_offset());
                continue;
            };
            if body.bytes.len() >= LARGE {
                filler.append(&piece, &headers)?;
                piece.clear();
                headers.clear();
                filler.append(body.bytes, &[body.header])?;
            } else {
                piece.extend_from_slice(body.bytes);
                headers.push(body.header);
            }
        }
        filler.append(&piece, &headers)?;
        progress.add(log, filler.finish(), archiver);
        self.begin_writeback(progress);
        Ok(())
    }

    /// Copies the batches of many partitions.
    fn gather(
        &self,
        round: Round,
        source: &mut Source<'_>,
        archiver: &mut Archiver,
        progress: &mut Progress,
    ) -> io::Result<()> {
        let mut arena = std::mem::take(&mut archiver.arena);
        round.run(source, &mut arena, |log, pieces| {
            let Some(first) = pieces.first() else {
                progress.add_damaged(log);
                return Ok(());
            };
            self.check_over()?;
            let mut filler = self.open(log, first.headers[0].base_offset, archiver)?;
            for piece in pieces {
                filler.append(piece.bytes, &piece.headers)?;
            }
            progress.add(log, filler.finish(), archiver);
            Ok(())
        })?;
        archiver.arena = arena;
        self.begin_writeback(progress);
        Ok(())
    }

    /// Has the kernel write beside this thread what was appended up to now, if that is much.
    fn begin_writeback(&self, progress: &mut Progress) {
        let flushed_at_once = progress.unflushed.is_none() && !self.manner.pace.is_gentle();
        if flushed_at_once && progress.unwritten >= WRITEBACK {
            self.dir().begin_writeback();
            progress.unwritten = 0;
        }
    }

    /// Opens the segments of a partition for appending.
    fn open(
        &self,
        log: &PartitionLog,
        from: Offset,
        archiver: &mut Archiver,
    ) -> io::Result<Filler<'_>> {
        if archiver.tidy.insert(log.id()) {
            // A delete that was interrupted may have removed it.
            self.dir().create_dir(&segment::partition_dir(log.id()))?;
            self.clear_leftovers(log, archiver)?;
        }
        let kept = archiver.growing.take(log.id());
        Filler::open(self.dir(), log, self.manner, from, kept)
    }

    /// Removes segments behind the active one, which an unfinished pass made, and
    /// what a crash left of compaction.
    fn clear_leftovers(&self, log: &PartitionLog, archiver: &mut Archiver) -> io::Result<()> {
        let active = log.lock().active.map(|active| active.base_offset);
        let listing = segment::list(self.dir(), log.id())?;
        for &name in listing.segments() {
            if active.is_none_or(|active| name.base_offset > active) {
                self.storage.segments.forget(log.id(), name);
                segment::remove(self.dir(), log.id(), name)?;
            }
        }
        archiver.sweep(self.dir(), log.id(), &listing)
    }

    /// Nobody has to wait for what the next start can do as well.
    fn check_over(&self) -> io::Result<()> {
        match self.manner.pace.is_over() {
            true => Err(io::Error::other(GivenUp)),
            false => Ok(()),
        }
    }

    /// Makes everything durable.
    fn flush(&self, progress: Progress) -> io::Result<Done> {
        self.check_over()?;
        let Some(writers) = progress.unflushed else {
            self.dir().sync_all()?;
            return Ok(progress.done);
        };
        for writer in writers {
            writer.flush()?;
            if writer.is_new() {
                self.dir()
                    .sync_dir(&segment::partition_dir(writer.partition()))?;
            }
        }
        self.dir().sync_dir(Path::new(PARTITIONS_DIR))?;
        Ok(progress.done)
    }

    fn dir(&self) -> &dyn Dir {
        self.storage.dir.as_ref()
    }
}

impl Progress {
    /// Nothing of a partition can be read: its segments stay as they are.
    fn add_damaged(&mut self, log: &Arc<PartitionLog>) {
        let active = log.lock().active;
        self.done.moved.push(Moved {
            log: log.clone(),
            sealed: Vec::new(),
            active,
        });
    }

    fn add(&mut self, log: &Arc<PartitionLog>, mut filled: Filled, archiver: &mut Archiver) {
        let growing = filled.writer.take_growing();
        archiver.growing.put(log.id(), growing);
        self.done.moved.push(Moved {
            log: log.clone(),
            sealed: filled.sealed,
            active: Some(filled.writer.state()),
        });
        let appended = filled.written.iter().map(|part| part.to - part.from);
        self.unwritten += appended.sum::<u64>();
        self.done.written.extend(filled.written);
        if let Some(unflushed) = &mut self.unflushed {
            unflushed.push(filled.writer);
        }
    }
}

/// Whether a partition's batches are copied as they lie: when they are large,
/// or so many that to gather them would take much memory.
fn is_streamed(bytes: usize, batches: usize) -> bool {
    bytes / batches >= LARGE || bytes > ROUND_BYTES / 4
}
