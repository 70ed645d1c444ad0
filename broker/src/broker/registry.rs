//! The topics by name, for every produce and fetch to look up.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::LookupError;
use crate::limits;
use crate::metadata::TopicMeta;
use crate::model::{PartitionId, TopicId, TopicName};
use crate::partition::{CompactionConfig, Engine, PartitionConfig, PartitionHandle};
use crate::views::{TopicView, Views};

/// A topic with its partitions, as it was at some time.
#[derive(Debug)]
pub struct Topic {
    meta: Arc<TopicMeta>,
    /// By their numbers.
    partitions: Vec<PartitionHandle>,
    /// Set once the topic was deleted or altered: whoever holds this for later
    /// has to look it up again.
    retired: AtomicBool,
    /// Cancelled then, for those who wait for it.
    retirement: CancellationToken,
    /// Where the next records without a key go, modulo the partitions.
    turn: AtomicU32,
    /// The largest batch that it takes: bytes.
    max_batch_bytes: u32,
    /// What is true in it, if it is compacted.
    view: Option<TopicView>,
}

impl Topic {
    /// Opens the partitions and gives them their configuration. The view of the topic
    /// goes on as it was `before` it was altered.
    pub(super) fn open(
        meta: Arc<TopicMeta>,
        engine: &Engine,
        views: &Views,
        before: Option<&Topic>,
    ) -> Topic {
        let config = partition_config(&meta);
        let open = |id| {
            let partition = engine.partition(id, config);
            // One that is open already keeps its configuration otherwise.
            partition.configure(config);
            partition
        };
        let partitions: Vec<PartitionHandle> = meta.partition_ids().map(open).collect();
        // It has the same partitions as before: a compacted topic keeps their number.
        let view = meta.config.cleanup.compacts().then(|| {
            let view = before.and_then(|before| before.view.clone());
            view.unwrap_or_else(|| views.follow(&partitions))
        });
        Topic {
            view,
            max_batch_bytes: meta.config.max_batch_bytes.min(engine.max_batch_bytes()),
            meta,
            partitions,
            retired: AtomicBool::new(false),
            retirement: CancellationToken::new(),
            turn: AtomicU32::new(0),
        }
    }

    /// What is known of it.
    pub fn meta(&self) -> &TopicMeta {
        &self.meta
    }

    /// Its partitions, by their numbers.
    pub fn partitions(&self) -> &[PartitionHandle] {
        &self.partitions
    }

    /// What is true in it; none if it isn't compacted.
    pub fn view(&self) -> Option<&TopicView> {
        self.view.as_ref()
    }

    /// The largest batch that it takes: bytes.
    pub fn max_batch_bytes(&self) -> u32 {
        self.max_batch_bytes
    }

    /// Whether every record needs a key: it is compacted.
    pub fn needs_keys(&self) -> bool {
        self.meta.config.cleanup.compacts()
    }

    /// How many partitions it has.
    pub fn partition_count(&self) -> u32 {
        u32::try_from(self.partitions.len()).expect("bounded by limits::PARTITIONS_PER_TOPIC")
    }

    /// The partition with this number.
    pub fn partition(&self, number: u32) -> Result<&PartitionHandle, LookupError> {
        let not_found = || LookupError::PartitionNotFound {
            topic: self.meta.name.clone(),
            partition: number,
            partitions: self.partition_count(),
        };
        self.partitions.get(number as usize).ok_or_else(not_found)
    }

    /// Whether it was deleted or altered since it was looked up.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Waits until it is deleted or altered.
    pub async fn retired(&self) {
        self.retirement.cancelled().await;
    }

    /// The partition for the next records without a key.
    pub(super) fn take_turn(&self) -> u32 {
        self.turn.fetch_add(1, Ordering::Relaxed) % self.partition_count()
    }
}

