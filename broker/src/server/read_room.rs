//! Room for what somebody reads, from before it is read until it is handed out.
//!
//! - Nobody waits for room while they have some: those who do could wait for each
//!   other.
//! - It is the client that has to get on with a read, and with what comes of it: a
//!   reader whose client takes nothing may never be polled again. What is kept for
//!   later, since the client wants no more yet, is not held against it.

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

    /// Waits until there is room for a read of so many bytes, for one who has kept
    /// nothing.
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
        self.held = Some(waiting.await);
        self.waiting = None;
    }

    /// Has room for a read of so many bytes, if there is.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let budget = &self.memory.sending;
        let bytes = budget.most(bytes);
        let missing = bytes.saturating_sub(self.held.as_ref().map_or(0, Held::bytes));
        if missing == 0 {
            return true;
        }
        if self.waiting.is_some() {
            return false;
        }
        let Some(more) = budget.try_take(missing) else {
            return false;
        };
        let mut more = more.by(&self.connection);
        if let Some(kept) = self.held.take() {
            more.merge(kept);
        }
        self.held = Some(more);
        true
    }

    /// The room of so many bytes that are handed out. Keeps that of others that were
    /// read, and gives the rest back.
    pub(super) fn hand_out(&mut self, bytes: usize, kept: usize) -> Option<Held> {
        let mut held = self.held.take()?;
        self.held = (kept > 0).then(|| held.split(kept));
        held.shrink(bytes);
        (bytes > 0).then_some(held)
    }

    /// Whether there is so much room that some may be kept for later.
    pub(super) fn is_plentiful(&self) -> bool {
        self.memory.sending.is_plentiful()
    }
}
