//! The table of a partition: what it decides, what it forgets, and what is left of
//! it after a restart.

mod snapshot;
mod time;

use std::sync::Arc;

use super::snapshot::Known;
use super::table::Forgotten;
use super::window::{SequenceRun, Window};
use super::*;
use crate::limits;
use crate::model::StoredStamp;
use crate::model::{Offset, PartitionId, ProducerFence, ProducerStamp, RequestStamp, Stamp};
use crate::storage::checkpoint::CheckpointEntry;
use crate::storage::dir::sim::SimDir;
use crate::storage::lsn::Generation;
use crate::storage::tests::Random;

const PARTITION: PartitionId = PartitionId(17);
const HOUR_MS: i64 = 60 * 60 * 1000;

/// A partition's log, as far as producers are concerned.
#[derive(Default)]
struct Log {
    table: Option<ProducerTable>,
    tally: Arc<Tally>,
    next_offset: u64,
    generation: u32,
    /// Journal files up to this one are archived for good.
    archived: u32,
    now_ms: i64,
}

impl Log {
    fn incoming(&self, count: u32) -> Incoming {
        Incoming {
            base_offset: Offset(self.next_offset),
            count,
            generation: Generation(self.generation),
            now_ms: self.now_ms,
        }
    }

    fn admit(&mut self, stamp: &Stamp, count: u32) -> Result<Admitted, SequenceError> {
        let batch = self.incoming(count);
        let admitted = admit(&mut self.table, &self.tally, stamp, batch);
        if let Ok(Admitted::New(_)) = admitted {
            self.next_offset += u64::from(count);
        }
        admitted
    }

    /// As [`Log::admit`]: the offset of what is new, or the error of what is refused.
    fn append(&mut self, stamp: &Stamp, count: u32) -> Result<u64, SequenceError> {
        let next = self.next_offset;
        match self.admit(stamp, count)? {
            Admitted::New(_) => Ok(next),
            Admitted::Duplicate(offset) => panic!("it was appended at {offset}"),
        }
    }

    fn table(&mut self) -> &mut ProducerTable {
        self.table.as_mut().expect("somebody was there")
    }

    /// Forgets whose time is over; says whether anything is left.
    fn expire(&mut self) -> bool {
        let now_ms = self.now_ms;
        self.table().expire(now_ms)
    }

    /// The table as text, to be compared.
    fn state(&mut self) -> String {
        let table = self.table();
        let requests: Vec<_> = table.requests.iter().flat_map(|r| r.iter()).collect();
        format!("{:?} {:?} {requests:?}", table.producers, table.marks)
    }
}

fn stamp(id: u64, epoch: u16, base_sequence: u32) -> Stamp {
    Stamp::Producer(ProducerStamp {
        id,
        epoch,
        base_sequence,
        fence: None,
    })
}

fn request(name: u64) -> Stamp {
    Stamp::Request(RequestStamp::of(&name.to_le_bytes()))
}

#[test]
fn a_new_producer_begins_with_the_first_number() {
    let mut log = Log::default();
    assert_eq!(log.append(&stamp(2, 0, 1), 1), Err(SequenceError::Expired));
    assert!(log.table.is_none(), "it costs nothing");
    assert_eq!(log.append(&stamp(2, 0, 0), 3), Ok(0));
    assert_eq!(log.append(&stamp(4, 0, 1), 1), Err(SequenceError::Expired));
    assert_eq!(log.append(&stamp(2, 0, 3), 1), Ok(3));
    let expected = Err(SequenceError::Gap { expected: 4 });
    assert_eq!(log.append(&stamp(2, 0, 5), 1), expected);
    let known = Ok(Admitted::Duplicate(Offset(1)));
    assert_eq!(log.admit(&stamp(2, 0, 1), 2), known);
}

