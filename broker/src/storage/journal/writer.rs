//! Writes frames to the active file, one write per group.

use std::io;
use std::sync::Arc;

use super::append::ToPlace;
use super::files::{Claim, Claimed, ClosedFile, FileInUse, JournalFile, JournalFiles};
use super::frame::{FRAME_ALIGN, frame_len};
use super::header::{FILE_HEADER_LEN, FileHeader};
use super::page::BegunPage;
use super::place::{Encoded, Placed, Placing, Target};
use super::proof::Proof;
use super::tail::{TailCache, WriteBuffers};
use super::{JournalFailed, JournalOptions};
use crate::model::PartitionId;
use crate::storage::dir::{PAGE, is_passing};
use crate::storage::lsn::{Generation, Lsn};
use crate::storage::producers::Tally;

/// So many partitions are brought into the processor's cache together: as many as stay there
/// until their turn.
const FETCHED_AHEAD: usize = 32;

/// What became of the front of a group.
#[derive(Debug)]
pub struct Written {
    /// What became of each append that was taken.
    pub placed: Vec<Placed>,
    /// One past the last frame: flush up to here to make them durable, those that
    /// were appended before included.
    pub end: Lsn,
}

/// Why nothing of a group was written.
#[derive(Debug, thiserror::Error)]
pub enum AppendFailure {
    /// The archiver has to recycle a file first.
    #[error("all journal files are in use")]
    JournalFull,
    /// The disk is full, or descriptors or memory are short. Try again when there is
    /// room.
    #[error("no room for the journal: {0}")]
    NoSpace(io::Error),
    /// The journal failed, now or earlier.
    #[error(transparent)]
    Failed(#[from] JournalFailed),
    /// A write failed; the caller makes it the journal's failure.
    #[error("write failed: {0}")]
    Io(io::Error),
}

/// The one that places frames.
#[derive(Debug)]
pub(super) struct Writer {
    files: Arc<JournalFiles>,
    options: JournalOptions,
    buffers: WriteBuffers,
    active: Option<Active>,
    salt: u32,
    /// The newest generation that was ever begun.
    newest: Generation,
    /// One past the last frame of the file before the active one.
    previous_end: Lsn,
    /// In the newest file, if there is one.
    proof: Option<Proof>,
    tally: Arc<Tally>,
}

/// The file that is being written.
#[derive(Debug)]
struct Active {
    file: Arc<JournalFile>,
    generation: Generation,
    seed: u32,
    /// One past the last frame.
    position: u32,
    /// Its last page.
    page: BegunPage,
    frames: usize,
    touched: Vec<PartitionId>,
    /// Kept for internal partitions.
    is_reserve: bool,
    /// What a failed write left behind the last frame could read as frames:
    /// nothing may be written behind it.
    spoilt: bool,
}

impl Writer {
    pub(super) fn new(
        files: Arc<JournalFiles>,
        options: JournalOptions,
        salt: u32,
        newest: Generation,
        previous_end: Lsn,
        proof: Option<Proof>,
        tally: Arc<Tally>,
    ) -> Writer {
        let buffers = WriteBuffers::new(options.tail_bytes);
        Writer {
            files,
            options,
            buffers,
            active: None,
            salt,
            newest,
            previous_end,
            proof,
            tally,
        }
    }

    pub(super) fn file(&self) -> Option<&Arc<JournalFile>> {
        self.active.as_ref().map(|active| &active.file)
    }

    /// Writes the appends at the front of the group that fit into one file.
    pub(super) fn append<A: ToPlace>(
        &mut self,
        group: &[A],
        now_ms: i64,
        flushed: Lsn,
        tail: &TailCache,
    ) -> Result<Written, AppendFailure> {
        let Some(first) = group.first() else {
            return Ok(Written {
                placed: Vec::new(),
                end: self.end(),
            });
        };
        let claim = first.claim();
        match self.try_append(group, claim, now_ms, flushed, tail) {
            // Once: if the next file has no room either, the one behind it has none.
            Err(Refused::InFile(AppendFailure::NoSpace(_))) if self.leave_for_reserve(claim) => {
                self.try_append(group, claim, now_ms, flushed, tail)
            }
            written => written,
        }
        .map_err(Refused::failure)
    }

