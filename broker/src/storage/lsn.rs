//! Places in the journal.

use std::fmt;

/// Number of a journal file's use: grows by at least one each time a file is
/// begun or recycled, so it tells the age of what a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u32);

impl Generation {
    /// Older than every file.
    pub const ZERO: Generation = Generation(0);

    /// The one before; there is none before [`Generation::ZERO`].
    #[must_use]
    pub fn previous(self) -> Generation {
        Generation(self.0.saturating_sub(1))
    }

    /// The next one.
    #[must_use]
    pub fn next(self) -> Generation {
        Generation(
            self.0
                .checked_add(1)
                .expect("2^32 journal files are 256 PiB"),
        )
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Log sequence number: a byte's place in the journal. The upper half is the
/// generation of the file, the lower the position within it, so the order of
/// lsns is the order of writing, and an lsn leads to its file without a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Before everything.
    pub const ZERO: Lsn = Lsn(0);

    /// The place `position` in the file of `generation`.
    pub fn new(generation: Generation, position: u32) -> Lsn {
        Lsn(u64::from(generation.0) << 32 | u64::from(position))
    }

    /// The generation of the file.
    pub fn generation(self) -> Generation {
        Generation(u32::try_from(self.0 >> 32).expect("the upper half of 64 bits"))
    }

    /// The position within the file: bytes.
    pub fn position(self) -> u32 {
        u32::try_from(self.0 & u64::from(u32::MAX)).expect("the lower half of 64 bits")
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.generation(), self.position())
    }
}
