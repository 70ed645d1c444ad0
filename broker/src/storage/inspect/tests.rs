//! Inspections of a directory with a known content.

use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::model::{CheckedBatch, Offset, RequestStamp, Stamp};
use crate::storage::dir::sim::{Fault, SimDir};
use crate::storage::lsn::Lsn;
use crate::storage::producers::SnapshotWriter;
use crate::storage::tests::Gentle;
use crate::storage::{Claim, JournalAppend, JournalOptions, JournalSize, Storage, StorageOptions};

/// Partition 3 with batches of 1 KiB: some in four segments of 4 KiB, the
/// last ones in the journal only.
fn directory() -> SimDir {
    directory_of(|_| {})
}

/// The same; before the power is cut, something is done.
fn directory_of(last: impl FnOnce(&Storage)) -> SimDir {
    let dir = SimDir::new();
    let options = StorageOptions {
        journal: JournalOptions {
            size: JournalSize {
                file_bytes: 64 << 10,
                max_files: 4,
                spares: 1,
            },
            max_frames_per_file: 64,
            tail_bytes: 4 << 10,
        },
        open_segments: 3,
        growing_segments: 3,
    };
    let (storage, _) = Storage::open(Arc::new(dir.clone()), options, 1 << 100).unwrap();
    let log = storage.create_partition(PartitionId(3));
    log.lock().segment_bytes = 4 << 10;
    for round in 0..4 {
        let append = |nth: u8| JournalAppend {
            log: log.clone(),
            batch: batch(round * 4 + nth),
            unit_remaining: 0,
            guards: Vec::new(),
            claim: Claim::User,
        };
        let group: Vec<_> = (0..4).map(append).collect();
        storage.append(&group, 5).unwrap();
        storage.flush(storage.written()).unwrap();
        if round < 3 {
            assert!(storage.close_journal_file());
            assert_eq!(storage.archive_oldest(6, &Gentle(false)).unwrap(), 1);
        }
    }
    last(&storage);
    drop(storage);
    dir.fail_after(0, Fault::Crash);
    let _ = dir.sync_all();
    dir.crash(1)
}

fn batch(byte: u8) -> CheckedBatch {
    let payload = bytes::Bytes::from(vec![byte; 1 << 10]);
    CheckedBatch {
        payload_crc: crc32fast::hash(&payload),
        payload,
        record_count: 2,
        max_timestamp_ms: None,
        all_timed: false,
        uncompressed_len: 1 << 10,
        attributes: 0,
        stamp: Some(Stamp::Request(RequestStamp::of(&[byte]))),
        key_hashes: Vec::new(),
    }
}

fn inspect(dir: &SimDir) -> Inspection {
    let dir: Arc<dyn Dir> = Arc::new(dir.clone());
    inspect_dir(&dir).unwrap()
}

fn log(base_offset: u64) -> PathBuf {
    segments::log_path(PartitionId(3), Offset(base_offset))
}

fn damage_of(inspection: &Inspection, path: &Path) -> Vec<Damage> {
    let file = inspection
        .files
        .iter()
        .find(|file| Path::new(&file.path) == path)
        .expect("it was inspected");
    file.damage.clone()
}

#[test]
fn sound_directory_is_counted_in_full() {
    let found = inspect(&directory());
    assert!(found.is_sound(), "{found:#?}");
    let sum = |in_segments: bool| {
        let files = found.files.iter();
        let files = files.filter(|file| file.offsets.is_some() == in_segments);
        let counts = files.map(|file| (file.batches, file.records));
        counts.fold((0, 0), |sum, file| (sum.0 + file.0, sum.1 + file.1))
    };
    assert_eq!(sum(true), (12, 24), "archived");
    assert_eq!(sum(false), (4, 8), "in the journal");
    let offsets: Vec<_> = found.files.iter().filter_map(|file| file.offsets).collect();
    assert_eq!(offsets.first().unwrap().0, Offset(0));
    assert_eq!(offsets.last().unwrap().1, Offset(24));
    assert!(offsets.windows(2).all(|pair| pair[0].1 == pair[1].0));
}

#[test]
fn flipped_payload_bit_in_a_segment_names_its_offsets() {
    let dir = directory();
    dir.flip_bit(&log(0), (64 + 72 + 500) * 8);
    let damage = damage_of(&inspect(&dir), &log(0));
    let expected = Damage::Payload {
        position: 64,
        from: Offset(0),
        to: Offset(2),
    };
    assert_eq!(damage, [expected]);
}

#[test]
fn flipped_batch_header_bit_names_the_bytes_and_the_offsets() {
    let dir = directory();
    dir.flip_bit(&log(0), (64 + 20) * 8);
    let damage = damage_of(&inspect(&dir), &log(0));
    let expected = [
        Damage::Bytes {
            from: 64,
            to: 64 + 1096,
        },
        Damage::Offsets {
            partition: PartitionId(3),
            from: Offset(0),
            to: Offset(2),
        },
    ];
    assert_eq!(damage, expected);
}

