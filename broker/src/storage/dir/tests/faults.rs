//! What only the simulated tree does.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use crate::storage::dir::sim::{Fault, SECTOR, SimDir};
use crate::storage::dir::{Dir, File, PAGE, is_bad_sector, is_passing};

fn path(path: &str) -> &Path {
    Path::new(path)
}

fn contents(dir: &SimDir, name: &str) -> Vec<u8> {
    let file = dir.open(path(name)).unwrap();
    let mut buf = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_at(&mut buf, 0).unwrap();
    buf
}

/// A tree whose file `a` is durable with `len` bytes of `fill`.
fn with_durable_file(len: usize, byte: u8) -> (SimDir, Arc<dyn File>) {
    let dir = SimDir::new();
    let file = dir.create(path("a")).unwrap();
    file.write_all_at(&vec![byte; len], 0).unwrap();
    file.sync_data().unwrap();
    dir.sync_dir(path("")).unwrap();
    (dir, file)
}

#[test]
fn crash_keeps_what_was_flushed_whatever_the_seed() {
    let (dir, file) = with_durable_file(3 * SECTOR, 7);
    for seed in 0..50 {
        assert_eq!(contents(&dir.crash(seed), "a"), vec![7; 3 * SECTOR]);
    }
    file.len().unwrap_err();
    dir.list(path("")).unwrap_err();
}

#[test]
fn crash_tears_unflushed_overwrites_at_sectors() {
    let (dir, file) = with_durable_file(4 * SECTOR, 1);
    file.write_all_at(&vec![2; 4 * SECTOR], 0).unwrap();
    let mut outcomes = BTreeSet::new();
    for seed in 0..200 {
        let left = contents(&dir.crash(seed), "a");
        assert_eq!(left.len(), 4 * SECTOR);
        let survived: Vec<bool> = left
            .chunks(SECTOR)
            .map(|sector| {
                assert!(sector.iter().all(|byte| *byte == sector[0]));
                sector[0] == 2
            })
            .collect();
        outcomes.insert(survived);
    }
    assert_eq!(outcomes.len(), 16, "every subset of four sectors");
}

#[test]
fn crash_leaves_any_length_since_the_flush_and_zeros_or_garbage_in_it() {
    let (dir, file) = with_durable_file(SECTOR, 1);
    file.write_all_at(&[2; SECTOR], SECTOR as u64).unwrap();
    file.write_all_at(&[3; SECTOR], 2 * SECTOR as u64).unwrap();
    let mut lengths = BTreeSet::new();
    let (mut zeros, mut garbage) = (0, 0);
    for seed in 0..500 {
        let left = contents(&dir.crash(seed), "a");
        assert_eq!(left[..SECTOR], [1; SECTOR]);
        if left.len() == 3 * SECTOR {
            let last = &left[2 * SECTOR..];
            zeros += u32::from(last == [0; SECTOR]);
            garbage += u32::from(last != [0; SECTOR] && last != [3; SECTOR]);
        }
        lengths.insert(left.len());
    }
    assert!(lengths.contains(&SECTOR));
    assert!(lengths.contains(&(2 * SECTOR)));
    assert!(lengths.contains(&(3 * SECTOR)));
    assert!(zeros > 0 && garbage > 0);
}

#[test]
fn earlier_version_of_a_sector_may_survive_the_later_one() {
    let dir = SimDir::new();
    let names: Vec<String> = (0..100).map(|nth| nth.to_string()).collect();
    for name in &names {
        let file = dir.create(path(name)).unwrap();
        file.set_len(SECTOR as u64).unwrap();
        file.sync_data().unwrap();
        dir.sync_dir(path("")).unwrap();
        file.write_all_at(&[1; SECTOR], 0).unwrap();
        file.write_all_at(&[2; SECTOR], 0).unwrap();
    }
    let left = dir.crash(1);
    let found: BTreeSet<u8> = names.iter().map(|name| contents(&left, name)[0]).collect();
    assert_eq!(found, BTreeSet::from([0, 1, 2]));
}

#[test]
fn crash_loses_any_names_that_were_not_flushed() {
    let dir = SimDir::new();
    dir.create(path("a")).unwrap();
    dir.create(path("b")).unwrap();
    let outcomes: BTreeSet<_> = (0..100)
        .map(|seed| dir.crash(seed).list(path("")).unwrap())
        .collect();
    assert_eq!(outcomes.len(), 4);
}

#[test]
fn name_may_survive_without_the_contents() {
    let dir = SimDir::new();
    let file = dir.create(path("a")).unwrap();
    file.write_all_at(b"x", 0).unwrap();
    dir.sync_dir(path("")).unwrap();
    assert!((0..50).any(|seed| contents(&dir.crash(seed), "a").is_empty()));
    assert!((0..50).any(|seed| contents(&dir.crash(seed), "a") == b"x"));
}

