//! The header of the newest file, which is written again to say that more is
//! durable than when the file was begun.
//!
//! A frame proves that what lies before it was durable. Behind the last frames
//! there is none, and a broker may be idle or stopped for years: so it is noted in
//! the header. Only in one of its copies: the other one stays, whatever a crash
//! makes of this one. It may say less than is true, and never more.

use std::io;
use std::sync::Arc;

use super::files::JournalFile;
use super::header::{FileHeader, PROOF_AT};
use crate::storage::dir::is_passing;
use crate::storage::lsn::Lsn;

/// Where it is noted up to where the journal is durable.
#[derive(Debug)]
pub struct Proof {
    file: Arc<JournalFile>,
    /// As it was written last.
    header: FileHeader,
}

impl Proof {
    /// In the header of this file, which says `header`.
    pub fn new(file: Arc<JournalFile>, header: FileHeader) -> Proof {
        Proof { file, header }
    }

    /// Whether it is in this file.
    pub(super) fn is_in(&self, file: &Arc<JournalFile>) -> bool {
        Arc::ptr_eq(&self.file, file)
    }

    /// Notes that everything before `flushed` is durable. Returns the file, which
    /// is to be flushed; `None` if nothing new was said, or there is no room for it
    /// on a disk that never writes to the same place.
    pub(super) fn write(&mut self, flushed: Lsn) -> io::Result<Option<Arc<JournalFile>>> {
        if flushed <= self.header.flushed {
            return Ok(None);
        }
        let header = FileHeader {
            flushed,
            ..self.header
        };
        match self
            .file
            .file()
            .write_all_at(&header.encode_copy(), PROOF_AT)
        {
            Err(error) if is_passing(&error) => return Ok(None),
            written => written?,
        }
        self.header = header;
        Ok(Some(self.file.clone()))
    }
}
