//! Many keys: how fast they are all there, and each of them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use statecast_client::{BrokerInfo, Client, Error, RecordRef, State};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::super::payload::Payload;
use super::super::report::{MIB, Metric, histogram};
use super::{Shape, nanos, scrambled};
use crate::cli::units;
use crate::clock;

/// Records on their way while the topic is filled.
const FILLING: usize = 20_000;

#[derive(Debug, Clone, Args)]
pub(in crate::cli::bench) struct Read {
    /// Keys of the topic; each has some 28 bytes.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    keys: u64,
    /// Size of a value.
    #[arg(long, value_name = "SIZE", value_parser = units::size, default_value = "100B")]
    value_size: u64,
    /// Calls of `Get` on their way, on one connection.
    #[arg(long, value_name = "N", default_value_t = 64)]
    in_flight: usize,
    /// Calls a second in the second half.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    rate: u32,
    /// How long each half takes.
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "4s")]
    duration: Duration,
    #[command(flatten)]
    pub(super) shape: Shape,
}

impl Read {
    pub(super) fn json(&self) -> Value {
        json!({
            "keys": self.keys,
            "value_size": self.value_size,
            "in_flight": self.in_flight,
            "rate": self.rate,
            "duration_s": self.duration.as_secs_f64(),
        })
    }

    fn key(&self, number: u64) -> String {
        let number = scrambled(number % self.keys.max(1));
        format!("services/{:04}/{number:014x}", number % 5000)
    }
}

pub(super) async fn run(bench: Read, client: Client, topic: String) -> Result<Vec<Metric>, Error> {
    let started = clock::instant();
    fill(&bench, &client, &topic).await?;
    let filling = started.elapsed();

    let before = settled(&client).await?;
    let started = clock::instant();
    let view = client.state_view(&*topic).open().await?;
    view.wait_synced().await?;
    let snapshot = started.elapsed();
    let after = super::super::broker(&client).await?;
    let snapshot_cpu = after.cpu_time.saturating_sub(before.cpu_time);
    let keys = view.len();
    drop(view);

    let before = super::super::broker(&client).await?;
    let state = client.state(&*topic);
    let (calls, time, fast) = at_full_speed(&bench, &state).await?;
    let after = super::super::broker(&client).await?;
    let paced = at_rate(&bench, &state).await?;
    let cpu = after.cpu_time.saturating_sub(before.cpu_time);
    let micros = |latency: &Histogram<u64>, q| latency.value_at_quantile(q) as f64 / 1e3;
    Ok(vec![
        ("fill_s", "FILL s", filling.as_secs_f64()),
        ("keys", "KEYS", keys as f64),
        ("snapshot_s", "SNAPSHOT s", snapshot.as_secs_f64()),
        ("snapshot_cpu_s", "ITS CPU s", snapshot_cpu.as_secs_f64()),
        ("gets_per_s", "GETS/s", calls as f64 / time.as_secs_f64()),
        ("p50_us", "p50 µs", micros(&fast, 0.5)),
        ("p99_us", "p99 µs", micros(&fast, 0.99)),
        (
            "cpu_us",
            "CPU µs",
            cpu.as_secs_f64() * 1e6 / calls.max(1) as f64,
        ),
        ("paced_p50_us", "AT RATE p50 µs", micros(&paced, 0.5)),
        ("paced_p99_us", "AT RATE p99 µs", micros(&paced, 0.99)),
        ("rss_mib", "RSS MiB", after.resident_bytes as f64 / MIB),
    ])
}

/// Waits until the broker has done what filling left it to do: moving records to
/// segments, saving the view.
async fn settled(client: &Client) -> Result<BrokerInfo, Error> {
    const LOOK: Duration = Duration::from_millis(300);
    let mut before = super::super::broker(client).await?;
    loop {
        tokio::time::sleep(LOOK).await;
        let now = super::super::broker(client).await?;
        if now.cpu_time.saturating_sub(before.cpu_time) < LOOK / 20 {
            return Ok(now);
        }
        before = now;
    }
}

