//! Commits one by one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use statecast_client::{
    Batch, BatchBuilder, CommitPosition, Compression, Consumer, ConsumerHandle, Error, Reason,
    RecordRef,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::super::report::{MIB, Metric, histogram, percentiles};
use super::{Place, Shape};
use crate::cli::failure::Failure;
use crate::clock;

/// Records in a batch of those that are committed.
const BATCH: u64 = 1000;
/// Batches of a partition that wait while others are committed.
const BATCHES_AHEAD: usize = 16;

#[derive(Debug, Clone, Args)]
pub(in crate::cli::bench) struct Commits {
    /// Members that commit.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    members: u32,
    /// Partitions of each member; each has one commit on its way.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    partitions_per_member: u32,
    /// Commits in all.
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
        let parameters = json!({ "members": self.members, "commits": self.count });
        parameters.as_object().cloned().unwrap_or_default()
    }
}

/// What all members together have done.
#[derive(Default)]
struct Done {
    commits: AtomicU64,
    refused: AtomicU64,
}

pub(super) async fn run(bench: Commits, place: Place) -> Result<Vec<Metric>, Failure> {
    let partitions = bench.partitions();
    let share = bench.count.div_ceil(u64::from(partitions)).max(1);
    fill(&place, partitions, share).await?;
    let mut consumers = Vec::new();
    for _ in 0..bench.members {
        // Nothing is committed but what the bench commits.
        let consumer = place.consumer(&place.client).auto_commit(false);
        consumers.push(consumer.open().await?);
    }
    let members = consumers.len();
    place
        .until_stable(members, partitions, || consumers.iter())
        .await?;

    let done = Arc::new(Done::default());
    let (all, is_all) = watch::channel(false);
    let target = share * u64::from(partitions);
    let before = super::super::broker(&place.client).await?;
    let started = clock::instant();
    let mut working = JoinSet::new();
    for consumer in consumers {
        let member = Member {
            done: Arc::clone(&done),
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
    let time = started.elapsed().as_secs_f64();
    let after = super::super::broker(&place.client).await?;
    let cpu = after.cpu_time.saturating_sub(before.cpu_time);
    let mut metrics = vec![("commits_per_s", "COMMITS/s", target as f64 / time)];
    metrics.extend(percentiles(&latency));
    let refused = done.refused.load(Ordering::Relaxed);
    metrics.extend([
        ("refused", "REFUSED", refused as f64),
        ("broker_cpu_s", "CPU s", cpu.as_secs_f64()),
        (
            "broker_rss_mib",
            "RSS MiB",
            after.resident_bytes as f64 / MIB,
        ),
        ("seconds", "s", time),
    ]);
    Ok(metrics)
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
    /// Told once all is committed.
    all: watch::Sender<bool>,
    target: u64,
}

impl Member {
    /// Commits each record that comes, those of a partition one after the other,
    /// until all records of all members are committed.
    async fn work(
        self,
        mut consumer: Consumer,
        mut is_all: watch::Receiver<bool>,
    ) -> Result<Histogram<u64>, Error> {
        let this = Arc::new(self);
        let mut committing = JoinSet::new();
        let mut partitions = HashMap::new();
        loop {
            let batch = tokio::select! {
                batch = consumer.next_batch() => batch,
                _ = is_all.wait_for(|all| *all) => break,
            };
            let Some(batch) = batch else { break };
            let batch = batch?;
            let queue = partitions.entry(batch.partition()).or_insert_with(|| {
                let (queue, batches) = mpsc::channel(BATCHES_AHEAD);
                committing.spawn(Arc::clone(&this).commit_all(consumer.handle(), batches));
                queue
            });
            // When nobody takes it any more, the task tells why.
            if queue.send(batch).await.is_err() {
                break;
            }
        }
        drop(partitions);
        let mut latency = histogram();
        while let Some(done) = committing.join_next().await {
            let seen = done.expect("a commit doesn't panic")?;
            latency.add(seen).expect("histograms of one kind");
        }
        consumer.close().await?;
        Ok(latency)
    }

    /// Commits each record of a partition.
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
