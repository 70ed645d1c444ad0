//! What compaction takes, and what it costs those who produce meanwhile.
//!
//! A compacted topic is filled with one segment for each partition, which is too small
//! to be sealed; so nothing is compacted before the segments' size is lowered. When it is
//! done can be told from outside by what is left.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use statecast_client::{
    BatchBuilder, Cleanup, Client, Compression, Error, RecordRef, Retention, TopicConfig,
};

use super::load::{self, Produced};
use super::payload::Payload;
use super::report::{MIB, Metric, percentiles, report};
use super::workload::{Topics, Workload};
use super::{broker, progress};
use crate::cli::common::Common;
use crate::cli::failure::Failure;
use crate::cli::signals::stop_requested;
use crate::cli::units;
use crate::clock;

/// The largest that a segment may be: bytes. A little less fits into it surely.
const UNSEALED: u64 = 1 << 30;
const MOST_PER_PARTITION: u64 = 900 << 20;

/// Records in a batch while the topic is filled, and batches on their way.
const FILL_BATCH: u64 = 500;
const FILL_IN_FLIGHT: usize = 16;

/// How often the broker is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A compaction that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(1800);

/// What is compacted, and the load beside it.
#[derive(Debug, Clone, Args)]
pub(super) struct Compaction {
    /// Bytes of values in the topic that is compacted.
    #[arg(long, value_name = "SIZE", value_parser = units::size, default_value = "2GB")]
    compacted_bytes: u64,
    /// Of its records, the latest ones of their key: percent, 1 to 50.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u8).range(1..=50))]
    live_percent: u8,
    /// Its partitions.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    compacted_partitions: u32,
    /// Size of the segments that compaction makes.
    #[arg(long, value_name = "SIZE", value_parser = units::size, default_value = "16MiB")]
    segment_bytes: u64,
    #[command(flatten)]
    workload: Workload,
}

/// A topic that is going to be compacted.
struct Filled {
    name: String,
    /// Values in it: bytes.
    bytes: u64,
    /// What compaction leaves is at least, and at most, so much: bytes.
    least: u64,
    most: u64,
}

/// How compaction went.
struct Watched {
    time: Duration,
    /// Bytes in segments that are left.
    left: u64,
    /// Memory of the broker at most: bytes.
    peak: u64,
}

impl Compaction {
    pub(super) async fn run(self, common: &Common) -> Result<(), Failure> {
        if self.compacted_bytes / u64::from(self.compacted_partitions) > MOST_PER_PARTITION {
            let most = units::show_size(MOST_PER_PARTITION);
            let why = format!("a partition may get {most} at most: --compacted-partitions");
            return Err(Failure::failed(&why));
        }
        common.connect().await?;
        let progress = progress(common, "compaction", self.workload.runs);
        let mut rows = Vec::new();
        let mut stop = pin!(stop_requested()?);
        for _ in 0..self.workload.runs.max(1) {
            let client = common
                .client_builder()
                .connections(self.workload.connections)
                .connect_lazy()?;
            let topics = Arc::new(Topics::create(&client, &self.workload).await?);
            let compacted = format!("{}-compacted", topics.names()[0]);
            let measured = tokio::select! {
                measured = self.measure(&client, &topics, &compacted) => measured,
                () = &mut stop => Err(Failure::failed("interrupted")),
            };
            topics.delete().await?;
            // It is not there when it couldn't be created.
            let _ = client.admin().delete_topic(&compacted).await;
            rows.push(measured?);
            progress.inc(1);
        }
        progress.finish_and_clear();
        report(common, "compaction", &self.json(), &rows)
    }

    async fn measure(
        &self,
        client: &Client,
        topics: &Arc<Topics>,
        compacted: &str,
    ) -> Result<Vec<Metric>, Failure> {
        let admin = client.admin();
        for name in topics.names() {
            // What is produced beside is not read, and shall not fill the disk.
            let config = TopicConfig::new()
                .segment_bytes(32 << 20)
                .retention_bytes(Retention::Limit(128 << 20));
            admin.alter_topic(name, None, config).await?;
        }
        let filled = self.fill(client, compacted).await?;
        settle(client, &filled).await?;
        let alone = self.workload.clone();
        let alone = Workload {
            duration: alone.duration.or(Some(Duration::from_secs(10))),
            ..alone
        };
        let alone = produce(client, &alone, topics).await?;
        let rss = broker(client).await?.resident_bytes;

        let smaller = TopicConfig::new().segment_bytes(self.segment_bytes);
        admin.alter_topic(compacted, None, smaller).await?;
        self.touch(client, compacted).await?;
        let stopped = Arc::new(AtomicBool::new(false));
        let beside = Workload {
            bytes: None,
            records: None,
            duration: Some(2 * PATIENCE),
            stopped: Arc::clone(&stopped),
            ..self.workload.clone()
        };
        let watched = async {
            let watched = watch(client, &filled).await;
            stopped.store(true, Ordering::Relaxed);
            watched
        };
        let (beside, watched) = tokio::join!(produce(client, &beside, topics), watched);
        Ok(metrics(&alone, &beside?, &filled, &watched?, rss))
    }

    /// How many records a partition gets, and how many keys they have.
    fn per_partition(&self) -> (u64, u64) {
        let size = self.workload.record_size.max(1);
        let records = self.compacted_bytes / size / u64::from(self.compacted_partitions);
        let records = records.max(FILL_BATCH);
        let keys = records * u64::from(self.live_percent) / 100;
        (records, keys.max(1))
    }

