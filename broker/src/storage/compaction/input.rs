//! Reads sealed segments from front to back, and accepts only what is whole:
//! every checksum is right, offsets have no holes, every record can be told from
//! the next. Anything else is damage, and a segment with damage is left alone.

use std::io;

use super::codec::{EncodedRecord, MalformedBatch, RecordCodec};
use crate::model::{BatchHeader, Offset, PartitionId};
use crate::storage::dir::Dir;
use crate::storage::segment::{
    self, Dropped, SEGMENT_HEADER_LEN, ScannedBatch, SegmentHeader, SegmentName, SegmentScan,
    SegmentState,
};

/// A sealed segment that looks whole from outside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sealed {
    pub(super) name: SegmentName,
    /// What its footer says.
    pub(super) state: SegmentState,
    /// What a record before this offset supersedes has been dropped from it.
    pub(super) compacted_to: Offset,
    /// What has been dropped from it.
    pub(super) dropped: Dropped,
    /// A segment before it is left as it is.
    pub(super) behind_damage: bool,
}

impl Sealed {
    /// Reads header and footer; `None` when they are not what they should be.
    pub(super) fn look(
        dir: &dyn Dir,
        id: PartitionId,
        name: SegmentName,
    ) -> io::Result<Option<Sealed>> {
        let file = dir.open(&segment::log_path(id, name))?;
        let mut head = [0; SEGMENT_HEADER_LEN];
        file.read_salvaging(&mut head, 0)?;
        let is_ours = |header: &SegmentHeader| {
            header.partition == id && header.base_offset == name.base_offset
        };
        let header = SegmentHeader::decode(&head).filter(is_ours);
        let footer = segment::read_footer(file.as_ref())?;
        let fits = |state: &SegmentState| {
            let next = name.compacted.map(|compacted| compacted.next_offset);
            state.base_offset == name.base_offset
                && state.next_offset > state.base_offset
                && next.is_none_or(|next| next == state.next_offset)
        };
        let state = footer.map(|footer| footer.state).filter(fits);
        Ok(header.zip(state).map(|(header, state)| Sealed {
            name,
            state,
            compacted_to: header.compacted_to,
            dropped: header.dropped,
            behind_damage: false,
        }))
    }

    /// Whether compaction has compared all its records.
    pub(super) fn is_clean(&self) -> bool {
        self.compacted_to >= self.state.next_offset
    }
}

/// What comes next in a segment.
#[derive(Debug)]
pub(super) enum Step {
    Batch(BatchHeader),
    End,
    Damaged,
}

/// The walk through a segment.
#[derive(Debug)]
pub(super) struct Input {
    scan: SegmentScan,
    expected: Offset,
    end: Offset,
    payload_at: u64,
}

impl Input {
    pub(super) fn open(dir: &dyn Dir, id: PartitionId, sealed: &Sealed) -> io::Result<Input> {
        let file = dir.open(&segment::log_path(id, sealed.name))?;
        Ok(Input {
            scan: SegmentScan::new(file, sealed.state.len),
            expected: sealed.name.base_offset,
            end: sealed.state.next_offset,
            payload_at: 0,
        })
    }

    /// The next batch.
    pub(super) fn step(&mut self) -> io::Result<Step> {
        Ok(match self.scan.next_batch()? {
            None if self.expected == self.end => Step::End,
            Some(ScannedBatch::Valid { position, header })
                if header.base_offset == self.expected && header.next_offset() <= self.end =>
            {
                self.expected = header.next_offset();
                self.payload_at = position;
                Step::Batch(header)
            }
            _ => Step::Damaged,
        })
    }

    /// The payload of the batch that was the last step.
    pub(super) fn payload(&mut self, header: &BatchHeader) -> io::Result<&[u8]> {
        self.scan.payload(self.payload_at, header)
    }
}

/// The records of a batch with their offsets. Ends after an error.
pub(super) fn records<'a>(
    codec: &dyn RecordCodec,
    header: &BatchHeader,
    unpacked: &'a [u8],
) -> impl Iterator<Item = Result<(Offset, EncodedRecord<'a>), MalformedBatch>> {
    let end = header.next_offset();
    let mut next = header.base_offset;
    let mut left = header.record_count;
    let mut records = codec.split(unpacked);
    std::iter::from_fn(move || {
        let Some(record) = records.next() else {
            // Fewer than there should be.
            return (std::mem::take(&mut left) > 0).then_some(Err(MalformedBatch));
        };
        let placed = record.and_then(|record| {
            left = left.checked_sub(1).ok_or(MalformedBatch)?;
            let offset = next.0.checked_add(u64::from(record.offset_gap));
            let offset = offset.filter(|&offset| offset < end.0);
            let offset = Offset(offset.ok_or(MalformedBatch)?);
            next = offset.advanced(1);
            Ok((offset, record))
        });
        if placed.is_err() {
            left = 0;
        }
        Some(placed)
    })
}
