//! Reads batches from a segment, sealed or active.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

use super::index::{INDEX_INTERVAL, Index};
use super::scan::{ScannedBatch, SegmentScan, read_footer};
use super::{SegmentName, index_path, log_path};
use crate::model::{BatchHeader, HEADER_LEN, Offset, PartitionId};
use crate::storage::dir::{Dir, File};

/// Where the readable part of a segment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentEnd {
    /// Header and batches: bytes.
    pub len: u64,
    /// One past the last offset that is to be looked for here.
    pub next_offset: Offset,
}

/// What a read found.
#[derive(Debug)]
pub enum SegmentRead {
    /// Batches without a gap; the first covers the offset asked for.
    Batches(Vec<(BatchHeader, Bytes)>),
    /// The batch that covered the offset is damaged or missing.
    Damaged {
        /// One past the last offset that can't be read.
        to: Offset,
    },
}

/// A segment, open for reading.
#[derive(Debug)]
pub struct SegmentReader {
    file: Arc<dyn File>,
    /// Absent when the segment is small.
    index_file: Option<Arc<dyn File>>,
    index: Mutex<Loaded>,
}

/// The index, as far as it was loaded; an active segment grows.
#[derive(Debug, Default)]
struct Loaded {
    index: Arc<Index>,
    covers: u64,
    /// Its file lacks entries.
    is_rebuilt: bool,
}

impl SegmentReader {
    /// Opens a segment.
    pub fn open(dir: &dyn Dir, id: PartitionId, name: SegmentName) -> io::Result<SegmentReader> {
        let file = dir.open(&log_path(id, name))?;
        let index_file = match dir.open(&index_path(id, name)) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(SegmentReader {
            file,
            index_file,
            index: Mutex::default(),
        })
    }

    /// Where the batches of a sealed segment end: bytes. A damaged footer makes
    /// the whole file count: it reads as damage at its end.
    pub fn sealed_len(&self) -> io::Result<u64> {
        match read_footer(self.file.as_ref())? {
            Some(footer) => Ok(footer.state.len),
            None => self.file.len(),
        }
    }

    /// Batches from the one that covers `from` on, of at most `max_bytes` in
    /// all but at least one. Every checksum is verified.
    pub fn read(&self, from: Offset, end: SegmentEnd, max_bytes: usize) -> io::Result<SegmentRead> {
        assert!(
            from < end.next_offset,
            "an offset is looked for where it may be"
        );
        let position = self.index(end.len)?.position_of(from);
        if let Some(batches) = self.read_at(position, from, end, max_bytes)? {
            return Ok(SegmentRead::Batches(batches));
        }
        self.read_with_care(from, end)
    }

    /// The way that nearly all reads go: one read from disk. `None` when what
    /// lies there is not just what should.
    fn read_at(
        &self,
        position: u64,
        from: Offset,
        end: SegmentEnd,
        max_bytes: usize,
    ) -> io::Result<Option<Vec<(BatchHeader, Bytes)>>> {
        let wanted = max_bytes as u64 + INDEX_INTERVAL;
        let mut buffer = self.read_range(position, wanted.min(end.len.saturating_sub(position)))?;
        let mut at = 0;
        let mut batches: Vec<(BatchHeader, Bytes)> = Vec::new();
        let mut bytes = 0;
        while let Ok(header) = BatchHeader::decode(&buffer[at..]) {
            let len = header.batch_len();
            if position + (at + len) as u64 > end.len {
                break;
            }
            if header.next_offset() <= from {
                at += len;
                if at > buffer.len() {
                    return self.read_at(position + at as u64, from, end, max_bytes);
                }
                continue;
            }
            if at + len > buffer.len() {
                if !batches.is_empty() {
                    break;
                }
                // The first one is larger than what was asked for.
                buffer = self.read_range(position + at as u64, len as u64)?;
                at = 0;
                if buffer.len() < len {
                    break;
                }
            }
            let expected = batches.last().map(|(last, _)| last.next_offset());
            let follows = expected.map_or(header.base_offset <= from, |next| {
                next == header.base_offset
            });
            let payload = buffer.slice(at + HEADER_LEN..at + len);
            bytes += len;
            let is_enough = bytes > max_bytes && !batches.is_empty();
            if !follows || is_enough || !header.matches(&payload) {
                break;
            }
            batches.push((header, payload));
            at += len;
        }
        Ok((!batches.is_empty()).then_some(batches))
    }

