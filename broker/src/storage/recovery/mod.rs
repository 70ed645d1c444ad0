//! What happens to a journal after a start.
//!
//! Recovery replays the journal from the checkpoint on. Let `durable` be the
//! highest `flushed` that any valid frame or file header names: everything
//! before it had been made durable, and may have been acknowledged. Frames say so of
//! what was before them, and the header of a file of its last ones, once the broker
//! was idle or stopped. Then, for each place where no valid frame lies:
//!
//! | case | what is found | what it is | what is done |
//! |---|---|---|---|
//! | A | no valid frame follows, at or behind `durable` | the end | nothing |
//! | B | a gap that begins at or behind `durable` | a torn tail: never acknowledged | cut; later frames are void |
//! | C | a gap that begins before `durable` and ends at or before it | damage | quarantined; replay goes on behind it |
//! | D | a gap that begins before `durable` and ends behind it | damage, then a torn tail | quarantined up to `durable`, cut there |
//! | E | a frame with a valid head and a wrong payload, before `durable` | damage with a name | its offsets are quarantined |
//! | F | the same at or behind `durable` | a torn tail | as B |
//! | G | a unit whose last frames fall to a cut | a unit that was never acknowledged | cut before its first frame |
//! | H | a frame whose offsets are in segments already | the checkpoint was lost, and rebuilt from segments | skipped; files with nothing else count as archived |
//! | I | a frame that begins behind the partition's next offset | frames between were lost to C or D | the offsets between are quarantined |
//! | J | a file that the chain names is missing, and begins before `durable` | damage of a whole file | as C |
//! | K | the same at or behind `durable` | its header was never flushed, only that of a later one | it and later files are void |
//! | L | a file with an unreadable header that the chain names, or a newest one whose frames prove that it was flushed | damage of a header | it is made again from the frames |
//!
//! After C, D or J nobody knows which partitions lost their last batches. A
//! partition without a frame behind the damage might give out offsets again
//! that were acknowledged for other records; so it skips as many as the lost
//! bytes can have held. That verdict must outlive the bytes it is based on: a
//! file with damage is recycled only when the archiver has had its turn, and the
//! checkpoint holds the offsets that were skipped.

mod walk;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use walk::{Replay, Replayed};

use super::journal::{Chain, ChainFile, JournalFiles, Proof, Scanned, scan_file};
use super::log::PartitionLog;
use super::lsn::{Generation, Lsn};
use super::producers::ProducerReplay;
use crate::model::{Offset, PartitionId};

/// What recovery did, for the log and for tests.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Batches that were replayed from the journal.
    pub replayed: u64,
    /// Where a torn tail was cut off.
    pub cut: Option<Lsn>,
    /// The checkpoint was lost, and rebuilt from the segments.
    pub rebuilt_checkpoint: bool,
    /// Files whose headers were unreadable, and made again from their frames.
    pub rebuilt_headers: Vec<Generation>,
    /// Everything that was damaged.
    pub damage: Vec<JournalDamage>,
    /// Partitions of whose producers something was forgotten, since the snapshot of
    /// them was lost.
    pub lost_producers: usize,
}

/// Damage in the journal below what was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalDamage {
    /// These bytes are no frames.
    Bytes {
        /// The first one.
        from: Lsn,
        /// One past the last one.
        to: Lsn,
    },
    /// A file is missing or its header is unreadable.
    File(Generation),
    /// These offsets were lost.
    Offsets {
        /// The partition.
        partition: PartitionId,
        /// The first offset.
        from: Offset,
        /// One past the last one.
        to: Offset,
    },
}

/// The journal after recovery.
pub(super) struct Recovered {
    /// The newest generation that is in segments, as a checkpoint should say.
    pub(super) archived: Generation,
    /// One past the last frame that counts.
    pub(super) end: Lsn,
    /// The newest generation that was ever begun.
    pub(super) newest: Generation,
    /// In the newest file that is left, which may not say yet what is durable now.
    pub(super) proof: Option<Proof>,
    /// So many records of any partition may have been lost.
    pub(super) lost_offsets: Option<u64>,
}

