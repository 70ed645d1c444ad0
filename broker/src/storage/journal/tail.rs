//! The tail cache: the newest end of the journal, still in memory. Live readers
//! get slices of the very buffers that were written, so a thousand of them
//! share one copy.
//!
//! Invariants: writes are kept in the order of their lsns without overlaps; the
//! oldest go first; `held` is the sum of their lengths.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

use crate::storage::lsn::Lsn;

/// Buffers are made for at least this many bytes, so that many small writes
/// share one.
const BUFFER_BYTES: usize = 1 << 20;

/// One write to the journal.
#[derive(Debug)]
struct TailWrite {
    start: Lsn,
    bytes: Bytes,
}

/// The last writes to the journal, bounded by bytes and by number.
#[derive(Debug)]
pub struct TailCache {
    max_bytes: usize,
    max_writes: usize,
    writes: Mutex<Writes>,
}

#[derive(Debug, Default)]
struct Writes {
    queue: VecDeque<TailWrite>,
    held: usize,
}

impl TailCache {
    /// A cache that holds up to `max_bytes` in up to `max_writes` writes.
    pub fn new(max_bytes: usize, max_writes: usize) -> TailCache {
        TailCache {
            max_bytes,
            max_writes,
            writes: Mutex::default(),
        }
    }

    /// Takes a write that begins at `start`; forgets the oldest beyond the bounds.
    pub fn push(&self, start: Lsn, bytes: Bytes) {
        let mut writes = self.lock();
        if let Some(last) = writes.queue.back() {
            assert!(last.start < start, "the journal is written in order");
        }
        writes.held += bytes.len();
        writes.queue.push_back(TailWrite { start, bytes });
        while writes.held > self.max_bytes || writes.queue.len() > self.max_writes {
            let oldest = writes.queue.pop_front().expect("something is held");
            writes.held -= oldest.bytes.len();
        }
    }

