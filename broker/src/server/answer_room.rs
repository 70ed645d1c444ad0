//! Room for the answers of one stream, or for the commits of one member and their
//! answers: while they wait for the log, or for a client that doesn't read them.
//!
//! A little is free, so that a stream with few requests under way never asks. More
//! is taken in steps, and given back in steps.

use std::sync::Arc;

use super::call::Call;
use super::memory::Held;
use crate::limits;

/// What a small answer takes is nothing once it is encoded: bytes.
const LARGE: usize = 4 << 10;

/// What the answers of a stream take.
#[derive(Debug)]
pub(super) struct AnswerRoom {
    call: Arc<Call>,
    used: usize,
    held: Option<Held>,
}

impl AnswerRoom {
    pub(super) fn new(call: Arc<Call>) -> AnswerRoom {
        AnswerRoom {
            call,
            used: 0,
            held: None,
        }
    }

    /// Uses so many bytes. If there is no room for them yet, what brings it.
    pub(super) fn add(&mut self, bytes: usize) -> Option<impl Future<Output = Held> + use<>> {
        self.used += bytes;
        let missing = self.used.saturating_sub(self.room());
        if missing == 0 {
            return None;
        }
        let call = self.call.clone();
        let step = missing.next_multiple_of(limits::ANSWER_ROOM_STEP);
        Some(async move { call.take(&call.memory.answering, step).await })
    }

    /// Has more room.
    pub(super) fn grow(&mut self, more: Held) {
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
    }

    /// Uses so many bytes less: an answer is handed to the transport. A large one
    /// keeps its room until it was sent.
    pub(super) fn hand_over(&mut self, bytes: usize) {
        if bytes >= LARGE
            && let Some(held) = &mut self.held
        {
            let room = held.split(bytes);
            self.call.send(room);
        }
        self.remove(bytes);
    }

    /// Uses so many bytes less.
    pub(super) fn remove(&mut self, bytes: usize) {
        self.used -= bytes;
        // Not at once: the next request is likely to be as large.
        let spare = self.room().saturating_sub(self.used);
        if let Some(held) = &mut self.held
            && spare >= 2 * limits::ANSWER_ROOM_STEP
        {
            held.shrink(held.bytes() - limits::ANSWER_ROOM_STEP);
        }
        if self.used == 0 {
            self.held = None;
        }
    }

    fn room(&self) -> usize {
        limits::FREE_ANSWER_ROOM + self.held.as_ref().map_or(0, Held::bytes)
    }
}
