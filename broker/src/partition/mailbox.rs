//! Where appends from many tasks wait for the journal. Bounded by bytes: those
//! who submit hold permits for them until their records are written.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{Append, AppendError, Appended};
use crate::limits;
use crate::model::FlushLevel;
use crate::storage::KeyGuard;

/// While a flush runs, the next group is written behind it once so much waits:
/// bytes. Less is written in no time when the flush is over, and what comes in
/// until then goes with it. What is acknowledged when it is written never waits.
const WRITE_AHEAD: usize = 64 << 10;

/// How long after a flush nothing has come until it is proven: one in sight would
/// prove it by the way.
const PROVE_AFTER: Duration = if cfg!(test) {
    Duration::from_millis(5)
} else {
    Duration::from_secs(1)
};

/// What became of an append.
pub(super) type AppendResult = Result<Appended, AppendError>;

/// The results of a submission, one for each of its appends.
pub(super) type Results = Vec<AppendResult>;

/// What one task submits at once.
#[derive(Debug)]
pub(super) struct Submission {
    pub(super) appends: Vec<Append>,
    /// There if they are one unit: what has to hold for it to be placed.
    pub(super) unit: Option<Vec<KeyGuard>>,
    pub(super) bytes: usize,
    pub(super) durability: Durability,
    pub(super) permit: OwnedSemaphorePermit,
    pub(super) reply: oneshot::Sender<Results>,
}

/// What the flush levels of a submission's partitions ask for, when it is
/// submitted: a level that changes later counts for what comes later.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Durability {
    /// It is acknowledged once it is flushed.
    pub(super) needs_flush: bool,
    /// Or else it is flushed within this time.
    pub(super) flush_within: Option<Duration>,
}

impl Durability {
    pub(super) fn of(appends: &[Append]) -> Durability {
        let mut durability = Durability::default();
        for append in appends {
            match append.partition.flush() {
                FlushLevel::Always => durability.needs_flush = true,
                FlushLevel::Interval(interval) => {
                    let within = durability
                        .flush_within
                        .map_or(interval, |w| w.min(interval));
                    durability.flush_within = Some(within);
                }
                FlushLevel::Os => {}
            }
        }
        durability
    }
}

/// The queue between tasks and journal hands.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    state: Mutex<MailboxState>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct MailboxState {
    queue: VecDeque<Submission>,
    /// Of what is queued.
    bytes: usize,
    /// Submissions in the queue that are not to be flushed.
    unflushed: usize,
    /// Hands that flush, or wait to.
    flushing: usize,
    closed: bool,
    /// When something that was written has to be made durable at the latest.
    flush_due: Option<Instant>,
    /// When what was flushed is to be proven, unless something comes before.
    prove_due: Option<Instant>,
}

/// Why a hand was woken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// There is something to write.
    Write,
    /// It is time to flush what topics with a flush interval wrote.
    Flush,
    /// Nothing has come for a while: what was flushed last is to be proven.
    Prove,
    /// The mailbox is closed and empty.
    Close,
}

impl Mailbox {
    /// Queues a submission; gives it back when the mailbox is closed.
    pub(super) fn submit(&self, submission: Submission) -> Result<(), Submission> {
        let mut state = self.lock();
        if state.closed {
            return Err(submission);
        }
        state.bytes += submission.bytes;
        state.unflushed += usize::from(!submission.durability.needs_flush);
        state.queue.push_back(submission);
        let wanted = state.is_wanted();
        drop(state);
        if wanted {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Waits until there is something to do.
    pub(super) fn wait(&self) -> Call {
        let mut state = self.lock();
        loop {
            let now = crate::clock::instant();
            // First of all: new submissions may never end.
            if state.flush_due.take_if(|due| *due <= now).is_some() {
                return Call::Flush;
            }
            if state.is_wanted() {
                return Call::Write;
            }
            if state.closed && state.queue.is_empty() {
                // The other hand may wait for this one to write the last of it.
                self.arrived.notify_all();
                return Call::Close;
            }
            let is_quiet = state.flushing == 0;
            if is_quiet && state.prove_due.take_if(|due| *due <= now).is_some() {
                return Call::Prove;
            }
            // The hand that flushes will see to the proof of that.
            let prove_due = state.prove_due.filter(|_| is_quiet);
            let due = state.flush_due.into_iter().chain(prove_due).min();
            state = match due {
                Some(due) => {
                    let left = due.saturating_duration_since(now);
                    let waited = self.arrived.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let waited = self.arrived.wait(state);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }

    /// Takes the next group without waiting.
    pub(super) fn take_group(&self) -> Vec<Submission> {
        let mut state = self.lock();
        let mut bytes = 0;
        let fits = |submission: &Submission| {
            bytes += submission.bytes;
            bytes <= limits::GROUP_BYTES
        };
        let count = state
            .queue
            .iter()
            .map(fits)
            .take_while(|&fits| fits)
            .count()
            .max(1);
        let count = count.min(state.queue.len());
        let group: Vec<Submission> = state.queue.drain(..count).collect();
        for submission in &group {
            state.bytes -= submission.bytes;
            state.unflushed -= usize::from(!submission.durability.needs_flush);
        }
        group
    }

    /// Runs a flush of what this hand has written. Meanwhile the other one is
    /// called only when there is much to write.
    pub(super) fn during_flush<T>(&self, flush: impl FnOnce() -> T) -> T {
        self.lock().flushing += 1;
        let flushed = flush();
        let mut state = self.lock();
        state.flushing -= 1;
        state.prove_due = Some(crate::clock::instant() + PROVE_AFTER);
        flushed
    }

    /// Something has been written that has to be durable at `due`.
    pub(super) fn flush_by(&self, due: Instant) {
        let mut state = self.lock();
        if state.flush_due.is_none_or(|earlier| due < earlier) {
            state.flush_due = Some(due);
            // A hand that waits without an end has to learn of it.
            drop(state);
            self.arrived.notify_one();
        }
    }

    /// Takes no more submissions; what is queued is still written.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, MailboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MailboxState {
    /// Whether a hand should write what is queued now.
    fn is_wanted(&self) -> bool {
        let at_once = self.flushing == 0 || self.bytes >= WRITE_AHEAD || self.unflushed > 0;
        at_once && !self.queue.is_empty()
    }
}
