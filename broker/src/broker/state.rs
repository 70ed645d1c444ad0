//! What is true in a compacted topic, now or at another time.

use std::sync::Arc;

use statecast_proto::partition_for_key;

use super::registry::Topic;
use super::{LookupError, time_lookup};
use crate::model::{Offset, TopicName};
use crate::views::{Found, Page, PageRequest, TopicView, ViewError};

/// The state of a compacted topic.
#[derive(Debug, Clone)]
pub struct TopicState {
    topic: Arc<Topic>,
    view: TopicView,
}

/// Why there is no state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// There is no such topic or partition.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The topic isn't compacted.
    #[error("topic {topic} isn't compacted: it has no state")]
    NotCompacted {
        /// Its name.
        topic: TopicName,
    },
}

/// A time at which a partition is looked at.
#[derive(Debug, Clone, Copy)]
pub enum PointInTime {
    /// As the records below this offset made it.
    Offset(Offset),
    /// As the records before the first one that is younger made it: milliseconds
    /// since the Unix epoch.
    Timestamp(i64),
}

/// A time at which a topic is looked at.
#[derive(Debug, Clone)]
pub enum PointsInTime {
    /// As the records below these offsets made it, by the numbers of the partitions.
    Offsets(Vec<Offset>),
    /// As for [`PointInTime::Timestamp`].
    Timestamp(i64),
}

impl TopicState {
    pub(super) fn of(topic: Arc<Topic>) -> Result<TopicState, StateError> {
        match topic.view().cloned() {
            Some(view) => Ok(TopicState { topic, view }),
            None => Err(StateError::NotCompacted {
                topic: topic.meta().name.clone(),
            }),
        }
    }

    /// The view of the topic.
    pub fn view(&self) -> &TopicView {
        &self.view
    }

    /// The topic.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The partition that is named, or else that of a key.
    pub fn partition_of(&self, key: &[u8], named: Option<u32>) -> Result<u32, LookupError> {
        match named {
            Some(partition) => self.topic.partition(partition).map(|_| partition),
            None => Ok(partition_for_key(key, self.topic.partition_count())),
        }
    }

    /// The record of a key at another time.
    pub async fn get_as_of(
        &self,
        partition: u32,
        key: &[u8],
        point: PointInTime,
    ) -> Result<Found, ViewError> {
        let end = match point {
            PointInTime::Offset(offset) => offset,
            PointInTime::Timestamp(timestamp_ms) => self.end_at(partition, timestamp_ms).await?,
        };
        self.view.get_as_of(partition, key, end).await
    }

    /// A page of the keys there were at another time.
    pub async fn scan_as_of(
        &self,
        request: &PageRequest,
        points: PointsInTime,
    ) -> Result<Page, ViewError> {
        let ends = match points {
            PointsInTime::Offsets(offsets) => offsets,
            PointsInTime::Timestamp(timestamp_ms) => {
                let mut ends = Vec::new();
                for partition in 0..self.view.partition_count() {
                    ends.push(self.end_at(partition, timestamp_ms).await?);
                }
                ends
            }
        };
        self.view.scan_as_of(request, &ends).await
    }

    /// The first offset that is younger than a time.
    async fn end_at(&self, partition: u32, timestamp_ms: i64) -> Result<Offset, ViewError> {
        let handle = &self.topic.partitions()[partition as usize];
        let younger = timestamp_ms.saturating_add(1);
        let offset = time_lookup::offset_at_time(handle, younger).await?;
        Ok(offset.unwrap_or_else(|| handle.high_watermark()))
    }
}
