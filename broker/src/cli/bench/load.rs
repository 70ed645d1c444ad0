//! Producers under load: as fast as the records in flight allow.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use hdrhistogram::Histogram;
use statecast_client::{BatchBuilder, Client, Delivery, Error, Producer, RecordRef};
use tokio::task::JoinSet;

use super::payload::Payload;
use super::report::histogram;
use super::workload::{Amount, Topics, Workload};
use crate::clock;

/// Reading the clock for each of two million records a second would be
/// measured too: latency is taken of every so many when many are in flight.
const SAMPLE_EVERY: u64 = 16;
const SAMPLE_WHEN_IN_FLIGHT: usize = 100;

/// What was produced.
#[derive(Debug)]
pub(super) struct Produced {
    pub(super) records: u64,
    /// From the call that sends to the acknowledgement: nanoseconds.
    pub(super) latency: Histogram<u64>,
}

/// Runs all producers of the workload to their end.
pub(super) async fn produce(
    client: &Client,
    workload: &Workload,
    topics: &Arc<Topics>,
) -> Result<Produced, Error> {
    let mut tasks = JoinSet::new();
    for number in 0..workload.producers {
        let load = Load::new(client, workload, topics, number);
        tasks.spawn(load.run());
    }
    let mut all = Produced {
        records: 0,
        latency: histogram(),
    };
    while let Some(done) = tasks.join_next().await {
        let produced = done.expect("a producer of the bench doesn't panic")?;
        all.records += produced.records;
        all.latency
            .add(produced.latency)
            .expect("histograms of one kind");
    }
    Ok(all)
}

/// One producer.
struct Load {
    producer: Producer,
    topics: Arc<Topics>,
    workload: Workload,
    payload: Payload,
    /// Where this producer begins its round of the partitions.
    first_target: u64,
    until: Until,
    on_their_way: VecDeque<(Delivery, Option<Instant>)>,
    done: Produced,
}

/// When it stops.
enum Until {
    Records(u64),
    Time(Instant),
}

impl Load {
    fn new(client: &Client, workload: &Workload, topics: &Arc<Topics>, number: u32) -> Self {
        let partitions = u64::from(workload.topics) * u64::from(workload.partitions);
        let stride = partitions.div_ceil(u64::from(workload.producers.max(1)));
        Self {
            producer: client
                .producer_builder()
                .compression(workload.compression.into())
                .idempotent(!workload.not_idempotent)
                .build(),
            topics: Arc::clone(topics),
            payload: Payload::new(workload.record_size(), u64::from(number)),
            first_target: stride * u64::from(number),
            until: match workload.share(number) {
                Amount::Records(records) => Until::Records(records),
                Amount::Time(time) => Until::Time(clock::instant() + time),
            },
            on_their_way: VecDeque::with_capacity(workload.in_flight),
            workload: workload.clone(),
            done: Produced {
                records: 0,
                latency: histogram(),
            },
        }
    }

    async fn run(mut self) -> Result<Produced, Error> {
        if self.workload.batch == 0 {
            self.one_by_one().await?;
        } else {
            self.batches().await?;
        }
        while !self.on_their_way.is_empty() {
            self.await_oldest().await?;
        }
        self.producer.close().await?;
        Ok(self.done)
    }

    async fn one_by_one(&mut self) -> Result<(), Error> {
        let sparse = self.workload.in_flight >= SAMPLE_WHEN_IN_FLIGHT;
        let mut sent = 0;
        while self.wants(sent) > 0 {
            self.make_room().await?;
            let sampled = !sparse || sent.is_multiple_of(SAMPLE_EVERY);
            let at = sampled.then(clock::instant);
            let (topic, partition) = self.topics.target(self.first_target + sent);
            let record = RecordRef::of_value(self.payload.next());
            let delivery = self.producer.send_to(topic, partition, &record).await?;
            self.on_their_way.push_back((delivery, at));
            sent += 1;
        }
        self.done.records = sent;
        Ok(())
    }

    async fn batches(&mut self) -> Result<(), Error> {
        let mut builder = BatchBuilder::new(self.workload.compression.into());
        let mut sent = 0;
        let mut number = 0;
        loop {
            let count = self.wants(sent).min(u64::from(self.workload.batch));
            if count == 0 {
                break;
            }
            self.make_room().await?;
            let at = Some(clock::instant());
            for _ in 0..count {
                builder
                    .push(&RecordRef::of_value(self.payload.next()))
                    .map_err(Error::from)?;
            }
            let (topic, partition) = self.topics.target(self.first_target + number);
            let batch = builder.finish();
            let delivery = self.producer.send_batch(topic, partition, batch).await?;
            self.on_their_way.push_back((delivery, at));
            sent += count;
            number += 1;
        }
        self.done.records = sent;
        Ok(())
    }

    /// How many more records there are to send.
    fn wants(&self, sent: u64) -> u64 {
        match self.until {
            Until::Records(records) => records - sent,
            // A look at the clock now and then is enough.
            Until::Time(end) if sent.is_multiple_of(64) && self.has_ended(end) => 0,
            Until::Time(_) => u64::MAX,
        }
    }

    fn has_ended(&self, end: Instant) -> bool {
        self.workload.stopped.load(Ordering::Relaxed) || clock::instant() >= end
    }

    async fn make_room(&mut self) -> Result<(), Error> {
        if self.on_their_way.len() >= self.workload.in_flight.max(1) {
            self.await_oldest().await?;
        }
        Ok(())
    }

    async fn await_oldest(&mut self) -> Result<(), Error> {
        if let Some((delivery, sent_at)) = self.on_their_way.pop_front() {
            delivery.await?;
            if let Some(sent_at) = sent_at {
                let nanos = sent_at.elapsed().as_nanos();
                self.done
                    .latency
                    .saturating_record(u64::try_from(nanos).unwrap_or(u64::MAX));
            }
        }
        Ok(())
    }
}
