//! Tells others that this process is there, for as long as it is: end it with Ctrl-C,
//! and they see it vanish at once; with `kill -9`, and they do within ten seconds.
//!
//! With a broker running (`cargo run --release`), next to the example `state_view`:
//!
//! ```sh
//! cargo run -p statecast-client --example service_discovery
//! ```

use std::time::Duration;

use statecast_client::{Cleanup, Client, Error, Reason, TopicConfig};

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

    let services = client.state("services");
    let name = format!("web/{}", std::process::id());
    loop {
        // Kept alive in the background, over restarts of the broker.
        let lease = client.grant_lease(Duration::from_secs(10)).await?;
        services.put(&name, "10.0.0.1:80").lease(&lease).await?;
        println!("{name} is there");
        tokio::select! {
            // This process, or the way to the broker, stood still for too long.
            error = lease.lost() => println!("begins again: {error}"),
            _ = tokio::signal::ctrl_c() => {
                lease.revoke().await?;
                println!("{name} is gone");
                return Ok(());
            }
        }
    }
}
