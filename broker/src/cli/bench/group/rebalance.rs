//! Partitions that move while records flow.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};
use statecast_client::{BatchBuilder, ClientBuilder, Compression, Consumer, Error, RecordRef};
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};

use super::super::report::{MIB, Metric};
use super::monitor::Monitor;
use super::{Place, Shape};
use crate::cli::failure::Failure;
use crate::cli::units;
use crate::clock;

#[derive(Debug, Clone, Args)]
pub(in crate::cli::bench) struct Rebalance {
    /// Consumers before the kill.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..))]
    consumers: u32,
    /// Partitions of the topic.
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) partitions: u32,
    /// Records in all.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    records: u64,
    /// Size of a record's value, at least 8.
    #[arg(long, value_name = "SIZE", value_parser = units::size, default_value = "1KiB")]
    record_size: u64,
    /// Records in a batch; small ones let each partition have one more often.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Batches on their way.
    #[arg(long, value_name = "N", default_value_t = 16)]
    in_flight: usize,
    #[command(flatten)]
    pub(super) shape: Shape,
}

impl Rebalance {
    pub(super) fn json(&self) -> Map<String, Value> {
        let parameters = json!({
            "consumers": self.consumers,
            "records": self.records,
            "record_size": self.record_size,
            "batch": self.batch,
            "in_flight": self.in_flight,
        });
        parameters.as_object().cloned().unwrap_or_default()
    }
}

pub(super) async fn run(
    bench: Rebalance,
    clients: ClientBuilder,
    place: Place,
) -> Result<Vec<Metric>, Failure> {
    let monitor = Arc::new(Monitor::new(bench.partitions, bench.records));
    let mut members = Vec::new();
    for _ in 0..bench.consumers {
        members.push(Member::start(members.len(), &clients, &place, &monitor).await?);
    }
    until_stable(&place, members.len()).await?;

    let before = super::super::broker(&place.client).await?;
    let (sent, progress) = watch::channel(0);
    let producing = tokio::spawn(produce(bench.clone(), place.clone(), sent));
    let started = clock::instant();
    sent_part(&progress, bench.records / 3).await;
    let killed = clock::instant();
    members.swap_remove(0).kill();
    sent_part(&progress, bench.records / 3 * 2).await;
    let added = clock::instant();
    let newest = Member::start(bench.consumers as usize, &clients, &place, &monitor).await?;
    members.push(newest);
    producing
        .await
        .expect("the producer of the bench doesn't panic")?;
    let produced = started.elapsed();
    monitor.until(bench.records).await;
    let ended = clock::instant();
    let after = super::super::broker(&place.client).await?;
    for member in members {
        member.close().await;
    }

    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let steady = monitor.pauses(started + (killed - started) / 4..killed);
    let kill = monitor.pauses(killed..added);
    let add = monitor.pauses(added..ended);
    let time = (ended - started).as_secs_f64();
    let mb = (bench.records * bench.record_size) as f64 / 1e6;
    Ok(vec![
        ("records_per_s", "records/s", bench.records as f64 / time),
        ("mb_per_s", "MB/s", mb / time),
        ("produced_s", "PRODUCED s", produced.as_secs_f64()),
        ("steady_pause_ms", "STEADY ms", millis(steady.untouched)),
        ("kill_pause_ms", "KILL ms", millis(kill.untouched)),
        ("kill_moved", "MOVED", kill.moved as f64),
        ("kill_takeover_ms", "TAKEOVER ms", millis(kill.takeover)),
        ("add_pause_ms", "ADD ms", millis(add.untouched)),
        ("add_moved", "MOVED", add.moved as f64),
        ("add_takeover_ms", "TAKEOVER ms", millis(add.takeover)),
        ("repeated", "REPEATED", monitor.repeated() as f64),
        (
            "broker_rss_mib",
            "RSS MiB",
            after.resident_bytes as f64 / MIB,
        ),
        (
            "broker_cpu_s",
            "CPU s",
            after.cpu_time.saturating_sub(before.cpu_time).as_secs_f64(),
        ),
    ])
}

