//! What passes of the archiver that follow each other cost where many partitions get a
//! little each, and what stays open between them.

use std::path::Path;
use std::sync::Arc;

use super::model::{batch, read_whole};
use super::world::{Gentle, options};
use crate::model::{Offset, PartitionId};
use crate::storage::dir::Dir;
use crate::storage::dir::sim::SimDir;
use crate::storage::segment::log_path;
use crate::storage::{
    ArchiveError, Claim, JournalAppend, PartitionRetention, Storage, StorageOptions,
};

const PARTITIONS: u32 = 12;

fn ids() -> impl Iterator<Item = PartitionId> {
    (0..PARTITIONS).map(|nth| PartitionId(16 + nth))
}

fn many_files(growing_segments: usize) -> StorageOptions {
    let mut options = StorageOptions {
        growing_segments,
        ..options()
    };
    options.journal.size.max_files = 32;
    options.journal.size.file_bytes = 256 << 10;
    options.journal.max_frames_per_file = 512;
    options
}

fn open(dir: &SimDir, growing_segments: usize) -> Storage {
    let options = many_files(growing_segments);
    let (storage, report) = Storage::open(Arc::new(dir.clone()), options, 1 << 70).unwrap();
    assert_eq!(report.damage, []);
    storage
}

/// Leaves a journal file that has a little of each of these partitions.
fn close_file(storage: &Storage, ids: impl Iterator<Item = PartitionId>) {
    for id in ids {
        let log = storage.partition(id);
        for _ in 0..3 {
            let append = JournalAppend {
                log: log.clone(),
                batch: batch(log.lock().next_offset.0, 1, 900),
                unit_remaining: 0,
                guards: Vec::new(),
                claim: Claim::User,
            };
            storage.append(&[append], 1_000).unwrap();
        }
        let end = log.lock().next_offset;
        log.publish(end);
    }
    storage.flush(storage.written()).unwrap();
    assert!(storage.close_journal_file());
}

/// So many files that one pass doesn't take all of them.
fn close_files(storage: &Storage) {
    while storage.archiver_lag() <= 8 {
        close_file(storage, ids());
    }
}

fn pass(storage: &Storage) {
    assert!(storage.archive_oldest(1_000, &Gentle(false)).unwrap() > 0);
}

/// A pass that finds the segments as the one before left them, with more to do behind it:
/// how many files were opened.
fn opened_by_a_pass(storage: &Storage, dir: &SimDir) -> u64 {
    close_files(storage);
    pass(storage);
    assert!(storage.archiver_lag() > 0);
    close_files(storage);
    let opened = dir.opened();
    pass(storage);
    dir.opened() - opened
}

/// Whether the partition's active segment is open.
pub(super) fn is_open(storage: &Storage, dir: &SimDir, id: PartitionId) -> bool {
    let active = storage.partition(id).lock().active;
    active.is_some_and(|active| dir.is_held(&log_path(id, active.base_offset)))
}

fn check(storage: &Storage) {
    ids().for_each(|id| check_one(storage, id));
}

fn check_one(storage: &Storage, id: PartitionId) {
    let end = storage.partition(id).lock().next_offset;
    let whole = read_whole(storage, id, 4 << 10);
    assert_eq!(whole.batches.len() as u64, end.0);
    assert_eq!(whole.quarantined, []);
}

#[test]
fn segments_stay_open_between_passes_as_far_as_they_may() {
    let cost = |growing_segments| {
        let dir = SimDir::new();
        let storage = open(&dir, growing_segments);
        let opened = opened_by_a_pass(&storage, &dir);
        let state = |id| storage.partition(id).lock().active.unwrap();
        assert!(ids().all(|id| state(id).base_offset == Offset::ZERO));
        check(&storage);
        drop(storage);
        // Everything that passes have done is durable.
        check(&open(&dir.crash(1), growing_segments));
        opened
    };
    let partitions = u64::from(PARTITIONS);
    let all = cost(0);
    assert!(all >= partitions, "{all}");
    assert_eq!(cost(5), all - 5);
    assert_eq!(cost(usize::MAX), all - partitions);
}

