//! The checkpoint: up to where the journal has been archived, and what the
//! segments of each partition hold at that point.
//!
//! Recovery takes segments to be exactly as long as the checkpoint says: what
//! lies beyond was written by an archiver pass that didn't finish, and is in
//! the journal still. Written to a new file that replaces the old one, so there
//! is always one that is whole.

use std::io;
use std::path::Path;

use super::dir::Dir;
use super::lsn::Generation;
use super::segment::SegmentState;
use crate::model::{Offset, PartitionId};

/// Name of the file.
pub(super) const FILE: &str = "checkpoint";
const NEW_FILE: &str = "checkpoint.new";

/// "SCP" and the format version, 1.
const MAGIC: u32 = u32::from_le_bytes(*b"SCP\x01");

/// What is in segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The journal files up to this one, and all before, are in segments.
    pub archived: Generation,
    /// Every partition that has anything in segments, or had.
    pub partitions: Vec<CheckpointEntry>,
}

/// One partition in a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointEntry {
    /// The partition.
    pub partition: PartitionId,
    /// Offset of the oldest record that is kept.
    pub log_start: Offset,
    /// One past the last offset that was given out up to this checkpoint. It
    /// lies behind the segments' end when the last offsets were lost to damage.
    pub archived_end: Offset,
    /// The active segment, if there is one.
    pub active: Option<SegmentState>,
    /// The snapshot of producers has something of the partition.
    pub has_producers: bool,
}

// Bits of the byte that says what there is.
const HAS_ACTIVE: u8 = 1;
const HAS_PRODUCERS: u8 = 2;

/// What was found where the checkpoint lies.
#[derive(Debug)]
pub enum Loaded {
    /// A valid one.
    Checkpoint(Checkpoint),
    /// None at all.
    Missing,
    /// One that isn't what was written.
    Damaged,
}

impl Checkpoint {
    /// Size of what comes before the entries: bytes.
    pub(super) const HEADER_LEN: usize = 20;

    /// Size of an entry: bytes.
    pub(super) const ENTRY_LEN: usize = 4 + 8 + 8 + 1 + SegmentState::ENCODED_LEN;

    /// Reads the checkpoint of a data directory.
    pub fn load(dir: &dyn Dir) -> io::Result<Loaded> {
        let file = match dir.open(Path::new(FILE)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::Missing),
            Err(error) => return Err(error),
        };
        let len = usize::try_from(file.len()?).expect("a checkpoint fits in memory");
        let mut bytes = vec![0; len];
        let read = file.read_salvaging(&mut bytes, 0)?;
        Ok(Self::decode(&bytes[..read]).map_or(Loaded::Damaged, Loaded::Checkpoint))
    }

    /// Replaces the checkpoint of a data directory; durable on return.
    pub fn store(&self, dir: &dyn Dir) -> io::Result<()> {
        // One may be left from a crash.
        match dir.remove(Path::new(NEW_FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = dir.create(Path::new(NEW_FILE))?;
        file.write_all_at(&self.encode(), 0)?;
        file.sync_data()?;
        dir.rename(Path::new(NEW_FILE), Path::new(FILE))?;
        // From here on, which of the two is on disk is open. Whatever the error
        // is, a later attempt can't make it good.
        dir.sync_dir(Path::new("")).map_err(|error| {
            io::Error::other(format!("the checkpoint was replaced, but then: {error}"))
        })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out =
            Vec::with_capacity(Self::HEADER_LEN + self.partitions.len() * Self::ENTRY_LEN);
        let count = u64::try_from(self.partitions.len()).expect("ids are 32 bits");
        out.extend(MAGIC.to_le_bytes());
        out.extend([0; 4]);
        out.extend(self.archived.0.to_le_bytes());
        out.extend(count.to_le_bytes());
        for entry in &self.partitions {
            out.extend(entry.partition.0.to_le_bytes());
            out.extend(entry.log_start.0.to_le_bytes());
            out.extend(entry.archived_end.0.to_le_bytes());
            let active = entry.active.map_or(0, |_| HAS_ACTIVE);
            let producers = if entry.has_producers {
                HAS_PRODUCERS
            } else {
                0
            };
            out.push(active | producers);
            match &entry.active {
                Some(segment) => out.extend(segment.encode()),
                None => out.extend([0; SegmentState::ENCODED_LEN]),
            }
        }
        let crc = crc32fast::hash(&out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Checkpoint> {
        let u32_at = |at: usize| {
            bytes
                .get(at..)?
                .first_chunk()
                .copied()
                .map(u32::from_le_bytes)
        };
        let u64_at = |at: usize| {
            bytes
                .get(at..)?
                .first_chunk()
                .copied()
                .map(u64::from_le_bytes)
        };
        if u32_at(0)? != MAGIC || u32_at(4)? != crc32fast::hash(bytes.get(8..)?) {
            return None;
        }
        let archived = Generation(u32_at(8)?);
        let count = usize::try_from(u64_at(12)?).ok()?;
        let entries = bytes.get(Self::HEADER_LEN..)?;
        if entries.len() != count.checked_mul(Self::ENTRY_LEN)? {
            return None;
        }
        let partitions = entries
            .chunks_exact(Self::ENTRY_LEN)
            .map(decode_entry)
            .collect::<Option<_>>()?;
        Some(Checkpoint {
            archived,
            partitions,
        })
    }
}

fn decode_entry(bytes: &[u8]) -> Option<CheckpointEntry> {
    let (partition, bytes) = bytes.split_first_chunk()?;
    let (log_start, bytes) = bytes.split_first_chunk()?;
    let (archived_end, bytes) = bytes.split_first_chunk()?;
    let (there_is, bytes) = bytes.split_first()?;
    let active = match there_is & HAS_ACTIVE {
        0 => None,
        _ => Some(SegmentState::decode(bytes.first_chunk()?)),
    };
    Some(CheckpointEntry {
        partition: PartitionId(u32::from_le_bytes(*partition)),
        log_start: Offset(u64::from_le_bytes(*log_start)),
        archived_end: Offset(u64::from_le_bytes(*archived_end)),
        active,
        has_producers: there_is & HAS_PRODUCERS != 0,
    })
}
