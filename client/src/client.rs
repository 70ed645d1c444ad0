//! The client: one broker address, its connections, and how calls are retried.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::admin::Admin;
use crate::backoff::Backoff;
use crate::clock;
use crate::connection::{self, Purpose};
use crate::consumer::ConsumerBuilder;
use crate::error::Error;
use crate::producer::ProducerBuilder;
use crate::reader::ReaderBuilder;
use crate::state::State;
use crate::state_view::StateViewBuilder;

/// A broker, as this process reaches it. Cheap to clone; clones share the
/// connections. It always goes back to the address it was given, so a broker
/// never has to know how it is reached.
///
/// ```
/// # statecast_example_broker::run(async |url| {
/// // The address may be "http://127.0.0.1:7420".
/// let client = statecast_client::Client::connect(&url).await?;
/// for topic in client.admin().list_topics("").await? {
///     println!("{}: {} partitions", topic.name, topic.partitions);
/// #   assert_eq!((topic.name.as_str(), topic.partitions), ("orders", 2));
/// }
/// # Ok(()) });
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    /// Producers and readers have connections of their own: a stalled reader
    /// must not hold up acknowledgements.
    produce: Vec<Channel>,
    fetch: Vec<Channel>,
    next_produce: AtomicUsize,
    next_fetch: AtomicUsize,
}

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) url: String,
    pub(crate) connections: usize,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) retry_for: Duration,
    pub(crate) backoff: Backoff,
}

/// Makes a [`Client`].
#[derive(Debug, Clone)]
pub struct ClientBuilder {
    settings: Settings,
}

impl ClientBuilder {
    /// Connections for producers, and as many for readers; each new producer
    /// or reader takes the next one. More than one pays on several cores.
    /// Default: 1.
    pub fn connections(mut self, connections: usize) -> Self {
        self.settings.connections = connections.max(1);
        self
    }

    /// How long one attempt to connect may take. Default: 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connect_timeout = timeout;
        self
    }

    /// How long the broker may take to answer a call. Default: 30 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.settings.request_timeout = timeout;
        self
    }

    /// How long calls that are safe to repeat are retried while the broker
    /// can't be reached. Default: 30 s.
    pub fn retry_for(mut self, duration: Duration) -> Self {
        self.settings.retry_for = duration;
        self
    }

    /// The waits between attempts.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.settings.backoff = backoff;
        self
    }

    /// Connects once, so that a wrong address or a broker that isn't there is
    /// known at once.
    pub async fn connect(self) -> Result<Client, Error> {
        let client = self.connect_lazy()?;
        client
            .once(client.produce_channel(), |channel| async {
                // Any answer will do, also that of a broker without this service.
                match HealthClient::new(channel).check(health_request()).await {
                    Err(status)
                        if matches!(status.code(), Code::NotFound | Code::Unimplemented) =>
                    {
                        Ok(Response::new(()))
                    }
                    Err(status) => Err(status),
                    Ok(_) => Ok(Response::new(())),
                }
            })
            .await?;
        Ok(client)
    }

    /// Connects when first needed. Fails only when the address is none. Needs
    /// a Tokio runtime all the same.
    pub fn connect_lazy(self) -> Result<Client, Error> {
        let settings = self.settings;
        let channels = |purpose| {
            let open = || connection::open(&settings, purpose);
            (0..settings.connections)
                .map(|_| open())
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(Client {
            shared: Arc::new(Shared {
                produce: channels(Purpose::Produce)?,
                fetch: channels(Purpose::Fetch)?,
                settings,
                next_produce: AtomicUsize::new(0),
                next_fetch: AtomicUsize::new(0),
            }),
        })
    }
}

impl Client {
    /// Connects to a broker with the default settings: `http://host:port`, or
    /// just `host:port`.
    pub async fn connect(url: impl Into<String>) -> Result<Self, Error> {
        Self::builder(url).connect().await
    }

    /// A client with other settings than the defaults.
    pub fn builder(url: impl Into<String>) -> ClientBuilder {
        ClientBuilder {
            settings: Settings {
                url: url.into(),
                connections: 1,
                connect_timeout: Duration::from_secs(5),
                request_timeout: Duration::from_secs(30),
                retry_for: Duration::from_secs(30),
                backoff: Backoff::default(),
            },
        }
    }

