//! A disk in memory that crashes, tears and fails as disks do.
//!
//! Every file has two contents: what a reader sees now, and what is durable. A
//! crash keeps the durable one, and of what was written since an arbitrary
//! subset of 512-byte sectors. Names are treated alike: creations, renames and
//! removals that were not flushed may or may not have happened, each on its own.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Dir, File};

const SECTOR: usize = 512;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The power goes: every later operation fails.
    Crash,
    /// One write fails; any part of it was done.
    WriteError,
    /// One flush fails, and what was to be flushed is forgotten, as on ext4:
    /// the next flush says that all is well.
    FlushError,
}

/// The disk. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct SimDir {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug, Default)]
struct Disk {
    files: BTreeMap<u64, Content>,
    next_file: u64,
    names: Names,
    durable_names: Names,
    /// Changes to names that were not flushed, in order.
    pending: Vec<NameChange>,
    operations_left: Option<(u64, Fault)>,
    crashed: bool,
    capacity: Option<u64>,
}

#[derive(Debug, Default, Clone)]
struct Names {
    files: BTreeMap<PathBuf, u64>,
    dirs: BTreeSet<PathBuf>,
}

#[derive(Debug, Default, Clone)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that differ from the durable ones, as far as known.
    dirty: BTreeSet<usize>,
}

#[derive(Debug, Clone)]
enum NameChange {
    Create(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    CreateDir(PathBuf),
    RemoveDir(PathBuf),
}

impl NameChange {
    fn parent(&self) -> &Path {
        let (NameChange::Create(path, _)
        | NameChange::Rename(path, _)
        | NameChange::Remove(path)
        | NameChange::CreateDir(path)
        | NameChange::RemoveDir(path)) = self;
        path.parent().unwrap_or(Path::new(""))
    }

    fn apply(&self, names: &mut Names) {
        match self {
            NameChange::Create(path, file) => {
                names.files.insert(path.clone(), *file);
            }
            NameChange::Rename(from, to) => {
                if let Some(file) = names.files.remove(from) {
                    names.files.insert(to.clone(), file);
                }
            }
            NameChange::Remove(path) => {
                names.files.remove(path);
            }
            NameChange::CreateDir(path) => {
                names.dirs.insert(path.clone());
            }
            NameChange::RemoveDir(path) => {
                names.files.retain(|file, _| !file.starts_with(path));
                names.dirs.retain(|dir| !dir.starts_with(path));
            }
        }
    }
}

/// splitmix64, for the choices of a crash.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl SimDir {
    pub(crate) fn new() -> SimDir {
        SimDir::default()
    }

    /// The operation after the next `operations` ones meets `fault`. Only those
    /// that change something count.
    pub(crate) fn fail_after(&self, operations: u64, fault: Fault) {
        self.lock().operations_left = Some((operations, fault));
    }

    /// Nothing goes wrong any more, unless it has already.
    pub(crate) fn clear_fault(&self) {
        self.lock().operations_left = None;
    }

    pub(crate) fn has_crashed(&self) -> bool {
        self.lock().crashed
    }

    /// The disk has room for so many bytes in all files; `None` for no bound.
    pub(crate) fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    /// What is on the disk after the power went. This one is of no more use.
    pub(crate) fn crash(&self, seed: u64) -> SimDir {
        let mut disk = self.lock();
        disk.crashed = true;
        let mut state = seed;
        let mut names = disk.durable_names.clone();
        // In one crash of two, everything up to some moment was written.
        let all_until = match random(&mut state) % 2 {
            0 => 0,
            _ => usize::try_from(random(&mut state)).unwrap_or(0) % (disk.pending.len() + 1),
        };
        for (nth, change) in disk.pending.iter().enumerate() {
            let happened = nth < all_until || random(&mut state).is_multiple_of(2);
            let has_parent =
                change.parent().as_os_str().is_empty() || names.dirs.contains(change.parent());
            if happened && has_parent {
                change.apply(&mut names);
            }
        }
        let files = disk
            .files
            .iter()
            .filter(|(id, _)| names.files.values().any(|named| named == *id))
            .map(|(&id, content)| (id, content.after_crash(&mut state)))
            .collect();
        let after = Disk {
            files,
            next_file: disk.next_file,
            durable_names: names.clone(),
            names,
            capacity: disk.capacity,
            ..Disk::default()
        };
        SimDir {
            disk: Arc::new(Mutex::new(after)),
        }
    }

    /// Flips a bit of a file, now and for good.
    pub(crate) fn flip_bit(&self, path: &Path, bit: u64) {
        let at = usize::try_from(bit / 8).expect("files are small");
        self.damage(path, at..at + 1, |byte| *byte ^= 1 << (bit % 8));
    }