#[test]
fn a_new_epoch_begins_anew_and_ends_the_one_before() {
    let mut log = Log::default();
    assert_eq!(log.append(&stamp(2, 1, 0), 3), Ok(0));
    let expected = Err(SequenceError::Gap { expected: 0 });
    assert_eq!(log.append(&stamp(2, 2, 3), 1), expected);
    assert_eq!(log.append(&stamp(2, 1, 3), 1), Ok(3), "nothing changed");
    assert_eq!(log.append(&stamp(2, 3, 0), 1), Ok(4));
    let fenced = Err(SequenceError::Fenced { epoch: 3 });
    assert_eq!(log.append(&stamp(2, 1, 4), 1), fenced);
    assert_eq!(log.append(&stamp(2, 2, 0), 1), fenced);
}

#[test]
fn a_fence_keeps_out_before_the_partition_has_heard_of_the_new_epoch() {
    let mut log = Log::default();
    let fence = Arc::new(ProducerFence::new(1));
    let of = |base_sequence| {
        Stamp::Producer(ProducerStamp {
            id: 2,
            epoch: 1,
            base_sequence,
            fence: Some(fence.clone()),
        })
    };
    assert_eq!(log.append(&of(0), 1), Ok(0));
    fence.raise(2);
    let fenced = Err(SequenceError::Fenced { epoch: 2 });
    assert_eq!(log.append(&of(1), 1), fenced);
    assert_eq!(log.append(&of(0), 1), fenced);
    fence.close();
    assert_eq!(log.append(&of(1), 1), Err(SequenceError::Expired));
}

#[test]
fn what_is_taken_back_leaves_no_trace() {
    let mut random = Random::new(1);
    for _ in 0..200 {
        let mut log = Log::default();
        let mut undo = Vec::new();
        log.append(&stamp(9, 0, 0), 1).unwrap();
        let empty = log.state();
        for _ in 0..random.between(1, 80) {
            let before = (log.state(), log.next_offset);
            log.generation += u32::from(random.one_in(10));
            log.now_ms += 1;
            log.next_offset += random.between(0, 2);
            let count = u32::try_from(random.between(1, 4)).unwrap();
            let id = random.between(1, 5);
            let stamp = match log.table().find(id) {
                _ if random.one_in(6) => request(random.next()),
                Err(_) => stamp(id, 0, 0),
                Ok(at) => {
                    let producer = &log.table().producers[at];
                    let epoch = producer.epoch + u16::from(random.one_in(8));
                    match epoch == producer.epoch {
                        true => stamp(id, epoch, producer.window.next_sequence()),
                        false => stamp(id, epoch, 0),
                    }
                }
            };
            match log.admit(&stamp, count) {
                Ok(Admitted::New(token)) => undo.push((token, before)),
                other => panic!("{stamp:?} is new, not {other:?}"),
            }
        }
        while let Some((token, (state, next_offset))) = undo.pop() {
            log.table().take_back(token);
            log.next_offset = next_offset;
            assert_eq!(log.state(), state);
        }
        assert_eq!(log.state(), empty);
        log.table = None;
        let tally = format!("{:?}", log.tally);
        assert_eq!(tally, format!("{:?}", Tally::default()), "nothing is left");
    }
}

/// Lets so many producers append a record each, a millisecond apart.
fn crowd(log: &mut Log, ids: std::ops::Range<usize>) {
    for id in ids {
        log.now_ms += 1;
        log.append(&stamp(id as u64, 0, 0), 1).unwrap();
    }
}

#[test]
fn where_there_is_no_room_those_go_that_were_silent_for_longest() {
    let most = limits::PRODUCERS_PER_PARTITION;
    let mut log = Log::default();
    crowd(&mut log, 1..most + 1);
    // The first of them goes on, and so is among the last.
    log.now_ms += 1;
    log.append(&stamp(1, 0, 1), 1).unwrap();
    assert_eq!(log.table().producers.len(), most);
    crowd(&mut log, most + 1..most + 2);
    assert_eq!(log.table().producers.len(), most - most / 8 + 1);
    log.append(&stamp(1, 0, 2), 1).unwrap();
    // Whoever went is not taken for a new one, even with its first number.
    for base_sequence in [0, 1] {
        let gone = log.append(&stamp(2, 0, base_sequence), 1);
        assert_eq!(gone, Err(SequenceError::Expired));
    }
    let gone = most / 8 + 1;
    assert_eq!(log.tally.forgotten_below(), gone as u64 + 1);
    // Younger ones are.
    log.append(&stamp(gone as u64 + 1, 0, 1), 1).unwrap();
    log.append(&stamp(2 * most as u64, 0, 0), 1).unwrap();
    // That doesn't last for ever.
    log.now_ms += 24 * HOUR_MS;
    log.append(&stamp(3, 0, 0), 1).unwrap();
}

