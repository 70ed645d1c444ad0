//! Gives out offsets: the one place that knows the order of all appends. So it is
//! also here that a batch turns out to be one that was appended before, or one that
//! may not be appended.
//!
//! Invariants:
//! - a unit is placed as a whole, or not at all.
//! - a unit is placed only if its guards hold, whatever was placed before it. One that
//!   lies in the log already is told so, whether they hold or not.
//! - what is refused, and what lies in the log already, leaves no frame and changes
//!   nothing.
//! - what is taken back leaves a partition, its producers included, as it was.

use std::sync::{Arc, MutexGuard};

use bytes::{BufMut, Bytes, BytesMut};

use super::append::ToPlace;
use super::frame::{FRAME_PREFIX_LEN, Frame};
use crate::model::{Offset, PartitionId};
use crate::storage::guards::{KeyConflict, KeyGuard, conflict};
use crate::storage::log::LogState;
use crate::storage::lsn::{Generation, Lsn};
use crate::storage::producers::{Admitted, Incoming, SequenceError, Tally, Undo, admit};
use crate::storage::runs::Run;

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// It has this offset now.
    At(Offset),
    /// It was appended before, at this offset. It may not be durable yet.
    Duplicate(Offset),
    /// Its partition, or that of another append of its unit, was deleted.
    Deleted,
    /// By what it says of who sent it, or another append of its unit says, it may
    /// not be appended.
    Refused(SequenceError),
    /// A guard of its unit doesn't hold.
    Conflict(KeyConflict),
}

/// The file that a group goes to, and what its frames have in common.
pub(super) struct Target<'a> {
    pub(super) generation: Generation,
    pub(super) seed: u32,
    /// Where the first frame goes.
    pub(super) start: Lsn,
    /// Everything before this is durable.
    pub(super) flushed: Lsn,
    /// Milliseconds since the Unix epoch.
    pub(super) now_ms: i64,
    /// Partitions with frames in the file.
    pub(super) touched: &'a mut Vec<PartitionId>,
    pub(super) tally: &'a Arc<Tally>,
}

/// A group while its appends are placed.
pub(super) struct Placing<'a> {
    target: Target<'a>,
    /// Its frames.
    buffer: &'a mut BytesMut,
    placed: Vec<Placed>,
    undo: UndoList,
    /// Where the next frame goes.
    end: Lsn,
}

/// What takes appends with stamps back: with the index of each in its group, in
/// the order of those. Few have stamps, or all have.
type UndoList = Vec<(usize, Undo)>;

/// Frames on their way to the file.
pub(super) struct Encoded {
    pub(super) bytes: Bytes,
    pub(super) placed: Vec<Placed>,
    pub(super) frames: usize,
    /// One past the last frame.
    pub(super) end: Lsn,
    undo: UndoList,
}

