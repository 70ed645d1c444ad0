//! Views and watches over the simulated disk, against the whole history of each
//! partition: random changes, archiving, compaction without grace, retention with every
//! third seed, power cuts, watchers that come, go and resume, and views that are saved,
//! lost and restored.
//!
//! Where retention removes records, a map lacks the keys whose latest record lies below
//! some offset, and no others: no later one than what is removed by now.
//!
//! Threads run as they like; what must be true is true whatever they do.

mod watches;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use statecast_proto::batch::{BatchBuilder, BatchLimits, Compression, RecordRef, RecordView};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::super::ProtobufRecords;
use super::super::produce::checked;
use crate::clock::Clock;
use crate::model::{FlushLevel, KeyHasher, Offset, PartitionId};
use crate::partition::{
    Append, CompactionConfig, Engine, EngineOptions, PartitionConfig, PartitionHandle,
};
use crate::storage::dir::sim::SimDir;
use crate::storage::{JournalOptions, JournalSize, Storage, StorageOptions};
use crate::views::{
    Change, Filter, PageRequest, TopicView, ViewError, ViewStore, Views, Watch, WatchEvent,
    WatchStart,
};

/// Seeds that every test run tries. `STATECAST_SEEDS=from..to` tries others.
const SEEDS: Range<u64> = 0..12;

const PARTITIONS: u32 = 2;
const KEYS: u64 = 12;

fn seeds() -> Range<u64> {
    let Ok(range) = std::env::var("STATECAST_SEEDS") else {
        return SEEDS;
    };
    let (from, to) = range.split_once("..").expect("STATECAST_SEEDS is from..to");
    from.parse().expect("a number")..to.parse().expect("a number")
}

/// Numbers that look random, the same ones for each seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

type Fold = BTreeMap<Bytes, Bytes>;

/// All that was ever appended and acknowledged, by partition and offset.
#[derive(Default)]
struct History([Vec<(Bytes, Option<Bytes>)>; PARTITIONS as usize]);

impl History {
    /// What the records of a partition below `end` fold to, with the latest offset of each.
    fn fold_of(&self, partition: usize, end: Offset) -> BTreeMap<&Bytes, (Offset, &Bytes)> {
        let mut fold = BTreeMap::new();
        let records = &self.0[partition][..usize::try_from(end.0).unwrap()];
        for (offset, (key, value)) in (0..).zip(records) {
            match value {
                Some(value) => drop(fold.insert(key, (Offset(offset), value))),
                None => drop(fold.remove(key)),
            }
        }
        fold
    }

    /// What is left of the records between these offsets: those below don't count, but
    /// for what they had made of later ones.
    fn fold(&self, starts: &[Offset], ends: &[Offset]) -> Fold {
        let mut left = Fold::new();
        for (partition, (start, end)) in starts.iter().zip(ends).enumerate() {
            let fold = self.fold_of(partition, *end).into_iter();
            let fold = fold.filter(|(_, (offset, _))| offset >= start);
            left.extend(fold.map(|(key, (_, value))| (key.clone(), value.clone())));
        }
        left
    }

    /// Whether a map is the fold of the records below `ends`, if retention had removed
    /// those below some offsets, which lie between `told` and `removed`.
    fn check(&self, map: &Fold, told: &[Offset], removed: &[Offset], ends: &[Offset]) {
        let mut starts = told.to_vec();
        for (partition, start) in starts.iter_mut().enumerate() {
            for (key, (offset, _)) in self.fold_of(partition, ends[partition]) {
                if !map.contains_key(key) {
                    *start = offset.advanced(1).max(*start);
                }
            }
        }
        assert!(
            starts
                .iter()
                .zip(removed)
                .all(|(start, removed)| start <= removed)
        );
        assert_eq!(*map, self.fold(&starts, ends), "{starts:?} {ends:?}");
    }

    fn ends(&self) -> Vec<Offset> {
        self.0
            .iter()
            .map(|records| Offset(records.len() as u64))
            .collect()
    }
}