#[test]
fn who_was_silent_for_an_hour_makes_room_without_a_trace() {
    let most = limits::PRODUCERS_PER_PARTITION;
    let mut log = Log::default();
    crowd(&mut log, 10..most + 10);
    log.now_ms += HOUR_MS;
    log.append(&stamp(1, 0, 0), 1).unwrap();
    assert_eq!(log.tally.forgotten_below(), 0);
    log.append(&stamp(2, 0, 0), 1).unwrap();
    log.append(&stamp(10, 0, 0), 1).unwrap();
}

#[test]
fn when_all_partitions_know_too_much_each_keeps_a_few() {
    let mut log = Log::default();
    log.tally.add_producer_bytes(limits::PRODUCERS_BYTES);
    crowd(&mut log, 1..1000);
    let known = log.table().producers.len();
    assert!((8..=16).contains(&known), "{known}");
    // So it is with runs, and with requests.
    for nth in 0..100 {
        log.next_offset += 1;
        log.append(&stamp(999, 0, 1 + nth), 1).unwrap();
    }
    let at = log.table().find(999).unwrap();
    assert_eq!(log.table().producers[at].window.runs().count(), 4);
    log.tally.add_requests(limits::REQUESTS);
    for nth in 0..1000 {
        log.append(&request(nth), 1).unwrap();
    }
    let requests = log.table().requests.as_ref().map(|requests| requests.len());
    assert_eq!(requests, Some(65));
}

#[test]
fn the_last_requests_are_remembered_for_their_time() {
    let most = limits::REQUESTS_PER_PARTITION as u64;
    let mut log = Log::default();
    for name in 0..=most + 1 {
        log.append(&request(name), 2).unwrap();
    }
    log.append(&request(0), 2).unwrap();
    for name in [3, most] {
        let known = Ok(Admitted::Duplicate(Offset(2 * name)));
        assert_eq!(log.admit(&request(name), 2), known);
    }
    let other = Err(SequenceError::OtherRequest { records: 2 });
    assert_eq!(log.append(&request(most), 1), other);
    log.now_ms = 600_001;
    assert!(!log.expire());
    log.append(&request(most), 1).unwrap();
}

/// A batch as it lies in a log.
#[derive(Clone, Copy)]
struct Logged {
    stamp: StoredStamp,
    batch: Incoming,
}

fn stored(stamp: &Stamp) -> StoredStamp {
    match stamp {
        Stamp::Request(stamp) => StoredStamp::Request(*stamp),
        Stamp::Producer(stamp) => StoredStamp::Producer {
            id: stamp.id,
            epoch: stamp.epoch,
            base_sequence: stamp.base_sequence,
        },
    }
}

/// Where the journal files up to `archived` end.
fn cut(log: &Log, logged: &[Logged], archived: u32) -> Offset {
    let behind = logged.iter().find(|l| l.batch.generation.0 > archived);
    behind.map_or(Offset(log.next_offset), |l| l.batch.base_offset)
}

