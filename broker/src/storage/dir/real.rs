//! The real disk.

use std::fs::{self, File as StdFile, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags, FlockOperation};

use super::writeback::Writeback;
use super::{Dir, File, is_full, is_passing};

/// Held locked by the process that uses the directory; holds its process id.
pub(super) const LOCK_FILE: &str = "LOCK";

/// A directory on disk, locked against other processes while this lives.
#[derive(Debug)]
pub struct RealDir {
    root: PathBuf,
    /// For flushing, which must not fail for want of a descriptor.
    root_handle: StdFile,
    writeback: Writeback,
    /// Held open: the lock ends with it.
    _lock: StdFile,
}

/// Why a data directory can't be taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// Another process has it.
    #[error("the data directory {} is in use by another process{}", root.display(), pid_of(holder))]
    InUse {
        /// The directory.
        root: PathBuf,
        /// What the other one wrote into the lock file: its process id.
        holder: String,
    },
    /// It can't be made or written.
    #[error("the data directory {} can't be used: {error}", root.display())]
    Io {
        /// The directory.
        root: PathBuf,
        /// What failed.
        error: io::Error,
    },
}

fn pid_of(holder: &str) -> String {
    let holder = holder.trim();
    if holder.is_empty() {
        String::new()
    } else {
        format!(" (pid {holder})")
    }
}

impl RealDir {
    /// Takes a directory, which is made with its parents if there is none.
    pub fn take(root: &Path) -> Result<RealDir, TakeError> {
        let failed = |error| TakeError::Io {
            root: root.to_owned(),
            error,
        };
        create_with_parents(root).map_err(failed)?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(root.join(LOCK_FILE))
            .map_err(failed)?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let holder = fs::read_to_string(root.join(LOCK_FILE)).unwrap_or_default();
            return Err(TakeError::InUse {
                root: root.to_owned(),
                holder,
            });
        }
        lock.set_len(0).map_err(failed)?;
        // For people; a full disk must not keep the broker from starting.
        let _ = writeln!(lock, "{}", std::process::id());
        Ok(RealDir {
            root: root.to_owned(),
            root_handle: StdFile::open(root).map_err(failed)?,
            writeback: Writeback::default(),
            _lock: lock,
        })
    }

    fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }
}

/// Every directory that is made is made durable in its parent.
fn create_with_parents(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_with_parents(parent)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    StdFile::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// The names in a directory, sorted; none when there is no such directory.
pub(super) fn names_in(path: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        // We make no names that are not UTF-8; others' are not our business.
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

impl Dir for RealDir {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(self.at(path))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.at(path))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(self.at(from), self.at(to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(self.at(path))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        match fs::create_dir(self.at(path)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        match fs::remove_dir_all(self.at(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        names_in(&self.at(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        match StdFile::open(self.at(path)) {
            Ok(dir) => dir.sync_all().map_err(in_doubt),
            // There is one for everything.
            Err(error) if is_passing(&error) => self.sync_all(),
            Err(error) => Err(error),
        }
    }

    fn sync_all(&self) -> io::Result<()> {
        self.writeback.finish().map_err(in_doubt)?;
        rustix::fs::syncfs(&self.root_handle).map_err(|error| in_doubt(error.into()))
    }

    fn begin_writeback(&self) {
        self.writeback.begin(&self.root);
    }

    fn forget_pages(&self, path: &Path, from: u64, to: u64) -> io::Result<()> {
        RealFile(StdFile::open(self.at(path))?).forget_pages(from, to)
    }

    fn available_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }
}

/// What a flush failed with: whatever it was, it doesn't pass.
fn in_doubt(error: io::Error) -> io::Error {
    match is_passing(&error) {
        true => io::Error::other(error),
        false => error,
    }
}

/// What a write failed with: it passes if there was no room.
fn unless_full(error: io::Error) -> io::Error {
    match is_full(&error) {
        true => error,
        false => in_doubt(error),
    }
}

/// An open file on disk.
#[derive(Debug)]
pub(super) struct RealFile(pub(super) StdFile);

impl File for RealFile {
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_at(&mut buf[done..], position + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_all_at(&self, buf: &[u8], position: u64) -> io::Result<()> {
        self.0.write_all_at(buf, position).map_err(unless_full)
    }

    fn write_parts_at(&self, parts: [&[u8]; 3], position: u64) -> io::Result<()> {
        let mut parts = parts.map(IoSlice::new);
        let mut left = &mut parts[..];
        // Takes empty ones away.
        IoSlice::advance_slices(&mut left, 0);
        let mut at = position;
        while !left.is_empty() {
            match rustix::io::pwritev(&self.0, left, at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    at += written as u64;
                    IoSlice::advance_slices(&mut left, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(unless_full(error.into())),
            }
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data().map_err(in_doubt)
    }

    fn take_room(&self, from: u64, to: u64) {
        let len = to.saturating_sub(from);
        let _ = rustix::fs::fallocate(&self.0, FallocateFlags::KEEP_SIZE, from, len);
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len).map_err(unless_full)
    }

    fn forget_pages(&self, from: u64, to: u64) -> io::Result<()> {
        // No length is all that follows.
        let Some(len) = NonZeroU64::new(to.saturating_sub(from)) else {
            return Ok(());
        };
        Ok(rustix::fs::fadvise(
            &self.0,
            from,
            Some(len),
            Advice::DontNeed,
        )?)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn len_if_named(&self) -> io::Result<Option<u64>> {
        let metadata = self.0.metadata()?;
        Ok((metadata.nlink() > 0).then_some(metadata.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failures() -> impl Iterator<Item = (i32, bool, bool)> {
        // EIO, EROFS; ENOMEM, ENFILE, EMFILE; ENOSPC, EDQUOT.
        let lasting = [5, 30].map(|code| (code, false, false));
        let short = [12, 23, 24].map(|code| (code, true, false));
        let full = [28, 122].map(|code| (code, true, true));
        lasting.into_iter().chain(short).chain(full)
    }

    #[test]
    fn no_flush_fails_for_now_and_a_write_only_for_want_of_room() {
        for (code, passes, full) in failures() {
            let error = || io::Error::from_raw_os_error(code);
            assert_eq!(is_passing(&error()), passes, "{}", error());
            assert_eq!(is_full(&error()), full, "{}", error());
            assert!(!is_passing(&in_doubt(error())), "{}", error());
            assert_eq!(is_passing(&unless_full(error())), full, "{}", error());
            let said = in_doubt(error()).to_string();
            assert_eq!(said, error().to_string());
        }
    }
}
