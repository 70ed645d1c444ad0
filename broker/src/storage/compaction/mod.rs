//! Keeps only the latest record of each key in the sealed segments of a
//! partition, where that is wanted. Offsets stay what they are.
//!
//! A pass notes the latest offset of each key in what no pass has seen yet
//! ([`keys`]), and then goes through the sealed segments from the first on: what
//! has a later record of its key is dropped, the rest is put together to batches
//! ([`merge`]) and segments ([`plan`], [`output`]), which take the place of those
//! they were made of, some at a time ([`swap`]). The order of steps makes a crash
//! at any moment harmless:
//!
//! 1. write a segment under a name that doesn't count, and flush it;
//! 2. give it a name that counts more than those that it replaces, and flush the
//!    directory: from now on every start finds it in their place;
//! 3. let readers find it;
//! 4. remove what it replaced. Who reads there reads on; who was about to, looks
//!    again. What a crash leaves is told by its name, and removed later.
//!
//! Invariants:
//! - A record goes only if a later one with its key lies in a sealed segment, or
//!   it is a tombstone. A tombstone goes only if all older records of its key go
//!   with it or went before: so segments are replaced from the first on, and behind
//!   one that is left as it is no tombstone goes.
//! - What isn't readable yet is not touched, and supersedes nothing.
//! - The segments cover the same offsets as before, without new holes.
//! - A segment with damage is left as it is: what is damaged stays named.
//! - Files are made, renamed and removed only by whoever is the archiver for that
//!   moment; the long work in between holds nothing.

mod codec;
mod input;
mod keys;
mod known;
mod merge;
mod output;
mod pass;
mod plan;
mod rewrite;
mod swap;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

pub use codec::{EncodedRecord, EncodedRecords, MalformedBatch, RecordCodec};

use input::Sealed;
use keys::KeyMap;
use known::Known;
use pass::{Halt, Pass};

use super::Storage;
use super::archiver::{ArchiveError, Pace};
use super::log::PartitionLog;
use super::segment::SegmentName;
use crate::limits;
use crate::model::{Offset, PartitionId};

/// How a partition is compacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactionConfig {
    /// A tombstone stays for so long after the pass that removed what it deletes,
    /// for readers that had read that: milliseconds.
    pub tombstone_grace_ms: u64,
    /// A pass pays when so much of what is in sealed segments was written since
    /// the last one: percent of the bytes.
    pub min_dirty_percent: u8,
    /// It pays from so much on, whatever share that is: bytes.
    pub max_dirty_bytes: u64,
}

/// A partition that is to be compacted.
#[derive(Debug)]
pub struct PartitionCompaction {
    /// The partition.
    pub log: Arc<PartitionLog>,
    /// How.
    pub config: CompactionConfig,
}

/// What a pass did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct CompactionSummary {
    /// Bytes that were read, some of them twice.
    pub read_bytes: u64,
    /// Bytes of the segments that were written.
    pub written_bytes: u64,
    /// Segments that were replaced.
    pub replaced_segments: u64,
    /// Records that were dropped.
    pub dropped_records: u64,
    /// There were more keys than fit into memory: another pass goes on.
    pub has_more: bool,
}

/// Why compaction stopped. Nothing is lost.
#[derive(Debug, thiserror::Error)]
pub enum CompactionError {
    /// Reading, or removing what was replaced, failed. It is tried again.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Writing failed: for want of space, which heals, or for good.
    #[error(transparent)]
    Write(#[from] ArchiveError),
}

/// What compaction keeps between passes.
#[derive(Debug)]
pub struct Compactor {
    codec: Arc<dyn RecordCodec>,
    /// Random and secret: nobody outside can make keys that are taken for others.
    seed: u128,
    /// Memory for keys: bytes.
    key_bytes: usize,
    known: HashMap<PartitionId, Known>,
}

impl Compactor {
    /// A compactor of records that `codec` understands.
    pub fn new(codec: Arc<dyn RecordCodec>, seed: u128) -> Compactor {
        Compactor::with_key_bytes(codec, seed, limits::COMPACTION_KEY_BYTES)
    }

    /// As [`Compactor::new`], with so much memory for keys: bytes.
    pub fn with_key_bytes(codec: Arc<dyn RecordCodec>, seed: u128, key_bytes: usize) -> Compactor {
        Compactor {
            codec,
            seed,
            key_bytes,
            known: HashMap::new(),
        }
    }