    async fn fill(&self, client: &Client, name: &str) -> Result<Filled, Error> {
        let config = TopicConfig::new()
            .cleanup(Cleanup::Compact)
            .segment_bytes(UNSEALED);
        let partitions = self.compacted_partitions;
        let admin = client.admin();
        admin.create_topic(name, Some(partitions), config).await?;
        let producer = client.producer();
        let mut payload = Payload::new(self.workload.record_size(), 77);
        let mut builder = BatchBuilder::new(Compression::None);
        let mut on_their_way = VecDeque::new();
        let (records, keys) = self.per_partition();
        for first in (0..records).step_by(usize::try_from(FILL_BATCH).unwrap_or(1)) {
            for partition in 0..partitions {
                for record in first..records.min(first + FILL_BATCH) {
                    let key = key_of(partition, record % keys);
                    let record = RecordRef::new(key.as_bytes(), payload.next());
                    builder.push(&record).map_err(Error::from)?;
                }
                if on_their_way.len() >= FILL_IN_FLIGHT
                    && let Some(oldest) = on_their_way.pop_front()
                {
                    oldest.await?;
                }
                let batch = builder.finish();
                on_their_way.push_back(producer.send_batch(name, partition, batch).await?);
            }
        }
        producer.close().await?;
        let all = u64::from(partitions);
        let live = keys * all * self.workload.record_size;
        Ok(Filled {
            name: name.to_owned(),
            bytes: records * all * self.workload.record_size,
            least: live,
            // With keys, and segments that aren't sealed.
            most: live + live / 4 + all * self.segment_bytes,
        })
    }

    /// Appends a record to each partition: where it goes is no longer the segment that
    /// was filled.
    async fn touch(&self, client: &Client, name: &str) -> Result<(), Error> {
        let producer = client.producer();
        for partition in 0..self.compacted_partitions {
            let key = key_of(partition, 0);
            let record = RecordRef::new(key.as_bytes(), b"touched");
            producer.send_to(name, partition, &record).await?.await?;
        }
        producer.close().await
    }

    fn json(&self) -> Value {
        let mut parameters = self.workload.json();
        parameters["compacted_bytes"] = json!(self.compacted_bytes);
        parameters["live_percent"] = json!(self.live_percent);
        parameters["compacted_partitions"] = json!(self.compacted_partitions);
        parameters["segment_bytes"] = json!(self.segment_bytes);
        parameters
    }
}

fn key_of(partition: u32, key: u64) -> String {
    format!("{partition:x}-{key:010x}")
}

/// What was produced, and in what time.
struct Load {
    produced: Produced,
    time: Duration,
}

impl Load {
    fn rate(&self) -> f64 {
        self.produced.records as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

async fn produce(
    client: &Client,
    workload: &Workload,
    topics: &Arc<Topics>,
) -> Result<Load, Error> {
    let started = clock::instant();
    let produced = load::produce(client, workload, topics).await?;
    let time = started.elapsed();
    Ok(Load { produced, time })
}

/// `rss_before` is in bytes.
fn metrics(
    alone: &Load,
    beside: &Load,
    filled: &Filled,
    watched: &Watched,
    rss_before: u64,
) -> Vec<Metric> {
    let kept = beside.rate() / alone.rate() * 100.0;
    let seconds = watched.time.as_secs_f64();
    let megabytes = filled.bytes as f64 / 1e6;
    let [alone_p50, _, alone_p99, _, alone_max] = percentiles(&alone.produced.latency);
    let [p50, _, p99, _, max] = percentiles(&beside.produced.latency);
    vec![
        ("alone_records_per_s", "ALONE: records/s", alone.rate()),
        ("alone_p50_us", alone_p50.1, alone_p50.2),
        ("alone_p99_us", alone_p99.1, alone_p99.2),
        ("alone_max_us", alone_max.1, alone_max.2),
        ("records_per_s", "COMPACTING: records/s", beside.rate()),
        p50,
        p99,
        max,
        ("kept_percent", "% OF ALONE", kept),
        ("compaction_s", "TOOK s", seconds),
        ("compaction_mb_per_s", "MB/s", megabytes / seconds),
        ("left_mb", "LEFT MB", watched.left as f64 / 1e6),
        ("rss_before_mib", "RSS MiB BEFORE", rss_before as f64 / MIB),
        ("rss_peak_mib", "AT MOST", watched.peak as f64 / MIB),
    ]
}

/// Bytes in the segments of a topic.
async fn segment_bytes(client: &Client, topic: &str) -> Result<u64, Error> {
    let description = client.admin().describe_topic(topic).await?;
    let partitions = description.partitions.iter();
    Ok(partitions.map(|partition| partition.segment_bytes).sum())
}

/// Waits until the archiver has done what it had to.
async fn settle(client: &Client, filled: &Filled) -> Result<(), Error> {
    let mut before = None;
    loop {
        let now = segment_bytes(client, &filled.name).await?;
        if before == Some(now) {
            return Ok(());
        }
        before = Some(now);
        tokio::time::sleep(10 * LOOK_EVERY).await;
    }
}

/// Waits until the topic is compacted.
async fn watch(client: &Client, filled: &Filled) -> Result<Watched, Failure> {
    let started = clock::instant();
    let mut before = 0;
    let mut peak = 0;
    while started.elapsed() < PATIENCE {
        peak = broker(client).await?.resident_bytes.max(peak);
        let left = segment_bytes(client, &filled.name).await?;
        if left == before && (filled.least..=filled.most).contains(&left) {
            return Ok(Watched {
                time: started.elapsed(),
                left,
                peak,
            });
        }
        before = left;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Err(Failure::failed("compaction takes too long"))
}
