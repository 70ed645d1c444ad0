//! Benches of consumer groups.

mod commits;
mod join;
mod monitor;
mod rebalance;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use statecast_client::{Client, Consumer, ConsumerBuilder, Error, FlushLevel, GroupState};

use super::report::{Metric, report};
use super::workload::Topics;
use crate::cli::common::Common;
use crate::cli::failure::Failure;
use crate::cli::signals::stop_requested;
use crate::cli::units;

/// How often is looked whether something has come about.
const LOOK: Duration = Duration::from_millis(10);

#[derive(Debug, Clone, Subcommand)]
pub(super) enum GroupBench {
    /// Produce numbered records at full speed while consumers share them: once
    /// in calm, and once while one consumer is killed after a third of the
    /// records and one added after two thirds. Of partitions that no other
    /// consumer got: the longest time in which one had acknowledged records
    /// and delivered none (PAUSE), and the longest time between two deliveries
    /// (QUIET), which a slow producer or disk makes longer; at any time in
    /// calm, from the kill to the addition, and from there to the end.
    Rebalance(rebalance::Rebalance),
    /// Commit each record by itself, and wait until it is durable: in the first
    /// half each member has one commit on its way, in the second half one for
    /// each of its partitions. Latency is that of a commit, CPU what one costs
    /// the broker.
    Commits(commits::Commits),
    /// Let many members join, and then some leave at once: how long until
    /// every partition has its member, and what that costs the broker.
    Join(join::Join),
}

/// What all of these take.
#[derive(Debug, Clone, Args)]
pub(super) struct Shape {
    /// Flush level of the topic.
    #[arg(long, value_name = "LEVEL", value_parser = units::flush_level, default_value = "always")]
    flush: FlushLevel,
    /// Connections for producers, and as many for consumers.
    #[arg(long, value_name = "N", default_value_t = 2)]
    connections: usize,
    /// How often the bench runs; medians are reported.
    #[arg(long, value_name = "N", default_value_t = 1)]
    runs: usize,
    /// When to give up.
    #[arg(long, value_name = "TIME", value_parser = units::timeout, default_value = "5m")]
    timeout: Duration,
}

/// Topics and a group of one run.
#[derive(Debug, Clone)]
struct Place {
    client: Client,
    topics: Arc<Topics>,
    /// Which of them the group reads.
    topic: usize,
    group: String,
}

impl GroupBench {
    pub(super) async fn run(self, common: &Common) -> Result<(), Failure> {
        match self {
            Self::Rebalance(bench) => {
                let run = |place| rebalance::run(bench.clone(), common.client_builder(), place);
                let (shape, topics) = (&bench.shape, (2, bench.partitions));
                measure(common, "rebalance", shape, topics, bench.json(), run).await
            }
            Self::Commits(bench) => {
                let run = |place| commits::run(bench.clone(), place);
                let (shape, topics) = (&bench.shape, (1, bench.partitions()));
                measure(common, "commits", shape, topics, bench.json(), run).await
            }
            Self::Join(bench) => {
                let run = |place| join::run(bench.clone(), place);
                let (shape, topics) = (&bench.shape, (1, bench.partitions));
                measure(common, "join", shape, topics, bench.json(), run).await
            }
        }
    }
}

/// Runs a bench as often as it says, each time with so many new topics, and reports.
async fn measure<F>(
    common: &Common,
    name: &str,
    shape: &Shape,
    (topics, partitions): (u32, u32),
    mut parameters: Map<String, Value>,
    run: impl Fn(Place) -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Result<Vec<Metric>, Failure>>,
{
    common.connect().await?;
    let progress = super::progress(common, name, shape.runs);
    let mut rows = Vec::new();
    let mut stop = pin!(stop_requested()?);
    for number in 0..shape.runs.max(1) {
        let client = common
            .client_builder()
            .connections(shape.connections)
            .connect_lazy()?;
        let topics = Topics::make(&client, topics, partitions, shape.flush).await?;
        let place = Place {
            client: client.clone(),
            topics: Arc::new(topics),
            topic: 0,
            group: format!("bench-{}-{number}", std::process::id()),
        };
        let row = tokio::select! {
            row = tokio::time::timeout(shape.timeout, run(place.clone())) => row.unwrap_or_else(|_| {
                let waited = units::show_duration(shape.timeout);
                Err(Failure::failed(format_args!("not done within {waited}")))
            }),
            () = &mut stop => Err(Failure::failed("interrupted")),
        };
        place.delete().await?;
        rows.push(row?);
        progress.inc(1);
    }
    progress.finish_and_clear();
    parameters.insert("partitions".to_owned(), json!(partitions));
    parameters.insert("flush".to_owned(), json!(units::show_flush(shape.flush)));
    parameters.insert("connections".to_owned(), json!(shape.connections));
    report(common, &format!("group-{name}"), &parameters.into(), &rows)
}

impl Place {
    fn topic(&self) -> &str {
        &self.topics.names()[self.topic]
    }

    /// Deletes the topics and the group.
    async fn delete(&self) -> Result<(), Error> {
        self.topics.delete().await?;
        self.forget_group().await;
        Ok(())
    }

    /// Another group, which reads the last topic.
    fn another(&self, name: &str) -> Place {
        Place {
            group: format!("{}-{name}", self.group),
            topic: self.topics.names().len() - 1,
            ..self.clone()
        }
    }

    /// Deletes the group.
    async fn forget_group(&self) {
        // It has no members any more, unless the broker is slow to see that.
        if let Err(error) = self.client.admin().delete_group(&self.group).await {
            tracing::debug!(%error, "the group of a bench is left behind");
        }
    }

    /// A member of the group, through this client.
    fn consumer(&self, client: &Client) -> ConsumerBuilder {
        client.consumer(&self.group).topic(self.topic())
    }

    /// Waits until the group has so many members, and each partition its own:
    /// as the broker sees it, and as these members do.
    async fn until_stable<'a, C>(
        &self,
        members: usize,
        partitions: u32,
        consumers: impl Fn() -> C,
    ) -> Result<(), Error>
    where
        C: Iterator<Item = &'a Consumer>,
    {
        loop {
            let groups = self.client.admin().list_groups(&self.group).await?;
            let is_stable = groups.iter().any(|group| {
                group.name == self.group
                    && group.state == GroupState::Stable
                    && group.members as usize == members
            });
            let assigned = |consumer: &Consumer| consumer.assignment().len();
            if is_stable && consumers().map(assigned).sum::<usize>() == partitions as usize {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
