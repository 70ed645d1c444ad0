//! That the last group was durable is proven by no frame behind it, but by the
//! header of its file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::model::{WholeLog, batch, read_whole};
use super::world::options;
use crate::model::{Offset, PartitionId};
use crate::storage::dir::sim::{Fault, SimDir};
use crate::storage::dir::{Dir, File};
use crate::storage::{Claim, JournalAppend, JournalDamage, RecoveryReport, Storage};

const ID: PartitionId = PartitionId(16);

fn open(dir: &SimDir, run: u128) -> (Storage, RecoveryReport) {
    Storage::open(Arc::new(dir.clone()), options(), run << 96).unwrap()
}

fn append(storage: &Storage, nth: u64) {
    let append = JournalAppend {
        log: storage.partition(ID),
        batch: batch(nth, 2, 600),
        unit_remaining: 0,
        guards: Vec::new(),
        claim: Claim::User,
    };
    storage.append(&[append], 1_000).unwrap();
}

fn append_durably(storage: &Storage, nth: u64) {
    append(storage, nth);
    storage.flush(storage.written()).unwrap();
}

/// A directory with three groups of one batch, of which the last one is proven or
/// not, after a power cut.
fn directory(proven: bool) -> SimDir {
    let dir = SimDir::new();
    let (storage, _) = open(&dir, 1);
    for nth in 0..3 {
        append_durably(&storage, nth);
    }
    if proven {
        storage.prove_flushed().unwrap();
    }
    drop(storage);
    dir.crash(1)
}

/// The journal file, and where in it the payload of the `nth` batch begins.
fn payload_of(dir: &SimDir, nth: u64) -> (PathBuf, u64) {
    let journal = Path::new("journal");
    let name = dir.list(journal).unwrap().remove(0);
    let path = journal.join(name);
    let file: Arc<dyn File> = dir.open(&path).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_at(&mut bytes, 0).unwrap();
    let payload = batch(nth, 2, 600).payload;
    let at = bytes
        .windows(payload.len())
        .position(|window| window == payload);
    (path, at.expect("it is there") as u64)
}

fn whole(storage: &Storage) -> WholeLog {
    read_whole(storage, ID, 900)
}

#[test]
fn damaged_payload_of_the_last_group_is_named_and_its_offsets_stay_given() {
    let dir = directory(true);
    let (path, at) = payload_of(&dir, 2);
    dir.flip_bit(&path, (at + 99) * 8);
    let (storage, report) = open(&dir, 2);
    assert_eq!(report.cut, None);
    let lost = JournalDamage::Offsets {
        partition: ID,
        from: Offset(4),
        to: Offset(6),
    };
    assert_eq!(report.damage, [lost]);
    append_durably(&storage, 7);
    storage.partition(ID).publish(Offset(8));
    let found = whole(&storage);
    assert_eq!(found.quarantined, [(4, 6)]);
    assert_eq!(found.batches.last().unwrap().0, 6);
}

#[test]
fn damaged_head_of_the_last_group_is_named_and_its_offsets_are_not_given_out_again() {
    let dir = directory(true);
    let (path, at) = payload_of(&dir, 2);
    dir.flip_bit(&path, (at - 40) * 8);
    let (storage, report) = open(&dir, 2);
    assert_eq!(report.cut, None);
    let [JournalDamage::Bytes { from, to }] = report.damage[..] else {
        panic!("{:?}", report.damage);
    };
    assert!(u64::from(from.position()) < at && at < u64::from(to.position()));
    assert!(storage.partition(ID).high_watermark().0 >= 6);
    let found = whole(&storage);
    assert_eq!(found.quarantined, [(4, found.high_watermark)]);
    // It is the same after any restart.
    drop(storage);
    let (storage, report) = open(&dir.crash(2), 3);
    assert_eq!(report.damage.len(), 1);
    assert_eq!(whole(&storage).high_watermark, found.high_watermark);
}

