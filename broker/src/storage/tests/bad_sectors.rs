//! A sector somewhere that can't be read: what lies there is lost, and nothing else. The
//! broker starts, takes appends, archives them, and keeps to that after a restart.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::model::{WholeLog, batch, read_whole};
use super::world::{Gentle, options};
use crate::model::{Offset, PartitionId, ProducerStamp, Stamp};
use crate::storage::dir::sim::SimDir;
use crate::storage::dir::{Dir, PAGE};
use crate::storage::journal::FileHeader;
use crate::storage::lsn::Generation;
use crate::storage::{Claim, JournalAppend, PartitionRetention, Prepared, Storage, segment};

/// One with large segments, which have an index, and one with little in it.
const IDS: [PartitionId; 2] = [PartitionId(16), PartitionId(17)];

/// What is durable before a sector goes bad: batches of each partition.
const BEFORE: [u64; 2] = [38, 3];

fn open(dir: &SimDir, salt: u32) -> Storage {
    let salt = u128::from(salt) << 96;
    let (storage, _) = Storage::open(Arc::new(dir.clone()), options(), salt).unwrap();
    storage.resume_producers(1_000, 1);
    for id in IDS {
        storage.partition(id).lock().segment_bytes = 50 << 10;
    }
    storage
}

/// The batch of an offset.
fn payload(id: PartitionId, offset: Offset) -> (u64, usize) {
    let size = if id == IDS[0] { 2_000 } else { 30 };
    (offset.0 << 8 | u64::from(id.0), size)
}

/// Appends a batch whose content tells its offset; readable once it is durable.
fn append(storage: &Storage, id: PartitionId) -> Offset {
    let log = storage.partition(id);
    let offset = log.lock().next_offset;
    let (unique, size) = payload(id, offset);
    let append = JournalAppend {
        log: log.clone(),
        batch: batch(unique, 1, size),
        unit_remaining: 0,
        claim: Claim::User,
        guards: Vec::new(),
    };
    let written = storage.append(&[append], 1_000).unwrap();
    storage.flush(written.end).unwrap();
    log.publish(log.lock().next_offset);
    offset
}

/// One who says who it is, so that there is a snapshot.
fn append_stamped(storage: &Storage) {
    let log = storage.partition(PartitionId(18));
    let next = log.lock().next_offset;
    let batch = crate::model::CheckedBatch {
        stamp: Some(Stamp::Producer(ProducerStamp {
            id: 1 + next.0,
            epoch: 0,
            base_sequence: 0,
            fence: None,
        })),
        ..batch(next.0, 1, 10)
    };
    let append = JournalAppend {
        log,
        batch,
        unit_remaining: 0,
        claim: Claim::User,
        guards: Vec::new(),
    };
    let written = storage.append(&[append], 1_000).unwrap();
    storage.flush(written.end).unwrap();
}

/// Closes the journal file that is written, and archives all that are closed.
fn archive(storage: &Storage) {
    storage.close_journal_file();
    while storage.archive_oldest(1_000, &Gentle(true)).unwrap() > 0 {}
}

/// A directory with a bit of everything: sealed and active segments, indexes, a snapshot,
/// closed, spare and written journal files, a proof.
fn filled() -> SimDir {
    let dir = SimDir::new();
    let storage = open(&dir, 1);
    // Such files are used again.
    while storage.prepare_spare().unwrap() == Prepared::One {}
    for nth in 0..BEFORE[0] {
        append(&storage, IDS[0]);
        if nth < BEFORE[1] {
            append(&storage, IDS[1]);
            append_stamped(&storage);
        }
        if nth % 6 == 5 {
            archive(&storage);
        }
    }
    storage.prove_flushed().unwrap();
    drop(storage);
    dir.sync_all().unwrap();
    dir
}

/// All files, with their lengths.
fn files(dir: &SimDir) -> Vec<(PathBuf, u64)> {
    let mut files = Vec::new();
    let mut dirs = vec![PathBuf::new()];
    while let Some(within) = dirs.pop() {
        for name in dir.list(&within).unwrap() {
            let path = within.join(name);
            match dir.open(&path) {
                Ok(file) => files.push((path, file.len().unwrap())),
                Err(_) => dirs.push(path),
            }
        }
    }
    files
}

