//! The one seam to files: everything that storage does to a disk goes through
//! [`Dir`] and [`File`]. There is a real one and, for tests, one in memory that
//! crashes, tears and fails as disks do.
//!
//! Paths are relative to the data directory. The contract is POSIX's: data is
//! durable once [`File::sync_data`] returned, a name once [`Dir::sync_dir`] of
//! its parent did.

mod examined;
mod real;
#[cfg(test)]
pub(crate) mod sim;
#[cfg(test)]
mod tests;
mod writeback;

pub use examined::ExaminedDir;
pub use real::{RealDir, TakeError};

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// What is written in whole pages of this size need not be read before, and so can be
/// written where it can't be read: bytes. File systems on Linux have blocks of this
/// size, or smaller ones.
pub const PAGE: usize = 4096;

/// A file with bad sectors is read in pieces of this size: bytes. The kernel may
/// lose a page for each; a smaller disk sector is never spared in vain.
const SALVAGED: usize = 512;

/// Whether a read failed because the disk can't read its own sectors.
pub fn is_bad_sector(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

/// Whether what failed may go well another time, and leaves nothing in doubt: there
/// was no room, or a descriptor or memory was short. A flush never fails so, since
/// nobody knows what became of what it should have flushed; nor does a write, but
/// for want of room.
pub fn is_passing(error: &io::Error) -> bool {
    let of_a_kind = matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::OutOfMemory
    );
    let descriptors = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
    let code = error.raw_os_error();
    of_a_kind || descriptors.iter().any(|e| Some(e.raw_os_error()) == code)
}

/// Whether there was no room, on the disk or for this user.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// A directory tree that storage owns.
pub trait Dir: Send + Sync + fmt::Debug {
    /// Creates a file, open for reading and writing; fails with
    /// `AlreadyExists` when there is one.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Opens a file for reading and writing; fails with `NotFound` when there
    /// is none.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Renames a file, replacing what has the new name; atomic.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Open handles stay readable.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Creates a directory; its parent must exist. Not an error when there is
    /// one already.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory with all that is in it. Not an error when there is
    /// none.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, sorted; empty when there is no such directory.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    /// Makes the names in a directory durable: files created, renamed, removed. No
    /// error [`is_passing`]: what was renamed must not be left in doubt for want of
    /// a descriptor.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes everything in the tree durable, contents and names (`syncfs`).
    fn sync_all(&self) -> io::Result<()>;

    /// Has the kernel begin to write what [`Dir::sync_all`] would have to wait for. A
    /// hint: nothing is durable for it, and its errors are those of [`Dir::sync_all`].
    fn begin_writeback(&self);

    /// Lets the page cache forget a range of a file that is durable. A hint:
    /// what the file holds doesn't change.
    fn forget_pages(&self, path: &Path, from: u64, to: u64) -> io::Result<()>;

    /// Bytes that can still be written before the disk is full.
    fn available_bytes(&self) -> io::Result<u64>;
}

/// An open file. All methods take positions: there is no cursor, and several
/// threads may use one handle.
pub trait File: Send + Sync + fmt::Debug {
    /// Reads up to `buf.len()` bytes at `position`; fewer only at the end of
    /// the file.
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize>;

    /// As [`File::read_at`], but what lies on bad sectors (`EIO`) reads as zeros:
    /// for readers that verify checksums, to whom it is damage like any other.
    fn read_salvaging(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        match self.read_at(buf, position) {
            Err(error) if is_bad_sector(&error) => {}
            read => return read,
        }
        let mut done = 0;
        while done < buf.len() {
            let at = position + done as u64;
            let to_boundary = SALVAGED - usize::try_from(at % SALVAGED as u64).expect("small");
            let end = buf.len().min(done + to_boundary);
            let piece = &mut buf[done..end];
            match self.read_at(piece, at) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if is_bad_sector(&error) => {
                    piece.fill(0);
                    done = end;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Writes all of `buf` at `position`, extending the file as needed. A [`PAGE`]
    /// that is written in part may be read first, and that may fail. After an error
    /// any part of it may have been written. The error [`is_passing`] only if there was
    /// no room.
    fn write_all_at(&self, buf: &[u8], position: u64) -> io::Result<()>;

    /// As [`File::write_all_at`], one part behind the other, as if they were one.
    fn write_parts_at(&self, parts: [&[u8]; 3], position: u64) -> io::Result<()>;

    /// Makes the contents and the length durable (`fdatasync`). No error
    /// [`is_passing`].
    fn sync_data(&self) -> io::Result<()>;

    /// Takes room on the disk for a range beyond the end, which stays where it is. A
    /// hint: where there is no room, writing will say so. [`File::set_len`] gives back
    /// what lies beyond the end.
    fn take_room(&self, from: u64, to: u64);

    /// Cuts or extends (with zeros) the file.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// As [`Dir::forget_pages`].
    fn forget_pages(&self, from: u64, to: u64) -> io::Result<()>;

    /// Length of the file in bytes.
    fn len(&self) -> io::Result<u64>;

    /// The same, or `None` if the file has no name any more: what is written to it is lost
    /// once it is closed.
    fn len_if_named(&self) -> io::Result<Option<u64>>;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}
