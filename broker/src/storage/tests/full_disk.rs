//! A disk without a byte of room: retention must be able to make some.

use std::path::Path;
use std::sync::Arc;

use super::model::{batch, read_whole};
use super::world::{Gentle, SEGMENT_BYTES, options};
use crate::model::{Offset, PartitionId};
use crate::storage::dir::sim::SimDir;
use crate::storage::dir::{Dir, PAGE};
use crate::storage::journal::JOURNAL_DIR;
use crate::storage::{
    AppendFailure, ArchiveError, Claim, JournalAppend, PartitionRetention, Prepared,
    RetentionError, Storage, segment,
};

const ID: PartitionId = PartitionId(16);

fn open(dir: &SimDir) -> Storage {
    let (storage, report) = Storage::open(Arc::new(dir.clone()), options(), 1 << 70).unwrap();
    assert_eq!(report.damage, []);
    storage.partition(ID).lock().segment_bytes = SEGMENT_BYTES;
    storage
}

/// Appends so many batches of 1 KiB, and archives them.
fn archive(storage: &Storage, batches: u64) {
    for nth in 0..batches {
        let append = JournalAppend {
            log: storage.partition(ID),
            batch: batch(nth, 2, 1 << 10),
            unit_remaining: 0,
            guards: Vec::new(),
            claim: Claim::User,
        };
        storage.append(&[append], 1_000).unwrap();
    }
    let flushed = storage.flush(storage.written()).unwrap();
    assert_eq!(flushed, storage.written());
    let log = storage.partition(ID);
    let end = log.lock().next_offset;
    log.publish(end);
    storage.close_journal_file();
    while storage.archive_oldest(1_000, &Gentle(false)).unwrap() > 0 {}
}

/// Everything that was appended at 1,000 is too old at `now_ms` = 100,000.
fn expire(storage: &Storage, now_ms: i64) -> Result<usize, RetentionError> {
    let retention = PartitionRetention {
        log: storage.partition(ID),
        retention_ms: Some(60_000),
        retention_bytes: None,
    };
    storage.apply_retention([retention].into_iter(), now_ms)
}

fn segment_files(dir: &SimDir) -> usize {
    segment::list(dir, ID).unwrap().segments().len()
}

#[test]
fn sealed_and_active_segments_go_though_there_is_no_room_for_a_checkpoint() {
    let dir = SimDir::new();
    let storage = open(&dir);
    archive(&storage, 12);
    assert!(segment_files(&dir) >= 2);
    dir.fill_up_to(0);
    let removed = expire(&storage, 100_000).unwrap();
    assert!(removed >= 2, "{removed}");
    assert!(
        dir.available_bytes().unwrap() > 11 << 10,
        "its space came back"
    );
    let end = storage.partition(ID).high_watermark();
    assert_eq!(storage.partition(ID).lock().log_start, end);
    assert_eq!(segment_files(&dir), 1, "the next one is begun");

    // It is so after a crash, and goes on behind.
    drop(storage);
    let dir = dir.crash(1);
    dir.set_capacity(None);
    let storage = open(&dir);
    assert_eq!(storage.partition(ID).high_watermark(), end);
    assert_eq!(storage.partition(ID).lock().log_start, end);
    archive(&storage, 1);
    let whole = read_whole(&storage, ID, 900);
    assert_eq!(whole.log_start, end.0);
    assert_eq!(whole.high_watermark, end.0 + 2);
    assert_eq!(whole.batches.len(), 1);
    assert_eq!(whole.quarantined, []);
}

#[test]
fn silent_topic_becomes_empty_though_there_is_no_room_for_another_segment() {
    let dir = SimDir::new();
    let storage = open(&dir);
    archive(&storage, 3);
    assert_eq!(segment_files(&dir), 1);
    dir.fill_up_to(0);
    assert_eq!(expire(&storage, 100_000).unwrap(), 1);
    let end = storage.partition(ID).high_watermark();
    assert_eq!(storage.partition(ID).lock().log_start, end);
    dir.set_capacity(None);
    archive(&storage, 1);
    let whole = read_whole(&storage, ID, 900);
    assert_eq!(whole.batches.len(), 1);
    assert_eq!(whole.high_watermark, end.0 + 2);
}

