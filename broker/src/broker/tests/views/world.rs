//! A topic on a simulated disk, and all that is done to it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use statecast_proto::batch::{BatchBuilder, BatchLimits, Compression, RecordRef};

use super::super::super::ProtobufRecords;
use super::super::super::produce::checked;
use super::history::{Held, History};
use super::{KEYS, PARTITIONS, Random, value_of};
use crate::clock::Clock;
use crate::model::{FlushLevel, KeyHasher, Offset, PartitionId};
use crate::partition::{
    Append, CompactionConfig, Engine, EngineOptions, PartitionConfig, PartitionHandle, ReadError,
};
use crate::storage::dir::sim::{Fault, SimDir};
use crate::storage::{JournalOptions, JournalSize, Storage, StorageOptions};
use crate::views::{Change, PageRequest, TopicView, ViewError, ViewStore, Views};

pub(super) struct World {
    pub(super) disk: SimDir,
    pub(super) index: tempfile::TempDir,
    pub(super) random: Random,
    pub(super) history: History,
    hasher: KeyHasher,
    config: PartitionConfig,
    /// What records beside the keys may take: bytes.
    kept_records: usize,
}

/// What runs between two power cuts.
pub(super) struct Running {
    pub(super) engine: Engine,
    pub(super) views: Views,
    pub(super) view: TopicView,
    pub(super) partitions: Vec<PartitionHandle>,
}

impl Running {
    /// Where the logs begin.
    pub(super) fn starts(&self) -> Vec<Offset> {
        let start = |partition: &PartitionHandle| partition.range().log_start_offset;
        self.partitions.iter().map(start).collect()
    }

    /// Whether the views know what was removed.
    fn has_heard(&self) -> bool {
        let mut starts = (0..).zip(self.starts());
        starts.all(|(partition, start)| self.view.start(partition) == start)
    }
}

pub(super) fn storage_options() -> StorageOptions {
    StorageOptions {
        journal: JournalOptions {
            size: JournalSize {
                file_bytes: 64 << 10,
                max_files: 6,
                spares: 2,
            },
            max_frames_per_file: 60,
            tail_bytes: 8 << 10,
        },
        open_segments: 8,
        growing_segments: 8,
    }
}

pub(super) const CONFIG: PartitionConfig = PartitionConfig {
    flush: FlushLevel::Always,
    segment_bytes: 2 << 10,
    retention_ms: None,
    retention_bytes: None,
    compaction: Some(CompactionConfig {
        tombstone_grace_ms: 0,
        min_dirty_percent: 10,
        max_dirty_bytes: 4 << 10,
    }),
    internal: false,
};

/// Everything that there is.
const ALL: PageRequest = PageRequest {
    prefix: Bytes::new(),
    after: None,
    count: 1000,
    bytes: usize::MAX,
};

impl World {
    pub(super) fn new(seed: u64) -> World {
        World {
            disk: SimDir::new(),
            index: tempfile::tempdir().unwrap(),
            random: Random(seed),
            history: History::default(),
            hasher: KeyHasher::new(u128::from(seed)),
            config: PartitionConfig {
                retention_bytes: seed.is_multiple_of(3).then_some(3 << 10),
                ..CONFIG
            },
            kept_records: match seed % 5 {
                0 => 0,
                1 => 1 << 10,
                _ => usize::MAX,
            },
        }
    }

    pub(super) fn start(&self, is_first: bool) -> Running {
        let dir = Arc::new(self.disk.clone());
        let (storage, _) = Storage::open(dir, storage_options(), 1 << 96).unwrap();
        let engine = Engine::start(storage, EngineOptions::default(), Clock::system()).unwrap();
        let open = |id| match is_first {
            true => engine.create_partition(PartitionId(20 + id), self.config),
            false => engine.partition(PartitionId(20 + id), self.config),
        };
        let partitions: Vec<_> = (0..PARTITIONS).map(open).collect();
        let store = ViewStore::new(&self.index.path().join("views"), engine.cluster_id());
        let views = Views::with_memory(store, usize::MAX, self.kept_records);
        let view = views.follow(&partitions);
        engine.begin_upkeep().unwrap();
        engine
            .begin_compaction(Arc::new(ProtobufRecords), 7)
            .unwrap();
        Running {
            engine,
            views,
            view,
            partitions,
        }
    }

    pub(super) async fn append(&mut self, running: &Running) {
        let partition = self.random.below(u64::from(PARTITIONS));
        let number = usize::try_from(partition).unwrap();
        let mut builder = BatchBuilder::new(match self.random.below(4) {
            0 => Compression::Lz4,
            _ => Compression::None,
        });
        let mut records = Vec::new();
        for _ in 0..=self.random.below(5) {
            let key = format!("{partition}/{}", self.random.below(KEYS));
            let value = format!("{}-{}", self.random.below(1 << 30), "x".repeat(40));
            let value = (self.random.below(4) > 0).then_some(value);
            builder
                .push(&RecordRef {
                    key: Some(key.as_bytes()),
                    value: value.as_deref().map(str::as_bytes),
                    ..RecordRef::default()
                })
                .unwrap();
            records.push((Bytes::from(key), value.map(Bytes::from)));
        }
        let payload = builder.finish().payload;
        let keys = Some(self.hasher);
        let limits = BatchLimits::default();
        let batch = checked(payload, None, &limits, keys, &mut Vec::new());
        let append = Append::new(&running.partitions[number], batch.unwrap());
        let appended = running.engine.append(vec![append]).await.remove(0).unwrap();
        self.history.append(number, appended.base_offset, records);
    }

