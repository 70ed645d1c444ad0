//! `ProduceStream`: reads requests while earlier ones become durable, answers in
//! order.
//!
//! One stream does it all, polled by the task of the call: no task or channel of
//! its own, so a request costs one hop to the journal and one back. When the
//! caller vanishes the stream is dropped and everything it holds with it; what
//! was submitted is appended.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};

use futures_util::{FutureExt, Stream, StreamExt};
use statecast_proto::batch::{BatchLimits, stated_uncompressed_len};
use statecast_proto::reason::Reason;
use statecast_proto::v1;
use statecast_proto::v1::batch_result::Outcome;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

use super::answer_room::AnswerRoom;
use super::call::Call;
use super::error::Refusal;
use super::memory::Held;
use crate::broker::{Acks, Author, BatchChecker, Broker, IncomingBatch, SequenceClaim};
use crate::limits;
use crate::partition::{Append, AppendError, Appended};

/// Answers a stream of requests.
pub(super) struct ProduceStream<S> {
    /// `None` once no more requests are read.
    incoming: Option<S>,
    broker: Broker,
    /// `None` while it checks off the runtime.
    checker: Option<BatchChecker>,
    /// A request that takes long to check; then it is the one that is submitted.
    checking: Option<CheckFuture>,
    /// A request that the log has not taken yet: it is the only one, since the
    /// order of submission is the order in the log.
    submitting: Option<Submitting>,
    /// A request that came while answers were to be sent first.
    arrived: Option<v1::ProduceStreamRequest>,
    in_flight: VecDeque<InFlight>,
    bytes_in_flight: usize,
    /// For the answers to what is in flight.
    room: AnswerRoom,
    /// What the stream ends with, after the answers in flight.
    end: Option<Status>,
    /// An answer was given out that may still lie in a buffer of the transport.
    unsent: bool,
    draining: Pin<Box<WaitForCancellationFutureOwned>>,
}

type CheckFuture = Pin<Box<dyn Future<Output = Option<Checked>> + Send>>;

/// A request that was checked: what is good of it, and what is known of its answer.
struct Checked {
    checker: BatchChecker,
    appends: Vec<Append>,
    answer: Answer,
}

/// Waits for room for the answer, then for the log.
type SubmitFuture = Pin<Box<dyn Future<Output = Result<Submitted, AppendError>> + Send>>;

type Submitted = (Option<Held>, Option<Acks>);

struct Submitting {
    future: SubmitFuture,
    answer: Answer,
}

struct InFlight {
    /// `None` when there is nothing to wait for.
    acks: Option<Acks>,
    answer: Answer,
}

/// The answer to a request, as far as it is known.
struct Answer {
    /// Where its batches go: for errors.
    places: Vec<Place>,
    /// Those that were refused before the log saw them: index and why.
    refused: Vec<(usize, v1::BatchError)>,
    /// Size of its batches: bytes.
    bytes: usize,
}

struct Place {
    topic: String,
    partition: u32,
}

