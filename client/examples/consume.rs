//! Follows a topic from its beginning, through restarts of the broker.
//!
//! With a broker running (`cargo run --release`) and after the example
//! `produce`:
//!
//! ```sh
//! cargo run -p statecast-client --example consume
//! ```

use statecast_client::{Client, Error, Start};
use tokio_stream::StreamExt;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::var("STATECAST_ENDPOINT");
    let client = Client::connect(url.as_deref().unwrap_or("http://127.0.0.1:7420")).await?;
    let mut reader = client
        .reader("readings")
        .start(Start::Earliest)
        .open()
        .await?;
    while let Some(record) = reader.next().await {
        match record {
            Ok(record) => println!(
                "{}/{} {:?} = {:?}",
                record.partition,
                record.offset,
                record.key.unwrap_or_default(),
                record.value.unwrap_or_default(),
            ),
            // Records are missing; those behind them follow.
            Err(
                error @ (Error::Truncated { .. }
                | Error::Quarantined { .. }
                | Error::DamagedBatch { .. }),
            ) => eprintln!("{error}"),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
