//! What happens to a journal after a start.
//!
//! Recovery replays the journal from the checkpoint on. Let `durable` be the
//! highest `flushed` that any valid frame or file header names: everything
//! before it had been made durable, and may have been acknowledged. Then, for
//! each place where no valid frame lies:
//!
//! | case | what is found | what it is | what is done |
//! |---|---|---|---|
//! | A | no valid frame follows, at or behind `durable` | the end | nothing |
//! | B | a gap that begins at or behind `durable` | a torn tail: never acknowledged | cut; later frames are void |
//! | C | a gap that begins before `durable` and ends at or before it | damage | quarantined; replay goes on behind it |
//! | D | a gap that begins before `durable` and ends behind it | damage, then a torn tail | quarantined up to `durable`, cut there |
//! | E | a frame with a valid head and a wrong payload, before `durable` | damage with a name | its offsets are quarantined |
//! | F | the same at or behind `durable` | a torn tail | as B |
//! | G | a unit whose last frames fall to a cut | a unit that was never acknowledged | cut before its first frame |
//! | H | a frame whose offsets are in segments already | the checkpoint was lost, and rebuilt from segments | skipped |
//! | I | a frame that begins behind the partition's next offset | frames between were lost to C or D | the offsets between are quarantined |
//! | J | a file that the chain names is missing, and begins before `durable` | damage of a whole file | as C |
//! | K | the same at or behind `durable` | its header was never flushed, only that of a later one | it and later files are void |
//!
//! After C, D or J nobody knows which partitions lost their last batches. A
//! partition without a frame behind the damage might give out offsets again
//! that were acknowledged for other records; so it skips as many as the lost
//! bytes can have held.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::journal::{
    Chain, ChainFile, ClosedFile, JournalFiles, Scanned, ScannedFrame, scan_file,
};
use super::log::PartitionLog;
use super::lsn::{Generation, Lsn};
use crate::model::{Offset, PartitionId};

/// A record takes at least this many bytes in a payload: a tag and a length.
const MIN_RECORD_BYTES: u64 = 2;

/// What recovery did, for the log and for tests.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Batches that were replayed from the journal.
    pub replayed: u64,
    /// Where a torn tail was cut off.
    pub cut: Option<Lsn>,
    /// The checkpoint was lost, and rebuilt from the segments.
    pub rebuilt_checkpoint: bool,
    /// Everything that was damaged.
    pub damage: Vec<JournalDamage>,
}

/// Damage in the journal below what was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalDamage {
    /// These bytes are no frames.
    Bytes {
        /// The first one.
        from: Lsn,
        /// One past the last one.
        to: Lsn,
    },
    /// A file is missing or its header is unreadable.
    File(Generation),
    /// These offsets were lost.
    Offsets {
        /// The partition.
        partition: PartitionId,
        /// The first offset.
        from: Offset,
        /// One past the last one.
        to: Offset,
    },
}

/// The journal after recovery.
pub(super) struct Recovered {
    /// One past the last frame that counts.
    pub(super) end: Lsn,
    /// The newest generation that was ever begun.
    pub(super) newest: Generation,
    /// So many records of any partition may have been lost.
    pub(super) lost_offsets: Option<u64>,
}

/// Replays the journal behind `archived` into `logs`, and sorts its files into
/// closed and spare ones.
pub(super) fn replay(
    files: &JournalFiles,
    archived: Option<Generation>,
    logs: &mut HashMap<PartitionId, Arc<PartitionLog>>,
    report: &mut RecoveryReport,
) -> io::Result<Recovered> {
    let mut chain = Chain::walk(files.open_all()?, archived)?;
    let archived = archived.unwrap_or(Generation::ZERO);
    let newest = chain.newest.unwrap_or(Generation::ZERO).max(archived);
    let mut end = Lsn::new(archived, 0);
    let Some(last) = chain.files.last() else {
        chain
            .spares
            .into_iter()
            .for_each(|spare| files.adopt_spare(spare));
        return Ok(Recovered {
            end,
            newest,
            lost_offsets: None,
        });
    };
    let last_frames = scan_file(last)?;
    let durable = durable(last, &last_frames);
    // Case K.
    let torn = chain
        .missing
        .iter()
        .copied()
        .filter(|&missing| Lsn::new(missing, 0) >= durable);
    if let Some(torn) = torn.min() {
        chain.void_from(torn);
    }
    for spare in chain.spares {
        files.adopt_spare(spare);
    }
    let Some((last, earlier)) = chain.files.split_last() else {
        return Ok(Recovered {
            end,
            newest,
            lost_offsets: None,
        });
    };
    let mut replay = Replay::new(logs, durable, report);
    for generation in chain.missing {
        replay.missing_file(generation, files.size().file_bytes);
    }
    let last_frames = match last.header.generation == newest {
        true => last_frames,
        false => scan_file(last)?,
    };
    let mut last_frames = Some(last_frames);
    let mut ended = Vec::new();
    for file in earlier.iter().chain([last]) {
        let frames = match last_frames.take_if(|_| std::ptr::eq(file, last)) {
            Some(frames) => frames,
            None => scan_file(file)?,
        };
        ended.push(replay.file(file, frames));
    }
    let lost_offsets = replay.finish();
    while ended.last().is_some_and(|closed| closed.touched.is_empty()) {
        let empty = ended.pop().expect("there is a last one");
        files.adopt_spare(empty.file);
    }
    if let Some(last) = ended.last_mut() {
        // Once this one is archived, void files behind it must not come back.
        last.covers = newest;
    }
    for closed in ended {
        // It was read from the page cache: make sure it is on disk before
        // readers see it.
        closed.file.file().sync_data()?;
        end = closed.end;
        files.adopt_closed(closed);
    }
    Ok(Recovered {
        end,
        newest,
        lost_offsets,
    })
}