    /// Looks up several ranges under one lock: `visit` gets each range's bytes,
    /// or `None` when they are held no more, and says whether to go on.
    pub fn slices(
        &self,
        ranges: impl Iterator<Item = (Lsn, usize)>,
        mut visit: impl FnMut(Option<Bytes>) -> bool,
    ) {
        let writes = self.lock();
        let mut hint = 0;
        for (lsn, len) in ranges {
            let found = writes.find(lsn, len, &mut hint);
            if !visit(found) {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Writes> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writes {
    /// `hint` is where the last range was found: the next one is often there.
    fn find(&self, lsn: Lsn, len: usize, hint: &mut usize) -> Option<Bytes> {
        if self.queue.front()?.start > lsn {
            return None;
        }
        let holds = |write: &TailWrite| {
            write.start.generation() == lsn.generation()
                && lsn >= write.start
                && (lsn.0 - write.start.0) < write.bytes.len() as u64
        };
        if !self.queue.get(*hint).is_some_and(holds) {
            *hint = self.queue.partition_point(|write| write.start <= lsn) - 1;
        }
        let write = self.queue.get(*hint).filter(|write| holds(write))?;
        let at = (lsn.position() - write.start.position()) as usize;
        (at + len <= write.bytes.len()).then(|| write.bytes.slice(at..at + len))
    }
}

/// Makes the buffers that writes are encoded into. Fresh memory is slow (the
/// kernel clears each page), so a buffer whose slices are all gone is used
/// again.
#[derive(Debug)]
pub(super) struct WriteBuffers {
    current: Buffer,
    /// Oldest first.
    retired: VecDeque<Buffer>,
    retired_bytes: usize,
    max_retired_bytes: usize,
}

#[derive(Debug, Default)]
struct Buffer {
    bytes: BytesMut,
    /// Of the whole allocation.
    capacity: usize,
}

impl WriteBuffers {
    /// Keeps up to about `max_bytes` of used buffers for reuse.
    pub(super) fn new(max_bytes: usize) -> WriteBuffers {
        WriteBuffers {
            current: Buffer::default(),
            retired: VecDeque::new(),
            retired_bytes: 0,
            max_retired_bytes: max_bytes + 2 * BUFFER_BYTES,
        }
    }

    /// An empty buffer with room for `len` bytes. What is written into it is
    /// taken with `split().freeze()`.
    pub(super) fn with_room(&mut self, len: usize) -> &mut BytesMut {
        if self.current.bytes.capacity() < len {
            let next = self
                .reclaim(len)
                .unwrap_or_else(|| Buffer::with_capacity(len.max(BUFFER_BYTES)));
            let old = std::mem::replace(&mut self.current, next);
            self.retired_bytes += old.capacity;
            self.retired.push_back(old);
            while self.retired_bytes > self.max_retired_bytes {
                let oldest = self.retired.pop_front().expect("something is retired");
                self.retired_bytes -= oldest.capacity;
            }
        }
        &mut self.current.bytes
    }

    fn reclaim(&mut self, len: usize) -> Option<Buffer> {
        // The oldest are free first. A look at a few bounds the search when a
        // slow reader holds on to one.
        for index in 0..self.retired.len().min(4) {
            if self.retired[index].bytes.try_reclaim(len) {
                let buffer = self.retired.remove(index)?;
                self.retired_bytes -= buffer.capacity;
                return Some(buffer);
            }
        }
        None
    }
}

impl Buffer {
    fn with_capacity(capacity: usize) -> Buffer {
        Buffer {
            bytes: BytesMut::with_capacity(capacity),
            capacity,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::lsn::Generation;

    fn lsn(generation: u32, position: u32) -> Lsn {
        Lsn::new(Generation(generation), position)
    }

    fn get(cache: &TailCache, lsn: Lsn, len: usize) -> Option<Bytes> {
        let mut found = None;
        cache.slices(std::iter::once((lsn, len)), |bytes| {
            found = bytes;
            true
        });
        found
    }

    #[test]
    fn slices_are_found_by_lsn_until_they_are_pushed_out() {
        let cache = TailCache::new(20, 100);
        cache.push(lsn(1, 4096), Bytes::from_static(b"0123456789"));
        cache.push(lsn(1, 4106), Bytes::from_static(b"abcdefghij"));
        assert_eq!(get(&cache, lsn(1, 4098), 3).as_deref(), Some(&b"234"[..]));
        assert_eq!(
            get(&cache, lsn(1, 4106), 10).as_deref(),
            Some(&b"abcdefghij"[..])
        );
        cache.push(lsn(2, 4096), Bytes::from_static(b"x"));
        assert_eq!(get(&cache, lsn(1, 4098), 3), None);
        assert_eq!(get(&cache, lsn(1, 4110), 2).as_deref(), Some(&b"ef"[..]));
        assert_eq!(get(&cache, lsn(1, 4110), 20), None);
        assert_eq!(get(&cache, lsn(2, 4096), 1).as_deref(), Some(&b"x"[..]));
        assert_eq!(get(&cache, lsn(2, 4097), 1), None);
    }

    #[test]
    fn number_of_writes_is_bounded() {
        let cache = TailCache::new(1000, 2);
        for position in 0..5 {
            cache.push(lsn(1, position), Bytes::from_static(b"x"));
        }
        assert_eq!(get(&cache, lsn(1, 2), 1), None);
        assert!(get(&cache, lsn(1, 3), 1).is_some());
    }

    #[test]
    fn buffer_is_used_again_once_its_slices_are_gone() {
        let mut buffers = WriteBuffers::new(4 << 20);
        let first = buffers.with_room(BUFFER_BYTES);
        first.resize(BUFFER_BYTES, 1);
        let address = first.as_ptr();
        let slice = first.split().freeze();
        assert_ne!(buffers.with_room(BUFFER_BYTES).as_ptr(), address);
        buffers.current.bytes.resize(BUFFER_BYTES, 2);
        drop(buffers.current.bytes.split());
        drop(slice);
        assert_eq!(buffers.with_room(BUFFER_BYTES).as_ptr(), address);
    }
}
