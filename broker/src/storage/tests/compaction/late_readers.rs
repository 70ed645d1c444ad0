//! Readers that looked a segment up, and open it only when it is about to be removed: it is
//! not kept open for others, so that its room comes back.

use super::*;

/// Segments of which the first one is opened by a reader just before `path` is removed.
fn with_late_reader(path: PathBuf) -> Fixture {
    let dir = SimDir::new();
    let trap = Trap {
        dir: dir.clone(),
        set: Arc::default(),
    };
    let fixture = Fixture::open(&dir, Arc::new(trap.clone()));
    fixture.put_at(1, &[("a", Some("1"))]);
    fixture.put_at(2, &[("a", Some("2"))]);
    fixture.put_at(300, &[("a", Some("3"))]);
    fixture.put_at(300, &[("active", Some("1"))]);
    fixture.archive();
    let storage = fixture.storage.clone();
    let hook = move || {
        let first = Offset(0).into();
        let opened = storage.segments.open(storage.dir.as_ref(), ID, first);
        drop(opened.expect("it is still there"));
    };
    *trap.set.lock().unwrap() = Some((Moment::Remove, path, Box::new(hook)));
    fixture
}

/// Segments of which a reader opens the first one just before that is removed.
fn with_late_reader_of_a_file() -> Fixture {
    with_late_reader(segment::log_path(ID, Offset(0)))
}

#[test]
fn segment_that_retention_removes_is_not_kept_open() {
    let fixture = with_late_reader_of_a_file();
    let by_age = PartitionRetention {
        log: fixture.log.clone(),
        retention_ms: Some(50_000),
        retention_bytes: None,
    };
    let storage = &fixture.storage;
    let removed = storage.apply_retention([by_age].into_iter(), 301_000);
    assert_eq!(removed.unwrap(), 2);
    assert_eq!(fixture.dir.held_without_a_name(), 0);
}

#[test]
fn segment_that_compaction_removes_is_not_kept_open() {
    let mut fixture = with_late_reader_of_a_file();
    assert_eq!(fixture.compact().replaced_segments, 3);
    assert_eq!(fixture.dir.held_without_a_name(), 0);
}

#[test]
fn segment_of_a_deleted_partition_is_not_kept_open() {
    let fixture = with_late_reader(segment::partition_dir(ID));
    fixture.storage.delete_partitions(&[ID]).unwrap();
    assert_eq!(fixture.dir.held_without_a_name(), 0);
}