    /// Damages a sealed segment, while everybody reads and compacts.
    pub(super) fn damage(&mut self) {
        let partition = 20 + self.random.below(u64::from(PARTITIONS));
        let dir = format!("partitions/{partition}");
        let (which, bit) = (self.random.below(1 << 40), self.random.below(1 << 40));
        let is_segment = |name: &&String| Path::new(name).extension() == Some("log".as_ref());
        self.disk.flip_bit_within(dir.as_ref(), bit, |names| {
            let mut sealed: Vec<_> = names.iter().filter(is_segment).collect();
            // The archiver writes the last one.
            sealed.pop();
            let which = which.checked_rem(sealed.len() as u64)?;
            Some(sealed[usize::try_from(which).unwrap()].clone())
        });
    }

    /// Lets the next read fail, whoever reads.
    pub(super) fn fail_a_read(&self) {
        self.disk.fail_after(0, Fault::ReadError);
    }

    /// Removes or damages what was saved of the views, or leaves it.
    pub(super) fn damage_saved_views(&mut self) {
        let dir = self.index.path().join("views");
        let Ok(files) = std::fs::read_dir(&dir) else {
            return;
        };
        match self.random.below(4) {
            0 => std::fs::remove_dir_all(&dir).unwrap(),
            1 => {
                for file in files.map(|file| file.unwrap().path()) {
                    let mut bytes = std::fs::read(&file).unwrap();
                    let at = self.random.below(bytes.len() as u64);
                    bytes[usize::try_from(at).unwrap()] ^= 1 << self.random.below(8);
                    std::fs::write(&file, bytes).unwrap();
                }
            }
            _ => {}
        }
    }

    /// What was true at some time, as far as that is known, is what it was.
    pub(super) async fn look_back(&mut self, running: &Running) {
        let ends = self.history.ends().into_iter();
        let ends: Vec<Offset> = ends
            .map(|end| Offset(self.random.below(end.0 + 1)))
            .collect();
        match running.view.scan_as_of(&ALL, &ends).await {
            Ok(page) => {
                let (none, removed) = (vec![Offset::ZERO; ends.len()], running.starts());
                self.history.note_damage(&running.partitions);
                self.history
                    .check(&held(page.records), &none, &removed, &ends);
            }
            Err(ViewError::StateCompacted { .. } | ViewError::Read(ReadError::Io(_))) => {}
            Err(ViewError::Damaged { partition, offset }) => {
                self.check_damage(running, partition, offset);
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Everything that is true now is known, by scan and by get.
    pub(super) async fn check(&mut self, running: &Running) {
        // The views may not have heard yet of what was removed at last.
        while !running.has_heard() {
            tokio::task::yield_now().await;
        }
        let (starts, ends) = (running.starts(), self.history.ends());
        let page = loop {
            match running.view.scan(&ALL).await {
                Ok(page) => break page,
                // The disk failed to read: another time it doesn't.
                Err(ViewError::Read(ReadError::Io(_))) => {}
                Err(error) => panic!("{error}"),
            }
        };
        self.history.note_damage(&running.partitions);
        self.history
            .check(&held(page.records), &starts, &starts, &ends);
        let mut got = Vec::new();
        for partition in 0..PARTITIONS {
            for key in 0..KEYS {
                let key = format!("{partition}/{key}");
                // A read may fail, once.
                let mut found = running.view.get(partition, key.as_bytes(), None).await;
                if let Err(ViewError::Read(ReadError::Io(_))) = found {
                    found = running.view.get(partition, key.as_bytes(), None).await;
                }
                match found {
                    Ok(found) => got.extend(found.record),
                    Err(ViewError::Damaged { partition, offset }) => {
                        self.check_damage(running, partition, offset);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
        self.history.note_damage(&running.partitions);
        self.history.check(&held(got), &starts, &starts, &ends);
    }

    /// What is said to be damaged is reported so.
    fn check_damage(&mut self, running: &Running, partition: u32, offset: u64) {
        self.history.note_damage(&running.partitions);
        let is_reported = self.history.is_damaged(partition as usize, Offset(offset));
        assert!(is_reported, "{partition} {offset}");
    }
}

fn held(records: Vec<Change>) -> BTreeMap<Bytes, Held> {
    let held = |one: Change| (one.key, (one.partition, one.offset, value_of(&one.body)));
    records.into_iter().map(held).collect()
}
