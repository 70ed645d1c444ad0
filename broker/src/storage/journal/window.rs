//! A piece of a journal file in memory, moved along as reading goes on.

use std::io;

use crate::storage::dir::File;

/// Size of the piece while reading goes forward. Small enough to stay in the
/// processor's cache between the copy from the kernel and what is done with it.
pub const WINDOW: usize = 1 << 20;

/// Up to so many bytes that are left out, reading still goes forward.
const NEAR: usize = WINDOW / 4;

/// A piece of a file in memory.
#[derive(Debug)]
pub struct Window<'a> {
    file: &'a dyn File,
    len: usize,
    start: usize,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    /// A window on the first `len` bytes of a file.
    pub fn new(file: &'a dyn File, len: usize) -> Window<'a> {
        Window {
            file,
            len,
            start: 0,
            bytes: Vec::new(),
        }
    }

    /// A window on another file, with the memory of this one.
    #[must_use]
    pub fn moved_to(self, file: &'a dyn File, len: usize) -> Window<'a> {
        let mut bytes = self.bytes;
        bytes.clear();
        Window {
            file,
            len,
            start: 0,
            bytes,
        }
    }

    /// Reads exactly so many bytes at `position`, of which more than one piece will be
    /// asked for.
    pub fn load(&mut self, position: usize, want: usize) -> io::Result<()> {
        let want = want.min(self.len.saturating_sub(position));
        self.read(position, want)
    }

    /// Up to `want` bytes at `position`; fewer only at the end of the file.
    pub fn get(&mut self, position: usize, want: usize) -> io::Result<&[u8]> {
        let want = want.min(self.len.saturating_sub(position));
        let end = self.start + self.bytes.len();
        if position < self.start || position + want > end {
            let forward = (self.start..end + NEAR).contains(&position);
            let read = if forward { want.max(WINDOW) } else { want };
            self.read(position, read.min(self.len - position))?;
        }
        Ok(&self.bytes[position - self.start..][..want])
    }

    fn read(&mut self, position: usize, len: usize) -> io::Result<()> {
        self.bytes.resize(len, 0);
        let got = self.file.read_salvaging(&mut self.bytes, position as u64)?;
        self.bytes[got..].fill(0);
        self.start = position;
        Ok(())
    }
}