/// What a client has that applies what it is told.
#[derive(Default)]
struct Receiver {
    map: BTreeMap<Bytes, (u32, Offset, Bytes)>,
    latest: BTreeMap<Bytes, Offset>,
    next: Vec<Offset>,
    /// What it was told to be removed.
    starts: Vec<Offset>,
    is_synced: bool,
    /// Some of a snapshot may be missing: it can't go on from `next`.
    is_partial: bool,
    /// What it had whenever it was synced.
    seen: Vec<Seen>,
}

/// What a receiver had when it was synced.
struct Seen {
    starts: Vec<Offset>,
    next: Vec<Offset>,
    map: Fold,
}

impl Receiver {
    fn hear(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Opened { snapshot } => {
                self.is_synced = false;
                // Who resumes hears again of what is removed.
                self.starts.fill(Offset::ZERO);
                if snapshot {
                    self.is_partial = true;
                    self.map.clear();
                    self.latest.clear();
                    self.next = vec![Offset::ZERO; PARTITIONS as usize];
                    self.starts.clone_from(&self.next);
                }
            }
            WatchEvent::Entries(changes) => changes.into_iter().for_each(|one| self.apply(one)),
            WatchEvent::Changes(changes) => {
                for change in changes {
                    let next = &mut self.next[change.partition as usize];
                    assert!(change.offset >= *next, "changes come in their order, once");
                    *next = change.offset.advanced(1);
                    self.apply(change);
                }
            }
            WatchEvent::Synced(offsets) => {
                assert!(!self.is_synced);
                self.is_synced = true;
                self.is_partial = false;
                self.take(offsets);
            }
            WatchEvent::Progress(offsets) => self.take(offsets),
            WatchEvent::Truncated { partition, start } => {
                let told = &mut self.starts[partition as usize];
                assert!(start > *told, "it is told once");
                *told = start;
                self.map
                    .retain(|_, (of, offset, _)| *of != partition || *offset >= start);
            }
        }
    }

    fn apply(&mut self, change: Change) {
        let before = self.latest.insert(change.key.clone(), change.offset);
        assert!(before < Some(change.offset), "no key goes back in time");
        if change.is_tombstone {
            self.map.remove(&change.key);
            return;
        }
        let value = value_of(&change.body);
        let entry = (change.partition, change.offset, value);
        self.map.insert(change.key, entry);
    }

    fn take(&mut self, offsets: Vec<Offset>) {
        assert!(
            self.next
                .iter()
                .zip(&offsets)
                .all(|(next, offset)| next <= offset)
        );
        self.next = offsets;
        let fold = self
            .map
            .iter()
            .map(|(key, entry)| (key.clone(), entry.2.clone()));
        self.seen.push(Seen {
            starts: self.starts.clone(),
            next: self.next.clone(),
            map: fold.collect(),
        });
    }
}

fn value_of(body: &Bytes) -> Bytes {
    let record = RecordView::decode(body).unwrap();
    Bytes::copy_from_slice(record.value.expect("it has a value"))
}

/// A watcher, which a task of its own pumps.
struct Watching {
    receiver: Receiver,
    events: mpsc::Receiver<Result<WatchEvent, ViewError>>,
    pump: JoinHandle<()>,
}

impl Watching {
    fn begin(view: &TopicView, receiver: Receiver, start: WatchStart) -> Watching {
        let (sender, events) = mpsc::channel(16);
        let view = view.clone();
        let pump = tokio::spawn(async move {
            let mut watch = match Watch::open(view, Filter::Prefix(Bytes::new()), start).await {
                Ok(watch) => watch,
                Err(error) => return drop(sender.send(Err(error)).await),
            };
            loop {
                let event = watch.next().await;
                let is_over = event.is_err();
                if sender.send(event).await.is_err() || is_over {
                    return;
                }
            }
        });
        Watching {
            receiver,
            events,
            pump,
        }
    }