impl<S> ProduceStream<S>
where
    S: Stream<Item = Result<v1::ProduceStreamRequest, Status>> + Unpin,
{
    pub(super) fn new(
        broker: Broker,
        incoming: S,
        draining: CancellationToken,
        call: Arc<Call>,
    ) -> ProduceStream<S> {
        ProduceStream {
            incoming: Some(incoming),
            checker: Some(BatchChecker::new(broker.clone())),
            checking: None,
            broker,
            submitting: None,
            arrived: None,
            in_flight: VecDeque::new(),
            bytes_in_flight: 0,
            room: AnswerRoom::new(call),
            end: None,
            unsent: false,
            draining: Box::pin(draining.cancelled_owned()),
        }
    }

    /// The answer to the oldest request, if it is ready.
    fn poll_answer(&mut self, cx: &mut TaskContext<'_>) -> Poll<v1::ProduceStreamResponse> {
        let Some(oldest) = self.in_flight.front_mut() else {
            return Poll::Pending;
        };
        let acks = match &mut oldest.acks {
            Some(acks) => ready!(acks.poll_unpin(cx)).ok(),
            None => Some(Vec::new()),
        };
        let oldest = self.in_flight.pop_front().expect("we have just seen it");
        self.bytes_in_flight -= oldest.answer.bytes;
        self.room.hand_over(oldest.answer.room());
        Poll::Ready(oldest.answer.complete(acks))
    }

    /// Makes way for the next request: ready once the log has taken the last one.
    fn poll_submitted(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        if let Some(checking) = &mut self.checking {
            let checked = ready!(checking.poll_unpin(cx));
            self.checking = None;
            match checked {
                Some(checked) => self.submit(checked),
                None => self.close(Refusal::fault("a check ended").into()),
            }
        }
        let Some(submitting) = &mut self.submitting else {
            return Poll::Ready(());
        };
        let submitted = ready!(submitting.future.poll_unpin(cx));
        let Submitting { answer, .. } = self.submitting.take().expect("we have just seen it");
        match submitted {
            Ok((room, acks)) => {
                if let Some(room) = room {
                    self.room.grow(room);
                }
                self.in_flight.push_back(InFlight { acks, answer });
            }
            Err(error) => {
                self.bytes_in_flight -= answer.bytes;
                self.room.remove(answer.room());
                self.close(Refusal::from(error).into());
            }
        }
        Poll::Ready(())
    }

    /// The next request, if there is one and room for it.
    fn poll_request(&mut self, cx: &mut TaskContext<'_>) -> Poll<v1::ProduceStreamRequest> {
        if let Some(request) = self.arrived.take() {
            return Poll::Ready(request);
        }
        let full = self.in_flight.len() >= limits::REQUESTS_IN_FLIGHT
            || self.bytes_in_flight >= limits::BYTES_IN_FLIGHT;
        let Some(incoming) = self.incoming.as_mut().filter(|_| !full) else {
            return Poll::Pending;
        };
        if self.draining.poll_unpin(cx).is_ready() {
            self.close(Refusal::stopping().into());
            return Poll::Pending;
        }
        match ready!(incoming.poll_next_unpin(cx)) {
            Some(Ok(request)) => return Poll::Ready(request),
            Some(Err(status)) => self.close(status),
            None => self.incoming = None,
        }
        Poll::Pending
    }

    /// Reads no more requests; ends with `status` after the answers in flight.
    fn close(&mut self, status: Status) {
        self.incoming = None;
        self.arrived = None;
        self.end.get_or_insert(status);
    }

    /// Checks a request, here or off the runtime.
    fn begin(&mut self, request: v1::ProduceStreamRequest) {
        let size = match RequestSize::of(&request) {
            Ok(size) => size,
            Err(refusal) => return self.close(refusal.into()),
        };
        self.bytes_in_flight += size.bytes;
        let checker = self.checker.take();
        let checker = checker.expect("one request is checked after the other");
        let check = move || Checked::new(checker, request, size.bytes);
        if size.uncompressed <= limits::CHECKED_IN_PLACE_BYTES {
            return self.submit(check());
        }
        let broker = self.broker.clone();
        self.checking = Some(Box::pin(
            async move { broker.check_off_runtime(check).await },
        ));
    }

    /// Begins to submit what is good of a request.
    fn submit(&mut self, checked: Checked) {
        let Checked {
            checker,
            appends,
            answer,
        } = checked;
        self.checker = Some(checker);
        let room = self.room.add(answer.room());
        if appends.is_empty() && room.is_none() {
            self.in_flight.push_back(InFlight { acks: None, answer });
            return;
        }
        let engine = self.broker.engine().clone();
        let future = Box::pin(async move {
            let room = match room {
                Some(room) => Some(room.await),
                None => None,
            };
            let acks = match appends.is_empty() {
                true => None,
                false => Some(engine.submit(appends).await?),
            };
            Ok((room, acks))
        });
        self.submitting = Some(Submitting { future, answer });
    }
}

impl Checked {
    fn new(mut checker: BatchChecker, request: v1::ProduceStreamRequest, bytes: usize) -> Checked {
        let mut appends = Vec::with_capacity(request.batches.len());
        let mut places = Vec::with_capacity(request.batches.len());
        let mut refused = Vec::new();
        let partitions = request.batches.iter();
        checker.fetch_ahead(partitions.map(|batch| (batch.topic.as_str(), batch.partition)));
        for (index, batch) in request.batches.into_iter().enumerate() {
            let v1::PartitionBatch {
                topic,
                partition,
                batch: payload,
                checksum,
                sequence,
            } = batch;
            let incoming = IncomingBatch {
                author: Author::Client,
                topic: &topic,
                partition,
                payload,
                checksum,
                sequence: sequence.map(|claimed| SequenceClaim {
                    producer_id: claimed.producer_id,
                    epoch: claimed.epoch,
                    base_sequence: claimed.base_sequence,
                }),
            };
            match checker.check(incoming) {
                Ok(append) => appends.push(append),
                Err(error) => {
                    let refusal = Refusal::from(error).about(&topic, partition);
                    refused.push((index, refusal.into_batch_error()));
                }
            }
            places.push(Place { topic, partition });
        }
        Checked {
            checker,
            appends,
            answer: Answer {
                places,
                refused,
                bytes,
            },
        }
    }
}

