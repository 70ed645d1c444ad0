//! Commits one by one: first each member waits for the answer to one before it sends
//! the next, then it has as many on their way as it has partitions.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use statecast_client::{
    Batch, BatchBuilder, CommitPosition, Compression, Consumer, ConsumerHandle, Error, Reason,
    RecordRef,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::super::broker;
use super::super::report::{MIB, Metric, histogram, percentiles};
use super::{Place, Shape};
use crate::cli::failure::Failure;
use crate::clock;

/// Records in a batch of those that are committed.
const BATCH: u64 = 1000;
/// Batches that wait while others are committed.
const BATCHES_AHEAD: usize = 16;

#[derive(Debug, Clone, Args)]
pub(in crate::cli::bench) struct Commits {
    /// Members that commit.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    members: u32,
    /// Partitions of each member, and commits that it has on their way in the
    /// second half.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    partitions_per_member: u32,
    /// Commits in each half.
    #[arg(long = "commits", value_name = "N", default_value_t = 200_000)]
    count: u64,
    #[command(flatten)]
    pub(super) shape: Shape,
}

impl Commits {
    pub(super) fn partitions(&self) -> u32 {
        self.members.saturating_mul(self.partitions_per_member)
    }

    pub(super) fn json(&self) -> Map<String, Value> {
        let parameters = json!({
            "members": self.members,
            "partitions_per_member": self.partitions_per_member,
            "commits": self.count,
        });
        parameters.as_object().cloned().unwrap_or_default()
    }
}

/// How many commits a member has on their way.
#[derive(Debug, Clone, Copy)]
enum InFlight {
    One,
    OnePerPartition,
}

/// What all members together have done.
#[derive(Default)]
struct Done {
    commits: AtomicU64,
    refused: AtomicU64,
}

/// How one half went.
struct Half {
    commits: u64,
    refused: u64,
    time: Duration,
    latency: Histogram<u64>,
    broker_cpu: Duration,
}

pub(super) async fn run(bench: Commits, place: Place) -> Result<Vec<Metric>, Failure> {
    let partitions = bench.partitions();
    let share = bench.count.div_ceil(u64::from(partitions)).max(1);
    fill(&place, partitions, share).await?;
    let target = share * u64::from(partitions);
    let another = place.another("alone");
    let one = commit(&bench, &another, target, InFlight::One).await?;
    another.forget_group().await;
    let many = commit(&bench, &place, target, InFlight::OnePerPartition).await?;
    let resident = broker(&place.client).await?.resident_bytes;

    let [p50, _, p99, _, max] = percentiles(&one.latency);
    let mut metrics = vec![
        ("one_commits_per_s", "ONE IN FLIGHT: COMMITS/s", one.rate()),
        ("one_p50_us", p50.1, p50.2),
        ("one_p99_us", p99.1, p99.2),
        ("one_max_us", max.1, max.2),
        ("one_broker_cpu_us", "CPU µs", one.broker_cpu_us()),
        ("commits_per_s", "MANY: COMMITS/s", many.rate()),
    ];
    metrics.extend(percentiles(&many.latency));
    let refused = one.refused + many.refused;
    metrics.extend([
        ("broker_cpu_us", "CPU µs", many.broker_cpu_us()),
        ("refused", "REFUSED", refused as f64),
        ("broker_rss_mib", "RSS MiB", resident as f64 / MIB),
    ]);
    Ok(metrics)
}

impl Half {
    fn rate(&self) -> f64 {
        self.commits as f64 / self.time.as_secs_f64().max(1e-9)
    }

    /// For each commit.
    fn broker_cpu_us(&self) -> f64 {
        self.broker_cpu.as_secs_f64() * 1e6 / self.commits as f64
    }
}

