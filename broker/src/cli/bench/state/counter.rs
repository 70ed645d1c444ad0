//! One key that many change.

use clap::Args;
use serde_json::{Value, json};
use statecast_client::{Client, Error, Update};
use tokio::task::JoinSet;

use super::super::report::Metric;
use super::Shape;
use crate::clock;

#[derive(Debug, Clone, Args)]
pub(in crate::cli::bench) struct Counter {
    /// Clients that count.
    #[arg(long, value_name = "N", default_value_t = 16)]
    clients: u64,
    /// How often each counts up.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    steps: u64,
    #[command(flatten)]
    pub(super) shape: Shape,
}

impl Counter {
    pub(super) fn json(&self) -> Value {
        json!({ "clients": self.clients, "steps": self.steps })
    }
}

pub(super) async fn run(
    bench: Counter,
    client: Client,
    topic: String,
) -> Result<Vec<Metric>, Error> {
    let started = clock::instant();
    let mut counting = JoinSet::new();
    for _ in 0..bench.clients {
        let state = client.state(&*topic);
        counting.spawn(async move {
            let mut tries = 0_u64;
            for _ in 0..bench.steps {
                let one_more = state.update("counter", |entry| {
                    tries += 1;
                    Update::put((entry.map_or(0, |entry| count(&entry.value)) + 1).to_string())
                });
                one_more.await?;
            }
            Ok::<u64, Error>(tries)
        });
    }
    let mut tries = 0;
    while let Some(done) = counting.join_next().await {
        tries += done.expect("counting doesn't panic")?;
    }
    let time = started.elapsed();
    let entry = client.state(&*topic).get("counter").await?;
    let counted = entry.map_or(0, |entry| count(&entry.value));
    let steps = bench.clients * bench.steps;
    Ok(vec![
        ("counted", "COUNTED", counted as f64),
        ("lost", "LOST", steps.saturating_sub(counted) as f64),
        ("steps_per_s", "STEPS/s", steps as f64 / time.as_secs_f64()),
        (
            "tries_per_step",
            "TRIES",
            tries as f64 / steps.max(1) as f64,
        ),
    ])
}

fn count(value: &[u8]) -> u64 {
    let number = std::str::from_utf8(value).ok();
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}
