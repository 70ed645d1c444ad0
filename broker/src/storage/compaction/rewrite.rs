//! The second half of a pass: puts what is kept into new segments.

use super::codec::EncodedRecord;
use super::input::{Sealed, Step, records};
use super::merge::{BatchBounds, Merger, is_opaque};
use super::output::Output;
use super::pass::{Halt, PIECE, Pass};
use super::plan;
use crate::limits;
use crate::model::{BatchHeader, Offset};
use crate::storage::segment::{Dropped, SegmentName};

/// How large batches become.
const BATCHES: BatchBounds = BatchBounds {
    bytes: if cfg!(test) {
        256
    } else {
        limits::COMPACTED_BATCH_BYTES
    },
    span: u32::MAX,
};

/// Batches from this size on are kept as they are if all their records are: bytes.
const LARGE: usize = BATCHES.bytes / 4;

/// Goes through the segments from the first on.
struct Rewrite<'p, 'a> {
    pass: &'p mut Pass<'a>,
    segment_bytes: u64,
    /// Tombstones before this go.
    tombstones_to: Offset,
    /// For each record of a batch, whether it is kept.
    verdicts: Vec<bool>,
    /// What was dropped on the way to the segment that is being written.
    dropped: Dropped,
}

/// What came of some segments that were to become one.
enum Group {
    /// So many of them were replaced.
    Replaced(usize),
    /// This one is damaged, and nothing was changed.
    Damaged(usize),
}

impl Pass<'_> {
    /// Rewrites all segments with records before `noted_to`.
    pub(super) fn rewrite(&mut self, segments: &mut Vec<Sealed>, now_ms: i64) -> Result<(), Halt> {
        let tombstones_to = match self.config.tombstone_grace_ms {
            0 => self.noted_to,
            grace_ms => self.known.compacted_before(grace_ms, now_ms),
        };
        let mut rewrite = Rewrite {
            segment_bytes: self.log.lock().segment_bytes,
            tombstones_to,
            verdicts: Vec::new(),
            dropped: Dropped::default(),
            pass: self,
        };
        let mut done = 0;
        while let Some(first) = segments.get(done)
            && first.name.base_offset < rewrite.pass.noted_to
        {
            if first.behind_damage {
                rewrite.keep_tombstones();
            }
            match rewrite.group(&segments[done..])? {
                Group::Replaced(count) => done += count,
                Group::Damaged(index) => rewrite.pass.leave(segments, done + index),
            }
        }
        Ok(())
    }
}

impl Rewrite<'_, '_> {
    /// What tombstones from here on delete may lie in what is left as it is.
    fn keep_tombstones(&mut self) {
        self.tombstones_to = Offset::ZERO;
    }

    /// Makes one segment of the first of these and of as many behind it as fit.
    fn group(&mut self, segments: &[Sealed]) -> Result<Group, Halt> {
        let (storage, log) = (self.pass.storage, self.pass.log);
        let first = &segments[0];
        self.dropped = Dropped::default();
        let mut output = storage.begin_output(log, first.name, first.state.created_ms)?;
        let path = output.path().clone();
        let done = match self.fill(&mut output, segments) {
            Ok(Group::Replaced(count)) => self
                .finish(output, &segments[..count])
                .map(|()| Group::Replaced(count)),
            other => other,
        };
        match done {
            Ok(Group::Replaced(_)) => {}
            // The first failure is told.
            Err(_) => drop(storage.discard_output(&path)),
            Ok(Group::Damaged(_)) => storage.discard_output(&path)?,
        }
        done
    }

    fn fill(&mut self, output: &mut Output, segments: &[Sealed]) -> Result<Group, Halt> {
        let base = segments[0].name.base_offset;
        let mut merger = Merger::new(self.pass.codec, BATCHES, base);
        let mut end = base;
        let mut count = 0;
        for segment in segments {
            let follows = segment.name.base_offset == end
                && end < self.pass.noted_to
                && plan::takes(output.len(), segment, self.segment_bytes);
            if count > 0 && !follows {
                break;
            }
            if !self.append(segment, &mut merger, output)? {
                return Ok(Group::Damaged(count));
            }
            end = segment.state.next_offset;
            count += 1;
        }
        merger.cover(end, output);
        Ok(Group::Replaced(count))
    }

