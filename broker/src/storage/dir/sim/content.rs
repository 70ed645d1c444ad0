//! The contents of one simulated file: what programs see, what the disk has,
//! and which sectors differ.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::PAGE;
use super::rng::SimRng;

/// What a disk writes as one.
pub(crate) const SECTOR: usize = 512;

/// Lengths that a crash may leave are remembered up to this many.
const LENGTHS_KEPT: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Content {
    /// What reads see: the page cache.
    cached: Vec<u8>,
    /// What the disk has. May reach beyond `durable_len`: data can arrive
    /// before the length that covers it.
    durable: Vec<u8>,
    durable_len: usize,
    /// Sectors written since the last flush.
    dirty: BTreeSet<usize>,
    /// Lengths the file had since the last flush.
    lengths: Vec<usize>,
    /// Bytes that there is room for beyond the end, if any.
    room: usize,
    /// Sectors that can't be read until the whole page is written.
    bad: BTreeSet<usize>,
    /// One clone per open handle: an unlinked file is freed with the last one.
    pub(super) handles: Arc<()>,
}

impl Content {
    pub(super) fn len(&self) -> usize {
        self.cached.len()
    }

    /// How many handles of it are open.
    pub(super) fn holders(&self) -> usize {
        Arc::strong_count(&self.handles) - 1
    }

    /// What it takes of the disk: bytes.
    pub(super) fn room(&self) -> usize {
        self.room.max(self.len())
    }

    pub(super) fn take_room(&mut self, to: usize) {
        self.room = self.room.max(to);
    }

    pub(super) fn is_held(&self) -> bool {
        self.holders() > 0
    }

    pub(super) fn read(&self, buf: &mut [u8], position: usize) -> usize {
        let Some(rest) = self.cached.get(position..) else {
            return 0;
        };
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        len
    }

    /// Whether a read of this range fails.
    pub(super) fn is_bad(&self, position: usize, len: usize) -> bool {
        let sectors = position / SECTOR..(position + len).div_ceil(SECTOR);
        self.bad.range(sectors).next().is_some()
    }

    pub(super) fn make_bad(&mut self, sector: usize) {
        self.bad.insert(sector);
    }

    /// How much of a write of `len` bytes can be done: a page that is only written in
    /// part is read first, and what is on a bad sector can't be.
    pub(super) fn writable(&self, position: usize, len: usize) -> usize {
        let end = position + len;
        for page in position / PAGE..end.div_ceil(PAGE) {
            let (from, to) = (page * PAGE, (page + 1) * PAGE);
            let is_whole = position <= from && to <= end;
            if !is_whole && self.is_bad(from, PAGE) {
                return from.saturating_sub(position);
            }
        }
        len
    }

    /// Whether the file can end at `len` instead: what is behind the end of the last
    /// page is cleared, which takes reading it.
    pub(super) fn can_end_at(&self, len: usize) -> bool {
        let is_clear =
            |end: usize| end.is_multiple_of(PAGE) || !self.is_bad(end / PAGE * PAGE, PAGE);
        len == self.cached.len() || (is_clear(len.min(self.cached.len())))
    }

    pub(super) fn write(&mut self, bytes: &[u8], position: usize, rng: &mut SimRng) {
        if bytes.is_empty() {
            return;
        }
        let end = position + bytes.len();
        for sector in position / SECTOR..end.div_ceil(SECTOR) {
            self.bad.remove(&sector);
            // The older contents of a sector may have been written back
            // before it was written again.
            if !self.dirty.insert(sector) && rng.one_in(4) {
                self.write_back(sector);
            }
        }
        if end > self.cached.len() {
            self.extend(end);
        }
        self.cached[position..end].copy_from_slice(bytes);
    }

    pub(super) fn set_len(&mut self, len: usize) {
        self.room = 0;
        if len > self.cached.len() {
            self.extend(len);
        } else if len < self.cached.len() {
            self.dirty
                .extend(len / SECTOR..self.cached.len().div_ceil(SECTOR));
            self.cached.truncate(len);
            // What lies behind is nobody's any more.
            self.bad
                .split_off(&len.next_multiple_of(PAGE).div_euclid(SECTOR));
            self.remember_len();
        }
    }

