//! Shares the work on a topic with every other process that runs this, and says
//! who has what. Start it in several terminals, and end one of them with
//! Ctrl-C: the others take over what it had.
//!
//! With a broker running (`cargo run --release`) and after the example
//! `produce`:
//!
//! ```sh
//! cargo run -p statecast-client --example consume_group
//! ```

use statecast_client::{Client, Error, GroupEvent};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::var("STATECAST_ENDPOINT");
    let client = Client::connect(url.as_deref().unwrap_or("http://127.0.0.1:7420")).await?;
    let mut consumer = client.consumer("example").topic("readings").open().await?;
    let handle = consumer.handle();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            // The loop below ends, and what it has done is committed.
            handle.stop();
        }
    });
    while let Some(event) = consumer.next_event().await {
        match event {
            Ok(GroupEvent::Batch(batch)) => {
                for record in batch.views() {
                    let record = record?;
                    println!(
                        "{}/{} {} = {}",
                        batch.partition(),
                        record.offset,
                        String::from_utf8_lossy(record.key.unwrap_or_default()),
                        String::from_utf8_lossy(record.value.unwrap_or_default()),
                    );
                }
                // It would count as processed with the next event; so it does
                // when there is none. It fails when the partition was lost
                // meanwhile: the records come again, here or elsewhere.
                if let Err(error) = consumer.mark_processed(&batch) {
                    eprintln!("{error}");
                }
            }
            Ok(GroupEvent::Assigned { partitions, .. }) => {
                println!("got {} partitions", partitions.len());
            }
            Ok(GroupEvent::Revoked {
                partitions, reason, ..
            }) => {
                println!("gave back {} partitions: {reason:?}", partitions.len());
            }
            Ok(GroupEvent::Lost { partitions, reason }) => {
                println!("lost {} partitions: {reason:?}", partitions.len());
            }
            Ok(_) => {}
            // Records are missing; those behind them follow.
            Err(
                error @ (Error::Truncated { .. }
                | Error::Quarantined { .. }
                | Error::DamagedBatch { .. }),
            ) => eprintln!("{error}"),
            Err(error) => return Err(error),
        }
    }
    consumer.close().await
}
