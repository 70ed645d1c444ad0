//! Who is let in: connections, up to a bound below that of open files.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::connection::{Connection, Greeted};
use super::memory::{Memory, Places};
use crate::limits;

/// The HTTP/2 receive windows of a connection and of its streams: bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Windows {
    pub(super) stream: u32,
    pub(super) connection: u32,
}

impl Windows {
    /// Those of connections when there are many: what all of them can fill has
    /// to stay bounded.
    pub(super) fn narrowed(self) -> Windows {
        Windows {
            stream: self.stream.min(limits::NARROW_STREAM_WINDOW),
            connection: self.connection.min(limits::NARROW_CONNECTION_WINDOW),
        }
    }

    /// How many messages of a connection may wait for room, each of which can
    /// fill the window of its stream: the connection's has to have some left.
    fn line(self) -> usize {
        let streams = self.connection / self.stream;
        streams.saturating_sub(1).max(1) as usize
    }
}

/// Connections that were let in, by the windows that they get.
pub(super) struct Incoming {
    pub(super) wide: ReceiverStream<io::Result<Greeted>>,
    pub(super) narrow: ReceiverStream<io::Result<Greeted>>,
}

/// Lets connections in.
pub(super) struct Door<L> {
    listener: L,
    windows: Windows,
    memory: Arc<Memory>,
    /// For connections with wide windows.
    wide_places: Places,
    wide: mpsc::Sender<io::Result<Greeted>>,
    narrow: mpsc::Sender<io::Result<Greeted>>,
    /// The last one was turned away, and that was logged.
    crowded: bool,
}

/// Where connections come from.
pub(super) trait Accept {
    /// The next connection.
    fn accept(&self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send;
}

impl Accept for TcpListener {
    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        TcpListener::accept(self).await
    }
}

impl<L: Accept> Door<L> {
    pub(super) fn new(listener: L, windows: Windows, memory: Arc<Memory>) -> (Door<L>, Incoming) {
        let (wide, wide_incoming) = mpsc::channel(1);
        let (narrow, narrow_incoming) = mpsc::channel(1);
        let door = Door {
            listener,
            windows,
            memory,
            wide_places: Places::new(limits::WIDE_CONNECTIONS),
            wide,
            narrow,
            crowded: false,
        };
        let incoming = Incoming {
            wide: ReceiverStream::new(wide_incoming),
            narrow: ReceiverStream::new(narrow_incoming),
        };
        (door, incoming)
    }

    /// Lets connections in until nobody serves them any more.
    pub(super) async fn open(mut self) {
        let unserved = self.wide.clone();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = unserved.closed() => return,
            };
            match accepted {
                Ok((stream, peer)) => self.let_in(stream, peer).await,
                Err(error) if concerns_one(&error) => {
                    tracing::debug!("a connection failed before it was accepted: {error}");
                }
                Err(error) => {
                    // Most likely there are too many open files, and will be in a
                    // moment. What waits to be accepted goes on waiting.
                    tracing::warn!("no connection can be accepted: {error}");
                    tokio::time::sleep(limits::ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Hands a connection over to be served, or closes it when there are too many.
    async fn let_in(&mut self, stream: TcpStream, peer: SocketAddr) {
        let Some(place) = self.memory.connections.take(1) else {
            if !std::mem::replace(&mut self.crowded, true) {
                tracing::warn!(%peer, "turned away: there are too many connections");
            }
            return;
        };
        self.crowded = false;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, "TCP_NODELAY: {error}");
        }
        let wide_place = self.wide_places.take(1);
        let (windows, server) = match wide_place {
            Some(_) => (self.windows, &self.wide),
            None => (self.windows.narrowed(), &self.narrow),
        };
        let connection = Connection::new(peer, windows.line());
        let greeted = Greeted::new(stream, connection, (place, wide_place));
        // An error says that it is too late: the server is stopping.
        let _ = server.send(Ok(greeted)).await;
    }
}

/// Whether an error of accepting is that of one connection, and the next one may
/// be well.
fn concerns_one(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::server::ServerOptions;

    /// Has no open file left, ever.
    #[derive(Default)]
    struct Exhausted(Arc<AtomicUsize>);

    impl Accept for Exhausted {
        async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Err(rustix::io::Errno::MFILE.into())
        }
    }

    const WINDOWS: Windows = Windows {
        stream: limits::HTTP2_STREAM_WINDOW,
        connection: limits::HTTP2_CONNECTION_WINDOW,
    };

    #[tokio::test(start_paused = true)]
    async fn want_of_open_files_is_waited_out() {
        let tries = Arc::default();
        let memory = Arc::new(Memory::new(&ServerOptions::default()));
        let (door, _incoming) = Door::new(Exhausted(Arc::clone(&tries)), WINDOWS, memory);
        let open = tokio::time::timeout(Duration::from_secs(10), door.open());
        assert!(open.await.is_err(), "it goes on");
        assert!((10..=11).contains(&tries.load(Ordering::Relaxed)));
    }

    #[tokio::test]
    async fn the_door_closes_when_nobody_serves() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let memory = Arc::new(Memory::new(&ServerOptions::default()));
        let (door, incoming) = Door::new(listener, WINDOWS, memory);
        drop(incoming);
        door.open().await;
    }

    #[test]
    fn waiting_messages_leave_room_in_the_window_of_their_connection() {
        let windows = [WINDOWS, WINDOWS.narrowed()];
        for Windows { stream, connection } in windows {
            let line = u32::try_from(Windows { stream, connection }.line()).unwrap();
            assert!(line >= 1 && (line + 1) * stream <= connection);
        }
        // Set so by hand: one may wait, and takes what there is.
        let equal = Windows {
            stream: 1 << 20,
            connection: 1 << 20,
        };
        assert_eq!(equal.line(), 1);
        assert_eq!(equal.narrowed().connection, 512 << 10);
    }
}
