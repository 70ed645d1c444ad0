//! What the handles of a producer, its outbox and its session share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Instant;

use statecast_proto::batch::{BatchBuilder, Compression, EncodedBatch, RecordRef};
use statecast_proto::reason::Reason;
use tokio::sync::Semaphore;
use tonic::transport::Channel;

use super::batch::{Content, CutBatch, WaitingBatch};
use super::builder::ProducerSettings;
use super::completion::{Completion, Delivery, Outcome};
use super::failures::Failures;
use super::flights::RefusedBatch;
use super::queue::{Expired, Queue, Resumed};
use super::sequences::Sequences;
use super::topics::{KnownTopic, KnownTopics, Open};
use crate::client::Client;
use crate::clock;
use crate::error::Error;

/// The broker takes no larger request: bytes of batches.
const MAX_REQUEST: usize = 8 << 20;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) channel: Channel,
    pub(super) settings: ProducerSettings,
    /// A plain lock: it is held for the copy of one record, never across an
    /// await, and never together with another.
    state: Mutex<State>,
    /// Bytes that may still be buffered. Taken before a record is queued, and
    /// given back when its batch is settled.
    pub(super) buffer: Semaphore,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) queue: Queue,
    pub(super) topics: KnownTopics,
    pub(super) failures: Failures,
    /// Why nothing is taken any more, if nobody closed it.
    fenced: Option<Error>,
}

/// Where a record is to go.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    /// By its key.
    Any,
    Partition(u32),
}

/// Why a record wasn't queued.
pub(super) enum Refused {
    /// The topic must be learnt first.
    UnknownTopic,
    Error(Error),
}