    fn extend(&mut self, len: usize) {
        // The gap reads as zeros now, and is one more thing a crash can lose.
        self.dirty
            .extend(self.cached.len() / SECTOR..len.div_ceil(SECTOR));
        self.cached.resize(len, 0);
        self.remember_len();
    }

    fn remember_len(&mut self) {
        if self.lengths.len() == LENGTHS_KEPT {
            self.lengths.remove(LENGTHS_KEPT / 2);
        }
        self.lengths.push(self.cached.len());
    }

    pub(super) fn sync(&mut self) {
        for sector in std::mem::take(&mut self.dirty) {
            self.write_back(sector);
        }
        self.durable.truncate(self.cached.len());
        self.durable.resize(self.cached.len(), 0);
        self.durable_len = self.cached.len();
        self.lengths.clear();
    }

    /// A flush that failed: some sectors arrived, and all are marked clean, so
    /// that the next flush returns `Ok` without writing them (ext4 after EIO).
    pub(super) fn fail_sync(&mut self, rng: &mut SimRng) {
        for sector in std::mem::take(&mut self.dirty) {
            if rng.one_in(2) {
                self.write_back(sector);
            }
        }
        self.durable_len = self.arbitrary_len(rng);
        if self.durable.len() < self.durable_len {
            self.durable.resize(self.durable_len, 0);
        }
        self.lengths.clear();
    }

    /// The file as a power cut leaves it.
    pub(super) fn crashed(&self, rng: &mut SimRng) -> Content {
        let len = self.arbitrary_len(rng);
        let mut left = self.durable[..self.durable_len.min(len)].to_vec();
        left.resize(len, 0);
        for &sector in &self.dirty {
            let start = sector * SECTOR;
            if start >= len {
                break;
            }
            let end = (start + SECTOR).min(len);
            if rng.one_in(2) {
                copy_or_zero(&self.cached, &mut left[start..end], start);
            } else if end > self.durable_len {
                // Never written: what the disk had there before, which is
                // often zeros, sometimes an early write-back, sometimes another
                // file's bytes.
                let start = start.max(self.durable_len);
                match rng.below(8) {
                    0 => rng.fill(&mut left[start..end]),
                    1 | 2 => copy_or_zero(&self.durable, &mut left[start..end], start),
                    _ => {}
                }
            }
        }
        Content {
            cached: left.clone(),
            durable: left,
            durable_len: len,
            bad: self.bad.clone(),
            ..Content::default()
        }
    }

    /// The flushed length, one the file had since, or one between.
    fn arbitrary_len(&self, rng: &mut SimRng) -> usize {
        if self.lengths.is_empty() {
            return self.durable_len;
        }
        let choice = rng.index(self.lengths.len() + 2);
        if let Some(len) = self.lengths.get(choice) {
            return *len;
        }
        if choice == self.lengths.len() {
            return self.durable_len;
        }
        let all = self.lengths.iter().copied().chain([self.durable_len]);
        let lowest = all.clone().min().unwrap_or_default();
        let highest = all.max().unwrap_or_default();
        lowest + rng.index(highest - lowest + 1)
    }

    fn write_back(&mut self, sector: usize) {
        let start = sector * SECTOR;
        let end = (start + SECTOR).min(self.cached.len());
        if start >= end {
            return;
        }
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        self.durable[start..end].copy_from_slice(&self.cached[start..end]);
    }

    /// Changes bytes on the disk and in the cache, as rot does between runs.
    pub(super) fn damage(&mut self, position: usize, change: impl Fn(&mut u8)) {
        for bytes in [&mut self.cached, &mut self.durable] {
            if let Some(byte) = bytes.get_mut(position) {
                change(byte);
            }
        }
    }
}

fn copy_or_zero(from: &[u8], to: &mut [u8], position: usize) {
    let rest = from.get(position..).unwrap_or_default();
    let len = rest.len().min(to.len());
    to[..len].copy_from_slice(&rest[..len]);
    to[len..].fill(0);
}
