//! The workloads, the same for every peer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::StreamExt;
use hdrhistogram::Histogram;
use tokio::sync::mpsc;

use crate::Peer;

/// What a measurement found.
pub struct Measured {
    pub records: u64,
    pub time: Duration,
    /// Microseconds.
    pub latency: Histogram<u64>,
}

impl Measured {
    pub fn describe(&self) -> String {
        format!(
            "{:.0} records/s, p50 {} µs, p99 {} µs",
            self.records as f64 / self.time.as_secs_f64(),
            self.latency.value_at_quantile(0.5),
            self.latency.value_at_quantile(0.99),
        )
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Sends records with so many on their way, until the time is over.
pub async fn produce(
    peer: &dyn Peer,
    size: usize,
    in_flight: usize,
    time: Duration,
) -> Result<Measured> {
    let payload = vec![b'x'; size];
    let mut latency = Histogram::new(3)?;
    let mut waiting = VecDeque::new();
    let started = Instant::now();
    let mut records = 0;
    while started.elapsed() < time {
        while waiting.len() < in_flight {
            let sent = Instant::now();
            waiting.push_back((sent, peer.send(payload.clone()).await?));
        }
        let (sent, acknowledged) = waiting.pop_front().context("one was just sent")?;
        acknowledged.await?;
        latency.record(micros(sent))?;
        records += 1;
    }
    while let Some((sent, acknowledged)) = waiting.pop_front() {
        acknowledged.await?;
        latency.record(micros(sent))?;
        records += 1;
    }
    Ok(Measured {
        records,
        time: started.elapsed(),
        latency,
    })
}

/// Reads so many records from the first on; returns how many a second.
pub async fn consume(peer: &dyn Peer, records: u64) -> Result<f64> {
    let started = Instant::now();
    let mut reader = peer.read().await?;
    for _ in 0..records {
        reader.next().await.context("the reader ended")??;
    }
    Ok(records as f64 / started.elapsed().as_secs_f64())
}

/// Records that are on their way at most, at a fixed rate.
const MAX_WAITING: usize = 10_000;

/// The times at which records are meant to be sent: microseconds since `started`.
/// From a thread of its own, as the runtime's timers tick in milliseconds.
fn ticks(started: Instant, rate: u64, records: u64) -> mpsc::Receiver<u64> {
    let (sender, receiver) = mpsc::channel(MAX_WAITING);
    std::thread::spawn(move || {
        for record in 0..records {
            let meant = record * 1_000_000 / rate;
            let due = started + Duration::from_micros(meant);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if sender.blocking_send(meant).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Sends at a fixed rate and reads; latency is from when a record was meant to be
/// sent to when it is read.
pub async fn end_to_end(
    peer: Arc<dyn Peer>,
    size: usize,
    rate: u64,
    time: Duration,
) -> Result<Measured> {
    let records = rate * time.as_secs();
    let mut reader = peer.read().await?;
    let started = Instant::now();
    let mut ticks = ticks(started, rate, records);
    let sender = tokio::spawn(async move {
        let mut waiting = VecDeque::new();
        while let Some(meant) = ticks.recv().await {
            let mut payload = vec![b'x'; size];
            payload[..8].copy_from_slice(&meant.to_le_bytes());
            waiting.push_back(tokio::spawn(peer.send(payload).await?));
            if waiting.len() > MAX_WAITING {
                waiting.pop_front().context("not empty")?.await??;
            }
        }
        for acknowledged in waiting {
            acknowledged.await??;
        }
        anyhow::Ok(())
    });
    let mut latency = Histogram::new(3)?;
    for _ in 0..records {
        let payload = reader.next().await.context("the reader ended")??;
        let meant = u64::from_le_bytes(payload[..8].try_into()?);
        latency.record(micros(started).saturating_sub(meant))?;
    }
    sender.await??;
    Ok(Measured {
        records,
        time: started.elapsed(),
        latency,
    })
}
