//! The task behind a producer: one connection after the other, and what the
//! broker's answers mean.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use statecast_proto::v1::batch_result::Outcome;
use statecast_proto::v1::log_client::LogClient;
use statecast_proto::v1::{BatchResult, ProduceStreamResponse};
use tonic::Streaming;

use super::batch::{CutBatch, Request};
use super::outbox::Outbox;
use super::shared::{Shared, wake};
use crate::clock;
use crate::connection::MAX_MESSAGE;
use crate::error::Error;

/// How often a session looks for records that wait too long.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Sends what is queued until the producer is closed and everything settled.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut failures = 0;
    while work(&shared).await {
        let mut session = Session::new(&shared);
        let ended = session.run().await;
        // Its outbox may linger in the transport; it must not send any more.
        shared.lock().queue.begin_session();
        let Err(error) = ended else {
            failures = 0;
            continue;
        };
        if session.progressed {
            failures = 0;
        }
        session.end(&error);
        tracing::debug!(%error, failures, "produce stream ended, opening another");
        let backoff = shared.client.settings().backoff;
        tokio::time::sleep(backoff.delay(failures)).await;
        failures = failures.saturating_add(1);
    }
}

/// Waits until something is to be sent; false when nothing ever will be.
async fn work(shared: &Shared) -> bool {
    poll_fn(|cx| {
        let queue = &mut shared.lock().queue;
        if !queue.is_empty() {
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

struct Session<'a> {
    shared: &'a Arc<Shared>,
    id: u64,
    /// Refused batches to be sent again once everything sent was answered.
    refused: Vec<Refused>,
    /// Something was answered, so the broker is there.
    progressed: bool,
}

/// A batch that was refused for a reason that may pass.
struct Refused {
    request: Arc<Request>,
    index: usize,
    error: Error,
}

impl Refused {
    fn batch(&self) -> &CutBatch {
        &self.request[self.index]
    }
}

impl<'a> Session<'a> {
    fn new(shared: &'a Arc<Shared>) -> Self {
        Self {
            id: shared.lock().queue.begin_session(),
            shared,
            refused: Vec::new(),
            progressed: false,
        }
    }

    /// Runs until the connection is lost, or nothing is left to do.
    async fn run(&mut self) -> Result<(), Error> {
        let outbox = Outbox::new(Arc::clone(self.shared), self.id);
        let mut client =
            LogClient::new(self.shared.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let limit = self.shared.client.settings().request_timeout;
        let opened = tokio::time::timeout(limit, client.produce_stream(outbox)).await;
        let opened = opened.map_err(|_| Error::Timeout {
            waited: limit,
            last: "the broker didn't answer".into(),
        })?;
        let mut answers = opened
            .map_err(|status| Error::from_status(&status))?
            .into_inner();
        while let Some(answer) = self.answer(&mut answers).await? {
            self.progressed = true;
            self.take(answer)?;
            self.resend().await;
        }
        if self.shared.lock().queue.is_empty() {
            Ok(())
        } else {
            Err(Error::Connection("the broker ended the stream".into()))
        }
    }

    /// The next answer; fails when the oldest record waits for too long.
    async fn answer(
        &self,
        answers: &mut Streaming<ProduceStreamResponse>,
    ) -> Result<Option<ProduceStreamResponse>, Error> {
        loop {
            match tokio::time::timeout(CHECK_INTERVAL, answers.message()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => return Err(Error::from_status(&status)),
                Err(_) if self.is_overdue() => {
                    return Err(Error::Connection(
                        "the broker didn't acknowledge in time".into(),
                    ));
                }
                Err(_) => {}
            }
        }
    }

    fn is_overdue(&self) -> bool {
        let oldest = self.shared.lock().queue.oldest();
        oldest.is_some_and(|since| since < self.too_old())
    }

    /// Records from before this time have waited for too long.
    fn too_old(&self) -> Instant {
        let now = clock::now();
        now.checked_sub(self.shared.settings.delivery_timeout)
            .unwrap_or(now)
    }

    /// Settles the oldest request.
    fn take(&mut self, answer: ProduceStreamResponse) -> Result<(), Error> {
        let answered = self.shared.lock().queue.answered();
        let Some((request, waker)) = answered else {
            return Err(Error::protocol("an answer without a request"));
        };
        wake(waker);
        if answer.results.len() != request.len() {
            let error = Error::protocol("an answer with too few or too many results");
            self.fail(request.iter(), &error);
            return Err(error);
        }
        let mut settled = 0;
        for (index, result) in answer.results.into_iter().enumerate() {
            settled += self.take_result(&request, index, result);
        }
        self.shared.buffer.add_permits(settled);
        Ok(())
    }

    /// Returns the cost of what is settled.
    fn take_result(&mut self, request: &Arc<Request>, index: usize, result: BatchResult) -> usize {
        let batch = &request[index];
        let error = match result.outcome {
            Some(Outcome::Appended(appended)) => {
                return self.overtaken(batch) + self.shared.settle(batch, Ok(appended.base_offset));
            }
            Some(Outcome::Error(error)) => Error::from_batch_error(error),
            None => Error::protocol("a result without an outcome"),
        };
        if !error.is_retryable() || batch.since < self.too_old() {
            return self.shared.settle(batch, Err(error));
        }
        self.shared.lock().queue.pause();
        self.refused.push(Refused {
            request: Arc::clone(request),
            index,
            error,
        });
        0
    }

    /// A later batch of the partition was appended: what was refused before it
    /// can't be sent again without changing the order. Returns the cost of what
    /// is settled.
    fn overtaken(&mut self, later: &CutBatch) -> usize {
        let mut settled = 0;
        self.refused.retain(|refused| {
            let batch = refused.batch();
            let same = batch.partition == later.partition && batch.topic == later.topic;
            if same {
                settled += self.shared.settle(batch, Err(refused.error.clone()));
            }
            !same
        });
        settled
    }

    fn fail<'b>(&self, batches: impl Iterator<Item = &'b CutBatch>, error: &Error) {
        let settled = batches.map(|batch| self.shared.settle(batch, Err(error.clone())));
        self.shared.buffer.add_permits(settled.sum());
    }

    /// Sends refused batches again, when everything behind them was answered.
    async fn resend(&mut self) {
        let Some(first) = self.refused.first() else {
            // What was refused may have been overtaken since.
            let waker = self.shared.lock().queue.resume();
            wake(waker);
            return;
        };
        if !self.shared.lock().queue.is_answered() {
            return;
        }
        let asked = first
            .error
            .refusal()
            .and_then(|refusal| refusal.retry_after);
        let backoff = self.shared.client.settings().backoff.delay(1);
        tokio::time::sleep(asked.unwrap_or(backoff)).await;
        self.requeue();
    }

    fn requeue(&mut self) {
        let again = self.refused.drain(..).map(|refused| {
            let batch = refused.batch();
            CutBatch {
                topic: Arc::clone(&batch.topic),
                encoded: batch.encoded.clone(),
                completion: Arc::clone(&batch.completion),
                ..*batch
            }
        });
        let waker = self.shared.lock().queue.resume_with(again.collect());
        wake(waker);
    }

    /// The connection is gone: what is too old fails, the rest waits for the
    /// next session.
    fn end(&mut self, error: &Error) {
        let (requests, batches) = {
            let mut state = self.shared.lock();
            // An error that a retry doesn't mend is that of what was on its way.
            state.queue.give_up(self.too_old(), !error.is_retryable())
        };
        // Refused batches are older than what is still in flight.
        self.requeue();
        let error = match error {
            error if !error.is_retryable() => error.clone(),
            error => Error::Timeout {
                waited: self.shared.settings.delivery_timeout,
                last: error.to_string().into(),
            },
        };
        self.fail(requests.iter().flat_map(|request| request.iter()), &error);
        let failed = batches
            .iter()
            .map(|batch| Shared::fail_waiting(batch, error.clone()));
        self.shared.buffer.add_permits(failed.sum());
    }
}
