//! What waits to be sent and what waits for its answer: the rules, without any
//! I/O. Locked by senders for the time of one copy.
//!
//! - Batches are sent in the order of their first records; a partition's
//!   batches are therefore never out of order.
//! - While fewer than `EAGER` requests are on their way, whatever waits is sent
//!   at once: nothing is gained by holding it. Beyond that, records gather
//!   until a request's worth is there or an answer comes. So batches grow with
//!   the load and latency doesn't suffer when there is none.
//! - What became of requests that were taken from here is in `flights`: they
//!   are answered in their order, and sent again in their order after a lost
//!   connection or a refusal. `sequences` has the numbers that keep them from being
//!   appended twice.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use statecast_proto::batch::BatchBuilder;

use super::batch::{CutBatch, Request, WaitingBatch};
use super::completion::Completion;
use super::flights::{Flights, Next, RefusedBatch};
use super::sequences::{Identity, Sequences, Slot, Wanted};
use crate::error::Error;

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
    flights: Flights,
    sequences: Sequences,
    /// Grows with each connection; an outbox of an older one sends no more.
    session: u64,
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

/// What became of batches that waited for too long.
#[derive(Debug, Default)]
pub(super) struct Expired {
    /// With why they were refused last, if they were.
    pub(super) cut: Vec<(CutBatch, Option<Error>)>,
    pub(super) waiting: Vec<WaitingBatch>,
    /// Whom to wake: what is behind them may go now.
    pub(super) waker: Option<Waker>,
}

impl Expired {
    pub(super) fn completions(&self) -> impl Iterator<Item = &Arc<Completion>> {
        let cut = self.cut.iter().map(|(batch, _)| &batch.completion);
        cut.chain(self.waiting.iter().map(|batch| &batch.completion))
    }
}

/// What became of refused batches whose pause is over.
#[derive(Debug, Default)]
pub(super) struct Resumed {
    /// Those that fail.
    pub(super) failed: Vec<(CutBatch, Error)>,
    /// The session is over: an identity must be got before anything else is sent.
    pub(super) ended: bool,
    pub(super) waker: Option<Waker>,
}

#[derive(Debug, PartialEq, Eq)]
enum Readiness {
    Now,
    At(Instant),
    No,
}

impl Queue {
    pub(super) fn new(pace: Pace, sequences: Sequences) -> Self {
        Self {
            pace,
            sequences,
            waiting: VecDeque::new(),
            first: 0,
            waiting_bytes: 0,
            flights: Flights::default(),
            session: 0,
            urgent_below: 0,
            closed: false,
            sender: None,
            timed: false,
            spare: VecDeque::new(),
        }
    }

    /// The partition's numbers.
    pub(super) fn slot(&mut self, topic: &Arc<str>, partition: u32) -> Slot {
        self.sequences.slot(topic, partition)
    }

    /// As [`Sequences::wanted`].
    pub(super) fn identity_wanted(&self) -> Option<Wanted> {
        self.sequences.wanted()
    }