/// All that a broker does all day, until every journal file was used again.
fn work(storage: &Storage) -> Vec<(PartitionId, Offset)> {
    let mut appended = Vec::new();
    for round in 0..6 {
        for id in IDS {
            appended.push((id, append(storage, id)));
        }
        append_stamped(storage);
        storage.prove_flushed().unwrap();
        // Twice: the second time, the first pages are those that the first one began.
        appended.push((IDS[0], append(storage, IDS[0])));
        archive(storage);
        if round == 0 {
            for id in IDS {
                read_whole(storage, id, 900);
            }
        }
        let retention = IDS.into_iter().map(|id| PartitionRetention {
            log: storage.partition(id),
            retention_ms: Some(1 << 40),
            retention_bytes: None,
        });
        storage.apply_retention(retention, 2_000).unwrap();
        storage.restore_indexes().unwrap();
    }
    assert_eq!(storage.failure(), None);
    appended
}

fn is_there(found: &WholeLog, id: PartitionId, offset: Offset) -> bool {
    let (unique, size) = payload(id, offset);
    let expected = (offset.0, 1, batch(unique, 1, size).payload);
    found.batches.contains(&expected)
}

/// All that was durable is there, or named as lost, and few are; all that was appended
/// since is there.
fn check(storage: &Storage, appended: &[(PartitionId, Offset)]) {
    for (id, before) in IDS.into_iter().zip(BEFORE) {
        let found = read_whole(storage, id, 900);
        for offset in (0..before).map(Offset) {
            let is_named = found
                .quarantined
                .iter()
                .any(|&(from, to)| (from..to).contains(&offset.0));
            let is_there = is_there(&found, id, offset);
            assert!(is_there != is_named, "{id}: {offset:?}, {found:?}");
        }
        for &(_, offset) in appended.iter().filter(|(of, _)| *of == id) {
            assert!(is_there(&found, id, offset), "{id}: {offset:?}, {found:?}");
        }
    }
}

/// Breaks one sector of every file after the other, those in the rest of a file's last
/// page included.
fn for_every_sector(run: fn(&SimDir, &Path, u64)) {
    let filled = filled();
    for (path, len) in files(&filled.crash(1)) {
        if path == Path::new("FORMAT") {
            continue;
        }
        let sectors = len.div_ceil(PAGE as u64) * (PAGE as u64 / 512);
        for sector in 0..sectors {
            let dir = filled.crash(1);
            let outcome = std::panic::catch_unwind(|| run(&dir, &path, sector));
            assert!(outcome.is_ok(), "{}: sector {sector}", path.display());
        }
    }
}

#[test]
fn sector_that_went_bad_before_a_start_is_all_that_is_lost() {
    for_every_sector(|dir, path, sector| {
        dir.break_sector(path, sector);
        let storage = open(dir, 2);
        let mut appended = work(&storage);
        check(&storage, &appended);
        drop(storage);
        let storage = open(&dir.crash(2), 3);
        check(&storage, &appended);
        appended.extend(work(&storage));
        check(&storage, &appended);
    });
}

#[test]
fn sector_that_goes_bad_while_the_broker_runs_is_all_that_is_lost() {
    for_every_sector(|dir, path, sector| {
        let storage = open(dir, 2);
        // The index is known, and so it is when it is to be added to.
        let mut appended = vec![(IDS[0], append(&storage, IDS[0]))];
        dir.break_sector(path, sector);
        appended.extend(work(&storage));
        check(&storage, &appended);
        drop(storage);
        check(&open(&dir.crash(2), 3), &appended);
    });
}