#[test]
fn rename_survives_whole_or_not_at_all() {
    let dir = SimDir::new();
    for (name, byte) in [("new", 2), ("current", 1)] {
        let file = dir.create(path(name)).unwrap();
        file.write_all_at(&[byte], 0).unwrap();
    }
    dir.sync_all().unwrap();
    dir.rename(path("new"), path("current")).unwrap();
    let outcomes: BTreeSet<_> = (0..50)
        .map(|seed| {
            let left = dir.crash(seed);
            (left.list(path("")).unwrap(), contents(&left, "current"))
        })
        .collect();
    let names = |names: &[&str]| names.iter().copied().map(String::from).collect::<Vec<_>>();
    let expected = [
        (names(&["current"]), vec![2]),
        (names(&["current", "new"]), vec![1]),
    ];
    assert_eq!(outcomes, BTreeSet::from(expected));
}

#[test]
fn file_in_a_directory_whose_name_was_not_flushed_may_be_lost() {
    let dir = SimDir::new();
    dir.create_dir(path("p")).unwrap();
    dir.create(path("p/a")).unwrap();
    dir.sync_dir(path("p")).unwrap();
    let outcomes: BTreeSet<_> = (0..50)
        .map(|seed| dir.crash(seed).list(path("p")).unwrap())
        .collect();
    assert_eq!(outcomes.len(), 2);
    dir.sync_dir(path("")).unwrap_err(); // crashed
}

#[test]
fn recreated_directory_is_not_emptied_by_the_flush_of_its_name() {
    let dir = SimDir::new();
    dir.create_dir(path("p")).unwrap();
    dir.create(path("p/old")).unwrap();
    dir.sync_all().unwrap();
    dir.remove_dir_all(path("p")).unwrap();
    dir.create_dir(path("p")).unwrap();
    dir.create(path("p/new")).unwrap();
    dir.sync_dir(path("p")).unwrap();
    dir.sync_dir(path("")).unwrap();
    assert_eq!(dir.crash(1).list(path("p")).unwrap(), ["new"]);
}

#[test]
fn power_cut_in_the_middle_fails_everything_after_it() {
    let (dir, file) = with_durable_file(1, 1);
    dir.fail_after(1, Fault::Crash);
    file.write_all_at(&[2], 0).unwrap();
    file.sync_data().unwrap_err();
    assert!(dir.has_crashed());
    file.read_at(&mut [0], 0).unwrap_err();
    dir.create(path("b")).unwrap_err();
    let survived: BTreeSet<_> = (0..50)
        .map(|seed| contents(&dir.crash(seed), "a"))
        .collect();
    assert_eq!(survived, BTreeSet::from([vec![1], vec![2]]));
}

#[test]
fn failed_flush_lies_the_second_time() {
    let (dir, file) = with_durable_file(8 * SECTOR, 1);
    file.write_all_at(&[2; 8 * SECTOR], 0).unwrap();
    dir.fail_after(0, Fault::FlushError);
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
    file.sync_data().unwrap();
    assert_eq!(contents(&dir, "a"), vec![2; 8 * SECTOR], "the cache");
    let left = contents(&dir.crash(1), "a");
    assert!(left.contains(&1), "the disk has old sectors");
}

#[test]
fn failed_and_short_writes_are_done_in_part_and_strike_once() {
    for (fault, kind) in [
        (Fault::ShortWrite, ErrorKind::WriteZero),
        (Fault::DiskFull, ErrorKind::StorageFull),
        (Fault::QuotaFull, ErrorKind::QuotaExceeded),
    ] {
        let (dir, file) = with_durable_file(1, 1);
        dir.fail_after(0, fault);
        dir.create(path("b")).unwrap();
        assert!(dir.fault_pending());
        let error = file.write_all_at(&[2; 100], 1).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(file.len().unwrap() < 101);
        file.write_all_at(&[2; 100], 1).unwrap();
        assert_eq!(file.len().unwrap(), 101);
    }
    let (dir, file) = with_durable_file(1, 1);
    dir.fail_after(0, Fault::WriteError);
    assert_eq!(
        file.write_all_at(&[2], 0).unwrap_err().raw_os_error(),
        Some(5)
    );
    dir.fail_after(0, Fault::ReadError);
    file.read_at(&mut [0], 0).unwrap_err();
    file.read_at(&mut [0], 0).unwrap();
}

