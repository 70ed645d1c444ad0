//! The directory tree in memory that fails as disks do, the same way for the
//! same seed. For tests.
//!
//! - Nothing is durable before its flush. [`SimDir::crash`] makes the tree that
//!   a power cut leaves: what was flushed, and an arbitrary part of what was
//!   not, torn at sectors of 512 bytes; lengths and names likewise, though each
//!   rename is whole.
//! - [`SimDir::fail_after`] makes a later operation fail; [`Fault`] says how.
//! - [`SimDir::set_capacity`] fills the disk, [`SimDir::set_most_open`] bounds descriptors.
//! - [`SimDir::flip_bit`] and [`SimDir::corrupt_sector`] damage what is at rest.
//! - [`SimDir::break_sector`] makes a sector unreadable. Pages of 4096 bytes that are
//!   written in part are read first, so such a write fails, too; one that is written
//!   as a whole heals.

mod content;
mod names;
mod rng;
mod room;
mod seen;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Dir, File, PAGE};
use content::Content;
use names::Names;

pub(crate) use content::SECTOR;
pub(crate) use rng::SimRng;

/// How an operation fails. Each strikes once, but for the crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The power goes: this operation may have happened or not; all later
    /// ones, reads too, fail until [`SimDir::crash`].
    Crash,
    /// The next write fails, done in part.
    WriteError,
    /// The next flush fails. What it should have flushed is marked clean: a
    /// second flush returns `Ok` and has written nothing, as on ext4.
    FlushError,
    /// The next write that makes a file longer finds the disk full, done in part.
    DiskFull,
    /// The same, but it is more than this user may have on the disk.
    QuotaFull,
    /// The next write ends early.
    ShortWrite,
    /// The next read fails.
    ReadError,
    /// Whatever has to be opened next finds no descriptor left.
    Descriptors,
}

/// A simulated directory tree. Clones are the same tree.
#[derive(Debug, Clone)]
pub(crate) struct SimDir(Arc<Mutex<World>>);

#[derive(Debug)]
struct World {
    names: Names,
    files: BTreeMap<u64, Content>,
    next_file: u64,
    rng: SimRng,
    capacity: Option<u64>,
    /// How many files may be open.
    most_open: Option<usize>,
    /// Operations so far; reads don't count.
    operations: u64,
    /// Writes and flushes among them.
    changes: u64,
    bytes_read: u64,
    /// Files opened, but for those created.
    opened: u64,
    /// What the page cache was told to forget: path, first byte, and one past the last.
    forgotten: Vec<(PathBuf, u64, u64)>,
    /// How often it was told so by who had the file open.
    forgotten_open: u64,
    writebacks: u64,
    /// A fault, and the count of operations from which on it strikes.
    fault: Option<(u64, Fault)>,
    crashed: bool,
}

/// What an operation does, as far as faults care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    /// Makes a file longer.
    Extend,
    /// Changes what there is.
    Write,
    Sync,
    Name,
}

impl SimDir {
    /// An empty tree.
    pub(crate) fn new() -> SimDir {
        SimDir::from_parts(Names::new(), BTreeMap::new(), 0, SimRng::new(0))
    }

    fn from_parts(
        names: Names,
        files: BTreeMap<u64, Content>,
        next_file: u64,
        rng: SimRng,
    ) -> SimDir {
        SimDir(Arc::new(Mutex::new(World {
            names,
            files,
            next_file,
            rng,
            capacity: None,
            most_open: None,
            operations: 0,
            changes: 0,
            bytes_read: 0,
            opened: 0,
            forgotten: Vec::new(),
            forgotten_open: 0,
            writebacks: 0,
            fault: None,
            crashed: false,
        })))
    }

    /// Cuts the power: returns the tree as it comes up again. This one, and
    /// every handle of it, fails from now on. Other seeds give other outcomes
    /// of the same cut. A fault that is still to strike is not inherited.
    #[must_use]
    pub(crate) fn crash(&self, seed: u64) -> SimDir {
        let mut world = self.world();
        world.crashed = true;
        let mut rng = SimRng::new(seed);
        let names = world.names.crashed(&mut rng);
        let kept = names.linked();
        let files = world.files.iter().filter(|(id, _)| kept.contains(id));
        let files = files.map(|(id, file)| (*id, file.crashed(&mut rng)));
        let after = SimDir::from_parts(names, files.collect(), world.next_file, rng);
        after.world().capacity = world.capacity;
        after
    }