impl<'a> Placing<'a> {
    /// Begins to place so many appends.
    pub(super) fn begin(
        target: Target<'a>,
        buffer: &'a mut BytesMut,
        appends: usize,
    ) -> Placing<'a> {
        Placing {
            end: target.start,
            target,
            buffer,
            placed: Vec::with_capacity(appends),
            undo: Vec::new(),
        }
    }

    /// Places a unit, if it can be.
    pub(super) fn unit<A: ToPlace>(&mut self, unit: &[A]) {
        match unit {
            [only] if only.guards().is_empty() => self.alone(only),
            _ => self.all_or_none(unit),
        }
    }

    /// Places an append that nothing else depends on, as nearly all are: its partition
    /// is locked once.
    fn alone<A: ToPlace>(&mut self, append: &A) {
        let state = append.log().lock();
        if state.deleted {
            self.placed.push(Placed::Deleted);
        } else if let Err(error) = self.append(append, state) {
            self.placed.push(Placed::Refused(error));
        }
    }

    fn all_or_none<A: ToPlace>(&mut self, unit: &[A]) {
        let guards = unit.iter().flat_map(ToPlace::guards);
        let logs = unit.iter().map(ToPlace::log);
        let mut logs = logs.chain(guards.clone().map(KeyGuard::log));
        if logs.any(|log| log.lock().deleted) {
            self.placed.extend(unit.iter().map(|_| Placed::Deleted));
            return;
        }
        // Of what was placed before: the unit's own records are no conflict.
        let conflict = conflict(guards).map(Placed::Conflict);
        let (first, bytes, end) = (self.placed.len(), self.buffer.len(), self.end);
        let refused = match self.try_unit(unit) {
            Ok(true) => conflict,
            Ok(false) => None,
            Err(error) => Some(Placed::Refused(error)),
        };
        if let Some(refused) = refused {
            take_back(unit, first, &self.placed[first..], &mut self.undo);
            self.placed.truncate(first);
            self.placed.extend(unit.iter().map(|_| refused));
            self.buffer.truncate(bytes);
            self.end = end;
        }
    }

    /// Places a unit whatever its guards say. False when it lies in the log already.
    fn try_unit<A: ToPlace>(&mut self, unit: &[A]) -> Result<bool, SequenceError> {
        let first = self.placed.len();
        // A partition may be deleted between the look at the unit and now: the frame
        // is still written, for the unit's sake; nobody will read it.
        for append in unit {
            self.append(append, append.log().lock())?;
        }
        let is_new = |placed: &Placed| matches!(placed, Placed::At(_));
        let new = self.placed[first..].iter().filter(|&p| is_new(p)).count();
        match new == 0 || new == unit.len() {
            true => Ok(new > 0),
            false => Err(SequenceError::SplitUnit),
        }
    }

    /// Gives an append its offset, and encodes its frame.
    fn append<A: ToPlace>(
        &mut self,
        append: &A,
        mut state: MutexGuard<'_, LogState>,
    ) -> Result<(), SequenceError> {
        let target = &mut self.target;
        let (partition, checked) = (append.log().id(), append.batch());
        let base_offset = state.next_offset;
        if let Some(stamp) = checked.stamp.as_ref().filter(|_| !state.deleted) {
            let batch = Incoming {
                base_offset,
                count: checked.record_count,
                generation: target.generation,
                now_ms: target.now_ms,
            };
            match admit(&mut state.producers, target.tally, stamp, batch)? {
                Admitted::New(undo) => self.undo.push((self.placed.len(), undo)),
                Admitted::Duplicate(offset) => {
                    self.placed.push(Placed::Duplicate(offset));
                    return Ok(());
                }
            }
        }
        let header = checked.header(base_offset, target.now_ms);
        let newly_touched = state.last_generation != target.generation;
        state.push_run(Run {
            base_offset,
            lsn: self.end,
            payload_len: header.payload_len,
            span: header.offset_span,
            max_timestamp_ms: header.max_timestamp_ms,
        });
        if let Some(recent) = &mut state.recent_keys {
            let keys = &checked.key_hashes;
            assert_eq!(
                keys.len(),
                header.record_count as usize,
                "each record has a key"
            );
            recent.note(base_offset, keys);
        }
        drop(state);
        if newly_touched {
            target.touched.push(partition);
        }
        let frame = Frame {
            lsn: self.end,
            flushed: target.flushed,
            partition,
            unit_remaining: append.unit_remaining(),
            batch: header,
        };
        let padding = frame.len() - FRAME_PREFIX_LEN - checked.payload.len();
        self.buffer.put_slice(&frame.encode(target.seed));
        self.buffer.put_slice(&checked.payload);
        self.buffer.put_bytes(0, padding);
        self.end = Lsn(self.end.0 + frame.len() as u64);
        self.placed.push(Placed::At(base_offset));
        Ok(())
    }

    /// What is to be written.
    pub(super) fn finish(self) -> Encoded {
        let is_new = |placed: &&Placed| matches!(placed, Placed::At(_));
        Encoded {
            bytes: self.buffer.split().freeze(),
            frames: self.placed.iter().filter(is_new).count(),
            placed: self.placed,
            end: self.end,
            undo: self.undo,
        }
    }
}

impl Encoded {
    /// Takes a group back that could not be written.
    pub(super) fn take_back<A: ToPlace>(mut self, group: &[A]) {
        take_back(group, 0, &self.placed, &mut self.undo);
    }
}

/// Gives the offsets of appends back, last first; `first` is the index in the group
/// of the first one.
fn take_back<A: ToPlace>(appends: &[A], first: usize, placed: &[Placed], undo: &mut UndoList) {
    for (nth, (append, placed)) in appends.iter().zip(placed).enumerate().rev() {
        let Placed::At(offset) = placed else { continue };
        let mut state = append.log().lock();
        state.take_back(*offset);
        if let Some((_, undo)) = undo.pop_if(|(index, _)| *index == first + nth)
            && let Some(producers) = &mut state.producers
        {
            producers.take_back(undo);
        }
    }
}