#[test]
fn segment_whose_last_page_can_not_be_read_stays_as_it_is() {
    let dir = filled();
    let active = open(&dir.crash(1), 2).partition(IDS[0]).lock().active;
    let active = active.unwrap();
    let path = segment::log_path(IDS[0], active.base_offset);
    let dir = dir.crash(1);
    let content = |dir: &SimDir| {
        let mut bytes = vec![0; usize::try_from(active.len).unwrap()];
        let file = dir.open(&path).unwrap();
        file.read_salvaging(&mut bytes, 0).unwrap();
        bytes
    };
    let before = content(&dir);
    let last = (active.len - 1) / 512;
    dir.break_sector(&path, last);
    let storage = open(&dir, 3);
    work(&storage);
    // It may be read another time.
    let mut after = content(&dir);
    let at = usize::try_from(last * 512).unwrap();
    assert!(after[at..].iter().all(|&byte| byte == 0), "it is bad still");
    after[at..].copy_from_slice(&before[at..]);
    assert!(after == before);
    let now = storage.partition(IDS[0]).lock().active.unwrap();
    assert!(now.base_offset >= active.next_offset);
}

#[test]
fn empty_segment_whose_header_can_not_be_read_is_begun_again() {
    let dir = SimDir::new();
    let storage = open(&dir, 1);
    let id = IDS[1];
    append(&storage, id);
    archive(&storage);
    let retention = |retention_ms| PartitionRetention {
        log: storage.partition(id),
        retention_ms: Some(retention_ms),
        retention_bytes: None,
    };
    storage
        .apply_retention([retention(1)].into_iter(), 9_000)
        .unwrap();
    let active = storage.partition(id).lock().active.unwrap();
    assert_eq!((active.base_offset, active.batch_count), (Offset(1), 0));
    dir.break_sector(&segment::log_path(id, active.base_offset), 0);
    let offset = append(&storage, id);
    archive(&storage);
    assert!(is_there(&read_whole(&storage, id, 900), id, offset));
    drop(storage);
    let storage = open(&dir.crash(1), 2);
    assert!(is_there(&read_whole(&storage, id, 900), id, offset));
    let active = storage.partition(id).lock().active.unwrap();
    assert_eq!((active.base_offset, active.batch_count), (Offset(1), 1));
}

#[test]
fn index_that_an_unfinished_pass_left_and_nobody_can_read_is_begun_anew() {
    let [id, _] = IDS;
    let dir = SimDir::new();
    let storage = open(&dir, 1);
    let mut appended = vec![(id, append(&storage, id))];
    // The segment has no index yet. The next pass gives it one, and a crash ends the pass.
    archive(&storage);
    let path = segment::index_path(id, Offset::ZERO);
    let file = dir.create(&path).unwrap();
    file.write_all_at(&[7; 28], 0).unwrap();
    drop(storage);
    dir.sync_all().unwrap();
    let dir = dir.crash(1);
    dir.break_sector(&path, 0);
    let storage = open(&dir, 2);
    for nth in 1..20 {
        appended.push((id, append(&storage, id)));
        if nth % 6 == 0 {
            archive(&storage);
        }
    }
    assert_eq!(storage.failure(), None);
    let found = read_whole(&storage, id, 900);
    assert!(appended.iter().all(|&(_, at)| is_there(&found, id, at)));
    let len = dir.open(&path).unwrap().len().unwrap();
    assert!(len > 0 && len % 28 == 0, "entries and nothing else: {len}");
}

#[test]
fn room_for_a_checkpoint_that_a_crash_left_half_made_is_made_again() {
    let dir = filled().crash(1);
    let path = Path::new("checkpoint.new");
    let file = dir.open(path).unwrap();
    file.set_len(5_000).unwrap();
    file.sync_data().unwrap();
    dir.break_sector(path, 5_000 / 512);
    let storage = open(&dir, 2);
    assert!(file.len().unwrap() > 5_000);
    let appended = work(&storage);
    check(&storage, &appended);
}

/// As a file system loses it: both copies of the header at once.
#[test]
fn header_that_can_not_be_read_of_the_only_journal_file_since_a_start_is_told_from_its_frames() {
    let [id, _] = IDS;
    // Nothing but the header knows of the first batch that it was durable.
    for (archived, count) in [(0, 1), (0, 2), (0, 5), (2, 1), (2, 5)] {
        let mut dir = SimDir::new();
        if archived > 0 {
            let storage = open(&dir, 1);
            for _ in 0..archived {
                append(&storage, id);
            }
            archive(&storage);
            dir = dir.crash(1);
        }
        let storage = open(&dir, 2);
        let mut appended: Vec<_> = (0..count).map(|_| (id, append(&storage, id))).collect();
        drop(storage);
        dir = dir.crash(2);
        for name in dir.list(Path::new("journal")).unwrap() {
            dir.break_page(&Path::new("journal").join(name), 0);
        }
        for salt in 3..6 {
            let storage = open(&dir, salt);
            let found = read_whole(&storage, id, 900);
            assert_eq!(found.quarantined, [], "{archived} and {count}");
            for &(_, offset) in &appended {
                assert!(
                    is_there(&found, id, offset),
                    "{archived} and {count}: {found:?}"
                );
            }
            appended.push((id, append(&storage, id)));
            if salt == 4 {
                appended.extend(work(&storage).into_iter().filter(|&(of, _)| of == id));
            }
            drop(storage);
            dir = dir.crash(salt.into());
        }
    }
}

