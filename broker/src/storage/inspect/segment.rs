//! Verifies a segment and its index.

use std::io;
use std::path::Path;

use super::report::{Damage, FileKind, InspectedFile};
use crate::model::{BatchHeader, Offset, PartitionId};
use crate::storage::dir::Dir;
use crate::storage::segment::{
    Index, SEGMENT_HEADER_LEN, ScannedBatch, SegmentHeader, SegmentName, SegmentScan, SegmentState,
    index_path, log_path, read_footer,
};

/// What is known of a segment but for its own contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Something follows it: it must have a footer.
    Sealed,
    /// The checkpoint says how far it has been filled.
    Active(SegmentState),
    /// The last one, and the checkpoint is lost: all of it counts.
    Last,
}

/// A segment, its index if there is one, and where the next one should begin.
pub(super) struct Inspected {
    pub(super) files: Vec<InspectedFile>,
    pub(super) next_offset: Offset,
}

/// Verifies every byte of a segment. `follows` is where the one before ended.
pub(super) fn inspect(
    dir: &dyn Dir,
    partition: PartitionId,
    name: SegmentName,
    role: Role,
    follows: Option<Offset>,
) -> io::Result<Inspected> {
    let base_offset = name.base_offset;
    let path = log_path(partition, name);
    let file = dir.open(&path)?;
    let len = file.len()?;
    let footer = read_footer(file.as_ref())?.map(|footer| footer.state);
    let (kind, noted) = match (role, footer) {
        (Role::Active(state), _) => (FileKind::ActiveSegment, Some(state)),
        (Role::Last, None) => (FileKind::ActiveSegment, None),
        (Role::Sealed | Role::Last, footer) => {
            let kind = match name.compacted {
                Some(_) => FileKind::CompactedSegment,
                None => FileKind::SealedSegment,
            };
            (kind, footer)
        }
    };
    let mut report = InspectedFile::new(path.display().to_string(), kind, len);
    report.partition = Some(partition);

    let mut head = [0; SEGMENT_HEADER_LEN];
    file.read_salvaging(&mut head, 0)?;
    let is_ours =
        |header: &SegmentHeader| header.partition == partition && header.base_offset == base_offset;
    if !SegmentHeader::decode(&head).as_ref().is_some_and(is_ours) {
        report.damage.push(Damage::Header);
    }
    if kind != FileKind::ActiveSegment {
        let fits = |state: &SegmentState| {
            let named = name.compacted.map(|compacted| compacted.next_offset);
            named.is_none_or(|next_offset| next_offset == state.next_offset)
        };
        if !footer.as_ref().is_some_and(fits) {
            report.damage.push(Damage::Footer);
        }
    }
    let end = noted.map_or(len, |state| state.len);
    if end > len {
        report.damage.push(Damage::Short { expected: end });
    }

    let mut walk = Walk::new(report, base_offset, noted);
    walk.gap(follows.unwrap_or(base_offset), base_offset);
    let mut scan = SegmentScan::new(file, end.min(len));
    while let Some(found) = scan.next_batch()? {
        walk.found(found);
    }
    let (report, next_offset, index) = walk.finish();
    let mut files = vec![report];
    files.extend(inspect_index(dir, partition, name, &index, end)?);
    Ok(Inspected { files, next_offset })
}

/// The walk through the batches, and what should come out of it.
struct Walk {
    report: InspectedFile,
    partition: PartitionId,
    /// As found.
    state: SegmentState,
    /// As written down.
    noted: Option<SegmentState>,
    index: Index,
}

impl Walk {
    fn new(report: InspectedFile, base_offset: Offset, noted: Option<SegmentState>) -> Walk {
        Walk {
            partition: report.partition.expect("a segment is some partition's"),
            report,
            state: SegmentState::empty(base_offset, noted.map_or(0, |state| state.created_ms)),
            noted,
            index: Index::default(),
        }
    }

    fn found(&mut self, found: ScannedBatch) {
        match found {
            ScannedBatch::Valid { position, header } => {
                if self.take(position, &header) {
                    self.report.batches += 1;
                    self.report.records += u64::from(header.record_count);
                }
            }
            ScannedBatch::DamagedPayload { position, header } => {
                if self.take(position, &header) {
                    self.report.damage.push(Damage::Payload {
                        position,
                        from: header.base_offset,
                        to: header.next_offset(),
                    });
                }
            }
            ScannedBatch::Garbage { position, end } => {
                let (from, to) = (position, end);
                self.report.damage.push(Damage::Bytes { from, to });
            }
        }
    }

    /// Takes a batch into account whose header is valid; not one that can't
    /// belong here.
    fn take(&mut self, position: u64, header: &BatchHeader) -> bool {
        if header.base_offset < self.state.next_offset {
            self.report.damage.push(Damage::Bytes {
                from: position,
                to: position + header.batch_len() as u64,
            });
            return false;
        }
        self.gap(self.state.next_offset, header.base_offset);
        self.index
            .add(header, position, self.state.max_timestamp_ms);
        self.state.len = position;
        self.state.add(header);
        true
    }

    /// Notes offsets between two batches.
    fn gap(&mut self, from: Offset, to: Offset) {
        if from != to {
            self.report.damage.push(Damage::Offsets {
                partition: self.partition,
                from,
                to,
            });
        }
    }

    fn finish(mut self) -> (InspectedFile, Offset, Index) {
        let mut next_offset = self.state.next_offset;
        if let Some(noted) = self.noted {
            if next_offset < noted.next_offset {
                self.gap(next_offset, noted.next_offset);
                next_offset = noted.next_offset;
            }
            // Where there is damage, what is left can't add up.
            if self.report.damage.is_empty() && self.state != noted {
                self.report.damage.push(Damage::Summary);
            }
        }
        self.report.offsets = Some((self.state.base_offset, next_offset));
        (self.report, next_offset, self.index)
    }
}

/// Compares the index on disk with the one that the segment calls for. A
/// missing one is no damage, nor are entries behind the end.
fn inspect_index(
    dir: &dyn Dir,
    partition: PartitionId,
    name: SegmentName,
    expected: &Index,
    end: u64,
) -> io::Result<Option<InspectedFile>> {
    let path = index_path(partition, name);
    let Some((bytes, len)) = read_whole(dir, &path)? else {
        return Ok(None);
    };
    let fits = Index::decode(&bytes, end).is_some_and(|found| found.encode() == expected.encode());
    let kind = match fits {
        true => FileKind::Index,
        false => FileKind::UnfitIndex,
    };
    let mut report = InspectedFile::new(path.display().to_string(), kind, len);
    report.partition = Some(partition);
    Ok(Some(report))
}

/// A whole file and its length; `None` when there is none.
pub(super) fn read_whole(dir: &dyn Dir, path: &Path) -> io::Result<Option<(Vec<u8>, u64)>> {
    let file = match dir.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = file.len()?;
    let mut bytes = vec![0; usize::try_from(len).expect("a small file")];
    let read = file.read_salvaging(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(Some((bytes, len)))
}
