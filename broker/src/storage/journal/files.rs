//! The files of the journal: which one is written, which wait for the archiver,
//! which are spare.
//!
//! A file has a fixed size, is written with zeros once and then recycled: a
//! flush of a file whose blocks are allocated and written never commits
//! metadata, and costs half as much. Files are never renamed; what they hold is
//! told by their headers alone.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::PartitionId;
use crate::storage::dir::{Dir, File, PAGE};
use crate::storage::lsn::{Generation, Lsn};

/// Name of the journal's directory.
pub const JOURNAL_DIR: &str = "journal";

/// Zeros are written in pieces of this size.
const ZEROS: usize = 1 << 20;

/// Space that is left to others when files are made ahead: bytes.
const KEEP_FREE: u64 = 256 << 20;

/// How many journal files there are, and how large.
#[derive(Debug, Clone, Copy)]
pub struct JournalSize {
    /// Size of a file in bytes.
    pub file_bytes: u32,
    /// The most files. The last one is only for internal partitions.
    pub max_files: usize,
    /// Spare files that are kept ready.
    pub spares: usize,
}

/// A file on disk that the journal uses, again and again.
#[derive(Debug)]
pub struct JournalFile {
    slot: u32,
    file: Arc<dyn File>,
    /// Every block was written once: no write can run out of space.
    prepared: AtomicBool,
    /// If not, those before this byte were.
    written: AtomicUsize,
}

impl JournalFile {
    fn new(slot: u32, file: Arc<dyn File>, prepared: bool) -> JournalFile {
        JournalFile {
            slot,
            file,
            prepared: AtomicBool::new(prepared),
            written: AtomicUsize::new(0),
        }
    }

    /// The open file.
    pub fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// A file that is only read.
    pub fn examined(file: Arc<dyn File>) -> JournalFile {
        JournalFile::new(0, file, true)
    }

    /// Where it lies in the data directory.
    pub fn path(&self) -> PathBuf {
        path_of(self.slot)
    }

    /// Whether every block was written once.
    pub fn is_prepared(&self) -> bool {
        self.prepared.load(Ordering::Relaxed)
    }
}

/// A file that holds frames.
#[derive(Debug, Clone)]
pub struct FileInUse {
    /// Of this use of the file.
    pub generation: Generation,
    /// The state from which the checksums of its frames start.
    pub seed: u32,
    /// The file.
    pub file: Arc<JournalFile>,
}

/// A file that is full and waits to be archived.
#[derive(Debug, Clone)]
pub struct ClosedFile {
    /// Of this use of the file.
    pub generation: Generation,
    /// What is archived with it: generations behind it that recovery found to
    /// be void, or just its own.
    pub covers: Generation,
    /// The state from which the checksums of its frames start.
    pub seed: u32,
    /// The file.
    pub file: Arc<JournalFile>,
    /// One past its last frame.
    pub end: Lsn,
    /// The partitions that have frames in it.
    pub touched: Vec<PartitionId>,
}

/// How much is in a file that waits to be archived.
#[derive(Debug, Clone, Copy)]
pub struct ClosedContent {
    /// Up to the end of its last frame.
    pub bytes: usize,
    /// Those that have frames in it.
    pub partitions: usize,
}

/// All files of the journal.
#[derive(Debug)]
pub struct JournalFiles {
    dir: Arc<dyn Dir>,
    size: JournalSize,
    state: Mutex<FilesState>,
}

#[derive(Debug, Default)]
struct FilesState {
    spares: Vec<Arc<JournalFile>>,
    closed: VecDeque<ClosedFile>,
    active: Option<FileInUse>,
    /// Files on disk, whatever they are used for.
    total: usize,
    next_slot: u32,
}

/// Who asks for a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// User records: leave the last file.
    User,
    /// Internal partitions: may take the last file.
    Internal,
}

/// A file to write next.
#[derive(Debug)]
pub struct Claimed {
    /// The file.
    pub file: Arc<JournalFile>,
    /// It is what is kept for internal partitions: no user records.
    pub is_reserve: bool,
}

/// What came of an attempt to keep spare files ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prepared {
    /// One more is ready.
    One,
    /// There are enough.
    Enough,
    /// The disk is too full to make files ahead.
    NoRoom,
}

impl JournalFiles {
    /// The files that recovery found: slot numbers with open files, all spare
    /// until [`JournalFiles::adopt_closed`] says otherwise.
    pub fn new(dir: Arc<dyn Dir>, size: JournalSize) -> JournalFiles {
        JournalFiles {
            dir,
            size,
            state: Mutex::default(),
        }
    }

