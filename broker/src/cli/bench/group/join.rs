//! Many members in one group.

use clap::Args;
use serde_json::{Map, Value, json};
use statecast_client::{Consumer, Error};
use tokio::task::JoinSet;

use super::super::report::{MIB, Metric};
use super::{Place, Shape};
use crate::cli::failure::Failure;
use crate::clock;

/// Members that join at the same time: each is a stream that is opened.
const AT_ONCE: usize = 64;

#[derive(Debug, Clone, Args)]
pub(in crate::cli::bench) struct Join {
    /// Members of the group.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    members: usize,
    /// Members that leave at once.
    #[arg(long, value_name = "N", default_value_t = 100)]
    leave: usize,
    /// Partitions of the topic.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(super) partitions: u32,
    #[command(flatten)]
    pub(super) shape: Shape,
}

impl Join {
    pub(super) fn json(&self) -> Map<String, Value> {
        let parameters = json!({ "members": self.members, "leave": self.leave });
        parameters.as_object().cloned().unwrap_or_default()
    }
}

pub(super) async fn run(bench: Join, place: Place) -> Result<Vec<Metric>, Failure> {
    let broker = || super::super::broker(&place.client);
    let before = broker().await?;
    let started = clock::instant();
    let mut consumers = join(&bench, &place).await?;
    let joining = started.elapsed();
    let joined = clock::instant();
    let members = consumers.len();
    place
        .until_stable(members, bench.partitions, || consumers.iter())
        .await?;
    let stable = joined.elapsed();
    let full = broker().await?;

    let stay = members.saturating_sub(bench.leave);
    let mut leaving = JoinSet::new();
    for consumer in consumers.drain(stay..) {
        leaving.spawn(consumer.leave());
    }
    let left = clock::instant();
    place
        .until_stable(stay, bench.partitions, || consumers.iter())
        .await?;
    let reassigned = left.elapsed();
    while let Some(done) = leaving.join_next().await {
        done.expect("leaving doesn't panic")?;
    }
    close(consumers).await?;

    let growth = full.resident_bytes.saturating_sub(before.resident_bytes) as f64 / MIB;
    let cpu = full.cpu_time.saturating_sub(before.cpu_time);
    Ok(vec![
        ("joining_s", "JOINING s", joining.as_secs_f64()),
        ("stable_s", "STABLE s", stable.as_secs_f64()),
        ("reassigned_s", "REASSIGNED s", reassigned.as_secs_f64()),
        ("broker_rss_growth_mib", "RSS GROWTH MiB", growth),
        (
            "broker_rss_mib",
            "RSS MiB",
            full.resident_bytes as f64 / MIB,
        ),
        ("broker_cpu_s", "CPU s", cpu.as_secs_f64()),
    ])
}

async fn join(bench: &Join, place: &Place) -> Result<Vec<Consumer>, Error> {
    let mut consumers = Vec::with_capacity(bench.members);
    let mut joining = JoinSet::new();
    for _ in 0..bench.members {
        if joining.len() == AT_ONCE {
            consumers.extend(next(&mut joining).await?);
        }
        joining.spawn(place.consumer(&place.client).open());
    }
    while let Some(consumer) = next(&mut joining).await? {
        consumers.push(consumer);
    }
    Ok(consumers)
}

async fn next(joining: &mut JoinSet<Result<Consumer, Error>>) -> Result<Option<Consumer>, Error> {
    let joined = joining.join_next().await;
    joined
        .map(|consumer| consumer.expect("joining doesn't panic"))
        .transpose()
}

async fn close(consumers: Vec<Consumer>) -> Result<(), Error> {
    let mut closing: JoinSet<_> = consumers.into_iter().map(Consumer::close).collect();
    while let Some(closed) = closing.join_next().await {
        closed.expect("closing doesn't panic")?;
    }
    Ok(())
}