#[test]
fn passes_that_find_no_room_again_and_again_leave_enough_for_retention() {
    for room in (0..3_000).step_by(50) {
        let dir = SimDir::new();
        let storage = open(&dir);
        archive(&storage, 6);
        // Each one more entry of the checkpoint, as long as there is room.
        dir.fill_up_to(room);
        for id in 17..30 {
            let append = JournalAppend {
                log: storage.partition(PartitionId(id)),
                batch: batch(0, 1, 0),
                unit_remaining: 0,
                guards: Vec::new(),
                claim: Claim::User,
            };
            if storage.append(&[append], 1_000).is_err() {
                break;
            }
            storage.flush(storage.written()).unwrap();
            storage.close_journal_file();
            match storage.archive_oldest(1_000, &Gentle(false)) {
                Ok(_) => {}
                Err(error) => assert!(matches!(error, ArchiveError::NoSpace(_)), "{error}"),
            }
        }
        let left = dir.available_bytes().unwrap();
        dir.fill_up_to(0);
        let removed = expire(&storage, 100_000)
            .unwrap_or_else(|error| panic!("room for {room}, {left} left: {error}"));
        assert!(removed > 0, "{room}");
    }
}

#[test]
fn directory_that_was_opened_without_room_makes_some() {
    let dir = SimDir::new();
    let storage = open(&dir);
    archive(&storage, 6);
    drop(storage);
    // The power goes: what was kept for the next checkpoint was not durable.
    let dir = dir.crash(3);
    let storage = open(&dir);
    dir.fill_up_to(0);
    assert!(expire(&storage, 100_000).unwrap() > 0);
}

#[test]
fn spare_journal_file_is_given_up_when_others_took_the_room_for_the_checkpoint() {
    let dir = SimDir::new();
    let storage = open(&dir);
    archive(&storage, 6);
    assert_eq!(storage.prepare_spare().unwrap(), Prepared::One);
    dir.remove(Path::new("checkpoint.new")).unwrap();
    dir.fill_up_to(0);
    assert!(expire(&storage, 100_000).unwrap() > 0);
    archive(&storage, 1);
}

#[test]
fn journal_file_that_was_used_before_it_was_prepared_stays_where_there_is_room() {
    for has_room in [true, false] {
        let dir = SimDir::new();
        let storage = open(&dir);
        let journal_files = || dir.list(Path::new(JOURNAL_DIR)).unwrap();
        archive(&storage, 1);
        let first = journal_files();
        assert_eq!(
            first.len(),
            1,
            "the one that is written is kept for the next"
        );
        if !has_room {
            dir.fill_up_to(options().journal.size.file_bytes.into());
        }
        archive(&storage, 1);
        assert_eq!(journal_files() == first, has_room);
        if has_room {
            // Zeros go behind what was written, and nowhere else.
            let path = Path::new(JOURNAL_DIR).join(&first[0]);
            let mut before = vec![0; 2 * PAGE];
            dir.open(&path).unwrap().read_at(&mut before, 0).unwrap();
            assert_eq!(storage.prepare_spare().unwrap(), Prepared::One);
            assert_eq!(journal_files(), first);
            let file = dir.open(&path).unwrap();
            assert!(file.len().unwrap() >= options().journal.size.file_bytes.into());
            let mut after = vec![0; 2 * PAGE];
            file.read_at(&mut after, 0).unwrap();
            assert_eq!(after[..PAGE], before[..PAGE]);
        }
        // Whatever it is, it is written, and read again after a crash.
        archive(&storage, 2);
        drop(storage);
        let storage = open(&dir.crash(7));
        let whole = read_whole(&storage, ID, 900);
        assert_eq!(whole.batches.len(), 4);
    }
}

#[test]
fn partition_that_was_deleted_meanwhile_is_left_alone() {
    let dir = SimDir::new();
    let storage = open(&dir);
    archive(&storage, 3);
    let retention = PartitionRetention {
        log: storage.partition(ID),
        retention_ms: Some(60_000),
        retention_bytes: None,
    };
    storage.delete_partitions(&[ID]).unwrap();
    let removed = storage.apply_retention([retention].into_iter(), 100_000);
    assert_eq!(removed.unwrap(), 0);
    assert_eq!(storage.failure(), None);
    assert_eq!(segment_files(&dir), 0);
}

