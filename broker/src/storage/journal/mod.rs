//! The journal: the node-wide write-ahead log that takes every append of every
//! partition, so that one flush acknowledges all of them.
//!
//! Invariants:
//! - One writer at a time (the `writer` lock) places frames; one flush at a
//!   time (the `flusher` lock) makes them durable. They run side by side: the
//!   next group is written behind the running flush.
//! - `flushed <= written`, and both only rise.
//! - A file is named by the header of the next one only if a frame was written to it:
//!   so every file of the chain has been part of a flush before what lies behind it
//!   counts as durable.
//! - The first write or flush that fails is final: no later one is tried, as
//!   the page cache may pretend that it worked.

mod append;
mod files;
mod frame;
mod header;
mod headless;
mod page;
mod place;
mod proof;
mod reader;
mod scan;
mod tail;
mod window;
mod writer;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

pub use append::{JournalAppend, ToPlace};
pub use files::{
    Claim, ClosedContent, ClosedFile, JOURNAL_DIR, JournalFile, JournalFiles, JournalSize, Prepared,
};
pub use frame::{FRAME_HEADER_LEN, FRAME_PREFIX_LEN, Frame, frame_len};
pub use header::{FILE_HEADER_LEN, FileHeader};
pub use place::Placed;
pub use proof::Proof;
pub use reader::JournalRead;
pub use scan::{Chain, ChainFile, Scanned, ScannedFrame, scan_file};
pub use window::Window;
pub use writer::{AppendFailure, Written};

use super::lsn::{Generation, Lsn};
use super::producers::Tally;
use tail::TailCache;
use writer::Writer;

/// Bounds of the journal.
#[derive(Debug, Clone, Copy)]
pub struct JournalOptions {
    /// The files.
    pub size: JournalSize,
    /// A file is closed early once it has so many frames: bounds the run index.
    pub max_frames_per_file: usize,
    /// What the tail cache holds: bytes.
    pub tail_bytes: usize,
}

/// The node-wide log.
#[derive(Debug)]
pub struct Journal {
    files: Arc<JournalFiles>,
    tail: TailCache,
    writer: Mutex<Writer>,
    /// Held while a flush runs.
    flusher: Mutex<()>,
    /// Files with bytes that no flush has covered, oldest first. Never held
    /// during file access.
    unflushed: Mutex<Unflushed>,
    flushed: AtomicU64,
    failure: OnceLock<Arc<str>>,
}

#[derive(Debug)]
struct Unflushed {
    files: Vec<Arc<JournalFile>>,
    written: Lsn,
}

/// The journal takes no more appends: a write or flush failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the journal failed: {0}")]
pub struct JournalFailed(pub Arc<str>);

impl Journal {
    /// A journal whose frames are marked with the random `salt`, and that goes on
    /// behind `previous_end`, in a new file of a
    /// generation above `newest`. Everything before `previous_end` is durable, which
    /// `proof`, in the newest file that is left, may not say yet. What it gets to
    /// know of producers is counted in `tally`.
    pub fn new(
        files: Arc<JournalFiles>,
        options: JournalOptions,
        salt: u32,
        newest: Generation,
        previous_end: Lsn,
        proof: Option<Proof>,
        tally: Arc<Tally>,
    ) -> Journal {
        Journal {
            tail: TailCache::new(options.tail_bytes, options.max_frames_per_file),
            writer: Mutex::new(Writer::new(
                files.clone(),
                options,
                salt,
                newest,
                previous_end,
                proof,
                tally,
            )),
            files,
            flusher: Mutex::new(()),
            unflushed: Mutex::new(Unflushed {
                files: Vec::new(),
                written: previous_end,
            }),
            flushed: AtomicU64::new(previous_end.0),
            failure: OnceLock::new(),
        }
    }

    /// The files.
    pub fn files(&self) -> &JournalFiles {
        &self.files
    }

    /// The largest payload that fits into a file: bytes.
    pub fn max_payload(&self) -> u32 {
        let overhead = FILE_HEADER_LEN + frame_len(0);
        let overhead = u32::try_from(overhead).expect("a few KiB");
        self.files.size().file_bytes.saturating_sub(overhead)
    }

    /// Whether frames with payloads of these sizes fit into a file.
    pub fn fits_unit(&self, payloads: impl Iterator<Item = usize>) -> bool {
        let bytes: usize = payloads.map(frame_len).sum();
        FILE_HEADER_LEN + bytes <= self.files.size().file_bytes as usize
    }

