//! Reads journal files back after a start: which files belong to the log, and
//! which frames in them are valid.
//!
//! Nothing is judged here. A place that holds no valid frame is a gap; whether
//! it is a torn tail or damage is for recovery to say.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::files::JournalFile;
use super::frame::{FRAME_ALIGN, FRAME_PREFIX_LEN, Frame, frame_len};
use super::header::{FILE_HEADER_LEN, FileHeader};
use super::headless::{Headless, HeadlessFiles};
use super::window::{WINDOW, Window};
use crate::model::{BatchHeader, Offset, PartitionId, StoredStamp};
use crate::storage::dir::{File, is_bad_sector};
use crate::storage::lsn::{Generation, Lsn};
use crate::storage::producers::Incoming;
use crate::storage::runs::Run;

/// What recovery needs of a valid frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScannedFrame {
    /// Where it lies.
    pub lsn: Lsn,
    /// Everything before this was durable when it was written.
    pub flushed: Lsn,
    /// Whose batch it is.
    pub partition: PartitionId,
    /// Frames of the same unit that follow.
    pub unit_remaining: u16,
    /// Of its batch.
    pub base_offset: Offset,
    /// Offsets that its batch covers.
    pub span: u32,
    /// Size of the payload in bytes.
    pub payload_len: u32,
    /// The latest time of its records.
    pub max_timestamp_ms: i64,
    /// When it was appended: milliseconds since the Unix epoch.
    pub append_time_ms: i64,
    /// Who sent it, as far as they said so.
    pub stamp: Option<StoredStamp>,
    /// Whether the payload is the one that was written.
    pub payload_is_valid: bool,
}

impl ScannedFrame {
    /// One past the frame.
    pub fn end(&self) -> Lsn {
        Lsn(self.lsn.0 + frame_len(self.payload_len as usize) as u64)
    }

    /// Where its batch lies.
    pub fn run(&self) -> Run {
        Run {
            base_offset: self.base_offset,
            lsn: self.lsn,
            payload_len: self.payload_len,
            span: self.span,
            max_timestamp_ms: self.max_timestamp_ms,
        }
    }

    /// Its batch, as producers know it.
    pub fn incoming(&self) -> Incoming {
        Incoming {
            base_offset: self.base_offset,
            count: self.span,
            generation: self.lsn.generation(),
            now_ms: self.append_time_ms,
        }
    }

    /// One past the last offset of its batch.
    pub fn next_offset(&self) -> Offset {
        self.base_offset.advanced(u64::from(self.span))
    }
}

/// What lies in a file, in order, without overlaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scanned {
    /// A frame whose head is valid.
    Frame(ScannedFrame),
    /// Bytes that are no frames.
    Gap {
        /// The first byte.
        from: Lsn,
        /// One past the last.
        to: Lsn,
    },
}

/// A file of the chain.
#[derive(Debug, Clone)]
pub struct ChainFile {
    /// The file.
    pub file: Arc<JournalFile>,
    /// Its header.
    pub header: FileHeader,
    /// One past its last frame, as the next file says; `None` in the newest.
    pub end: Option<Lsn>,
}

impl ChainFile {
    /// A file of which nothing else is known.
    pub fn alone(file: Arc<dyn File>, header: FileHeader) -> ChainFile {
        ChainFile {
            file: Arc::new(JournalFile::examined(file)),
            header,
            end: None,
        }
    }
}

/// The files that make up the log from the checkpoint on, and the others.
#[derive(Debug, Default)]
pub struct Chain {
    /// Oldest first.
    pub files: Vec<ChainFile>,
    /// They hold nothing that counts.
    pub spares: Vec<Arc<JournalFile>>,
    /// The newest generation that any header names.
    pub newest: Option<Generation>,
    /// A generation that the chain needs and no file has.
    pub missing: Vec<Generation>,
    /// Files of the chain whose headers were unreadable.
    pub rebuilt: Vec<Generation>,
}

