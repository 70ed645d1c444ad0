//! The snapshot's file: what is in it comes out of it again, whatever its version, and
//! nothing else does.

use super::super::requests::Request;
use super::super::table::Producer;
use super::super::window::Window;
use super::*;
use crate::storage::varint;

/// A partition in which producers have taken turns with batches of one record.
fn turns(producers: u64, rounds: u32) -> Log {
    let mut log = Log::default();
    for round in 0..rounds {
        for id in 1..=producers {
            log.append(&stamp(id, 0, round), 1).unwrap();
        }
    }
    log
}

fn file_of(log: &mut Log, end: Offset) -> Vec<u8> {
    let dir = SimDir::new();
    let mut writer = SnapshotWriter::new(&dir, Generation(2));
    writer.add(PARTITION, end, log.table());
    writer.finish().unwrap();
    crate::storage::tests::content(&dir, FILE)
}

/// The file with a checksum that is right.
fn checked(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc32fast::hash(&bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// What version 1 would have written of producers: their ids and runs.
fn version_1(end: u64, producers: &[(u64, &[SequenceRun])]) -> Vec<u8> {
    let mut out = b"SCI\x01\0\0\0\0\x02\0\0\0".to_vec();
    out.extend(PARTITION.0.to_le_bytes());
    out.extend(end.to_le_bytes());
    out.extend([0; 16]);
    out.extend(u32::try_from(producers.len()).unwrap().to_le_bytes());
    out.extend([0; 4]);
    for (id, runs) in producers {
        out.extend(id.to_le_bytes());
        out.extend([0; 8 + 2]);
        out.extend(u16::try_from(runs.len()).unwrap().to_le_bytes());
        for run in *runs {
            out.extend(run.base_offset.0.to_le_bytes());
            out.extend(run.base_sequence.to_le_bytes());
            out.extend(run.count.to_le_bytes());
        }
    }
    checked(out)
}

fn decoded(bytes: &[u8]) -> ProducerTable {
    let snapshot = Snapshot::decode(bytes, &Arc::default()).expect("it is sound");
    let mut partitions = snapshot.partitions;
    partitions.remove(&PARTITION).expect("it is there").table
}

/// A file that a broker wrote while there was only version 1, as its page of the format had it.
const WRITTEN_IN_VERSION_1: [u8; 116] = [
    0x53, 0x43, 0x49, 0x01, 0x40, 0xf9, 0x01, 0xe2, 0x05, 0x00, 0x00, 0x00, 0x11, 0x00, 0x00, 0x00,
    0x2c, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00,
    0x06, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x7b, 0x68, 0xe5, 0xcf, 0x8b, 0x01, 0x00, 0x00,
    0x02, 0x00, 0x01, 0x00, 0x2a, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x01, 0x00, 0x00, 0x00, 0x94, 0x92, 0x9b, 0x8d, 0x67, 0xb9, 0x50, 0xf1, 0xbc, 0xa8, 0x86, 0xa3,
    0x01, 0x00, 0x00, 0x00, 0x2b, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xc8, 0x69, 0xe5, 0xcf,
    0x8b, 0x01, 0x00, 0x00,
];

#[test]
fn what_version_1_wrote_is_read() {
    let snapshot = Snapshot::decode(&WRITTEN_IN_VERSION_1, &Arc::default()).expect("it is sound");
    assert_eq!(snapshot.archived, Generation(5));
    let mut partitions = snapshot.partitions;
    let Known { end, table } = partitions.remove(&PARTITION).expect("it is there");
    assert!(partitions.is_empty());
    assert_eq!(end, Offset(44));
    let run = SequenceRun {
        base_offset: Offset(42),
        base_sequence: 0,
        count: 1,
    };
    let producer = Producer {
        id: 6,
        last_ms: 1_700_000_000_123,
        window: Window::of_runs(&[run]).unwrap(),
        newest: Generation::ZERO,
        epoch: 2,
    };
    assert_eq!(table.producers, [producer]);
    let request = Request {
        stamp: RequestStamp::of(b"4be1b2bb-0a4d-4fd4-8a6b-6a5d1ea4e8a0"),
        count: 1,
        base_offset: Offset(43),
        time_ms: 1_700_000_000_456,
    };
    let requests = table.requests.iter().flat_map(|requests| requests.iter());
    assert_eq!(requests.collect::<Vec<_>>(), [&request]);
    assert_eq!(table.forgotten, None);
}

#[test]
fn both_versions_tell_the_same_runs() {
    let mut log = turns(16, 100);
    let end = Offset(1500);
    let packed = decoded(&file_of(&mut log, end));
    let producers = log.table().producers.iter();
    let runs: Vec<(u64, Vec<SequenceRun>)> = producers
        .map(|producer| (producer.id, producer.window.runs_before(end, None)))
        .collect();
    assert!(runs.iter().all(|(_, runs)| runs.len() > 20));
    let runs: Vec<(u64, &[SequenceRun])> = runs.iter().map(|(id, runs)| (*id, &runs[..])).collect();
    let in_full = decoded(&version_1(end.0, &runs));
    assert_eq!(packed.producers, in_full.producers);
}

#[test]
fn a_run_takes_two_bytes_where_producers_take_turns() {
    let mut log = turns(16, 100);
    let len = file_of(&mut log, Offset(1600)).len();
    let producer = 20 + 16 + 2 * (limits::RUNS_PER_PRODUCER - 1);
    assert_eq!(len, 12 + 36 + 16 * producer);
}

#[test]
fn runs_that_can_not_be_are_damage_whatever_the_checksum_says() {
    let mut log = turns(2, 100);
    let good = file_of(&mut log, Offset(200));
    let first = 12 + 36 + 20;
    let try_with = |at: usize, field: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + field.len()].copy_from_slice(field);
        Snapshot::decode(&checked(bad), &Arc::default()).is_some()
    };
    assert!(try_with(first, &good[first..first + 8]), "it is as it was");
    let count = first - 2;
    assert!(!try_with(count, &0_u16.to_le_bytes()), "no run");
    assert!(!try_with(count, &33_u16.to_le_bytes()), "too many runs");
    assert!(
        !try_with(first, &5_u64.to_le_bytes()),
        "runs before offset 0"
    );
    assert!(!try_with(first, &[0xff; 8]), "beyond the last offset");
    assert!(!try_with(first + 16, &[0]), "two runs at one offset");
    assert!(!try_with(first + 17, &[0]), "an older run without records");
    assert!(!try_with(first + 17, &[3]), "runs that overlap");
    assert!(!try_with(first + 16, &[0xff; 62]), "a number without end");
    let mut needless = good.clone();
    let distance = good[first + 16] | 0x80;
    needless.splice(first + 16..=first + 16, [distance, 0]);
    assert!(
        Snapshot::decode(&checked(needless), &Arc::default()).is_none(),
        "a number in more bytes than it needs"
    );
    // The last run, without records, at the last offset; the one before it has the record
    // there, and ends beyond it.
    let mut beyond = good.clone();
    beyond[first..first + 8].fill(0xff);
    beyond[first + 12..first + 16].fill(0);
    beyond[first + 16..first + 18].copy_from_slice(&[0, 1]);
    assert!(Snapshot::decode(&checked(beyond), &Arc::default()).is_none());
}