#[test]
fn room_of_segments_that_go_comes_back_though_they_were_open() {
    let dir = SimDir::new();
    let storage = open(&dir, usize::MAX);
    opened_by_a_pass(&storage, &dir);
    assert!(ids().all(|id| is_open(&storage, &dir, id)));

    // One goes with its partition, another with what it holds, for good.
    let (deleted, expired) = (PartitionId(16), PartitionId(17));
    storage.delete_partitions(&[deleted]).unwrap();
    let retention = PartitionRetention {
        log: storage.partition(expired),
        retention_ms: Some(100),
        retention_bytes: None,
    };
    let removed = storage.apply_retention([retention].into_iter(), 2_000);
    assert_eq!(removed.unwrap(), 1);
    assert_eq!(dir.held_without_a_name(), 0);
    let mut others = ids().filter(|&id| id != deleted && id != expired);
    assert!(others.all(|id| is_open(&storage, &dir, id)));

    // Nothing stays open while there is nothing to do.
    while storage.archiver_lag() > 0 {
        pass(&storage);
    }
    let mut left = ids().filter(|&id| id != deleted);
    assert!(left.all(|id| !is_open(&storage, &dir, id)));
    assert_eq!(dir.held_without_a_name(), 0);
}

#[test]
fn what_is_open_is_not_opened_to_forget_its_pages() {
    let forgotten = |growing_segments| {
        let dir = SimDir::new();
        let storage = open(&dir, growing_segments);
        for id in ids() {
            // Some of what is forgotten lies in a segment before the one that is open.
            storage.partition(id).lock().segment_bytes = 20 << 10;
        }
        for _ in 0..5 {
            opened_by_a_pass(&storage, &dir);
        }
        let active = |id| storage.partition(id).lock().active.unwrap();
        assert!(ids().all(|id| active(id).base_offset > Offset::ZERO));
        (dir.take_forgotten(), dir.forgotten_open())
    };
    let (by_path, none) = forgotten(0);
    assert_eq!(none, 0);
    let (some_open, open) = forgotten(usize::MAX);
    assert_eq!(some_open, by_path, "it is the same, of the same segments");
    let open = usize::try_from(open).unwrap();
    assert!(
        (1..by_path.len()).contains(&open),
        "{open} of {}",
        by_path.len()
    );
}

/// Somebody removes a segment, or puts another file into its place, while it is open: what
/// is archived from then on is where readers find it, and a crash leaves it.
#[test]
fn what_is_archived_after_an_open_segment_was_removed_is_there() {
    let dir = SimDir::new();
    let storage = open(&dir, usize::MAX);
    close_files(&storage);
    pass(&storage);
    assert!(storage.archiver_lag() > 0);
    assert!(ids().all(|id| is_open(&storage, &dir, id)));
    let archived = |id| storage.partition(id).lock().archived_end();
    let before: Vec<Offset> = ids().map(archived).collect();
    let segment = |id| log_path(id, Offset::ZERO);
    for (nth, id) in ids().enumerate() {
        match nth % 2 {
            0 => dir.remove(&segment(id)).unwrap(),
            _ => {
                dir.create(Path::new("restored")).unwrap();
                dir.rename(Path::new("restored"), &segment(id)).unwrap();
            }
        }
    }
    close_files(&storage);
    while storage.archiver_lag() > 0 {
        pass(&storage);
    }
    assert_eq!(dir.held_without_a_name(), 0);
    let check = |storage: &Storage| {
        for (id, from) in ids().zip(&before) {
            let end = storage.partition(id).lock().next_offset;
            let whole = read_whole(storage, id, 4 << 10);
            let found = whole.batches.iter().map(|&(base, ..)| base);
            assert_eq!(
                found.collect::<Vec<_>>(),
                (from.0..end.0).collect::<Vec<_>>()
            );
        }
    };
    check(&storage);
    drop(storage);
    let dir = dir.crash(1);
    let (storage, _) = Storage::open(Arc::new(dir), many_files(usize::MAX), 1 << 70).unwrap();
    check(&storage);
}

