//! Notices that a topic which is read whole got more partitions.

use std::sync::Arc;

use crate::broker::{Broker, Topic};
use crate::partition::PartitionHandle;
use crate::server::reading::Opened;

/// A topic that is read whole.
#[derive(Debug)]
pub(super) struct Follow {
    broker: Broker,
    topic: Arc<Topic>,
}

/// What became of it.
pub(super) enum Change {
    /// There are more partitions; they are read from their beginning.
    Grown(Vec<Opened>),
    /// Something else was altered.
    Altered,
    /// It was deleted; its partitions will say so.
    Deleted,
}

impl Follow {
    /// Follows a topic whose partitions are being opened.
    pub(super) fn new(broker: Broker, topic: Arc<Topic>) -> Follow {
        Follow { broker, topic }
    }

    /// Waits for a change.
    pub(super) async fn changed(&self) {
        self.topic.retired().await;
    }

    /// What has changed since it was looked at last, if anything.
    pub(super) fn take_change(&mut self) -> Option<Change> {
        if !self.topic.is_retired() {
            return None;
        }
        let Ok(topic) = self.broker.topic(self.topic.meta().name.as_str()) else {
            return Some(Change::Deleted);
        };
        let first = |topic: &Topic| topic.partitions().first().map(PartitionHandle::id);
        if first(&topic) != first(&self.topic) {
            // Another one of the same name.
            return Some(Change::Deleted);
        }
        let known = self.topic.partition_count();
        let added = (known..).zip(&topic.partitions()[known as usize..]);
        let opened = added.map(|(number, partition)| {
            let position = partition.range().log_start_offset;
            Opened::new(&topic, number, partition, position)
        });
        let opened: Vec<Opened> = opened.collect();
        self.topic = topic;
        Some(match opened.is_empty() {
            true => Change::Altered,
            false => Change::Grown(opened),
        })
    }
}
