//! Appends to the segments of one partition, one after the other.

use std::io;

use super::Pace;
use super::cooling::Written;
use crate::model::{BatchHeader, Offset, PartitionId};
use crate::storage::dir::Dir;
use crate::storage::log::{PartitionLog, SealedSegment};
use crate::storage::segment::{GrowingSegment, SegmentState, SegmentWriter};

/// What is written between pauses: bytes.
const PIECE: u64 = if cfg!(test) { 1 << 10 } else { 512 << 10 };

/// The segments of one partition while a pass fills them.
pub(super) struct Filler<'a> {
    dir: &'a dyn Dir,
    id: PartitionId,
    now_ms: i64,
    segment_bytes: u64,
    pace: &'a dyn Pace,
    takes_room: bool,
    writer: SegmentWriter,
    sealed: Vec<SealedSegment>,
    written: Vec<Written>,
    /// Where this pass began to write the segment.
    begun_at: u64,
    flushed: u64,
}

/// How a pass fills segments.
#[derive(Clone, Copy)]
pub(super) struct Manner<'a> {
    /// Milliseconds since the Unix epoch.
    pub(super) now_ms: i64,
    pub(super) pace: &'a dyn Pace,
    /// Whether room is taken ahead for small segments.
    pub(super) takes_room: bool,
}

/// What a pass wrote for one partition.
pub(super) struct Filled {
    pub(super) writer: SegmentWriter,
    /// The segments that were sealed on the way.
    pub(super) sealed: Vec<SealedSegment>,
    pub(super) written: Vec<Written>,
}

impl<'a> Filler<'a> {
    /// Goes on with the active segment, with what was kept of it; or begins the first one
    /// at `from`.
    pub(super) fn open(
        dir: &'a dyn Dir,
        log: &PartitionLog,
        manner: Manner<'a>,
        from: Offset,
        kept: Option<GrowingSegment>,
    ) -> io::Result<Filler<'a>> {
        let (active, segment_bytes) = {
            let state = log.lock();
            (state.active, state.segment_bytes)
        };
        let create = |base| SegmentWriter::create(dir, log.id(), base, manner.now_ms);
        let mut sealed = Vec::new();
        let writer = match active {
            None => create(from)?,
            Some(state) => match SegmentWriter::open(dir, log.id(), state, kept)? {
                Some(writer) => writer,
                // Without a footer, which would have to be written there, too.
                None => {
                    sealed.push(SealedSegment::known(state.base_offset.into(), &state));
                    create(from)?
                }
            },
        };
        let begun_at = writer.state().len;
        Ok(Filler {
            dir,
            id: log.id(),
            now_ms: manner.now_ms,
            pace: manner.pace,
            takes_room: manner.takes_room,
            segment_bytes,
            writer,
            sealed,
            written: Vec::new(),
            begun_at,
            flushed: begun_at,
        })
    }

    /// Appends batches: their bytes back to back, and the headers in them.
    /// Seals the segment where the next batch would make it too large.
    pub(super) fn append(&mut self, bytes: &[u8], batches: &[BatchHeader]) -> io::Result<()> {
        let mut bytes = bytes;
        let mut batches = batches;
        while let Some(first) = batches.first() {
            let (count, len) = self.fitting(batches);
            if count == 0 {
                self.roll(first.base_offset)?;
                continue;
            }
            if self.takes_room {
                self.writer.take_room(len);
            }
            self.writer
                .append(self.dir, &bytes[..len], &batches[..count])?;
            bytes = &bytes[len..];
            batches = &batches[count..];
        }
        if self.writer.state().len - self.flushed >= PIECE && self.pace.is_gentle() {
            self.writer.flush()?;
            self.flushed = self.writer.state().len;
            self.pace.pause();
        }
        Ok(())
    }

    /// How many of the batches fit into the segment, and their size in bytes.
    /// An empty segment takes at least one.
    fn fitting(&self, batches: &[BatchHeader]) -> (usize, usize) {
        let SegmentState {
            len, batch_count, ..
        } = self.writer.state();
        let room = self.segment_bytes.saturating_sub(len);
        let mut taken = 0;
        for (count, batch) in batches.iter().enumerate() {
            let is_first = count == 0 && batch_count == 0;
            if !is_first && (taken + batch.batch_len()) as u64 > room {
                return (count, taken);
            }
            taken += batch.batch_len();
        }
        (batches.len(), taken)
    }

    /// Seals the segment and begins the next at `base`.
    fn roll(&mut self, base: Offset) -> io::Result<()> {
        let next = SegmentWriter::create(self.dir, self.id, base, self.now_ms)?;
        let full = std::mem::replace(&mut self.writer, next);
        self.note_written(&full.state());
        let name = full.state().base_offset.into();
        self.sealed.push(SealedSegment::known(name, &full.state()));
        full.seal(self.dir)?;
        self.begun_at = 0;
        self.flushed = 0;
        Ok(())
    }

    fn note_written(&mut self, state: &SegmentState) {
        // A pass may begin by sealing what it finds.
        if state.len > self.begun_at {
            self.written.push(Written {
                partition: self.id,
                base_offset: state.base_offset,
                from: self.begun_at,
                to: state.len,
            });
        }
    }

    /// What was written; not flushed yet.
    pub(super) fn finish(mut self) -> Filled {
        self.note_written(&self.writer.state());
        Filled {
            writer: self.writer,
            sealed: self.sealed,
            written: self.written,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::CheckedBatch;
    use crate::storage::PARTITIONS_DIR;
    use crate::storage::dir::sim::SimDir;
    use crate::storage::segment::{self, SEGMENT_HEADER_LEN};
    use crate::storage::tests::Gentle;

    const ID: PartitionId = PartitionId(7);

    /// What a pass writes that archives one batch at this offset.
    fn pass(dir: &SimDir, log: &PartitionLog, offset: u64) -> Filled {
        let payload = Bytes::from_static(&[1; 100]);
        let checked = CheckedBatch {
            payload_crc: crc32fast::hash(&payload),
            payload: payload.clone(),
            record_count: 1,
            max_timestamp_ms: None,
            all_timed: false,
            uncompressed_len: 100,
            attributes: 0,
            stamp: None,
            key_hashes: Vec::new(),
        };
        let header = checked.header(Offset(offset), 1);
        let manner = Manner {
            now_ms: 1,
            pace: &Gentle(false),
            takes_room: false,
        };
        let mut filler = Filler::open(dir, log, manner, Offset(offset), None).unwrap();
        let batch = [&header.encode()[..], &payload].concat();
        filler.append(&batch, &[header]).unwrap();
        let written = filler.finish();
        log.lock().active = Some(written.writer.state());
        written
    }

    #[test]
    fn what_is_only_sealed_is_not_said_to_be_written() {
        let dir = SimDir::new();
        dir.create_dir(PARTITIONS_DIR.as_ref()).unwrap();
        dir.create_dir(&segment::partition_dir(ID)).unwrap();
        let log = PartitionLog::new(ID);
        let filled = pass(&dir, &log, 0);
        let [first] = &filled.written[..] else {
            panic!("it wrote one part");
        };
        let begun = SEGMENT_HEADER_LEN as u64;
        assert_eq!((first.base_offset, first.from), (Offset(0), begun));
        // It is full.
        log.lock().segment_bytes = first.to;
        let filled = pass(&dir, &log, 1);
        assert_eq!(filled.sealed.len(), 1);
        let [second] = &filled.written[..] else {
            panic!("it wrote one part");
        };
        assert_eq!((second.base_offset, second.from), (Offset(1), 0));
        assert_eq!(second.to, first.to);
    }
}
