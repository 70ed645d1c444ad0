//! The requests that were taken from the queue and aren't settled: one deque,
//! oldest first, in which the state of each is written down and nowhere else.
//!
//! The states are always in this order, since requests are sent and answered in
//! turn:
//!
//! ```text
//! Refused … Sent … Unsent … Cutting (at most one)
//! ```
//!
//! All rules follow from it. While the first is `Refused`, nothing is sent but what
//! has a number, and was sent before: all else would overtake it. It goes again
//! when none is `Sent`, and then all that has a number has got an answer. A request
//! leaves the deque when all its batches are settled, so whoever flushes finds
//! here whatever isn't.
//!
//! A batch that may have been appended, and is too old, is *given up*: its records
//! are told so, but it is sent until it is answered for as long as another such
//! batch of its partition isn't given up. If that one were sent without it, and
//! the broker had neither, it would have to get another number while both may
//! yet arrive under their old ones.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::batch::{CutBatch, Request};
use super::completion::Completion;
use super::renumbering::{Fate, Findings};
use super::sequences::Sequences;
use crate::error::Error;

#[derive(Debug)]
enum Flight {
    /// Refused for reasons that may pass; to be sent again.
    Refused(Vec<RefusedBatch>),
    /// Sent over this connection; its answer will come.
    Sent(Arc<Request>),
    /// To be sent, or sent again.
    Unsent(Request),
    /// Being encoded outside the lock.
    Cutting(Vec<Arc<Completion>>),
}

impl Flight {
    /// What it is when the connection is gone.
    fn unsent(self) -> Self {
        match self {
            Self::Refused(refused) => {
                let batches = refused.into_iter().map(|refused| refused.batch);
                Self::Unsent(batches.collect())
            }
            Self::Sent(request) => {
                let mut request = Arc::unwrap_or_clone(request);
                request.iter_mut().for_each(CutBatch::lose);
                Self::Unsent(request)
            }
            unsent @ (Self::Unsent(_) | Self::Cutting(_)) => unsent,
        }
    }

    /// Its batches, each with why it was refused, if it was; none while they
    /// are being encoded.
    fn batches(&self) -> impl Iterator<Item = (&CutBatch, Option<&Error>)> {
        let (refused, others) = match self {
            Self::Refused(refused) => (&refused[..], &[][..]),
            Self::Sent(request) => (&[][..], &request[..]),
            Self::Unsent(request) => (&[][..], &request[..]),
            Self::Cutting(_) => (&[][..], &[][..]),
        };
        let refused = refused.iter().map(|r| (&r.batch, Some(&r.error)));
        refused.chain(others.iter().map(|batch| (batch, None)))
    }

    fn is_settled(&self) -> bool {
        !matches!(self, Self::Cutting(_)) && self.batches().all(|(batch, _)| batch.given_up)
    }
}

/// A batch that was refused for a reason that may pass.
#[derive(Debug)]
pub(super) struct RefusedBatch {
    pub(super) batch: CutBatch,
    pub(super) error: Error,
}

impl RefusedBatch {
    /// Whether a later batch that was appended took its place.
    pub(super) fn is_overtaken_by(&self, later: &CutBatch) -> bool {
        self.batch.slot == later.slot
    }
}

/// Whether it was sent before, under numbers.
fn has_numbers(request: &Request) -> bool {
    request.iter().any(|batch| batch.number.is_some())
}

/// What can be sent, as far as requests are concerned that were taken already.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The oldest that is to be sent.
    Send,
    /// A request from the queue.
    New,
    /// Nothing now: refused batches go first, or one that is being encoded.
    Nothing,
}

#[derive(Debug, Default)]
pub(super) struct Flights {
    flights: VecDeque<Flight>,
}

impl Flights {
    pub(super) fn len(&self) -> usize {
        self.flights.len()
    }

    /// Whether nobody waits for any of them.
    pub(super) fn is_settled(&self) -> bool {
        self.flights.iter().all(Flight::is_settled)
    }

    /// Whether refused batches hold everything else back.
    pub(super) fn is_paused(&self) -> bool {
        matches!(self.flights.front(), Some(Flight::Refused(_)))
    }

