//! A broker for the examples in documentation, so that they run.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use statecast_broker::broker::{Broker, BrokerOptions};
use statecast_broker::server::{self, Listeners, ServerOptions};
use statecast_broker::storage::dir::RealDir;
use statecast_client::{Client, Error, RecordRef, TopicConfig};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

/// Gives an example the address of a broker of its own and runs it to its end.
///
/// The broker has a port that was free, and a directory that goes with it. It
/// has a topic `orders` with two partitions and three records: `order-1` was
/// `placed` and `paid`, `order-2` was `placed`.
///
/// # Panics
///
/// When the example fails, so that it fails as a test.
pub fn run(example: impl AsyncFnOnce(String) -> Result<(), Error>) {
    let data = tempfile::tempdir().expect("a temporary directory can be made");
    let runtime = Runtime::new().expect("a runtime can be started");
    runtime.block_on(async {
        let (broker, address, shutdown) = start(data.path()).await;
        let url = format!("http://{address}");
        let ran = async {
            place_orders(&url).await?;
            example(url).await
        };
        let ran = ran.await;
        // Nobody listens when serving has ended already.
        let _ = shutdown.send(());
        broker.stop().await;
        ran.expect("the example runs to its end");
    });
}

async fn start(data: &Path) -> (Broker, SocketAddr, oneshot::Sender<()>) {
    let dir = RealDir::take(data).expect("nobody else uses it");
    let options = BrokerOptions::new(data.join("index"));
    let opened = Broker::open(Arc::new(dir), options).await;
    let broker = opened.expect("an empty directory can be opened");
    let grpc = TcpListener::bind("127.0.0.1:0").await;
    let grpc = grpc.expect("a port is free");
    let address = grpc.local_addr().expect("it is bound");
    let (shutdown, stop) = oneshot::channel();
    let listeners = Listeners { grpc, http: None };
    let served = server::serve(broker.clone(), listeners, ServerOptions::default(), async {
        // Also when it is dropped.
        let _ = stop.await;
    });
    tokio::spawn(served);
    (broker, address, shutdown)
}

async fn place_orders(url: &str) -> Result<(), Error> {
    let client = Client::connect(url).await?;
    let admin = client.admin();
    admin
        .create_topic("orders", Some(2), TopicConfig::new())
        .await?;
    let producer = client.producer();
    for (order, state) in [
        ("order-1", "placed"),
        ("order-2", "placed"),
        ("order-1", "paid"),
    ] {
        let record = RecordRef::new(order.as_bytes(), state.as_bytes());
        producer.send("orders", &record).await?.await?;
    }
    producer.close().await
}
