//! Reads that don't care where a record lies.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::Storage;
use super::journal::JournalRead;
use super::log::{LogState, PartitionLog};
use super::runs::Run;
use super::segment::{SegmentEnd, SegmentName, SegmentRead, SegmentReader};
use crate::limits;
use crate::model::{BatchHeader, HEADER_LEN, Offset, PartitionId};

/// A batch as it lies in the log; its checksums were verified if it came from
/// disk.
#[derive(Debug, Clone)]
pub struct StoredBatch {
    /// The broker's header.
    pub header: BatchHeader,
    /// The encoded `RecordBatch`.
    pub payload: Bytes,
}

/// What a read found at the offset that was asked for.
#[derive(Debug, Clone)]
pub enum Read {
    /// Batches in order; the first contains the offset asked for and may begin
    /// before it. Empty only when the offset is the end of what was asked for.
    Batches(Vec<StoredBatch>),
    /// The offset is below the readable range: go on at `log_start_offset`.
    Truncated {
        /// Offset of the oldest record that is kept.
        log_start_offset: Offset,
    },
    /// The offsets from the one asked for up to `to` are damaged: go on there.
    Quarantined {
        /// One past the last damaged offset.
        to: Offset,
    },
}

/// Why a read failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Beyond the high watermark.
    #[error("offset {offset} lies beyond the high watermark {high_watermark}")]
    BeyondEnd {
        /// What was asked for.
        offset: Offset,
        /// The end of what is readable.
        high_watermark: Offset,
    },
    /// The partition was deleted.
    #[error("partition {0} was deleted")]
    Deleted(PartitionId),
    /// The disk failed to read.
    #[error("reading failed: {0}")]
    Io(Arc<str>),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> ReadError {
        ReadError::Io(error.to_string().into())
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct ReadRequest {
    /// The first offset wanted.
    pub from: Offset,
    /// No batch that begins here or later is returned. The high watermark
    /// bounds it, too.
    pub until: Offset,
    /// The most bytes of batches with their headers, but at least one batch.
    pub max_bytes: usize,
}

/// Where the batches asked for lie.
enum Place {
    /// The answer is known without reading.
    Known(Read),
    /// In the journal.
    Journal(Vec<Run>),
    /// In the active segment.
    Active(SegmentName, SegmentEnd),
    /// In one of the sealed segments.
    Sealed,
}

/// What became of opening a segment.
pub(super) enum Opened {
    /// It is open.
    Segment(Arc<SegmentReader>),
    /// Retention removed it, compaction replaced it, or its partition was
    /// deleted.
    Gone,
    /// It should be there.
    Lost,
}

impl Storage {
    /// Reads from memory; `None` when a disk is needed. Never blocks for long.
    pub fn read_cached(
        &self,
        log: &PartitionLog,
        request: ReadRequest,
    ) -> Result<Option<Read>, ReadError> {
        match locate(log, &request)? {
            Place::Known(read) => Ok(Some(read)),
            Place::Journal(runs) => {
                let batches = self.journal.read_tail(&runs);
                Ok((!batches.is_empty()).then_some(Read::Batches(batches)))
            }
            Place::Active(..) | Place::Sealed => Ok(None),
        }
    }

    /// Reads, from disk if need be. Blocks.
    pub fn read(&self, log: &PartitionLog, request: ReadRequest) -> Result<Read, ReadError> {
        // What is looked up can move, from the journal to a segment and from
        // active to sealed, before it is read; then it is looked up again.
        loop {
            match locate(log, &request)? {
                Place::Known(read) => return Ok(read),
                Place::Journal(runs) => {
                    let batches = self.journal.read_tail(&runs);
                    if !batches.is_empty() {
                        return Ok(Read::Batches(batches));
                    }
                    match self.journal.read_file(&runs)? {
                        JournalRead::Batches(batches) => return Ok(Read::Batches(batches)),
                        JournalRead::Damaged => {
                            return Ok(quarantine(log, &request, runs[0].next_offset()));
                        }
                        JournalRead::Recycled => {}
                    }
                }
                Place::Active(name, end) => {
                    if let Some(read) = self.read_segment(log, &request, name, end)? {
                        return Ok(read);
                    }
                }
                Place::Sealed => {
                    if let Some(read) = self.read_sealed(log, &request)? {
                        return Ok(read);
                    }
                }
            }
        }
    }

    /// Reads from the sealed segment that holds the offset; `None` when the
    /// segments changed meanwhile.
    fn read_sealed(&self, log: &PartitionLog, request: &ReadRequest) -> io::Result<Option<Read>> {
        let (sealed, active) = self.segments_of(log)?;
        let index = sealed.partition_point(|name| name.base_offset <= request.from);
        let next = match sealed.get(index) {
            Some(next) => Some(next.base_offset),
            None => active.map(|active| active.base_offset),
        };
        let Some(next) = next.filter(|&next| next > request.from) else {
            return Ok(None);
        };
        let Some(&name) = index.checked_sub(1).and_then(|index| sealed.get(index)) else {
            return Ok(Some(quarantine(log, request, next)));
        };
        let len = match self.open_segment(log, name)? {
            Opened::Segment(reader) => reader.sealed_len()?,
            Opened::Gone => return Ok(None),
            Opened::Lost => return Ok(Some(quarantine(log, request, next))),
        };
        let end = SegmentEnd {
            len,
            next_offset: next,
        };
        self.read_segment(log, request, name, end)
    }

    /// Reads from a segment; `None` when it was removed meanwhile.
    fn read_segment(
        &self,
        log: &PartitionLog,
        request: &ReadRequest,
        name: SegmentName,
        end: SegmentEnd,
    ) -> io::Result<Option<Read>> {
        let reader = match self.open_segment(log, name)? {
            Opened::Segment(reader) => reader,
            Opened::Gone => return Ok(None),
            Opened::Lost => return Ok(Some(quarantine(log, request, end.next_offset))),
        };
        match reader.read(request.from, end, request.max_bytes)? {
            SegmentRead::Damaged { to } => Ok(Some(quarantine(log, request, to))),
            SegmentRead::Batches(batches) => {
                // The archiver may be ahead of what is published.
                let until = request.until.min(log.high_watermark());
                let stored = batches
                    .into_iter()
                    .take_while(|(header, _)| header.base_offset < until)
                    .map(|(header, payload)| StoredBatch { header, payload });
                Ok(Some(Read::Batches(stored.collect())))
            }
        }
    }

    /// Opens a segment that was there a moment ago.
    pub(super) fn open_segment(&self, log: &PartitionLog, name: SegmentName) -> io::Result<Opened> {
        match self.segments.open(self.dir.as_ref(), log.id(), name) {
            Ok(reader) => Ok(Opened::Segment(reader)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(match log.lock().has_segment(name) {
                    true => Opened::Lost,
                    false => Opened::Gone,
                })
            }
            Err(error) => Err(error),
        }
    }
}

/// Finds out where the batches asked for lie.
fn locate(log: &PartitionLog, request: &ReadRequest) -> Result<Place, ReadError> {
    let high_watermark = log.high_watermark();
    let state = log.lock();
    if state.deleted {
        return Err(ReadError::Deleted(log.id()));
    }
    if request.from < state.log_start {
        return Ok(Place::Known(Read::Truncated {
            log_start_offset: state.log_start,
        }));
    }
    if request.from > high_watermark {
        return Err(ReadError::BeyondEnd {
            offset: request.from,
            high_watermark,
        });
    }
    let until = request.until.min(high_watermark);
    if request.from >= until {
        return Ok(Place::Known(Read::Batches(Vec::new())));
    }
    if request.from >= state.archived_end() {
        return Ok(in_journal(&state, request, until));
    }
    match state.active {
        Some(active) if request.from >= active.base_offset => {
            if request.from >= active.next_offset {
                return Ok(Place::Known(Read::Quarantined {
                    to: state.archived_end(),
                }));
            }
            let end = SegmentEnd {
                len: active.len,
                next_offset: active.next_offset,
            };
            Ok(Place::Active(active.base_offset.into(), end))
        }
        Some(_) => Ok(Place::Sealed),
        None => Ok(Place::Known(Read::Quarantined {
            to: state.archived_end(),
        })),
    }
}

fn in_journal(state: &LogState, request: &ReadRequest, until: Offset) -> Place {
    let mut there = state.runs.from(request.from).peekable();
    match there.peek() {
        Some(run) if run.base_offset <= request.from => {}
        Some(run) => {
            return Place::Known(Read::Quarantined {
                to: run.base_offset.min(until),
            });
        }
        None => return Place::Known(Read::Quarantined { to: until }),
    }
    let mut runs: Vec<Run> = Vec::new();
    let mut bytes = 0;
    for run in there.take(limits::BATCHES_PER_READ) {
        let hole = runs
            .last()
            .is_some_and(|last| last.next_offset() != run.base_offset);
        if run.base_offset >= until || hole {
            break;
        }
        bytes += HEADER_LEN + run.payload_len as usize;
        if bytes > request.max_bytes && !runs.is_empty() {
            break;
        }
        runs.push(run);
    }
    Place::Journal(runs)
}

/// Reports damage that a read came upon, and remembers it.
fn quarantine(log: &PartitionLog, request: &ReadRequest, to: Offset) -> Read {
    log.lock().note_quarantined(request.from, to);
    Read::Quarantined { to }
}
