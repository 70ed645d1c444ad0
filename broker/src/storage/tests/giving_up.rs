//! A pass of the archiver that is given up, since the broker stops.

use std::cell::Cell;
use std::sync::Arc;

use super::model::{batch, read_whole};
use super::passes::is_open;
use super::world::{SEGMENT_BYTES, options};
use crate::model::PartitionId;
use crate::storage::dir::sim::SimDir;
use crate::storage::{Claim, JournalAppend, Pace, Storage};

const IDS: [PartitionId; 3] = [PartitionId(16), PartitionId(17), PartitionId(18)];

/// Is over after it was asked so often.
struct OverAfter(Cell<u32>);

impl Pace for OverAfter {
    fn is_gentle(&self) -> bool {
        false
    }

    fn pause(&self) {}

    fn is_over(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left == 0
    }
}

fn open(dir: &SimDir) -> Storage {
    let (storage, report) = Storage::open(Arc::new(dir.clone()), options(), 1 << 70).unwrap();
    assert_eq!(report.damage, []);
    for id in IDS {
        storage.partition(id).lock().segment_bytes = SEGMENT_BYTES;
    }
    storage
}

/// A closed journal file. One partition has large batches, which are copied one by
/// one, the others small ones.
fn close_file(storage: &Storage) {
    for (nth, filler) in (0..3).flat_map(|_| [(0, 1 << 10), (1, 100), (2, 10)]) {
        let log = storage.partition(IDS[nth]);
        let append = JournalAppend {
            log: log.clone(),
            batch: batch(nth as u64, 2, filler),
            unit_remaining: 0,
            guards: Vec::new(),
            claim: Claim::User,
        };
        storage.append(&[append], 1_000).unwrap();
        let end = log.lock().next_offset;
        log.publish(end);
    }
    assert!(storage.close_journal_file());
}

/// More files than a pass takes.
const FILES: usize = 4;

fn close_files(storage: &Storage) {
    while storage.archiver_lag() < FILES {
        close_file(storage);
    }
}

#[test]
fn pass_that_is_given_up_anywhere_is_made_again() {
    let never = || OverAfter(Cell::new(u32::MAX));
    let mut given_up = 0;
    for asked in 0..60 {
        let dir = SimDir::new();
        let storage = open(&dir);
        close_files(&storage);
        storage.archive_oldest(1_000, &never()).unwrap();
        close_files(&storage);
        assert!(IDS.iter().all(|&id| is_open(&storage, &dir, id)));
        let before = IDS.map(|id| read_whole(&storage, id, 900));
        let archived = storage.archive_oldest(1_000, &OverAfter(Cell::new(asked)));
        let archived = archived.unwrap();
        assert!(archived < FILES);
        assert_eq!(storage.failure(), None);
        given_up += u32::from(archived == 0);
        assert_eq!(storage.archiver_lag(), FILES - archived);
        assert_eq!(IDS.map(|id| read_whole(&storage, id, 900)), before);

        // It is the same for this broker and for the next one.
        if asked % 2 == 1 {
            while storage.archiver_lag() > 0 {
                assert!(storage.archive_oldest(1_000, &never()).unwrap() > 0);
                assert_eq!(IDS.map(|id| read_whole(&storage, id, 900)), before);
            }
        }
        drop(storage);
        let storage = open(&dir.crash(asked.into()));
        assert_eq!(IDS.map(|id| read_whole(&storage, id, 900)), before);
    }
    assert!((4..60).contains(&given_up), "{given_up}");
}