    /// Lets `operations` more operations (reads don't count) succeed, then
    /// makes the first one fail that the fault applies to. Replaces an earlier
    /// fault that has not struck yet.
    pub(crate) fn fail_after(&self, operations: u64, fault: Fault) {
        let mut world = self.world();
        world.fault = Some((world.operations + operations, fault));
    }

    /// Whether a fault is still to strike.
    pub(crate) fn fault_pending(&self) -> bool {
        self.world().fault.is_some()
    }

    /// Nothing goes wrong any more, unless it has already.
    pub(crate) fn clear_fault(&self) {
        self.world().fault = None;
    }

    /// Flips one bit of a file, on the disk and in the cache.
    pub(crate) fn flip_bit(&self, path: &Path, bit: u64) {
        self.damage(path, |content, _| {
            content.damage(to_usize(bit / 8), |byte| *byte ^= 1 << (bit % 8));
        });
    }

    /// Flips a bit of `text` in every file that holds it, now and for good. Says
    /// whether there was one. Other threads see all of it or nothing.
    pub(crate) fn flip_bit_of(&self, text: &[u8]) -> bool {
        let mut world = self.world();
        let mut found = false;
        for id in world.names.linked() {
            let content = world.file(id);
            let mut bytes = vec![0; content.len()];
            content.read(&mut bytes, 0);
            if let Some(at) = bytes.windows(text.len()).position(|held| held == text) {
                content.damage(at, |byte| *byte ^= 1);
                found = true;
            }
        }
        found
    }

    /// Flips a bit of a file in a directory, as far as `choose` names one of those that are
    /// there at that moment. Any number says which bit.
    pub(crate) fn flip_bit_within(
        &self,
        dir: &Path,
        bit: u64,
        choose: impl FnOnce(&[String]) -> Option<String>,
    ) {
        let mut world = self.world();
        let names = world.names.list(dir).unwrap_or_default();
        let Some(name) = choose(&names) else {
            return;
        };
        let id = world.names.file(&dir.join(name)).expect("it was listed");
        let content = world.file(id);
        if let Some(bit) = bit.checked_rem(content.len() as u64 * 8) {
            content.damage(to_usize(bit / 8), |byte| *byte ^= 1 << (bit % 8));
        }
    }

    /// Fills one 512-byte sector of a file with arbitrary bytes.
    pub(crate) fn corrupt_sector(&self, path: &Path, sector: u64) {
        self.damage(path, |content, rng| {
            let mut garbage = [0; SECTOR];
            rng.fill(&mut garbage);
            for (at, new) in garbage.into_iter().enumerate() {
                content.damage(to_usize(sector) * SECTOR + at, |byte| *byte = new);
            }
        });
    }

    /// Makes a 512-byte sector of a file unreadable: `EIO`, until the whole page that it
    /// lies in is written.
    pub(crate) fn break_sector(&self, path: &Path, sector: u64) {
        self.damage(path, |content, _| content.make_bad(to_usize(sector)));
    }

    /// The same for all sectors of its page: what a file system makes of one.
    pub(crate) fn break_page(&self, path: &Path, sector: u64) {
        let sectors = (PAGE / SECTOR) as u64;
        let first = sector / sectors * sectors;
        (first..first + sectors).for_each(|sector| self.break_sector(path, sector));
    }

    fn damage(&self, path: &Path, change: impl FnOnce(&mut Content, &mut SimRng)) {
        let mut world = self.world();
        let world = &mut *world;
        let id = world.names.file(path).expect("a file to damage");
        let content = world.files.get_mut(&id).expect("a linked file");
        change(content, &mut world.rng);
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("no panic while the world is held")
    }

    fn handle(&self, world: &World, id: u64, path: &Path) -> Arc<dyn File> {
        Arc::new(SimFile {
            dir: self.clone(),
            id,
            path: path.to_owned(),
            _open: Arc::clone(&world.files[&id].handles),
        })
    }

    /// Runs an operation on names. A power cut may strike before or after it.
    fn on_names<T>(&self, run: impl FnOnce(&mut World) -> io::Result<T>) -> io::Result<T> {
        let mut world = self.world();
        match world.begin(Operation::Name)? {
            None => run(&mut world),
            Some(_) => {
                if world.rng.one_in(2) {
                    let _lost_with_the_power = run(&mut world);
                }
                Err(power_cut())
            }
        }
    }
}

