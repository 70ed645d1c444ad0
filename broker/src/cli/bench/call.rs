//! What a call costs that does nothing: the other floor under every acknowledgement.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::report::{Metric, histogram, percentiles, report};
use crate::cli::common::Common;
use crate::cli::failure::Failure;
use crate::cli::units;
use crate::clock;

/// Asks the broker whether it serves, one call after the other.
#[derive(Debug, Args)]
pub(super) struct Call {
    /// How long a run takes.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "2s")]
    duration: Duration,
    /// How often the bench runs; medians are reported.
    #[arg(long, value_name = "N", default_value_t = 1)]
    runs: usize,
}

impl Call {
    pub(super) async fn run(self, common: &Common) -> Result<(), Failure> {
        let client = common.connect().await?;
        let mut rows = Vec::new();
        for _ in 0..self.runs.max(1) {
            let mut latency = histogram();
            let started = clock::instant();
            while started.elapsed() < self.duration {
                let before = clock::instant();
                common.reach(client.is_serving().await)?;
                let nanos = before.elapsed().as_nanos();
                latency.saturating_record(u64::try_from(nanos).unwrap_or(u64::MAX));
            }
            let rate = latency.len() as f64 / started.elapsed().as_secs_f64();
            let calls: Metric = ("calls_per_s", "calls/s", rate);
            rows.push(
                std::iter::once(calls)
                    .chain(percentiles(&latency))
                    .collect(),
            );
        }
        let parameters = json!({ "duration_s": self.duration.as_secs_f64() });
        report(common, "call", &parameters, &rows)
    }
}