impl Chain {
    /// Walks from the newest file back to `archived`, which and all before it
    /// are in segments. `None`: how far that is isn't known, so the walk goes on
    /// while there are files.
    pub fn walk(files: Vec<Arc<JournalFile>>, archived: Option<Generation>) -> io::Result<Chain> {
        let mut chain = Chain::default();
        let mut used = BTreeMap::new();
        let mut unreadable = Vec::new();
        for file in files {
            match read_header(file.file().as_ref())? {
                Header::Valid(header) => {
                    used.insert(header.generation, (header, file));
                }
                Header::Blank => chain.spares.push(file),
                Header::Damaged { has_bad_sector } => unreadable.push((file, has_bad_sector)),
            }
        }
        let floor = archived.unwrap_or(Generation::ZERO);
        let mut headless = chain.rebuild_headers(unreadable, floor, &mut used)?;
        chain.newest = used.last_key_value().map(|(&generation, _)| generation);
        let mut wanted = chain.newest;
        let mut end = None;
        while let Some(generation) = wanted.filter(|&wanted| wanted > floor) {
            let older = used.range(..generation).next_back();
            let older = older.map(|(&older, _)| older);
            let found = match used.remove(&generation) {
                Some((header, file)) => Some((header, file)),
                None => {
                    let older = older.map_or(floor, |older| older.max(floor));
                    let told = headless.take(generation, older, &chain.files)?;
                    chain.rebuilt.extend(told.as_ref().map(|_| generation));
                    told
                }
            };
            if let Some((header, file)) = found {
                wanted = Some(header.previous_end.generation());
                chain.files.push(ChainFile { file, header, end });
                // A header that was made again doesn't know.
                end = Some(header.previous_end).filter(|end| end.position() > 0);
            } else if archived.is_some() {
                // Lost. What is older still counts, but nobody says where it ends.
                chain.missing.push(generation);
                wanted = older;
                end = None;
            } else {
                break;
            }
        }
        chain.files.reverse();
        let others = used.into_values().map(|(_, file)| file);
        chain.spares.extend(others.chain(headless.into_files()));
        Ok(chain)
    }

    /// Finds out which of the files with unreadable headers are newer than all
    /// others and were in use. One that was never flushed holds nothing that counts. The
    /// others, older ones, are returned: the chain may miss them.
    fn rebuild_headers(
        &mut self,
        unreadable: Vec<(Arc<JournalFile>, bool)>,
        floor: Generation,
        used: &mut BTreeMap<Generation, (FileHeader, Arc<JournalFile>)>,
    ) -> io::Result<HeadlessFiles> {
        let mut others = HeadlessFiles::default();
        let mut claims = Vec::new();
        for (file, has_bad_sector) in unreadable {
            match Headless::look(file, has_bad_sector)? {
                Ok(headless) => claims.push(headless),
                Err(spare) => self.spares.push(spare),
            }
        }
        claims.sort_by_key(Headless::generation);
        for headless in claims {
            let newest = used.last_key_value().map(|(_, (header, _))| *header);
            match headless.newest_header(newest.as_ref(), floor)? {
                Some(header) => {
                    self.rebuilt.push(header.generation);
                    used.insert(header.generation, (header, headless.into_file()));
                }
                None => others.push(headless),
            }
        }
        Ok(others)
    }

    /// Nothing from `generation` on counts: where the files before it end is
    /// for their frames to say.
    pub fn void_from(&mut self, generation: Generation) {
        self.missing.retain(|&missing| missing < generation);
        let newer = |file: &ChainFile| file.header.generation >= generation;
        let kept = self.files.partition_point(|file| !newer(file));
        self.spares
            .extend(self.files.drain(kept..).map(|void| void.file));
        if let Some(last) = self.files.last_mut() {
            last.end = None;
        }
    }
}

/// What the head of a file holds.
enum Header {
    Valid(FileHeader),
    /// The file was prepared, and never used.
    Blank,
    /// Neither copy is what was written. A crash may do that where it was not flushed,
    /// but it makes no sector unreadable.
    Damaged {
        has_bad_sector: bool,
    },
}

fn read_header(file: &dyn File) -> io::Result<Header> {
    let mut bytes = [0; FILE_HEADER_LEN];
    let (len, has_bad_sector) = match file.read_at(&mut bytes, 0) {
        Err(error) if is_bad_sector(&error) => (file.read_salvaging(&mut bytes, 0)?, true),
        read => (read?, false),
    };
    let is_zero = bytes[..len].iter().all(|&byte| byte == 0);
    Ok(match FileHeader::decode(&bytes[..len]) {
        Some(header) => Header::Valid(header),
        None if is_zero && !has_bad_sector => Header::Blank,
        None => Header::Damaged { has_bad_sector },
    })
}

