//! The real disk.

use std::fs::{self, File as StdFile, OpenOptions};
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, FlockOperation};

use super::{Dir, File};

/// Held locked by the process that uses the directory; holds its process id.
pub(super) const LOCK_FILE: &str = "LOCK";

/// A directory on disk, locked against other processes while this lives.
#[derive(Debug)]
pub struct RealDir {
    root: PathBuf,
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
        StdFile::open(self.at(path))?.sync_all()
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(StdFile::open(&self.root)?)?)
    }

    fn forget_pages(&self, path: &Path, from: u64, to: u64) -> io::Result<()> {
        let file = StdFile::open(self.at(path))?;
        let len = NonZeroU64::new(to.saturating_sub(from));
        Ok(rustix::fs::fadvise(file, from, len, Advice::DontNeed)?)
    }

    fn available_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(stat.f_bavail * stat.f_frsize)
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
        self.0.write_all_at(buf, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}