/// What is replayed into, and told.
pub(super) struct ReplayInto<'a> {
    pub(super) logs: &'a mut HashMap<PartitionId, Arc<PartitionLog>>,
    pub(super) producers: &'a mut ProducerReplay,
    pub(super) report: &'a mut RecoveryReport,
}

/// Replays the journal behind `archived`, and sorts its files into closed and spare
/// ones.
pub(super) fn replay(
    files: &JournalFiles,
    archived: Option<Generation>,
    into: ReplayInto<'_>,
) -> io::Result<Recovered> {
    let chain = Chain::walk(files.open_all()?, archived)?;
    let newest = chain.newest.max(archived).unwrap_or(Generation::ZERO);
    into.report.rebuilt_headers.clone_from(&chain.rebuilt);
    let Chosen {
        chain,
        durable,
        mut scanned,
    } = choose(chain)?;

    let mut replay = Replay::new(into, durable);
    let missing = chain.missing;
    for &generation in &missing {
        replay.missing_file(generation, files.size().file_bytes);
    }
    let mut ended = Vec::new();
    for file in &chain.files {
        let known = scanned.take_if(|(generation, _)| *generation == file.header.generation);
        let found = match known {
            Some((_, found)) => found,
            None => scan_file(file)?,
        };
        ended.push(replay.file(file, found));
    }
    let lost_offsets = replay.finish();

    for spare in chain.spares {
        files.adopt_spare(spare);
    }
    // What names a missing file is all that tells of it.
    let tells = |file: &Replayed| missing.contains(&file.header.previous_end.generation());
    while ended
        .last()
        .is_some_and(|file| file.is_empty() && !tells(file))
    {
        let empty = ended.pop().expect("there is a last one");
        files.adopt_spare(empty.closed.file);
    }
    if let Some(last) = ended.last_mut() {
        // Once this one is archived, void files behind it must not come back.
        last.closed.covers = newest;
    }
    // Without a checkpoint, what is older than all that is left was archived: a
    // file goes to other use only then.
    let archived = archived.unwrap_or_else(|| {
        let oldest = ended.first();
        oldest.map_or(newest, |oldest| oldest.closed.generation.previous())
    });
    let mut end = Lsn::new(archived, 0);
    let mut proof = None;
    for Replayed { closed, header, .. } in ended {
        // It was read from the page cache: make sure it is on disk before
        // readers see it.
        closed.file.file().sync_data()?;
        end = closed.end;
        proof = Some(Proof::new(&closed.file, header));
        files.adopt_closed(closed);
    }
    Ok(Recovered {
        archived,
        end,
        newest,
        proof,
        lost_offsets,
    })
}

/// The files that count.
struct Chosen {
    chain: Chain,
    /// Everything before this had been made durable.
    durable: Lsn,
    /// What lies in the newest file, to spare a second look.
    scanned: Option<(Generation, Vec<Scanned>)>,
}

/// Finds out what is proven durable, and leaves out what is void by that.
fn choose(mut chain: Chain) -> io::Result<Chosen> {
    let Some(last) = chain.files.last() else {
        return Ok(Chosen {
            chain,
            durable: Lsn::ZERO,
            scanned: None,
        });
    };
    let found = scan_file(last)?;
    let durable = durable(&chain.files, &found);
    let scanned = Some((last.header.generation, found));
    // Case K.
    let is_torn = |missing: &Generation| Lsn::new(*missing, 0) >= durable;
    if let Some(torn) = chain.missing.iter().copied().filter(is_torn).min() {
        chain.void_from(torn);
    }
    Ok(Chosen {
        chain,
        durable,
        scanned,
    })
}

/// Up to where everything is proven durable: by the headers of the files, or by
/// frames of the newest one, which know what those before them knew.
pub(super) fn durable(files: &[ChainFile], newest: &[Scanned]) -> Lsn {
    let by_headers = files.iter().map(|file| file.header.flushed);
    let by_frames = newest.iter().filter_map(|found| match found {
        Scanned::Frame(frame) => Some(frame.flushed),
        Scanned::Gap { .. } => None,
    });
    by_headers.chain(by_frames).fold(Lsn::ZERO, Lsn::max)
}
