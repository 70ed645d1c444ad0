//! What the records of the topics partition fold to. Pure: no clock, no disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::change::TopicChange;
use super::{FIRST_USER_PARTITION, PartitionRange, TopicId, TopicMeta};
use crate::limits;
use crate::model::{PartitionId, TopicConfig, TopicName};

/// Why a change is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// There is one with that name.
    #[error("topic {0} exists already")]
    Exists(TopicName),
    /// There is none with that name.
    #[error("there is no topic {0}")]
    NotFound(TopicName),
    /// Too few or too many for one topic, or for the broker.
    #[error("a topic has {} to {} partitions, not {asked}", limits::PARTITIONS_PER_TOPIC.start(), limits::PARTITIONS_PER_TOPIC.end())]
    PartitionCount {
        /// How many were asked for.
        asked: u32,
    },
    /// Partitions can be added, not taken away.
    #[error("the topic has {now} partitions; their number can only grow, not become {asked}")]
    Fewer {
        /// How many there are.
        now: u32,
        /// How many were asked for.
        asked: u32,
    },
    /// The keys of a compacted topic would have their records in two partitions.
    #[error(
        "the topic is compacted: the keys of its {now} partitions would move if it had {asked}"
    )]
    Compacted {
        /// How many there are.
        now: u32,
        /// How many were asked for.
        asked: u32,
    },
    /// All topics together would have too many.
    #[error(
        "the broker has {now} partitions, {} at most; {asked} more are too many",
        limits::PARTITIONS
    )]
    BrokerFull {
        /// How many there are.
        now: u32,
        /// How many more were asked for.
        asked: u32,
    },
}

/// The topics that exist, and the ids that were ever used.
#[derive(Debug)]
pub(super) struct Catalog {
    topics: BTreeMap<TopicName, Arc<TopicMeta>>,
    /// Higher than the id of every partition that was ever created.
    next_partition: PartitionId,
    /// Higher than the id of every topic that was ever created.
    next_topic: TopicId,
    /// Sum of the topics' partitions.
    partitions: u32,
}

impl Default for Catalog {
    fn default() -> Catalog {
        Catalog {
            topics: BTreeMap::new(),
            next_partition: FIRST_USER_PARTITION,
            next_topic: TopicId(1),
            partitions: 0,
        }
    }
}

impl Catalog {
    pub(super) fn topics(&self) -> impl Iterator<Item = &Arc<TopicMeta>> {
        self.topics.values()
    }

    pub(super) fn topic(&self, name: &TopicName) -> Option<&Arc<TopicMeta>> {
        self.topics.get(name)
    }

    pub(super) fn topic_named(&self, name: &str) -> Option<&Arc<TopicMeta>> {
        self.topics.get(name)
    }

    pub(super) fn next_partition(&self) -> PartitionId {
        self.next_partition
    }

    pub(super) fn next_topic(&self) -> TopicId {
        self.next_topic
    }

    pub(super) fn reserve_partitions_below(&mut self, next: PartitionId) {
        self.next_partition = self.next_partition.max(next);
    }

    pub(super) fn reserve_topics_below(&mut self, next: TopicId) {
        self.next_topic.0 = self.next_topic.0.max(next.0);
    }

    /// Folds a change in; returns what was known of the topic before.
    pub(super) fn apply(&mut self, change: &TopicChange) -> Option<Arc<TopicMeta>> {
        for range in change.ranges() {
            self.reserve_partitions_below(PartitionId(range.end()));
        }
        self.reserve_topics_below(TopicId(change.topic_id().0 + 1));
        let before = match change {
            TopicChange::Put(meta) => {
                self.partitions += meta.partition_count();
                self.topics.insert(meta.name.clone(), meta.clone())
            }
            TopicChange::Delete { name, .. } => self.topics.remove(name),
        };
        if let Some(before) = &before {
            self.partitions -= before.partition_count();
        }
        before
    }

    pub(super) fn create(
        &self,
        name: TopicName,
        partitions: u32,
        config: TopicConfig,
        created_ms: i64,
    ) -> Result<TopicChange, CatalogError> {
        if self.topics.contains_key(&name) {
            return Err(CatalogError::Exists(name));
        }
        let ranges = vec![self.new_range(partitions, partitions)?];
        let id = self.next_topic;
        Ok(TopicChange::Put(Arc::new(TopicMeta {
            id,
            name,
            ranges,
            config,
            created_ms,
        })))
    }

    pub(super) fn alter(
        &self,
        name: &TopicName,
        partitions: Option<u32>,
        config: TopicConfig,
    ) -> Result<Option<TopicChange>, CatalogError> {
        let now = self
            .topic(name)
            .ok_or_else(|| CatalogError::NotFound(name.clone()))?;
        let mut meta = TopicMeta {
            config,
            ..TopicMeta::clone(now)
        };
        let count = now.partition_count();
        match partitions {
            Some(asked) if asked > count && config.cleanup.compacts() => {
                return Err(CatalogError::Compacted { now: count, asked });
            }
            Some(asked) if asked < count => return Err(CatalogError::Fewer { now: count, asked }),
            Some(asked) if asked > count => meta.ranges.push(self.new_range(asked, asked - count)?),
            _ => {}
        }
        Ok((meta != **now).then(|| TopicChange::Put(Arc::new(meta))))
    }

    pub(super) fn delete(&self, name: &TopicName) -> Result<TopicChange, CatalogError> {
        let meta = self
            .topic(name)
            .ok_or_else(|| CatalogError::NotFound(name.clone()))?;
        Ok(TopicChange::Delete {
            id: meta.id,
            name: name.clone(),
            ranges: meta.ranges.clone(),
        })
    }

    /// Ids for `added` partitions of a topic that then has `in_topic`.
    fn new_range(&self, in_topic: u32, added: u32) -> Result<PartitionRange, CatalogError> {
        if !limits::PARTITIONS_PER_TOPIC.contains(&in_topic) {
            return Err(CatalogError::PartitionCount { asked: in_topic });
        }
        // The ids end somewhere, too: a directory with a huge number as its name
        // keeps those below it from being used.
        let ids_left = u32::MAX - self.next_partition.0;
        if added
            > limits::PARTITIONS
                .saturating_sub(self.partitions)
                .min(ids_left)
        {
            return Err(CatalogError::BrokerFull {
                now: self.partitions,
                asked: added,
            });
        }
        Ok(PartitionRange {
            first: self.next_partition,
            count: added,
        })
    }
}
