//! Brings together what lies scattered over journal files: the batches of many
//! partitions, of which each has a few here and there.
//!
//! The files are read once from front to back per round, and each batch is put
//! where those of its partition come together. So a pass over several files
//! writes each partition once, in one piece, whatever the order of appends was.

use std::io;
use std::sync::Arc;

use super::source::{Source, body_len};
use crate::model::BatchHeader;
use crate::storage::log::PartitionLog;
use crate::storage::runs::Run;

/// What a round brings together: bytes.
pub(super) const ROUND_BYTES: usize = if cfg!(test) { 4 << 10 } else { 16 << 20 };

/// The partitions of one round, and where their batches go.
#[derive(Default)]
pub(super) struct Round {
    partitions: Vec<Member>,
    slots: Vec<Slot>,
    bytes: usize,
}

struct Member {
    log: Arc<PartitionLog>,
    /// One past the last of its slots.
    slots_end: usize,
}

struct Slot {
    run: Run,
    /// Where its batch goes: byte in the round.
    at: usize,
    /// What was found there; `None` if it can't be read.
    header: Option<BatchHeader>,
}

impl Round {
    /// Whether `bytes` more are too many. One partition always fits.
    pub(super) fn is_full_for(&self, bytes: usize) -> bool {
        !self.partitions.is_empty() && self.bytes + bytes > ROUND_BYTES
    }

    /// Adds what a partition has in the journal files.
    pub(super) fn push(&mut self, log: Arc<PartitionLog>, runs: &[Run]) {
        for &run in runs {
            self.slots.push(Slot {
                run,
                at: self.bytes,
                header: None,
            });
            self.bytes += body_len(&run);
        }
        self.partitions.push(Member {
            log,
            slots_end: self.slots.len(),
        });
    }

    /// Reads the batches into `arena`, and gives each partition's to `fill`:
    /// contiguous pieces of bytes with the headers in them.
    pub(super) fn run(
        mut self,
        source: &mut Source<'_>,
        arena: &mut Vec<u8>,
        mut fill: impl FnMut(&Arc<PartitionLog>, &[Piece<'_>]) -> io::Result<()>,
    ) -> io::Result<()> {
        arena.resize(self.bytes, 0);
        let mut in_journal_order: Vec<&mut Slot> = self.slots.iter_mut().collect();
        in_journal_order.sort_unstable_by_key(|slot| slot.run.lsn);
        for slot in in_journal_order {
            if let Some(body) = source.body(&slot.run)? {
                arena[slot.at..slot.at + body.bytes.len()].copy_from_slice(body.bytes);
                slot.header = Some(body.header);
            }
        }
        let mut slots_start = 0;
        for partition in &self.partitions {
            let slots = &self.slots[slots_start..partition.slots_end];
            slots_start = partition.slots_end;
            fill(&partition.log, &pieces(slots, arena, &partition.log))?;
        }
        Ok(())
    }
}

/// Batches that lie back to back.
pub(super) struct Piece<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) headers: Vec<BatchHeader>,
}

/// Splits what a partition has where a batch can't be read, and notes that.
fn pieces<'a>(slots: &[Slot], arena: &'a [u8], log: &PartitionLog) -> Vec<Piece<'a>> {
    let readable = |a: &Slot, b: &Slot| a.header.is_some() == b.header.is_some();
    let mut pieces = Vec::with_capacity(1);
    for chunk in slots.chunk_by(readable) {
        let headers: Vec<BatchHeader> = chunk.iter().filter_map(|slot| slot.header).collect();
        let (first, last) = (&chunk[0], &chunk[chunk.len() - 1]);
        if headers.is_empty() {
            log.lock()
                .note_quarantined(first.run.base_offset, last.run.next_offset());
            continue;
        }
        pieces.push(Piece {
            bytes: &arena[first.at..last.at + body_len(&last.run)],
            headers,
        });
    }
    pieces
}