    /// Takes what came. Says whether it has to begin anew.
    fn hear(&mut self) -> bool {
        while let Ok(event) = self.events.try_recv() {
            match event {
                Ok(event) => self.receiver.hear(event),
                Err(ViewError::ResumePointCompacted { .. }) => return true,
                Err(error) => panic!("{error}"),
            }
        }
        false
    }

    /// Goes away, and comes again where it was.
    fn resume(mut self, view: &TopicView) -> Watching {
        self.pump.abort();
        let is_lost = self.hear();
        let Receiver {
            next, is_partial, ..
        } = &self.receiver;
        let start = match next.is_empty() || *is_partial || is_lost {
            true => WatchStart::Snapshot,
            false => WatchStart::From(next.clone()),
        };
        Watching::begin(view, self.receiver, start)
    }

    /// Waits until it has heard everything.
    async fn finish(mut self, view: &TopicView, ends: &[Offset]) -> Receiver {
        // What it was told before may not be all that was removed.
        let before = self.receiver.seen.len();
        let is_all = |seen: &Seen| seen.next == ends;
        while !self.receiver.seen[before..].last().is_some_and(is_all) {
            // What it has heard may be all; a new watch tells so at once.
            match tokio::time::timeout(Duration::from_millis(20), self.events.recv()).await {
                Ok(Some(Ok(event))) => self.receiver.hear(event),
                Ok(Some(Err(ViewError::ResumePointCompacted { .. }))) => {
                    self = Watching::begin(view, self.receiver, WatchStart::Snapshot);
                }
                Ok(Some(Err(error))) => panic!("{error}"),
                Ok(None) | Err(_) => self = self.resume(view),
            }
        }
        self.pump.abort();
        self.receiver
    }
}

struct World {
    disk: SimDir,
    index: tempfile::TempDir,
    random: Random,
    history: History,
    hasher: KeyHasher,
    config: PartitionConfig,
}

/// What runs between two power cuts.
struct Running {
    engine: Engine,
    views: Views,
    view: TopicView,
    partitions: Vec<PartitionHandle>,
}

impl Running {
    /// Where the logs begin.
    fn starts(&self) -> Vec<Offset> {
        let start = |partition: &PartitionHandle| partition.range().log_start_offset;
        self.partitions.iter().map(start).collect()
    }

    /// Whether the views know what was removed.
    fn has_heard(&self) -> bool {
        let mut starts = (0..).zip(self.starts());
        starts.all(|(partition, start)| self.view.start(partition) == start)
    }
}

fn storage_options() -> StorageOptions {
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
    }
}