/// More partitions than have their segments flushed, and so open, one by one.
const MANY: u32 = 80;

/// Whatever the want of descriptors is, some are enough for a pass.
#[test]
fn where_there_is_no_room_for_many_files_one_is_archived() {
    let dir = SimDir::new();
    let storage = open(&dir, usize::MAX);
    let many = || (0..70).map(|nth| PartitionId(16 + nth));
    for _ in 0..3 {
        close_file(&storage, many());
    }
    dir.fill_up_to(300 << 10);
    let short = storage.archive_oldest(1_000, &Gentle(false));
    assert!(matches!(short, Err(ArchiveError::NoSpace(_))));
    assert_eq!(storage.archive_oldest(1_000, &Gentle(false)).unwrap(), 1);
    dir.set_capacity(None);
    pass(&storage);
    assert_eq!(storage.archiver_lag(), 0);
    many().for_each(|id| check_one(&storage, id));
}

#[test]
fn what_one_flush_is_for_is_written_while_the_pass_goes_on() {
    for (partitions, gentle, asked) in [(64, false, false), (65, false, true), (65, true, false)] {
        let dir = SimDir::new();
        let storage = open(&dir, 0);
        let ids = || (0..partitions).map(|nth| PartitionId(16 + nth));
        close_file(&storage, ids());
        storage.archive_oldest(1_000, &Gentle(gentle)).unwrap();
        assert_eq!(dir.writebacks() > 0, asked, "{partitions} {gentle}");
        ids().for_each(|id| check_one(&storage, id));
    }
}

#[test]
fn pass_that_finds_few_descriptors_is_made_again_with_few() {
    let dir = SimDir::new();
    let storage = open(&dir, usize::MAX);
    // Each pass takes three files, of one kind of partitions or the other.
    let many = || (0..MANY).map(|nth| PartitionId(100 + nth));
    let close_three = |of_many: bool| {
        for _ in 0..3 {
            match of_many {
                true => close_file(&storage, many()),
                false => close_file(&storage, ids()),
            }
        }
    };
    let are_open = |ids: &mut dyn Iterator<Item = PartitionId>| {
        ids.filter(|&id| is_open(&storage, &dir, id)).count()
    };
    close_three(true);
    pass(&storage);
    assert_eq!(storage.archiver_lag(), 0);
    close_three(false);
    close_three(true);
    pass(&storage);
    assert_eq!(storage.archiver_lag(), 3);
    assert_eq!(are_open(&mut ids()), ids().count());
    assert_eq!(are_open(&mut many()), 0);

    close_three(true);
    dir.set_most_open(Some(dir.open_files() + 20));
    let short = storage.archive_oldest(1_000, &Gentle(false));
    assert!(matches!(short, Err(ArchiveError::NoSpace(_))), "{short:?}");
    // Those that it had nothing for, too.
    assert_eq!(are_open(&mut ids().chain(many())), 0);
    // Of six files it takes one.
    pass(&storage);
    assert_eq!(storage.archiver_lag(), 5);
    assert_eq!(are_open(&mut ids().chain(many())), 0);

    // Once there are more again, more are kept again.
    dir.set_most_open(None);
    for kept in [64, MANY] {
        close_three(true);
        pass(&storage);
        assert_eq!(storage.archiver_lag(), 5);
        assert_eq!(are_open(&mut many()), kept as usize);
    }
    while storage.archiver_lag() > 0 {
        pass(&storage);
    }
    for id in ids().chain(many()) {
        check_one(&storage, id);
    }
}
