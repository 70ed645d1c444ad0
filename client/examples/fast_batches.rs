//! For tools that batch themselves: encodes batches of its own, keeps several
//! on their way, and reads them back without copying a record.
//!
//! ```sh
//! cargo run --release -p statecast-client --example fast_batches
//! ```

use std::collections::VecDeque;

use statecast_client::{BatchBuilder, Client, Compression, Error, RecordRef, TopicConfig};

const BATCHES: u32 = 1000;
const RECORDS: u32 = 1000;
const ON_THEIR_WAY: usize = 8;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::var("STATECAST_ENDPOINT");
    let client = Client::connect(url.as_deref().unwrap_or("http://127.0.0.1:7420")).await?;
    let admin = client.admin();
    admin
        .create_topic("fast", Some(1), TopicConfig::new())
        .await?;

    let producer = client.producer();
    let mut builder = BatchBuilder::new(Compression::None);
    let mut deliveries = VecDeque::new();
    for _ in 0..BATCHES {
        if deliveries.len() == ON_THEIR_WAY
            && let Some(oldest) = deliveries.pop_front()
        {
            let oldest: statecast_client::Delivery = oldest;
            oldest.await?;
        }
        for number in 0..RECORDS {
            builder.push(&RecordRef::of_value(&number.to_le_bytes()))?;
        }
        let batch = builder.finish();
        deliveries.push_back(producer.send_batch("fast", 0, batch).await?);
    }
    producer.close().await?;

    let mut reader = client.reader("fast").until_end().open().await?;
    let mut sum = 0;
    while let Some(batch) = reader.next_batch().await {
        for record in batch?.views() {
            let number = record?.value.and_then(|value| value.first_chunk());
            sum += u64::from(number.map_or(0, |bytes| u32::from_le_bytes(*bytes)));
        }
    }
    println!("sum of all records: {sum}");
    admin.delete_topic("fast").await
}