fn partition_config(meta: &TopicMeta) -> PartitionConfig {
    let grace_ms = meta.config.tombstone_grace_ms;
    let compaction = || CompactionConfig {
        tombstone_grace_ms: grace_ms.unwrap_or(limits::DEFAULT_TOMBSTONE_GRACE_MS),
        min_dirty_percent: limits::MIN_DIRTY_PERCENT,
        // However much that is: a pass rewrites the clean part, too.
        max_dirty_bytes: u64::MAX,
    };
    PartitionConfig {
        flush: meta.config.flush,
        segment_bytes: meta.config.segment_bytes,
        retention_ms: meta.config.retention_ms,
        retention_bytes: meta.config.retention_bytes,
        compaction: meta.config.cleanup.compacts().then(compaction),
        internal: false,
    }
}

/// Every topic by its name and by its id. The lock is held for one lookup; a stream
/// that writes to one topic keeps it and only looks at [`Topic::is_retired`].
#[derive(Debug, Default)]
pub(super) struct Registry {
    topics: RwLock<Topics>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Topics {
    by_name: HashMap<TopicName, Arc<Topic>>,
    by_id: HashMap<TopicId, Arc<Topic>>,
    /// Higher than the id of every partition that a topic has had here.
    next_partition: PartitionId,
}

impl Registry {
    pub(super) fn get(&self, name: &str) -> Option<Arc<Topic>> {
        self.read().by_name.get(name).cloned()
    }

    pub(super) fn get_by_id(&self, id: TopicId) -> Option<Arc<Topic>> {
        self.read().by_id.get(&id).cloned()
    }

    /// Puts a topic in the place of the one with its name.
    pub(super) fn put(&self, topic: Arc<Topic>) {
        let mut topics = self.write();
        topics.by_id.insert(topic.meta.id, topic.clone());
        let last = topic.meta.partition_ids().max();
        let next = last.map_or(PartitionId(0), |last| PartitionId(last.0 + 1));
        topics.next_partition = next.max(topics.next_partition);
        let before = topics.by_name.insert(topic.meta.name.clone(), topic);
        drop(topics);
        self.retire(before);
    }

    /// No topic here has a partition with this id or a higher one; whatever is created
    /// from now on does.
    pub(super) fn next_partition(&self) -> PartitionId {
        self.read().next_partition
    }

    pub(super) fn remove(&self, name: &TopicName) {
        let mut topics = self.write();
        let before = topics.by_name.remove(name);
        if let Some(topic) = &before {
            topics.by_id.remove(&topic.meta.id);
        }
        drop(topics);
        self.retire(before);
    }

    /// Tells that topics are not what they were, and that one of them is gone or
    /// has changed.
    fn retire(&self, topic: Option<Arc<Topic>>) {
        self.changed.notify_one();
        if let Some(topic) = topic {
            topic.retired.store(true, Ordering::Release);
            topic.retirement.cancel();
        }
    }

    /// Waits until topics have changed since the last call. There is one who does.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// All topics.
    pub(super) fn all(&self) -> Vec<Arc<Topic>> {
        self.read().by_name.values().cloned().collect()
    }

    pub(super) fn list(&self, prefix: &str, after: &str, count: usize) -> (Vec<Arc<Topic>>, bool) {
        let wanted = |topic: &&Arc<Topic>| {
            let name = topic.meta.name.as_str();
            name.starts_with(prefix) && name > after
        };
        let all = self.read();
        let mut topics: Vec<Arc<Topic>> = all.by_name.values().filter(wanted).cloned().collect();
        drop(all);
        topics.sort_unstable_by(|a, b| a.meta.name.cmp(&b.meta.name));
        let more = topics.len() > count;
        topics.truncate(count);
        (topics, more)
    }

    pub(super) fn counts(&self) -> (usize, u32) {
        let topics = &self.read().by_name;
        (
            topics.len(),
            topics.values().map(|topic| topic.partition_count()).sum(),
        )
    }

    fn read(&self) -> RwLockReadGuard<'_, Topics> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Topics> {
        self.topics.write().unwrap_or_else(PoisonError::into_inner)
    }
}