impl Shared {
    pub(super) fn new(client: Client, settings: ProducerSettings) -> Self {
        let sequences = Sequences::new(&settings.naming, settings.pace.max_in_flight);
        Self {
            channel: client.next_produce_channel(),
            client,
            state: Mutex::new(State {
                queue: Queue::new(settings.pace, sequences),
                topics: KnownTopics::default(),
                failures: Failures::default(),
                fenced: None,
            }),
            buffer: Semaphore::new(settings.buffer_bytes),
            settings,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a record to the open batch of its partition.
    pub(super) fn push(
        &self,
        topic: &str,
        target: Target,
        record: &RecordRef<'_>,
        cost: usize,
    ) -> Result<Delivery, Refused> {
        let (delivery, waker) = {
            let mut state = self.lock();
            let delivery = state.push(topic, target, record, cost, self.settings.compression)?;
            (delivery, state.queue.sender_to_wake())
        };
        wake(waker);
        Ok(delivery)
    }

    /// Queues a batch that came encoded, behind what its partition was given
    /// before.
    pub(super) fn push_batch(
        &self,
        topic: &str,
        partition: u32,
        encoded: EncodedBatch,
        cost: usize,
    ) -> Result<Delivery, Refused> {
        let (delivery, waker) = {
            let mut state = self.lock();
            let delivery = state.push_batch(topic, partition, encoded, cost)?;
            (delivery, state.queue.sender_to_wake())
        };
        wake(waker);
        Ok(delivery)
    }

    /// Tells the records of a batch what became of it, unless they were told that
    /// it was given up. Returns its cost, which the caller gives back to the buffer,
    /// for many batches at once.
    #[must_use]
    pub(super) fn settle(&self, batch: &CutBatch, outcome: Outcome) -> usize {
        match outcome {
            Ok(_) if batch.given_up => {}
            Ok(_) => batch.completion.settle(outcome),
            Err(error) => {
                {
                    let state = &mut *self.lock();
                    state.queue.refused(batch);
                    if batch.given_up {
                        return batch.cost;
                    }
                    state.failures.add(&batch.completion);
                }
                self.fail(&batch.topic, &batch.completion, error);
            }
        }
        batch.cost
    }

    /// Why nothing is taken.
    pub(super) fn closed(&self) -> Error {
        self.lock().closed()
    }

    /// As [`Queue::resume`]; what fails is to be failed.
    pub(super) fn take_resumed(&self) -> Resumed {
        let State {
            queue, failures, ..
        } = &mut *self.lock();
        let resumed = queue.resume();
        failures.add_all(resumed.failed.iter().map(|(batch, _)| &batch.completion));
        resumed
    }

    /// Fails a batch that was taken out of the queue.
    #[cold]
    pub(super) fn fail(&self, topic: &str, completion: &Completion, error: Error) {
        let topic_changed = matches!(
            error.reason(),
            Some(Reason::TopicNotFound | Reason::PartitionNotFound | Reason::BatchTooLarge)
        );
        completion.settle(Err(error));
        if topic_changed {
            self.lock().topics.forget(topic);
        }
    }

    /// As [`Queue::expire`]; what it takes out is to be failed.
    pub(super) fn take_expired(&self, before: Instant) -> Expired {
        let State {
            queue, failures, ..
        } = &mut *self.lock();
        let expired = queue.expire(before);
        failures.add_all(expired.completions());
        expired
    }

    /// As [`Queue::overtake`]; what it takes out is to be failed.
    pub(super) fn take_overtaken(&self, later: &CutBatch) -> Vec<RefusedBatch> {
        let State {
            queue, failures, ..
        } = &mut *self.lock();
        let overtaken = queue.overtake(later);
        failures.add_all(overtaken.iter().map(|refused| &refused.batch.completion));
        overtaken
    }

    /// As [`Queue::fail_sent`]; what it takes out is to be failed.
    pub(super) fn take_sent(&self, all: bool) -> Vec<CutBatch> {
        let State {
            queue, failures, ..
        } = &mut *self.lock();
        let sent = queue.fail_sent(all);
        failures.add_all(sent.iter().map(|batch| &batch.completion));
        sent
    }

    /// What a flush waits for: the failures that nobody was told of, and then
    /// all that isn't settled.
    pub(super) fn flush(&self) -> Vec<Arc<Completion>> {
        let (mut awaited, unsettled, waker) = {
            let mut state = self.lock();
            let (unsettled, waker) = state.queue.flush();
            (state.failures.untold(), unsettled, waker)
        };
        wake(waker);
        awaited.extend(unsettled);
        awaited
    }

    /// Another producer took the name of this one: takes nothing more, and fails
    /// what isn't settled.
    pub(super) fn fence(&self, error: &Error) {
        self.lock().fenced = Some(error.clone());
        self.abandon(error);
    }

    /// Takes nothing more, and fails what isn't settled: nobody is left who
    /// would send it.
    pub(super) fn abandon(&self, error: &Error) {
        let unsettled = {
            let State {
                queue, failures, ..
            } = &mut *self.lock();
            let unsettled = queue.abandon();
            failures.add_all(unsettled.iter());
            unsettled
        };
        self.buffer.close();
        for completion in unsettled {
            completion.abandon(error.clone());
        }
    }
}

impl State {
    fn closed(&self) -> Error {
        self.fenced.clone().unwrap_or(Error::Closed)
    }

    /// The topic and the queue, unless nothing is taken.
    fn known(&mut self, name: &str) -> Result<(&mut KnownTopic, &mut Queue), Refused> {
        if self.queue.is_closed() {
            return Err(Refused::Error(self.closed()));
        }
        let topic = self.topics.get(name).ok_or(Refused::UnknownTopic)?;
        Ok((topic, &mut self.queue))
    }

    fn push(
        &mut self,
        name: &str,
        target: Target,
        record: &RecordRef<'_>,
        cost: usize,
        compression: Compression,
    ) -> Result<Delivery, Refused> {
        let (topic, queue) = self.known(name)?;
        let limit = topic.batch_bytes();
        let partition = match target {
            Target::Partition(partition) => partition,
            Target::Any => topic.partition_for(record.key, |open| {
                let open = queue.waiting(open);
                open.is_some_and(|batch| batch.has_room(cost, limit))
            }),
        };
        let topic_name = Arc::clone(topic.name());
        let Some(open) = topic.open(partition) else {
            return Err(Refused::Error(no_such_partition(name, partition)));
        };

        // The record goes to the open batch, unless that is full.
        if let Some(batch) = queue.waiting(open.batch)
            && batch.has_room(cost, limit)
            && let Content::Open(builder) = &mut batch.content
        {
            let before = builder.encoded_len();
            let index = builder.record_count();
            builder
                .push(record)
                .map_err(Error::from)
                .map_err(Refused::Error)?;
            let grown = builder.encoded_len() - before;
            batch.cost += cost;
            let delivery = batch.completion.delivery(index);
            queue.grown(grown);
            return Ok(delivery);
        }

        let mut builder = match queue.spare_builder() {
            Some(builder) => builder,
            None => BatchBuilder::new(compression),
        };
        builder
            .push(record)
            .map_err(Error::from)
            .map_err(Refused::Error)?;
        fits_request(builder.encoded_len())?;
        let completion = Completion::new(partition);
        let delivery = completion.delivery(0);
        let slot = open
            .slot
            .unwrap_or_else(|| queue.slot(&topic_name, partition));
        let batch = queue.add(WaitingBatch {
            topic: topic_name,
            partition,
            slot,
            content: Content::Open(builder),
            completion,
            cost,
            since: clock::now(),
        });
        *open = Open {
            batch,
            slot: Some(slot),
        };
        Ok(delivery)
    }

    fn push_batch(
        &mut self,
        name: &str,
        partition: u32,
        encoded: EncodedBatch,
        cost: usize,
    ) -> Result<Delivery, Refused> {
        let (topic, queue) = self.known(name)?;
        let topic_name = Arc::clone(topic.name());
        let Some(open) = topic.open(partition) else {
            return Err(Refused::Error(no_such_partition(name, partition)));
        };
        fits_request(encoded.payload.len())?;
        let completion = Completion::new(partition);
        let delivery = completion.delivery(0);
        let slot = open
            .slot
            .unwrap_or_else(|| queue.slot(&topic_name, partition));
        // It takes no more records: the next one begins a batch.
        let batch = queue.add(WaitingBatch {
            topic: topic_name,
            partition,
            slot,
            content: Content::Encoded(encoded),
            completion,
            cost,
            since: clock::now(),
        });
        *open = Open {
            batch,
            slot: Some(slot),
        };
        queue.urge();
        Ok(delivery)
    }
}

pub(super) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn no_such_partition(topic: &str, partition: u32) -> Error {
    let metadata = [
        ("topic", topic.to_owned()),
        ("partition", partition.to_string()),
    ];
    Error::refused_here(
        Reason::PartitionNotFound,
        format!("topic {topic} has no partition {partition}"),
        metadata.map(|(key, value)| (key.to_owned(), value)).into(),
    )
}

/// One batch that is too large would end the stream of all.
fn fits_request(size: usize) -> Result<(), Refused> {
    if size <= MAX_REQUEST {
        return Ok(());
    }
    let metadata = [("size", size), ("limit", MAX_REQUEST)];
    Err(Refused::Error(Error::refused_here(
        Reason::BatchTooLarge,
        format!("a batch of {size} bytes is over the limit of {MAX_REQUEST}"),
        metadata
            .map(|(key, value)| (key.to_owned(), value.to_string()))
            .into(),
    )))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn flush_finds_what_was_taken_out_to_fail_and_is_not_settled_yet() {
        let client = Client::builder("localhost:1").connect_lazy().unwrap();
        let settings = client.producer_builder().settings();
        let shared = Shared::new(client, settings);
        shared.lock().topics.learn(KnownTopic::new("t", 1, 1024, 0));
        let record = RecordRef::of_value(b"v");
        let pushed = shared.push("t", Target::Any, &record, 10);
        assert!(pushed.is_ok_and(|delivery| delivery.now().is_none()));
        let expired = shared.take_expired(clock::now() + Duration::from_secs(1));
        assert_eq!(expired.waiting.len(), 1);
        assert_eq!(shared.flush().len(), 1);
    }
}