    pub(super) fn next(&self) -> Next {
        let paused = self.is_paused();
        match self.flights.get(self.first_unsent()) {
            Some(Flight::Unsent(request)) if !paused || has_numbers(request) => Next::Send,
            None if !paused => Next::New,
            _ => Next::Nothing,
        }
    }

    /// The oldest that is to be sent; it is sent now, and numbered if it wasn't.
    pub(super) fn send(&mut self, sequences: &mut Sequences) -> Option<Arc<Request>> {
        let at = self.first_unsent();
        let Some(Flight::Unsent(request)) = self.flights.get_mut(at) else {
            return None;
        };
        let mut request = std::mem::take(request);
        for batch in &mut request {
            sequences.number(batch);
        }
        let request = Arc::new(request);
        self.flights[at] = Flight::Sent(Arc::clone(&request));
        Some(request)
    }

    /// Sends the last one, which was just encoded; not when others go first:
    /// refused ones, which may be more by now.
    pub(super) fn send_last(&mut self, sequences: &mut Sequences) -> Option<Arc<Request>> {
        let is_first = self.first_unsent() + 1 == self.flights.len();
        if is_first && self.next() == Next::Send {
            self.send(sequences)
        } else {
            None
        }
    }

    /// A new request, whose batches with these completions are being encoded.
    pub(super) fn begin(&mut self, completions: Vec<Arc<Completion>>) {
        debug_assert_eq!(self.next(), Next::New, "requests are taken in turn");
        self.flights.push_back(Flight::Cutting(completions));
    }

    /// The request that was being encoded is ready. False when it was given up
    /// meanwhile.
    pub(super) fn cut(&mut self, request: Request) -> bool {
        match self.flights.back_mut() {
            Some(cutting @ Flight::Cutting(_)) => {
                *cutting = Flight::Unsent(request);
                true
            }
            _ => false,
        }
    }

    /// The request that the next answer is for.
    pub(super) fn awaited(&self) -> Option<&Arc<Request>> {
        match self.flights.get(self.first_sent()) {
            Some(Flight::Sent(request)) => Some(request),
            _ => None,
        }
    }

    /// The awaited request was answered and all its batches are settled, save
    /// those that were refused for now.
    pub(super) fn answered(&mut self, refused: Vec<RefusedBatch>) {
        let at = self.first_sent();
        debug_assert!(matches!(self.flights.get(at), Some(Flight::Sent(_))));
        if refused.is_empty() {
            self.flights.remove(at);
        } else {
            self.flights[at] = Flight::Refused(refused);
        }
    }

    /// Takes out what can't be sent again without changing the order, because
    /// this later batch was appended; it had no number, then.
    pub(super) fn overtake(&mut self, later: &CutBatch) -> Vec<RefusedBatch> {
        let mut overtaken = Vec::new();
        self.flights.retain_mut(|flight| match flight {
            Flight::Refused(refused) => {
                overtaken.extend(refused.extract_if(.., |r| r.is_overtaken_by(later)));
                !refused.is_empty()
            }
            _ => true,
        });
        overtaken
    }

    /// Why the first batch was refused, when all was answered that was sent: it
    /// is time to think of sending it again.
    pub(super) fn held_by(&self) -> Option<&Error> {
        match self.flights.front() {
            Some(Flight::Refused(refused))
                if self.awaited().is_none() && self.next() == Next::Nothing =>
            {
                refused.first().map(|refused| &refused.error)
            }
            _ => None,
        }
    }

    /// Takes out what was given up and nothing depends on any more, and takes
    /// their numbers from batches that can't be appended under them; when all was
    /// answered that was sent, or nothing is. Returns those that fail.
    pub(super) fn renumber(&mut self, sequences: &mut Sequences) -> Vec<(CutBatch, Error)> {
        debug_assert!(self.awaited().is_none(), "all that was sent is answered");
        let mut findings = Findings::default();
        for (batch, refused) in self.flights.iter().flat_map(Flight::batches) {
            findings.add(batch, refused);
        }
        let renumbered = findings.settle(sequences);
        let mut failed = Vec::new();
        if !renumbered.is_empty() {
            self.retain(|batch, _| match renumbered.treat(batch) {
                Fate::Keep => true,
                Fate::Drop => false,
                Fate::Fail(error) => {
                    failed.push((batch.clone(), error));
                    false
                }
            });
        }
        failed
    }

