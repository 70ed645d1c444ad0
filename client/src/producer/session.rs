//! The task behind a producer: one connection after the other, and what the
//! broker's answers mean.

use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use statecast_proto::reason::Reason;
use statecast_proto::v1::ProduceStreamResponse;
use statecast_proto::v1::log_client::LogClient;
use tokio::time::Sleep;
use tonic::Streaming;

use super::batch::CutBatch;
use super::expiry::Expiry;
use super::flights::RefusedBatch;
use super::identity;
use super::outbox::Outbox;
use super::shared::{Shared, wake};
use super::verdict::Verdict;
use crate::connection::MAX_MESSAGE;
use crate::error::Error;

/// The right to send. It leaves no delivery unsettled when the task ends before
/// its work is done: the runtime shuts down, or the task panicked.
pub(super) struct Task(pub(super) Arc<Shared>);

impl Drop for Task {
    fn drop(&mut self) {
        let ended = "the producer's task ended before the broker acknowledged";
        self.0.abandon(&Error::Connection(ended.into()));
    }
}

/// Sends what is queued until the producer is closed and everything settled.
pub(super) async fn run(task: Task) {
    let shared = &task.0;
    let mut expiry = Expiry::new(shared);
    let mut failures = 0;
    let mut pauses = 0;
    while work(shared).await {
        let mut session = Session::new(shared, &mut expiry, pauses);
        let ended = session.run().await;
        pauses = session.pauses;
        let failed_some = ended.as_ref().is_err_and(|error| session.blame(error));
        if session.progressed || failed_some || ended.is_ok() {
            failures = 0;
        }
        // Its outbox may linger in the transport; it must not send any more.
        shared.lock().queue.begin_session();
        let Err(error) = ended else {
            continue;
        };
        expiry.expire();
        tracing::debug!(%error, failures, "produce stream ended, opening another");
        let backoff = shared.client.settings().backoff.delay(failures);
        expiry.during(tokio::time::sleep(backoff)).await;
        failures = failures.saturating_add(1);
    }
}

/// Waits until something is to be sent; false when nothing ever will be.
async fn work(shared: &Shared) -> bool {
    poll_fn(|cx| {
        let queue = &mut shared.lock().queue;
        if !queue.is_settled() {
            return Poll::Ready(true);
        }
        if queue.is_closed() {
            return Poll::Ready(false);
        }
        queue.park(cx.waker());
        Poll::Pending
    })
    .await
}

struct Session<'a, 'e> {
    shared: &'a Arc<Shared>,
    expiry: &'e mut Expiry<'a>,
    id: u64,
    /// Runs until refused batches are sent again.
    pause: Option<Pin<Box<Sleep>>>,
    /// Refused batches may wait to be sent again.
    paused: bool,
    /// How often in a row it was paused, without an answer that refused nothing;
    /// in sessions before this one, too.
    pauses: u32,
    /// Something was answered, so the broker is there.
    progressed: bool,
}

impl<'a, 'e> Session<'a, 'e> {
    fn new(shared: &'a Arc<Shared>, expiry: &'e mut Expiry<'a>, pauses: u32) -> Self {
        Self {
            id: shared.lock().queue.begin_session(),
            shared,
            expiry,
            pause: None,
            paused: false,
            pauses,
            progressed: false,
        }
    }

    /// Runs until the connection is lost, or nothing is left to do.
    async fn run(&mut self) -> Result<(), Error> {
        self.identify().await?;
        let answers = self.open().await?;
        match self.exchange(answers).await? {
            End::Stream if !self.shared.lock().queue.is_settled() => {
                Err(Error::Connection("the broker ended the stream".into()))
            }
            End::Stream | End::Done | End::Identity => Ok(()),
        }
    }

    /// Gets an identity, if the next batches need one that isn't there.
    async fn identify(&mut self) -> Result<(), Error> {
        let Some(wanted) = self.shared.lock().queue.identity_wanted() else {
            return Ok(());
        };
        let asking = identity::ask(self.shared, wanted.former);
        match self.expiry.during(asking).await {
            Ok(identity) => {
                self.shared.lock().queue.identify(identity);
                Ok(())
            }
            Err(error) => {
                if !error.is_retryable() && error.reason() != Some(Reason::ProducerFenced) {
                    self.expiry.fail_all(&error);
                }
                Err(error)
            }
        }
    }

