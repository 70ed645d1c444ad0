//! Files whose headers can't be read, and what their frames tell of them.
//!
//! A header says which generation a file is of, what salt its frames have, where the file
//! before it ends. The first frame names the generation, and the salt follows from its
//! checksum, unless a neighbour has the same. Where the file before it ends is not known.

use std::io;
use std::sync::Arc;

use super::files::JournalFile;
use super::frame::{FRAME_PREFIX_LEN, Frame, salt_of};
use super::header::{FILE_HEADER_LEN, FileHeader};
use super::scan::{ChainFile, Scanned, scan_file};
use crate::storage::lsn::{Generation, Lsn};

/// A file that was in use and whose header can't be read.
#[derive(Debug)]
pub(super) struct Headless {
    file: Arc<JournalFile>,
    /// Its first frame claims to be of it.
    generation: Generation,
    /// That of its first frame, if it is valid.
    salt: Option<u32>,
    /// A crash may tear a header that was not flushed, but it makes no sector unreadable.
    has_bad_sector: bool,
}

impl Headless {
    /// Looks at the first frame of a file; gives it back if there is none.
    pub(super) fn look(
        file: Arc<JournalFile>,
        has_bad_sector: bool,
    ) -> io::Result<Result<Headless, Arc<JournalFile>>> {
        let mut bytes = [0; FRAME_PREFIX_LEN];
        let at = FILE_HEADER_LEN as u64;
        let read = file.file().read_salvaging(&mut bytes, at)?;
        let lsn = Frame::claimed_lsn(&bytes[..read]);
        let first = lsn.filter(|lsn| lsn.position() as usize == FILE_HEADER_LEN);
        let Some(generation) = first.map(Lsn::generation) else {
            return Ok(Err(file));
        };
        Ok(Ok(Headless {
            file,
            generation,
            salt: salt_of(&bytes, generation),
            has_bad_sector,
        }))
    }

    /// The generation that it seems to be of.
    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    pub(super) fn into_file(self) -> Arc<JournalFile> {
        self.file
    }

    /// Its header, if it is newer than `newest` and than what is archived, up to `floor`;
    /// and if one of its frames proves that the header had been flushed, or it was no
    /// crash that took it.
    pub(super) fn newest_header(
        &self,
        newest: Option<&FileHeader>,
        floor: Generation,
    ) -> io::Result<Option<FileHeader>> {
        let before = newest.map_or(floor, |newest| newest.generation.max(floor));
        if self.generation <= before {
            return Ok(None);
        }
        let salts = [newest.map(|newest| newest.salt), self.salt];
        for salt in salts.into_iter().flatten() {
            let header = FileHeader {
                flushed: newest.map_or(Lsn::ZERO, |newest| newest.flushed),
                ..self.header(salt, before)
            };
            if self.is_proven(header, Lsn::ZERO)? {
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    fn header(&self, salt: u32, before: Generation) -> FileHeader {
        FileHeader {
            generation: self.generation,
            salt,
            previous_end: Lsn::new(before, 0),
            flushed: Lsn::ZERO,
        }
    }

    /// Whether frames are valid by this header, and it had been flushed: a frame says
    /// that of its file, or it lies below `durable`; or it was no crash that took it.
    fn is_proven(&self, header: FileHeader, durable: Lsn) -> io::Result<bool> {
        let was_flushed = self.has_bad_sector || Lsn::new(self.generation, 0) < durable;
        let is_proof = |found: &Scanned| match found {
            Scanned::Frame(frame) if was_flushed => frame.payload_is_valid,
            Scanned::Frame(frame) => frame.flushed.generation() == self.generation,
            Scanned::Gap { .. } => false,
        };
        let found = scan_file(&ChainFile {
            file: self.file.clone(),
            header,
            end: None,
        })?;
        Ok(found.iter().any(is_proof))
    }
}

/// Those that are not newer than all others. Mostly they are archived.
#[derive(Debug, Default)]
pub(super) struct HeadlessFiles(Vec<Headless>);

impl HeadlessFiles {
    pub(super) fn push(&mut self, headless: Headless) {
        self.0.push(headless);
    }

    /// Finds the file of this generation, which the last one of `newer` names as the one
    /// before it: `older` is the newest before it whose header can be read. One that was
    /// never flushed isn't found.
    pub(super) fn take(
        &mut self,
        generation: Generation,
        older: Generation,
        newer: &[ChainFile],
    ) -> io::Result<Option<(FileHeader, Arc<JournalFile>)>> {
        let generations = self.0.iter().map(Headless::generation);
        let before = generations.filter(|&other| other < generation).max();
        let before = before.map_or(older, |before| before.max(older));
        // Frames of the same run of the broker above all: of an earlier one, there may be
        // some whose generation was given out again.
        let same_run = newer.last().map(|next| next.header.salt);
        let durable = newer.iter().map(|newer| newer.header.flushed).max();
        let durable = durable.unwrap_or(Lsn::ZERO);
        for is_same_run in [true, false] {
            for (at, headless) in self.0.iter().enumerate() {
                let salt = if is_same_run { same_run } else { headless.salt };
                let Some(salt) = salt.filter(|_| headless.generation == generation) else {
                    continue;
                };
                let header = headless.header(salt, before);
                if headless.is_proven(header, durable)? {
                    return Ok(Some((header, self.0.swap_remove(at).file)));
                }
            }
        }
        Ok(None)
    }

    pub(super) fn into_files(self) -> impl Iterator<Item = Arc<JournalFile>> {
        self.0.into_iter().map(Headless::into_file)
    }
}
