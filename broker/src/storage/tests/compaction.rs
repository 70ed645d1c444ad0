//! Compaction step by step: who reads meanwhile, what fails, what stays.

mod dropped;
mod ending;
mod late_readers;
mod left_behind;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use statecast_proto::batch::{self, BatchBuilder, Compression, RecordRef};

use super::ProtobufRecords;
use super::keyed_model::read_records;
use super::world::{Gentle, options};
use crate::model::{CheckedBatch, Offset, PartitionId};
use crate::storage::dir::sim::{Fault, SimDir};
use crate::storage::dir::{Dir, File};
use crate::storage::log::PartitionLog;
use crate::storage::segment;
use crate::storage::{
    ArchiveError, Claim, CompactionConfig, CompactionError, CompactionSummary, Compactor,
    JournalAppend, Pace, PartitionCompaction, PartitionRetention, Storage, inspect_dir,
};

const ID: PartitionId = PartitionId(5);

/// One partition whose batches become a segment each.
struct Fixture {
    dir: SimDir,
    storage: Arc<Storage>,
    log: Arc<PartitionLog>,
    compactor: Compactor,
}

type Content<'a> = (&'a str, Option<&'a str>);

impl Fixture {
    fn new() -> Fixture {
        let dir = SimDir::new();
        Fixture::open(&dir, Arc::new(dir.clone()))
    }

    fn open(dir: &SimDir, opened: Arc<dyn Dir>) -> Fixture {
        let (storage, _) = Storage::open(opened, options(), 1).unwrap();
        let log = storage.partition(ID);
        log.lock().segment_bytes = 1;
        Fixture {
            dir: dir.clone(),
            storage: Arc::new(storage),
            log,
            compactor: Compactor::new(Arc::new(ProtobufRecords), 7),
        }
    }

    fn crash_and_reopen(self) -> Fixture {
        let dir = self.dir.crash(3);
        Fixture::open(&dir, Arc::new(dir.clone()))
    }

