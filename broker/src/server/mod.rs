//! gRPC and HTTP over the broker. Only this module knows tonic and the
//! generated types.

mod admin;
mod answer_room;
mod call;
mod connection;
mod connections;
mod error;
mod fetch;
mod fetched;
mod group_admin;
mod groups;
mod health;
mod http;
mod http_listener;
mod init_producer;
mod keyed;
mod list_offsets;
mod log;
mod memory;
mod process;
mod produce;
mod produce_stream;
mod read_room;
mod reading;
mod request_body;
mod state;
mod topic_config;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use statecast_proto::DESCRIPTOR_SET;
use statecast_proto::v1::admin_server::AdminServer;
use statecast_proto::v1::groups_server::GroupsServer;
use statecast_proto::v1::log_server::LogServer;
use statecast_proto::v1::state_server::StateServer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::pb::health_server::HealthServer;

use crate::broker::Broker;
use crate::limits;
use connections::{Door, Windows};
use memory::Memory;

/// What can be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerOptions {
    /// HTTP/2 receive window of a stream: bytes.
    pub stream_window: u32,
    /// HTTP/2 receive window of a connection: bytes.
    pub connection_window: u32,
    /// Connections for gRPC at a time.
    pub max_connections: usize,
    /// Memory for messages that are being received: bytes.
    pub receiving_bytes: usize,
    /// Memory for responses on their way to readers: bytes.
    pub sending_bytes: usize,
    /// Memory for answers of produce streams, and commits, that wait: bytes.
    pub answering_bytes: usize,
    /// How long a client may keep others waiting for that memory.
    pub stalled: Duration,
    /// How long stopping waits for requests in flight.
    pub drain: Duration,
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        ServerOptions {
            stream_window: limits::HTTP2_STREAM_WINDOW,
            connection_window: limits::HTTP2_CONNECTION_WINDOW,
            max_connections: limits::DEFAULT_MAX_CONNECTIONS,
            receiving_bytes: limits::RECEIVING_BYTES,
            sending_bytes: limits::SENDING_BYTES,
            answering_bytes: limits::ANSWERING_BYTES,
            stalled: limits::STALLED,
            drain: limits::DRAIN,
        }
    }
}

/// Where the server listens; bound already.
#[derive(Debug)]
pub struct Listeners {
    /// For gRPC.
    pub grpc: TcpListener,
    /// For health and metrics over HTTP.
    pub http: Option<TcpListener>,
}

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every request was answered.
    Completely,
    /// Some were still in flight when [`ServerOptions::drain`] was over.
    InPart,
}

/// Why serving ended other than by request.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// gRPC.
    #[error("gRPC: {0}")]
    Grpc(#[from] tonic::transport::Error),
    /// Reflection.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// HTTP.
    #[error("HTTP: {0}")]
    Http(#[from] io::Error),
}

/// What every service of this server has.
#[derive(Debug, Clone)]
struct Context {
    broker: Broker,
    memory: Arc<Memory>,
    /// Cancelled when the server stops taking new work. Streams end then.
    draining: CancellationToken,
}

impl Context {
    /// Whether producers are welcome.
    fn ready(&self) -> bool {
        self.broker.writable() && !self.draining.is_cancelled()
    }
}

/// Serves until `shutdown` resolves, then drains: takes no new connections, ends
/// streams, answers what was appended, and returns once that is done or
/// [`ServerOptions::drain`] is over. HTTP is served to the end. The broker is not
/// stopped.
pub async fn serve(
    broker: Broker,
    listeners: Listeners,
    options: ServerOptions,
    shutdown: impl Future<Output = ()>,
) -> Result<Drained, ServeError> {
    let context = Context {
        broker,
        memory: Arc::new(Memory::new(&options)),
        draining: CancellationToken::new(),
    };
    let draining = context.draining.clone();
    let calls = TaskTracker::new();
    let http = http::serve(listeners.http, context.clone());
    let grpc = serve_grpc(listeners.grpc, context, options, calls.clone())?;
    let drained = async {
        shutdown.await;
        draining.cancel();
        calls.close();
        tokio::select! {
            () = calls.wait() => {
                // A connection may be one that nobody closes any more.
                tokio::time::sleep(limits::FAREWELL).await;
                Drained::Completely
            }
            () = tokio::time::sleep(options.drain) => {
                tracing::warn!("stopping with requests still in flight");
                Drained::InPart
            }
        }
    };
    tokio::select! {
        served = grpc => served.map(|()| Drained::Completely),
        failed = http => failed.map(|()| Drained::InPart),
        drained = drained => Ok(drained),
    }
}

/// The server of the gRPC services; ends when draining is done.
fn serve_grpc(
    listener: TcpListener,
    context: Context,
    options: ServerOptions,
    calls: TaskTracker,
) -> Result<impl Future<Output = Result<(), ServeError>>, ServeError> {
    let log = LogServer::new(log::LogService::new(context.clone()))
        .max_decoding_message_size(limits::MESSAGE_BYTES);
    let admin = AdminServer::new(admin::AdminService::new(context.clone()))
        .max_decoding_message_size(limits::MESSAGE_BYTES);
    let groups = GroupsServer::new(groups::GroupsService::new(context.clone()))
        .max_decoding_message_size(limits::MESSAGE_BYTES);
    let state = StateServer::new(state::StateService::new(context.clone()))
        .max_decoding_message_size(limits::MESSAGE_BYTES);
    let health = HealthServer::new(health::HealthService::new(context.clone()));
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let routes = Routes::new(log)
        .add_service(admin)
        .add_service(groups)
        .add_service(state)
        .add_service(health)
        .add_service(reflection().build_v1()?)
        // For clients that are older than v1, which many still are.
        .add_service(reflection().build_v1alpha()?);
    let memory = context.memory;
    let routes = call::bounded(routes.into_axum_router(), memory.clone(), calls);
    let windows = Windows {
        stream: options.stream_window,
        connection: options.connection_window,
    };
    let (door, incoming) = Door::new(listener, windows, memory);
    let draining = context.draining;
    let serve = move |windows: Windows, incoming| {
        http2(windows)
            .add_routes(Routes::from(routes.clone()))
            .serve_with_incoming_shutdown(incoming, draining.clone().cancelled_owned())
    };
    let wide = serve(windows, incoming.wide);
    let narrow = serve(windows.narrowed(), incoming.narrow);
    Ok(async move {
        let served = async { tokio::try_join!(wide, narrow) };
        tokio::pin!(served);
        // Once they take no more connections the door closes, and the port.
        tokio::select! {
            served = &mut served => served?,
            () = door.open() => served.await?,
        };
        Ok(())
    })
}

/// A server of connections with these windows.
fn http2(windows: Windows) -> Server {
    Server::builder()
        .initial_stream_window_size(windows.stream)
        .initial_connection_window_size(windows.connection)
        .http2_adaptive_window(Some(false))
        .max_frame_size(limits::HTTP2_FRAME_BYTES)
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION)
        .http2_keepalive_interval(Some(limits::KEEPALIVE))
        .http2_keepalive_timeout(Some(limits::KEEPALIVE_TIMEOUT))
}

#[cfg(test)]
mod tests;
