//! The header of the newest file, which is written again to say that more is
//! durable than when the file was begun.
//!
//! A frame proves that what lies before it was durable. Behind the last frames
//! there is none, and a broker may be idle or stopped for years: so it is noted in
//! the header. Only in one of its copies: the other one stays, whatever a crash
//! makes of this one. It may say less than is true, and never more.
//!
//! Both are written, though, and all of their page: if a sector of it can't be read, it
//! can still be written.

use std::io;
use std::sync::{Arc, Weak};

use super::files::JournalFile;
use super::header::FileHeader;
use crate::storage::dir::is_passing;
use crate::storage::lsn::Lsn;

/// Where it is noted up to where the journal is durable.
#[derive(Debug)]
pub struct Proof {
    /// Not held open: once everything in it is in segments, it may be removed, for its room.
    file: Weak<JournalFile>,
    /// The copy that stays.
    header: FileHeader,
    /// What the other one proves.
    flushed: Lsn,
}

impl Proof {
    /// In the header of this file, which says `header`.
    pub fn new(file: &Arc<JournalFile>, header: FileHeader) -> Proof {
        Proof {
            file: Arc::downgrade(file),
            header,
            flushed: header.flushed,
        }
    }

    /// Whether it is in this file.
    pub(super) fn is_in(&self, file: &Arc<JournalFile>) -> bool {
        std::ptr::eq(self.file.as_ptr(), Arc::as_ptr(file))
    }

    /// Notes that everything before `flushed` is durable. Returns the file, which
    /// is to be flushed; `None` if nothing new was said, the file is gone, or there is no
    /// room for it on a disk that never writes to the same place.
    pub(super) fn write(&mut self, flushed: Lsn) -> io::Result<Option<Arc<JournalFile>>> {
        if flushed <= self.flushed {
            return Ok(None);
        }
        let Some(file) = self.file.upgrade() else {
            return Ok(None);
        };
        let second = FileHeader {
            flushed,
            ..self.header
        };
        let page = self.header.encode_with(&second);
        match file.file().write_all_at(&page, 0) {
            Err(error) if is_passing(&error) => return Ok(None),
            written => written?,
        }
        self.flushed = flushed;
        Ok(Some(file))
    }
}