/// A log of a few producers over several journal files, of which some are archived
/// on the way. Now and then what was appended last is taken back. In some logs few
/// runs are kept.
fn random_log(random: &mut Random) -> (Log, Vec<Logged>) {
    let mut log = Log::default();
    let mut logged = Vec::new();
    if random.one_in(2) {
        log.tally.add_producer_bytes(limits::PRODUCERS_BYTES);
    }
    for _ in 0..random.between(1, 400) {
        if random.one_in(30) && log.archived + 1 < log.generation {
            log.archived += 1;
            let end = cut(&log, &logged, log.archived);
            if let Some(table) = &mut log.table {
                table.archived(end);
            }
        }
        log.generation += u32::from(random.one_in(30));
        log.now_ms += 1;
        log.next_offset += random.between(0, 8) / 6;
        let count = u32::try_from(random.between(1, 4)).unwrap();
        let id = random.between(1, 4);
        let table = log.table.as_ref();
        let known = table.and_then(|table| Some(&table.producers[table.find(id).ok()?]));
        let stamp = match known {
            _ if random.one_in(10) => request(random.next()),
            Some(_) if random.one_in(60) => stamp(id, known.map_or(0, |k| k.epoch + 1), 0),
            Some(known) => stamp(id, known.epoch, known.window.next_sequence()),
            None => stamp(id, 0, 0),
        };
        let batch = log.incoming(count);
        let Ok(Admitted::New(undo)) = log.admit(&stamp, count) else {
            panic!("{stamp:?} is new");
        };
        if random.one_in(10) {
            log.table().take_back(undo);
            log.next_offset = batch.base_offset.0;
        } else {
            let stamp = stored(&stamp);
            logged.push(Logged { stamp, batch });
        }
    }
    (log, logged)
}

fn entry(end: Offset) -> CheckpointEntry {
    CheckpointEntry {
        partition: PARTITION,
        log_start: Offset::ZERO,
        archived_end: end,
        active: None,
        has_producers: true,
    }
}

/// What is left of the log after a restart, given that the journal files up to
/// `archived` are in segments and that the log ends at `end`.
fn restarted(log: &mut Log, logged: &[Logged], archived: u32, end: u64) -> Known {
    let cut = cut(log, logged, archived);
    let archived = Generation(archived);
    let dir = SimDir::new();
    let mut writer = SnapshotWriter::new(&dir, archived);
    writer.add(PARTITION, cut, log.table());
    writer.write().unwrap();
    writer.finish().unwrap();
    let tally = Arc::new(Tally::default());
    let loaded = Snapshot::load(&dir, &tally).unwrap();
    let entries = [entry(cut)];
    let mut replay = ProducerReplay::new(loaded, Some(archived), &entries, tally);
    for Logged { stamp, batch } in logged {
        // Some frames of archived files may be there still.
        if batch.generation.0 + 1 >= archived.0 && batch.base_offset.0 < end {
            replay.apply(PARTITION, *stamp, *batch);
        }
    }
    replay.into_known(PARTITION)
}

#[test]
fn a_restart_knows_what_comes_next_wherever_the_log_ends() {
    let mut random = Random::new(2);
    for case in 0..400 {
        let (mut log, logged) = random_log(&mut random);
        let archived = random.between(log.archived.into(), u64::from(log.generation) + 1);
        let archived = u32::try_from(archived).unwrap();
        // What is archived is durable; of the rest, any end is possible.
        let end = random.between(cut(&log, &logged, archived).0, log.next_offset + 1);
        let found = restarted(&mut log, &logged, archived, end).table;

        let mut whole = ProducerTable::new(Arc::default());
        for Logged { stamp, batch } in logged.iter().filter(|l| l.batch.base_offset.0 < end) {
            whole.replay(*stamp, *batch);
        }
        for producer in &whole.producers {
            let next_epoch = |l: &&Logged| {
                matches!(l.stamp, StoredStamp::Producer { id, epoch, .. }
                    if id == producer.id && epoch > producer.epoch)
            };
            let Ok(at) = found.find(producer.id) else {
                // Nothing of its next epoch, which ended this one, survived.
                assert!(logged.iter().any(|l| next_epoch(&l)), "case {case}");
                continue;
            };
            let found = &found.producers[at];
            let facts = |p: &super::table::Producer| (p.epoch, p.window.next_sequence());
            assert_eq!(facts(found), facts(producer), "case {case}");
            let (found, expected) = (newest_first(&found.window), newest_first(&producer.window));
            for (nth, (run, expected)) in found.iter().zip(&expected).enumerate() {
                // Of the oldest one that is known, a part may be missing.
                let is_part = run.count == 0 || run.is_end_of(expected);
                let is_oldest = nth + 1 == found.len();
                assert!(
                    run == expected || is_oldest && is_part,
                    "case {case}: {run:?}"
                );
            }
        }
        let requests = |table: &ProducerTable| {
            let requests = table.requests.iter().flat_map(|requests| requests.iter());
            requests.copied().collect::<Vec<_>>()
        };
        assert_eq!(requests(&found), requests(&whole), "case {case}");
    }
}

