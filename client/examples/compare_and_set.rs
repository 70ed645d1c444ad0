//! Changes a value according to what it is, while others do so too: run it in several
//! terminals at the same time, and no step is lost.
//!
//! With a broker running (`cargo run --release`):
//!
//! ```sh
//! cargo run -p statecast-client --example compare_and_set
//! ```

use statecast_client::{Cleanup, Client, Entry, Error, Reason, TopicConfig, Update};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::var("STATECAST_ENDPOINT");
    let client = Client::connect(url.as_deref().unwrap_or("http://127.0.0.1:7420")).await?;
    let config = TopicConfig::new().cleanup(Cleanup::Compact);
    match client
        .admin()
        .create_topic("counters", Some(4), config)
        .await
    {
        Err(error) if error.reason() != Some(Reason::TopicExists) => return Err(error),
        _ => {}
    }

    let counters = client.state("counters");
    for _ in 0..100 {
        let step = |entry: Option<&Entry>| Update::put((number(entry) + 1).to_string());
        counters.update("steps", step).await?;
    }
    // By hand: only if nobody else was faster.
    let steps = counters.get("steps").await?;
    println!("{} steps", number(steps.as_ref()));
    if let Some(steps) = steps {
        let checked = counters.put("checked", &steps.value);
        match checked.expect_absent().await {
            Ok(_) => println!("this is the first to check"),
            Err(Error::VersionMismatch { .. }) => println!("somebody has checked before"),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn number(entry: Option<&Entry>) -> u64 {
    let text = entry.and_then(|entry| str::from_utf8(&entry.value).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}