    /// Topics, offsets, and what the broker is.
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// A producer with the default settings; panics outside of a Tokio runtime,
    /// since it starts a task.
    pub fn producer(&self) -> crate::Producer {
        self.producer_builder().build()
    }

    /// A producer with other settings than the defaults.
    pub fn producer_builder(&self) -> ProducerBuilder {
        ProducerBuilder::new(self.clone())
    }

    /// Reads a topic: all partitions from the earliest record on, unless told
    /// otherwise.
    pub fn reader(&self, topic: impl Into<String>) -> ReaderBuilder {
        ReaderBuilder::new(self.clone(), topic.into())
    }

    /// Reads topics together with the other members of a group: name at least
    /// one topic.
    pub fn consumer(&self, group: impl Into<String>) -> ConsumerBuilder {
        ConsumerBuilder::new(self.clone(), group.into())
    }

    /// A compacted topic as a map from keys to values.
    pub fn state(&self, topic: impl Into<Arc<str>>) -> State {
        State::new(self.clone(), topic.into())
    }

    /// Keeps a local map of a compacted topic current.
    pub fn state_view(&self, topic: impl Into<Arc<str>>) -> StateViewBuilder {
        StateViewBuilder::new(self.clone(), topic.into())
    }

    /// Whether the broker says that it serves. Asked once, without retries.
    pub async fn is_serving(&self) -> Result<bool, Error> {
        let answer = self
            .once(self.produce_channel(), |channel| async {
                HealthClient::new(channel).check(health_request()).await
            })
            .await?;
        Ok(answer.status == ServingStatus::Serving as i32)
    }

    /// The address that was given.
    pub fn url(&self) -> &str {
        &self.shared.settings.url
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// The connection for calls that aren't streams, and for the next producer.
    pub(crate) fn produce_channel(&self) -> Channel {
        self.shared.produce[0].clone()
    }

    pub(crate) fn next_produce_channel(&self) -> Channel {
        next(&self.shared.produce, &self.shared.next_produce)
    }

    pub(crate) fn next_fetch_channel(&self) -> Channel {
        next(&self.shared.fetch, &self.shared.next_fetch)
    }

    /// A call that changes something: made once, since the answer to a first
    /// attempt that was carried out may have been lost.
    pub(crate) async fn once<T, F>(
        &self,
        channel: Channel,
        call: impl FnOnce(Channel) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let limit = self.settings().request_timeout;
        match tokio::time::timeout(limit, call(channel)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Error::from_status(&status)),
            Err(_) => Err(Error::Timeout {
                waited: limit,
                last: "the broker didn't answer".into(),
            }),
        }
    }

    /// A call that is safe to repeat: retried for as long as the settings say.
    pub(crate) async fn repeatedly<Q, T, F>(
        &self,
        request: Q,
        call: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<T, Error>
    where
        Q: Clone,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.repeatedly_for(Duration::MAX, request, call).await
    }

    /// As [`Client::repeatedly`], but only within so much time.
    pub(crate) async fn repeatedly_for<Q, T, F>(
        &self,
        safe_for: Duration,
        request: Q,
        call: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<T, Error>
    where
        Q: Clone,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = clock::after(self.settings().retry_for.min(safe_for));
        let mut failures = 0_u32;
        loop {
            let request = Request::new(request.clone());
            let error = match self
                .once(self.produce_channel(), |c| call(c, request))
                .await
            {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let delay = self.settings().backoff.delay(failures);
            if !error.is_retryable() || clock::after(delay) > deadline {
                return Err(error);
            }
            tracing::debug!(%error, "call failed, trying again");
            tokio::time::sleep(delay).await;
            failures = failures.saturating_add(1);
        }
    }
}

fn next(channels: &[Channel], counter: &AtomicUsize) -> Channel {
    channels[counter.fetch_add(1, Ordering::Relaxed) % channels.len()].clone()
}

/// The empty name asks about the broker as a whole.
fn health_request() -> HealthCheckRequest {
    HealthCheckRequest {
        service: String::new(),
    }
}
