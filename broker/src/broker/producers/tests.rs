//! Ids and names over the simulated disk.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::clock::Clock;
use crate::metadata::PRODUCERS_PARTITION;
use crate::model::{CheckedBatch, FlushLevel, PartitionId, Stamp};
use crate::partition::{Append, Appended, EngineOptions, PartitionConfig, SequenceError};
use crate::storage::dir::Dir;
use crate::storage::dir::sim::{Fault, SimDir};
use crate::storage::{JournalOptions, JournalSize, Pace, Storage, StorageOptions};

struct Opened {
    engine: Engine,
    registry: ProducerRegistry,
}

fn options() -> StorageOptions {
    StorageOptions {
        journal: JournalOptions {
            size: JournalSize {
                file_bytes: 64 << 10,
                max_files: 5,
                spares: 1,
            },
            max_frames_per_file: 10_000,
            tail_bytes: 64 << 10,
        },
        open_segments: 8,
        growing_segments: 8,
    }
}

async fn open(dir: &SimDir, most_names: usize) -> Opened {
    let (storage, _) = Storage::open(Arc::new(dir.clone()), options(), 1 << 96).unwrap();
    let engine = Engine::start(storage, EngineOptions::default(), Clock::of(|| 1_000)).unwrap();
    let log = InternalLog::open(engine.clone(), PRODUCERS_PARTITION);
    let opened = ProducerRegistry::open(&engine, log, most_names).await;
    let (registry, keeper) = opened.unwrap();
    tokio::spawn(keeper.run());
    Opened { engine, registry }
}

impl Opened {
    /// Appends a record to a partition of a topic, as the first one of the producer.
    async fn append_first(&self, producer: Registered) -> Result<Appended, AppendError> {
        let payload = Bytes::from_static(b"payload");
        let batch = CheckedBatch {
            payload_crc: crc32fast::hash(&payload),
            record_count: 1,
            max_timestamp_ms: None,
            all_timed: false,
            uncompressed_len: 7,
            attributes: 0,
            stamp: Some(Stamp::Producer(self.stamp(producer).unwrap())),
            key_hashes: Vec::new(),
            payload,
        };
        let config = PartitionConfig {
            flush: FlushLevel::Always,
            segment_bytes: 1 << 20,
            retention_ms: None,
            retention_bytes: None,
            internal: false,
            compaction: None,
        };
        let append = Append::new(&self.engine.partition(PartitionId(20), config), batch);
        self.engine.append(vec![append]).await.remove(0)
    }

    async fn stop(self) {
        self.registry.stop().await;
        self.engine.stop().await;
    }

    async fn register(&self, name: Option<&str>) -> Registered {
        self.try_register(name).await.unwrap()
    }

    async fn try_register(&self, name: Option<&str>) -> Result<Registered, RegisterError> {
        self.register_as(name, None).await
    }

    async fn register_as(
        &self,
        name: Option<&str>,
        current: Option<Registered>,
    ) -> Result<Registered, RegisterError> {
        let name = name.map(|name| ProducerName::try_from(name).unwrap());
        self.registry.register(name, current).await
    }

    /// Whether batches of the producer may be appended, as far as is known here.
    fn stamp(&self, producer: Registered) -> Result<ProducerStamp, ClaimError> {
        self.stamp_with(&mut Claims::default(), producer)
    }

    fn stamp_with(
        &self,
        claims: &mut Claims,
        producer: Registered,
    ) -> Result<ProducerStamp, ClaimError> {
        let claim = SequenceClaim {
            producer_id: producer.id,
            epoch: producer.epoch.into(),
            base_sequence: 0,
        };
        claims.stamp(&self.registry, claim)
    }
}

/// Whether the fence lets batches with the stamp pass.
fn passes(stamp: &ProducerStamp) -> bool {
    let fence = stamp.fence.as_ref().expect("it has a name");
    fence.epoch() == Some(stamp.epoch)
}

#[tokio::test]
async fn ids_rise_and_say_whether_they_have_a_name() {
    let opened = open(&SimDir::new(), 10).await;
    let mut last = 0;
    for nth in 0..2500 {
        let name = (nth % 1000 == 0).then_some("named");
        let producer = opened.register(name).await;
        if nth < 1000 || name.is_none() {
            assert!(producer.id > last);
            last = producer.id;
        }
        assert_eq!(ProducerId::from(producer.id).is_named(), name.is_some());
        assert_eq!(producer.epoch > 0, name.is_some());
        assert!(opened.stamp(producer).is_ok());
        let later = Registered {
            id: producer.id + 2,
            ..producer
        };
        assert!(opened.stamp(later).is_err(), "nobody has this id yet");
    }
    opened.stop().await;
}

