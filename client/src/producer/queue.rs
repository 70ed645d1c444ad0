//! What waits to be sent and what waits for its answer: the rules, without any
//! I/O. Locked by senders for the time of one copy.
//!
//! - Batches are sent in the order of their first records; a partition's
//!   batches are therefore never out of order.
//! - While fewer than `EAGER` requests are on their way, whatever waits is sent
//!   at once: nothing is gained by holding it. Beyond that, records gather
//!   until a request's worth is there or an answer comes. So batches grow with
//!   the load and latency doesn't suffer when there is none.
//! - Requests are answered in their order. After a lost connection all that
//!   weren't answered are sent again, in the same order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use statecast_proto::batch::BatchBuilder;

use super::batch::{Request, WaitingBatch};
use super::completion::Completion;

/// Requests that may be on their way before small ones are held back: one that
/// the broker is making durable, the next group behind it, and one each on the
/// way there and back. Fewer cost latency when the disk is slow; more cost CPU.
const EAGER: usize = 4;
/// The broker takes no more in one request.
const MAX_BATCHES: usize = 4_096;
/// Builders kept for reuse; their buffers have the size of a batch.
const SPARE_BUILDERS: usize = 16;

/// What decides when something is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// A request's worth: bytes.
    pub(super) batch_bytes: usize,
    /// Requests on their way at most.
    pub(super) max_in_flight: usize,
    /// How long a batch waits for company.
    pub(super) linger: Duration,
}

#[derive(Debug)]
pub(super) struct Queue {
    pace: Pace,
    waiting: VecDeque<WaitingBatch>,
    /// The number of `waiting[0]`; numbers count all batches ever queued.
    first: u64,
    /// Sum of the lengths of `waiting`.
    waiting_bytes: usize,
    in_flight: VecDeque<Flight>,
    /// How many of `in_flight` were sent in this session.
    sent: usize,
    /// Grows with each connection; an outbox of an older one sends no more.
    session: u64,
    /// Nothing new is sent while refused batches wait to be sent again.
    paused: bool,
    /// Batches with numbers below go without lingering.
    urgent_below: u64,
    closed: bool,
    /// Whoever sends, while there is nothing to send.
    sender: Option<Waker>,
    /// The sender also has a timer, that of the oldest batch's linger.
    timed: bool,
    /// The one that was used longest ago comes first: its bytes are the likeliest
    /// to have been acknowledged, and then its buffer is used again.
    spare: VecDeque<BatchBuilder>,
}

#[derive(Debug)]
enum Flight {
    /// Taken from `waiting`, and being encoded outside the lock. At most one.
    Cutting(Vec<Arc<Completion>>),
    Cut(Arc<Request>),
}

impl Flight {
    fn completions(&self) -> Vec<Arc<Completion>> {
        match self {
            Self::Cutting(completions) => completions.clone(),
            Self::Cut(request) => request.iter().map(|b| Arc::clone(&b.completion)).collect(),
        }
    }
}

/// What an outbox is to do next.
#[derive(Debug)]
pub(super) enum Step {
    /// Send this.
    Send(Arc<Request>),
    /// Encode these and hand them to [`Queue::cut`].
    Cut(Vec<WaitingBatch>),
    /// Come back at this time, or when woken.
    At(Instant),
    /// Come back when woken.
    Idle,
    /// Nothing more will come in this session.
    End,
}

#[derive(Debug, PartialEq, Eq)]
enum Readiness {
    Now,
    At(Instant),
    No,
}

impl Queue {
    pub(super) fn new(pace: Pace) -> Self {
        Self {
            pace,
            waiting: VecDeque::new(),
            first: 0,
            waiting_bytes: 0,
            in_flight: VecDeque::new(),
            sent: 0,
            session: 0,
            paused: false,
            urgent_below: 0,
            closed: false,
            sender: None,
            timed: false,
            spare: VecDeque::new(),
        }
    }

    /// Queues a batch; returns its number.
    pub(super) fn add(&mut self, batch: WaitingBatch) -> u64 {
        self.waiting_bytes += batch.len();
        self.waiting.push_back(batch);
        self.first + self.waiting.len() as u64 - 1
    }