    fn read_range(&self, position: u64, len: u64) -> io::Result<Bytes> {
        let len = usize::try_from(len).expect("reads are small");
        let mut buffer = BytesMut::zeroed(len);
        let read = self.file.read_salvaging(&mut buffer, position)?;
        buffer.truncate(read);
        Ok(buffer.freeze())
    }

    /// A walk that begins before `from`: where the index says, if a batch lies
    /// there that does, or else at the beginning.
    fn scan_before(&self, from: Offset, end: SegmentEnd) -> io::Result<SegmentScan> {
        let position = self.index(end.len)?.position_of(from);
        let head = self.read_range(position, HEADER_LEN as u64)?;
        Ok(match BatchHeader::decode(&head) {
            Ok(header) if header.base_offset <= from => {
                SegmentScan::from(self.file.clone(), position, end.len)
            }
            _ => SegmentScan::new(self.file.clone(), end.len),
        })
    }

    /// Something is wrong, with the index or with the segment: walks through it
    /// batch by batch.
    fn read_with_care(&self, from: Offset, end: SegmentEnd) -> io::Result<SegmentRead> {
        let mut scan = self.scan_before(from, end)?;
        while let Some(found) = scan.next_batch()? {
            match found {
                // No batch of ours: something in a payload looks like one.
                ScannedBatch::Valid { header, .. }
                | ScannedBatch::DamagedPayload { header, .. }
                    if header.next_offset() > end.next_offset => {}
                ScannedBatch::Valid { position, header } if header.next_offset() > from => {
                    if header.base_offset > from {
                        return Ok(SegmentRead::Damaged {
                            to: header.base_offset,
                        });
                    }
                    let payload_at = position + HEADER_LEN as u64;
                    let payload = self.read_range(payload_at, u64::from(header.payload_len))?;
                    return Ok(SegmentRead::Batches(vec![(header, payload)]));
                }
                ScannedBatch::DamagedPayload { header, .. }
                    if header.next_offset() > from && header.base_offset <= from =>
                {
                    return Ok(SegmentRead::Damaged {
                        to: header.next_offset(),
                    });
                }
                _ => {}
            }
        }
        Ok(SegmentRead::Damaged {
            to: end.next_offset,
        })
    }

    /// The base offset of the first batch with a record at or after
    /// `timestamp_ms`.
    pub fn offset_at_time(&self, timestamp_ms: i64, end: SegmentEnd) -> io::Result<Option<Offset>> {
        let position = self.index(end.len)?.position_at_time(timestamp_ms);
        let mut scan = SegmentScan::from(self.file.clone(), position, end.len);
        while let Some(found) = scan.next_batch()? {
            if let ScannedBatch::Valid { header, .. } = found
                && header.max_timestamp_ms >= timestamp_ms
            {
                return Ok(Some(header.base_offset));
            }
        }
        Ok(None)
    }

    /// The index of a sealed segment of `len` bytes, if it was made again since its file
    /// lacks something. `None`, too, while it is being made.
    pub fn rebuilt_index(&self, len: u64) -> Option<Arc<Index>> {
        let loaded = self.index.try_lock().ok()?;
        (loaded.is_rebuilt && loaded.covers == len).then(|| loaded.index.clone())
    }

    /// That index was written.
    pub fn index_is_restored(&self) {
        let mut loaded = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.is_rebuilt = false;
    }

    /// The index of the first `len` bytes; loaded, or made again, when what is
    /// at hand covers too little.
    fn index(&self, len: u64) -> io::Result<Arc<Index>> {
        let mut loaded = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        if len < loaded.covers + 4 * INDEX_INTERVAL {
            return Ok(loaded.index.clone());
        }
        let from_file = match &self.index_file {
            Some(file) => {
                let mut bytes = vec![0; usize::try_from(file.len()?).expect("an index is small")];
                let read = file.read_salvaging(&mut bytes, 0)?;
                Index::decode(&bytes[..read], len)
            }
            None => None,
        };
        let in_file = from_file.as_ref().map_or(0, Index::len);
        // Where the file has less than is known already, only what came since is read.
        let known = from_file.filter(|found| found.len() >= loaded.index.len());
        let known = known.unwrap_or_else(|| Index::clone(&loaded.index));
        let index = SegmentScan::complete_index(&self.file, known, len)?;
        *loaded = Loaded {
            is_rebuilt: index.len() > in_file,
            index: Arc::new(index),
            covers: len,
        };
        Ok(loaded.index.clone())
    }
}
