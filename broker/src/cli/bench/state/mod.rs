//! Benches of state: what is true, and who hears of it.

mod counter;
mod leases;
mod read;
mod watch;

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::Value;
use statecast_client::{Cleanup, Client, Error, FlushLevel, TopicConfig};

use super::report::{Metric, report};
use crate::cli::common::Common;
use crate::cli::failure::Failure;
use crate::cli::signals::stop_requested;
use crate::cli::units;

#[derive(Debug, Clone, Subcommand)]
pub(super) enum StateBench {
    /// Fill a topic with keys; when the broker is done with that, take a snapshot of it, from the call to `synced`
    /// (SNAPSHOT); get random keys as fast as the calls in flight allow, and then at a
    /// fixed rate, where latency is from when a call was meant to be made.
    Read(read::Read),
    /// Change random keys at a fixed rate while many watch, each a prefix of its own;
    /// latency is from when a change was meant to be made to when its watcher has it.
    Watch(watch::Watch),
    /// Let several clients count up one key by compare and set.
    Counter(counter::Counter),
    /// Grant leases as fast as may be, put a key with each, and let them end: how long after
    /// its time each key is gone, and what gets of another key take meanwhile.
    Leases(leases::Leases),
}

/// What all of these take.
#[derive(Debug, Clone, Args)]
struct Shape {
    /// Partitions of the topic.
    #[arg(long, value_name = "N", default_value_t = 4)]
    partitions: u32,
    /// Flush level of the topic.
    #[arg(long, value_name = "LEVEL", value_parser = units::flush_level, default_value = "always")]
    flush: FlushLevel,
    /// How often the bench runs; medians are reported.
    #[arg(long, value_name = "N", default_value_t = 1)]
    runs: usize,
}

impl StateBench {
    pub(super) async fn run(self, common: &Common) -> Result<(), Failure> {
        match self {
            Self::Read(bench) => {
                let run = |client, topic| read::run(bench.clone(), client, topic);
                measure(common, "read", &bench.shape, bench.json(), run).await
            }
            Self::Watch(bench) => {
                let connect = || common.client_builder();
                let run = |client, topic| watch::run(bench.clone(), connect(), client, topic);
                measure(common, "watch", &bench.shape, bench.json(), run).await
            }
            Self::Counter(bench) => {
                let run = |client, topic| counter::run(bench.clone(), client, topic);
                measure(common, "counter", &bench.shape, bench.json(), run).await
            }
            Self::Leases(bench) => {
                let run = |client, topic| leases::run(bench.clone(), client, topic);
                measure(common, "leases", &bench.shape, bench.json(), run).await
            }
        }
    }
}

/// Runs a bench as often as it says, each time with a new topic, and reports.
async fn measure<F>(
    common: &Common,
    name: &str,
    shape: &Shape,
    mut parameters: Value,
    run: impl Fn(Client, String) -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Result<Vec<Metric>, Error>>,
{
    common.connect().await?;
    let progress = super::progress(common, name, shape.runs);
    let mut rows = Vec::new();
    let mut stop = pin!(stop_requested()?);
    for number in 0..shape.runs.max(1) {
        let client = common.client_builder().connect_lazy()?;
        let topic = format!("bench-{}-{number}", std::process::id());
        let config = TopicConfig::new()
            .cleanup(Cleanup::Compact)
            .flush(shape.flush);
        let admin = client.admin();
        admin
            .create_topic(&topic, Some(shape.partitions), config)
            .await?;
        let row = tokio::select! {
            row = run(client.clone(), topic.clone()) => row.map_err(Failure::from),
            () = &mut stop => Err(Failure::failed("interrupted")),
        };
        admin.delete_topic(&topic).await?;
        rows.push(row?);
        progress.inc(1);
    }
    progress.finish_and_clear();
    parameters["partitions"] = shape.partitions.into();
    parameters["flush"] = units::show_flush(shape.flush).into();
    report(common, &format!("state-{name}"), &parameters, &rows)
}

/// A number that looks random, the same one each time.
fn scrambled(number: u64) -> u64 {
    let mixed = (number ^ (number >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53) >> 1
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