impl World {
    /// Counts an operation and says which fault strikes it.
    fn begin(&mut self, operation: Operation) -> io::Result<Option<Fault>> {
        self.check_power()?;
        self.operations += 1;
        self.changes += u64::from(operation != Operation::Name);
        let Some((from, fault)) = self.fault else {
            return Ok(None);
        };
        let applies = match fault {
            Fault::Crash => true,
            Fault::DiskFull | Fault::QuotaFull => operation == Operation::Extend,
            Fault::WriteError | Fault::ShortWrite => {
                matches!(operation, Operation::Extend | Operation::Write)
            }
            Fault::FlushError => operation == Operation::Sync,
            Fault::ReadError | Fault::Descriptors => false,
        };
        if self.operations <= from || !applies {
            return Ok(None);
        }
        self.fault = None;
        self.crashed = fault == Fault::Crash;
        Ok(Some(fault))
    }

    /// Begins a write that reaches to `end`.
    fn begin_write(&mut self, id: u64, end: usize) -> io::Result<Option<Fault>> {
        let extends = end > self.file(id).len();
        self.begin(match extends {
            true => Operation::Extend,
            false => Operation::Write,
        })
    }

    fn begin_read(&mut self) -> io::Result<()> {
        match self.strikes(Fault::ReadError)? {
            true => Err(input_output_error()),
            false => Ok(()),
        }
    }

    /// Before anything else that an operation does which opens something.
    fn begin_open(&mut self) -> io::Result<()> {
        let is_short = self.most_open.is_some_and(|most| self.open_files() >= most);
        match self.strikes(Fault::Descriptors)? || is_short {
            // EMFILE; std has no kind for it.
            true => Err(io::Error::from_raw_os_error(24)),
            false => Ok(()),
        }
    }

    /// Whether a fault strikes here that isn't for operations that count.
    fn strikes(&mut self, fault: Fault) -> io::Result<bool> {
        self.check_power()?;
        let strikes = self
            .fault
            .is_some_and(|(from, pending)| pending == fault && self.operations >= from);
        if strikes {
            self.fault = None;
        }
        Ok(strikes)
    }

    fn check_power(&self) -> io::Result<()> {
        if self.crashed {
            Err(power_cut())
        } else {
            Ok(())
        }
    }

    fn open_files(&self) -> usize {
        self.files.values().map(Content::holders).sum()
    }

    fn file(&mut self, id: u64) -> &mut Content {
        self.files.get_mut(&id).expect("a handle keeps its file")
    }

    /// Frees files that nothing can reach any more.
    fn free(&mut self) {
        if self.files.len() > 16 {
            let remembered = self.names.remembered();
            self.files
                .retain(|id, file| remembered.contains(id) || file.is_held());
        }
    }
}

