//! The topics that a producer knows, and which partition a record goes to.

use std::collections::HashMap;
use std::sync::Arc;

use statecast_proto::partition_for_key;

use super::sequences::Slot;

/// A partition of which no batch is open.
const NONE: Open = Open {
    batch: u64::MAX,
    slot: None,
};

/// What the next record of a partition needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Open {
    /// The number of the batch that takes it, if that still waits.
    pub(super) batch: u64,
    /// Where the partition's numbers are, once it got a record.
    pub(super) slot: Option<Slot>,
}

#[derive(Debug)]
pub(super) struct KnownTopic {
    name: Arc<str>,
    /// Of each partition.
    open: Vec<Open>,
    /// Where records without a key go until the batch there is full or cut.
    sticky: u32,
    /// The largest batch: bytes.
    batch_bytes: usize,
}

impl KnownTopic {
    /// `seed` decides where the first record without a key goes, so that many
    /// producers don't all begin at the same partition.
    pub(super) fn new(name: &str, partitions: u32, batch_bytes: usize, seed: u32) -> Self {
        let partitions = partitions.max(1);
        Self {
            name: name.into(),
            open: vec![NONE; partitions as usize],
            sticky: seed % partitions,
            batch_bytes,
        }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) fn batch_bytes(&self) -> usize {
        self.batch_bytes
    }

    pub(super) fn partitions(&self) -> u32 {
        u32::try_from(self.open.len()).unwrap_or(u32::MAX)
    }

    /// Takes over what may have changed. Partitions are only ever added.
    fn update(&mut self, learnt: &Self) {
        let partitions = self.open.len().max(learnt.open.len());
        self.open.resize(partitions, NONE);
        self.batch_bytes = learnt.batch_bytes;
    }

    /// The partition of the key; or the sticky one, which moves on when its
    /// batch has no room for the record, or waits no more.
    pub(super) fn partition_for(
        &mut self,
        key: Option<&[u8]>,
        has_room: impl FnOnce(u64) -> bool,
    ) -> u32 {
        let partitions = self.partitions();
        if let Some(key) = key {
            return partition_for_key(key, partitions);
        }
        if !has_room(self.open[self.sticky as usize].batch) {
            self.sticky = (self.sticky + 1) % partitions;
        }
        self.sticky
    }

    /// What the next record of a partition needs; `None` for a partition that
    /// doesn't exist.
    pub(super) fn open(&mut self, partition: u32) -> Option<&mut Open> {
        self.open.get_mut(partition as usize)
    }
}

/// The known topics by name. Most producers write to one topic for long, or go round
/// some, so the last one is looked at first, and then the one behind it.
#[derive(Debug, Default)]
pub(super) struct KnownTopics {
    topics: Vec<KnownTopic>,
    by_name: HashMap<Arc<str>, usize>,
    last: usize,
}

impl KnownTopics {
    pub(super) fn get(&mut self, name: &str) -> Option<&mut KnownTopic> {
        let is_at = |at: &usize| {
            let topic = self.topics.get(*at);
            topic.is_some_and(|topic| *topic.name == *name)
        };
        let next = match self.last + 1 {
            end if end >= self.topics.len() => 0,
            next => next,
        };
        self.last = match [self.last, next].into_iter().find(is_at) {
            Some(near) => near,
            None => *self.by_name.get(name)?,
        };
        self.topics.get_mut(self.last)
    }

    pub(super) fn learn(&mut self, topic: KnownTopic) {
        if let Some(&index) = self.by_name.get(&topic.name) {
            self.topics[index].update(&topic);
        } else {
            self.by_name
                .insert(Arc::clone(&topic.name), self.topics.len());
            self.topics.push(topic);
        }
    }

    /// The next record asks the broker again: the topic isn't what it was.
    pub(super) fn forget(&mut self, name: &str) {
        let Some(index) = self.by_name.remove(name) else {
            return;
        };
        self.topics.swap_remove(index);
        if let Some(moved) = self.topics.get(index) {
            self.by_name.insert(Arc::clone(&moved.name), index);
        }
    }

    pub(super) fn names(&self) -> Vec<Arc<str>> {
        self.by_name.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sticky_partition_moves_on_when_its_batch_was_sent() {
        let mut topic = KnownTopic::new("t", 3, 1024, 1);
        assert_eq!(topic.partition_for(None, |_| true), 1);
        assert_eq!(topic.partition_for(None, |_| true), 1);
        assert_eq!(topic.partition_for(None, |_| false), 2);
        assert_eq!(topic.partition_for(None, |_| false), 0);
    }

    #[test]
    fn keys_ignore_the_sticky_partition() {
        let mut topic = KnownTopic::new("t", 16, 1024, 0);
        let partition = topic.partition_for(Some(b"key"), |_| true);
        assert_eq!(partition, partition_for_key(b"key", 16));
    }

    #[test]
    fn topics_are_found_after_others_were_forgotten() {
        let mut topics = KnownTopics::default();
        for (name, partitions) in [("a", 1), ("b", 2), ("c", 3)] {
            topics.learn(KnownTopic::new(name, partitions, 1024, 0));
        }
        assert_eq!(topics.get("c").unwrap().partitions(), 3);
        topics.forget("a");
        assert!(topics.get("a").is_none());
        assert_eq!(topics.get("b").unwrap().partitions(), 2);
        assert_eq!(topics.get("c").unwrap().partitions(), 3);
        topics.forget("c");
        assert!(topics.get("c").is_none());
    }

    #[test]
    fn a_topic_learnt_again_has_its_new_limit_and_never_fewer_partitions() {
        let mut topics = KnownTopics::default();
        topics.learn(KnownTopic::new("t", 4, 1024, 0));
        topics.learn(KnownTopic::new("t", 8, 1024, 0));
        topics.learn(KnownTopic::new("t", 2, 512, 0));
        let topic = topics.get("t").unwrap();
        assert_eq!((topic.partitions(), topic.batch_bytes()), (8, 512));
    }
}