#[test]
fn partition_that_lost_everything_gets_a_segment_that_says_so() {
    let dir = SimDir::new();
    let storage = open(&dir);
    storage.partition(ID).lock().skip_damaged(Offset(100));
    assert_eq!(expire(&storage, 100_000).unwrap(), 0);
    assert_eq!(storage.failure(), None);
    assert_eq!(segment_files(&dir), 1);
    archive(&storage, 1);
    assert_eq!(storage.partition(ID).high_watermark(), Offset(102));
}

/// Seed 8108 of the property test: a file in which nothing could be written but its
/// header was never flushed, and the file behind it named it as the one before. A power
/// cut took the header; then what lay behind counted as void, acknowledged or not. Or,
/// where a frame proved that it had been durable, a file seemed to be lost, and every
/// partition skipped billions of offsets.
#[test]
fn journal_file_that_got_no_frames_is_not_missed_after_a_power_cut() {
    for seed in 0..50 {
        let dir = SimDir::new();
        let storage = open(&dir);
        let append = |claim| {
            let append = JournalAppend {
                log: storage.partition(ID),
                batch: batch(seed, 1, 1_000),
                unit_remaining: 0,
                guards: Vec::new(),
                claim,
            };
            storage.append(&[append], 1_000)
        };
        append(Claim::User).unwrap();
        storage.flush(storage.written()).unwrap();
        storage.prepare_spare().unwrap();
        storage.close_journal_file();
        // Room for the header of a new file, and not for a frame.
        dir.fill_up_to(4_100);
        let refused = append(Claim::User).unwrap_err();
        assert!(matches!(refused, AppendFailure::NoSpace(_)), "{refused}");
        append(Claim::Internal).unwrap();
        storage.flush(storage.written()).unwrap();
        drop(storage);
        let dir = dir.crash(seed);
        dir.set_capacity(None);
        let (storage, report) = Storage::open(Arc::new(dir), options(), 2 << 70).unwrap();
        assert_eq!(report.damage, [], "seed {seed}");
        let end = storage.partition(ID).high_watermark();
        assert_eq!(end, Offset(2), "seed {seed}");
    }
}

#[test]
fn internal_append_is_refused_when_no_file_is_ready_that_has_room() {
    let dir = SimDir::new();
    let storage = open(&dir);
    let append = || {
        let append = JournalAppend {
            log: storage.partition(ID),
            batch: batch(1, 1, 1_000),
            unit_remaining: 0,
            guards: Vec::new(),
            claim: Claim::Internal,
        };
        storage.append(&[append], 1_000)
    };
    // Room for headers, again and again, and never for a frame.
    dir.fill_up_to(4_200);
    for _ in 0..3 {
        let refused = append().unwrap_err();
        assert!(matches!(refused, AppendFailure::NoSpace(_)), "{refused}");
    }
    dir.set_capacity(None);
    append().unwrap();
    assert_eq!(storage.partition(ID).lock().next_offset, Offset(1));
}

#[test]
fn nothing_of_an_append_that_was_refused_comes_back_with_a_power_cut() {
    for (room, seed) in (0..1_000)
        .step_by(100)
        .flat_map(|room| (0..20).map(move |seed| (room, seed)))
    {
        let dir = SimDir::new();
        let storage = open(&dir);
        let append = |count| {
            let append = |nth| JournalAppend {
                log: storage.partition(ID),
                batch: batch(nth, 1, 200),
                unit_remaining: 0,
                guards: Vec::new(),
                claim: Claim::User,
            };
            let group: Vec<_> = (0..count).map(append).collect();
            storage.append(&group, 1_000)
        };
        append(1).unwrap();
        storage.flush(storage.written()).unwrap();
        // Room for some frames of the next group, but not for all.
        dir.fill_up_to(room);
        let refused = append(20).unwrap_err();
        assert!(matches!(refused, AppendFailure::NoSpace(_)), "{refused}");
        drop(storage);
        let (storage, report) =
            Storage::open(Arc::new(dir.crash(seed)), options(), 2 << 70).unwrap();
        assert_eq!(report.damage, []);
        let end = storage.partition(ID).high_watermark();
        assert_eq!(end, Offset(1), "room for {room}, seed {seed}");
    }
}
