//! Reads a segment from front to end, batch by batch, and finds its way past
//! damage.

use std::io;
use std::sync::Arc;

use super::format::{FOOTER_LEN, Footer, SEGMENT_HEADER_LEN, SegmentHeader};
use super::index::{Index, is_due};
use super::state::SegmentState;
use super::{SegmentName, log_path};
use crate::model::{BatchHeader, HEADER_LEN, PartitionId};
use crate::storage::dir::{Dir, File};

/// Read in pieces of this size: bytes.
const WINDOW: usize = 1 << 20;

/// What lies at a place of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScannedBatch {
    /// A batch whose checksums are right.
    Valid {
        /// Its place: bytes.
        position: u64,
        /// Its header.
        header: BatchHeader,
    },
    /// A batch whose header is right and whose payload is not.
    DamagedPayload {
        /// Its place: bytes.
        position: u64,
        /// Its header.
        header: BatchHeader,
    },
    /// Bytes that are no batch, up to the next one or the end.
    Garbage {
        /// The first byte.
        position: u64,
        /// One past the last.
        end: u64,
    },
}

/// A walk through the batches of a segment.
#[derive(Debug)]
pub struct SegmentScan {
    file: Arc<dyn File>,
    position: u64,
    end: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl SegmentScan {
    /// A walk through the first `end` bytes of the file.
    pub fn new(file: Arc<dyn File>, end: u64) -> SegmentScan {
        SegmentScan::from(file, SEGMENT_HEADER_LEN as u64, end)
    }

    /// A walk from `position` on.
    pub fn from(file: Arc<dyn File>, position: u64, end: u64) -> SegmentScan {
        SegmentScan {
            file,
            position,
            end,
            window: Vec::new(),
            window_at: 0,
        }
    }

    /// What lies at the place of the walk, which moves on; `None` at the end.
    pub fn next_batch(&mut self) -> io::Result<Option<ScannedBatch>> {
        let position = self.position;
        if position >= self.end {
            return Ok(None);
        }
        let Some(header) = self.header_at(position)? else {
            let end = self.find_header(position + 1)?;
            self.position = end;
            return Ok(Some(ScannedBatch::Garbage { position, end }));
        };
        let len = header.batch_len();
        self.position = position + len as u64;
        let batch = self.get(position, len)?;
        Ok(Some(match header.matches(&batch[HEADER_LEN..]) {
            true => ScannedBatch::Valid { position, header },
            false => ScannedBatch::DamagedPayload { position, header },
        }))
    }

    /// The payload of the batch at `position`. Of the one that the walk came upon
    /// last, it is in memory.
    pub fn payload(&mut self, position: u64, header: &BatchHeader) -> io::Result<&[u8]> {
        let payload_at = position + HEADER_LEN as u64;
        self.get(payload_at, header.payload_len as usize)
    }

    /// Completes an index of the first `end` bytes of the file: adds the
    /// entries that are missing behind its last one.
    pub fn complete_index(file: &Arc<dyn File>, mut index: Index, end: u64) -> io::Result<Index> {
        let last = index.last();
        let position = last.map_or(SEGMENT_HEADER_LEN as u64, |entry| entry.position);
        let mut max_timestamp_ms = last.map_or(i64::MIN, |entry| entry.max_timestamp_before_ms);
        if !is_due(end, Some(position)) {
            return Ok(index);
        }
        let mut scan = SegmentScan::from(file.clone(), position, end);
        while let Some(found) = scan.next_batch()? {
            if let ScannedBatch::Valid { position, header } = found {
                index.add(&header, position, max_timestamp_ms);
                max_timestamp_ms = max_timestamp_ms.max(header.max_timestamp_ms);
            }
        }
        Ok(index)
    }

    /// A valid header at `position` whose batch ends within the segment.
    fn header_at(&mut self, position: u64) -> io::Result<Option<BatchHeader>> {
        let end = self.end;
        let bytes = self.get(position, HEADER_LEN)?;
        let header = BatchHeader::decode(bytes).ok();
        Ok(header.filter(|header| position + header.batch_len() as u64 <= end))
    }

    /// The first place from `position` on where a batch begins, or the end.
    fn find_header(&mut self, mut position: u64) -> io::Result<u64> {
        while position + (HEADER_LEN as u64) <= self.end {
            // As far as it is in memory: what looks like a batch here and there
            // must not make it read the same again and again.
            self.get(position, HEADER_LEN)?;
            let held = usize::try_from(position - self.window_at).expect("within the window");
            let bytes = &self.window[held..];
            let magic = BatchHeader::magic();
            match bytes.windows(magic.len()).position(|bytes| bytes == magic) {
                Some(skipped) => {
                    position += skipped as u64;
                    if self.header_at(position)?.is_some() {
                        return Ok(position);
                    }
                    position += 1;
                }
                None => position += (bytes.len() - magic.len() + 1).max(1) as u64,
            }
        }
        Ok(self.end)
    }

    /// Up to `want` bytes at `position`; fewer only at the end.
    fn get(&mut self, position: u64, want: usize) -> io::Result<&[u8]> {
        let left = usize::try_from(self.end - position).unwrap_or(usize::MAX);
        let want = want.min(left);
        let held = self.window_at..self.window_at + self.window.len() as u64;
        if !(held.start <= position && position + want as u64 <= held.end) {
            self.window.resize(want.max(WINDOW).min(left), 0);
            let read = self.file.read_salvaging(&mut self.window, position)?;
            self.window[read..].fill(0);
            self.window_at = position;
        }
        let at = usize::try_from(position - self.window_at).expect("within the window");
        Ok(&self.window[at..at + want])
    }
}

/// How far a segment has been filled, told from the file alone: for when the
/// checkpoint is lost. Reads a segment that isn't sealed as a whole.
pub fn recover_state(
    dir: &dyn Dir,
    partition: PartitionId,
    name: SegmentName,
) -> io::Result<SegmentState> {
    let file = dir.open(&log_path(partition, name))?;
    if let Some(footer) = read_footer(file.as_ref())? {
        return Ok(footer.state);
    }
    let mut head = [0; SEGMENT_HEADER_LEN];
    file.read_salvaging(&mut head, 0)?;
    let created_ms = SegmentHeader::decode(&head).map_or(0, |header| header.created_ms);
    let mut state = SegmentState::empty(name.base_offset, created_ms);
    let len = file.len()?;
    let mut scan = SegmentScan::new(file, len);
    while let Some(found) = scan.next_batch()? {
        let (ScannedBatch::Valid { position, header }
        | ScannedBatch::DamagedPayload { position, header }) = found
        else {
            continue;
        };
        if header.base_offset >= state.next_offset {
            // What was skipped as garbage counts as part of the segment.
            state.len = position;
            state.add(&header);
        }
    }
    Ok(state)
}

/// The footer of a sealed segment; `None` when it has none that is valid.
pub fn read_footer(file: &dyn File) -> io::Result<Option<Footer>> {
    let Some(at) = file.len()?.checked_sub(FOOTER_LEN as u64) else {
        return Ok(None);
    };
    let mut bytes = [0; FOOTER_LEN];
    file.read_salvaging(&mut bytes, at)?;
    Ok(Footer::decode(&bytes).filter(|footer| footer.state.len == at))
}