    fn try_append<A: ToPlace>(
        &mut self,
        group: &[A],
        claim: Claim,
        now_ms: i64,
        flushed: Lsn,
        tail: &TailCache,
    ) -> Result<Written, Refused> {
        let mut fit = self.fitting(group);
        if fit.appends == 0 {
            self.roll(claim, flushed).map_err(Refused::ForFile)?;
            fit = self.fitting(group);
            assert!(fit.appends > 0, "a unit fits into an empty file");
        }
        let taken = &group[..fit.appends];
        let encoded = self.place(taken, fit.bytes, now_ms, flushed);
        let active = self.active.as_mut().expect("a file is active after a roll");
        let written = match encoded.bytes.is_empty() {
            true => Ok(()),
            false => active.write(&encoded.bytes),
        };
        if let Err(error) = written {
            encoded.take_back(taken);
            return Err(Refused::InFile(active.after_failed_write(error)));
        }
        let start = Lsn::new(active.generation, active.position);
        active.position = encoded.end.position();
        active.page.follow(&encoded.bytes);
        active.frames += encoded.frames;
        if !encoded.bytes.is_empty() {
            tail.push(start, encoded.bytes);
        }
        Ok(Written {
            placed: encoded.placed,
            end: encoded.end,
        })
    }

    /// There was no space for an append: internal ones go to the reserve, which
    /// needs none. Says whether that is to be tried.
    fn leave_for_reserve(&mut self, claim: Claim) -> bool {
        let Some(active) = &mut self.active else {
            return false;
        };
        let leave = claim == Claim::Internal && !active.is_reserve;
        active.spoilt |= leave;
        leave
    }

    /// Gives the appends their offsets and encodes their frames, `len` bytes at
    /// most.
    fn place<A: ToPlace>(&mut self, group: &[A], len: usize, now_ms: i64, flushed: Lsn) -> Encoded {
        let active = self.active.as_mut().expect("a file is active");
        let target = Target {
            generation: active.generation,
            seed: active.seed,
            start: Lsn::new(active.generation, active.position),
            flushed,
            now_ms,
            touched: &mut active.touched,
            tally: &self.tally,
        };
        let mut placing = Placing::begin(target, self.buffers.with_room(len), group.len());
        let (mut at, mut fetched) = (0, 0);
        for unit in units(group) {
            if at >= fetched {
                fetched = group.len().min(at + FETCHED_AHEAD);
                fetch_ahead(&group[at..fetched]);
            }
            at += unit.len();
            placing.unit(unit);
        }
        placing.finish()
    }

    /// One past the last frame. An active file without frames is no part of the log
    /// yet: no flush has had a reason to make its header durable.
    fn end(&self) -> Lsn {
        match &self.active {
            Some(active) if active.frames > 0 => Lsn::new(active.generation, active.position),
            _ => self.previous_end,
        }
    }

    /// Notes in the newest file that everything before `flushed` is durable. The
    /// file is to be flushed then.
    pub(super) fn prove(&mut self, flushed: Lsn) -> io::Result<Option<Arc<JournalFile>>> {
        match &mut self.proof {
            Some(proof) => proof.write(flushed),
            None => Ok(None),
        }
    }

    /// Closes the active file if it has frames.
    pub(super) fn close_active(&mut self) -> bool {
        match self.active.take() {
            Some(active) if active.frames > 0 => {
                let closed = self.close(active);
                self.files.adopt_closed(closed);
                true
            }
            other => {
                self.active = other;
                false
            }
        }
    }

    fn close(&mut self, active: Active) -> ClosedFile {
        self.previous_end = Lsn::new(active.generation, active.position);
        ClosedFile {
            generation: active.generation,
            covers: active.generation,
            seed: active.seed,
            file: active.file,
            end: self.previous_end,
            touched: active.touched,
        }
    }

    /// How much of the group fits into what is left of the active file.
    fn fitting<A: ToPlace>(&self, group: &[A]) -> Fit {
        let mut fit = Fit {
            appends: 0,
            bytes: 0,
        };
        let Some(active) = self.active.as_ref().filter(|active| !active.spoilt) else {
            return fit;
        };
        let room = (self.options.size.file_bytes - active.position) as usize;
        let max_frames = self.options.max_frames_per_file.max(1);
        for unit in units(group) {
            let payloads = unit.iter().map(|append| append.batch().payload.len());
            let bytes: usize = payloads.map(frame_len).sum();
            let full = active.frames + fit.appends >= max_frames;
            let reserved = active.is_reserve && unit[0].claim() == Claim::User;
            // What one may not do, the other may: they are written apart.
            let other = unit[0].claim() != group[0].claim();
            if fit.bytes + bytes > room || full || reserved || other {
                break;
            }
            fit.appends += unit.len();
            fit.bytes += bytes;
        }
        fit
    }