    /// Flips a bit of `text` in every file below `parent` that holds it, now and
    /// for good. Says whether there was one.
    pub(crate) fn flip_bit_of(&self, parent: &Path, text: &[u8]) -> bool {
        let mut found = false;
        for name in self.list(parent).expect("listing doesn't fail") {
            let path = parent.join(name);
            let file = self.open(&path).expect("it is there");
            let len = file.len().expect("it has a length");
            let mut bytes = vec![0; usize::try_from(len).expect("files are small")];
            file.read_at(&mut bytes, 0).expect("reading doesn't fail");
            let at = bytes.windows(text.len()).position(|window| window == text);
            if let Some(at) = at {
                self.flip_bit(&path, at as u64 * 8);
                found = true;
            }
        }
        found
    }

    /// Fills a sector of a file with nonsense, now and for good.
    pub(crate) fn corrupt_sector(&self, path: &Path, sector: u64) {
        let at = usize::try_from(sector).expect("files are small") * SECTOR;
        self.damage(path, at..at + SECTOR, |byte| {
            *byte = byte.wrapping_mul(17) ^ 0xa5;
        });
    }

    fn damage(&self, path: &Path, range: std::ops::Range<usize>, change: impl Fn(&mut u8)) {
        let mut disk = self.lock();
        let id = disk.names.files[path];
        let content = disk.files.get_mut(&id).expect("a named file has a content");
        for bytes in [&mut content.now, &mut content.durable] {
            let end = range.end.min(bytes.len());
            for byte in bytes.get_mut(range.start..end).into_iter().flatten() {
                change(byte);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Content {
    /// The sectors that were flushed, and some of the others.
    fn after_crash(&self, state: &mut u64) -> Content {
        let mut bytes = self.durable.clone();
        let (short, long) = match self.now.len() < self.durable.len() {
            true => (self.now.len(), self.durable.len()),
            false => (self.durable.len(), self.now.len()),
        };
        let len = match random(state) % 3 {
            0 => self.durable.len(),
            1 => self.now.len(),
            _ => short + usize::try_from(random(state)).unwrap_or(0) % (long - short + 1),
        };
        bytes.resize(len, 0);
        let all = random(state).is_multiple_of(4);
        for &sector in &self.dirty {
            let start = sector * SECTOR;
            let end = (start + SECTOR).min(len).min(self.now.len());
            if start < end && (all || random(state).is_multiple_of(2)) {
                bytes[start..end].copy_from_slice(&self.now[start..end]);
            }
        }
        Content {
            now: bytes.clone(),
            durable: bytes,
            dirty: BTreeSet::new(),
        }
    }

    fn write(&mut self, buf: &[u8], position: usize) {
        let end = position + buf.len();
        if self.now.len() < end {
            self.now.resize(end, 0);
        }
        self.now[position..end].copy_from_slice(buf);
        if !buf.is_empty() {
            self.dirty.extend(position / SECTOR..=(end - 1) / SECTOR);
        }
    }

    fn flush(&mut self) {
        self.durable.resize(self.now.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            let start = sector * SECTOR;
            let end = (start + SECTOR).min(self.now.len());
            if start < end {
                self.durable[start..end].copy_from_slice(&self.now[start..end]);
            }
        }
    }
}

fn power_is_off() -> io::Error {
    io::Error::other("simulated power cut")
}

impl Disk {
    /// Counts an operation that changes something; says which fault it meets.
    fn operate(&mut self) -> io::Result<Option<Fault>> {
        if self.crashed {
            return Err(power_is_off());
        }
        match &mut self.operations_left {
            Some((0, fault)) => {
                let fault = *fault;
                if fault == Fault::Crash {
                    self.crashed = true;
                    return Err(power_is_off());
                }
                Ok(Some(fault))
            }
            Some((left, _)) => {
                *left -= 1;
                Ok(None)
            }
            None => Ok(None),
        }
    }

    fn check_power(&self) -> io::Result<()> {
        if self.crashed {
            Err(power_is_off())
        } else {
            Ok(())
        }
    }

    fn change_name(&mut self, change: NameChange) -> io::Result<()> {
        self.operate()?;
        change.apply(&mut self.names);
        self.pending.push(change);
        Ok(())
    }

    fn used(&self) -> u64 {
        self.names
            .files
            .values()
            .map(|id| self.files[id].now.len() as u64)
            .sum()
    }
}

fn not_found() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

impl Dir for SimDir {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut disk = self.lock();
        if disk.names.files.contains_key(path) {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        let parent = path.parent().unwrap_or(Path::new(""));
        if !parent.as_os_str().is_empty() && !disk.names.dirs.contains(parent) {
            return Err(not_found());
        }
        let id = disk.next_file;
        disk.change_name(NameChange::Create(path.to_owned(), id))?;
        disk.next_file += 1;
        disk.files.insert(id, Content::default());
        Ok(Arc::new(SimFile {
            disk: self.disk.clone(),
            id,
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let disk = self.lock();
        disk.check_power()?;
        let id = *disk.names.files.get(path).ok_or_else(not_found)?;
        Ok(Arc::new(SimFile {
            disk: self.disk.clone(),
            id,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.lock();
        if !disk.names.files.contains_key(from) {
            return Err(not_found());
        }
        disk.change_name(NameChange::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.lock();
        disk.check_power()?;
        if !disk.names.files.contains_key(path) {
            return Err(not_found());
        }
        disk.change_name(NameChange::Remove(path.to_owned()))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.lock();
        disk.check_power()?;
        if disk.names.dirs.contains(path) {
            return Ok(());
        }
        let parent = path.parent().unwrap_or(Path::new(""));
        if !parent.as_os_str().is_empty() && !disk.names.dirs.contains(parent) {
            return Err(not_found());
        }
        disk.change_name(NameChange::CreateDir(path.to_owned()))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.lock();
        disk.check_power()?;
        // Not atomic: a crash may leave some of the files.
        let files: Vec<PathBuf> = disk
            .names
            .files
            .keys()
            .filter(|file| file.starts_with(path))
            .cloned()
            .collect();
        for file in files {
            disk.change_name(NameChange::Remove(file))?;
        }
        if disk.names.dirs.contains(path) {
            disk.change_name(NameChange::RemoveDir(path.to_owned()))?;
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let disk = self.lock();
        disk.check_power()?;
        let all = disk.names.files.keys().chain(&disk.names.dirs);
        let mut names: Vec<String> = all
            .filter(|name| name.parent() == Some(path))
            .filter_map(|name| name.file_name()?.to_str().map(str::to_owned))
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.lock();
        if disk
            .operate()?
            .is_some_and(|fault| fault == Fault::FlushError)
        {
            disk.operations_left = None;
            return Err(io::Error::other("simulated flush error"));
        }
        if !path.as_os_str().is_empty() && !disk.names.dirs.contains(path) {
            return Err(not_found());
        }
        let (flushed, pending) = std::mem::take(&mut disk.pending)
            .into_iter()
            .partition(|change| change.parent() == path);
        let flushed: Vec<NameChange> = flushed;
        for change in flushed {
            change.apply(&mut disk.durable_names);
        }
        disk.pending = pending;
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        let mut disk = self.lock();
        disk.operate()?;
        disk.pending.clear();
        disk.durable_names = disk.names.clone();
        disk.files.values_mut().for_each(Content::flush);
        Ok(())
    }

    fn available_bytes(&self) -> io::Result<u64> {
        let disk = self.lock();
        disk.check_power()?;
        Ok(disk
            .capacity
            .map_or(u64::MAX, |capacity| capacity.saturating_sub(disk.used())))
    }
}

#[derive(Debug)]
struct SimFile {
    disk: Arc<Mutex<Disk>>,
    id: u64,
}

impl SimFile {
    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let disk = self.lock();
        disk.check_power()?;
        let bytes = &disk.files[&self.id].now;
        let start = usize::try_from(position)
            .expect("files are small")
            .min(bytes.len());
        let len = buf.len().min(bytes.len() - start);
        buf[..len].copy_from_slice(&bytes[start..start + len]);
        Ok(len)
    }

    fn write_all_at(&self, buf: &[u8], position: u64) -> io::Result<()> {
        let mut disk = self.lock();
        let position = usize::try_from(position).expect("files are small");
        let met = disk.operate();
        let used = disk.used();
        let room = disk
            .capacity
            .map_or(u64::MAX, |capacity| capacity.saturating_sub(used));
        let content = disk
            .files
            .get_mut(&self.id)
            .expect("an open file has a content");
        match met {
            // The power went in the middle.
            Err(error) => {
                content.write(&buf[..buf.len() / 2], position);
                return Err(error);
            }
            Ok(Some(Fault::WriteError)) => {
                content.write(&buf[..buf.len() / 2], position);
                disk.operations_left = None;
                return Err(io::Error::other("simulated write error"));
            }
            Ok(_) => {}
        }
        let grows = (position + buf.len()).saturating_sub(content.now.len()) as u64;
        if grows > room {
            let short = usize::try_from(grows - room).expect("files are small");
            content.write(&buf[..buf.len().saturating_sub(short)], position);
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        content.write(buf, position);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.lock();
        if disk.operate()? == Some(Fault::FlushError) {
            disk.operations_left = None;
            // The pages are clean now, though they never reached the disk.
            let content = disk
                .files
                .get_mut(&self.id)
                .expect("an open file has a content");
            content.dirty.clear();
            return Err(io::Error::other("simulated flush error"));
        }
        disk.files
            .get_mut(&self.id)
            .expect("an open file has a content")
            .flush();
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = self.lock();
        disk.operate()?;
        let len = usize::try_from(len).expect("files are small");
        let grows = len.saturating_sub(disk.files[&self.id].now.len()) as u64;
        let used = disk.used();
        if grows > 0 && disk.capacity.is_some_and(|bytes| used + grows > bytes) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let content = disk
            .files
            .get_mut(&self.id)
            .expect("an open file has a content");
        let from = len.min(content.now.len());
        let to = len.max(content.now.len()).max(content.durable.len());
        content.dirty.extend(from / SECTOR..to.div_ceil(SECTOR));
        content.now.resize(len, 0);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let disk = self.lock();
        disk.check_power()?;
        Ok(disk.files[&self.id].now.len() as u64)
    }
}