/// Up to where the newest file proves that everything is durable.
pub(super) fn durable(last: &ChainFile, frames: &[Scanned]) -> Lsn {
    let proofs = frames.iter().filter_map(|found| match found {
        Scanned::Frame(frame) => Some(frame.flushed),
        Scanned::Gap { .. } => None,
    });
    proofs.fold(last.header.flushed, Lsn::max)
}

/// The walk through all files.
struct Replay<'a> {
    logs: &'a mut HashMap<PartitionId, Arc<PartitionLog>>,
    report: &'a mut RecoveryReport,
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
    fn new(
        logs: &'a mut HashMap<PartitionId, Arc<PartitionLog>>,
        durable: Lsn,
        report: &'a mut RecoveryReport,
    ) -> Replay<'a> {
        Replay {
            logs,
            report,
            durable,
            unit: Vec::new(),
            touched: Vec::new(),
            unknown: None,
        }
    }

    /// Replays one file; says where it ends.
    fn file(&mut self, file: &ChainFile, found: Vec<Scanned>) -> ClosedFile {
        let mut end = Lsn::new(file.header.generation, 0);
        if self.report.cut.is_none() {
            for found in found {
                match self.found(found) {
                    Ok(reached) => end = reached,
                    Err(Cut(cut)) => {
                        self.report.cut = Some(cut);
                        end = cut;
                        break;
                    }
                }
            }
        }
        if let Some(first) = self.unit.first() {
            // The unit ends in no later file: units never span files.
            end = first.lsn;
            self.report.cut.get_or_insert(end);
            self.unit.clear();
        }
        ClosedFile {
            generation: file.header.generation,
            covers: file.header.generation,
            seed: file.header.seed(),
            file: file.file.clone(),
            end,
            touched: std::mem::take(&mut self.touched),
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
                self.report
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
        let log = self.log(frame.partition);
        let mut state = log.lock();
        // Case H.
        if frame.base_offset < state.next_offset {
            return;
        }
        // Case I.
        if frame.base_offset > state.next_offset {
            self.report.damage.push(JournalDamage::Offsets {
                partition: frame.partition,
                from: state.next_offset,
                to: frame.base_offset,
            });
            state.skip_damaged(frame.base_offset);
        }
        if state.last_generation != frame.lsn.generation() {
            self.touched.push(frame.partition);
        }
        state.push_run(frame.run());
        drop(state);
        self.report.replayed += 1;
    }

    /// A frame whose payload is damaged, but whose head says what it held.
    fn lost(&mut self, frame: ScannedFrame) {
        let log = self.log(frame.partition);
        let mut state = log.lock();
        if frame.next_offset() > state.next_offset {
            self.report.damage.push(JournalDamage::Offsets {
                partition: frame.partition,
                from: state.next_offset,
                to: frame.next_offset(),
            });
            state.skip_damaged(frame.next_offset());
        }
    }

    /// Case J.
    fn missing_file(&mut self, generation: Generation, file_bytes: u32) {
        self.report.damage.push(JournalDamage::File(generation));
        self.note_unknown(Lsn::new(generation, file_bytes), u64::from(file_bytes));
    }

    fn note_unknown(&mut self, end: Lsn, bytes: u64) {
        let (last, total) = self.unknown.unwrap_or((Lsn::ZERO, 0));
        self.unknown = Some((last.max(end), total + bytes));
    }

    /// Keeps offsets from being given out twice, and shows what was recovered.
    /// Returns how many offsets a partition that was not seen may have lost.
    fn finish(self) -> Option<u64> {
        let lost_offsets = self.unknown.map(|(_, bytes)| bytes / MIN_RECORD_BYTES + 1);
        for log in self.logs.values() {
            let mut state = log.lock();
            if let Some((damage_end, bytes)) = self.unknown
                && state.runs.back().is_none_or(|run| run.lsn < damage_end)
            {
                let to = state.next_offset.advanced(bytes / MIN_RECORD_BYTES + 1);
                state.skip_damaged(to);
            }
            let end = state.next_offset;
            drop(state);
            log.publish(end);
        }
        lost_offsets
    }

    fn log(&mut self, id: PartitionId) -> Arc<PartitionLog> {
        self.logs
            .entry(id)
            .or_insert_with(|| Arc::new(PartitionLog::new(id)))
            .clone()
    }
}

/// Nothing from here on counts.
struct Cut(Lsn);
