//! The file that keeps what was known of producers when a checkpoint was written:
//! what was archived by then. Frames of the journal behind it tell the rest.
//!
//! It is written before its checkpoint. So it may be newer than the checkpoint,
//! after a crash between the two, and that does no harm: it says for each partition
//! up to which offset it knows all, and what is replayed below that is passed over.
//! It is never older, unless somebody has put an old one back. Once there is one,
//! each checkpoint gets a new one, even if there is nothing to say.
//!
//! There may be dozens of runs for every producer in every partition, so all but the last
//! are told by how they differ from the one behind: two bytes, mostly. Files in which
//! each is told in full are read, too: those of version 1.
//!
//! Which partitions it has something of is also noted in the checkpoint: so a
//! snapshot that is lost is missed exactly where it matters.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::Tally;
use super::requests::{Request, Requests};
use super::table::{Forgotten, Producer, ProducerTable};
use super::window::{SequenceRun, Window};
use crate::limits;
use crate::model::{Offset, PartitionId, RequestStamp};
use crate::storage::dir::{Dir, File};
use crate::storage::lsn::Generation;
use crate::storage::varint;

/// Name of the file.
pub const FILE: &str = "producers";
const NEW_FILE: &str = "producers.new";

/// "SCI" and the format version: 2 is what is written.
const MAGIC_2: u32 = u32::from_le_bytes(*b"SCI\x02");
const MAGIC_1: u32 = u32::from_le_bytes(*b"SCI\x01");

/// The file is written in pieces of about this size: bytes.
const PIECE: usize = if cfg!(test) { 256 } else { 1 << 20 };

/// What was known of producers at a checkpoint.
#[derive(Debug)]
pub struct Snapshot {
    /// The newest journal file that it takes account of.
    pub archived: Generation,
    /// Every partition that knew something.
    pub partitions: HashMap<PartitionId, Known>,
}

/// What was known in one partition.
#[derive(Debug)]
pub struct Known {
    /// What lies below this offset is taken account of.
    pub end: Offset,
    /// What was known.
    pub table: ProducerTable,
}

/// What is known of the file while the broker runs.
#[derive(Debug, Default)]
pub struct Noted {
    /// There is one, of whatever content.
    pub is_there: bool,
    /// The partitions that it has something of, or had before it was lost.
    pub partitions: HashSet<PartitionId>,
}

/// What was found where the snapshot lies.
#[derive(Debug)]
pub enum Loaded {
    /// A valid one.
    Snapshot(Snapshot),
    /// None at all.
    Missing,
    /// One that isn't what was written.
    Damaged,
}

impl Snapshot {
    /// Reads the snapshot of a data directory.
    pub fn load(dir: &dyn Dir, tally: &Arc<Tally>) -> io::Result<Loaded> {
        let file = match dir.open(Path::new(FILE)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::Missing),
            Err(error) => return Err(error),
        };
        let len = usize::try_from(file.len()?).expect("a snapshot fits in memory");
        let mut bytes = vec![0; len];
        let read = file.read_salvaging(&mut bytes, 0)?;
        Ok(Snapshot::decode(&bytes[..read], tally).map_or(Loaded::Damaged, Loaded::Snapshot))
    }

    pub(in crate::storage) fn decode(bytes: &[u8], tally: &Arc<Tally>) -> Option<Snapshot> {
        let (magic, rest) = bytes.split_first_chunk()?;
        let layout = match u32::from_le_bytes(*magic) {
            MAGIC_2 => Layout::Packed,
            MAGIC_1 => Layout::InFull,
            _ => return None,
        };
        let mut reader = Reader { left: rest, layout };
        if reader.u32()? != crc32fast::hash(reader.left) {
            return None;
        }
        let archived = Generation(reader.u32()?);
        let mut partitions = HashMap::new();
        while !reader.left.is_empty() {
            let (id, known) = reader.partition(tally)?;
            partitions.insert(id, known);
        }
        Some(Snapshot {
            archived,
            partitions,
        })
    }
}

/// Writes a snapshot, partition by partition.
#[derive(Debug)]
pub struct SnapshotWriter<'a> {
    dir: &'a dyn Dir,
    /// Made when there is something to write.
    file: Option<Arc<dyn File>>,
    /// Where the next piece goes.
    position: u64,
    piece: Vec<u8>,
    crc: crc32fast::Hasher,
}

