//! Partitions that move while records flow; and, to compare, the same load while
//! none do.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};
use statecast_client::{
    BatchBuilder, ClientBuilder, Compression, Consumer, Delivery, Error, RecordRef,
};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};

use super::super::broker;
use super::super::report::{MIB, Metric};
use super::monitor::{Monitor, Pauses};
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

/// How it went.
struct Pass {
    monitor: Arc<Monitor>,
    /// From a quarter of the way to the kill on.
    steady: Pauses,
    kill: Pauses,
    add: Pauses,
    produced: Duration,
    time: Duration,
    broker_cpu: Duration,
    broker_resident: u64,
}

/// What happens on the way, if anything: the same is measured either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Changes {
    None,
    KillAndAdd,
}

pub(super) async fn run(
    bench: Rebalance,
    clients: ClientBuilder,
    place: Place,
) -> Result<Vec<Metric>, Failure> {
    let another = place.another("calm");
    let calm = pass(&bench, &clients, &another, Changes::None).await?;
    another.forget_group().await;
    let pass = pass(&bench, &clients, &place, Changes::KillAndAdd).await?;
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let of_calm = |of: fn(&Pauses) -> Duration| {
        let parts = [&calm.steady, &calm.kill, &calm.add];
        millis(parts.into_iter().map(of).max().unwrap_or_default())
    };
    let Pass { kill, add, .. } = pass;
    let time = pass.time.as_secs_f64();
    let mb = (bench.records * bench.record_size) as f64 / 1e6;
    Ok(vec![
        ("records_per_s", "records/s", bench.records as f64 / time),
        ("mb_per_s", "MB/s", mb / time),
        ("produced_s", "PRODUCED s", pass.produced.as_secs_f64()),
        (
            "calm_pause_ms",
            "PAUSE ms: CALM",
            of_calm(|part| part.pause),
        ),
        ("kill_pause_ms", "KILL", millis(kill.pause)),
        ("add_pause_ms", "ADD", millis(add.pause)),
        (
            "calm_quiet_ms",
            "QUIET ms: CALM",
            of_calm(|part| part.quiet),
        ),
        ("kill_quiet_ms", "KILL", millis(kill.quiet)),
        ("add_quiet_ms", "ADD", millis(add.quiet)),
        ("kill_moved", "MOVED: KILL", kill.moved as f64),
        ("add_moved", "ADD", add.moved as f64),
        (
            "kill_takeover_ms",
            "TAKEOVER ms: KILL",
            millis(kill.takeover),
        ),
        ("add_takeover_ms", "ADD", millis(add.takeover)),
        ("repeated", "REPEATED", pass.monitor.repeated() as f64),
        (
            "broker_rss_mib",
            "RSS MiB",
            pass.broker_resident as f64 / MIB,
        ),
        ("broker_cpu_s", "CPU s", pass.broker_cpu.as_secs_f64()),
    ])
}

/// Produces all records while members consume them.
async fn pass(
    bench: &Rebalance,
    clients: &ClientBuilder,
    place: &Place,
    changes: Changes,
) -> Result<Pass, Failure> {
    let monitor = Monitor::new(bench.partitions, bench.records, bench.batch);
    let monitor = Arc::new(monitor);
    let mut members = Vec::new();
    for _ in 0..bench.consumers {
        members.push(Member::start(members.len(), clients, place, &monitor).await?);
    }
    until_stable(place, members.len()).await?;

    let before = broker(&place.client).await?;
    let (sent, progress) = watch::channel(0);
    let producing = produce(bench.clone(), place.clone(), Arc::clone(&monitor), sent);
    let producing = tokio::spawn(producing);
    let started = clock::instant();
    sent_part(&progress, bench.records / 3).await;
    let killed = clock::instant();
    if changes == Changes::KillAndAdd {
        members.swap_remove(0).kill();
    }
    sent_part(&progress, bench.records / 3 * 2).await;
    let added = clock::instant();
    if changes == Changes::KillAndAdd {
        let number = bench.consumers as usize;
        members.push(Member::start(number, clients, place, &monitor).await?);
    }
    producing
        .await
        .expect("the producer of the bench doesn't panic")?;
    let produced = started.elapsed();
    monitor.until(bench.records).await;
    let ended = clock::instant();
    let after = broker(&place.client).await?;
    for member in members {
        member.close().await;
    }
    Ok(Pass {
        steady: monitor.pauses(started + (killed - started) / 4..killed),
        kill: monitor.pauses(killed..added),
        add: monitor.pauses(added..ended),
        monitor,
        produced,
        time: ended - started,
        broker_cpu: after.cpu_time.saturating_sub(before.cpu_time),
        broker_resident: after.resident_bytes,
    })
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
async fn produce(
    bench: Rebalance,
    place: Place,
    monitor: Arc<Monitor>,
    sent: watch::Sender<u64>,
) -> Result<(), Error> {
    let (on_their_way, deliveries) = mpsc::channel(bench.in_flight.max(1));
    let acknowledging = tokio::spawn(acknowledge(deliveries, monitor, sent));
    let producer = place.client.producer();
    let mut builder = BatchBuilder::new(Compression::None);
    let mut value = vec![0x5C; usize::try_from(bench.record_size.max(8)).unwrap_or(usize::MAX)];
    let mut number = 0;
    let mut batches = 0;
    while number < bench.records {
        let count = u64::from(bench.batch).min(bench.records - number);
        for number in number..number + count {
            value[..8].copy_from_slice(&number.to_le_bytes());
            builder.push(&RecordRef::of_value(&value))?;
        }
        // When nobody takes it any more, the task tells why.
        let Ok(room) = on_their_way.reserve().await else {
            break;
        };
        let partition = batches % bench.partitions;
        let delivery = producer
            .send_batch(place.topic(), partition, builder.finish())
            .await?;
        room.send((delivery, number..number + count));
        number += count;
        batches += 1;
    }
    drop(on_their_way);
    acknowledging.await.expect("waiting doesn't panic")?;
    producer.close().await
}

/// Waits for what is on its way, in the order in which it was sent, which is that of
/// the acknowledgements as well.
async fn acknowledge(
    mut deliveries: mpsc::Receiver<(Delivery, Range<u64>)>,
    monitor: Arc<Monitor>,
    sent: watch::Sender<u64>,
) -> Result<(), Error> {
    while let Some((delivery, numbers)) = deliveries.recv().await {
        delivery.await?;
        monitor.acknowledge(numbers.start);
        sent.send_replace(numbers.end);
    }
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