impl<S> Stream for ProduceStream<S>
where
    S: Stream<Item = Result<v1::ProduceStreamRequest, Status>> + Unpin,
{
    type Item = Result<v1::ProduceStreamResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            let submitted = this.poll_submitted(cx);
            if let Poll::Ready(answer) = this.poll_answer(cx) {
                this.unsent = true;
                return Poll::Ready(Some(Ok(answer)));
            }
            if submitted.is_pending() {
                break;
            }
            let Poll::Ready(request) = this.poll_request(cx) else {
                break;
            };
            if this.unsent {
                // The transport sends what it has when we have nothing more;
                // answers should not wait until this request is checked.
                this.unsent = false;
                this.arrived = Some(request);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            this.begin(request);
        }
        this.unsent = false;
        let busy = this.checking.is_some() || this.submitting.is_some();
        if this.incoming.is_none() && !busy && this.in_flight.is_empty() {
            return Poll::Ready(this.end.take().map(Err));
        }
        Poll::Pending
    }
}

/// The size of a request that lies within the bounds.
struct RequestSize {
    /// Of its batches and their names, which are kept for the answer: bytes.
    bytes: usize,
    /// What its compressed batches say that they unpack to: bytes.
    uncompressed: usize,
}

impl RequestSize {
    fn of(request: &v1::ProduceStreamRequest) -> Result<RequestSize, Refusal> {
        let count = request.batches.len();
        if !limits::BATCHES_PER_REQUEST.contains(&count) {
            let limit = limits::BATCHES_PER_REQUEST.end();
            let message = format_args!("a request has 1 to {limit} batches, not {count}");
            return Err(Refusal::new(Reason::TooManyBatches, message).beyond(count, limit));
        }
        let size = |batch: &v1::PartitionBatch| batch.batch.len() + batch.topic.len();
        let bytes = request.batches.iter().map(size).sum();
        let uncompressed = |batch: &v1::PartitionBatch| {
            // One that says more is refused for that alone, and never unpacked.
            let stated = stated_uncompressed_len(&batch.batch);
            let unpacked = stated <= BatchLimits::DEFAULT.max_uncompressed;
            if unpacked { stated } else { 0 }
        };
        let uncompressed = request.batches.iter().map(uncompressed).sum();
        for (bytes, limit, what) in [
            (bytes, limits::REQUEST_BYTES, "has"),
            (
                uncompressed,
                limits::REQUEST_UNCOMPRESSED_BYTES,
                "unpacks to",
            ),
        ] {
            if bytes > limit {
                let message =
                    format_args!("a request {what} {limit} bytes of batches at most, not {bytes}");
                return Err(Refusal::new(Reason::BatchTooLarge, message).beyond(bytes, limit));
            }
        }
        Ok(RequestSize {
            bytes,
            uncompressed,
        })
    }
}

/// What a waiting answer takes in memory, for each of its batches besides their
/// names, and for one that was refused: bytes, about.
const PER_ANSWER: usize = 256;
const PER_BATCH: usize = 100;
const PER_REFUSAL: usize = 1024;

impl Answer {
    /// The memory that it takes while it waits: bytes, about.
    fn room(&self) -> usize {
        let names: usize = self.places.iter().map(|place| place.topic.len()).sum();
        let batches = PER_BATCH * self.places.len() + PER_REFUSAL * self.refused.len();
        PER_ANSWER + names + batches
    }

    /// The response, given the results of the batches that were not refused.
    /// Without them the engine ended first.
    fn complete(
        self,
        acks: Option<Vec<Result<Appended, AppendError>>>,
    ) -> v1::ProduceStreamResponse {
        let mut refused = self.refused.into_iter().peekable();
        let mut acks = acks.unwrap_or_default().into_iter();
        let result = |(index, place): (usize, Place)| {
            let outcome = match refused.next_if(|(at, _)| *at == index) {
                Some((_, error)) => Outcome::Error(error),
                None => match acks.next().unwrap_or(Err(AppendError::Stopping)) {
                    Ok(appended) => Outcome::Appended(v1::Appended {
                        base_offset: appended.base_offset.0,
                        duplicate: appended.duplicate,
                    }),
                    Err(error) => Outcome::Error(
                        Refusal::from(error)
                            .about(&place.topic, place.partition)
                            .into_batch_error(),
                    ),
                },
            };
            v1::BatchResult {
                outcome: Some(outcome),
            }
        };
        v1::ProduceStreamResponse {
            results: self.places.into_iter().enumerate().map(result).collect(),
        }
    }
}
