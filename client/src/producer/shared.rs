//! What the handles of a producer, its outbox and its session share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use statecast_proto::batch::{BatchBuilder, BatchLimits, Compression, EncodedBatch, RecordRef};
use statecast_proto::reason::Reason;
use tokio::sync::Semaphore;
use tonic::transport::Channel;

use super::batch::{Content, CutBatch, WaitingBatch};
use super::builder::ProducerSettings;
use super::completion::{Completion, Delivery};
use super::queue::Queue;
use super::topics::{KnownTopic, KnownTopics};
use crate::client::Client;
use crate::clock;
use crate::error::Error;

/// A batch holds no more records.
const MAX_RECORDS: u32 = BatchLimits::DEFAULT.max_records;

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
        Self {
            channel: client.next_produce_channel(),
            client,
            state: Mutex::new(State {
                queue: Queue::new(settings.pace),
                topics: KnownTopics::default(),
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

    /// Tells the records of a batch what became of it. Returns its cost, which
    /// the caller gives back to the buffer, for many batches at once.
    #[must_use]
    pub(super) fn settle(&self, batch: &CutBatch, outcome: Result<u64, Error>) -> usize {
        if let Err(error) = &outcome
            && matches!(
                error.reason(),
                Some(Reason::TopicNotFound | Reason::PartitionNotFound)
            )
        {
            self.lock().topics.forget(&batch.topic);
        }
        batch.completion.settle(outcome);
        batch.cost
    }

    /// As [`Shared::settle`], for a batch that was never sent.
    #[must_use]
    pub(super) fn fail_waiting(batch: &WaitingBatch, error: Error) -> usize {
        batch.completion.settle(Err(error));
        batch.cost
    }
}

impl State {
    fn push(
        &mut self,
        name: &str,
        target: Target,
        record: &RecordRef<'_>,
        cost: usize,
        compression: Compression,
    ) -> Result<Delivery, Refused> {
        let queue = &mut self.queue;
        let topic = known(&mut self.topics, queue, name)?;
        let limit = topic.batch_bytes();
        let partition = match target {
            Target::Partition(partition) => partition,
            Target::Any => topic.partition_for(record.key, |open| queue.waiting(open).is_some()),
        };
        let topic_name = Arc::clone(topic.name());
        let Some(open) = topic.open(partition) else {
            return Err(Refused::Error(no_such_partition(name, partition)));
        };

        // The record goes to the open batch, unless that is full.
        if let Some(batch) = queue.waiting(*open)
            && let Content::Open(builder) = &mut batch.content
            && builder.record_count() < MAX_RECORDS
            && builder.encoded_len() + cost <= limit
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
        let completion = Completion::new(partition);
        let delivery = completion.delivery(0);
        *open = queue.add(WaitingBatch {
            topic: topic_name,
            partition,
            content: Content::Open(builder),
            completion,
            cost,
            since: clock::now(),
        });
        Ok(delivery)
    }

    fn push_batch(
        &mut self,
        name: &str,
        partition: u32,
        encoded: EncodedBatch,
        cost: usize,
    ) -> Result<Delivery, Refused> {
        let topic = known(&mut self.topics, &self.queue, name)?;
        if partition >= topic.partitions() {
            return Err(Refused::Error(no_such_partition(name, partition)));
        }
        topic.close(partition);
        let completion = Completion::new(partition);
        let delivery = completion.delivery(0);
        self.queue.add(WaitingBatch {
            topic: Arc::clone(topic.name()),
            partition,
            content: Content::Encoded(encoded),
            completion,
            cost,
            since: clock::now(),
        });
        self.queue.urge();
        Ok(delivery)
    }
}

pub(super) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn known<'a>(
    topics: &'a mut KnownTopics,
    queue: &Queue,
    name: &str,
) -> Result<&'a mut KnownTopic, Refused> {
    if queue.is_closed() {
        return Err(Refused::Error(Error::Closed));
    }
    topics.get(name).ok_or(Refused::UnknownTopic)
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
