//! What a simulated tree was asked for, what of it is open, and whether it has power.

use std::path::{Path, PathBuf};

use super::SimDir;

impl SimDir {
    /// How many writes and flushes were tried.
    pub(crate) fn changes(&self) -> u64 {
        self.world().changes
    }

    /// How many bytes were read from files.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.world().bytes_read
    }

    /// How many files were opened, but for those created.
    pub(crate) fn opened(&self) -> u64 {
        self.world().opened
    }

    /// How many files are open; one that is open twice counts twice.
    pub(crate) fn open_files(&self) -> usize {
        self.world().open_files()
    }

    /// Whether somebody has a file open.
    pub(crate) fn is_held(&self, path: &Path) -> bool {
        let world = self.world();
        let id = world.names.file(path).expect("a file");
        world.files[&id].is_held()
    }

    /// How many files somebody has open that have no name any more, and so take room.
    pub(crate) fn held_without_a_name(&self) -> usize {
        let world = self.world();
        let linked = world.names.linked();
        let held = world.files.iter().filter(|(_, file)| file.is_held());
        held.filter(|(id, _)| !linked.contains(id)).count()
    }

    /// Takes what the page cache was told to forget: path, first byte, and one past the last.
    pub(crate) fn take_forgotten(&self) -> Vec<(PathBuf, u64, u64)> {
        std::mem::take(&mut self.world().forgotten)
    }

    /// How often the page cache was told so by who had the file open.
    pub(crate) fn forgotten_open(&self) -> u64 {
        self.world().forgotten_open
    }

    /// How often the kernel was asked to begin writing.
    pub(crate) fn writebacks(&self) -> u64 {
        self.world().writebacks
    }

    /// Whether the power is gone.
    pub(crate) fn has_crashed(&self) -> bool {
        self.world().crashed
    }
}
