//! What topics there are. The truth is the records of an internal partition;
//! in memory lies what they fold to, and on disk an index over them that makes
//! starting fast. The index may be lost, behind, ahead or damaged at any time:
//! it is caught up or rebuilt from the log.
//!
//! Synchronous, and given the records: reading and appending them is the work
//! of the layers above.

mod catalog;
mod change;
mod index;
mod producers;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use crate::model::TopicId;
use crate::model::{LogRecord, NewRecord, Offset, PartitionId, TopicConfig, TopicName};

use catalog::Catalog;
pub use catalog::CatalogError;
use change::{TopicChange, Unreadable, fingerprint};
use index::{Index, Mark};
pub use producers::{NamedProducer, ProducerId, Producers, RESERVED_AT_ONCE};

/// The internal partition that holds the topics.
pub const TOPICS_PARTITION: PartitionId = PartitionId(0);

/// The internal partition that holds the ids and names of producers.
pub const PRODUCERS_PARTITION: PartitionId = PartitionId(1);

/// The internal partition that holds consumer groups and what they committed.
pub const GROUPS_PARTITION: PartitionId = PartitionId(2);

/// The internal partition that holds leases.
pub const LEASES_PARTITION: PartitionId = PartitionId(3);

/// Ids below belong to internal partitions, now or later.
pub const FIRST_USER_PARTITION: PartitionId = PartitionId(16);

/// Partition ids `[first, first + count)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionRange {
    /// The lowest id.
    pub first: PartitionId,
    /// How many.
    pub count: u32,
}

impl PartitionRange {
    /// The ids, ascending.
    fn ids(self) -> impl Iterator<Item = PartitionId> {
        (self.first.0..self.end()).map(PartitionId)
    }

    /// One past the highest id.
    fn end(self) -> u32 {
        self.first.0.saturating_add(self.count)
    }
}

/// What is known of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicMeta {
    /// Which of the topics that had this name.
    pub id: TopicId,
    /// Its name.
    pub name: TopicName,
    /// The ids of its partitions, in the order of their numbers: one range from
    /// its creation, one more each time that partitions were added.
    pub ranges: Vec<PartitionRange>,
    /// How it behaves.
    pub config: TopicConfig,
    /// When it was created: milliseconds since the Unix epoch.
    pub created_ms: i64,
}

impl TopicMeta {
    /// The ids of its partitions, in the order of their numbers.
    pub fn partition_ids(&self) -> impl Iterator<Item = PartitionId> {
        self.ranges.iter().copied().flat_map(PartitionRange::ids)
    }

    /// How many partitions it has.
    pub fn partition_count(&self) -> u32 {
        self.ranges.iter().map(|range| range.count).sum()
    }
}

/// The partitions that go with a record of the topics partition: those of the
/// topic that it deletes. None when it is anything else, or not to be understood.
pub fn deleted_by(record: &LogRecord) -> impl Iterator<Item = PartitionId> + use<> {
    let value = record.value.as_deref().unwrap_or_default();
    let ranges = match TopicChange::decode(&record.key, value) {
        Ok(TopicChange::Delete { ranges, .. }) => ranges,
        Ok(TopicChange::Put(_)) | Err(_) => Vec::new(),
    };
    ranges.into_iter().flat_map(PartitionRange::ids)
}

/// Why a record of the topics partition can't be applied.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// The index was not made from this log.
    #[error("the metadata index does not continue the log at offset {0}")]
    Diverged(Offset),
    /// We didn't write it, or a newer broker did.
    #[error("the metadata record at offset {offset} can't be read: {cause}")]
    Unreadable {
        /// Where it lies.
        offset: Offset,
        /// What is wrong with it.
        cause: String,
    },
}

/// The topics, and the index that remembers them.
#[derive(Debug)]
pub struct Metadata {
    catalog: Catalog,
    mark: Mark,
    /// Absent when it can't be written: the log is enough.
    index: Option<Index>,
    path: PathBuf,
}

