//! One load generator for several brokers: records one by one, so many on their
//! way, then the same records read back, then a fixed rate from end to end.
//!
//! `run.sh` beside it starts each broker, runs this, and prints a table.

mod load;
mod nats;
mod redis_streams;
mod statecast;

use std::time::Duration;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

/// What every peer can do.
trait Peer: Send + Sync {
    /// Sends a record; the inner future resolves when it is acknowledged.
    fn send(&self, payload: Vec<u8>) -> BoxFuture<'_, Result<BoxFuture<'static, Result<()>>>>;

    /// All records from the first on, and then each new one.
    fn read(&self) -> BoxFuture<'_, Result<BoxStream<'static, Result<Vec<u8>>>>>;
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Broker {
    Statecast,
    Redis,
    Nats,
}

#[derive(Debug, Parser)]
struct Arguments {
    broker: Broker,
    /// Where it listens.
    address: String,
    /// What the rows are called.
    #[arg(long)]
    label: String,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// The topic's flush level; of Statecast only.
    #[arg(long, default_value = "always")]
    flush: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let time = Duration::from_secs(arguments.seconds);
    for (size, in_flight) in [(1024, 1), (1024, 1000), (100, 1000)] {
        let peer = open(&arguments, &format!("p{size}-{in_flight}")).await?;
        let produced = load::produce(peer.as_ref(), size, in_flight, time).await?;
        println!(
            "{} | produce {size} B, {in_flight} in flight | {}",
            arguments.label,
            produced.describe()
        );
        if in_flight > 1 {
            let consumed = load::consume(peer.as_ref(), produced.records).await?;
            println!(
                "{} | consume {size} B | {:.0} records/s",
                arguments.label, consumed
            );
        }
    }
    let peer = open(&arguments, "end-to-end").await?;
    let ended = load::end_to_end(peer, 1024, 10_000, time).await?;
    println!(
        "{} | end to end, 10000/s of 1024 B | {}",
        arguments.label,
        ended.describe()
    );
    Ok(())
}

async fn open(arguments: &Arguments, topic: &str) -> Result<std::sync::Arc<dyn Peer>> {
    Ok(match arguments.broker {
        Broker::Statecast => std::sync::Arc::new(
            statecast::Statecast::open(&arguments.address, topic, &arguments.flush).await?,
        ),
        Broker::Redis => {
            std::sync::Arc::new(redis_streams::Redis::open(&arguments.address, topic).await?)
        }
        Broker::Nats => std::sync::Arc::new(nats::Nats::open(&arguments.address, topic).await?),
    })
}