#[test]
fn whatever_the_bytes_are_nothing_worse_comes_of_them() {
    let mut log = turns(3, 40);
    let good = file_of(&mut log, Offset(120));
    let mut random = Random::new(3);
    for _ in 0..20_000 {
        let mut bad = good.clone();
        for _ in 0..random.between(1, 4) {
            let at = usize::try_from(random.between(8, bad.len() as u64)).unwrap();
            match random.between(0, 4) {
                0 => fill(&mut bad[at..], 8, 0xff),
                1 => fill(&mut bad[at..], 8, 0),
                _ => bad[at] = random.next().to_le_bytes()[0],
            }
        }
        let gone = usize::try_from(random.between(0, 4)).unwrap();
        bad.truncate(bad.len() - gone);
        // Damage, or another table that is sound.
        drop(Snapshot::decode(&checked(bad), &Arc::default()));
    }
}

/// Fills up to `len` bytes.
fn fill(bytes: &mut [u8], len: usize, with: u8) {
    let len = bytes.len().min(len);
    bytes[..len].fill(with);
}

/// Numbers at which something overflows, or nearly.
const EDGES: [u64; 10] = [
    0,
    1,
    2,
    127,
    128,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    u64::MAX,
];

/// What flipped bytes rarely come to: runs that are told in good order, of numbers that
/// can't be.
#[test]
fn whatever_runs_are_told_nothing_worse_comes_of_them() {
    let mut random = Random::new(4);
    let mut edge = move || {
        let edge = EDGES[usize::try_from(random.next() % EDGES.len() as u64).unwrap()];
        edge.wrapping_sub(random.next() % 3)
    };
    let mut sound = 0;
    for _ in 0..20_000 {
        let older = edge() % 4;
        let mut told = b"SCI\x02\0\0\0\0\x02\0\0\0".to_vec();
        told.extend(PARTITION.0.to_le_bytes());
        let end = edge();
        told.extend(end.to_le_bytes());
        told.extend([0; 16]);
        told.extend([1, 0, 0, 0, 0, 0, 0, 0]);
        told.extend([0; 8 + 8 + 2]);
        told.extend(u16::try_from(1 + older).unwrap().to_le_bytes());
        told.extend(edge().to_le_bytes());
        for _ in 0..2 {
            told.extend_from_slice(&edge().to_le_bytes()[..4]);
        }
        for _ in 0..2 * older {
            varint::put(&mut told, edge());
        }
        let Some(snapshot) = Snapshot::decode(&checked(told), &Arc::default()) else {
            continue;
        };
        sound += 1;
        // What is made of it is of use: it is looked through, and written again.
        let mut log = Log {
            table: snapshot
                .partitions
                .into_values()
                .next()
                .map(|known| known.table),
            ..Log::default()
        };
        let windows = log
            .table()
            .producers
            .iter()
            .map(|producer| &producer.window);
        for run in windows.flat_map(Window::runs) {
            assert!(
                run.run
                    .base_offset
                    .0
                    .checked_add(run.run.count.into())
                    .is_some()
            );
        }
        file_of(&mut log, Offset(end));
    }
    assert!(sound > 1000, "{sound}");
}

