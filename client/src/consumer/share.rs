//! A partition from when it was assigned until it is gone, and how far it is. What
//! holds of it is said where all of them are.

use std::sync::Arc;

use super::event::TopicPartition;
use super::shares::Waiter;

/// A partition that the member has.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) topic: Arc<str>,
    pub(super) partition: u32,
    pub(super) generation: u64,
    /// Where reading began.
    pub(super) start: u64,
    /// What the broker sends next.
    pub(super) next: u64,
    /// One past what was handed out.
    pub(super) handed: u64,
    /// Everything before it was processed.
    pub(super) processed: u64,
    /// What the last commit that was sent says; `None` when nothing is
    /// committed at all.
    pub(super) sent: Option<u64>,
    /// What the broker has answered.
    pub(super) committed: Option<u64>,
    /// Commits that weren't answered yet.
    pub(super) on_their_way: u32,
    /// Somebody asked for the commit of where it began.
    pub(super) explicit: bool,
    /// In which generation it was decided that it is to be given back, if it is.
    pub(super) revoked: Option<u64>,
    /// Who waits for a commit that wasn't sent yet.
    pub(super) waiters: Vec<Waiter>,
}

impl Share {
    pub(super) fn place(&self) -> TopicPartition {
        TopicPartition {
            topic: Arc::clone(&self.topic),
            partition: self.partition,
        }
    }

    /// Whether there is something to commit.
    pub(super) fn is_dirty(&self) -> bool {
        Some(self.processed) > self.sent && (self.processed > self.start || self.explicit)
    }

    /// Whether it can be given back.
    pub(super) fn is_settled(&self) -> bool {
        self.handed == self.processed && !self.is_dirty() && self.on_their_way == 0
    }
}
