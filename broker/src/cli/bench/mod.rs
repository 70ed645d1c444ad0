//! `statecast bench`: how fast a broker is, on its own machine and ours.

mod call;
mod compaction;
mod consume;
mod disk;
mod end_to_end;
mod group;
mod load;
mod payload;
mod report;
mod state;
mod workload;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use statecast_client::{BrokerInfo, Client, Error};

use self::report::{Figures, report};
use self::workload::{Topics, Workload};
use super::common::Common;
use super::failure::Failure;
use super::session::block_on;
use super::signals::stop_requested;
use crate::clock;

/// Measure a broker: throughput, latency, and what it costs the broker.
///
/// Each bench makes topics of its own and deletes them. MB are 10^6 bytes of
/// values. Medians are those of the runs, figure by figure.
#[derive(Debug, Args)]
pub(super) struct Bench {
    #[command(subcommand)]
    verb: BenchVerb,
}

#[derive(Debug, Subcommand)]
enum BenchVerb {
    /// Produce; latency is from sending a record or batch to its
    /// acknowledgement.
    Produce(Workload),
    /// Consume what was produced before; that part isn't measured.
    Consume(Workload),
    /// Produce and consume at once; records are counted once for producers and
    /// once for each consumer.
    ProduceConsume(Workload),
    /// Produce at a fixed rate and consume; latency is from when a record was
    /// meant to be sent to when a consumer has it, so a stall counts against
    /// all records that it delays.
    EndToEnd(end_to_end::EndToEnd),
    /// Measure consumer groups: moves of partitions, commits, and many members.
    #[command(subcommand)]
    Group(group::GroupBench),
    /// Measure state: snapshots, gets, watchers, compare and set.
    #[command(subcommand)]
    State(state::StateBench),
    /// Measure the compaction of a topic, and what it costs those who produce to others
    /// meanwhile.
    Compaction(compaction::Compaction),
    /// Measure unary calls that do nothing, one at a time: what gRPC takes of every
    /// latency.
    Call(call::Call),
    /// Measure the disk under a directory as a journal uses it: overwrite a
    /// preallocated file and flush. Needs no broker.
    Disk(disk::Disk),
}

impl Bench {
    pub(super) fn run(self, common: &Common) -> Result<(), Failure> {
        match self.verb {
            BenchVerb::Disk(disk) => disk.run(common),
            BenchVerb::Call(call) => block_on(call.run(common)),
            BenchVerb::State(state) => block_on(state.run(common)),
            BenchVerb::Compaction(compaction) => block_on(compaction.run(common)),
            BenchVerb::Group(group) => block_on(group.run(common)),
            BenchVerb::Produce(load) => block_on(async {
                let run = |client, topics| produce(client, load.clone(), topics);
                measure(common, "produce", &load, run).await
            }),
            BenchVerb::Consume(load) => block_on(async {
                let run = |client, topics| consume::consume(client, load.clone(), topics);
                measure(common, "consume", &load, run).await
            }),
            BenchVerb::ProduceConsume(load) => block_on(async {
                let run =
                    |client, topics| consume::produce_and_consume(client, load.clone(), topics);
                measure(common, "produce-consume", &load, run).await
            }),
            BenchVerb::EndToEnd(load) => block_on(async {
                let shape = load.workload();
                let run = |client, topics| end_to_end::end_to_end(client, load.clone(), topics);
                measure(common, "end-to-end", &shape, run).await
            }),
        }
    }
}

/// Runs a workload as often as it says, each time on new topics, and reports.
async fn measure<F>(
    common: &Common,
    name: &str,
    workload: &Workload,
    run: impl Fn(Client, Arc<Topics>) -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Result<Figures, Error>>,
{
    common.connect().await?;
    let progress = progress(common, name, workload.runs);
    let mut runs = Vec::new();
    let mut stop = pin!(stop_requested()?);
    for _ in 0..workload.runs.max(1) {
        // New connections each time: a run owes nothing to the one before.
        let client = common
            .client_builder()
            .connections(workload.connections)
            .connect_lazy()?;
        let topics = Arc::new(Topics::create(&client, workload).await?);
        let figures = tokio::select! {
            figures = run(client, Arc::clone(&topics)) => figures.map_err(Failure::from),
            () = &mut stop => Err(Failure::failed("interrupted")),
        };
        topics.delete().await?;
        runs.push(figures?);
        progress.inc(1);
    }
    progress.finish_and_clear();
    let rows: Vec<_> = runs.iter().map(Figures::metrics).collect();
    report(common, name, &workload.json(), &rows)
}

async fn produce(
    client: Client,
    workload: Workload,
    topics: Arc<Topics>,
) -> Result<Figures, Error> {
    let before = broker(&client).await?;
    let started = clock::instant();
    let produced = load::produce(&client, &workload, &topics).await?;
    let time = started.elapsed();
    let mut figures = Figures::new(produced.records, workload.record_size, time);
    figures.latency = Some(produced.latency);
    Ok(figures.with_broker(&before, &broker(&client).await?))
}

/// What the broker has used so far.
async fn broker(client: &Client) -> Result<BrokerInfo, Error> {
    client.admin().broker_info().await
}

fn progress(common: &Common, name: &str, runs: usize) -> ProgressBar {
    if !common.shows_progress() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {msg}: run {pos} of {len} done, {elapsed}")
        .expect("a template of ours");
    let bar = ProgressBar::new(runs as u64)
        .with_style(style)
        .with_message(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
