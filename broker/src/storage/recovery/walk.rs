//! The walk through the files that count, frame by frame.

use std::sync::Arc;

use super::{JournalDamage, ReplayInto};
use crate::model::{MAX_RECORDS_PER_BATCH, Offset, PartitionId};
use crate::storage::journal::{
    ChainFile, ClosedFile, FRAME_PREFIX_LEN, FileHeader, Scanned, ScannedFrame,
};
use crate::storage::log::PartitionLog;
use crate::storage::lsn::{Generation, Lsn};

/// A file that was replayed.
pub(super) struct Replayed {
    pub(super) closed: ClosedFile,
    pub(super) header: FileHeader,
    /// Damage was found in it.
    is_damaged: bool,
}

impl Replayed {
    /// Whether nothing is lost when it is written over at once.
    pub(super) fn is_empty(&self) -> bool {
        self.closed.touched.is_empty() && !self.is_damaged
    }
}

/// The walk through all files.
pub(super) struct Replay<'a> {
    into: ReplayInto<'a>,
    durable: Lsn,
    /// Frames of a unit whose last frame was not reached yet.
    unit: Vec<ScannedFrame>,
    /// Partitions with frames in the file that is being replayed.
    touched: Vec<PartitionId>,
    /// Damage that doesn't say whose batches it held: where the last one ended,
    /// and the bytes of all.
    unknown: Option<(Lsn, u64)>,
}

impl<'a> Replay<'a> {
    pub(super) fn new(into: ReplayInto<'a>, durable: Lsn) -> Replay<'a> {
        Replay {
            into,
            durable,
            unit: Vec::new(),
            touched: Vec::new(),
            unknown: None,
        }
    }

    /// Replays one file.
    pub(super) fn file(&mut self, file: &ChainFile, found: Vec<Scanned>) -> Replayed {
        let known_damage = self.into.report.damage.len();
        let mut end = Lsn::new(file.header.generation, 0);
        if self.into.report.cut.is_none() {
            for found in found {
                match self.found(found) {
                    Ok(reached) => end = reached,
                    Err(Cut(cut)) => {
                        self.into.report.cut = Some(cut);
                        end = cut;
                        break;
                    }
                }
            }
        }
        if let Some(first) = self.unit.first() {
            // The unit ends in no later file: units never span files.
            end = first.lsn;
            self.into.report.cut.get_or_insert(end);
            self.unit.clear();
        }
        let closed = ClosedFile {
            generation: file.header.generation,
            covers: file.header.generation,
            seed: file.header.seed(),
            file: file.file.clone(),
            end,
            touched: std::mem::take(&mut self.touched),
        };
        Replayed {
            closed,
            header: file.header,
            is_damaged: self.into.report.damage.len() > known_damage,
        }
    }

    /// Returns where what was found ends.
    fn found(&mut self, found: Scanned) -> Result<Lsn, Cut> {
        match found {
            Scanned::Frame(frame) if frame.payload_is_valid => {
                self.unit.push(frame);
                if frame.unit_remaining == 0 {
                    self.apply_unit();
                }
                Ok(frame.end())
            }
            // Cases E and F.
            Scanned::Frame(frame) => {
                self.check_torn(frame.lsn)?;
                self.apply_unit();
                self.lost(frame);
                Ok(frame.end())
            }
            Scanned::Gap { from, to } => {
                self.check_torn(from)?;
                self.apply_unit();
                let lost_to = to.min(self.durable);
                self.into
                    .report
                    .damage
                    .push(JournalDamage::Bytes { from, to: lost_to });
                self.note_unknown(lost_to, lost_to.0 - from.0);
                match to <= self.durable {
                    true => Ok(to),
                    false => Err(Cut(self.durable)),
                }
            }
        }
    }

    /// Cases B and F, and G with them.
    fn check_torn(&self, at: Lsn) -> Result<(), Cut> {
        if at < self.durable {
            return Ok(());
        }
        Err(Cut(self.unit.first().map_or(at, |first| first.lsn)))
    }

    fn apply_unit(&mut self) {
        for frame in std::mem::take(&mut self.unit) {
            self.apply(frame);
        }
    }

    fn apply(&mut self, frame: ScannedFrame) {
        self.note_producer(&frame);
        let log = self.log(frame.partition);
        let mut state = log.lock();
        // Case H.
        if frame.base_offset < state.next_offset {
            return;
        }
        // Case I. If nothing is damaged, the partition was deleted: its first
        // records went with the checkpoint's entry, and this was behind them.
        if frame.base_offset > state.next_offset {
            let is_damage = self.unknown.is_some() || self.into.report.rebuilt_checkpoint;
            if is_damage || state.next_offset > Offset::ZERO {
                self.into.report.damage.push(JournalDamage::Offsets {
                    partition: frame.partition,
                    from: state.next_offset,
                    to: frame.base_offset,
                });
            }
            state.skip_damaged(frame.base_offset);
        }
        if state.last_generation != frame.lsn.generation() {
            self.touched.push(frame.partition);
        }
        state.push_run(frame.run());
        drop(state);
        self.into.report.replayed += 1;
    }

    /// A frame whose payload is damaged, but whose head says what it held.
    fn lost(&mut self, frame: ScannedFrame) {
        self.note_producer(&frame);
        let log = self.log(frame.partition);
        let mut state = log.lock();
        if frame.next_offset() > state.next_offset {
            self.into.report.damage.push(JournalDamage::Offsets {
                partition: frame.partition,
                from: state.next_offset,
                to: frame.next_offset(),
            });
            state.skip_damaged(frame.next_offset());
        }
    }

    /// What is known of producers goes by its own count of what was archived.
    fn note_producer(&mut self, frame: &ScannedFrame) {
        if let Some(stamp) = frame.stamp {
            self.into
                .producers
                .apply(frame.partition, stamp, frame.incoming());
        }
    }

    /// Case J.
    pub(super) fn missing_file(&mut self, generation: Generation, file_bytes: u32) {
        self.into
            .report
            .damage
            .push(JournalDamage::File(generation));
        self.note_unknown(Lsn::new(generation, file_bytes), u64::from(file_bytes));
    }

    fn note_unknown(&mut self, end: Lsn, bytes: u64) {
        let (last, total) = self.unknown.unwrap_or((Lsn::ZERO, 0));
        self.unknown = Some((last.max(end), total + bytes));
    }

    /// Keeps offsets from being given out twice, and shows what was recovered.
    /// Returns how many offsets a partition that was not seen may have lost.
    pub(super) fn finish(self) -> Option<u64> {
        let lost_offsets = self.unknown.map(|(_, bytes)| most_records_in(bytes));
        for log in self.into.logs.values() {
            let mut state = log.lock();
            if let Some((damage_end, bytes)) = self.unknown
                && state.runs.last().is_none_or(|run| run.lsn < damage_end)
            {
                let to = state.next_offset.advanced(most_records_in(bytes));
                state.skip_damaged(to);
            }
            let end = state.next_offset;
            drop(state);
            log.publish(end);
        }
        lost_offsets
    }

    fn log(&mut self, id: PartitionId) -> Arc<PartitionLog> {
        self.into
            .logs
            .entry(id)
            .or_insert_with(|| Arc::new(PartitionLog::new(id)))
            .clone()
    }
}

/// How many records of one partition so many bytes of the journal can have held.
/// Compressed, a record can take less than a bit.
fn most_records_in(bytes: u64) -> u64 {
    let frames = bytes / FRAME_PREFIX_LEN as u64 + 1;
    frames * u64::from(MAX_RECORDS_PER_BATCH)
}

/// Nothing from here on counts.
struct Cut(Lsn);
