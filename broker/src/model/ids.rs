//! Ids and offsets as types of their own, so that they can't be mixed up.

use std::fmt;

/// A partition of this data directory. Assigned once, never reused: files are
/// named by it. Not the number of a partition within its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PartitionId(pub u32);

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A topic, as long as it lives. Never reused, other than its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub u64);

/// The logical place of a record in its partition. Ranges are half-open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset(pub u64);

impl Offset {
    /// The first offset of every partition.
    pub const ZERO: Offset = Offset(0);

    /// The offset behind this one; nothing behind the last that there can be.
    pub fn checked_next(self) -> Option<Offset> {
        self.0.checked_add(1).map(Offset)
    }

    /// The offset `count` records further on.
    ///
    /// Panics on overflow, which takes longer to reach than the sun has left.
    #[must_use]
    pub fn advanced(self, count: u64) -> Offset {
        Offset(self.0.checked_add(count).expect("offsets fit in 64 bits"))
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
