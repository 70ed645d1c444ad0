//! What a bench reports.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use statecast_client::BrokerInfo;

use crate::cli::common::{Common, Output};
use crate::cli::failure::Failure;
use crate::cli::session::{print, print_json};
use crate::cli::topic::{new_table, table_text};

pub(super) const MIB: f64 = 1_048_576.0;

/// Name, unit and value of a figure.
pub(super) type Metric = (&'static str, &'static str, f64);

/// Nanoseconds up to an hour, with three digits.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("constant bounds")
}

/// The figures of one run.
#[derive(Debug, Clone)]
pub(super) struct Figures {
    /// Records that went through, counted once for each consumer.
    pub(super) records: u64,
    /// Their values: bytes.
    pub(super) bytes: u64,
    /// How long it took.
    pub(super) time: Duration,
    /// Nanoseconds; `None` when the workload has no latency.
    pub(super) latency: Option<Histogram<u64>>,
    /// CPU time that the broker used.
    pub(super) broker_cpu: Duration,
    /// Memory that the broker held at the end: bytes.
    pub(super) broker_resident: u64,
}

impl Figures {
    /// With what the broker used between two answers of it.
    pub(super) fn with_broker(mut self, before: &BrokerInfo, after: &BrokerInfo) -> Self {
        self.broker_cpu = after.cpu_time.saturating_sub(before.cpu_time);
        self.broker_resident = after.resident_bytes;
        self
    }

    pub(super) fn new(records: u64, record_size: u64, time: Duration) -> Self {
        Self {
            records,
            bytes: records * record_size,
            time,
            latency: None,
            broker_cpu: Duration::ZERO,
            broker_resident: 0,
        }
    }

    /// The figures, in the order in which they are shown.
    pub(super) fn metrics(&self) -> Vec<Metric> {
        let seconds = self.time.as_secs_f64().max(1e-9);
        let millions = self.records as f64 / 1e6;
        let mut metrics = vec![
            ("records_per_s", "records/s", self.records as f64 / seconds),
            ("mb_per_s", "MB/s", self.bytes as f64 / 1e6 / seconds),
        ];
        metrics.extend(self.latency.iter().flat_map(percentiles));
        let cpu = self.broker_cpu.as_secs_f64() / millions.max(1e-9);
        metrics.extend([
            ("broker_cpu_s_per_million", "CPU s/M", cpu),
            (
                "broker_rss_mib",
                "RSS MiB",
                self.broker_resident as f64 / MIB,
            ),
            ("seconds", "s", seconds),
        ]);
        metrics
    }
}

/// The figures of a latency in nanoseconds.
pub(super) fn percentiles(latency: &Histogram<u64>) -> [Metric; 5] {
    let micros = |quantile| latency.value_at_quantile(quantile) as f64 / 1e3;
    [
        ("p50_us", "p50 µs", micros(0.5)),
        ("p90_us", "p90 µs", micros(0.9)),
        ("p99_us", "p99 µs", micros(0.99)),
        ("p999_us", "p99.9 µs", micros(0.999)),
        ("max_us", "max µs", latency.max() as f64 / 1e3),
    ]
}

/// Prints the runs, each with the same figures, and their medians.
pub(super) fn report(
    common: &Common,
    workload: &str,
    parameters: &Value,
    rows: &[Vec<Metric>],
) -> Result<(), Failure> {
    let Some(first) = rows.first() else {
        return Ok(());
    };
    let medians: Vec<f64> = (0..first.len())
        .map(|column| median(rows.iter().map(|row| row[column].2).collect()))
        .collect();
    if common.output == Output::Json {
        let object = |values: Vec<f64>| -> Value {
            let names = first.iter().map(|metric| metric.0.to_owned());
            names.zip(values.into_iter().map(rounded)).collect()
        };
        let runs: Vec<Value> = rows
            .iter()
            .map(|row| object(row.iter().map(|m| m.2).collect()))
            .collect();
        return print_json(&json!({
            "workload": workload,
            "parameters": parameters,
            "environment": environment(&common.endpoint),
            "runs": runs,
            "median": object(medians),
        }));
    }
    let mut header = vec!["RUN"];
    header.extend(first.iter().map(|metric| metric.1));
    let mut table = new_table(&header);
    for (number, row) in rows.iter().enumerate() {
        let cells = row.iter().map(|metric| show(metric.2));
        table.add_row(std::iter::once((number + 1).to_string()).chain(cells));
    }
    if rows.len() > 1 {
        let cells = medians.into_iter().map(show);
        table.add_row(std::iter::once("median".to_owned()).chain(cells));
    }
    print(&table_text(table))
}

/// What the figures depend on beside the parameters.
pub(super) fn environment(endpoint: &str) -> Value {
    let first_line = |path: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().next().unwrap_or_default().to_owned()
    };
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map(|(_, model)| model.trim().to_owned());
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "endpoint": endpoint,
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "cpu": model,
        "kernel": first_line("/proc/sys/kernel/osrelease"),
        "memory": first_line("/proc/meminfo"),
        "debug_build": cfg!(debug_assertions),
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}

fn rounded(value: f64) -> Value {
    json!((value * 1000.0).round() / 1000.0)
}

/// With a sensible number of digits.
fn show(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_and_even_counts() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
    }

    #[test]
    fn figures_are_rates_and_percentiles() {
        let mut figures = Figures::new(2_000_000, 1000, Duration::from_secs(2));
        let mut latency = histogram();
        (1..=100).for_each(|ms| latency.record(ms * 1_000_000).unwrap());
        figures.latency = Some(latency);
        figures.broker_cpu = Duration::from_secs(1);
        let metrics = figures.metrics();
        let metric = |name| metrics.iter().find(|m| m.0 == name).unwrap().2;
        assert!((metric("records_per_s") - 1e6).abs() < 1e-3);
        assert!((metric("mb_per_s") - 1000.0).abs() < 1e-3);
        assert!((metric("broker_cpu_s_per_million") - 0.5).abs() < 1e-6);
        assert!((metric("p50_us") / 50_000.0 - 1.0).abs() < 0.01);
    }
}