/// Waits until so many records were sent; or all, or none will be any more.
async fn sent_part(progress: &watch::Receiver<u64>, records: u64) {
    let mut progress = progress.clone();
    // Its end is that of the producer, which tells how it went.
    let _ = progress.wait_for(|sent| *sent >= records).await;
}

/// As the broker sees it: the members live in runtimes of their own.
async fn until_stable(place: &Place, members: usize) -> Result<(), Error> {
    place.until_stable(members, 0, std::iter::empty).await
}

/// Sends numbered records, batches to all partitions in turn, and tells how many
/// are acknowledged.
async fn produce(bench: Rebalance, place: Place, sent: watch::Sender<u64>) -> Result<(), Error> {
    let producer = place.client.producer();
    let mut builder = BatchBuilder::new(Compression::None);
    let mut value = vec![0x5C; usize::try_from(bench.record_size.max(8)).unwrap_or(usize::MAX)];
    let mut on_their_way = VecDeque::new();
    let mut number = 0;
    let mut batches = 0;
    while number < bench.records {
        let count = u64::from(bench.batch).min(bench.records - number);
        for number in number..number + count {
            value[..8].copy_from_slice(&number.to_le_bytes());
            builder.push(&RecordRef::of_value(&value))?;
        }
        if on_their_way.len() >= bench.in_flight.max(1)
            && let Some((delivery, count)) = on_their_way.pop_front()
        {
            let delivery: statecast_client::Delivery = delivery;
            delivery.await?;
            sent.send_modify(|sent| *sent += count);
        }
        let (topic, partition) = place.topics.target(batches);
        let delivery = producer
            .send_batch(topic, partition, builder.finish())
            .await?;
        on_their_way.push_back((delivery, count));
        number += count;
        batches += 1;
    }
    producer.close().await?;
    sent.send_replace(number);
    Ok(())
}

/// A member in a runtime of its own, which ends with its connection when it is
/// killed: all that the broker sees of the end of a process.
struct Member {
    runtime: Option<Runtime>,
    stop: Option<oneshot::Sender<()>>,
    stopped: oneshot::Receiver<()>,
}

impl Member {
    async fn start(
        number: usize,
        clients: &ClientBuilder,
        place: &Place,
        monitor: &Arc<Monitor>,
    ) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(Failure::failed)?;
        let (stop, stopping) = oneshot::channel();
        let (ended, stopped) = oneshot::channel();
        let (clients, place) = (clients.clone(), place.clone());
        let opened = runtime.spawn(async move {
            let client = clients.connect_lazy()?;
            place.consumer(&client).open().await
        });
        let member = Self {
            runtime: Some(runtime),
            stop: Some(stop),
            stopped,
        };
        let consumer = opened.await.expect("opening doesn't panic")?;
        let work = work(number, consumer, Arc::clone(monitor), stopping, ended);
        if let Some(runtime) = &member.runtime {
            runtime.spawn(work);
        }
        Ok(member)
    }

    /// Ends it as a crash does.
    fn kill(self) {
        drop(self);
    }

    /// Lets it commit and leave.
    async fn close(mut self) {
        if let Some(stop) = self.stop.take() {
            // It may have ended already.
            let _ = stop.send(());
        }
        let _ = (&mut self.stopped).await;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn work(
    number: usize,
    mut consumer: Consumer,
    monitor: Arc<Monitor>,
    mut stopping: oneshot::Receiver<()>,
    ended: oneshot::Sender<()>,
) {
    loop {
        let batch = tokio::select! {
            batch = consumer.next_batch() => batch,
            _ = &mut stopping => break,
        };
        let delivered = match batch {
            None => break,
            Some(batch) => batch.and_then(|batch| monitor.deliver(number, &batch)),
        };
        if let Err(error) = delivered {
            anstream::eprintln!("warning: member {number}: {error}");
            break;
        }
    }
    if let Err(error) = consumer.close().await {
        anstream::eprintln!("warning: member {number}: {error}");
    }
    let _ = ended.send(());
}