    /// Refused batches are sent again, those of one request in one request.
    pub(super) fn resume(&mut self) {
        if self.held_by().is_some() {
            self.send_again();
        }
    }

    /// Everything is to be sent again: the connection is gone.
    pub(super) fn send_again(&mut self) {
        let flights = std::mem::take(&mut self.flights);
        self.flights = flights.into_iter().map(Flight::unsent).collect();
    }

    /// Takes out the awaited request, which the broker refused as a whole.
    pub(super) fn fail_awaited(&mut self, sequences: &mut Sequences) -> Vec<CutBatch> {
        let at = self.first_sent();
        let Some(Flight::Sent(request)) = self.flights.get(at) else {
            return Vec::new();
        };
        let mut failed = request.to_vec();
        self.flights.remove(at);
        for batch in &failed {
            sequences.doubt(batch);
        }
        failed.retain(|batch| !batch.given_up);
        failed
    }

    /// Gives up all that was sent: nobody knows what became of it.
    pub(super) fn fail_sent(&mut self) -> Vec<CutBatch> {
        let mut failed = Vec::new();
        let flights = std::mem::take(&mut self.flights);
        let given_up = flights.into_iter().map(|flight| {
            let was_sent = matches!(flight, Flight::Sent(_));
            let mut flight = flight.unsent();
            if let Flight::Unsent(request) = &mut flight
                && was_sent
            {
                failed.extend(request.iter_mut().filter_map(CutBatch::give_up));
            }
            flight
        });
        self.flights = given_up.collect();
        self.retain(|batch, _| !batch.given_up || batch.is_lost());
        failed
    }

    /// Gives up the batches from before this time that no answer will come for.
    /// Returns them, with why they were refused last, if they were.
    pub(super) fn expire(&mut self, before: Instant) -> Vec<(CutBatch, Option<Error>)> {
        let mut expired = Vec::new();
        self.retain(|batch, refused| {
            if batch.since < before {
                let batch = batch.give_up();
                expired.extend(batch.map(|batch| (batch, refused.cloned())));
            }
            !batch.given_up || batch.is_lost()
        });
        expired
    }

    /// Keeps of the batches that aren't on their way those for which this is
    /// true, given why they were refused last, if they were.
    fn retain(&mut self, mut keep: impl FnMut(&mut CutBatch, Option<&Error>) -> bool) {
        self.flights.retain_mut(|flight| match flight {
            Flight::Refused(refused) => {
                refused.retain_mut(|refused| keep(&mut refused.batch, Some(&refused.error)));
                !refused.is_empty()
            }
            Flight::Unsent(request) => {
                request.retain_mut(|batch| keep(batch, None));
                !request.is_empty()
            }
            Flight::Sent(_) | Flight::Cutting(_) => true,
        });
    }

    /// Whether an answer is awaited for a batch from before this time, by anybody.
    pub(super) fn is_overdue(&self, before: Instant) -> bool {
        let sent = self.flights.iter().skip(self.first_sent());
        let sent = sent.take_while(|flight| matches!(flight, Flight::Sent(_)));
        let mut awaited = sent.flat_map(Flight::batches).map(|(batch, _)| batch);
        // They are in the order of their first records.
        let oldest = awaited.find(|batch| !batch.given_up);
        oldest.is_some_and(|batch| batch.since < before)
    }

    /// Of all batches that aren't settled, oldest first.
    pub(super) fn completions(&self) -> impl Iterator<Item = Arc<Completion>> {
        self.flights.iter().flat_map(|flight| {
            let cutting = match flight {
                Flight::Cutting(completions) => &completions[..],
                _ => &[],
            };
            let batches = flight.batches().map(|(batch, _)| batch);
            let batches = batches.filter(|batch| !batch.given_up);
            let completions = batches.map(|batch| &batch.completion);
            cutting.iter().chain(completions).map(Arc::clone)
        })
    }

    pub(super) fn clear(&mut self) {
        self.flights.clear();
    }

    fn first_sent(&self) -> usize {
        self.flights
            .partition_point(|flight| matches!(flight, Flight::Refused(_)))
    }

    fn first_unsent(&self) -> usize {
        self.flights
            .partition_point(|flight| matches!(flight, Flight::Refused(_) | Flight::Sent(_)))
    }
}

#[cfg(test)]
#[path = "flights_tests.rs"]
mod tests;