    /// How many files there are, and how large.
    pub fn size(&self) -> &JournalSize {
        &self.size
    }

    /// Opens what is in the journal's directory.
    pub fn open_all(&self) -> io::Result<Vec<Arc<JournalFile>>> {
        let mut files = Vec::new();
        let mut state = self.lock();
        for name in self.dir.list(Path::new(JOURNAL_DIR))? {
            let Some(slot) = slot_of(&name) else { continue };
            let file = self.dir.open(&path_of(slot))?;
            let prepared = file.len()? >= u64::from(self.size.file_bytes);
            files.push(Arc::new(JournalFile::new(slot, file, prepared)));
            state.next_slot = state.next_slot.max(slot + 1);
        }
        state.total = files.len();
        Ok(files)
    }

    /// Takes a file that holds nothing of worth.
    pub fn adopt_spare(&self, file: Arc<JournalFile>) {
        self.lock().spares.push(file);
    }

    /// Takes a file that is to be archived, behind those taken before. No file
    /// is active then.
    pub fn adopt_closed(&self, closed: ClosedFile) {
        let mut state = self.lock();
        state.active = None;
        state.push_closed(closed);
    }

    /// A file to write next, or `None` when the journal has its full size and
    /// the archiver has to catch up first. Makes one, unprepared, when none is
    /// spare: a first start doesn't wait for zeros to be written.
    pub fn claim(&self, claim: Claim) -> io::Result<Option<Claimed>> {
        let mut state = self.lock();
        let in_use = state.total - state.spares.len();
        let beyond = in_use + 1 >= self.size.max_files;
        if in_use >= self.size.max_files || (beyond && claim == Claim::User) {
            return Ok(None);
        }
        let ready = state
            .spares
            .iter()
            .filter(|file| file.is_prepared())
            .count();
        // The last one that is ready can be written even when the disk is full.
        let is_reserve = beyond || ready == 1;
        if ready > 1 || (ready == 1 && claim == Claim::Internal) {
            let index = state.spares.iter().position(|file| file.is_prepared());
            let file = state.spares.swap_remove(index.expect("one is ready"));
            return Ok(Some(Claimed { file, is_reserve }));
        }
        let unprepared = state.spares.iter().position(|file| !file.is_prepared());
        let unprepared = unprepared.map(|index| state.spares.swap_remove(index));
        drop(state);
        let file = match unprepared {
            Some(file) => file,
            None => self.create_file()?,
        };
        // Of a spare one, too: when it couldn't be prepared, its name wasn't flushed.
        if let Err(error) = self.dir.sync_dir(Path::new(JOURNAL_DIR)) {
            self.adopt_spare(file);
            return Err(error);
        }
        Ok(Some(Claimed {
            file,
            is_reserve: beyond,
        }))
    }

    /// A file is written from now on; the one before it, if any, is closed. In
    /// one step: a reader finds every generation at any moment.
    pub fn activate(&self, file: FileInUse, before: Option<ClosedFile>) {
        let mut state = self.lock();
        state.active = Some(file);
        if let Some(closed) = before {
            state.push_closed(closed);
        }
    }

    /// The oldest files that wait to be archived, at most `count`.
    pub fn oldest_closed(&self, count: usize) -> Vec<ClosedFile> {
        self.lock().closed.iter().take(count).cloned().collect()
    }

    /// What the files have that wait to be archived, oldest first.
    pub fn closed_contents(&self) -> Vec<ClosedContent> {
        let state = self.lock();
        let content = |closed: &ClosedFile| ClosedContent {
            bytes: closed.end.position() as usize,
            partitions: closed.touched.len(),
        };
        state.closed.iter().map(content).collect()
    }

    /// How many files wait to be archived.
    pub fn closed_count(&self) -> usize {
        self.lock().closed.len()
    }

    /// The oldest closed file was archived, and the checkpoint says so: it is
    /// spare now. One that was never prepared stays only if there is room for all of it.
    pub fn recycle_oldest(&self) -> io::Result<()> {
        let mut state = self.lock();
        let closed = state.closed.pop_front().expect("a file was archived");
        if closed.file.is_prepared() {
            state.spares.push(closed.file);
            return Ok(());
        }
        drop(state);
        if matches!(self.has_room(), Ok(true)) {
            let written = closed.end.position() as usize / PAGE * PAGE;
            closed.file.written.store(written, Ordering::Relaxed);
            self.adopt_spare(closed.file);
            return Ok(());
        }
        self.lock().total -= 1;
        self.dir.remove(&path_of(closed.file.slot))
    }