    /// The batch with this number, while it waits.
    pub(super) fn waiting(&mut self, number: u64) -> Option<&mut WaitingBatch> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.waiting.get_mut(index)
    }

    /// A waiting batch has grown by this many bytes.
    pub(super) fn grown(&mut self, bytes: usize) {
        self.waiting_bytes += bytes;
    }

    /// Whom to wake, after something was queued: only when it can go now.
    pub(super) fn sender_to_wake(&mut self) -> Option<Waker> {
        if self.sender.is_none() || self.paused {
            return None;
        }
        match self.readiness(None) {
            Readiness::Now => self.sender.take(),
            Readiness::At(_) if !self.timed => self.sender.take(),
            Readiness::At(_) | Readiness::No => None,
        }
    }

    /// What was queued up to now goes without lingering. Returns everything
    /// that isn't settled, and whom to wake.
    pub(super) fn flush(&mut self) -> (Vec<Arc<Completion>>, Option<Waker>) {
        self.urge();
        let waiting = self
            .waiting
            .iter()
            .map(|batch| Arc::clone(&batch.completion));
        let in_flight = self.in_flight.iter().flat_map(Flight::completions);
        let unsettled = in_flight.chain(waiting).collect();
        (unsettled, self.sender_to_wake())
    }

    /// What was queued up to now goes as soon as there is room for a request.
    pub(super) fn urge(&mut self) {
        self.urgent_below = self.first + self.waiting.len() as u64;
    }

    /// No records will be added any more.
    pub(super) fn close(&mut self) -> Option<Waker> {
        self.closed = true;
        self.sender.take()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_empty()
    }

    pub(super) fn spare_builder(&mut self) -> Option<BatchBuilder> {
        self.spare.pop_front()
    }

    /// A new connection: all requests that weren't answered are sent again.
    pub(super) fn begin_session(&mut self) -> u64 {
        self.session += 1;
        self.sent = 0;
        self.paused = false;
        self.session
    }

    /// Parks whoever sends until there is something to do.
    pub(super) fn park(&mut self, waker: &Waker) {
        self.timed = false;
        match &mut self.sender {
            Some(sender) => sender.clone_from(waker),
            None => self.sender = Some(waker.clone()),
        }
    }

    /// What the outbox of this session is to do; it is parked when that is
    /// nothing.
    pub(super) fn step(&mut self, session: u64, now: Instant, waker: &Waker) -> Step {
        if session != self.session {
            return Step::End;
        }
        if let Some(Flight::Cut(request)) = self.in_flight.get(self.sent) {
            self.sent += 1;
            return Step::Send(Arc::clone(request));
        }
        // What an outbox of an earlier session still encodes goes first.
        let wait = self.paused || self.sent < self.in_flight.len();
        if !wait && self.closed && self.waiting.is_empty() {
            return Step::End;
        }
        let ready = if wait {
            Readiness::No
        } else {
            self.readiness(Some(now))
        };
        match ready {
            Readiness::Now => Step::Cut(self.take()),
            Readiness::At(time) => {
                self.park(waker);
                self.timed = true;
                Step::At(time)
            }
            Readiness::No => {
                self.park(waker);
                Step::Idle
            }
        }
    }

    /// Takes back what [`Step::Cut`] gave away, now encoded. False when the
    /// session ended meanwhile: the next one sends it.
    pub(super) fn cut(
        &mut self,
        session: u64,
        request: Arc<Request>,
        builders: Vec<BatchBuilder>,
    ) -> (bool, Option<Waker>) {
        let room = SPARE_BUILDERS.saturating_sub(self.spare.len());
        self.spare.extend(builders.into_iter().take(room));
        let cutting = |flight: &&mut Flight| matches!(flight, Flight::Cutting(_));
        let flight = self.in_flight.iter_mut().rev().find(cutting);
        *flight.expect("what is being cut keeps its place") = Flight::Cut(request);
        if session == self.session {
            self.sent += 1;
            (true, None)
        } else {
            (false, self.sender.take())
        }
    }

    /// The oldest request, now that it was answered. Also whom to wake, since
    /// there is room for another.
    pub(super) fn answered(&mut self) -> Option<(Arc<Request>, Option<Waker>)> {
        if self.sent == 0 {
            return None;
        }
        let Some(Flight::Cut(request)) = self.in_flight.pop_front() else {
            unreachable!("only what was cut is sent");
        };
        self.sent -= 1;
        Some((request, self.sender_to_wake()))
    }

    /// Holds back new requests, because refused batches must go first.
    pub(super) fn pause(&mut self) {
        self.paused = true;
    }

    /// Whether each request was answered; one that is being encoded will be
    /// sent in any case, and isn't.
    pub(super) fn is_answered(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Goes on after a pause, when nothing is left to be sent again.
    pub(super) fn resume(&mut self) -> Option<Waker> {
        if !std::mem::take(&mut self.paused) {
            return None;
        }
        self.sender.take()
    }

    /// Sends these first, and then goes on.
    pub(super) fn resume_with(&mut self, request: Request) -> Option<Waker> {
        assert_eq!(self.sent, 0, "refused batches wait until all is answered");
        if !request.is_empty() {
            self.in_flight.push_front(Flight::Cut(Arc::new(request)));
        }
        self.paused = false;
        self.sender.take()
    }

    /// When the first record of the oldest request or batch came.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let in_flight = self.in_flight.iter().find_map(|flight| match flight {
            Flight::Cut(request) => request.first().map(|batch| batch.since),
            Flight::Cutting(_) => None,
        });
        in_flight.or_else(|| self.waiting.front().map(|batch| batch.since))
    }

    /// Between sessions: takes out what came before this time, or was on its
    /// way in any case.
    pub(super) fn give_up(
        &mut self,
        before: Instant,
        all_in_flight: bool,
    ) -> (Vec<Arc<Request>>, Vec<WaitingBatch>) {
        self.sent = 0;
        let mut requests = Vec::new();
        self.in_flight.retain(|flight| match flight {
            Flight::Cut(request)
                if all_in_flight || request.first().is_some_and(|b| b.since < before) =>
            {
                requests.push(Arc::clone(request));
                false
            }
            _ => true,
        });
        let mut batches = Vec::new();
        while self
            .waiting
            .front()
            .is_some_and(|batch| batch.since < before)
        {
            batches.extend(self.pop());
        }
        (requests, batches)
    }

    /// The next request's worth of batches; it keeps its place among those in
    /// flight.
    fn take(&mut self) -> Vec<WaitingBatch> {
        let mut batches = Vec::new();
        let mut bytes = 0;
        while let Some(batch) = self.waiting.front() {
            bytes += batch.len();
            let over = bytes > self.pace.batch_bytes || batches.len() == MAX_BATCHES;
            if over && !batches.is_empty() {
                break;
            }
            batches.extend(self.pop());
        }
        let completions = batches.iter().map(|batch| Arc::clone(&batch.completion));
        self.in_flight
            .push_back(Flight::Cutting(completions.collect()));
        batches
    }

    fn pop(&mut self) -> Option<WaitingBatch> {
        let batch = self.waiting.pop_front()?;
        self.first += 1;
        self.waiting_bytes -= batch.len();
        Some(batch)
    }

    /// Whether a new request can go; without a time, a lingering one is due
    /// later.
    fn readiness(&self, now: Option<Instant>) -> Readiness {
        let Some(oldest) = self.waiting.front() else {
            return Readiness::No;
        };
        if self.in_flight.len() >= self.pace.max_in_flight {
            return Readiness::No;
        }
        let full = self.waiting_bytes >= self.pace.batch_bytes;
        if full || self.closed || self.first < self.urgent_below {
            return Readiness::Now;
        }
        if self.in_flight.len() >= EAGER {
            return Readiness::No;
        }
        let due = oldest.since + self.pace.linger;
        if self.pace.linger.is_zero() || now.is_some_and(|now| now >= due) {
            Readiness::Now
        } else {
            Readiness::At(due)
        }
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