    /// Begins a new file. The old one, if any, goes to the archiver; but one in which
    /// no write went well is spare again, and the new file doesn't name it: after a
    /// crash it may have no header, and would be missed.
    fn roll(&mut self, claim: Claim, flushed: Lsn) -> Result<(), AppendFailure> {
        let Claimed { file, is_reserve } = self
            .files
            .claim(claim)
            .map_err(no_space_or_io)?
            .ok_or(AppendFailure::JournalFull)?;
        // Used up even if this fails: part of the header may be on the disk.
        let generation = self.newest.next();
        self.newest = generation;
        let previous_end = self.end();
        let header = FileHeader {
            generation,
            salt: self.salt,
            previous_end,
            flushed,
        };
        // From now on the file is in other use.
        self.proof.take_if(|proof| proof.is_in(&file));
        if let Err(error) = file.file().write_all_at(&header.encode(), 0) {
            self.files.adopt_spare(file);
            // The header may be on the disk, and says where the old file ends:
            // from now on it does end there.
            if let Some(old) = &mut self.active {
                old.spoilt = true;
            }
            return Err(no_space_or_io(error));
        }
        self.proof = Some(Proof::new(&file, header));
        let in_use = FileInUse {
            generation,
            seed: header.seed(),
            file: file.clone(),
        };
        let position = u32::try_from(FILE_HEADER_LEN).expect("a page");
        let fresh = Active {
            file,
            generation,
            seed: header.seed(),
            position,
            page: BegunPage::default(),
            frames: 0,
            touched: Vec::new(),
            is_reserve,
            spoilt: false,
        };
        let (closed, void) = match self.active.replace(fresh) {
            Some(old) if old.frames > 0 => (Some(self.close(old)), None),
            old => (None, old),
        };
        self.files.activate(in_use, closed);
        if let Some(void) = void {
            self.files.adopt_spare(void.file);
        }
        Ok(())
    }
}

impl Active {
    /// Writes frames behind the last one.
    fn write(&self, frames: &[u8]) -> io::Result<()> {
        let file = self.file.file().as_ref();
        self.page.write(file, frames, self.position)
    }

    /// Makes sure that nothing of a write that failed is ever read as frames.
    fn after_failed_write(&mut self, error: io::Error) -> AppendFailure {
        if !is_passing(&error) {
            return AppendFailure::Io(error);
        }
        self.spoilt = self.file.is_prepared();
        if !self.spoilt
            && let Err(error) = self.file.file().set_len(u64::from(self.position))
        {
            if !is_passing(&error) {
                return AppendFailure::Io(error);
            }
            self.spoilt = true;
        }
        AppendFailure::NoSpace(error)
    }
}

/// Why an attempt to append came to nothing.
enum Refused {
    /// There is no file to write to.
    ForFile(AppendFailure),
    /// There is, and it didn't take it.
    InFile(AppendFailure),
}

impl Refused {
    fn failure(self) -> AppendFailure {
        match self {
            Refused::ForFile(failure) | Refused::InFile(failure) => failure,
        }
    }
}

struct Fit {
    appends: usize,
    bytes: usize,
}

/// Brings what is known of the partitions of some appends into the processor's cache. Of
/// thousands of partitions it isn't there, and to wait for all of them together takes little
/// longer than to wait for one.
fn fetch_ahead<A: ToPlace>(appends: &[A]) {
    let marks = appends.iter().map(|append| append.log().high_watermark().0);
    std::hint::black_box(marks.fold(0, u64::wrapping_add));
}

/// The atomic units of a group.
fn units<A: ToPlace>(group: &[A]) -> impl Iterator<Item = &[A]> {
    let mut rest = group;
    std::iter::from_fn(move || {
        let len = 1 + usize::from(rest.first()?.unit_remaining());
        let (unit, tail) = rest.split_at(len);
        rest = tail;
        Some(unit)
    })
}

fn no_space_or_io(error: io::Error) -> AppendFailure {
    match is_passing(&error) {
        true => AppendFailure::NoSpace(error),
        false => AppendFailure::Io(error),
    }
}

const _: () = assert!(
    FILE_HEADER_LEN.is_multiple_of(FRAME_ALIGN) && FILE_HEADER_LEN.is_multiple_of(PAGE),
    "the first frame is aligned, and begins a page"
);
