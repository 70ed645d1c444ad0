//! The checkpoint: up to where the journal has been archived, and what the
//! segments of each partition hold at that point.
//!
//! Recovery takes segments to be exactly as long as the checkpoint says: what
//! lies beyond was written by an archiver pass that didn't finish, and is in
//! the journal still. Written to a new file that replaces the old one, so there
//! is always one that is whole.
//!
//! The new file is there beforehand and has all the blocks that it needs: on a
//! full disk nothing can be removed before the checkpoint says so. What the old
//! one leaves free when it is replaced makes the next.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::dir::{Dir, File, PAGE, is_full, is_passing};
use super::lsn::Generation;
use super::segment::SegmentState;
use crate::model::{Offset, PartitionId};

/// Name of the file.
pub(super) const FILE: &str = "checkpoint";
const NEW_FILE: &str = "checkpoint.new";

/// What file systems hand out: bytes.
const BLOCK: u64 = PAGE as u64;

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

    /// Replaces the checkpoint of a data directory; durable on return. On a full
    /// disk a checkpoint that isn't larger than the one before is still stored.
    pub fn store(&self, dir: &dyn Dir) -> io::Result<()> {
        let mut bytes = self.encode();
        let len = bytes.len() as u64;
        let file = open_new(dir)?;
        claim(dir, file.as_ref(), len)?;
        // All of the last page: what is there was never flushed, and may not even be
        // readable.
        bytes.resize(bytes.len().next_multiple_of(PAGE), 0);
        file.write_all_at(&bytes, 0)?;
        file.set_len(len)?;
        file.sync_data()?;
        dir.rename(Path::new(NEW_FILE), Path::new(FILE))?;
        // From here on, which of the two is on disk is open. Whatever the error
        // is, a later attempt can't make it good.
        dir.sync_dir(Path::new("")).map_err(|error| {
            io::Error::other(format!("the checkpoint was replaced, but then: {error}"))
        })?;
        keep_room(dir)
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

/// Keeps room for a checkpoint as large as the one that is there, as far as there
/// is some. More is tried when it is needed.
pub(super) fn keep_room(dir: &dyn Dir) -> io::Result<()> {
    let keep = || extend(open_new(dir)?.as_ref(), room_for(len_of_current(dir)?));
    match keep() {
        Err(error) if !is_passing(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Makes sure, before anything is changed, that there is room for a checkpoint
/// of `len` bytes and then for one more: what is cut off the new file and the
/// old file together make the next.
fn claim(dir: &dyn Dir, new: &dyn File, len: u64) -> io::Result<()> {
    let needed = (2 * len).saturating_sub(len_of_current(dir)?).max(len);
    if new.len()? >= needed {
        return Ok(());
    }
    match extend(new, room_for(needed)) {
        Err(error) if is_full(&error) && new.len()? >= needed => Ok(()),
        claimed => claimed,
    }
}

/// Rounded up: two files never take more blocks than one of both their sizes,
/// and one more.
fn room_for(len: u64) -> u64 {
    len.next_multiple_of(BLOCK) + BLOCK
}

fn extend(file: &dyn File, to: u64) -> io::Result<()> {
    let len = file.len()?;
    if len >= to {
        return Ok(());
    }
    // What the last page holds means nothing.
    let from = len / BLOCK * BLOCK;
    let missing = usize::try_from(to - from).expect("a checkpoint fits in memory");
    file.write_all_at(&vec![0; missing], from)
}

fn open_new(dir: &dyn Dir) -> io::Result<Arc<dyn File>> {
    match dir.open(Path::new(NEW_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => dir.create(Path::new(NEW_FILE)),
        opened => opened,
    }
}

fn len_of_current(dir: &dyn Dir) -> io::Result<u64> {
    match dir.open(Path::new(FILE)) {
        Ok(file) => file.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
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