#[test]
fn damaged_header_and_footer_of_a_sealed_segment_are_named() {
    let dir = directory();
    let len = dir.open(&log(0)).unwrap().len().unwrap();
    dir.flip_bit(&log(0), 8 * 8);
    assert_eq!(damage_of(&inspect(&dir), &log(0)), [Damage::Header]);
    dir.flip_bit(&log(0), 8 * 8);
    dir.flip_bit(&log(0), (len - 30) * 8);
    let damage = damage_of(&inspect(&dir), &log(0));
    assert_eq!(damage[0], Damage::Footer);
}

#[test]
fn missing_segment_leaves_a_hole_with_a_name() {
    let dir = directory();
    let names = segments::list(&dir, PartitionId(3)).unwrap().current();
    let bases: Vec<Offset> = names.iter().map(|name| name.base_offset).collect();
    let [_, second, third, last] = bases[..] else {
        panic!("four segments were expected: {bases:?}");
    };
    dir.remove(&log(second.0)).unwrap();
    let hole = Damage::Offsets {
        partition: PartitionId(3),
        from: second,
        to: third,
    };
    assert_eq!(damage_of(&inspect(&dir), &log(third.0)), [hole]);
    dir.remove(&log(last.0)).unwrap();
    let damage = damage_of(&inspect(&dir), &log(last.0));
    assert_eq!(damage, [Damage::Missing]);
}

#[test]
fn damaged_frame_below_what_is_durable_is_damage_and_a_torn_tail_is_not() {
    let used = |dir: &SimDir| {
        let found = inspect(dir);
        let is_used = |file: &&InspectedFile| matches!(file.kind, FileKind::Journal(_));
        let used = found.files.iter().find(is_used).unwrap();
        PathBuf::from(&used.path)
    };
    let flip_in_last_frame = |dir: &SimDir, byte: u64| {
        dir.flip_bit(&used(dir), (4096 + 3 * 1128 + byte) * 8);
    };
    let frames = Damage::Frames {
        from: Lsn::new(Generation(4), 4096 + 3 * 1128),
        to: Lsn::new(Generation(4), 4096 + 4 * 1128),
    };
    for byte in [0, 200] {
        // All four frames were written by one append: none proves another durable.
        let dir = directory();
        flip_in_last_frame(&dir, byte);
        assert!(inspect(&dir).is_sound());
        let alone = inspect_file(&dir, &used(&dir)).unwrap();
        assert!(alone.is_sound());
        assert_eq!(alone.files[0].batches, 3);

        // But the header of the file does, once the broker was idle.
        let dir = directory_of(|storage| storage.prove_flushed().unwrap());
        assert!(inspect(&dir).is_sound());
        flip_in_last_frame(&dir, byte);
        let path = used(&dir);
        assert_eq!(
            damage_of(&inspect(&dir), &path),
            std::slice::from_ref(&frames)
        );
        let alone = inspect_file(&dir, &path).unwrap();
        assert_eq!(damage_of(&alone, &path), std::slice::from_ref(&frames));
        assert_eq!(alone.files[0].batches, 3);
    }
}

#[test]
fn damaged_checkpoint_and_identity_are_named_and_the_rest_is_inspected() {
    let dir = directory();
    dir.flip_bit(Path::new("checkpoint"), 100);
    dir.flip_bit(Path::new("FORMAT"), 7);
    let found = inspect(&dir);
    for name in ["checkpoint", "FORMAT"] {
        let damage = damage_of(&found, Path::new(name));
        assert_eq!(damage, [Damage::Unreadable]);
    }
    let others = found.files.iter().filter(|file| file.partition.is_some());
    assert!(others.clone().count() >= 3);
    assert!(others.clone().all(|file| file.damage.is_empty()));
}

#[test]
fn lost_damaged_and_old_producers_are_named() {
    let path = Path::new("producers");
    let expect = |dir: &SimDir, damage: &[Damage]| {
        assert_eq!(damage_of(&inspect(dir), path), damage);
        let alone = inspect_file(dir, path).unwrap();
        assert_eq!(alone.files[0].kind, FileKind::Producers);
        assert_eq!(alone.files[0].damage, damage);
    };
    let dir = directory();
    expect(&dir, &[]);
    dir.flip_bit(path, 1000);
    expect(&dir, &[Damage::Unreadable]);
    dir.remove(path).unwrap();
    expect(&dir, &[Damage::Missing]);
    SnapshotWriter::new(&dir, Generation(1)).finish().unwrap();
    expect(&dir, &[Damage::Outdated]);
    // Where nobody said who they are, none is missed.
    let found = inspect(&SimDir::new());
    assert!(found.files.iter().all(|file| file.path != "producers"));
}

#[test]
fn one_segment_can_be_inspected_alone() {
    let dir = directory();
    let sound = inspect_file(&dir, &log(0)).unwrap();
    assert!(sound.is_sound());
    assert_eq!(sound.files[0].kind, FileKind::SealedSegment);
    dir.corrupt_sector(&log(0), 1);
    assert!(!inspect_file(&dir, &log(0)).unwrap().is_sound());
}

#[test]
fn file_of_something_else_is_unreadable() {
    let dir = SimDir::new();
    dir.create(Path::new("holiday.jpg")).unwrap();
    let found = inspect_file(&dir, Path::new("holiday.jpg")).unwrap();
    assert_eq!(found.files[0].kind, FileKind::Unknown);
    assert_eq!(found.files[0].damage, [Damage::Unreadable]);
}
