//! Many watchers, each of a prefix of its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use statecast_client::{Client, ClientBuilder, Error, RecordRef, StateView};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::super::report::{MIB, Metric, histogram, percentiles};
use super::{Shape, nanos, scrambled};
use crate::cli::units;
use crate::clock;

/// Views that are opened at the same time.
const AT_ONCE: usize = 64;

#[derive(Debug, Clone, Args)]
pub(in crate::cli::bench) struct Watch {
    /// Watchers, each of a prefix of its own.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    watchers: u64,
    /// Changes a second.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// How long changes are made.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "8s")]
    duration: Duration,
    /// Size of a value: 8 bytes at least.
    #[arg(long, value_name = "SIZE", value_parser = units::size, default_value = "100B")]
    value_size: u64,
    /// Connections of the watchers.
    #[arg(long, value_name = "N", default_value_t = 10)]
    connections: usize,
    #[command(flatten)]
    pub(super) shape: Shape,
}

impl Watch {
    pub(super) fn json(&self) -> Value {
        json!({
            "watchers": self.watchers,
            "rate": self.rate,
            "duration_s": self.duration.as_secs_f64(),
            "value_size": self.value_size,
            "connections": self.connections,
        })
    }
}

pub(super) async fn run(
    bench: Watch,
    connect: ClientBuilder,
    client: Client,
    topic: String,
) -> Result<Vec<Metric>, Error> {
    let watching = connect.connections(bench.connections).connect_lazy()?;
    let started = clock::instant();
    let latency = Arc::new(Mutex::new(histogram()));
    let mut opening = JoinSet::new();
    let mut views: Vec<StateView> = Vec::new();
    for watcher in 0..bench.watchers {
        if opening.len() == AT_ONCE {
            views.extend(next(&mut opening).await?);
        }
        let latency = Arc::clone(&latency);
        let view = watching
            .state_view(&*topic)
            .prefix(format!("w/{watcher}/"))
            .on_change(move |change| {
                if let Some(entry) = change.entry()
                    && let Some(stamp) = entry.value.first_chunk()
                {
                    let due = Duration::from_nanos(u64::from_le_bytes(*stamp));
                    let late = started.elapsed().saturating_sub(due);
                    let mut latency = latency.lock().unwrap_or_else(PoisonError::into_inner);
                    latency.saturating_record(nanos(late));
                }
            });
        opening.spawn(async move {
            let view = view.open().await?;
            view.wait_synced().await?;
            Ok(view)
        });
    }
    while let Some(view) = next(&mut opening).await? {
        views.push(view);
    }
    let before = super::super::broker(&client).await?;
    let changes = change(&bench, &client, &topic, started).await?;
    let seen = || {
        let latency = latency.lock().unwrap_or_else(PoisonError::into_inner);
        latency.len()
    };
    while seen() < changes {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let after = super::super::broker(&client).await?;
    let latency = latency.lock().unwrap_or_else(PoisonError::into_inner);
    let cpu = after.cpu_time.saturating_sub(before.cpu_time);
    let mut metrics = vec![("changes", "CHANGES", changes as f64)];
    metrics.extend(percentiles(&latency));
    metrics.extend([
        (
            "cpu_us",
            "CPU µs",
            cpu.as_secs_f64() * 1e6 / changes.max(1) as f64,
        ),
        ("rss_mib", "RSS MiB", after.resident_bytes as f64 / MIB),
    ]);
    Ok(metrics)
}

async fn next(opening: &mut JoinSet<Result<StateView, Error>>) -> Result<Option<StateView>, Error> {
    let opened = opening.join_next().await;
    opened
        .map(|view| view.expect("opening doesn't panic"))
        .transpose()
}

/// Makes changes at their times; returns how many.
async fn change(
    bench: &Watch,
    client: &Client,
    topic: &str,
    started: std::time::Instant,
) -> Result<u64, Error> {
    let changes = u64::from(bench.rate) * bench.duration.as_secs();
    let producer = client.producer();
    let (bench, topic) = (bench.clone(), topic.to_owned());
    let runtime = Handle::current();
    // On a thread of its own: the runtime's timers tick in milliseconds.
    let pacing = tokio::task::spawn_blocking(move || {
        let begin = started.elapsed();
        let mut value = vec![7; usize::try_from(bench.value_size).unwrap_or(8).max(8)];
        for number in 0..changes {
            let due = begin + Duration::from_secs_f64(number as f64 / f64::from(bench.rate));
            if let Some(early) = due.checked_sub(started.elapsed()) {
                std::thread::sleep(early);
            }
            let random = scrambled(number);
            let key = format!("w/{}/{}", random % bench.watchers.max(1), random % 7);
            value[..8].copy_from_slice(&nanos(due).to_le_bytes());
            let record = RecordRef::new(key.as_bytes(), &value);
            // What becomes of it, the watchers tell.
            drop(runtime.block_on(producer.send(&topic, &record))?);
        }
        runtime.block_on(producer.close())
    });
    pacing.await.expect("the pacer doesn't panic")?;
    Ok(changes)
}
