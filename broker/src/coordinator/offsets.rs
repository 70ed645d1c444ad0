//! How far a group has come, in memory.
//!
//! What is submitted and what is durable are kept apart. Whoever gets a partition
//! next begins at what was *submitted* for it last: its former owner has processed
//! what lies before, so nothing is left out, and nothing waits for a flush; should
//! the commit fail, or the broker with it, records come again, as they do after
//! every crash. What those who look at the group are shown is durable.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::group::TopicPartition;
use crate::limits;
use crate::model::{Offset, TopicId};

/// A committed offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// One past the last record that was processed.
    pub offset: Offset,
    /// When it was committed: milliseconds since the Unix epoch.
    pub at_ms: i64,
}

/// Room for the offsets of all groups.
#[derive(Debug, Clone, Default)]
pub(super) struct OffsetsRoom(Arc<AtomicUsize>);

impl OffsetsRoom {
    fn take(&self) -> bool {
        let take = |count| (count < limits::COMMITTED_OFFSETS).then_some(count + 1);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }

    fn give_back(&self, count: usize) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }
}

/// The offsets of a group. Each partition that has any takes one place in the room.
#[derive(Debug)]
pub(super) struct Offsets {
    durable: HashMap<TopicPartition, Committed>,
    /// Submitted last, with the number of the submission, until that is settled.
    pending: HashMap<TopicPartition, (u64, Committed)>,
    submissions: u64,
    room: OffsetsRoom,
}

/// An offset on its way into the log.
#[derive(Debug)]
pub(super) struct Submitted {
    partition: TopicPartition,
    committed: Committed,
    number: u64,
}

/// There is no room for more offsets.
#[derive(Debug)]
pub(super) struct Full;

impl Offsets {
    /// Those that are durable. They are let in even if there is no room.
    pub(super) fn new(durable: HashMap<TopicPartition, Committed>, room: OffsetsRoom) -> Offsets {
        room.0.fetch_add(durable.len(), Ordering::Relaxed);
        Offsets {
            durable,
            pending: HashMap::new(),
            submissions: 0,
            room,
        }
    }

    /// Where the next owner of a partition begins.
    pub(super) fn submitted(&self, partition: TopicPartition) -> Option<Offset> {
        let pending = self
            .pending
            .get(&partition)
            .map(|(_, committed)| committed.offset);
        pending.or_else(|| Some(self.durable.get(&partition)?.offset))
    }

    /// What is durable of a partition.
    pub(super) fn durable(&self, partition: TopicPartition) -> Option<Committed> {
        self.durable.get(&partition).copied()
    }

    /// The partitions of which something is durable.
    pub(super) fn partitions(&self) -> impl Iterator<Item = TopicPartition> {
        self.durable.keys().copied()
    }

    /// Whether nothing was ever committed, nor is about to be.
    pub(super) fn is_empty(&self) -> bool {
        self.durable.is_empty() && self.pending.is_empty()
    }

    /// An offset is on its way into the log.
    pub(super) fn submit(
        &mut self,
        partition: TopicPartition,
        committed: Committed,
    ) -> Result<Submitted, Full> {
        let known = self.pending.contains_key(&partition) || self.durable.contains_key(&partition);
        if !known && !self.room.take() {
            return Err(Full);
        }
        self.submissions += 1;
        let number = self.submissions;
        self.pending.insert(partition, (number, committed));
        Ok(Submitted {
            partition,
            committed,
            number,
        })
    }

    /// What was submitted is durable, or has failed. To be told in the order of the
    /// submissions.
    pub(super) fn settle(&mut self, submitted: &Submitted, durable: bool) {
        let &Submitted {
            partition,
            committed,
            number,
        } = submitted;
        // Absent when it was forgotten meanwhile: then that is in the log behind.
        let Some(&(last, _)) = self.pending.get(&partition) else {
            return;
        };
        if last == number {
            self.pending.remove(&partition);
        }
        if durable {
            self.durable.insert(partition, committed);
        } else if last == number && !self.durable.contains_key(&partition) {
            self.room.give_back(1);
        }
    }

    /// Forgets the offsets of topics; returns which there were.
    pub(super) fn forget(
        &mut self,
        mut is_gone: impl FnMut(TopicId) -> bool,
    ) -> BTreeSet<TopicPartition> {
        let mut is_gone = |partition: &TopicPartition| is_gone(partition.topic);
        let durable = self
            .durable
            .extract_if(|partition, _| is_gone(partition))
            .map(|(partition, _)| partition);
        let mut gone: BTreeSet<TopicPartition> = durable.collect();
        let pending = self
            .pending
            .extract_if(|partition, _| is_gone(partition))
            .map(|(partition, _)| partition);
        gone.extend(pending);
        self.room.give_back(gone.len());
        gone
    }
}

impl Drop for Offsets {
    fn drop(&mut self) {
        let pending = self.pending.keys();
        let only_pending = pending.filter(|partition| !self.durable.contains_key(partition));
        self.room
            .give_back(self.durable.len() + only_pending.count());
    }
}