const CONFIG: PartitionConfig = PartitionConfig {
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

impl World {
    fn new(seed: u64) -> World {
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
        }
    }

    fn start(&self, is_first: bool) -> Running {
        let dir = Arc::new(self.disk.clone());
        let (storage, _) = Storage::open(dir, storage_options(), 1 << 96).unwrap();
        let engine = Engine::start(storage, EngineOptions::default(), Clock::system()).unwrap();
        let open = |id| match is_first {
            true => engine.create_partition(PartitionId(20 + id), self.config),
            false => engine.partition(PartitionId(20 + id), self.config),
        };
        let partitions: Vec<_> = (0..PARTITIONS).map(open).collect();
        let store = ViewStore::new(&self.index.path().join("views"), engine.cluster_id());
        let views = Views::new(store);
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

    async fn append(&mut self, running: &Running) {
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
        let batch = checked(
            payload,
            None,
            &BatchLimits::default(),
            keys,
            &mut Vec::new(),
        );
        let append = Append::new(&running.partitions[number], batch.unwrap());
        let appended = running.engine.append(vec![append]).await.remove(0).unwrap();
        let history = &mut self.history.0[number];
        assert_eq!(appended.base_offset.0, history.len() as u64);
        history.extend(records);
    }

    /// What was true at some time, as far as that is known, is what it was.
    async fn look_back(&mut self, running: &Running) {
        let ends = self.history.ends();
        let ends: Vec<Offset> = ends
            .iter()
            .map(|end| Offset(self.random.below(end.0 + 1)))
            .collect();
        let request = PageRequest {
            prefix: Bytes::new(),
            after: None,
            count: 1000,
            bytes: usize::MAX,
        };
        match running.view.scan_as_of(&request, &ends).await {
            Ok(page) => {
                let found = page
                    .records
                    .iter()
                    .map(|one| (one.key.clone(), value_of(&one.body)));
                let (none, removed) = (vec![Offset::ZERO; ends.len()], running.starts());
                self.history.check(&found.collect(), &none, &removed, &ends);
            }
            Err(ViewError::StateCompacted { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// Everything that is true now is known, by scan and by get.
    async fn check(&self, running: &Running) {
        // The views may not have heard yet of what was removed at last.
        while !running.has_heard() {
            tokio::task::yield_now().await;
        }
        let expected = self.history.fold(&running.starts(), &self.history.ends());
        let request = PageRequest {
            prefix: Bytes::new(),
            after: None,
            count: 1000,
            bytes: usize::MAX,
        };
        let page = running.view.scan(&request).await.unwrap();
        let found = page
            .records
            .iter()
            .map(|one| (one.key.clone(), value_of(&one.body)));
        assert_eq!(found.collect::<Fold>(), expected);
        for partition in 0..PARTITIONS {
            for key in 0..KEYS {
                let key = format!("{partition}/{key}");
                let found = running
                    .view
                    .get(partition, key.as_bytes(), None)
                    .await
                    .unwrap();
                let value = found.record.map(|record| value_of(&record.body));
                assert_eq!(value.as_ref(), expected.get(key.as_bytes()), "{key}");
            }
        }
    }
}

async fn scenario(seed: u64) {
    let mut world = World::new(seed);
    let mut receivers: Vec<Receiver> = Vec::new();
    for life in 0..3 {
        let running = world.start(life == 0);
        let mut watching: Vec<Watching> = Vec::new();
        for receiver in receivers.drain(..) {
            let start = match world.random.below(3) {
                0 => WatchStart::Snapshot,
                _ => WatchStart::From(receiver.next.clone()),
            };
            watching.push(Watching::begin(&running.view, receiver, start));
        }
        for _ in 0..150 {
            match world.random.below(20) {
                0 if watching.len() < 4 => {
                    let receiver = Receiver::default();
                    watching.push(Watching::begin(
                        &running.view,
                        receiver,
                        WatchStart::Snapshot,
                    ));
                }
                1 | 2 if !watching.is_empty() => {
                    let which = world.random.below(watching.len() as u64);
                    let gone = watching.swap_remove(usize::try_from(which).unwrap());
                    watching.push(gone.resume(&running.view));
                }
                3 => running.engine.sweep_now(),
                4 => world.look_back(&running).await,
                5 => world.check(&running).await,
                _ => world.append(&running).await,
            }
            for one in &mut watching {
                if one.hear() {
                    let receiver = std::mem::take(&mut one.receiver);
                    *one = Watching::begin(&running.view, receiver, WatchStart::Snapshot);
                }
            }
        }
        world.check(&running).await;
        let ends = world.history.ends();
        for one in watching {
            receivers.push(one.finish(&running.view, &ends).await);
        }
        for receiver in &mut receivers {
            let last = &receiver.seen.last().unwrap().map;
            assert_eq!(*last, world.history.fold(&running.starts(), &ends));
            for Seen { starts, next, map } in receiver.seen.drain(..) {
                world.history.check(&map, &starts, &running.starts(), &next);
            }
        }
        if world.random.below(2) == 0 {
            running.views.stop().await;
        }
        let after_cut = world.disk.crash(seed ^ life);
        running.engine.stop().await;
        world.disk = after_cut;
        if world.random.below(4) == 0 {
            let _ = std::fs::remove_dir_all(world.index.path().join("views"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_watchers_and_views_have_what_the_log_folds_to() {
    for seed in seeds() {
        let outcome = tokio::spawn(scenario(seed)).await;
        assert!(
            outcome.is_ok(),
            "seed {seed} failed; again with STATECAST_SEEDS={seed}..{}",
            seed + 1
        );
    }
}
