//! From when a record was meant to be sent to when a consumer has it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use statecast_client::{Client, Error, Producer, Reader, RecordRef};
use tokio::runtime::Handle;

use super::payload::Payload;
use super::report::{Figures, histogram};
use super::workload::{Amount, Topics, Workload};
use crate::clock;

/// A rate and its load. Records are sent one by one.
#[derive(Debug, Clone, Args)]
pub(super) struct EndToEnd {
    /// Records a second, of all producers together.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    #[command(flatten)]
    workload: Workload,
}

impl EndToEnd {
    /// The load, as far as it makes sense at a fixed rate.
    pub(super) fn workload(&self) -> Workload {
        let workload = self.workload.clone();
        let bounded = workload.bytes.is_some() || workload.records.is_some();
        Workload {
            batch: 0,
            rate: Some(self.rate),
            duration: workload
                .duration
                .or((!bounded).then_some(Duration::from_secs(10))),
            ..workload
        }
    }

    /// Records in all.
    fn records(&self) -> u64 {
        match self.workload().total() {
            Amount::Records(records) => records,
            Amount::Time(time) => {
                let thousandths = u128::from(self.rate) * time.as_millis();
                u64::try_from(thousandths / 1000).unwrap_or(u64::MAX)
            }
        }
    }
}

pub(super) async fn end_to_end(
    client: Client,
    load: EndToEnd,
    topics: Arc<Topics>,
) -> Result<Figures, Error> {
    let workload = load.workload();
    let producers = u64::from(workload.producers.max(1));
    let records = load.records().div_ceil(producers) * producers;
    let before = super::broker(&client).await?;
    let started = clock::instant();
    let mut consumers = Vec::new();
    for topic in topics.names() {
        for _ in 0..workload.consumers {
            let reader = workload.reader(&client, topic).open().await?;
            let share = records / topics.names().len() as u64;
            consumers.push(tokio::spawn(receive(reader, share, started)));
        }
    }
    let pacers: Vec<_> = (0..workload.producers)
        .map(|number| {
            let pacer = Pacer {
                producer: client.producer(),
                topics: Arc::clone(&topics),
                payload: Payload::new(workload.record_size().max(8), u64::from(number)),
                started,
                first: u64::from(number),
                step: producers,
                end: records,
                rate: f64::from(load.rate),
            };
            let runtime = Handle::current();
            tokio::task::spawn_blocking(move || pacer.run(&runtime))
        })
        .collect();
    for pacer in pacers {
        pacer
            .await
            .expect("a producer of the bench doesn't panic")?;
    }
    let mut latency = histogram();
    for consumer in consumers {
        let seen = consumer
            .await
            .expect("a consumer of the bench doesn't panic")?;
        latency.add(seen).expect("histograms of one kind");
    }
    let mut figures = Figures::new(latency.len(), workload.record_size, started.elapsed());
    figures.latency = Some(latency);
    Ok(figures.with_broker(&before, &super::broker(&client).await?))
}

/// Sends records at their times, whatever became of those before. On a thread
/// of its own: the runtime's timers tick in milliseconds.
struct Pacer {
    producer: Producer,
    topics: Arc<Topics>,
    payload: Payload,
    started: Instant,
    /// Sends this record and every `step`-th after it, before `end`.
    first: u64,
    step: u64,
    end: u64,
    /// Of all pacers together.
    rate: f64,
}

impl Pacer {
    fn run(mut self, runtime: &Handle) -> Result<(), Error> {
        let mut value = Vec::new();
        let mut number = self.first;
        while number < self.end {
            let due = Duration::from_secs_f64(number as f64 / self.rate);
            sleep_until(self.started + due);
            value.clear();
            value.extend_from_slice(self.payload.next());
            let stamp = u64::try_from(due.as_nanos()).unwrap_or(u64::MAX);
            value[..8].copy_from_slice(&stamp.to_le_bytes());
            let (topic, partition) = self.topics.target(number);
            let record = RecordRef::of_value(&value);
            // What becomes of it, the consumer tells.
            drop(runtime.block_on(self.producer.send_to(topic, partition, &record))?);
            number += self.step;
        }
        runtime.block_on(self.producer.close())
    }
}

fn sleep_until(time: Instant) {
    let left = time.saturating_duration_since(clock::instant());
    if !left.is_zero() {
        std::thread::sleep(left);
    }
}

/// Takes so many records and compares the times in them with the clock.
async fn receive(
    mut reader: Reader,
    records: u64,
    started: Instant,
) -> Result<Histogram<u64>, Error> {
    let mut latency = histogram();
    while latency.len() < records {
        let Some(batch) = reader.next_batch().await else {
            break;
        };
        let batch = batch?;
        let now = started.elapsed().as_nanos();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        for record in batch.views() {
            let value = record?.value.unwrap_or_default();
            let stamp = value
                .first_chunk()
                .map_or(0, |bytes| u64::from_le_bytes(*bytes));
            latency.saturating_record(now.saturating_sub(stamp).max(1));
        }
    }
    Ok(latency)
}
