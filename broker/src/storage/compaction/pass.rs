//! One pass over the sealed segments of a partition: its first half, which notes
//! the keys, and what both halves need.

use std::io;

use super::codec::RecordCodec;
use super::input::{Input, Sealed, Step, records};
use super::keys::{Full, KeyMap};
use super::known::Known;
use super::merge::is_opaque;
use super::{CompactionConfig, CompactionError, CompactionSummary, plan};
use crate::model::{BatchHeader, Offset};
use crate::storage::Storage;
use crate::storage::archiver::Pace;
use crate::storage::log::PartitionLog;

/// What is read or written between pauses: bytes.
pub(super) const PIECE: usize = if cfg!(test) { 1 << 10 } else { 512 << 10 };

/// Why a pass ended early.
#[derive(Debug)]
pub(super) enum Halt {
    /// Nothing is wrong: the segments have changed, or the broker stops.
    GivenUp,
    Failed(CompactionError),
}

impl From<io::Error> for Halt {
    fn from(error: io::Error) -> Halt {
        Halt::Failed(error.into())
    }
}

/// A pass that is under way.
pub(super) struct Pass<'a> {
    pub(super) storage: &'a Storage,
    pub(super) log: &'a PartitionLog,
    pub(super) codec: &'a dyn RecordCodec,
    pub(super) config: CompactionConfig,
    pub(super) known: &'a mut Known,
    pub(super) pace: &'a dyn Pace,
    /// The latest offset of each key in the dirty part, as far as `noted_to`.
    pub(super) keys: KeyMap,
    pub(super) noted_to: Offset,
    pub(super) summary: CompactionSummary,
    /// Bytes that were read since the last pause.
    pub(super) unpaused: usize,
    /// Where compressed batches are unpacked.
    pub(super) room: Vec<u8>,
}

/// What became of a segment whose keys were to be noted.
enum Noted {
    All,
    /// There was no room for the key of this record.
    UpTo(Offset),
    Damaged,
}

impl Pass<'_> {
    /// Runs the pass over all sealed segments that are sound.
    pub(super) fn run(
        mut self,
        mut segments: Vec<Sealed>,
        clock: &dyn Fn() -> i64,
    ) -> Result<CompactionSummary, Halt> {
        self.note_keys(&mut segments)?;
        self.rewrite(&mut segments, clock())?;
        self.known.note_pass(self.noted_to, clock());
        Ok(self.summary)
    }

    /// Notes the keys of the dirty part, as far as there is room.
    fn note_keys(&mut self, segments: &mut Vec<Sealed>) -> Result<(), Halt> {
        let Some(from) = plan::dirty_from(segments) else {
            return Ok(());
        };
        let mut index = segments.partition_point(|one| one.state.next_offset <= from);
        while let Some(segment) = segments.get(index) {
            self.noted_to = segment.state.next_offset;
            match self.note_keys_of(segment, from)? {
                Noted::All => index += 1,
                Noted::Damaged => self.leave(segments, index),
                Noted::UpTo(offset) => {
                    self.noted_to = offset;
                    self.summary.has_more = true;
                    break;
                }
            }
        }
        Ok(())
    }

    fn note_keys_of(&mut self, segment: &Sealed, from: Offset) -> Result<Noted, Halt> {
        let mut input = self.open(segment)?;
        loop {
            let header = match input.step()? {
                Step::Batch(header) => header,
                Step::End => return Ok(Noted::All),
                Step::Damaged => return Ok(Noted::Damaged),
            };
            if header.next_offset() > from && !is_opaque(&header) {
                let Ok(unpacked) = self.codec.unpack(input.payload(&header)?, &mut self.room)
                else {
                    return Ok(Noted::Damaged);
                };
                for placed in records(self.codec, &header, unpacked) {
                    let Ok((offset, record)) = placed else {
                        return Ok(Noted::Damaged);
                    };
                    let key = record.key.filter(|_| offset >= from);
                    if key.is_some_and(|key| self.keys.note(key, offset) == Err(Full)) {
                        return Ok(Noted::UpTo(offset));
                    }
                }
            }
            self.did_read(&header)?;
        }
    }

    /// Leaves a segment as it is, from now on.
    pub(super) fn leave(&mut self, segments: &mut Vec<Sealed>, index: usize) {
        self.known.damaged.insert(segments.remove(index).name);
        for behind in &mut segments[index..] {
            behind.behind_damage = true;
        }
    }

    pub(super) fn open(&self, segment: &Sealed) -> Result<Input, Halt> {
        match Input::open(self.storage.dir.as_ref(), self.log.id(), segment) {
            Ok(input) => Ok(input),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // It was there a moment ago.
                Err(match self.log.lock().has_segment(segment.name) {
                    true => error.into(),
                    false => Halt::GivenUp,
                })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A batch was read: pauses now and then.
    pub(super) fn did_read(&mut self, header: &BatchHeader) -> Result<(), Halt> {
        self.summary.read_bytes += header.batch_len() as u64;
        self.unpaused += header.batch_len();
        if self.unpaused < PIECE {
            return Ok(());
        }
        self.pause()
    }

    /// Whatever failed, nothing is written after it.
    pub(super) fn check_unfailed(&self) -> Result<(), Halt> {
        match self.storage.failure() {
            None => Ok(()),
            Some(_) => Err(Halt::GivenUp),
        }
    }

    /// Lets others go first; ends the pass when the broker stops.
    pub(super) fn pause(&mut self) -> Result<(), Halt> {
        self.unpaused = 0;
        self.pace.pause();
        match self.pace.is_over() {
            true => Err(Halt::GivenUp),
            false => Ok(()),
        }
    }
}