#[test]
fn without_a_proof_the_last_group_is_taken_for_a_torn_tail() {
    let dir = directory(false);
    let (path, at) = payload_of(&dir, 2);
    dir.flip_bit(&path, (at + 99) * 8);
    let (storage, report) = open(&dir, 2);
    assert!(report.cut.is_some());
    assert_eq!(report.damage, []);
    assert_eq!(whole(&storage).high_watermark, 4);
}

#[test]
fn what_a_start_has_found_is_proven_by_it() {
    let dir = directory(false);
    drop(open(&dir, 2));
    let dir = dir.crash(3);
    let (path, at) = payload_of(&dir, 2);
    dir.flip_bit(&path, (at + 99) * 8);
    let (storage, report) = open(&dir, 3);
    assert_eq!(report.cut, None);
    assert_eq!(whole(&storage).quarantined, [(4, 6)]);
}

#[test]
fn last_group_of_a_file_that_was_closed_is_proven_too() {
    let dir = SimDir::new();
    let (storage, _) = open(&dir, 1);
    append_durably(&storage, 0);
    assert!(storage.close_journal_file());
    storage.prove_flushed().unwrap();
    drop(storage);
    let dir = dir.crash(1);
    let (path, at) = payload_of(&dir, 0);
    dir.flip_bit(&path, at * 8);
    let (storage, report) = open(&dir, 2);
    assert_eq!(report.cut, None);
    assert_eq!(whole(&storage).quarantined, [(0, 2)]);
}

#[test]
fn torn_tail_behind_a_proof_is_no_damage() {
    for seed in 0..300 {
        let dir = SimDir::new();
        let (storage, _) = open(&dir, 1);
        append_durably(&storage, 0);
        append_durably(&storage, 1);
        append(&storage, 2);
        storage.prove_flushed().unwrap();
        append(&storage, 3);
        drop(storage);
        let mut dir = dir.crash(seed);
        for run in 2..5 {
            let (storage, report) = open(&dir, run);
            assert_eq!(report.damage, [], "seed {seed}");
            let found = whole(&storage);
            assert_eq!(found.quarantined, [], "seed {seed}");
            assert!(found.high_watermark >= 4, "seed {seed}");
            drop(storage);
            dir = dir.crash(seed);
        }
    }
}

#[test]
fn power_cut_while_it_is_written_leaves_a_header_and_all_that_was_durable() {
    for (step, seed) in (0..2).flat_map(|step| (0..100).map(move |seed| (step, seed))) {
        let dir = SimDir::new();
        let (storage, _) = open(&dir, 1);
        append_durably(&storage, 0);
        dir.fail_after(step, Fault::Crash);
        storage.prove_flushed().unwrap_err();
        let (storage, report) = open(&dir.crash(seed), 2);
        assert_eq!(report.damage, []);
        assert_eq!(report.rebuilt_headers, []);
        assert_eq!(whole(&storage).batches.len(), 1);
    }
}

#[test]
fn proof_that_can_not_be_flushed_is_a_flush_that_failed() {
    let dir = SimDir::new();
    let (storage, _) = open(&dir, 1);
    append_durably(&storage, 0);
    dir.fail_after(0, Fault::FlushError);
    storage.prove_flushed().unwrap_err();
    assert!(storage.failure().is_some());
    storage.prove_flushed().unwrap_err();
    assert_eq!(whole(&storage).high_watermark, 0, "not published");
}

#[test]
fn file_in_other_use_is_left_alone() {
    let dir = SimDir::new();
    let (storage, _) = open(&dir, 1);
    // More files than there may be: each is used again.
    for nth in 0..20 {
        append_durably(&storage, nth);
        storage.prove_flushed().unwrap();
        storage.close_journal_file();
        storage.prove_flushed().unwrap();
        let pace = super::Gentle(false);
        while storage.archive_oldest(1_000, &pace).unwrap() > 0 {}
        storage.prove_flushed().unwrap();
        storage.prepare_spare().unwrap();
    }
    append_durably(&storage, 20);
    drop(storage);
    let (storage, report) = open(&dir.crash(1), 2);
    assert_eq!(report.damage, []);
    assert_eq!(whole(&storage).batches.len(), 21);
}
