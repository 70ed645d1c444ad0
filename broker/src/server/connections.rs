//! Connections and the calls on them: who is let in, and when all are answered.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use futures_util::{Stream, StreamExt};
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;
use tokio_util::task::TaskTracker;
use tonic::transport::server::{Connected, TcpConnectInfo, TcpIncoming};

use crate::limits;

/// Counts each call until its last byte was given to the transport.
pub(super) fn counted(routes: Router, calls: &TaskTracker) -> Router {
    let calls = calls.clone();
    routes.layer(from_fn(move |request: Request, next: Next| {
        let call = calls.token();
        async move {
            let response = next.run(request).await;
            response.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    let _in_flight = &call;
                    frame
                }))
            })
        }
    }))
}

/// The connections of a listener.
pub(super) fn incoming(
    listener: TcpListener,
) -> impl Stream<Item = io::Result<Greeted>> + Send + 'static {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    incoming.map(|stream| stream.map(Greeted::new))
}

/// Bytes that each client of HTTP/2 sends first, unasked: the preface, and the
/// head of a SETTINGS frame.
const GREETING_BYTES: usize = 24 + 9;

/// A connection that is closed when the client doesn't say in time what it
/// should: until then there are no pings that would find out that it is gone.
pub(super) struct Greeted {
    stream: TcpStream,
    /// Runs until the client has said so much.
    waiting: Option<Pin<Box<Sleep>>>,
    received: usize,
}

impl Greeted {
    fn new(stream: TcpStream) -> Greeted {
        Greeted {
            stream,
            waiting: Some(Box::pin(tokio::time::sleep(limits::GREETING))),
            received: 0,
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
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl Connected for Greeted {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}