impl Dir for SimDir {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.world().begin_open()?;
        self.on_names(|world| {
            let id = world.next_file;
            world.names.create(path, id)?;
            world.next_file += 1;
            world.files.insert(id, Content::default());
            Ok(self.handle(world, id, path))
        })
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut world = self.world();
        world.begin_open()?;
        let id = world.names.file(path)?;
        world.opened += 1;
        Ok(self.handle(&world, id, path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.on_names(|world| world.names.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.on_names(|world| world.names.remove(path))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.on_names(|world| world.names.create_dir(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.world().begin_open()?;
        self.on_names(|world| world.names.remove_dir_all(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut world = self.world();
        world.begin_open()?;
        world.names.list(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        match world.begin(Operation::Sync)? {
            None => {}
            Some(Fault::Crash) => return Err(power_cut()),
            Some(_) => return Err(input_output_error()),
        }
        world.names.sync(path)?;
        world.free();
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        let mut world = self.world();
        let world = &mut *world;
        match world.begin(Operation::Sync)? {
            None => {}
            Some(Fault::Crash) => return Err(power_cut()),
            Some(_) => {
                for file in world.files.values_mut() {
                    file.fail_sync(&mut world.rng);
                }
                return Err(input_output_error());
            }
        }
        world.names.sync_all();
        world.free();
        for file in world.files.values_mut() {
            file.sync();
        }
        Ok(())
    }

    /// What is durable after a crash is an arbitrary part of what was written, anyway.
    fn begin_writeback(&self) {
        self.world().writebacks += 1;
    }

    fn forget_pages(&self, path: &Path, from: u64, to: u64) -> io::Result<()> {
        self.world().forgotten.push((path.to_owned(), from, to));
        Ok(())
    }

    fn available_bytes(&self) -> io::Result<u64> {
        let world = self.world();
        world.check_power()?;
        Ok(world.available_bytes())
    }
}

#[derive(Debug)]
struct SimFile {
    dir: SimDir,
    id: u64,
    /// Where it was opened.
    path: PathBuf,
    _open: Arc<()>,
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let mut world = self.dir.world();
        world.begin_read()?;
        let file = world.file(self.id);
        if file.is_bad(to_usize(position), buf.len()) {
            return Err(input_output_error());
        }
        let read = file.read(buf, to_usize(position));
        world.bytes_read += read as u64;
        Ok(read)
    }

    fn write_all_at(&self, buf: &[u8], position: u64) -> io::Result<()> {
        let mut world = self.dir.world();
        let fault = world.begin_write(self.id, to_usize(position) + buf.len())?;
        let wanted = match fault {
            // All of it: what of it reaches the disk, the crash decides.
            None | Some(Fault::Crash) => buf.len(),
            Some(_) => world.rng.index(buf.len()),
        };
        let writable = world.file(self.id).writable(to_usize(position), wanted);
        let written = world.write(self.id, &buf[..writable], to_usize(position));
        match fault {
            None if written == buf.len() => Ok(()),
            None if writable < wanted && written == writable => Err(input_output_error()),
            None | Some(Fault::DiskFull) => Err(io::ErrorKind::StorageFull.into()),
            Some(Fault::QuotaFull) => Err(io::ErrorKind::QuotaExceeded.into()),
            Some(Fault::Crash) => Err(power_cut()),
            Some(Fault::ShortWrite) => Err(io::ErrorKind::WriteZero.into()),
            Some(_) => Err(input_output_error()),
        }
    }

    fn write_parts_at(&self, parts: [&[u8]; 3], position: u64) -> io::Result<()> {
        self.write_all_at(&parts.concat(), position)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut world = self.dir.world();
        let world = &mut *world;
        match world.begin(Operation::Sync)? {
            None => {
                world.file(self.id).sync();
                Ok(())
            }
            Some(Fault::Crash) => Err(power_cut()),
            Some(_) => {
                let file = world.files.get_mut(&self.id);
                file.expect("a handle keeps its file")
                    .fail_sync(&mut world.rng);
                Err(input_output_error())
            }
        }
    }

    fn take_room(&self, _: u64, to: u64) {
        self.dir.world().take_room(self.id, to_usize(to));
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut world = self.dir.world();
        let len = to_usize(len);
        let fault = world.begin_write(self.id, len)?;
        let growth = len.saturating_sub(world.file(self.id).room());
        match fault {
            None if growth as u64 > world.available_bytes() => {
                return Err(io::ErrorKind::StorageFull.into());
            }
            None if !world.file(self.id).can_end_at(len) => return Err(input_output_error()),
            None | Some(Fault::Crash) => world.file(self.id).set_len(len),
            Some(_) => {}
        }
        match fault {
            None => Ok(()),
            Some(Fault::Crash) => Err(power_cut()),
            Some(Fault::DiskFull) => Err(io::ErrorKind::StorageFull.into()),
            Some(Fault::QuotaFull) => Err(io::ErrorKind::QuotaExceeded.into()),
            Some(_) => Err(input_output_error()),
        }
    }

    fn forget_pages(&self, from: u64, to: u64) -> io::Result<()> {
        let mut world = self.dir.world();
        world.forgotten.push((self.path.clone(), from, to));
        world.forgotten_open += 1;
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let mut world = self.dir.world();
        world.check_power()?;
        Ok(world.file(self.id).len() as u64)
    }

    fn len_if_named(&self) -> io::Result<Option<u64>> {
        let len = self.len()?;
        let is_linked = self.dir.world().names.is_linked(self.id);
        Ok(is_linked.then_some(len))
    }
}

fn to_usize(position: u64) -> usize {
    usize::try_from(position).expect("simulated files fit in memory")
}

fn power_cut() -> io::Error {
    io::Error::other("the simulated power is off")
}

fn input_output_error() -> io::Error {
    // EIO; std has no kind for it.
    io::Error::from_raw_os_error(5)
}
