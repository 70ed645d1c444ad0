//! What the disk can do: the floor under every durable acknowledgement.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use serde_json::json;

use super::report::{environment, histogram};
use crate::cli::common::{Common, Output};
use crate::cli::failure::Failure;
use crate::cli::session::{print, print_json};
use crate::cli::topic::{new_table, table_text};
use crate::cli::units;
use crate::clock;

/// Size of the file that is overwritten, as a journal file's: bytes.
const FILE: u64 = 64 << 20;
/// Sizes of one write: bytes.
const WRITES: [usize; 4] = [4 << 10, 128 << 10, 512 << 10, 1 << 20];

/// Overwrites a preallocated, once-written file and flushes after each write.
#[derive(Debug, Args)]
pub(super) struct Disk {
    /// The directory.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// How long each size is measured.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "2s")]
    duration: Duration,
}

/// The file is removed however the bench ends.
struct Scratch {
    path: PathBuf,
    file: File,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Disk {
    pub(super) fn run(self, common: &Common) -> Result<(), Failure> {
        let failed = |error| Failure::failed(format_args!("{}: {error}", self.dir.display()));
        let scratch = Scratch::create(&self.dir).map_err(failed)?;
        let mut rows = Vec::new();
        for size in WRITES {
            let (writes, time, latency) = self.overwrite(&scratch.file, size).map_err(failed)?;
            let mb_per_s = writes as f64 * size as f64 / 1e6 / time.as_secs_f64();
            let micros = |quantile| latency.value_at_quantile(quantile) as f64 / 1e3;
            rows.push((
                size,
                micros(0.5),
                micros(0.99),
                latency.max() as f64 / 1e3,
                mb_per_s,
            ));
        }
        if common.output == Output::Json {
            let sizes: Vec<_> = rows
                .into_iter()
                .map(|(size, p50, p99, max, mb)| {
                    json!({ "bytes": size, "p50_us": p50, "p99_us": p99, "max_us": max, "mb_per_s": mb })
                })
                .collect();
            return print_json(&json!({
                "workload": "disk",
                "parameters": { "dir": self.dir, "duration_s": self.duration.as_secs_f64() },
                "environment": environment(&common.endpoint),
                "writes": sizes,
            }));
        }
        let mut table = new_table(&["WRITE + FDATASYNC", "p50 µs", "p99 µs", "max µs", "MB/s"]);
        for (size, p50, p99, max, mb) in rows {
            let figures = [p50, p99, max, mb].map(|figure| format!("{figure:.0}"));
            let size = units::show_size(size as u64);
            table.add_row(std::iter::once(size).chain(figures));
        }
        print(&table_text(table))
    }

    fn overwrite(
        &self,
        file: &File,
        size: usize,
    ) -> std::io::Result<(u64, Duration, Histogram<u64>)> {
        let bytes = vec![0x5C; size];
        let places = FILE / size as u64;
        let mut latency = histogram();
        let mut writes = 0;
        let started = clock::instant();
        while started.elapsed() < self.duration {
            let before: Instant = clock::instant();
            file.write_all_at(&bytes, (writes % places) * size as u64)?;
            file.sync_data()?;
            let nanos = before.elapsed().as_nanos();
            latency.saturating_record(u64::try_from(nanos).unwrap_or(u64::MAX));
            writes += 1;
        }
        Ok((writes, started.elapsed(), latency))
    }
}

impl Scratch {
    fn create(dir: &Path) -> std::io::Result<Self> {
        let path = dir.join(format!("statecast-bench-{}.tmp", std::process::id()));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)?;
        let scratch = Self { path, file };
        let megabyte = vec![0; 1 << 20];
        for place in 0..FILE >> 20 {
            scratch.file.write_all_at(&megabyte, place << 20)?;
        }
        scratch.file.sync_all()?;
        Ok(scratch)
    }
}
