//! A broker within this process, on a directory that goes with it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::broker::{Broker, BrokerOptions};
use crate::cli::failure::Failure;
use crate::clock::Clock;
use crate::server::{self, Drained, Listeners, ServeError, ServerOptions};
use crate::storage::dir::RealDir;

/// A directory that is removed with everything in it.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    is_removed: bool,
}

impl Directory {
    /// Makes one that nobody else has.
    pub(super) fn create() -> Result<Directory, Failure> {
        let (process, now) = (std::process::id(), Clock::system().now_ms());
        let name = format!("statecast-demo-{process}-{now}");
        let path = std::env::temp_dir().join(name);
        // It fails if it is there: then it is somebody else's.
        std::fs::create_dir(&path).map_err(|error| {
            Failure::failed(format_args!("can't create {}: {error}", path.display()))
        })?;
        Ok(Directory {
            path,
            is_removed: false,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, and says so if that fails.
    pub(super) fn remove(mut self) -> Result<(), Failure> {
        self.is_removed = true;
        std::fs::remove_dir_all(&self.path).map_err(|error| {
            let path = self.path.display();
            Failure::failed(format_args!("can't remove {path}: {error}"))
        })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.is_removed {
            // Something else has failed, and is told.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// A broker that serves.
pub(super) struct Embedded {
    broker: Broker,
    address: SocketAddr,
    shutdown: oneshot::Sender<()>,
    served: JoinHandle<Result<Drained, ServeError>>,
}

impl Embedded {
    /// Serves on a free port of the loopback interface.
    pub(super) async fn start(data: &Path) -> Result<Embedded, Failure> {
        let dir = RealDir::take(data).map_err(Failure::failed)?;
        let options = BrokerOptions::new(data.join("index"));
        let opened = Broker::open(Arc::new(dir), options).await;
        let broker = opened.map_err(Failure::failed)?;
        let grpc = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let grpc = grpc.map_err(Failure::failed)?;
        let address = grpc.local_addr().map_err(Failure::failed)?;
        let (shutdown, stop) = oneshot::channel();
        let listeners = Listeners { grpc, http: None };
        let options = ServerOptions::default();
        let served = tokio::spawn(server::serve(broker.clone(), listeners, options, async {
            // Also when it is dropped.
            let _ = stop.await;
        }));
        Ok(Embedded {
            broker,
            address,
            shutdown,
            served,
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops it; nothing writes to its directory any more.
    pub(super) async fn stop(self) -> Result<(), Failure> {
        // Nobody listens when serving has ended already, and `served` tells why.
        let _ = self.shutdown.send(());
        let served = self.served.await.map_err(Failure::failed)?;
        self.broker.stop().await;
        served.map(|_| ()).map_err(Failure::failed)
    }
}
