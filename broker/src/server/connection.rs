//! A connection, as the calls on it see it, and the stream of bytes below it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::limits;

/// What the calls of a connection share.
#[derive(Debug)]
pub(super) struct Connection {
    peer: SocketAddr,
    closing: AtomicBool,
    /// The task that reads and writes it.
    task: AtomicWaker,
    /// Messages of which a part has come, and the rest has to wait for room.
    in_line: AtomicUsize,
    /// How many of them there may be. What they have in the window of the
    /// connection has to leave some to the messages that have got their room, or
    /// those could never be finished.
    line: usize,
    /// Bytes that its calls gave to the transport, and that were not sent yet.
    unsent: AtomicUsize,
    /// Calls that read.
    readers: AtomicUsize,
}

/// Bytes that were given to the transport of a connection; sent when it is dropped.
#[derive(Debug)]
pub(super) struct Unsent {
    connection: Arc<Connection>,
    bytes: usize,
}

/// A call that reads, for as long as it is there.
#[derive(Debug)]
pub(super) struct PlaceAmongReaders(Arc<Connection>);

/// A place in the line of a connection, given back when it is dropped.
#[derive(Debug)]
pub(super) struct PlaceInLine(Arc<Connection>);

impl Connection {
    /// With so many places in its line.
    pub(super) fn new(peer: SocketAddr, line: usize) -> Connection {
        Connection {
            peer,
            closing: AtomicBool::new(false),
            task: AtomicWaker::new(),
            in_line: AtomicUsize::new(0),
            line,
            unsent: AtomicUsize::new(0),
            readers: AtomicUsize::new(0),
        }
    }

    /// Gives so many bytes to the transport.
    pub(super) fn give(self: &Arc<Self>, bytes: usize) -> Unsent {
        self.unsent.fetch_add(bytes, Ordering::Relaxed);
        Unsent {
            connection: self.clone(),
            bytes,
        }
    }

    /// Whether its transport has so much to send that more would only lie there: one
    /// response of each reader is enough.
    pub(super) fn is_crowded(&self) -> bool {
        self.unsent.load(Ordering::Relaxed) >= limits::UNSENT_BYTES
    }

    /// One more call reads.
    pub(super) fn add_reader(self: &Arc<Self>) -> PlaceAmongReaders {
        self.readers.fetch_add(1, Ordering::Relaxed);
        PlaceAmongReaders(self.clone())
    }

    /// A place for a message that has to wait, unless too many do.
    pub(super) fn stand_in_line(self: &Arc<Self>) -> Option<PlaceInLine> {
        let place = PlaceInLine(self.clone());
        let before = self.in_line.fetch_add(1, Ordering::Relaxed);
        (before < self.line).then_some(place)
    }

    /// Ends the connection with all its calls: it has kept others waiting for as
    /// long as this.
    pub(super) fn close(&self, kept_waiting: Duration) {
        if !self.closing.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                peer = %self.peer,
                "closing a connection: for {kept_waiting:?} it has not got on with \
                 what it holds, while others wait for room"
            );
        }
        self.task.wake();
    }
}

#[cfg(test)]
impl Connection {
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }
}

impl PlaceAmongReaders {
    /// What the next response may hold of the `wanted` bytes: less where many readers
    /// have to share a connection that is crowded.
    pub(super) fn response_bytes(&self, wanted: usize) -> usize {
        if !self.0.is_crowded() {
            return wanted;
        }
        let readers = self.0.readers.load(Ordering::Relaxed).max(1);
        let share = limits::CROWDED_FETCH_BYTES / readers;
        wanted.min(share.max(limits::LEAST_FETCH_SHARE))
    }
}

impl Drop for PlaceAmongReaders {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.connection
            .unsent
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Drop for PlaceInLine {
    fn drop(&mut self) {
        self.0.in_line.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What each call is told of its connection.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) connection: Arc<Connection>,
    pub(super) tcp: TcpConnectInfo,
}

/// What a connection holds as long as it is open: its place among all of them,
/// and, if it has wide windows, among those that do.
pub(super) type TakenPlaces = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

/// Bytes that each client of HTTP/2 sends first, unasked: the preface, and the
/// head of a SETTINGS frame.
const GREETING_BYTES: usize = 24 + 9;

/// The bytes of a connection. It is closed when the client doesn't say in time
/// what it should: until then there are no pings that would find out that it is
/// gone.
pub(super) struct Greeted {
    stream: TcpStream,
    connection: Arc<Connection>,
    /// Runs until the client has said so much.
    waiting: Option<Pin<Box<Sleep>>>,
    received: usize,
    _places: TakenPlaces,
}

impl Greeted {
    pub(super) fn new(stream: TcpStream, connection: Connection, places: TakenPlaces) -> Greeted {
        Greeted {
            stream,
            connection: Arc::new(connection),
            waiting: Some(Box::pin(tokio::time::sleep(limits::GREETING))),
            received: 0,
            _places: places,
        }
    }

    /// Fails once the connection is to be closed.
    fn check_open(&self, cx: &Context<'_>) -> io::Result<()> {
        self.connection.task.register(cx.waker());
        match self.connection.closing.load(Ordering::Relaxed) {
            true => Err(io::ErrorKind::ConnectionAborted.into()),
            false => Ok(()),
        }
    }
}

impl AsyncRead for Greeted {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check_open(cx)?;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        if let Some(waiting) = &mut this.waiting {
            this.received += buf.filled().len() - before;
            if this.received >= GREETING_BYTES {
                this.waiting = None;
            } else if read.is_pending() {
                ready!(waiting.as_mut().poll(cx));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

impl AsyncWrite for Greeted {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // As for reads: a client may be stuck either way.
        self.check_open(cx)?;
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_open(cx)?;
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl Connected for Greeted {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer {
            connection: self.connection.clone(),
            tcp: self.stream.connect_info(),
        }
    }
}