/// Reads all frames of a file. Without an `end` the whole file is searched, so
/// that a frame behind a gap is found: it may prove that the gap is damage. Behind
/// the last frame is a gap only if the header says that there were more.
pub fn scan_file(chained: &ChainFile) -> io::Result<Vec<Scanned>> {
    let file = chained.file.file().as_ref();
    let end = chained.end;
    let len = match end {
        Some(end) => u64::from(end.position()),
        None => file.len()?.min(u64::from(u32::MAX)),
    };
    let len = usize::try_from(len).expect("a journal file fits in memory");
    let mut scan = FileScan {
        window: Window::new(file, len),
        generation: chained.header.generation,
        seed: chained.header.seed(),
        len,
    };
    let mut found = Vec::new();
    let mut position = FILE_HEADER_LEN;
    while position < len {
        if let Some(frame) = scan.frame_at(position)? {
            position += frame_len(frame.payload_len as usize);
            found.push(Scanned::Frame(frame));
            continue;
        }
        let next = scan.search(position + FRAME_ALIGN)?;
        let from = scan.lsn(position);
        let to = match next < len || end.is_some() {
            true => scan.lsn(next),
            false => scan.lsn(next).min(chained.header.flushed),
        };
        if from < to {
            found.push(Scanned::Gap { from, to });
        }
        position = next;
    }
    Ok(found)
}

/// A walk through one file.
struct FileScan<'a> {
    window: Window<'a>,
    generation: Generation,
    seed: u32,
    len: usize,
}

impl FileScan<'_> {
    fn lsn(&self, position: usize) -> Lsn {
        Lsn::new(
            self.generation,
            u32::try_from(position).expect("within a journal file"),
        )
    }

    /// The frame at `position`, if there is one whose head is valid and that
    /// ends within the file.
    fn frame_at(&mut self, position: usize) -> io::Result<Option<ScannedFrame>> {
        let lsn = self.lsn(position);
        let head = self.window.get(position, FRAME_PREFIX_LEN)?;
        let Some(frame) = Frame::decode(head, lsn, self.seed) else {
            return Ok(None);
        };
        if position + frame.len() > self.len {
            return Ok(None);
        }
        let batch: BatchHeader = frame.batch;
        let whole = self.window.get(position, frame.len())?;
        let payload = &whole[FRAME_PREFIX_LEN..][..batch.payload_len as usize];
        Ok(Some(ScannedFrame {
            lsn,
            flushed: frame.flushed,
            partition: frame.partition,
            unit_remaining: frame.unit_remaining,
            base_offset: batch.base_offset,
            span: batch.offset_span,
            payload_len: batch.payload_len,
            max_timestamp_ms: batch.max_timestamp_ms,
            append_time_ms: batch.append_time_ms,
            stamp: batch.stamp(),
            payload_is_valid: batch.matches(payload),
        }))
    }

    /// The position of the next frame from `position` on; the end of the file
    /// when there is none.
    fn search(&mut self, mut position: usize) -> io::Result<usize> {
        while position < self.len {
            let bytes = self.window.get(position, WINDOW.min(self.len - position))?;
            // Most of what is searched is zeros or another generation: only
            // where the lsn is right is the rest worth a look.
            let candidate =
                bytes
                    .chunks_exact(FRAME_ALIGN)
                    .enumerate()
                    .skip(1)
                    .find(|(index, word)| {
                        let lsn = Lsn::new(
                            self.generation,
                            u32::try_from(position + (index - 1) * FRAME_ALIGN)
                                .expect("within a file"),
                        );
                        **word == lsn.0.to_le_bytes()
                    });
            match candidate {
                Some((index, _)) => {
                    let at = position + (index - 1) * FRAME_ALIGN;
                    if self.frame_at(at)?.is_some() {
                        return Ok(at);
                    }
                    position = at + FRAME_ALIGN;
                }
                // The last word of this piece is the first of the next look.
                None if bytes.len() < 2 * FRAME_ALIGN => return Ok(self.len),
                None => position += bytes.len() / FRAME_ALIGN * FRAME_ALIGN - FRAME_ALIGN,
            }
        }
        Ok(self.len)
    }
}