    /// As [`Sequences::identify`].
    pub(super) fn identify(&mut self, identity: Option<Identity>) {
        self.sequences.identify(identity);
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

    /// Whom to wake, after something was queued or answered: only when it can go
    /// now, or when nothing ever will.
    pub(super) fn sender_to_wake(&mut self) -> Option<Waker> {
        self.sender.as_ref()?;
        let wake = match self.flights.next() {
            Next::Send => true,
            Next::Nothing => self.is_finished(),
            Next::New => match self.readiness(None) {
                Readiness::Now => true,
                Readiness::At(_) => !self.timed,
                Readiness::No => self.is_finished(),
            },
        };
        if wake { self.sender.take() } else { None }
    }

    /// What was queued up to now goes without lingering. Returns everything
    /// that isn't settled, and whom to wake.
    pub(super) fn flush(&mut self) -> (Vec<Arc<Completion>>, Option<Waker>) {
        self.urge();
        (self.unsettled(), self.sender_to_wake())
    }

    fn unsettled(&self) -> Vec<Arc<Completion>> {
        let waiting = self.waiting.iter();
        let waiting = waiting.map(|batch| Arc::clone(&batch.completion));
        self.flights.completions().chain(waiting).collect()
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

    /// Whether nobody waits for anything.
    pub(super) fn is_settled(&self) -> bool {
        self.waiting.is_empty() && self.flights.is_settled()
    }

    /// Whether nothing needs ever be sent any more. A request that waits for its
    /// answer may have to be sent again.
    pub(super) fn is_finished(&self) -> bool {
        self.closed && self.is_settled()
    }

    /// Closes it for good, and returns what will never be settled by an answer.
    pub(super) fn abandon(&mut self) -> Vec<Arc<Completion>> {
        self.closed = true;
        let unsettled = self.unsettled();
        self.flights.clear();
        while self.pop().is_some() {}
        unsettled
    }

    pub(super) fn spare_builder(&mut self) -> Option<BatchBuilder> {
        self.spare.pop_front()
    }

    /// A new connection: all requests that weren't answered are sent again.
    pub(super) fn begin_session(&mut self) -> u64 {
        self.session += 1;
        self.flights.send_again();
        let failed = self.flights.renumber(&mut self.sequences);
        debug_assert!(failed.is_empty(), "nothing is refused");
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
        if session != self.session || self.is_finished() {
            return Step::End;
        }
        let ready = match self.flights.next() {
            Next::Send => match self.flights.send(&mut self.sequences) {
                Some(request) => return Step::Send(request),
                None => Readiness::No,
            },
            Next::Nothing => Readiness::No,
            Next::New => self.readiness(Some(now)),
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

    /// Takes back what [`Step::Cut`] gave away, now encoded. Returns what is to be
    /// sent at once; else it is sent in its turn, by whom to wake.
    pub(super) fn cut(
        &mut self,
        session: u64,
        request: Request,
        builders: Vec<BatchBuilder>,
    ) -> (Option<Arc<Request>>, Option<Waker>) {
        let room = SPARE_BUILDERS.saturating_sub(self.spare.len());
        self.spare.extend(builders.into_iter().take(room));
        let kept = self.flights.cut(request);
        if !kept || session != self.session {
            return (None, self.sender.take());
        }
        (self.flights.send_last(&mut self.sequences), None)
    }

    /// The request that the next answer is for. It keeps its place until
    /// [`Queue::answered`].
    pub(super) fn awaited(&self) -> Option<Arc<Request>> {
        self.flights.awaited().map(Arc::clone)
    }

    /// The awaited request was answered and all its batches are settled, save
    /// those that were refused for now: they are sent again before anything
    /// else. Returns whom to wake, since there may be room for another request.
    pub(super) fn answered(&mut self, refused: Vec<RefusedBatch>) -> Option<Waker> {
        self.flights.answered(refused);
        self.sender_to_wake()
    }

    /// Whether refused batches hold everything else back.
    pub(super) fn is_paused(&self) -> bool {
        self.flights.is_paused()
    }

    /// As [`Flights::overtake`].
    pub(super) fn overtake(&mut self, later: &CutBatch) -> Vec<RefusedBatch> {
        self.flights.overtake(later)
    }

    /// As [`Flights::held_by`].
    pub(super) fn held_by(&self) -> Option<Error> {
        self.flights.held_by().cloned()
    }

    /// Sends refused batches again, if everything that was sent was answered; under
    /// other numbers where the broker refused the numbers.
    pub(super) fn resume(&mut self) -> Resumed {
        if self.flights.awaited().is_some() {
            return Resumed::default();
        }
        let failed = self.flights.renumber(&mut self.sequences);
        let ended = self.sequences.is_blocked();
        if ended {
            // The outbox of this session must not come to it first.
            self.begin_session();
        } else {
            self.flights.resume();
        }
        Resumed {
            failed,
            ended,
            waker: self.sender_to_wake(),
        }
    }

    /// A batch was refused for good.
    pub(super) fn refused(&mut self, batch: &CutBatch) {
        self.sequences.give_up(batch);
    }

    /// As [`Flights::fail_sent`], or as [`Flights::fail_awaited`].
    pub(super) fn fail_sent(&mut self, all: bool) -> Vec<CutBatch> {
        if all {
            self.flights.fail_sent()
        } else {
            self.flights.fail_awaited(&mut self.sequences)
        }
    }

    /// As [`Flights::is_overdue`].
    pub(super) fn is_overdue(&self, before: Instant) -> bool {
        self.flights.is_overdue(before)
    }

    /// Takes out what came before this time and isn't on its way.
    pub(super) fn expire(&mut self, before: Instant) -> Expired {
        let cut = self.flights.expire(before);
        let mut waiting = Vec::new();
        while self.waiting.front().is_some_and(|b| b.since < before) {
            waiting.extend(self.pop());
        }
        Expired {
            cut,
            waiting,
            waker: self.sender_to_wake(),
        }
    }

    /// The next request's worth of batches; it keeps its place among those in
    /// flight.
    fn take(&mut self) -> Vec<WaitingBatch> {
        let mut batches = Vec::new();
        let mut bytes = 0;
        self.sequences.begin_request();
        while let Some(batch) = self.waiting.front() {
            bytes += batch.len();
            let over = bytes > self.pace.batch_bytes || batches.len() == MAX_BATCHES;
            if over && !batches.is_empty() || !self.sequences.admit(batch.slot) {
                break;
            }
            batches.extend(self.pop());
        }
        let completions = batches.iter().map(|batch| Arc::clone(&batch.completion));
        self.flights.begin(completions.collect());
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
        if self.flights.len() >= self.pace.max_in_flight {
            return Readiness::No;
        }
        let full = self.waiting_bytes >= self.pace.batch_bytes;
        if full || self.closed || self.first < self.urgent_below {
            return Readiness::Now;
        }
        if self.flights.len() >= EAGER {
            return Readiness::No;
        }
        if self.pace.linger.is_zero() {
            return Readiness::Now;
        }
        match oldest.since.checked_add(self.pace.linger) {
            Some(due) if now.is_some_and(|now| now >= due) => Readiness::Now,
            Some(due) => Readiness::At(due),
            // For ever: until the batch is full, or flushed.
            None => Readiness::No,
        }
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
