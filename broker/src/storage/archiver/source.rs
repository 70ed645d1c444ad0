//! The journal files of a pass, to take batches from.

use std::io;

use crate::model::{BatchHeader, HEADER_LEN};
use crate::storage::journal::{
    ClosedFile, FRAME_HEADER_LEN, FRAME_PREFIX_LEN, Frame, Window, frame_len,
};
use crate::storage::runs::Run;

/// Reads batches out of closed journal files.
pub(super) struct Source<'a> {
    files: &'a [ClosedFile],
    /// On one of them, by its index: they are read one after the other.
    window: Option<(usize, Window<'a>)>,
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
        Source {
            files,
            window: None,
        }
    }

    /// Reads what lies from the batch of one run to that of another in the same file,
    /// of which batches will be asked for.
    pub(super) fn load(&mut self, first: &Run, last: &Run) -> io::Result<()> {
        let Some((_, window)) = self.window_on(first) else {
            return Ok(());
        };
        let start = first.lsn.position() as usize;
        let end = last.lsn.position() as usize + frame_len(last.payload_len as usize);
        window.load(start, end - start)
    }

    /// The batch that a run points to, if it is still what was written.
    pub(super) fn body(&mut self, run: &Run) -> io::Result<Option<Body<'_>>> {
        let Some((closed, window)) = self.window_on(run) else {
            return Ok(None);
        };
        let bytes = window.get(
            run.lsn.position() as usize,
            frame_len(run.payload_len as usize),
        )?;
        Ok(decode(bytes, run, closed.seed))
    }

    /// The file that a run lies in, and the window moved to it.
    fn window_on(&mut self, run: &Run) -> Option<(&'a ClosedFile, &mut Window<'a>)> {
        let generation = run.lsn.generation();
        let is_on = |(index, _): &(usize, Window<'_>)| self.files[*index].generation == generation;
        if !self.window.as_ref().is_some_and(is_on) {
            let index = self
                .files
                .binary_search_by_key(&generation, |file| file.generation)
                .ok()?;
            let (file, len) = (&self.files[index].file, self.files[index].end.position());
            let (file, len) = (file.file().as_ref(), len as usize);
            let moved = match self.window.take() {
                Some((_, window)) => window.moved_to(file, len),
                None => Window::new(file, len),
            };
            self.window = Some((index, moved));
        }
        let (index, window) = self.window.as_mut()?;
        Some((&self.files[*index], window))
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
