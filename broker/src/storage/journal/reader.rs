//! Reads batches back from the journal: from the tail cache, or from the files.

use std::io;

use bytes::{Bytes, BytesMut};

use super::Journal;
use super::frame::{FRAME_HEADER_LEN, FRAME_PREFIX_LEN, Frame, frame_len};
use crate::model::{BatchHeader, HEADER_LEN};
use crate::storage::lsn::Lsn;
use crate::storage::read::StoredBatch;
use crate::storage::runs::Run;

/// Frames no further apart than this are read in one go: bytes.
const COALESCE: u64 = 4096;

/// What a read of the journal's files came to.
#[derive(Debug)]
pub enum JournalRead {
    /// At least one batch.
    Batches(Vec<StoredBatch>),
    /// The file was recycled meanwhile: the batches are in segments now.
    Recycled,
    /// The first batch is not what was written.
    Damaged,
}

impl Journal {
    /// The batches at the front of `runs` that the tail cache still holds.
    pub fn read_tail(&self, runs: &[Run]) -> Vec<StoredBatch> {
        let mut batches = Vec::with_capacity(runs.len());
        let ranges = runs.iter().map(|run| {
            let body = Lsn(run.lsn.0 + FRAME_HEADER_LEN as u64);
            (body, HEADER_LEN + run.payload_len as usize)
        });
        self.tail.slices(ranges, |slice| {
            let Some(bytes) = slice else { return false };
            let header =
                BatchHeader::decode(&bytes).expect("the tail cache holds what was written");
            let payload = bytes.slice(HEADER_LEN..);
            batches.push(StoredBatch { header, payload });
            true
        });
        batches
    }

    /// Reads the batches at the front of `runs` from one file, verified. Blocks.
    pub fn read_file(&self, runs: &[Run]) -> io::Result<JournalRead> {
        let first = runs.first().expect("something is asked for");
        let generation = first.lsn.generation();
        let Some(in_use) = self.files.of_generation(generation) else {
            return Ok(JournalRead::Recycled);
        };
        let near = coalesced(runs);
        let last = &runs[near - 1];
        let start = first.lsn.position();
        let end = last.lsn.0 + frame_len(last.payload_len as usize) as u64;
        let len = usize::try_from(end - first.lsn.0).expect("reads are small");
        let mut buffer = BytesMut::zeroed(len);
        let read = in_use
            .file
            .file()
            .read_salvaging(&mut buffer, u64::from(start))?;
        buffer.truncate(read);
        let buffer = buffer.freeze();
        let mut batches = Vec::with_capacity(near);
        for run in &runs[..near] {
            let at = usize::try_from(run.lsn.0 - first.lsn.0).expect("within the read");
            match decode_run(&buffer, at, run, in_use.seed) {
                Some(batch) => batches.push(batch),
                None => break,
            }
        }
        if !batches.is_empty() {
            return Ok(JournalRead::Batches(batches));
        }
        // A frame of another generation is no damage: the file went to other
        // use after it was looked up.
        match self.files.of_generation(generation) {
            Some(_) => Ok(JournalRead::Damaged),
            None => Ok(JournalRead::Recycled),
        }
    }
}

/// How many runs from the front lie in one file, close together.
fn coalesced(runs: &[Run]) -> usize {
    let apart = |pair: &[Run]| {
        let end = pair[0].lsn.0 + frame_len(pair[0].payload_len as usize) as u64;
        pair[1].lsn.generation() != pair[0].lsn.generation() || pair[1].lsn.0 - end > COALESCE
    };
    1 + runs.windows(2).take_while(|pair| !apart(pair)).count()
}

fn decode_run(buffer: &Bytes, at: usize, run: &Run, seed: u32) -> Option<StoredBatch> {
    let frame = Frame::decode(buffer.get(at..)?, run.lsn, seed)?;
    if frame.batch.base_offset != run.base_offset || frame.batch.payload_len != run.payload_len {
        return None;
    }
    let payload_at = at + FRAME_PREFIX_LEN;
    let payload_end = payload_at + run.payload_len as usize;
    if payload_end > buffer.len() {
        return None;
    }
    let payload = buffer.slice(payload_at..payload_end);
    frame.batch.matches(&payload).then_some(StoredBatch {
        header: frame.batch,
        payload,
    })
}