impl SequenceRun {
    fn is_end_of(&self, whole: &SequenceRun) -> bool {
        let missing = whole.count - self.count;
        self.base_sequence == whole.base_sequence + missing
            && self.base_offset == whole.base_offset.advanced(missing.into())
    }
}

fn newest_first(window: &Window) -> Vec<SequenceRun> {
    let mut runs = window.runs_before(Offset(u64::MAX), None);
    runs.reverse();
    runs
}

#[test]
fn without_its_snapshot_a_partition_refuses_whoever_it_may_have_known() {
    let missing = |loaded: Loaded, entries: &[CheckpointEntry]| {
        let tally = Arc::new(Tally::default());
        let mut replay = ProducerReplay::new(loaded, Some(Generation(3)), entries, tally.clone());
        let batch = Incoming {
            base_offset: Offset(60),
            count: 2,
            generation: Generation(4),
            now_ms: 0,
        };
        replay.apply(PARTITION, stored(&stamp(7, 0, 4)), batch);
        let Known { mut table, .. } = replay.into_known(PARTITION);
        table.resume(0, 0, 20);
        Log {
            table: Some(table),
            tally,
            next_offset: 62,
            ..Log::default()
        }
    };
    for loaded in [Loaded::Missing, Loaded::Damaged] {
        let mut log = missing(loaded, &[entry(Offset(50))]);
        assert_eq!(log.append(&stamp(7, 0, 6), 1), Ok(62), "frames told of it");
        assert_eq!(log.append(&stamp(7, 0, 2), 1), Err(SequenceError::TooOld));
        assert_eq!(log.append(&stamp(8, 0, 0), 1), Err(SequenceError::Expired));
        assert_eq!(log.append(&stamp(8, 0, 9), 1), Err(SequenceError::Expired));
        assert_eq!(log.append(&stamp(20, 0, 0), 1), Ok(63), "it began later");
        assert_eq!(log.tally.forgotten_below(), 20);
    }
    // It had nothing of the partition.
    let had_nothing = CheckpointEntry {
        has_producers: false,
        ..entry(Offset(50))
    };
    let mut log = missing(Loaded::Missing, &[had_nothing]);
    assert_eq!(log.append(&stamp(8, 0, 0), 1), Ok(62));
}

#[test]
fn a_snapshot_that_is_older_than_the_checkpoint_is_as_good_as_none() {
    let mut log = Log::default();
    log.append(&stamp(7, 0, 0), 1).unwrap();
    let dir = SimDir::new();
    let mut writer = SnapshotWriter::new(&dir, Generation(2));
    writer.add(PARTITION, Offset(1), log.table());
    writer.finish().unwrap();
    for (archived, is_lost) in [(1, false), (2, false), (3, true)] {
        let tally = Arc::new(Tally::default());
        let loaded = Snapshot::load(&dir, &tally).unwrap();
        // The checkpoint may not know of it: a broker wrote it that doesn't.
        let replay = ProducerReplay::new(loaded, Some(Generation(archived)), &[], tally);
        let Known { table, .. } = replay.into_known(PARTITION);
        assert_eq!(table.producers.is_empty(), is_lost);
        assert_eq!(table.forgotten, is_lost.then_some(Forgotten::ALL_SO_FAR));
    }
}