    /// Appends a batch, at this time in seconds.
    fn put_at(&self, seconds: i64, records: &[Content<'_>]) {
        self.put_batch(seconds, records, 0);
    }

    fn put_batch(&self, seconds: i64, records: &[Content<'_>], attributes: u16) {
        self.append(seconds, records, attributes);
        self.storage.flush(self.storage.written()).unwrap();
        let end = self.log.lock().next_offset;
        self.log.publish(end);
    }

    /// Appends a batch that is not durable yet.
    fn append(&self, seconds: i64, records: &[Content<'_>], attributes: u16) {
        let mut builder = BatchBuilder::new(Compression::None);
        for (key, value) in records {
            builder
                .push(&RecordRef {
                    key: (!key.is_empty()).then_some(key.as_bytes()),
                    value: value.map(str::as_bytes),
                    ..RecordRef::default()
                })
                .unwrap();
        }
        let payload = builder.finish().payload;
        let append = JournalAppend {
            log: self.log.clone(),
            batch: CheckedBatch {
                payload_crc: crc32fast::hash(&payload),
                uncompressed_len: u32::try_from(payload.len()).unwrap(),
                payload,
                record_count: u32::try_from(records.len()).unwrap(),
                max_timestamp_ms: None,
                all_timed: false,
                attributes,
                stamp: None,
                key_hashes: Vec::new(),
            },
            unit_remaining: 0,
            guards: Vec::new(),
            claim: Claim::User,
        };
        self.storage.append(&[append], seconds * 1000).unwrap();
    }

    fn put(&self, records: &[Content<'_>]) {
        self.put_at(1, records);
    }

    /// Moves everything to segments; the last batch stays in the active one.
    fn archive(&self) {
        self.storage.close_journal_file();
        while self.storage.archive_oldest(1, &Gentle(true)).unwrap() > 0 {}
    }

    fn compact_with(
        &mut self,
        pace: &dyn Pace,
    ) -> Result<Option<CompactionSummary>, CompactionError> {
        self.log.lock().segment_bytes = 1 << 20;
        let done = compact(&self.storage, &mut self.compactor, pace);
        self.log.lock().segment_bytes = 1;
        done
    }

    fn compact(&mut self) -> CompactionSummary {
        self.compact_with(&Gentle(true)).unwrap().expect("it pays")
    }

    /// Offset, key and value of each record; keys and values as text.
    fn contents(&self) -> Vec<(u64, String, Option<String>)> {
        let found = read_records(&self.storage, ID, 1 << 20);
        assert_eq!(found.quarantined, []);
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let records = found.records.iter().map(|record| {
            let key = record.key.as_ref().map_or_else(String::new, text);
            (record.offset, key, record.value.as_ref().map(text))
        });
        records.collect()
    }

    fn keys_left(&self) -> String {
        let contents = self.contents();
        let keys = contents
            .iter()
            .map(|(offset, key, _)| format!("{offset}{key}"));
        keys.collect::<Vec<String>>().join(" ")
    }

    fn files(&self) -> Vec<String> {
        self.dir.list(&segment::partition_dir(ID)).unwrap()
    }
}

fn compact(
    storage: &Storage,
    compactor: &mut Compactor,
    pace: &dyn Pace,
) -> Result<Option<CompactionSummary>, CompactionError> {
    let partition = PartitionCompaction {
        log: storage.partition(ID),
        config: CompactionConfig {
            tombstone_grace_ms: 0,
            min_dirty_percent: 50,
            max_dirty_bytes: 1 << 30,
        },
    };
    storage.compact(compactor, &partition, &|| 9000, pace)
}

#[test]
fn latest_record_of_each_key_stays_where_it_was() {
    let mut fixture = Fixture::new();
    fixture.put(&[("a", Some("1")), ("b", Some("1")), ("", Some("free"))]);
    fixture.put(&[("a", Some("2")), ("c", Some("1"))]);
    fixture.put(&[("b", None), ("d", Some("1")), ("a", Some("3"))]);
    fixture.put(&[("active", Some("1"))]);
    fixture.archive();
    let done = fixture.compact();
    assert_eq!(done.replaced_segments, 3);
    assert_eq!(done.dropped_records, 4);
    assert_eq!(fixture.keys_left(), "2 4c 6d 7a 8active");
    assert_eq!(
        fixture.files(),
        [
            "00000000000000000000-00000000000000000008.1.log",
            "00000000000000000008.log"
        ]
    );
    let dir: Arc<dyn Dir> = Arc::new(fixture.dir.clone());
    assert!(inspect_dir(&dir).unwrap().is_sound());
    assert!(
        fixture.compact_with(&Gentle(true)).unwrap().is_none(),
        "nothing is new"
    );
    // What was compacted is compacted again, with what came since.
    fixture.put(&[("c", Some("2")), ("d", None)]);
    fixture.put(&[("x", Some("1"))]);
    fixture.archive();
    fixture.compact();
    assert_eq!(fixture.keys_left(), "2 7a 8active 9c 11x");
    assert_eq!(
        fixture.files()[0],
        "00000000000000000000-00000000000000000011.2.log"
    );
    let reopened = fixture.crash_and_reopen();
    assert_eq!(reopened.keys_left(), "2 7a 8active 9c 11x");
}

#[test]
fn partition_that_says_the_same_again_and_again_stays_small() {
    let mut fixture = Fixture::new();
    for round in 0..300 {
        let value = format!("{round}");
        let key = format!("{}", round % 10);
        fixture.put(&[
            (&key, Some(&value)),
            ("always", Some(&value)),
            ("gone", None),
        ]);
        if round % 7 == 0 {
            fixture.archive();
            let _ = fixture.compact_with(&Gentle(true)).unwrap();
            let bytes = fixture.storage.segment_bytes(&fixture.log).unwrap();
            assert!(bytes < 4000, "round {round}: {bytes}");
        }
    }
    let contents = fixture.contents();
    let latest = contents.iter().rfind(|(_, key, _)| key == "always");
    assert_eq!(latest.unwrap().2.as_deref(), Some("299"));
}

/// Something to be done once, when a file is opened or removed.
type Hook = Box<dyn FnOnce() + Send>;

/// What a disk is about to do with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Open,
    Remove,
}

/// A disk on which something happens just before a file is opened or removed.
#[derive(Clone)]
struct Trap {
    dir: SimDir,
    set: Arc<Mutex<Option<(Moment, PathBuf, Hook)>>>,
}

impl std::fmt::Debug for Trap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trap").finish_non_exhaustive()
    }
}

impl Trap {
    fn spring(&self, moment: Moment, path: &Path) {
        let sprung = {
            let mut set = self.set.lock().unwrap();
            set.take_if(|(at, of, _)| *at == moment && of == path)
        };
        if let Some((.., hook)) = sprung {
            hook();
        }
    }
}

impl Dir for Trap {
    fn open(&self, path: &Path) -> std::io::Result<Arc<dyn File>> {
        self.spring(Moment::Open, path);
        self.dir.open(path)
    }

