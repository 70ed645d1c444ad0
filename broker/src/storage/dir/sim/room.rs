//! The room that there is on a simulated disk.

use super::content::Content;
use super::{SimDir, World};

impl SimDir {
    /// Bytes that fit; `None`, the default, for no bound. Growing it, or
    /// removing files that nobody has open, heals a full disk.
    pub(crate) fn set_capacity(&self, bytes: Option<u64>) {
        self.world().capacity = bytes;
    }

    /// Leaves room for so many more bytes.
    pub(crate) fn fill_up_to(&self, bytes: u64) {
        let mut world = self.world();
        world.capacity = Some(world.used_bytes() + bytes);
    }

    /// Lets no more files be opened while so many are; `None`, the default, for no bound.
    pub(crate) fn set_most_open(&self, files: Option<usize>) {
        self.world().most_open = files;
    }
}

impl World {
    /// What is removed takes its room until nobody has it open any more.
    pub(super) fn used_bytes(&self) -> u64 {
        let linked = self.names.linked();
        let takes_room = |(id, file): &(&u64, &Content)| linked.contains(id) || file.is_held();
        let files = self.files.iter().filter(takes_room);
        files.map(|(_, file)| file.room() as u64).sum()
    }

    pub(super) fn available_bytes(&self) -> u64 {
        match self.capacity {
            Some(capacity) => capacity.saturating_sub(self.used_bytes()),
            None => u64::MAX,
        }
    }

    /// Writes as much of `buf` as fits on the disk; returns how much that is.
    pub(super) fn write(&mut self, id: u64, buf: &[u8], position: usize) -> usize {
        let had = self.file(id).room();
        let more = usize::try_from(self.available_bytes()).unwrap_or(usize::MAX);
        let room = had.saturating_add(more).saturating_sub(position);
        let fits = buf.len().min(room);
        let file = self.files.get_mut(&id).expect("a handle keeps its file");
        file.write(&buf[..fits], position, &mut self.rng);
        fits
    }

    /// Takes room up to this byte of a file, if there is so much.
    pub(super) fn take_room(&mut self, id: u64, to: usize) {
        let more = to.saturating_sub(self.file(id).room());
        if !self.crashed && more as u64 <= self.available_bytes() {
            self.file(id).take_room(to);
        }
    }
}