    async fn open(&mut self) -> Result<Streaming<ProduceStreamResponse>, Error> {
        let outbox = Outbox::new(Arc::clone(self.shared), self.id);
        let mut client =
            LogClient::new(self.shared.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let limit = self.shared.client.settings().request_timeout;
        let opening = tokio::time::timeout(limit, client.produce_stream(outbox));
        match self.expiry.during(opening).await {
            Ok(Ok(opened)) => Ok(opened.into_inner()),
            Ok(Err(status)) => Err(Error::from_status(&status)),
            Err(_) => Err(Error::Timeout {
                waited: limit,
                last: "the broker didn't answer".into(),
            }),
        }
    }

    /// Takes answers until there are no more; fails when none comes for what is
    /// too old.
    async fn exchange(
        &mut self,
        mut answers: Streaming<ProduceStreamResponse>,
    ) -> Result<End, Error> {
        let mut silent = false;
        loop {
            tokio::select! {
                biased;
                () = self.expiry.tick() => {
                    if silent && self.expiry.is_overdue() {
                        return Err(Error::Connection(self.expiry.cause()));
                    }
                    if silent && self.shared.lock().queue.is_finished() {
                        // Nothing depends on when the broker ends the stream.
                        return Ok(End::Done);
                    }
                    silent = true;
                    self.expiry.expire();
                    if self.paused && self.pause.is_none() {
                        // What was still to be sent before it is gone.
                        self.pause();
                    }
                }
                () = elapsed(&mut self.pause) => {
                    if self.resume() {
                        return Ok(End::Identity);
                    }
                }
                answer = answers.message() => {
                    match answer.map_err(|status| Error::from_status(&status))? {
                        Some(answer) => self.take(answer)?,
                        None => return Ok(End::Stream),
                    }
                    silent = false;
                    self.progressed = true;
                    self.expiry.forgive();
                }
            }
        }
    }

    /// Settles the oldest request.
    fn take(&mut self, answer: ProduceStreamResponse) -> Result<(), Error> {
        let Some(request) = self.shared.lock().queue.awaited() else {
            return Err(Error::protocol("an answer without a request"));
        };
        if answer.results.len() != request.len() {
            return Err(Error::protocol(
                "an answer with too few or too many results",
            ));
        }
        let mut refused = Vec::new();
        let mut settled = 0;
        let mut fenced = Ok(());
        for (batch, result) in request.iter().zip(answer.results) {
            settled += match Verdict::of(batch, result) {
                Verdict::Appended(offset) => {
                    self.overtaken(batch, &mut refused) + self.shared.settle(batch, Ok(offset))
                }
                Verdict::Failed(error) => self.shared.settle(batch, Err(error)),
                Verdict::Again(error) => {
                    refused.push(again(batch, error));
                    0
                }
                Verdict::Fenced(error) => {
                    fenced = Err(error.clone());
                    self.shared.settle(batch, Err(error))
                }
            };
        }
        self.shared.buffer.add_permits(settled);
        if refused.is_empty() {
            self.pauses = 0;
        }
        let waker = {
            let queue = &mut self.shared.lock().queue;
            let waker = queue.answered(refused);
            self.paused = queue.is_paused();
            waker
        };
        wake(waker);
        if self.paused {
            self.pause();
        }
        fenced
    }

    /// A later batch of the partition was appended: what was refused before it
    /// can't be sent again without changing the order. Of batches with numbers, the
    /// broker takes none before its time. Returns the cost of what is settled.
    fn overtaken(&self, later: &CutBatch, refused: &mut Vec<RefusedBatch>) -> usize {
        // Refusals are rare, in this answer and in those before.
        if later.number.is_some() || (refused.is_empty() && !self.paused) {
            return 0;
        }
        let mut settled = 0;
        for RefusedBatch { batch, error } in self.shared.take_overtaken(later) {
            self.shared.fail(&batch.topic, &batch.completion, error);
            settled += batch.cost;
        }
        let overtaken = refused.extract_if(.., |refused| refused.is_overtaken_by(later));
        for RefusedBatch { batch, error } in overtaken {
            settled += self.shared.settle(&batch, Err(error));
        }
        settled
    }

    /// Refused batches are to be sent again after a while, once everything that
    /// was sent is answered.
    fn pause(&mut self) {
        let Some(error) = self.shared.lock().queue.held_by() else {
            return;
        };
        let backoff = self.shared.client.settings().backoff;
        let wait = match (error.reason(), error.refusal().and_then(|r| r.retry_after)) {
            (_, Some(asked)) => asked.min(backoff.max),
            // Nothing has to change at the broker: the numbers are to.
            (Some(Reason::SequenceGap | Reason::ProducerExpired), _) if self.pauses == 0 => {
                Duration::ZERO
            }
            _ => backoff.delay(self.pauses),
        };
        self.pauses = self.pauses.saturating_add(1);
        self.pause = Some(Box::pin(tokio::time::sleep(wait)));
    }

    /// The pause is over. Returns whether the session is, too.
    fn resume(&mut self) -> bool {
        self.pause = None;
        self.expiry.expire();
        let resumed = self.shared.take_resumed();
        wake(resumed.waker);
        let mut settled = 0;
        for (batch, error) in resumed.failed {
            self.shared.fail(&batch.topic, &batch.completion, error);
            settled += batch.cost;
        }
        self.shared.buffer.add_permits(settled);
        resumed.ended
    }

    /// The connection is gone. An error that a retry doesn't mend is that of
    /// the request which the broker came to, or of all when it isn't even one
    /// of ours; or of the producer itself, for good. Returns whether something
    /// failed.
    fn blame(&mut self, error: &Error) -> bool {
        self.expiry.blame(error);
        if error.is_retryable() {
            return false;
        }
        if error.reason() == Some(Reason::ProducerFenced) {
            self.shared.fence(error);
            return true;
        }
        let all = error.refusal().is_none();
        let sent = self.shared.take_sent(all);
        let mut settled = 0;
        for batch in &sent {
            let error = error.clone();
            self.shared.fail(&batch.topic, &batch.completion, error);
            settled += batch.cost;
        }
        self.shared.buffer.add_permits(settled);
        !sent.is_empty()
    }
}

/// Why a session is over.
enum End {
    /// The broker ended the stream.
    Stream,
    /// There is nothing left to do.
    Done,
    /// An identity must be got before anything else is sent.
    Identity,
}

/// A batch that is to be sent again.
fn again(batch: &CutBatch, error: Error) -> RefusedBatch {
    let mut batch = batch.clone();
    let damaged = error.reason() == Some(Reason::ChecksumMismatch);
    batch.damaged += u8::from(damaged);
    RefusedBatch { batch, error }
}

/// Never, when no pause is on.
async fn elapsed(pause: &mut Option<Pin<Box<Sleep>>>) {
    match pause {
        Some(pause) => pause.as_mut().await,
        None => pending().await,
    }
}
