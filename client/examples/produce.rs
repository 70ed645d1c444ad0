//! Sends numbered records to a topic and says where they went.
//!
//! With a broker running (`cargo run --release`):
//!
//! ```sh
//! cargo run -p statecast-client --example produce
//! ```

use std::time::Duration;

use statecast_client::{Client, Error, Reason, RecordRef, TopicConfig};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::var("STATECAST_ENDPOINT");
    let client = Client::connect(url.as_deref().unwrap_or("http://127.0.0.1:7420")).await?;
    let created = client
        .admin()
        .create_topic("readings", Some(4), TopicConfig::new())
        .await;
    match created {
        Err(error) if error.reason() == Some(Reason::TopicExists) => {}
        created => println!("created {}", created?.name),
    }

    // Batches fill while others are on their way; a linger isn't needed for that.
    let producer = client
        .producer_builder()
        .delivery_timeout(Duration::from_secs(10))
        .build();
    let mut deliveries = Vec::new();
    for number in 0..100 {
        let (key, value) = (format!("sensor-{}", number % 7), format!("{number}"));
        let record = RecordRef::new(key.as_bytes(), value.as_bytes());
        // Waits only when the buffer is full.
        deliveries.push((number, producer.send("readings", &record).await?));
    }
    for (number, delivery) in deliveries {
        // Acknowledged at the topic's flush level: durable, by default.
        let position = delivery.await?;
        println!("{number}: {position}");
    }
    producer.close().await
}
