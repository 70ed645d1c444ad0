//! A broker within the test's process, on a port of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use statecast_broker::broker::{Broker, BrokerOptions};
use statecast_broker::server::{self, Drained, Listeners, ServeError, ServerOptions};
use statecast_broker::storage::dir::RealDir;
use statecast_proto::v1;
use statecast_proto::v1::admin_client::AdminClient;
use statecast_proto::v1::log_client::LogClient;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_stream::Stream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

/// A running broker. Its data is removed with it.
pub struct TestBroker {
    dir: TempDir,
    broker: Broker,
    address: SocketAddr,
    http: SocketAddr,
    channel: Channel,
    shutdown: oneshot::Sender<()>,
    served: JoinHandle<Result<Drained, ServeError>>,
}

impl TestBroker {
    /// Starts a broker with an empty data directory.
    pub async fn start() -> TestBroker {
        TestBroker::start_with(ServerOptions::default()).await
    }

    /// Starts a broker with an empty data directory and these options.
    pub async fn start_with(options: ServerOptions) -> TestBroker {
        TestBroker::start_in(tempfile::tempdir().unwrap(), options).await
    }

    async fn start_in(dir: TempDir, options: ServerOptions) -> TestBroker {
        let root = take(dir.path()).await;
        let broker_options = BrokerOptions::new(dir.path().join("index"));
        let broker = Broker::open(Arc::new(root), broker_options).await.unwrap();
        let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, http_address) = (grpc.local_addr().unwrap(), http.local_addr().unwrap());
        let (shutdown, stop) = oneshot::channel();
        let listeners = Listeners {
            grpc,
            http: Some(http),
        };
        let served = tokio::spawn(server::serve(broker.clone(), listeners, options, async {
            // Also when the test drops the broker without stopping it.
            let _ = stop.await;
        }));
        let endpoint = Endpoint::try_from(format!("http://{address}")).unwrap();
        let channel = endpoint.connect().await.unwrap();
        TestBroker {
            dir,
            broker,
            address,
            http: http_address,
            channel,
            shutdown,
            served,
        }
    }

    /// A new connection, for what should not share one.
    pub async fn connect(&self) -> Channel {
        Endpoint::try_from(format!("http://{}", self.address))
            .unwrap()
            .connect()
            .await
            .unwrap()
    }

    /// The service `Log`.
    pub fn log(&self) -> LogClient<Channel> {
        LogClient::new(self.channel.clone())
    }

    /// The service `Admin`.
    pub fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone())
    }

    /// Where gRPC is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where HTTP is served.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// What a metric says now.
    pub async fn metric(&self, name: &str) -> usize {
        let (_, metrics) = super::get(self.http, "/metrics").await;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.expect(name).parse().unwrap()
    }

    /// Waits until a metric has a value that fits.
    pub async fn until(&self, name: &str, fits: impl Fn(usize) -> bool) {
        while !fits(self.metric(name).await) {
            tokio::task::yield_now().await;
        }
    }

    /// Waits until the broker has left the journal file that it began with for one
    /// that was prepared. It archives that file by itself; what is appended from now
    /// on stays in the journal for minutes.
    pub async fn until_journal_is_prepared(&self) {
        const FILE_BYTES: u64 = 64 << 20;
        let journal = self.dir.path().join("journal");
        // One that is not prepared, or not yet, is smaller.
        let is_ready = || {
            let files = std::fs::read_dir(&journal).unwrap().flatten();
            // One may go between the two looks.
            let lens: Vec<u64> = files
                .filter_map(|file| Some(file.metadata().ok()?.len()))
                .collect();
            lens.len() >= 3 && lens.iter().all(|&len| len >= FILE_BYTES)
        };
        while !is_ready() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Creates a topic with the default configuration.
    pub async fn create_topic(&self, name: &str, partitions: u32) -> v1::Topic {
        let request = v1::CreateTopicRequest {
            name: name.to_owned(),
            partitions: Some(partitions),
            config: None,
        };
        self.admin()
            .create_topic(request)
            .await
            .unwrap()
            .into_inner()
            .topic
            .unwrap()
    }

    /// Everything about a group.
    pub async fn describe_group(&self, name: &str) -> v1::DescribeGroupResponse {
        let name = name.to_owned();
        let mut admin = self.admin();
        let described = admin.describe_group(v1::DescribeGroupRequest { name });
        described.await.unwrap().into_inner()
    }

    /// Opens a stream of requests.
    pub async fn produce_stream(
        &self,
        requests: impl Stream<Item = v1::ProduceStreamRequest> + Send + 'static,
    ) -> Streaming<v1::ProduceStreamResponse> {
        let responses = self.log().produce_stream(requests).await;
        responses.unwrap().into_inner()
    }

    /// Appends a batch; returns the offset of its first record.
    pub async fn produce(&self, topic: &str, partition: u32, batch: Bytes) -> u64 {
        let request = v1::ProduceRequest {
            topic: topic.to_owned(),
            partition: Some(partition),
            batch,
            ..v1::ProduceRequest::default()
        };
        let produced = self.log().produce(request).await.unwrap();
        produced.into_inner().positions[0].offset
    }

    /// Whether it still does its work: takes a record and hands it out again.
    pub async fn assert_serves(&self) {
        let name = "still-serving";
        let described = v1::DescribeTopicRequest {
            name: name.to_owned(),
        };
        if self.admin().describe_topic(described).await.is_err() {
            self.create_topic(name, 1).await;
        }
        let offset = self.produce(name, 0, super::batch(1)).await;
        let request = v1::FetchRequest {
            topic: name.to_owned(),
            start: Some(v1::Start {
                position: Some(v1::start::Position::Offset(offset)),
            }),
            until_end: true,
            ..v1::FetchRequest::default()
        };
        let mut stream = self.log().fetch(request).await.unwrap().into_inner();
        while let Some(response) = stream.message().await.unwrap() {
            if let Some(v1::fetch_response::Event::Batches(read)) = response.event {
                assert_eq!(read.batches[0].base_offset, offset);
                return;
            }
        }
        panic!("the record was not handed out");
    }

    /// Asks the server to stop; tells how serving ended.
    pub async fn stop_serving(self) -> (Stopped, Drained) {
        self.shutdown.send(()).unwrap();
        let drained = self.served.await.unwrap().unwrap();
        (
            Stopped {
                dir: self.dir,
                broker: self.broker,
            },
            drained,
        )
    }

    /// Stops it and starts another one over the same data.
    pub async fn restart(self) -> TestBroker {
        self.stop_serving().await.0.start().await
    }
}

