//! Local reads: keeps what is true about every service in a map of this process, and
//! tells each change of it.
//!
//! With a broker running (`cargo run --release`), next to the example
//! `service_discovery`:
//!
//! ```sh
//! cargo run -p statecast-client --example state_view
//! ```

use statecast_client::{Change, Cleanup, Client, Error, Reason, TopicConfig};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::var("STATECAST_ENDPOINT");
    let client = Client::connect(url.as_deref().unwrap_or("http://127.0.0.1:7420")).await?;
    let config = TopicConfig::new().cleanup(Cleanup::Compact);
    match client
        .admin()
        .create_topic("services", Some(4), config)
        .await
    {
        Err(error) if error.reason() != Some(Reason::TopicExists) => return Err(error),
        _ => {}
    }

    let view = client
        .state_view("services")
        .prefix("web/")
        .on_change(print);
    let mut view = view.open().await?;
    view.wait_synced().await?;
    println!("there are {} services", view.len());
    loop {
        // Asks nobody: the map is here, and current.
        if let Some(first) = view.iter().next() {
            println!("calls go to {}", String::from_utf8_lossy(&first.value));
        }
        view.changed().await?;
    }
}

fn print(change: &Change) {
    let key = String::from_utf8_lossy(change.key());
    match change.entry() {
        Some(entry) => println!("{key} is at {}", String::from_utf8_lossy(&entry.value)),
        None => println!("{key} is gone"),
    }
}
