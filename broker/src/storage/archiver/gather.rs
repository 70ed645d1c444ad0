//! Brings together what lies scattered over journal files: the batches of many
//! partitions, of which each has a few here and there.
//!
//! Each round takes as many partitions as memory has room for, goes through the files
//! from front to back, and puts each batch where those of its partition come together.
//! What lies between is read along as far as that costs less than another read. So a pass
//! over several files writes each partition once, in one piece, whatever the order of
//! appends was.

use std::io;
use std::sync::Arc;

use super::source::{Source, body_len};
use crate::model::BatchHeader;
use crate::storage::journal::frame_len;
use crate::storage::log::PartitionLog;
use crate::storage::lsn::Lsn;
use crate::storage::runs::Run;

/// What a round brings together: bytes.
pub(super) const ROUND_BYTES: usize = if cfg!(test) { 4 << 10 } else { 16 << 20 };

/// Batches that have no more than this between them are read together: bytes. A read
/// costs as much as it costs to copy some such.
const NEAR: usize = if cfg!(test) { 256 } else { 6 << 10 };

/// What is read together at most: bytes, but at least one batch. It stays in the
/// processor's cache until it is copied.
const STRETCH: usize = if cfg!(test) { 1 << 10 } else { 256 << 10 };

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
    /// Whether it lies there now: it may not be readable.
    is_there: bool,
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
                is_there: false,
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
        let slots = self.slots.iter().enumerate();
        let mut order: Vec<(Lsn, usize)> =
            slots.map(|(index, slot)| (slot.run.lsn, index)).collect();
        order.sort_unstable();
        let mut left = &order[..];
        while let Some(&(_, first)) = left.first() {
            let (stretch, rest) = left.split_at(self.near(left));
            left = rest;
            let &(_, last) = stretch.last().expect("the first one is in it");
            source.load(&self.slots[first].run, &self.slots[last].run)?;
            for &(_, index) in stretch {
                let slot = &mut self.slots[index];
                if let Some(body) = source.body(&slot.run)? {
                    arena[slot.at..slot.at + body.bytes.len()].copy_from_slice(body.bytes);
                    slot.is_there = true;
                }
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

impl Round {
    /// How many of the slots, at least one, are best read together.
    fn near(&self, order: &[(Lsn, usize)]) -> usize {
        let end = |run: &Run| run.lsn.0 + frame_len(run.payload_len as usize) as u64;
        let first = self.slots[order[0].1].run;
        let apart = |pair: &[(Lsn, usize)]| {
            let (before, next) = (&self.slots[pair[0].1].run, &self.slots[pair[1].1].run);
            next.lsn.generation() != first.lsn.generation()
                || next.lsn.0 - end(before) > NEAR as u64
                || end(next) - first.lsn.0 > STRETCH as u64
        };
        1 + order.windows(2).take_while(|pair| !apart(pair)).count()
    }
}

/// Batches that lie back to back.
pub(super) struct Piece<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) headers: Vec<BatchHeader>,
}

/// Splits what a partition has where a batch can't be read, and notes that.
fn pieces<'a>(slots: &[Slot], arena: &'a [u8], log: &PartitionLog) -> Vec<Piece<'a>> {
    let mut pieces = Vec::with_capacity(1);
    for chunk in slots.chunk_by(|a, b| a.is_there == b.is_there) {
        let (first, last) = (&chunk[0], &chunk[chunk.len() - 1]);
        if !first.is_there {
            log.lock()
                .note_quarantined(first.run.base_offset, last.run.next_offset());
            continue;
        }
        let header = |slot: &Slot| {
            let bytes = arena[slot.at..].first_chunk();
            BatchHeader::decode_verified(bytes.expect("it was checked before it was copied"))
        };
        pieces.push(Piece {
            bytes: &arena[first.at..last.at + body_len(&last.run)],
            headers: chunk.iter().map(header).collect(),
        });
    }
    pieces
}
