//! A topic of one partition, and a receiver that believes what it is told.

use super::world::{CONFIG, storage_options};
use super::*;

/// A disk, and the only partition of a topic on it.
pub(super) struct Small {
    pub(super) disk: SimDir,
    _index: tempfile::TempDir,
    pub(super) engine: Engine,
    pub(super) partition: PartitionHandle,
    pub(super) view: TopicView,
    pub(super) views: Views,
    config: PartitionConfig,
}

impl Small {
    /// With so many bytes for records beside the keys.
    pub(super) fn start(config: PartitionConfig, records: usize) -> Small {
        Small::with_memory(config, usize::MAX, records)
    }

    /// With so many bytes for keys, and for records beside them.
    pub(super) fn with_memory(config: PartitionConfig, keys: usize, records: usize) -> Small {
        let disk = SimDir::new();
        let index = tempfile::tempdir().unwrap();
        let dir = Arc::new(disk.clone());
        let (storage, _) = Storage::open(dir, storage_options(), 1 << 96).unwrap();
        let engine = Engine::start(storage, EngineOptions::default(), Clock::system()).unwrap();
        let partition = engine.create_partition(PartitionId(20), config);
        let store = ViewStore::new(index.path(), engine.cluster_id());
        let views = Views::with_memory(store, keys, records);
        let view = views.follow(std::slice::from_ref(&partition));
        engine.begin_upkeep().unwrap();
        Small {
            disk,
            _index: index,
            engine,
            partition,
            view,
            views,
            config,
        }
    }

    pub(super) async fn put(
        &self,
        records: &[(String, Vec<u8>)],
        compression: Compression,
    ) -> Offset {
        self.append(puts(records, compression)).await
    }

    /// One more partition.
    pub(super) fn another(&self, id: u32) -> PartitionHandle {
        self.engine.create_partition(PartitionId(id), self.config)
    }

    pub(super) async fn append(&self, payload: Bytes) -> Offset {
        self.append_to(&self.partition, payload).await
    }

    pub(super) async fn append_to(&self, partition: &PartitionHandle, payload: Bytes) -> Offset {
        let keys = Some(KeyHasher::new(1));
        let limits = BatchLimits::default();
        let batch = checked(payload, None, &limits, keys, &mut Vec::new()).unwrap();
        let append = Append::new(partition, batch);
        let appended = self.engine.append(vec![append]).await.remove(0).unwrap();
        appended.base_offset
    }

    /// Waits until everything is in segments.
    pub(super) async fn archive(&self) {
        while self.engine.archiver_lag() > 0 {
            self.engine.sweep_now();
            tokio::task::yield_now().await;
        }
    }

    pub(super) async fn remove(&self, key: &str) -> Offset {
        let mut builder = BatchBuilder::new(Compression::None);
        let tombstone = RecordRef {
            key: Some(key.as_bytes()),
            ..RecordRef::default()
        };
        builder.push(&tombstone).unwrap();
        self.append(builder.finish().payload).await
    }

    /// Puts a value of so many bytes.
    pub(super) async fn put_one(&self, key: &str, bytes: usize) -> Offset {
        let record = (key.to_owned(), vec![b'x'; bytes]);
        self.put(&[record], Compression::None).await
    }

    pub(super) async fn watch(&self, filter: Filter, start: WatchStart) -> Watch {
        Watch::open(self.view.clone(), filter, start).await.unwrap()
    }

    /// Has retention remove some records. Returns where the log begins then.
    pub(super) async fn retain(&self) -> Offset {
        let start = || self.partition.range().log_start_offset;
        let before = start();
        while start() == before {
            // It sees what the archiver has done.
            self.engine.sweep_now();
            tokio::task::yield_now().await;
        }
        start()
    }

    /// Waits until the view has heard of what was removed.
    pub(super) async fn until_fewer_than(&self, count: usize) {
        while self.keys().await.len() >= count {
            tokio::task::yield_now().await;
        }
    }

    pub(super) async fn keys(&self) -> Vec<Bytes> {
        let page = self.view.scan(&everything()).await.unwrap();
        page.records.into_iter().map(|one| one.key).collect()
    }

    pub(super) async fn stop(self) {
        self.views.stop().await;
        self.engine.stop().await;
    }
}

/// A batch that puts these.
pub(super) fn puts(records: &[(String, Vec<u8>)], compression: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(compression);
    for (key, value) in records {
        builder
            .push(&RecordRef {
                key: Some(key.as_bytes()),
                value: Some(value),
                ..RecordRef::default()
            })
            .unwrap();
    }
    builder.finish().payload
}

pub(super) fn everything() -> PageRequest {
    PageRequest {
        prefix: Bytes::new(),
        after: None,
        count: 10_000,
        bytes: usize::MAX,
    }
}

pub(super) fn all() -> Filter {
    Filter::Prefix(Bytes::new())
}

pub(super) const RETAINED: PartitionConfig = PartitionConfig {
    retention_bytes: Some(4 << 10),
    ..CONFIG
};

/// A receiver that forgets what retention removed.
#[derive(Default)]
pub(super) struct Forgetful(pub(super) BTreeMap<Bytes, Offset>);

impl Forgetful {
    pub(super) fn hear(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Opened { snapshot: true } => self.0.clear(),
            WatchEvent::Entries(changes) | WatchEvent::Changes(changes) => {
                for change in changes {
                    match change.is_tombstone {
                        true => drop(self.0.remove(&change.key)),
                        false => drop(self.0.insert(change.key, change.offset)),
                    }
                }
            }
            WatchEvent::Truncated { start, .. } => self.0.retain(|_, offset| *offset >= start),
            _ => {}
        }
    }

    pub(super) async fn until_synced(&mut self, watch: &mut Watch) -> Vec<Offset> {
        loop {
            match watch.next().await.unwrap() {
                WatchEvent::Synced(offsets) => return offsets,
                other => self.hear(other),
            }
        }
    }

    /// When nothing comes any more, it has heard all.
    pub(super) async fn until_quiet(&mut self, watch: &mut Watch) {
        loop {
            match watch.next().await.unwrap() {
                WatchEvent::Progress(_) => return,
                other => self.hear(other),
            }
        }
    }

    pub(super) fn keys(&self) -> Vec<Bytes> {
        self.0.keys().cloned().collect()
    }
}