impl Metadata {
    /// Loads the index in `path`, or begins an empty one when there is none that
    /// belongs to the data directory `cluster_id` and is sound.
    pub fn open(path: &Path, cluster_id: &str) -> Metadata {
        let fresh = Mark::new(cluster_id);
        let (index, saved) = Index::open_or_rebuild(path, &fresh);
        let (catalog, mark) = saved.unwrap_or_else(|| (Catalog::default(), fresh));
        Metadata {
            catalog,
            mark,
            index,
            path: path.to_owned(),
        }
    }

    /// Where the log has to be read from to catch up, given that it holds
    /// `[start, end)`: the record that was applied last, to see whether it is
    /// the same one. Begins from nothing when the log doesn't hold that record.
    pub fn resume_at(&mut self, start: Offset, end: Offset) -> Offset {
        match self.mark.last {
            Some(last) if (start..end).contains(&last.offset) => last.offset,
            Some(last) => {
                tracing::warn!(
                    "the metadata index ends with offset {}, the log holds {start} to {end}: rebuilding the index",
                    last.offset
                );
                self.reset();
                start
            }
            None => start,
        }
    }

    /// Forgets everything, in memory and in the index.
    pub fn reset(&mut self) {
        // Closed before its files go.
        self.index = None;
        self.mark = Mark::new(&self.mark.cluster_id);
        self.catalog = Catalog::default();
        self.index = Index::recreate(&self.path);
    }

    /// Applies the next record of the log. The one that was applied last may
    /// come again; it only has to be the same.
    pub fn apply(&mut self, record: &LogRecord) -> Result<(), ReplayError> {
        // A tombstone is none of ours, and can't be read below.
        let value = record.value.as_deref().unwrap_or_default();
        let applied = fingerprint(&record.key, value);
        if let Some(last) = self.mark.last
            && record.offset <= last.offset
        {
            let same = record.offset == last.offset && applied == last.fingerprint;
            return if same {
                Ok(())
            } else {
                Err(ReplayError::Diverged(record.offset))
            };
        }
        let unreadable = |cause: Unreadable| ReplayError::Unreadable {
            offset: record.offset,
            cause: cause.to_string(),
        };
        let change = TopicChange::decode(&record.key, value).map_err(unreadable)?;
        let before = self.catalog.apply(&change);
        self.mark
            .advance(record, applied, before.as_deref(), &self.catalog);
        if let Some(index) = &self.index
            && let Err(error) = index.apply(&change, record, &self.mark)
        {
            tracing::warn!(
                "the metadata index can't be written, the next start rebuilds it: {error}"
            );
            self.index = None;
        }
        Ok(())
    }

    /// The topics, in the order of their names.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<TopicMeta>> {
        self.catalog.topics()
    }

    /// No partition was ever created with this id or a higher one.
    pub fn next_partition(&self) -> PartitionId {
        self.catalog.next_partition()
    }

    /// Keeps new partitions from having an id below `next`.
    pub fn reserve_partitions_below(&mut self, next: PartitionId) {
        self.catalog.reserve_partitions_below(next);
    }

    /// The record that creates a topic.
    pub fn create(
        &self,
        name: TopicName,
        partitions: u32,
        config: TopicConfig,
        now_ms: i64,
    ) -> Result<NewRecord, CatalogError> {
        self.catalog
            .create(name, partitions, config, now_ms)
            .map(|change| change.encode())
    }

    /// The record that changes a topic's configuration or gives it more
    /// partitions; `None` when it is already so.
    pub fn alter(
        &self,
        name: &TopicName,
        partitions: Option<u32>,
        config: TopicConfig,
    ) -> Result<Option<NewRecord>, CatalogError> {
        let change = self.catalog.alter(name, partitions, config)?;
        Ok(change.map(|change| change.encode()))
    }

    /// The record that deletes a topic.
    pub fn delete(&self, name: &TopicName) -> Result<NewRecord, CatalogError> {
        self.catalog.delete(name).map(|change| change.encode())
    }

    /// The topic with this name.
    pub fn topic(&self, name: &TopicName) -> Option<&Arc<TopicMeta>> {
        self.catalog.topic(name)
    }
}

#[cfg(test)]
mod tests;