    fn create(&self, path: &Path) -> std::io::Result<Arc<dyn File>> {
        self.dir.create(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.dir.rename(from, to)
    }

    fn remove(&self, path: &Path) -> std::io::Result<()> {
        self.spring(Moment::Remove, path);
        self.dir.remove(path)
    }

    fn create_dir(&self, path: &Path) -> std::io::Result<()> {
        self.dir.create_dir(path)
    }

    fn remove_dir_all(&self, path: &Path) -> std::io::Result<()> {
        self.spring(Moment::Remove, path);
        self.dir.remove_dir_all(path)
    }

    fn list(&self, path: &Path) -> std::io::Result<Vec<String>> {
        self.dir.list(path)
    }

    fn sync_dir(&self, path: &Path) -> std::io::Result<()> {
        self.dir.sync_dir(path)
    }

    fn sync_all(&self) -> std::io::Result<()> {
        self.dir.sync_all()
    }

    fn begin_writeback(&self) {
        self.dir.begin_writeback();
    }

    fn forget_pages(&self, path: &Path, from: u64, to: u64) -> std::io::Result<()> {
        self.dir.forget_pages(path, from, to)
    }

    fn available_bytes(&self) -> std::io::Result<u64> {
        self.dir.available_bytes()
    }
}

/// Three segments that are to be compacted just when the second one is opened.
fn trapped() -> Fixture {
    let dir = SimDir::new();
    let trap = Trap {
        dir: dir.clone(),
        set: Arc::default(),
    };
    let fixture = Fixture::open(&dir, Arc::new(trap.clone()));
    fixture.put_at(1, &[("a", Some("1")), ("b", Some("1"))]);
    fixture.put_at(2, &[("a", Some("2")), ("b", Some("2"))]);
    fixture.put_at(3, &[("c", Some("1"))]);
    fixture.archive();
    let storage = fixture.storage.clone();
    let hook = move || {
        storage.partition(ID).lock().segment_bytes = 1 << 20;
        let mut compactor = Compactor::new(Arc::new(ProtobufRecords), 7);
        let done = compact(&storage, &mut compactor, &Gentle(false)).unwrap();
        assert_eq!(done.unwrap().replaced_segments, 2);
    };
    let second = segment::log_path(ID, Offset(2));
    *trap.set.lock().unwrap() = Some((Moment::Open, second, Box::new(hook)));
    fixture
}

#[test]
fn reader_that_looked_a_segment_up_just_before_it_was_replaced_looks_again() {
    let fixture = trapped();
    let found = read_records(&fixture.storage, ID, 1);
    assert_eq!(found.quarantined, []);
    let offsets: Vec<u64> = found.records.iter().map(|record| record.offset).collect();
    // The first segment was read as it was, the rest as it is: the merged batch
    // covers it.
    assert_eq!(offsets, [0, 1, 2, 3, 4]);
    assert!(fixture.log.lock().quarantined.is_empty());
}

#[test]
fn search_by_time_that_is_overtaken_begins_anew() {
    let fixture = trapped();
    let found = fixture.storage.offset_at_time(&fixture.log, 2000).unwrap();
    // Where the batch begins that has the record of that time.
    assert_eq!(found, Some(Offset(0)));
    assert_eq!(fixture.keys_left(), "2a 3b 4c");
}

#[test]
fn reader_of_a_replaced_segment_reads_on() {
    let mut fixture = Fixture::new();
    fixture.put(&[("a", Some("1"))]);
    fixture.put(&[("a", Some("2"))]);
    fixture.put(&[("b", Some("1"))]);
    fixture.archive();
    let old = Offset(0).into();
    let reader = segment::SegmentReader::open(&fixture.dir, ID, old).unwrap();
    fixture.compact();
    let end = segment::SegmentEnd {
        len: reader.sealed_len().unwrap(),
        next_offset: Offset(1),
    };
    let segment::SegmentRead::Batches(batches) = reader.read(Offset(0), end, 1).unwrap() else {
        panic!("it reads as before");
    };
    let record = batch::decode(batches[0].1.clone()).unwrap().next();
    assert_eq!(record.unwrap().unwrap().value.as_deref(), Some(&b"1"[..]));
}

#[test]
fn tombstone_waits_for_what_retention_has_not_removed_for_good() {
    let mut fixture = Fixture::new();
    fixture.put_at(1, &[("a", Some("1"))]);
    fixture.put_at(100, &[("a", None), ("b", Some("1"))]);
    fixture.put_at(100, &[("c", Some("1"))]);
    fixture.archive();
    let removes_the_first = PartitionRetention {
        log: fixture.log.clone(),
        retention_ms: Some(50_000),
        retention_bytes: None,
    };
    // Retention needs no room, but for what is kept for the checkpoint.
    fixture.dir.remove(Path::new("checkpoint.new")).unwrap();
    fixture.dir.set_capacity(Some(0));
    let failed = fixture
        .storage
        .apply_retention([removes_the_first].into_iter(), 101_000);
    failed.unwrap_err();
    fixture.dir.set_capacity(None);
    assert_eq!(
        fixture.log.lock().log_start,
        Offset(1),
        "so far in memory only"
    );
    assert!(fixture.compact_with(&Gentle(true)).unwrap().is_none());
    // A crash brings the first segment back, and its tombstone is there.
    let fixture = fixture.crash_and_reopen();
    assert_eq!(fixture.keys_left(), "0a 1a 2b 3c");
}

#[test]
fn offsets_that_were_lost_before_stay_named() {
    let mut fixture = Fixture::new();
    fixture.log.lock().segment_bytes = 1 << 20;
    fixture.put(&[("a", Some("1"))]);
    fixture.put(&[("lost", Some("lost in the journal"))]);
    fixture.put(&[("b", Some("1"))]);
    assert!(fixture.dir.flip_bit_of(b"lost in the journal"));
    fixture.archive();
    fixture.log.lock().segment_bytes = 1;
    fixture.put(&[("a", Some("2"))]);
    fixture.put(&[("a", Some("3"))]);
    fixture.archive();
    let before = read_records(&fixture.storage, ID, 100);
    assert_eq!(before.quarantined, [(1, 2)]);
    fixture.compact();
    let after = read_records(&fixture.storage, ID, 100);
    assert_eq!(after.quarantined, [(1, 2)]);
    assert!(fixture.files().contains(&"00000000000000000000.log".into()));
    assert!(
        fixture.compact_with(&Gentle(true)).unwrap().is_none(),
        "what is left as it is doesn't call for another pass"
    );
}

#[test]
fn batches_that_are_more_than_their_records_stay_as_they_are() {
    const CONTROL: u16 = 1 << 3;
    let mut fixture = Fixture::new();
    fixture.put(&[("a", Some("1")), ("b", Some("1"))]);
    fixture.put_batch(1, &[("a", Some("2")), ("x", Some("1"))], CONTROL);
    fixture.put(&[("a", None), ("b", Some("2")), ("x", Some("2"))]);
    fixture.put(&[("active", Some("1"))]);
    fixture.archive();
    fixture.compact();
    // The tombstone may delete something in it.
    assert_eq!(fixture.keys_left(), "2a 3x 4a 5b 6x 7active");
}

#[test]
fn full_disk_ends_a_pass_and_leaves_nothing_behind() {
    let mut fixture = Fixture::new();
    let large = "x".repeat(3000);
    for key in ["a", "b", "c", "d"] {
        fixture.put(&[(key, Some(&large))]);
        fixture.archive();
    }
    let (before, files) = (fixture.contents(), fixture.files());
    for room in (0..7000).step_by(500) {
        fixture.dir.fill_up_to(room);
        let failed = fixture.compact_with(&Gentle(true)).unwrap_err();
        assert!(
            matches!(failed, CompactionError::Write(ArchiveError::NoSpace(_))),
            "{failed}"
        );
        assert_eq!(fixture.files(), files, "{room}");
        assert_eq!(fixture.contents(), before);
        assert_eq!(fixture.storage.failure(), None, "a full disk heals");
    }
    fixture.dir.set_capacity(None);
    fixture.compact();
    assert_eq!(fixture.contents(), before);
}

#[test]
fn failed_write_or_flush_is_final_and_reads_go_on() {
    for fault in [Fault::WriteError, Fault::FlushError, Fault::ShortWrite] {
        for operations in 0.. {
            let mut fixture = Fixture::new();
            for key in ["a", "b", "a", "c"] {
                fixture.put(&[(key, Some("1"))]);
            }
            fixture.archive();
            fixture.dir.fail_after(operations, fault);
            let done = fixture.compact_with(&Gentle(true));
            if fixture.dir.fault_pending() {
                assert!(operations > 2, "some were tried");
                break;
            }
            let failed = done.unwrap_err();
            assert!(
                matches!(failed, CompactionError::Write(ArchiveError::Failed(_))),
                "{failed}"
            );
            assert!(fixture.storage.failure().is_some());
            fixture.dir.clear_fault();
            let left = fixture.keys_left();
            assert!(["0a 1b 2a 3c", "1b 2a 3c"].contains(&&left[..]), "{left}");
            let changes = fixture.dir.changes();
            assert!(fixture.compact_with(&Gentle(true)).unwrap().is_none());
            assert_eq!(fixture.dir.changes(), changes, "nothing more is tried");
            let reopened = fixture.crash_and_reopen();
            assert_eq!(reopened.contents().last().unwrap().1, "c");
        }
    }
}

/// Deletes the partition in the midst of a pass.
struct Deletes(Arc<Storage>);

impl Pace for Deletes {
    fn is_gentle(&self) -> bool {
        true
    }

