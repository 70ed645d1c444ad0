//! `statecast serve`.

mod logging;
mod settings;

use std::fmt::Display;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::common::Common;
use super::failure::Failure;
use crate::broker::{Broker, BrokerOptions};
use crate::limits;
use crate::server::{self, Listeners, ServerOptions};
use crate::storage::check_format;
use crate::storage::dir::RealDir;

use settings::Settings;
pub(super) use settings::SettingsArgs;

/// Where the metadata index lies in the data directory.
const INDEX_DIR: &str = "index";

/// Run the broker.
#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Threads for what blocks besides reads from disk and checks: opening and stopping.
const OTHER_BLOCKING: usize = 2;

impl Serve {
    pub(super) fn run(self, common: &Common) -> Result<(), Failure> {
        let settings = self.settings.resolve()?;
        logging::init(settings.log_level, settings.log_format);
        let open_files = raise_open_files();
        let max_connections = max_connections(settings.max_connections, open_files);
        let growing_segments = growing_segments(max_connections, open_files);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .worker_threads(settings.threads)
            // A pool that may grow gets a thread for every few reads that follow
            // each other closely, not only for those at the same time.
            .max_blocking_threads(limits::DISK_READS + limits::CHECKS_OFF_RUNTIME + OTHER_BLOCKING)
            .thread_name("statecast")
            .build()
            .map_err(Failure::failed)?;
        let files = OpenFiles {
            max_connections,
            growing_segments,
        };
        runtime.block_on(run(&settings, files, common.quiet))
    }
}

/// Connections and segments are open files, and 1,024, the usual bound, are few.
/// A process may raise its own up to the hard one. Returns what it is then, if
/// there is a bound.
fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!("the bound of open files can't be raised: {error}");
    }
    getrlimit(Resource::Nofile).current
}

/// As many connections as were asked for, if their open files leave enough to the
/// log.
fn max_connections(asked: usize, open_files: Option<u64>) -> usize {
    let Some(open_files) = open_files else {
        return asked;
    };
    let reserved = limits::RESERVED_FILES.min(open_files / 2);
    let fits = usize::try_from(open_files - reserved).unwrap_or(usize::MAX);
    if fits < asked {
        tracing::warn!(
            "{fits} connections at a time instead of {asked}: \
             the process may open {open_files} files"
        );
    }
    asked.min(fits)
}

/// Segments that may stay open for writing: nobody else may need their files.
fn growing_segments(max_connections: usize, open_files: Option<u64>) -> usize {
    let left = open_files.map_or(u64::MAX, |open_files| {
        open_files.saturating_sub(limits::RESERVED_FILES + max_connections as u64)
    });
    usize::try_from(left).map_or(limits::GROWING_SEGMENTS, |left| {
        left.min(limits::GROWING_SEGMENTS)
    })
}

/// What open files are for.
struct OpenFiles {
    max_connections: usize,
    growing_segments: usize,
}

async fn run(settings: &Settings, files: OpenFiles, quiet: bool) -> Result<(), Failure> {
    // Before the data is touched: what fails most often fails first.
    let grpc = bind(settings.listen)?;
    let http = settings.http_listen.0.map(bind).transpose()?;
    let signals = Signals::new().map_err(Failure::failed)?;
    let ready = ready_line(settings, &grpc, http.as_ref());
    let listeners = Listeners {
        grpc: into_tokio(grpc)?,
        http: http.map(into_tokio).transpose()?,
    };
    let broker = open(&settings.data_dir, files.growing_segments).await?;
    if !quiet {
        // Nobody may be listening to standard output.
        let _ = writeln!(anstream::stdout(), "{ready}");
    }
    let options = ServerOptions {
        stream_window: settings.stream_window,
        connection_window: settings.connection_window,
        max_connections: files.max_connections,
        ..ServerOptions::default()
    };
    let served = server::serve(broker.clone(), listeners, options, signals.stop_requested()).await;
    broker.stop().await;
    served.map(|_| ()).map_err(Failure::failed)
}

async fn open(data_dir: &Path, growing_segments: usize) -> Result<Broker, Failure> {
    let failed = |error: &dyn Display| format!("can't serve {}: {error}", data_dir.display());
    check_format(data_dir).map_err(|error| Failure::Failed(failed(&error)))?;
    let dir = RealDir::take(data_dir).map_err(Failure::failed)?;
    let mut options = BrokerOptions::new(data_dir.join(INDEX_DIR));
    options.storage.growing_segments = growing_segments;
    Broker::open(Arc::new(dir), options)
        .await
        .map_err(|error| Failure::Failed(failed(&error)))
}

fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address)
        .map_err(|error| Failure::Failed(format!("can't listen on {address}: {error}")))
}

fn into_tokio(listener: TcpListener) -> Result<tokio::net::TcpListener, Failure> {
    let converted = listener.set_nonblocking(true).map(|()| listener);
    converted
        .and_then(tokio::net::TcpListener::from_std)
        .map_err(Failure::failed)
}

fn ready_line(settings: &Settings, grpc: &TcpListener, http: Option<&TcpListener>) -> String {
    let address = |listener: &TcpListener| {
        listener
            .local_addr()
            .map_or_else(|_| "?".to_owned(), |address| address.to_string())
    };
    let http = http.map_or_else(|| "off".to_owned(), address);
    format!(
        "statecast {} ready: gRPC {}, HTTP {http}, data {}",
        env!("CARGO_PKG_VERSION"),
        address(grpc),
        settings.data_dir.display()
    )
}

/// The signals that ask for an end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Resolves with the first signal. The second one ends the process at once:
    /// what was acknowledged is durable without our help.
    async fn stop_requested(mut self) {
        self.next().await;
        tracing::info!("stopping: draining requests in flight");
        tokio::spawn(async move {
            self.next().await;
            tracing::warn!("stopping at once");
            std::process::exit(1);
        });
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_open_files_to_the_log() {
        assert_eq!(max_connections(2048, None), 2048);
        assert_eq!(max_connections(2048, Some(1 << 20)), 2048);
        assert_eq!(max_connections(2048, Some(3000)), 1976);
        assert_eq!(max_connections(2048, Some(256)), 128, "half, of few");
        assert_eq!(max_connections(10, Some(256)), 10);
    }

    #[test]
    fn segments_stay_open_for_writing_as_far_as_nobody_else_needs_open_files() {
        let most = limits::GROWING_SEGMENTS;
        assert_eq!(growing_segments(2048, None), most);
        assert_eq!(growing_segments(2048, Some(1 << 20)), most);
        assert_eq!(growing_segments(2048, Some(4096)), 1024);
        assert_eq!(growing_segments(1976, Some(3000)), 0);
        assert_eq!(growing_segments(128, Some(256)), 0);
    }
}