    /// Appends what is kept of a segment; false when it is damaged.
    fn append(
        &mut self,
        segment: &Sealed,
        merger: &mut Merger<'_>,
        output: &mut Output,
    ) -> Result<bool, Halt> {
        let mut input = self.pass.open(segment)?;
        loop {
            let header = match input.step()? {
                Step::Batch(header) => header,
                Step::End => return Ok(true),
                Step::Damaged => return Ok(false),
            };
            let mut room = std::mem::take(&mut self.pass.room);
            let is_sound = self.batch(&header, input.payload(&header)?, &mut room, merger, output);
            self.pass.room = room;
            if !is_sound {
                return Ok(false);
            }
            self.pass.did_read(&header)?;
            if output.buffered() >= PIECE {
                self.write(output)?;
                self.pass.pause()?;
            }
        }
    }

    /// Keeps what is to be kept of a batch; false when it is malformed.
    fn batch(
        &mut self,
        header: &BatchHeader,
        payload: &[u8],
        room: &mut Vec<u8>,
        merger: &mut Merger<'_>,
        output: &mut Output,
    ) -> bool {
        if is_opaque(header) {
            self.keep_tombstones();
            merger.keep_whole(header, payload, output);
            return true;
        }
        let codec = self.pass.codec;
        let Ok(unpacked) = codec.unpack(payload, room) else {
            return false;
        };
        self.verdicts.clear();
        for placed in records(codec, header, unpacked) {
            let Ok((offset, record)) = placed else {
                return false;
            };
            let kept = self.keeps(offset, &record);
            self.verdicts.push(kept);
        }
        let dropped = self.verdicts.iter().filter(|kept| !**kept).count();
        self.pass.summary.dropped_records += dropped as u64;
        if dropped == 0 && payload.len() >= LARGE && merger.joins(header.base_offset) {
            merger.keep_whole(header, payload, output);
            return true;
        }
        let placed = records(codec, header, unpacked).flatten();
        for ((offset, record), _) in placed.zip(&self.verdicts).filter(|(_, kept)| **kept) {
            merger.keep(offset, &record, header, output);
        }
        true
    }

    /// Whether a record is kept; notes what it says if it isn't.
    fn keeps(&mut self, offset: Offset, record: &EncodedRecord<'_>) -> bool {
        let Some(key) = record.key else {
            return true;
        };
        let latest = self.pass.keys.latest(key);
        let dropped = match latest.filter(|&latest| latest > offset) {
            Some(latest) => Dropped {
                superseded_to: latest.advanced(1),
                ..Dropped::default()
            },
            None if record.is_tombstone && offset < self.tombstones_to => Dropped {
                tombstones_to: offset.advanced(1),
                ..Dropped::default()
            },
            None => return true,
        };
        self.dropped = self.dropped.and(dropped);
        false
    }

    /// Writes what is complete. In small pieces that are flushed at once nobody
    /// who flushes the journal has to wait long for the disk.
    fn write(&self, output: &mut Output) -> Result<(), Halt> {
        self.pass.check_unfailed()?;
        let mut written = output.write();
        if self.pass.pace.is_gentle() {
            written = written.and_then(|()| output.flush());
        }
        written.map_err(|error| self.pass.storage.compaction_failed(&error))
    }

    /// Puts a segment in the place of those that it was made of.
    fn finish(&mut self, output: Output, replaced: &[Sealed]) -> Result<(), Halt> {
        let storage = self.pass.storage;
        self.pass.check_unfailed()?;
        let before = replaced.iter().map(|segment| segment.dropped);
        let finished = output
            .finish(self.pass.noted_to, before.fold(self.dropped, Dropped::and))
            .map_err(|error| storage.compaction_failed(&error))?;
        let names: Vec<SegmentName> = replaced.iter().map(|segment| segment.name).collect();
        storage.replace(self.pass.log, &names, &finished)?;
        self.pass.summary.written_bytes += finished.state.len;
        self.pass.summary.replaced_segments += names.len() as u64;
        Ok(())
    }
}