impl SnapshotWriter<'_> {
    /// Begins the snapshot for a checkpoint that has archived so much. Touches no
    /// file yet.
    pub fn new(dir: &dyn Dir, archived: Generation) -> SnapshotWriter<'_> {
        SnapshotWriter {
            dir,
            file: None,
            position: 8,
            piece: archived.0.to_le_bytes().to_vec(),
            crc: crc32fast::Hasher::new(),
        }
    }

    /// Adds what `table` knew when the partition's log ended at `end`, which is where
    /// the archived part of the journal ends. Touches no file.
    pub fn add(&mut self, id: PartitionId, end: Offset, table: &ProducerTable) {
        let next = table.next_sequences(end);
        encode_partition(&mut self.piece, id, end, table, &next);
    }

    /// Writes what was added, if it is much.
    pub fn write(&mut self) -> io::Result<()> {
        if self.piece.len() < PIECE {
            return Ok(());
        }
        self.write_piece().map(drop)
    }

    fn write_piece(&mut self) -> io::Result<Arc<dyn File>> {
        let file = match &self.file {
            Some(file) => file.clone(),
            None => self.file.insert(create(self.dir)?).clone(),
        };
        file.write_all_at(&self.piece, self.position)?;
        self.crc.update(&self.piece);
        self.position += self.piece.len() as u64;
        self.piece.clear();
        Ok(file)
    }

    /// Puts it in the place of the one before; durable on return.
    pub fn finish(mut self) -> io::Result<()> {
        let file = self.write_piece()?;
        let mut head = MAGIC_2.to_le_bytes().to_vec();
        head.extend(self.crc.finalize().to_le_bytes());
        file.write_all_at(&head, 0)?;
        file.sync_data()?;
        self.dir.rename(Path::new(NEW_FILE), Path::new(FILE))?;
        // The checkpoint's name must not be on disk before this one's. Whatever the
        // error is, a later attempt can't make it good.
        self.dir.sync_dir(Path::new("")).map_err(|error| {
            io::Error::other(format!("the producers were replaced, but then: {error}"))
        })
    }
}

