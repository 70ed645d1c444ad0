//! The journal files of a pass, to take batches from.

use std::io;

use crate::model::{BatchHeader, HEADER_LEN};
use crate::storage::journal::{
    ClosedFile, FRAME_HEADER_LEN, FRAME_PREFIX_LEN, Frame, Window, frame_len,
};
use crate::storage::runs::Run;

/// Reads batches out of closed journal files.
pub(super) struct Source<'a> {
    files: Vec<(&'a ClosedFile, Window<'a>)>,
}

/// A batch in a journal file.
pub(super) struct Body<'a> {
    pub(super) header: BatchHeader,
    /// Batch header and payload: what segments hold.
    pub(super) bytes: &'a [u8],
}

/// Bytes that the batch of a run takes in a segment.
pub(super) fn body_len(run: &Run) -> usize {
    HEADER_LEN + run.payload_len as usize
}

impl<'a> Source<'a> {
    /// Over files in the order of their generations.
    pub(super) fn new(files: &'a [ClosedFile]) -> Source<'a> {
        let window = |closed: &'a ClosedFile| {
            let file = closed.file.file().as_ref();
            Window::new(file, closed.end.position() as usize)
        };
        Source {
            files: files.iter().map(|file| (file, window(file))).collect(),
        }
    }

    /// The batch that a run points to, if it is still what was written.
    pub(super) fn body(&mut self, run: &Run) -> io::Result<Option<Body<'_>>> {
        let generation = run.lsn.generation();
        let of = |(file, _): &(&ClosedFile, Window<'_>)| file.generation;
        let Ok(index) = self.files.binary_search_by_key(&generation, of) else {
            return Ok(None);
        };
        let (closed, window) = &mut self.files[index];
        let bytes = window.get(
            run.lsn.position() as usize,
            frame_len(run.payload_len as usize),
        )?;
        Ok(decode(bytes, run, closed.seed))
    }
}

fn decode<'a>(bytes: &'a [u8], run: &Run, seed: u32) -> Option<Body<'a>> {
    let frame = Frame::decode(bytes, run.lsn, seed)?;
    let end = FRAME_HEADER_LEN + body_len(run);
    let matches = frame.batch.base_offset == run.base_offset
        && frame.batch.matches(bytes.get(FRAME_PREFIX_LEN..end)?);
    matches.then(|| Body {
        header: frame.batch,
        bytes: &bytes[FRAME_HEADER_LEN..end],
    })
}