    /// Makes one spare file ready, if that is wanted and the disk has room.
    pub fn prepare_spare(&self) -> io::Result<Prepared> {
        let unprepared = {
            let mut state = self.lock();
            let ready = state
                .spares
                .iter()
                .filter(|file| file.is_prepared())
                .count();
            if ready >= self.size.spares
                || (state.total >= self.size.max_files && ready == state.spares.len())
            {
                return Ok(Prepared::Enough);
            }
            let index = state.spares.iter().position(|file| !file.is_prepared());
            index.map(|index| state.spares.swap_remove(index))
        };
        let has_room = self.has_room();
        if !matches!(has_room, Ok(true)) {
            if let Some(file) = unprepared {
                self.adopt_spare(file);
            }
            return has_room.map(|_| Prepared::NoRoom);
        }
        let file = match unprepared {
            Some(file) => file,
            None => self.create_file()?,
        };
        let written = self.write_zeros(&file);
        self.adopt_spare(file);
        written.map(|()| Prepared::One)
    }

    /// Removes one spare file if there are more than are wanted: what a burst
    /// needed is given back little by little. Says whether it did.
    pub fn trim_spare(&self) -> io::Result<bool> {
        self.remove_spare_beyond(self.size.spares)
    }

    /// Removes one spare file, even the last, for its space. Says whether there
    /// was one.
    pub fn give_up_spare(&self) -> io::Result<bool> {
        self.remove_spare_beyond(0)
    }

    fn remove_spare_beyond(&self, kept: usize) -> io::Result<bool> {
        let surplus = {
            let mut state = self.lock();
            if state.spares.len() <= kept {
                return Ok(false);
            }
            state.total -= 1;
            state.spares.pop()
        };
        if let Some(file) = surplus {
            self.dir.remove(&path_of(file.slot))?;
        }
        Ok(true)
    }

    fn create_file(&self) -> io::Result<Arc<JournalFile>> {
        let mut state = self.lock();
        let slot = state.next_slot;
        let file = self.dir.create(&path_of(slot))?;
        state.next_slot += 1;
        state.total += 1;
        Ok(Arc::new(JournalFile::new(slot, file, false)))
    }

    /// Whether there is room to make a file ahead.
    fn has_room(&self) -> io::Result<bool> {
        let file_bytes = u64::from(self.size.file_bytes);
        let wanted = file_bytes + KEEP_FREE.min(file_bytes * 4);
        self.dir.available_bytes().map(|free| free >= wanted)
    }

    fn write_zeros(&self, file: &JournalFile) -> io::Result<()> {
        // Frames are written in whole pages.
        let size = (self.size.file_bytes as usize).next_multiple_of(PAGE);
        let zeros = vec![0; ZEROS.min(size)];
        let mut position = file.written.load(Ordering::Relaxed);
        while position < size {
            let piece = zeros.len().min(size - position);
            file.file.write_all_at(&zeros[..piece], position as u64)?;
            position += piece;
        }
        file.file.sync_data()?;
        self.dir.sync_dir(Path::new(JOURNAL_DIR))?;
        file.prepared.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The file that holds `generation` now; `None` once it was recycled.
    pub fn of_generation(&self, generation: Generation) -> Option<FileInUse> {
        let state = self.lock();
        if let Some(active) = state
            .active
            .as_ref()
            .filter(|active| active.generation == generation)
        {
            return Some(active.clone());
        }
        let of = |closed: &ClosedFile| closed.generation;
        let index = state.closed.binary_search_by_key(&generation, of).ok()?;
        let closed = &state.closed[index];
        Some(FileInUse {
            generation,
            seed: closed.seed,
            file: closed.file.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, FilesState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FilesState {
    fn push_closed(&mut self, closed: ClosedFile) {
        if let Some(last) = self.closed.back() {
            assert!(
                last.generation < closed.generation,
                "files are closed in order"
            );
        }
        self.closed.push_back(closed);
    }
}

fn path_of(slot: u32) -> PathBuf {
    Path::new(JOURNAL_DIR).join(format!("{slot:08}.journal"))
}

fn slot_of(name: &str) -> Option<u32> {
    name.strip_suffix(".journal")?.parse().ok()
}
