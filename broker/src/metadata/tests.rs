mod format_page;

use bytes::Bytes;

use super::*;
use crate::model::Cleanup;

const CLUSTER: &str = "00";

/// The log, as the layers above keep it.
#[derive(Default)]
struct Log(Vec<LogRecord>);

impl Log {
    fn push(&mut self, metadata: &mut Metadata, new: NewRecord) {
        let offset = Offset(self.0.len() as u64);
        self.0.push(LogRecord {
            offset,
            key: new.key,
            value: new.value,
        });
        metadata.apply(&self.0[self.0.len() - 1]).unwrap();
    }

    fn create(&mut self, metadata: &mut Metadata, name: &str, partitions: u32) {
        let config = TopicConfig::default();
        let new = metadata
            .create(topic_name(name), partitions, config, 7)
            .unwrap();
        self.push(metadata, new);
    }

    fn delete(&mut self, metadata: &mut Metadata, name: &str) {
        let new = metadata.delete(&topic_name(name)).unwrap();
        self.push(metadata, new);
    }

    /// Opens the index and catches up, as the broker does. Returns how many
    /// records were read.
    fn open(&self, path: &Path) -> (Metadata, usize) {
        until_closed(path);
        let mut metadata = Metadata::open(path, CLUSTER);
        let end = Offset(self.0.len() as u64);
        let from = metadata.resume_at(Offset(0), end);
        let mut rest = &self.0[usize::try_from(from.0).unwrap()..];
        let read = rest.len();
        if rest.iter().any(|record| metadata.apply(record).is_err()) {
            metadata.reset();
            rest = &self.0;
            for record in rest {
                metadata.apply(record).unwrap();
            }
            return (metadata, read + rest.len());
        }
        (metadata, read)
    }
}

/// Waits until no thread of a sled that was dropped holds its files any more: one that
/// is opened before is taken for damaged. A broker opens its index once.
fn until_closed(path: &Path) {
    if let Ok(file) = std::fs::File::open(path.join("db")) {
        let free = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        while rustix::fs::flock(&file, free).is_err() {
            std::thread::yield_now();
        }
    }
}

fn topic_name(name: &str) -> TopicName {
    TopicName::try_from(name).unwrap()
}

fn names(metadata: &Metadata) -> Vec<String> {
    metadata
        .topics()
        .map(|topic| topic.name.to_string())
        .collect()
}

/// Three topics with 3, 1 and 2 partitions, of which the second was deleted.
fn three_topics(path: &Path) -> (Log, Metadata) {
    let mut metadata = Metadata::open(path, CLUSTER);
    let mut log = Log::default();
    log.create(&mut metadata, "a", 3);
    log.create(&mut metadata, "b", 1);
    log.create(&mut metadata, "c", 2);
    log.delete(&mut metadata, "b");
    (log, metadata)
}

#[test]
fn ids_of_deleted_partitions_are_not_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, mut metadata) = three_topics(dir.path());
    log.delete(&mut metadata, "c");
    drop(metadata);
    let (mut metadata, _) = log.open(dir.path());
    log.create(&mut metadata, "c", 1);
    let topic = metadata.topic(&topic_name("c")).unwrap();
    assert_eq!(topic.partition_ids().collect::<Vec<_>>(), [PartitionId(22)]);
    assert_eq!(topic.id, TopicId(4));
    assert_eq!(metadata.next_partition(), PartitionId(23));
}

#[test]
fn added_partitions_come_after_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, mut metadata) = three_topics(dir.path());
    let name = topic_name("a");
    let change = metadata
        .alter(&name, Some(5), TopicConfig::default())
        .unwrap()
        .unwrap();
    log.push(&mut metadata, change);
    let ids: Vec<u32> = metadata
        .topic(&name)
        .unwrap()
        .partition_ids()
        .map(|id| id.0)
        .collect();
    assert_eq!(ids, [16, 17, 18, 22, 23]);
    assert_eq!(
        metadata.alter(&name, Some(5), TopicConfig::default()),
        Ok(None)
    );
    let fewer = metadata.alter(&name, Some(4), TopicConfig::default());
    assert_eq!(fewer, Err(CatalogError::Fewer { now: 5, asked: 4 }));
}

#[test]
fn a_compacted_topic_keeps_its_number_of_partitions() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, mut metadata) = three_topics(dir.path());
    let name = topic_name("compacted");
    let config = TopicConfig {
        retention_ms: None,
        cleanup: Cleanup::Compact,
        tombstone_grace_ms: Some(5),
        ..TopicConfig::default()
    };
    let record = metadata.create(name.clone(), 3, config, 0).unwrap();
    log.push(&mut metadata, record);
    assert_eq!(metadata.topic(&name).unwrap().config, config);
    let more = metadata.alter(&name, Some(4), config);
    let compacted = CatalogError::Compacted { now: 3, asked: 4 };
    assert_eq!(more, Err(compacted));
    assert_eq!(metadata.alter(&name, Some(3), config), Ok(None));
    let longer = TopicConfig {
        cleanup: Cleanup::CompactDelete,
        tombstone_grace_ms: Some(6),
        ..config
    };
    assert!(metadata.alter(&name, None, longer).unwrap().is_some());
}

