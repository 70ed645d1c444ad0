//! A data directory that is only looked at: nothing in it can be changed.

use std::fs::{self, File as StdFile};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;

use super::real::{LOCK_FILE, RealFile, names_in};
use super::{Dir, File, TakeError};

/// A directory on disk that is only read. Mostly locked against brokers while this
/// lives, if a broker ever used it.
#[derive(Debug)]
pub struct ExaminedDir {
    root: PathBuf,
    /// Held open: the lock ends with it.
    _lock: Option<StdFile>,
}

impl ExaminedDir {
    /// Opens a directory that is there.
    pub fn open(root: &Path) -> Result<ExaminedDir, TakeError> {
        let failed = |error| TakeError::Io {
            root: root.to_owned(),
            error,
        };
        fs::read_dir(root).map_err(failed)?;
        let lock = match StdFile::open(root.join(LOCK_FILE)) {
            Ok(lock) => Some(lock),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        // Shared: several may look at once, none while a broker writes.
        if let Some(lock) = &lock
            && rustix::fs::flock(lock, FlockOperation::NonBlockingLockShared).is_err()
        {
            let holder = fs::read_to_string(root.join(LOCK_FILE)).unwrap_or_default();
            return Err(TakeError::InUse {
                root: root.to_owned(),
                holder,
            });
        }
        Ok(ExaminedDir {
            root: root.to_owned(),
            _lock: lock,
        })
    }

    /// A directory that a broker may be using, or that isn't there: what is seen may
    /// change at any moment.
    pub fn unlocked(root: &Path) -> ExaminedDir {
        ExaminedDir {
            root: root.to_owned(),
            _lock: None,
        }
    }
}

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Dir for ExaminedDir {
    fn create(&self, _: &Path) -> io::Result<Arc<dyn File>> {
        refused()
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(RealFile(StdFile::open(self.root.join(path))?)))
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        refused()
    }

    fn remove(&self, _: &Path) -> io::Result<()> {
        refused()
    }

    fn create_dir(&self, _: &Path) -> io::Result<()> {
        refused()
    }

    fn remove_dir_all(&self, _: &Path) -> io::Result<()> {
        refused()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        names_in(&self.root.join(path))
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        refused()
    }

    fn sync_all(&self) -> io::Result<()> {
        refused()
    }

    fn begin_writeback(&self) {}

    fn forget_pages(&self, _: &Path, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn available_bytes(&self) -> io::Result<u64> {
        Ok(0)
    }
}