#[test]
fn every_flipped_bit_of_a_snapshot_is_noticed() {
    let mut log = Log::default();
    log.append(&stamp(7, 3, 0), 1).unwrap();
    log.append(&request(7), 1).unwrap();
    let dir = SimDir::new();
    let mut writer = SnapshotWriter::new(&dir, Generation(2));
    writer.add(PARTITION, Offset(2), log.table());
    writer.finish().unwrap();
    let good = crate::storage::tests::content(&dir, FILE);
    let tally = Arc::new(Tally::default());
    assert!(Snapshot::decode(&good, &tally).is_some());
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Snapshot::decode(&bad, &tally).is_none(), "bit {bit}");
    }
    for len in 0..good.len() {
        assert!(
            Snapshot::decode(&good[..len], &tally).is_none(),
            "{len} bytes"
        );
    }
}

#[test]
fn a_snapshot_of_much_is_written_in_pieces() {
    let mut log = Log::default();
    crowd(&mut log, 1..200);
    for name in 0..100 {
        log.append(&request(name), 1).unwrap();
    }
    let dir = SimDir::new();
    let mut writer = SnapshotWriter::new(&dir, Generation(2));
    for id in 16..20 {
        writer.add(PartitionId(id), Offset(1000), log.table());
        writer.write().unwrap();
    }
    writer.finish().unwrap();
    let Loaded::Snapshot(snapshot) = Snapshot::load(&dir, &Arc::default()).unwrap() else {
        panic!("it is sound");
    };
    assert_eq!(snapshot.partitions.len(), 4);
    for known in snapshot.partitions.values() {
        assert_eq!(known.table.producers.len(), 199);
        assert_eq!(known.table.requests.as_ref().map(|r| r.len()), Some(100));
    }
}