#[test]
fn impossible_changes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_, metadata) = three_topics(dir.path());
    let create = |name, partitions| {
        metadata
            .create(topic_name(name), partitions, TopicConfig::default(), 0)
            .map(|_| ())
    };
    assert_eq!(create("a", 1), Err(CatalogError::Exists(topic_name("a"))));
    assert_eq!(
        create("d", 0),
        Err(CatalogError::PartitionCount { asked: 0 })
    );
    assert_eq!(
        create("d", 10_001),
        Err(CatalogError::PartitionCount { asked: 10_001 })
    );
    assert_eq!(
        metadata.delete(&topic_name("b")),
        Err(CatalogError::NotFound(topic_name("b")))
    );
}

#[test]
fn a_current_index_needs_one_record_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (log, metadata) = three_topics(dir.path());
    drop(metadata);
    let (metadata, read) = log.open(dir.path());
    assert_eq!(read, 1);
    assert_eq!(names(&metadata), ["a", "c"]);
}

#[test]
fn topics_survive_the_deletion_of_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let (log, before) = three_topics(&path);
    let topics: Vec<_> = before.topics().cloned().collect();
    drop(before);
    std::fs::remove_dir_all(&path).unwrap();
    let (after, read) = log.open(&path);
    assert_eq!(read, 4);
    assert!(after.topics().eq(topics.iter()));
    assert_eq!(after.next_partition(), PartitionId(22));
}

#[test]
fn an_index_that_is_behind_catches_up() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, metadata) = three_topics(dir.path());
    drop(metadata);
    // Somebody else's index takes the next changes.
    let other = tempfile::tempdir().unwrap();
    let (mut elsewhere, _) = log.open(other.path());
    log.create(&mut elsewhere, "d", 1);
    log.delete(&mut elsewhere, "a");
    let (metadata, read) = log.open(dir.path());
    assert_eq!(read, 3);
    assert_eq!(names(&metadata), ["c", "d"]);
}

#[test]
fn an_index_that_is_ahead_of_the_log_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, metadata) = three_topics(dir.path());
    drop(metadata);
    log.0.truncate(2);
    let (metadata, read) = log.open(dir.path());
    assert_eq!(read, 2);
    assert_eq!(names(&metadata), ["a", "b"]);
}

#[test]
fn an_index_of_another_history_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let (_, metadata) = three_topics(dir.path());
    drop(metadata);
    let other = tempfile::tempdir().unwrap();
    let mut log = Log::default();
    let mut elsewhere = Metadata::open(other.path(), CLUSTER);
    for name in ["p", "q", "r", "s", "t"] {
        log.create(&mut elsewhere, name, 1);
    }
    let (metadata, _) = log.open(dir.path());
    assert_eq!(names(&metadata), ["p", "q", "r", "s", "t"]);
    drop(metadata);
    let (metadata, read) = log.open(dir.path());
    assert_eq!((read, names(&metadata).len()), (1, 5));
}

#[test]
fn an_index_of_another_data_directory_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let (_, metadata) = three_topics(dir.path());
    drop(metadata);
    let metadata = Metadata::open(dir.path(), "01");
    assert_eq!(names(&metadata), [""; 0]);
}

#[test]
fn a_damaged_index_is_rebuilt() {
    for damage in [damage_contents, truncate_db, replace_conf] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let (log, metadata) = three_topics(&path);
        drop(metadata);
        damage(&path);
        let (metadata, _) = log.open(&path);
        assert_eq!(names(&metadata), ["a", "c"]);
        drop(metadata);
        let (_, read) = log.open(&path);
        assert_eq!(read, 1, "the rebuilt index is used");
    }
}

#[test]
fn topics_are_served_without_an_index_that_can_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let (log, metadata) = three_topics(&path);
    drop(metadata);
    std::fs::remove_dir_all(&path).unwrap();
    std::fs::write(&path, "not a directory").unwrap();
    let (metadata, _) = log.open(&path);
    assert_eq!(names(&metadata), ["a", "c"]);
}

#[test]
fn a_record_of_a_newer_version_is_not_guessed_at() {
    let dir = tempfile::tempdir().unwrap();
    let mut metadata = Metadata::open(dir.path(), CLUSTER);
    let record = LogRecord {
        offset: Offset(0),
        key: Bytes::from_static(b"a"),
        // Field 9, which no version knows yet.
        value: Some(Bytes::from_static(&[0x4a, 0])),
    };
    let error = metadata.apply(&record).unwrap_err();
    assert!(
        matches!(
            error,
            ReplayError::Unreadable {
                offset: Offset(0),
                ..
            }
        ),
        "{error}"
    );
}

/// Flips a bit in every 64 bytes.
fn damage_contents(path: &Path) {
    let mut bytes = std::fs::read(path.join("db")).unwrap();
    bytes.iter_mut().step_by(64).for_each(|byte| *byte ^= 1);
    std::fs::write(path.join("db"), bytes).unwrap();
}

fn truncate_db(path: &Path) {
    std::fs::write(path.join("db"), "").unwrap();
}

fn replace_conf(path: &Path) {
    std::fs::write(path.join("conf"), "nonsense").unwrap();
}
