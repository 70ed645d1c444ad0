//! What only the simulated tree does.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use crate::storage::dir::sim::{Fault, SimDir};
use crate::storage::dir::{Dir, File};

/// What a disk writes as one.
const SECTOR: usize = 512;

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
fn failed_flush_lies_the_second_time() {
    let (dir, file) = with_durable_file(8 * SECTOR, 1);
    file.write_all_at(&[2; 8 * SECTOR], 0).unwrap();
    dir.fail_after(0, Fault::FlushError);
    file.sync_data().unwrap_err();
    file.sync_data().unwrap();
    assert_eq!(contents(&dir, "a"), vec![2; 8 * SECTOR], "the cache");
    let left = contents(&dir.crash(1), "a");
    assert!(left.contains(&1), "the disk has old sectors");
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
fn crash_leaves_any_length_since_the_flush() {
    let (dir, file) = with_durable_file(SECTOR, 1);
    file.write_all_at(&[2; 2 * SECTOR], SECTOR as u64).unwrap();
    let mut lengths = BTreeSet::new();
    for seed in 0..500 {
        let left = contents(&dir.crash(seed), "a");
        assert_eq!(left[..SECTOR], [1; SECTOR]);
        assert!(left[SECTOR..].iter().all(|byte| [0, 2].contains(byte)));
        lengths.insert(left.len());
    }
    assert!(lengths.contains(&SECTOR) && lengths.contains(&(3 * SECTOR)));
    assert!(lengths.len() > 50, "and those between");
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
    let outcomes = (0..50).map(|seed| contents(&dir.crash(seed), "a"));
    assert_eq!(
        outcomes.collect::<BTreeSet<_>>(),
        BTreeSet::from([vec![1], vec![2]])
    );
}

#[test]
fn failed_write_is_done_in_part_and_strikes_once() {
    let (dir, file) = with_durable_file(1, 1);
    dir.fail_after(0, Fault::WriteError);
    file.write_all_at(&[2; 100], 1).unwrap_err();
    assert!(file.len().unwrap() < 101);
    file.write_all_at(&[2; 100], 1).unwrap();
    assert_eq!(file.len().unwrap(), 101);
}