#[test]
fn want_of_a_descriptor_strikes_whatever_opens_something() {
    let (dir, file) = with_durable_file(1, 1);
    let attempts: [fn(&SimDir) -> std::io::Result<()>; 4] = [
        |dir| dir.create(path("b")).map(drop),
        |dir| dir.open(path("a")).map(drop),
        |dir| dir.list(path("")).map(drop),
        |dir| dir.remove_dir_all(path("none")),
    ];
    for attempt in attempts {
        dir.fail_after(0, Fault::Descriptors);
        file.write_all_at(&[2], 0).unwrap();
        file.sync_data().unwrap();
        dir.sync_dir(path("")).unwrap();
        assert_eq!(attempt(&dir).unwrap_err().raw_os_error(), Some(24));
        attempt(&dir).unwrap();
    }
}

#[test]
fn full_disk_heals_when_files_go_or_capacity_grows() {
    let (dir, file) = with_durable_file(600, 1);
    dir.set_capacity(Some(1000));
    assert_eq!(dir.available_bytes().unwrap(), 400);
    let other = dir.create(path("b")).unwrap();
    let error = other.write_all_at(&[2; 500], 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert_eq!(other.len().unwrap(), 400, "what fits is written");
    file.write_all_at(&[3; 600], 0).unwrap();
    other.set_len(401).unwrap_err();
    drop(file);
    dir.remove(path("a")).unwrap();
    other.write_all_at(&[2; 500], 0).unwrap();
    dir.set_capacity(None);
    other.write_all_at(&[2; 5000], 0).unwrap();
}

#[test]
fn damage_at_rest_is_seen_at_once_and_after_a_crash() {
    let (dir, _file) = with_durable_file(2 * SECTOR, 0);
    dir.flip_bit(path("a"), 11);
    dir.corrupt_sector(path("a"), 1);
    let seen = contents(&dir, "a");
    assert_eq!(seen[1], 1 << 3);
    assert_ne!(seen[SECTOR..], [0; SECTOR]);
    assert_eq!(contents(&dir.crash(3), "a"), seen);
}

#[test]
fn bad_sector_keeps_its_page_from_being_written_in_part() {
    let (dir, file) = with_durable_file(3 * PAGE, 7);
    let is_bad = |at: usize| file.read_at(&mut [0], at as u64).is_err();
    dir.break_sector(path("a"), 9);
    assert!(is_bad(PAGE + SECTOR) && !is_bad(PAGE));
    let failed = |result: io::Result<()>| assert!(is_bad_sector(&result.unwrap_err()));
    // The bad sector itself, others of its page, and all of it but a byte.
    failed(file.write_all_at(&[8; SECTOR], (PAGE + SECTOR) as u64));
    failed(file.write_all_at(&[8], PAGE as u64));
    failed(file.write_parts_at([&[8], &[], &[8; PAGE - 2]], PAGE as u64 + 1));
    failed(file.set_len((PAGE + 10) as u64));
    // Pages before it are written all the same.
    failed(file.write_all_at(&[8; 2 * PAGE - 1], 0));
    let mut expected = [7; 3 * PAGE];
    expected[..PAGE].fill(8);
    file.write_parts_at([&[9; 10], &[9; PAGE - 10], &[]], PAGE as u64)
        .unwrap();
    expected[PAGE..2 * PAGE].fill(9);
    assert_eq!(contents(&dir, "a"), expected);
    // What lies behind the end of the last page has to be read to make the file longer.
    file.set_len((2 * PAGE + SECTOR) as u64).unwrap();
    dir.break_sector(path("a"), 18);
    failed(file.set_len((3 * PAGE) as u64));
    file.set_len(2 * PAGE as u64).unwrap();
    file.set_len(3 * PAGE as u64).unwrap();
}

#[test]
fn same_seed_gives_the_same_crash() {
    let run = || {
        let dir = SimDir::new();
        for name in ["a", "b", "c"] {
            let file = dir.create(path(name)).unwrap();
            file.write_all_at(&[1; 10 * SECTOR], 0).unwrap();
        }
        let left = dir.crash(9);
        let names = left.list(path("")).unwrap();
        let all: Vec<_> = names.iter().map(|name| contents(&left, name)).collect();
        (names, all)
    };
    assert_eq!(run(), run());
}

#[test]
fn room_of_a_removed_file_comes_back_when_it_is_closed() {
    let (dir, file) = with_durable_file(3 * SECTOR, 7);
    dir.fill_up_to(10);
    dir.remove(path("a")).unwrap();
    dir.sync_dir(path("")).unwrap();
    assert_eq!(dir.available_bytes().unwrap(), 10);
    drop(file);
    assert_eq!(dir.available_bytes().unwrap(), 10 + 3 * SECTOR as u64);
}

#[test]
fn no_more_files_are_opened_than_may_be() {
    let (dir, file) = with_durable_file(1, 7);
    dir.set_most_open(Some(2));
    let again = dir.open(path("a")).unwrap();
    for short in [dir.open(path("a")), dir.create(path("b"))] {
        assert!(is_passing(&short.unwrap_err()));
    }
    drop(again);
    dir.open(path("a")).unwrap();
    drop(file);
}