/// Has the members of a new group commit each record of the topic.
async fn commit(
    bench: &Commits,
    place: &Place,
    target: u64,
    in_flight: InFlight,
) -> Result<Half, Failure> {
    let mut consumers = Vec::new();
    for _ in 0..bench.members {
        // Nothing is committed but what the bench commits.
        let consumer = place.consumer(&place.client).auto_commit(false);
        consumers.push(consumer.open().await?);
    }
    let members = consumers.len();
    place
        .until_stable(members, bench.partitions(), || consumers.iter())
        .await?;

    let done = Arc::new(Done::default());
    let (all, is_all) = watch::channel(false);
    let before = broker(&place.client).await?;
    let started = clock::instant();
    let mut working = JoinSet::new();
    for consumer in consumers {
        let member = Member {
            done: Arc::clone(&done),
            in_flight,
            all: all.clone(),
            target,
        };
        working.spawn(member.work(consumer, is_all.clone()));
    }
    let mut latency = histogram();
    while let Some(worked) = working.join_next().await {
        let seen = worked.expect("a member of the bench doesn't panic")?;
        latency.add(seen).expect("histograms of one kind");
    }
    let time = started.elapsed();
    let after = broker(&place.client).await?;
    Ok(Half {
        commits: target,
        refused: done.refused.load(Ordering::Relaxed),
        time,
        latency,
        broker_cpu: after.cpu_time.saturating_sub(before.cpu_time),
    })
}

/// Gives each partition so many records.
async fn fill(place: &Place, partitions: u32, records: u64) -> Result<(), Error> {
    let producer = place.client.producer();
    let mut builder = BatchBuilder::new(Compression::None);
    for partition in 0..partitions {
        let mut left = records;
        while left > 0 {
            let count = left.min(BATCH);
            for _ in 0..count {
                builder.push(&RecordRef::of_value(b"commit me"))?;
            }
            left -= count;
            let batch = builder.finish();
            drop(producer.send_batch(place.topic(), partition, batch).await?);
        }
    }
    producer.close().await
}

struct Member {
    done: Arc<Done>,
    in_flight: InFlight,
    /// Told once all is committed.
    all: watch::Sender<bool>,
    target: u64,
}

impl Member {
    /// Commits each record that comes, those of a partition, or all, one after the
    /// other, until all records of all members are committed.
    async fn work(
        self,
        mut consumer: Consumer,
        mut is_all: watch::Receiver<bool>,
    ) -> Result<Histogram<u64>, Error> {
        let this = Arc::new(self);
        let mut committing = JoinSet::new();
        let mut queues = HashMap::new();
        loop {
            let batch = tokio::select! {
                batch = consumer.next_batch() => batch,
                _ = is_all.wait_for(|all| *all) => break,
            };
            let Some(batch) = batch else { break };
            let batch = batch?;
            let queue = match this.in_flight {
                InFlight::One => 0,
                InFlight::OnePerPartition => batch.partition(),
            };
            let queue = queues.entry(queue).or_insert_with(|| {
                let (queue, batches) = mpsc::channel(BATCHES_AHEAD);
                committing.spawn(Arc::clone(&this).commit_all(consumer.handle(), batches));
                queue
            });
            // When nobody takes it any more, the task tells why.
            if queue.send(batch).await.is_err() {
                break;
            }
        }
        drop(queues);
        let mut latency = histogram();
        while let Some(done) = committing.join_next().await {
            let seen = done.expect("a commit doesn't panic")?;
            latency.add(seen).expect("histograms of one kind");
        }
        consumer.close().await?;
        Ok(latency)
    }

    /// Commits each record, one after the other.
    async fn commit_all(
        self: Arc<Self>,
        handle: ConsumerHandle,
        mut batches: mpsc::Receiver<Batch>,
    ) -> Result<Histogram<u64>, Error> {
        let mut latency = histogram();
        while let Some(batch) = batches.recv().await {
            for offset in batch.offsets() {
                let mut position = CommitPosition::from(&batch);
                position.offset = offset + 1;
                let sent = clock::instant();
                match handle.commit(position).await {
                    Ok(()) => {
                        let nanos = u64::try_from(sent.elapsed().as_nanos());
                        latency.saturating_record(nanos.unwrap_or(u64::MAX));
                        self.count();
                    }
                    // It went on to another member, which commits it.
                    Err(error) if error.reason() == Some(Reason::StaleGeneration) => {
                        self.done.refused.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(latency)
    }

    fn count(&self) {
        if self.done.commits.fetch_add(1, Ordering::Relaxed) + 1 == self.target {
            self.all.send_replace(true);
        }
    }
}