/// The journal files that were in use, by their generation.
fn in_use(dir: &SimDir) -> BTreeMap<Generation, PathBuf> {
    let names = dir.list(Path::new("journal")).unwrap();
    let paths = names
        .into_iter()
        .map(|name| Path::new("journal").join(name));
    let header = |path: &PathBuf| {
        let mut bytes = [0; PAGE];
        let file = dir.open(path).unwrap();
        file.read_at(&mut bytes, 0).unwrap();
        FileHeader::decode(&bytes)
    };
    let known = paths.filter_map(|path| Some((header(&path)?.generation, path)));
    known.collect()
}

#[test]
fn header_that_can_not_be_read_of_an_older_journal_file_is_told_from_its_frames() {
    let [id, _] = IDS;
    let dir = SimDir::new();
    let mut appended = Vec::new();
    // Two runs of the broker, with two files each.
    for salt in 1..3 {
        let storage = open(&dir, salt);
        for _ in 0..10 {
            appended.push((id, append(&storage, id)));
        }
    }
    for nth in 0..4 {
        let dir = dir.crash(1);
        let paths: Vec<PathBuf> = in_use(&dir).into_values().collect();
        assert_eq!(paths.len(), 4);
        dir.break_page(&paths[nth], 0);
        dir.break_page(&paths[nth.saturating_sub(1)], 0);
        let (storage, report) = Storage::open(Arc::new(dir.clone()), options(), 3 << 96).unwrap();
        assert_eq!(report.damage, []);
        assert_eq!(report.rebuilt_headers.len(), 2.min(nth + 1));
        let found = read_whole(&storage, id, 900);
        for &(_, offset) in &appended {
            assert!(is_there(&found, id, offset), "{nth}: {found:?}");
        }
        work(&storage);
    }
}

#[test]
fn offsets_of_a_journal_file_that_is_lost_stay_given_though_the_one_behind_it_is_empty() {
    let [id, other] = IDS;
    let mut tried = 0;
    for seed in 0..40 {
        let dir = SimDir::new();
        let storage = open(&dir, 1);
        while storage.prepare_spare().unwrap() == Prepared::One {}
        append(&storage, other);
        let end = append(&storage, id).0 + 1;
        storage.close_journal_file();
        // It has a header in the next file by now, which a crash may leave, and a frame.
        let log = storage.partition(id);
        let batch = batch(0, 1, 10);
        let next = JournalAppend {
            log,
            batch,
            unit_remaining: 0,
            claim: Claim::User,
            guards: Vec::new(),
        };
        storage.append(&[next], 1_000).unwrap();
        drop(storage);
        let mut dir = dir.crash(seed);
        let files = in_use(&dir);
        let Some(path) = files.get(&Generation(2)) else {
            continue;
        };
        let mut head = [0; PAGE];
        let read = dir.open(path).unwrap().read_at(&mut head, PAGE as u64);
        if read.unwrap() > 0 && head.iter().any(|&byte| byte != 0) {
            continue;
        }
        tried += 1;
        dir.remove(&files[&Generation(1)]).unwrap();
        dir.sync_all().unwrap();
        for salt in 2..5 {
            let storage = open(&dir, salt);
            for id in IDS {
                assert!(
                    storage.partition(id).high_watermark().0 >= end,
                    "start {salt}"
                );
            }
            append(&storage, other);
            drop(storage);
            dir = dir.crash(u64::from(salt));
        }
    }
    assert!(tried > 2, "{tried}");
}