    fn pause(&self) {
        self.0.delete_partitions(&[ID]).unwrap();
    }
}

#[test]
fn partition_that_is_deleted_meanwhile_leaves_nothing_behind() {
    let mut fixture = Fixture::new();
    let large = "x".repeat(1500);
    for key in ["a", "b", "c"] {
        fixture.put(&[(key, Some(&large))]);
        fixture.archive();
    }
    let deletes = Deletes(fixture.storage.clone());
    assert!(fixture.compact_with(&deletes).unwrap().is_none());
    assert_eq!(fixture.dir.list(Path::new("partitions")).unwrap(), [""; 0]);
    assert_eq!(fixture.storage.failure(), None);
}

#[test]
fn what_a_crash_left_is_removed_by_whoever_comes_first() {
    let left = |fixture: &Fixture| {
        let dir = segment::partition_dir(ID);
        for name in [
            "00000000000000000000.compacting",
            "00000000000000000000.log",
            "00000000000000000001-00000000000000000002.1.index",
        ] {
            fixture.dir.create(&dir.join(name)).unwrap();
        }
        fixture.dir.sync_dir(&dir).unwrap();
    };
    for by_archiver in [true, false] {
        let mut fixture = Fixture::new();
        fixture.put(&[("a", Some("1"))]);
        fixture.put(&[("a", Some("2"))]);
        fixture.put(&[("b", Some("1"))]);
        fixture.archive();
        fixture.compact();
        left(&fixture);
        let mut fixture = fixture.crash_and_reopen();
        assert_eq!(fixture.keys_left(), "1a 2b");
        let dir: Arc<dyn Dir> = Arc::new(fixture.dir.clone());
        assert!(inspect_dir(&dir).unwrap().is_sound());
        if by_archiver {
            fixture.put(&[("c", Some("1"))]);
            fixture.archive();
        } else {
            assert!(fixture.compact_with(&Gentle(true)).unwrap().is_none());
        }
        let files = fixture.files();
        assert_eq!(files[0], "00000000000000000000-00000000000000000002.1.log");
        assert_eq!(files[1], "00000000000000000002.log");
        assert_eq!(files.len(), if by_archiver { 3 } else { 2 });
    }
}
