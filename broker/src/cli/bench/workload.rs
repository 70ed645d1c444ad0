//! What a bench does: the shape of its load, and the topics it makes for it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use statecast_client::{Client, Error, FlushLevel, ReaderBuilder, TopicConfig};

use crate::cli::produce::Codec;
use crate::cli::units;

/// The shape of a load.
#[derive(Debug, Clone, Args)]
pub(super) struct Workload {
    /// Size of a record's value.
    #[arg(long, value_name = "SIZE", value_parser = units::size, default_value = "1KiB")]
    pub(super) record_size: u64,
    /// Records in a batch that the bench encodes itself; 0 sends records one by
    /// one through the producer of the client library.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(super) batch: u32,
    /// Batches, or records when they are sent one by one, that each producer has
    /// on their way.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(super) in_flight: usize,
    /// Producers, each with a stream of its own.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) producers: u32,
    /// Consumers; each reads everything.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) consumers: u32,
    /// Topics.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) topics: u32,
    /// Partitions of each topic; records, or batches, go round them all.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) partitions: u32,
    /// Flush level of the topics.
    #[arg(long, value_name = "LEVEL", value_parser = units::flush_level, default_value = "always")]
    pub(super) flush: FlushLevel,
    /// How batches are compressed; the values don't compress.
    #[arg(long, value_enum, default_value_t = Codec::None)]
    pub(super) compression: Codec,
    /// Producers that don't number their batches: what comes after a lost answer may
    /// be there twice.
    #[arg(long)]
    pub(super) not_idempotent: bool,
    /// Connections for producers, and as many for consumers.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) connections: usize,
    /// Bytes of values that are produced in all [default: 1GiB]
    #[arg(long, value_name = "SIZE", value_parser = units::size, group = "amount")]
    pub(super) bytes: Option<u64>,
    /// Records that are produced in all.
    #[arg(long, value_name = "N", group = "amount")]
    pub(super) records: Option<u64>,
    /// Produce for so long.
    #[arg(long, value_name = "TIME", value_parser = units::duration, group = "amount")]
    pub(super) duration: Option<Duration>,
    /// The most bytes in one response to a consumer [default: the broker's]
    #[arg(long, value_name = "SIZE", value_parser = units::batch_size)]
    pub(super) fetch_bytes: Option<u32>,
    /// Set by benches with a fixed rate.
    #[arg(skip)]
    pub(super) rate: Option<u32>,
    /// Set once a bench that produces for a time has enough.
    #[arg(skip)]
    pub(super) stopped: Arc<AtomicBool>,
    /// How often the bench runs; medians are reported.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) runs: usize,
}

/// When a producer stops.
#[derive(Debug, Clone, Copy)]
pub(super) enum Amount {
    Records(u64),
    Time(Duration),
}

impl Workload {
    /// Size of a record's value: bytes.
    pub(super) fn record_size(&self) -> usize {
        usize::try_from(self.record_size).unwrap_or(usize::MAX)
    }

    /// What all producers produce together.
    pub(super) fn total(&self) -> Amount {
        if let Some(duration) = self.duration {
            return Amount::Time(duration);
        }
        let bytes = self.bytes.unwrap_or(1 << 30);
        Amount::Records(
            self.records
                .unwrap_or(bytes / self.record_size.max(1))
                .max(1),
        )
    }

    /// What one producer produces.
    pub(super) fn share(&self, producer: u32) -> Amount {
        match self.total() {
            Amount::Records(all) => {
                let producers = u64::from(self.producers.max(1));
                let rest = u64::from(u64::from(producer) < all % producers);
                Amount::Records(all / producers + rest)
            }
            time @ Amount::Time(_) => time,
        }
    }

    /// A consumer of a topic, from its beginning.
    pub(super) fn reader(&self, client: &Client, topic: &str) -> ReaderBuilder {
        let reader = client.reader(topic);
        match self.fetch_bytes {
            Some(bytes) => reader.max_bytes(bytes),
            None => reader,
        }
    }

    /// Every parameter, for the report.
    pub(super) fn json(&self) -> Value {
        json!({
            "record_size": self.record_size,
            "batch": self.batch,
            "in_flight": self.in_flight,
            "producers": self.producers,
            "consumers": self.consumers,
            "topics": self.topics,
            "partitions": self.partitions,
            "flush": units::show_flush(self.flush),
            "compression": format!("{:?}", self.compression).to_lowercase(),
            "idempotent": !self.not_idempotent,
            "connections": self.connections,
            "fetch_bytes": self.fetch_bytes,
            "rate": self.rate,
            "bytes": self.bytes,
            "records": self.records,
            "duration_s": self.duration.map(|duration| duration.as_secs_f64()),
        })
    }
}

/// The topics of a bench, gone when it ends.
#[derive(Debug)]
pub(super) struct Topics {
    client: Client,
    names: Vec<String>,
    partitions: u32,
}

impl Topics {
    pub(super) async fn create(client: &Client, workload: &Workload) -> Result<Self, Error> {
        let (topics, partitions) = (workload.topics, workload.partitions);
        Self::make(client, topics, partitions, workload.flush).await
    }

    /// So many topics with so many partitions each.
    pub(super) async fn make(
        client: &Client,
        topics: u32,
        partitions: u32,
        flush: FlushLevel,
    ) -> Result<Self, Error> {
        let count = topics;
        let mut topics = Self {
            client: client.clone(),
            names: Vec::new(),
            partitions,
        };
        let config = TopicConfig::new().flush(flush);
        for number in 0..count {
            let name = format!("bench-{}-{number}", std::process::id());
            let partitions = Some(partitions);
            let created = client
                .admin()
                .create_topic(&name, partitions, config.clone())
                .await;
            if let Err(error) = created {
                topics.delete().await?;
                return Err(error);
            }
            topics.names.push(name);
        }
        Ok(topics)
    }

    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Where the n-th record or batch goes: all partitions of all topics in
    /// turn.
    pub(super) fn target(&self, n: u64) -> (&str, u32) {
        let topics = self.names.len() as u64;
        let name = &self.names[usize::try_from(n % topics).unwrap_or_default()];
        let partition = (n / topics) % u64::from(self.partitions);
        (name, u32::try_from(partition).unwrap_or_default())
    }

    /// Deletes them, also while something still uses them.
    pub(super) async fn delete(&self) -> Result<(), Error> {
        for name in &self.names {
            self.client.admin().delete_topic(name).await?;
        }
        Ok(())
    }
}
