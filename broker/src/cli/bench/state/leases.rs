//! Many leases that end at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use statecast_client::{Client, Error, State};
use tokio::task::JoinSet;

use super::super::report::{MIB, Metric, histogram};
use super::{Shape, nanos};
use crate::cli::units;
use crate::clock;

/// A key without a lease, which is asked for.
const STAYS: &str = "stays";

/// Which is asked for this often.
const PROBE: Duration = Duration::from_millis(1);

#[derive(Debug, Clone, Args)]
pub(in crate::cli::bench) struct Leases {
    /// Leases, each with a key.
    #[arg(long = "leases", value_name = "N", default_value_t = 5000)]
    count: u64,
    /// How long each lives; they are granted, and their keys put, within that time.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "10s")]
    ttl: Duration,
    /// Calls on their way.
    #[arg(long, value_name = "N", default_value_t = 256)]
    in_flight: u64,
    #[command(flatten)]
    pub(super) shape: Shape,
}

impl Leases {
    pub(super) fn json(&self) -> Value {
        json!({
            "leases": self.count,
            "ttl_s": self.ttl.as_secs_f64(),
            "in_flight": self.in_flight,
        })
    }
}

/// Until when each lease lives, by its number: after `started`.
type Ends = Vec<Duration>;

pub(super) async fn run(
    bench: Leases,
    client: Client,
    topic: String,
) -> Result<Vec<Metric>, Error> {
    let started = clock::instant();
    let state = client.state(&*topic);
    state.put(STAYS, "here").await?;
    let removed: Arc<Mutex<Vec<(u64, Duration)>>> = Arc::default();
    let noted = Arc::clone(&removed);
    let view = client
        .state_view(&*topic)
        .on_change(move |change| {
            let number = str::from_utf8(change.key())
                .ok()
                .and_then(|key| key.parse().ok());
            if let (Some(number), None) = (number, change.entry()) {
                let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
                noted.push((number, started.elapsed()));
            }
        })
        .open()
        .await?;
    view.wait_synced().await?;
    let ends = grant(&bench, &client, &state, started).await?;
    let granting = started.elapsed();
    let before = super::super::broker(&client).await?;
    let first = ends.iter().min().copied().unwrap_or_default();
    tokio::time::sleep_until((started + first).into()).await;
    let count = || removed.lock().unwrap_or_else(PoisonError::into_inner).len() as u64;
    let gets = probe(&state, || count() < bench.count).await?;
    let after = super::super::broker(&client).await?;
    let cpu = after.cpu_time.saturating_sub(before.cpu_time);
    let removed = removed.lock().unwrap_or_else(PoisonError::into_inner);
    let mut late = histogram();
    for &(number, at) in removed.iter() {
        let end = usize::try_from(number)
            .ok()
            .and_then(|number| ends.get(number));
        late.saturating_record(nanos(at.saturating_sub(*end.unwrap_or(&at))));
    }
    let spread = ends
        .iter()
        .max()
        .map_or(Duration::ZERO, |&last| last.saturating_sub(first));
    let millis = |of: &Histogram<u64>, q| of.value_at_quantile(q) as f64 / 1e6;
    Ok(vec![
        ("granting_s", "GRANT, PUT s", granting.as_secs_f64()),
        ("ending_within_s", "END WITHIN s", spread.as_secs_f64()),
        ("removed", "KEYS GONE", removed.len() as f64),
        ("late_p50_ms", "LATE p50 ms", millis(&late, 0.5)),
        ("late_p99_ms", "p99 ms", millis(&late, 0.99)),
        ("late_max_ms", "LAST ms", late.max() as f64 / 1e6),
        ("gets", "GETS", gets.len() as f64),
        ("get_p50_ms", "GET p50 ms", millis(&gets, 0.5)),
        ("get_p99_ms", "GET p99 ms", millis(&gets, 0.99)),
        ("get_max_ms", "GET max ms", gets.max() as f64 / 1e6),
        ("cpu_s", "CPU s", cpu.as_secs_f64()),
        ("rss_mib", "RSS MiB", after.resident_bytes as f64 / MIB),
    ])
}

/// Grants all leases, and puts the key of each; nobody keeps them alive.
async fn grant(
    bench: &Leases,
    client: &Client,
    state: &State,
    started: Instant,
) -> Result<Ends, Error> {
    let next = Arc::new(AtomicU64::new(0));
    let mut granting = JoinSet::new();
    for _ in 0..bench.in_flight.max(1) {
        let (client, state, next) = (client.clone(), state.clone(), Arc::clone(&next));
        let (ttl, leases) = (bench.ttl, bench.count);
        granting.spawn(async move {
            let mut ends = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= leases {
                    return Ok::<_, Error>(ends);
                }
                let lease = client.grant_lease(ttl).await?;
                let (id, end) = (
                    lease.id(),
                    lease.alive_until().saturating_duration_since(started),
                );
                drop(lease);
                state.put(number.to_string(), "here").lease(id).await?;
                ends.push((number, end));
            }
        });
    }
    let mut ends = Vec::new();
    while let Some(granted) = granting.join_next().await {
        ends.extend(granted.expect("granting doesn't panic")?);
    }
    ends.sort_unstable();
    Ok(ends.into_iter().map(|(_, end)| end).collect())
}

/// Gets a key that stays, for as long as that is wanted: how long each took.
async fn probe(state: &State, wanted: impl Fn() -> bool) -> Result<Histogram<u64>, Error> {
    let mut latency = histogram();
    while wanted() {
        let before = clock::instant();
        let entry = state.get(STAYS).await?;
        assert!(entry.is_some(), "it has no lease");
        latency.saturating_record(nanos(before.elapsed()));
        tokio::time::sleep(PROBE).await;
    }
    Ok(latency)
}
