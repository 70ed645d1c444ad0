//! Deleting partitions while the archiver is at work.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::world::{Gentle, options};
use crate::model::{CheckedBatch, PartitionId};
use crate::storage::dir::Dir;
use crate::storage::dir::sim::SimDir;
use crate::storage::{ArchiveError, Claim, JournalAppend, PARTITIONS_DIR, Storage};

const DELETED: PartitionId = PartitionId(3);
const KEPT: PartitionId = PartitionId(4);

/// Two partitions with a batch each, in segments.
fn archived() -> (SimDir, Storage) {
    let dir = SimDir::new();
    let (storage, _) = Storage::open(Arc::new(dir.clone()), options(), 1).unwrap();
    append(&storage, DELETED);
    append(&storage, KEPT);
    assert_eq!(storage.archive_oldest(1, &Gentle(false)).unwrap(), 2);
    assert_eq!(partition_dirs(&dir), ["3", "4"]);
    (dir, storage)
}

/// Leaves a journal file that waits for the archiver.
fn append(storage: &Storage, id: PartitionId) {
    let payload = Bytes::from(vec![1; 600]);
    let append = JournalAppend {
        log: storage.partition(id),
        batch: CheckedBatch {
            payload_crc: crc32fast::hash(&payload),
            payload,
            record_count: 1,
            max_timestamp_ms: None,
            all_timed: false,
            uncompressed_len: 600,
            attributes: 0,
            stamp: None,
            key_hashes: Vec::new(),
        },
        unit_remaining: 0,
        guards: Vec::new(),
        claim: Claim::User,
    };
    storage.append(&[append], 1).unwrap();
    storage.flush(storage.written()).unwrap();
    storage.close_journal_file();
}

fn partition_dirs(dir: &SimDir) -> Vec<String> {
    dir.list(Path::new(PARTITIONS_DIR)).unwrap()
}

#[test]
fn files_that_the_archiver_may_be_writing_go_when_it_has_done() {
    let (dir, storage) = archived();
    let pass = storage.archiver();
    storage.delete_partitions(&[DELETED]).unwrap();
    assert_eq!(partition_dirs(&dir), ["3", "4"], "it didn't wait");
    drop(pass);
    assert_eq!(storage.archive_oldest(2, &Gentle(false)).unwrap(), 0);
    assert_eq!(partition_dirs(&dir), ["4"]);
}

#[test]
fn on_a_full_disk_a_failing_pass_removes_what_was_deleted() {
    let (dir, storage) = archived();
    append(&storage, KEPT);
    dir.set_capacity(Some(0));
    let pass = storage.archiver();
    storage.delete_partitions(&[DELETED]).unwrap();
    drop(pass);
    let failed = storage.archive_oldest(2, &Gentle(false)).unwrap_err();
    assert!(matches!(failed, ArchiveError::NoSpace(_)), "{failed}");
    assert_eq!(partition_dirs(&dir), ["4"], "its space came back");
    dir.set_capacity(None);
    assert_eq!(storage.archive_oldest(3, &Gentle(false)).unwrap(), 1);
}
