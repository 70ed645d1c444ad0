//! Room for what somebody reads, from before it is read until it is handed out.
//!
//! Nobody waits for room while they have some: those who do could wait for each
//! other.

use std::sync::Arc;

use super::connection::Connection;
use super::memory::{Held, Memory, Waiting};

/// The room of one reader. Waiting for it may be given up at any time, and keeps its
/// place in line.
pub(super) struct ReadRoom {
    memory: Arc<Memory>,
    connection: Arc<Connection>,
    held: Option<Held>,
    waiting: Option<Waiting>,
}

impl ReadRoom {
    pub(super) fn new(memory: Arc<Memory>, connection: Arc<Connection>) -> ReadRoom {
        ReadRoom {
            memory,
            connection,
            held: None,
            waiting: None,
        }
    }

    /// Waits until there is room for so many bytes, for one who has none.
    pub(super) async fn wait(&mut self, bytes: usize) {
        if self.grow(bytes) {
            return;
        }
        // Less than is wanted is of no use, and others may wait for it.
        self.held = None;
        let (budget, connection) = (&self.memory.sending, &self.connection);
        let waiting = self
            .waiting
            .get_or_insert_with(|| budget.wait(bytes, connection));
        let mut granted = waiting.await;
        self.waiting = None;
        // It isn't up to the client until it is handed out.
        let bytes = granted.bytes();
        self.held = Some(granted.split(bytes));
    }

    /// Has room for so many bytes, if there is.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let budget = &self.memory.sending;
        let bytes = budget.most(bytes);
        let missing = bytes.saturating_sub(self.bytes());
        if missing == 0 {
            return true;
        }
        if self.waiting.is_some() {
            return false;
        }
        let Some(more) = budget.try_take(missing) else {
            return false;
        };
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        true
    }

    /// Takes out what is handed out with so many bytes.
    pub(super) fn split(&mut self, bytes: usize) -> Option<Held> {
        let held = self.held.as_mut().filter(|_| bytes > 0);
        held.map(|held| held.split(bytes))
    }

    /// Gives back all but so many bytes.
    pub(super) fn keep(&mut self, bytes: usize) {
        match &mut self.held {
            Some(held) if bytes > 0 => held.shrink(bytes),
            _ => self.held = None,
        }
    }

    /// Whether there is so much room that some may be kept for later.
    pub(super) fn is_plentiful(&self) -> bool {
        self.memory.sending.is_plentiful()
    }

    fn bytes(&self) -> usize {
        self.held.as_ref().map_or(0, Held::bytes)
    }
}