    /// Everything before this is durable.
    pub fn flushed(&self) -> Lsn {
        Lsn(self.flushed.load(Ordering::Acquire))
    }

    /// Everything before this is written.
    pub fn written(&self) -> Lsn {
        lock(&self.unflushed).written
    }

    /// Why the journal takes no more appends, if so.
    pub fn failure(&self) -> Option<JournalFailed> {
        self.failure.get().cloned().map(JournalFailed)
    }

    /// Writes the appends at the front of `group` that fit into the active
    /// file, in one write, and says how many that were. They are neither
    /// durable nor visible to readers yet.
    pub fn append<A: ToPlace>(&self, group: &[A], now_ms: i64) -> Result<Written, AppendFailure> {
        let mut writer = lock(&self.writer);
        if let Some(failed) = self.failure() {
            return Err(AppendFailure::Failed(failed));
        }
        let written = writer.append(group, now_ms, self.flushed(), &self.tail);
        match &written {
            Ok(written) => self.note_written(&writer, written.end),
            Err(AppendFailure::Io(error)) => {
                return Err(AppendFailure::Failed(self.fail("write", error)));
            }
            Err(_) => {}
        }
        written
    }

    fn note_written(&self, writer: &Writer, end: Lsn) {
        let mut unflushed = lock(&self.unflushed);
        unflushed.written = end;
        if let Some(file) = writer.file()
            && !unflushed
                .files
                .last()
                .is_some_and(|last| Arc::ptr_eq(last, file))
        {
            unflushed.files.push(file.clone());
        }
    }

    /// Makes everything before `upto` durable; returns at once when it is.
    /// Returns how far the journal is durable now, which may be further.
    pub fn flush(&self, upto: Lsn) -> Result<Lsn, JournalFailed> {
        if self.flushed() >= upto {
            return Ok(self.flushed());
        }
        let _one_at_a_time = lock(&self.flusher);
        if let Some(failed) = self.failure() {
            return Err(failed);
        }
        // Another flush may have covered it while this one waited.
        if self.flushed() >= upto {
            return Ok(self.flushed());
        }
        let (files, written) = {
            let unflushed = lock(&self.unflushed);
            (unflushed.files.clone(), unflushed.written)
        };
        for file in &files {
            file.file()
                .sync_data()
                .map_err(|error| self.fail("flush", &error))?;
        }
        let mut unflushed = lock(&self.unflushed);
        // The last one may have been written to meanwhile.
        let clean = if unflushed.written == written {
            files.len()
        } else {
            files.len().saturating_sub(1)
        };
        unflushed.files.drain(..clean);
        self.flushed.store(written.0, Ordering::Release);
        Ok(written)
    }

    /// Lets the disk prove, whatever becomes of it, that what is flushed now was
    /// durable. The frames of the next append would do the same: this is for when
    /// none is in sight. Returns at once when there is nothing to prove.
    pub fn prove_flushed(&self) -> Result<(), JournalFailed> {
        // Who flushes a file learns of its errors, once: only one may do that.
        let _one_at_a_time = lock(&self.flusher);
        if let Some(failed) = self.failure() {
            return Err(failed);
        }
        // The writer is held, so that the file doesn't go to other use meanwhile.
        let proven = lock(&self.writer).prove(self.flushed());
        match proven.map_err(|error| self.fail("write", &error))? {
            Some(file) => file
                .file()
                .sync_data()
                .map_err(|error| self.fail("flush", &error)),
            None => Ok(()),
        }
    }

    /// Closes the active file if it has frames, so that the archiver can take
    /// them. Says whether it did.
    pub fn close_active(&self) -> bool {
        if self.failure().is_some() {
            return false;
        }
        lock(&self.writer).close_active()
    }

    /// Closes the active file if it is not prepared and has frames.
    pub fn leave_unprepared(&self) -> bool {
        let mut writer = lock(&self.writer);
        let unprepared = writer.file().is_some_and(|file| !file.is_prepared());
        unprepared && self.failure().is_none() && writer.close_active()
    }

    /// From now on no appends are taken: something failed for good.
    pub fn fail(&self, what: &str, error: &io::Error) -> JournalFailed {
        JournalFailed(
            self.failure
                .get_or_init(|| format!("{what} failed: {error}").into())
                .clone(),
        )
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
