//! How far a group has come, in memory: what is durable.
//!
//! Where does the next owner of a partition begin? At what the last one committed,
//! also if that was just now. The record of a commit lies in the log before that of
//! the generation in which the partition goes on, and the assignment is told once
//! the latter is durable: by then the commit is durable as well, or was refused.
//!
//! And when nobody has committed anything? Where the first owner was to begin: unless
//! that is the beginning, it is committed before the owner is told.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::group::TopicPartition;
use crate::limits;
use crate::model::Offset;

/// A committed offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// One past the last record that was processed, or where the group began.
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

    /// Takes all but so many places.
    #[cfg(test)]
    pub(super) fn leave(&self, count: usize) {
        let taken = limits::COMMITTED_OFFSETS - count;
        self.0.store(taken, Ordering::Relaxed);
    }

    fn give_back(&self, count: usize) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }
}

/// The offsets of a group. Each takes one place in the room.
#[derive(Debug)]
pub(super) struct Offsets {
    durable: HashMap<TopicPartition, Committed>,
    /// Submitted and not settled.
    in_flight: usize,
    room: OffsetsRoom,
}

/// An offset on its way into the log. It has to be settled.
#[derive(Debug)]
pub(super) struct Submitted {
    pub(super) partition: TopicPartition,
    pub(super) topic_was_known: bool,
    pub(super) committed: Committed,
    /// It took a place in the room, since nothing was durable of its partition.
    took_room: bool,
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
            in_flight: 0,
            room,
        }
    }

    /// What was committed last for a partition.
    pub(super) fn get(&self, partition: TopicPartition) -> Option<Committed> {
        self.durable.get(&partition).copied()
    }

    /// The partitions for which something was committed.
    pub(super) fn partitions(&self) -> impl Iterator<Item = TopicPartition> {
        self.durable.keys().copied()
    }

    /// Whether nothing was ever committed, nor is about to be.
    pub(super) fn is_empty(&self) -> bool {
        self.durable.is_empty() && self.in_flight == 0
    }

    /// An offset is on its way into the log.
    pub(super) fn submit(
        &mut self,
        partition: TopicPartition,
        committed: Committed,
        topic_is_known: bool,
    ) -> Result<Submitted, Full> {
        let took_room = !self.durable.contains_key(&partition);
        if took_room && !self.room.take() {
            return Err(Full);
        }
        self.in_flight += 1;
        Ok(Submitted {
            partition,
            topic_was_known: topic_is_known,
            committed,
            took_room,
        })
    }

    /// What was submitted is to count from now on, or not. To be told in the order of
    /// the submissions.
    pub(super) fn settle(&mut self, submitted: &Submitted, counts: bool) {
        self.in_flight -= 1;
        let &Submitted {
            partition,
            committed,
            took_room,
            ..
        } = submitted;
        let is_new = counts && self.durable.insert(partition, committed).is_none();
        match (is_new, took_room) {
            (false, true) => self.room.give_back(1),
            // It was there when this was submitted, and was forgotten meanwhile.
            (true, false) => _ = self.room.0.fetch_add(1, Ordering::Relaxed),
            (true, true) | (false, false) => {}
        }
    }

    /// Forgets the offsets of partitions; returns of which there were any.
    pub(super) fn forget(
        &mut self,
        is_gone: impl Fn(TopicPartition) -> bool,
    ) -> Vec<TopicPartition> {
        let gone = self.durable.extract_if(|partition, _| is_gone(*partition));
        let gone: Vec<TopicPartition> = gone.map(|(partition, _)| partition).collect();
        self.room.give_back(gone.len());
        gone
    }
}

impl Drop for Offsets {
    fn drop(&mut self) {
        // The broker is stopping when something is in flight still.
        self.room.give_back(self.durable.len());
    }
}