    /// Forgets all partitions but these.
    pub fn retain(&mut self, partitions: impl Iterator<Item = PartitionId>) {
        let kept: HashSet<PartitionId> = partitions.collect();
        self.known.retain(|id, _| kept.contains(id));
    }
}

impl Storage {
    /// Compacts the sealed segments of a partition if that pays; `None` when it
    /// doesn't. What is left undone, since the segments changed meanwhile or the
    /// broker stops, is done by a later call. Blocks.
    pub fn compact(
        &self,
        compactor: &mut Compactor,
        partition: &PartitionCompaction,
        clock: &dyn Fn() -> i64,
        pace: &dyn Pace,
    ) -> Result<Option<CompactionSummary>, CompactionError> {
        let log = partition.log.as_ref();
        let known = compactor.known.entry(log.id()).or_default();
        let active = {
            let state = log.lock();
            state.active.map(|active| active.base_offset)
        };
        if self.failure().is_some() || active.is_none() || known.idle_since == active {
            return Ok(None);
        }
        if !self.prepare_to_compact(log)? {
            return Ok(None);
        }
        let high_watermark = log.high_watermark();
        let Some(mut segments) = self.look_at_sealed(log, known)? else {
            return Ok(None);
        };
        // The archiver may be ahead of what is published: a reader must not miss
        // what is superseded by a record that it can't see yet.
        let sealed = segments.len();
        segments.retain(|segment| segment.state.next_offset <= high_watermark);
        if !plan::is_due(&segments, &partition.config) {
            known.idle_since = active.filter(|_| segments.len() == sealed);
            return Ok(None);
        }
        let pass = Pass {
            storage: self,
            log,
            codec: compactor.codec.as_ref(),
            config: partition.config,
            known,
            pace,
            keys: KeyMap::new(compactor.key_bytes, compactor.seed),
            noted_to: Offset::ZERO,
            summary: CompactionSummary::default(),
            unpaused: 0,
            room: Vec::new(),
        };
        match pass.run(segments, clock) {
            Ok(summary) => Ok(Some(summary)),
            Err(Halt::GivenUp) => Ok(None),
            Err(Halt::Failed(error)) => Err(error),
        }
    }

    /// Removes what a crash left behind. Says whether compaction may begin: not
    /// while segments that retention removed could come back with a crash, or have come
    /// back and could count again if the checkpoint is lost, since their records would
    /// then come back without the tombstones behind them.
    fn prepare_to_compact(&self, log: &PartitionLog) -> Result<bool, CompactionError> {
        let may_begin = {
            let mut archiver = self.archiver();
            let deleted = log.lock().deleted;
            if !deleted {
                archiver.look_and_sweep(self.dir.as_ref(), log.id())?;
                self.find_left_behind(log, &mut archiver)?;
            }
            !deleted && !archiver.expires(log.id())
        };
        self.remove_doomed()?;
        Ok(may_begin)
    }

    /// The sealed segments that are not known to be damaged; `None` when they
    /// change at this moment.
    fn look_at_sealed(
        &self,
        log: &PartitionLog,
        known: &mut Known,
    ) -> io::Result<Option<Vec<Sealed>>> {
        let (names, _) = self.segments_of(log)?;
        known.damaged.retain(|name| names.contains(name));
        let mut segments = Vec::with_capacity(names.len());
        let mut behind_damage = false;
        for name in names {
            let found = match known.damaged.contains(&name) {
                true => None,
                false => match self.look_at(log, name)? {
                    Look::Gone => return Ok(None),
                    Look::Damaged => None,
                    Look::Sound(sealed) => Some(sealed),
                },
            };
            match found {
                Some(sealed) => segments.push(Sealed {
                    behind_damage,
                    ..sealed
                }),
                None => {
                    known.damaged.insert(name);
                    behind_damage = true;
                }
            }
        }
        Ok(Some(segments))
    }

    fn look_at(&self, log: &PartitionLog, name: SegmentName) -> io::Result<Look> {
        match Sealed::look(self.dir.as_ref(), log.id(), name) {
            Ok(Some(sealed)) => Ok(Look::Sound(sealed)),
            Ok(None) => Ok(Look::Damaged),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(match log.lock().has_segment(name) {
                    true => Look::Damaged,
                    false => Look::Gone,
                })
            }
            Err(error) => Err(error),
        }
    }
}

/// What a sealed segment looks like from outside.
enum Look {
    Sound(Sealed),
    Damaged,
    /// Retention removed it just now.
    Gone,
}