fn create(dir: &dyn Dir) -> io::Result<Arc<dyn File>> {
    // One may be left from a crash.
    match dir.remove(Path::new(NEW_FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    dir.create(Path::new(NEW_FILE))
}

fn encode_partition(
    out: &mut Vec<u8>,
    id: PartitionId,
    end: Offset,
    table: &ProducerTable,
    next_sequences: &HashMap<(u64, u16), u32>,
) {
    let requests = table.requests.iter().flat_map(|requests| requests.iter());
    let requests = requests.take_while(|request| request.base_offset < end);
    let requests: Vec<&Request> = requests.collect();
    let forgotten = table.forgotten.unwrap_or(Forgotten { below: 0, at_ms: 0 });
    let count = |count: usize| u32::try_from(count).expect("bounded by limits");
    let producers = table.producers.iter().filter_map(|producer| {
        let next = next_sequences.get(&(producer.id, producer.epoch));
        let runs = producer.window.runs_before(end, next.copied());
        // One that has appended nothing is as good as unknown.
        let is_new = |run: &SequenceRun| (run.base_sequence, run.count) == (0, 0);
        (!runs.first().is_some_and(is_new)).then_some((producer, runs))
    });
    let producers: Vec<(&Producer, Vec<SequenceRun>)> = producers.collect();
    out.extend(id.0.to_le_bytes());
    out.extend(end.0.to_le_bytes());
    out.extend(forgotten.below.to_le_bytes());
    out.extend(forgotten.at_ms.to_le_bytes());
    out.extend(count(producers.len()).to_le_bytes());
    out.extend(count(requests.len()).to_le_bytes());
    for (producer, runs) in producers {
        let run_count = u16::try_from(runs.len()).expect("bounded by limits");
        out.extend(producer.id.to_le_bytes());
        out.extend(producer.last_ms.to_le_bytes());
        out.extend(producer.epoch.to_le_bytes());
        out.extend(run_count.to_le_bytes());
        encode_runs(out, &runs);
    }
    for request in requests {
        out.extend(request.stamp.id.to_le_bytes());
        out.extend(request.stamp.number.to_le_bytes());
        out.extend(request.count.to_le_bytes());
        out.extend(request.base_offset.0.to_le_bytes());
        out.extend(request.time_ms.to_le_bytes());
    }
}

/// Encodes runs, oldest first, of which each follows the one before: the last in full,
/// then the others, newest first.
fn encode_runs(out: &mut Vec<u8>, runs: &[SequenceRun]) {
    let last = runs.last().expect("a window has a run");
    out.extend(last.base_offset.0.to_le_bytes());
    out.extend(last.base_sequence.to_le_bytes());
    out.extend(last.count.to_le_bytes());
    for pair in runs.windows(2).rev() {
        varint::put(out, pair[1].base_offset.0 - pair[0].base_offset.0);
        varint::put(out, pair[0].count.into());
    }
}

/// How the runs of a producer are told.
#[derive(Clone, Copy)]
enum Layout {
    /// As [`encode_runs`] does it.
    Packed,
    /// Each in full, oldest first.
    InFull,
}

/// What is left to read. Everything is `None` where bytes are missing.
struct Reader<'a> {
    left: &'a [u8],
    layout: Layout,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.left.split_first_chunk()?;
        self.left = rest;
        Some(*taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_le_bytes)
    }

    fn offset(&mut self) -> Option<Offset> {
        self.u64().map(Offset)
    }

    fn partition(&mut self, tally: &Arc<Tally>) -> Option<(PartitionId, Known)> {
        let id = PartitionId(self.u32()?);
        let end = self.offset()?;
        let (below, at_ms) = (self.u64()?, self.i64()?);
        let (producer_count, request_count) = (self.u32()?, self.u32()?);
        let mut producers: Vec<Producer> = Vec::new();
        for _ in 0..producer_count {
            let producer = self.producer()?;
            let follows = producers.last().is_none_or(|last| last.id < producer.id);
            follows.then(|| producers.push(producer))?;
        }
        producers.shrink_to_fit();
        let mut requests = Requests::default();
        for _ in 0..request_count {
            requests.push(self.request()?);
        }
        let forgotten = (below > 0).then_some(Forgotten { below, at_ms });
        let table = ProducerTable::of(tally.clone(), producers, requests, forgotten);
        Some((id, Known { end, table }))
    }

    fn producer(&mut self) -> Option<Producer> {
        let id = self.u64()?;
        let last_ms = self.i64()?;
        let (epoch, run_count) = (self.u16()?, self.u16()?);
        let window = Window::of_runs(&self.runs(run_count.into())?)?;
        Some(Producer {
            id,
            last_ms,
            window,
            newest: Generation::ZERO,
            epoch,
        })
    }

    /// So many runs, oldest first.
    fn runs(&mut self, count: usize) -> Option<Vec<SequenceRun>> {
        if !(1..=limits::RUNS_PER_PRODUCER).contains(&count) {
            return None;
        }
        if let Layout::InFull = self.layout {
            return (0..count).map(|_| self.run()).collect();
        }
        let mut runs = Vec::with_capacity(count);
        let mut next = self.run()?;
        for _ in 1..count {
            runs.push(next);
            next = self.run_before(&next)?;
        }
        runs.push(next);
        runs.reverse();
        Some(runs)
    }

    /// The run that `next` follows.
    fn run_before(&mut self, next: &SequenceRun) -> Option<SequenceRun> {
        let distance = varint::take_checked(&mut self.left)?;
        let count = u32::try_from(varint::take_checked(&mut self.left)?).ok()?;
        let base_offset = Offset(next.base_offset.0.checked_sub(distance)?);
        run_of(base_offset, next.base_sequence.wrapping_sub(count), count)
    }

    fn run(&mut self) -> Option<SequenceRun> {
        let base_offset = self.offset()?;
        let (base_sequence, count) = (self.u32()?, self.u32()?);
        run_of(base_offset, base_sequence, count)
    }

    fn request(&mut self) -> Option<Request> {
        let stamp = RequestStamp {
            id: self.u64()?,
            number: self.u32()?,
        };
        Some(Request {
            stamp,
            count: self.u32()?,
            base_offset: self.offset()?,
            time_ms: self.i64()?,
        })
    }
}

/// A run, if its end is an offset, too.
fn run_of(base_offset: Offset, base_sequence: u32, count: u32) -> Option<SequenceRun> {
    base_offset.0.checked_add(count.into())?;
    Some(SequenceRun {
        base_offset,
        base_sequence,
        count,
    })
}
