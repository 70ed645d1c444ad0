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
//! All rules follow from it. While the first is `Refused`, nothing is sent: a
//! later batch would overtake it. It goes again when none is `Sent`. A request
//! leaves the deque when all its batches are settled, so whoever flushes finds
//! here whatever isn't.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::batch::{CutBatch, Request};
use super::completion::Completion;
use crate::error::Error;

#[derive(Debug)]
enum Flight {
    /// Refused for reasons that may pass; to be sent again.
    Refused(Vec<RefusedBatch>),
    /// Sent over this connection; its answer will come.
    Sent(Arc<Request>),
    /// To be sent, or sent again.
    Unsent(Arc<Request>),
    /// Being encoded outside the lock.
    Cutting(Vec<Arc<Completion>>),
}

impl Flight {
    fn unsent(self) -> Self {
        match self {
            Self::Refused(refused) => {
                let batches = refused.into_iter().map(|refused| refused.batch);
                Self::Unsent(Arc::new(batches.collect()))
            }
            Self::Sent(request) => Self::Unsent(request),
            unsent @ (Self::Unsent(_) | Self::Cutting(_)) => unsent,
        }
    }

    /// What is left of it without its first batches.
    fn without(self, expired: usize) -> Option<Self> {
        let left = match self {
            Self::Refused(mut refused) => Self::Refused(refused.split_off(expired)),
            Self::Unsent(request) => Self::Unsent(Arc::new(request[expired..].to_vec())),
            other => other,
        };
        (!left.batches().is_empty()).then_some(left)
    }

    /// Its batches, each with why it was refused, if it was; none while they
    /// are being encoded.
    fn batches(&self) -> Vec<(&CutBatch, Option<&Error>)> {
        match self {
            Self::Refused(refused) => refused.iter().map(|r| (&r.batch, Some(&r.error))).collect(),
            Self::Sent(request) | Self::Unsent(request) => {
                request.iter().map(|batch| (batch, None)).collect()
            }
            Self::Cutting(_) => Vec::new(),
        }
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
        self.batch.partition == later.partition && self.batch.topic == later.topic
    }
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

    pub(super) fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// Whether refused batches hold everything else back.
    pub(super) fn is_paused(&self) -> bool {
        matches!(self.flights.front(), Some(Flight::Refused(_)))
    }

    pub(super) fn next(&self) -> Next {
        if self.is_paused() {
            return Next::Nothing;
        }
        match self.flights.back() {
            None | Some(Flight::Sent(_)) => Next::New,
            Some(_) => match self.flights.get(self.first_unsent()) {
                Some(Flight::Unsent(_)) => Next::Send,
                _ => Next::Nothing,
            },
        }
    }

    /// The oldest that is to be sent; it is sent now.
    pub(super) fn send(&mut self) -> Option<Arc<Request>> {
        let at = self.first_unsent();
        let Some(Flight::Unsent(request)) = self.flights.get(at) else {
            return None;
        };
        let request = Arc::clone(request);
        self.flights[at] = Flight::Sent(Arc::clone(&request));
        Some(request)
    }

    /// Sends the last one, which was just encoded. False when others go first:
    /// refused ones, which may be more by now.
    pub(super) fn send_last(&mut self) -> bool {
        let is_first = self.first_unsent() + 1 == self.flights.len();
        is_first && self.next() == Next::Send && self.send().is_some()
    }

    /// A new request, whose batches with these completions are being encoded.
    pub(super) fn begin(&mut self, completions: Vec<Arc<Completion>>) {
        debug_assert_eq!(self.next(), Next::New, "requests are taken in turn");
        self.flights.push_back(Flight::Cutting(completions));
    }

    /// The request that was being encoded is ready. False when it was given up
    /// meanwhile.
    pub(super) fn cut(&mut self, request: Arc<Request>) -> bool {
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
    /// this later batch was appended.
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
            Some(Flight::Refused(refused)) if self.awaited().is_none() => {
                refused.first().map(|refused| &refused.error)
            }
            _ => None,
        }
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

    /// Takes out the awaited request, or all that were sent.
    pub(super) fn fail_sent(&mut self, all: bool) -> Vec<Arc<Request>> {
        let mut failed = Vec::new();
        self.flights.retain(|flight| match flight {
            Flight::Sent(request) if all || failed.is_empty() => {
                failed.push(Arc::clone(request));
                false
            }
            _ => true,
        });
        failed
    }

    /// Takes out the batches from before this time that no answer will come
    /// for, with why they were refused last, if they were.
    pub(super) fn expire(&mut self, before: Instant) -> Vec<(CutBatch, Option<Error>)> {
        let mut expired = Vec::new();
        let flights = std::mem::take(&mut self.flights);
        let left = flights.into_iter().filter_map(|flight| match flight {
            Flight::Sent(_) | Flight::Cutting(_) => Some(flight),
            Flight::Refused(_) | Flight::Unsent(_) => {
                let batches = flight.batches();
                // Those of a request are in the order of their first records.
                let old = batches.partition_point(|(batch, _)| batch.since < before);
                let taken = batches[..old].iter();
                expired.extend(taken.map(|(batch, error)| ((*batch).clone(), error.cloned())));
                if old == 0 {
                    Some(flight)
                } else {
                    flight.without(old)
                }
            }
        });
        self.flights = left.collect();
        expired
    }

    /// Whether an answer is awaited for a batch from before this time.
    pub(super) fn is_overdue(&self, before: Instant) -> bool {
        let awaited = self.awaited().and_then(|request| request.first());
        awaited.is_some_and(|batch| batch.since < before)
    }

    /// Of all batches, oldest first.
    pub(super) fn completions(&self) -> impl Iterator<Item = Arc<Completion>> {
        self.flights.iter().flat_map(|flight| match flight {
            Flight::Cutting(completions) => completions.clone(),
            _ => {
                let batches = flight.batches().into_iter();
                batches.map(|(b, _)| Arc::clone(&b.completion)).collect()
            }
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
