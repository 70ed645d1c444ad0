//! What an inspection found.

use std::fmt;

use crate::model::{Offset, PartitionId};
use crate::storage::lsn::{Generation, Lsn};

/// What an inspection found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Every file that was looked at, and files that should be there.
    pub files: Vec<InspectedFile>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectedFile {
    /// Relative to the data directory, or as it was given.
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// Its size in bytes.
    pub bytes: u64,
    /// Whose records it has, if those of one partition.
    pub partition: Option<PartitionId>,
    /// The offsets that it covers: first, and one past the last.
    pub offsets: Option<(Offset, Offset)>,
    /// Valid batches in it.
    pub batches: u64,
    /// Records in those.
    pub records: u64,
    /// Everything that is not as it was written.
    pub damage: Vec<Damage>,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// What the data directory says of itself.
    Identity,
    /// What is in segments.
    Checkpoint,
    /// What is known of producers.
    Producers,
    /// A journal file with frames that are not in segments yet.
    Journal(Generation),
    /// A journal file that waits to be used, or used again.
    SpareJournal,
    /// A segment that never changes again.
    SealedSegment,
    /// A segment that compaction made in the place of others.
    CompactedSegment,
    /// A segment that is being filled.
    ActiveSegment,
    /// A segment that nothing refers to: an archiver pass, a compaction or a
    /// deletion was interrupted. It is overwritten or removed in time.
    UnusedSegment,
    /// The index of a segment.
    Index,
    /// An index that doesn't fit its segment. No damage, as a crash may leave
    /// one: it is made again when it is needed.
    UnfitIndex,
    /// Nothing that a data directory holds.
    Unknown,
}

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// The file is missing.
    Missing,
    /// The whole file is not what its name says.
    Unreadable,
    /// The file's header is damaged, or of another file.
    Header,
    /// The footer is missing or damaged.
    Footer,
    /// These bytes hold no batch.
    Bytes {
        /// The first one.
        from: u64,
        /// One past the last one.
        to: u64,
    },
    /// The payload of a batch is damaged.
    Payload {
        /// Where the batch begins: bytes.
        position: u64,
        /// Its first offset.
        from: Offset,
        /// One past its last offset.
        to: Offset,
    },
    /// Offsets that no batch covers.
    Offsets {
        /// Of this partition.
        partition: PartitionId,
        /// The first one.
        from: Offset,
        /// One past the last one.
        to: Offset,
    },
    /// The file ends before it should.
    Short {
        /// How long it should be: bytes.
        expected: u64,
    },
    /// What is written down of the segment is not what is in it.
    Summary,
    /// It is older than the checkpoint.
    Outdated,
    /// A place in the journal that holds no valid frame.
    Frames {
        /// The first byte.
        from: Lsn,
        /// One past the last.
        to: Lsn,
    },
}

impl Inspection {
    /// Whether everything is as it was written.
    pub fn is_sound(&self) -> bool {
        self.files.iter().all(|file| file.damage.is_empty())
    }
}

impl InspectedFile {
    /// A file about which nothing else is known yet.
    pub(super) fn new(path: String, kind: FileKind, bytes: u64) -> InspectedFile {
        InspectedFile {
            path,
            kind,
            bytes,
            partition: None,
            offsets: None,
            batches: 0,
            records: 0,
            damage: Vec::new(),
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FileKind::Identity => "identity",
            FileKind::Checkpoint => "checkpoint",
            FileKind::Producers => "producers",
            FileKind::Journal(generation) => return write!(f, "journal {generation}"),
            FileKind::SpareJournal => "spare journal",
            FileKind::SealedSegment => "sealed segment",
            FileKind::CompactedSegment => "compacted segment",
            FileKind::ActiveSegment => "active segment",
            FileKind::UnusedSegment => "unused segment",
            FileKind::Index => "index",
            FileKind::UnfitIndex => "unfit index",
            FileKind::Unknown => "unknown file",
        })
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Missing => write!(f, "the file is missing"),
            Damage::Unreadable => write!(f, "not what its name says"),
            Damage::Header => write!(f, "the header is damaged or another file's"),
            Damage::Footer => write!(f, "the footer is missing or damaged"),
            Damage::Bytes { from, to } => write!(f, "bytes {from} to {to} hold no batch"),
            Damage::Payload { position, from, to } => write!(
                f,
                "the batch at byte {position}, offsets {from} to {to}, is damaged"
            ),
            Damage::Offsets {
                partition,
                from,
                to,
            } => write!(f, "partition {partition} lacks offsets {from} to {to}"),
            Damage::Short { expected } => write!(f, "shorter than {expected} bytes"),
            Damage::Summary => write!(f, "what is noted of the segment is not what is in it"),
            Damage::Outdated => write!(f, "older than the checkpoint"),
            Damage::Frames { from, to } => write!(f, "from {from} to {to} lies no valid frame"),
        }
    }
}
