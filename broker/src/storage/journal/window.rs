//! A piece of a journal file in memory, moved along as reading goes on.

use std::io;

use crate::storage::dir::File;

/// Size of the piece when the next bytes are likely to be wanted, too. Small
/// enough to stay in the processor's cache between the copy from the kernel and
/// what is done with it.
pub const WINDOW: usize = 1 << 20;

/// A piece of a file in memory.
#[derive(Debug)]
pub struct Window<'a> {
    file: &'a dyn File,
    len: usize,
    read_ahead: usize,
    start: usize,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    /// A window on the first `len` bytes of a file. A read takes `read_ahead`
    /// bytes, or what is wanted if that is more. `buffer` is used for it.
    pub fn new(file: &'a dyn File, len: usize, read_ahead: usize, buffer: Vec<u8>) -> Window<'a> {
        let mut bytes = buffer;
        bytes.clear();
        Window {
            file,
            len,
            read_ahead,
            start: 0,
            bytes,
        }
    }

    /// Up to `want` bytes at `position`; fewer only at the end of the file.
    pub fn get(&mut self, position: usize, want: usize) -> io::Result<&[u8]> {
        let want = want.min(self.len.saturating_sub(position));
        if position < self.start || position + want > self.start + self.bytes.len() {
            let read = want.max(self.read_ahead).min(self.len - position);
            self.bytes.resize(read, 0);
            let got = self.file.read_at(&mut self.bytes, position as u64)?;
            self.bytes[got..].fill(0);
            self.start = position;
        }
        Ok(&self.bytes[position - self.start..][..want])
    }

    /// Gives the buffer back.
    pub fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }
}