/// A broker that doesn't serve any more.
pub struct Stopped {
    dir: TempDir,
    broker: Broker,
}

impl Stopped {
    /// Where its data lies.
    pub fn data_dir(&self) -> &Path {
        self.dir.path()
    }

    /// Ends it for good and starts another one over the same data.
    pub async fn start(self) -> TestBroker {
        self.broker.stop().await;
        drop(self.broker);
        TestBroker::start_in(self.dir, ServerOptions::default()).await
    }

    /// As [`Stopped::start`], with a directory removed in between.
    pub async fn start_without(self, removed: &Path) -> TestBroker {
        self.start_changed(|_| std::fs::remove_dir_all(removed).unwrap())
            .await
    }

    /// As [`Stopped::start`]; in between, something is done to the data directory.
    pub async fn start_changed(self, change: impl FnOnce(&Path)) -> TestBroker {
        self.broker.stop().await;
        drop(self.broker);
        drop(take(self.dir.path()).await);
        change(self.dir.path());
        TestBroker::start_in(self.dir, ServerOptions::default()).await
    }
}

/// Takes a data directory, once the broker before has let go of it: a connection to it that
/// is being closed may hold it for a moment longer.
async fn take(dir: &Path) -> RealDir {
    let begin = tokio::time::Instant::now();
    loop {
        match RealDir::take(dir) {
            Ok(root) => return root,
            Err(error) if begin.elapsed() > Duration::from_secs(30) => panic!("{error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}