#[tokio::test]
async fn no_crash_gives_an_id_or_an_epoch_twice() {
    for operations in 0..40 {
        let mut dir = SimDir::new();
        let mut ids = HashSet::new();
        let mut epoch = 0;
        for life in 0..4 {
            let opened = open(&dir, 10).await;
            dir.fail_after(operations, Fault::Crash);
            for _ in 0..6 {
                // What was answered counts, whatever became of the rest.
                if let Ok(named) = opened.try_register(Some("named")).await {
                    assert!(named.epoch > epoch, "{operations}, {life}");
                    epoch = named.epoch;
                }
                if let Ok(anonymous) = opened.try_register(None).await {
                    assert!(ids.insert(anonymous.id), "{operations}, {life}");
                }
            }
            opened.stop().await;
            dir = dir.crash(operations + life);
        }
        assert!(operations < 10 || ids.len() > 1);
    }
}

#[tokio::test]
async fn a_name_fences_at_once_whoever_had_it_before() {
    let dir = SimDir::new();
    let opened = open(&dir, 10).await;
    let former = opened.register(Some("a")).await;
    let other = opened.register(Some("b")).await;
    let stamp = opened.stamp(former).unwrap();
    assert!(passes(&stamp));
    let latter = opened.register(Some("a")).await;
    assert_eq!((latter.id, latter.epoch), (former.id, former.epoch + 1));
    assert!(!passes(&stamp), "what is on its way is kept out");
    assert!(passes(&opened.stamp(latter).unwrap()));
    assert!(passes(&opened.stamp(other).unwrap()));
    opened.stop().await;
    let opened = open(&dir, 10).await;
    assert!(!passes(&opened.stamp(former).unwrap()));
    assert!(passes(&opened.stamp(latter).unwrap()));
    opened.stop().await;
}

#[tokio::test]
async fn whoever_begins_anew_as_the_one_with_the_name_fences_only_itself() {
    let dir = SimDir::new();
    let opened = open(&dir, 10).await;
    let first = opened.register(Some("a")).await;
    let second = opened.register_as(Some("a"), Some(first)).await.unwrap();
    assert!(second.epoch > first.epoch);
    // The answer was lost: it is the same one, also after a restart.
    let again = opened.register_as(Some("a"), Some(first)).await;
    assert_eq!(again, Ok(second));
    opened.stop().await;
    let opened = open(&dir, 10).await;
    let again = opened.register_as(Some("a"), Some(first)).await;
    assert_eq!(again, Ok(second));
    let other = opened.register(Some("a")).await;
    let fenced = Err(RegisterError::Fenced(ProducerName::try_from("a").unwrap()));
    for former in [first, second] {
        let refused = opened.register_as(Some("a"), Some(former)).await;
        assert_eq!(refused, fenced);
    }
    assert!(passes(&opened.stamp(other).unwrap()));
    opened.stop().await;
}

#[tokio::test]
async fn names_that_are_too_many_are_forgotten_for_good() {
    let dir = SimDir::new();
    let opened = open(&dir, 3).await;
    let first = opened.register(Some("first")).await;
    let busy = opened.register(Some("busy")).await;
    let mut stream = Claims::default();
    let on_its_way = opened.stamp_with(&mut stream, busy).unwrap();
    let kept = opened.register(Some("kept")).await;
    let of_first = opened.stamp(first).unwrap();
    opened.register(Some("fourth")).await;
    // The oldest goes, unless somebody holds its fence.
    assert!(passes(&of_first), "a batch of it was on its way");
    drop(of_first);
    assert!(opened.stamp(kept).is_err(), "so another one went");
    opened.register(Some("fifth")).await;
    assert!(opened.stamp(first).is_err());
    assert!(passes(&on_its_way));
    opened.stop().await;

    let opened = open(&dir, 3).await;
    assert!(opened.stamp(first).is_err(), "not even after a restart");
    assert!(opened.stamp(busy).is_ok());
    let again = opened.register(Some("first")).await;
    assert!(again.id > busy.id, "it is another producer");
    assert!(opened.stamp(busy).is_err(), "now it was its turn");
    opened.stop().await;
}