/// Writes every key once.
async fn fill(bench: &Read, client: &Client, topic: &str) -> Result<(), Error> {
    let producer = client.producer();
    let size = usize::try_from(bench.value_size).unwrap_or(usize::MAX);
    let mut payload = Payload::new(size, 0);
    let mut on_their_way = VecDeque::with_capacity(FILLING);
    for number in 0..bench.keys {
        if on_their_way.len() == FILLING
            && let Some(oldest) = on_their_way.pop_front()
        {
            let delivery: statecast_client::Delivery = oldest;
            delivery.await?;
        }
        let key = bench.key(number);
        let record = RecordRef::new(key.as_bytes(), payload.next());
        on_their_way.push_back(producer.send(topic, &record).await?);
    }
    for delivery in on_their_way {
        delivery.await?;
    }
    producer.close().await
}

/// Calls as many as may be in flight; returns how many there were in which time.
async fn at_full_speed(
    bench: &Read,
    state: &State,
) -> Result<(u64, Duration, Histogram<u64>), Error> {
    let started = clock::instant();
    let end = started + bench.duration;
    let next = Arc::new(AtomicU64::new(1));
    let mut tasks = JoinSet::new();
    for _ in 0..bench.in_flight.max(1) {
        let (bench, state, next) = (bench.clone(), state.clone(), Arc::clone(&next));
        tasks.spawn(async move {
            let mut latency = histogram();
            while clock::instant() < end {
                let number = scrambled(next.fetch_add(1, Ordering::Relaxed));
                let before = clock::instant();
                get(&bench, &state, number).await?;
                latency.saturating_record(nanos(before.elapsed()));
            }
            Ok(latency)
        });
    }
    let latency = gather(tasks).await?;
    Ok((latency.len(), started.elapsed(), latency))
}

/// Calls at their times, whatever became of those before.
async fn at_rate(bench: &Read, state: &State) -> Result<Histogram<u64>, Error> {
    let calls = u64::from(bench.rate) * bench.duration.as_secs();
    let latency = Arc::new(Mutex::new(histogram()));
    let (pacing, runtime) = (bench.clone(), Handle::current());
    let (paced, recorded) = (state.clone(), Arc::clone(&latency));
    // On a thread of its own: the runtime's timers tick in milliseconds.
    let made = tokio::task::spawn_blocking(move || {
        let started = clock::instant();
        let mut tasks: JoinSet<Result<(), Error>> = JoinSet::new();
        for number in 0..calls {
            let due = started + Duration::from_secs_f64(number as f64 / f64::from(pacing.rate));
            if let Some(early) = due.checked_duration_since(clock::instant()) {
                std::thread::sleep(early);
            }
            let (bench, state, latency) = (pacing.clone(), paced.clone(), Arc::clone(&recorded));
            let call = async move {
                get(&bench, &state, scrambled(number)).await?;
                let mut latency = latency.lock().unwrap_or_else(PoisonError::into_inner);
                latency.saturating_record(nanos(due.elapsed()));
                Ok(())
            };
            tasks.spawn_on(call, &runtime);
            while let Some(done) = tasks.try_join_next() {
                done.expect("a caller of the bench doesn't panic")?;
            }
        }
        Ok::<_, Error>(tasks)
    });
    let mut tasks = made.await.expect("the pacer doesn't panic")?;
    while let Some(done) = tasks.join_next().await {
        done.expect("a caller of the bench doesn't panic")?;
    }
    let latency = latency.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(latency.clone())
}

async fn get(bench: &Read, state: &State, number: u64) -> Result<(), Error> {
    let entry = state.get(bench.key(number)).await?;
    assert!(entry.is_some(), "every key was written");
    Ok(())
}

async fn gather(
    mut tasks: JoinSet<Result<Histogram<u64>, Error>>,
) -> Result<Histogram<u64>, Error> {
    let mut all = histogram();
    while let Some(done) = tasks.join_next().await {
        let latency = done.expect("a caller of the bench doesn't panic")?;
        all.add(latency).expect("histograms of one kind");
    }
    Ok(all)
}