#[tokio::test]
async fn the_last_epoch_of_an_id_is_followed_by_another_id() {
    let dir = SimDir::new();
    let opened = open(&dir, 10).await;
    let log = InternalLog::open(opened.engine.clone(), PRODUCERS_PARTITION);
    let first = opened.register(Some("a")).await;
    let name = ProducerName::try_from("a").unwrap();
    let worn_out = NamedProducer {
        id: ProducerId::from(first.id),
        epoch: u16::MAX,
        former: None,
    };
    log.append(Producers::begin(&name, worn_out)).await.unwrap();
    opened.stop().await;
    let opened = open(&dir, 10).await;
    let last = Registered {
        id: first.id,
        epoch: u16::MAX,
    };
    let stamp = opened.stamp(last).unwrap();
    let next = opened.register(Some("a")).await;
    assert!(next.id > first.id);
    assert_eq!(next.epoch, 1);
    assert!(!passes(&stamp));
    assert!(opened.stamp(last).is_err());
    opened.stop().await;
}

struct Hasty;

impl Pace for Hasty {
    fn is_gentle(&self) -> bool {
        false
    }

    fn pause(&self) {}
}

/// Moves everything from the journal to segments.
fn archive(dir: &SimDir) {
    let (storage, _) = Storage::open(Arc::new(dir.clone()), options(), 1 << 97).unwrap();
    storage.close_journal_file();
    while storage.archive_oldest(0, &Hasty).unwrap() > 0 {}
}

#[tokio::test]
async fn ids_whose_records_are_damaged_are_not_given_out_again() {
    let dir = SimDir::new();
    let opened = open(&dir, 20).await;
    let first = opened.register(Some("begun-again")).await;
    for nth in 0..10 {
        opened.register(Some(&format!("before-{nth}"))).await;
    }
    let mut newest = opened.register(None).await;
    for _ in 0..3000 {
        newest = opened.register(None).await;
    }
    let lost = opened.register(Some("lost-to-damage")).await;
    // Of this one only the first record will be left, which is no more the last.
    let second = opened.register(Some("begun-again")).await;
    assert_eq!((second.id, second.epoch), (first.id, first.epoch + 1));
    opened.stop().await;
    archive(&dir);
    // All of its records but the first few.
    let segment = Path::new("partitions/1/00000000000000000000.log");
    let len = dir.open(segment).unwrap().len().unwrap();
    assert!(len > 1024);
    for sector in 1..len.div_ceil(512) {
        dir.corrupt_sector(segment, sector);
    }

    let mut seen = HashSet::from([(second.id, second.epoch)]);
    for _ in 0..3 {
        let opened = open(&dir, 20).await;
        let next = opened.register(None).await;
        assert!(next.id > newest.id.max(lost.id));
        newest = next;
        assert!(opened.stamp(lost).is_err(), "nobody knows its name");
        let anew = opened.register(Some("lost-to-damage")).await;
        assert!(anew.id > lost.id);
        // Else the second one could not be told from the one that begins now.
        for former in [first, second] {
            assert!(opened.stamp(former).is_err(), "nobody knows who came later");
        }
        let third = opened.register(Some("begun-again")).await;
        assert!(third.id > second.id);
        assert!(seen.insert((third.id, third.epoch)), "given out twice");
        assert!(opened.stamp(third).is_ok());
        opened.stop().await;
    }
}

#[tokio::test]
async fn without_the_snapshot_whoever_had_begun_begins_anew() {
    let dir = SimDir::new();
    let opened = open(&dir, 10).await;
    let anonymous = opened.register(None).await;
    let named = opened.register(Some("named")).await;
    for producer in [anonymous, named] {
        assert!(!opened.append_first(producer).await.unwrap().duplicate);
        assert!(opened.append_first(producer).await.unwrap().duplicate);
    }
    opened.stop().await;
    archive(&dir);
    let opened = open(&dir, 10).await;
    assert!(opened.append_first(anonymous).await.unwrap().duplicate);
    opened.stop().await;

    dir.remove(Path::new("producers")).unwrap();
    // The next start knows of it, too, whether or not there is a new snapshot.
    for is_archived in [false, true, false] {
        if is_archived {
            archive(&dir);
        }
        let opened = open(&dir, 10).await;
        let refused = opened.append_first(anonymous).await;
        assert_eq!(refused, Err(AppendError::Sequence(SequenceError::Expired)));
        let new = opened.register(None).await;
        assert!(!opened.append_first(new).await.unwrap().duplicate);
        let again = opened.register(Some("named")).await;
        let appended = opened.append_first(again).await.unwrap();
        assert!(!appended.duplicate, "with another id, if need be");
        opened.stop().await;
    }
}
