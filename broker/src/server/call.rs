//! A call, from its first byte to its last: how many there are, what they hold,
//! and when all are answered.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::Extensions;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use bytes::Bytes;
use http_body::Frame;
use statecast_proto::reason::Reason;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::Status;

use super::connection::{Connection, Peer};
use super::error::Refusal;
use super::memory::{Budget, Held, Memory};
use super::request_body::RequestBody;

/// What a call holds. Handlers find it among the extensions of their request.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) memory: Arc<Memory>,
    pub(super) connection: Arc<Connection>,
    /// For the message of a unary call, whose body is gone once it was read.
    received: Mutex<Option<Held>>,
    /// For what was handed to the transport, and isn't among its bytes yet.
    sending: Mutex<Option<Held>>,
    _place: OwnedSemaphorePermit,
    _in_flight: TaskTrackerToken,
}

impl Call {
    /// The call that a request belongs to.
    pub(super) fn of(extensions: &Extensions) -> Arc<Call> {
        let call = extensions.get::<Arc<Call>>();
        call.expect("every call comes in through `bounded`").clone()
    }

    /// A call that nobody made.
    #[cfg(test)]
    pub(super) fn of_nobody(memory: Arc<Memory>, connection: Arc<Connection>) -> Arc<Call> {
        Arc::new(Call {
            _place: memory.calls.take(1).expect("there are others"),
            memory,
            connection,
            received: Mutex::default(),
            sending: Mutex::default(),
            _in_flight: TaskTracker::new().token(),
        })
    }

    /// Room in a budget, in its turn, that the client has to get on with.
    pub(super) async fn take(&self, budget: &Arc<Budget>, bytes: usize) -> Held {
        match budget.try_take(bytes) {
            Some(held) => held.by(&self.connection),
            None => budget.wait(bytes, &self.connection).await,
        }
    }

    /// Keeps room until the response that is handed out now was sent: from now on
    /// the client has to get on with it.
    pub(super) fn send(&self, held: Held) {
        let held = held.by(&self.connection);
        let mut sending = lock(&self.sending);
        match &mut *sending {
            Some(before) => before.merge(held),
            None => *sending = Some(held),
        }
    }

    /// Keeps what the body of a request held, until the call is answered.
    pub(super) fn received(&self, held: Held) {
        *lock(&self.received) = Some(held);
    }
}

fn lock(held: &Mutex<Option<Held>>) -> std::sync::MutexGuard<'_, Option<Held>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets as many calls in as there are places for, and counts each until its last
/// byte was given to the transport. Bounds what they hold.
pub(super) fn bounded(routes: Router, memory: Arc<Memory>, tracker: TaskTracker) -> Router {
    routes.layer(from_fn(move |mut request: Request, next: Next| {
        let (memory, in_flight) = (memory.clone(), tracker.token());
        async move {
            let Some(place) = memory.calls.take(1) else {
                return Status::from(too_many(memory.calls.count)).into_http();
            };
            let extensions = request.extensions_mut();
            let peer = extensions.get::<Peer>().expect("the server sets it");
            let Peer { connection, tcp } = peer.clone();
            let call = Arc::new(Call {
                memory,
                connection,
                received: Mutex::default(),
                sending: Mutex::default(),
                _place: place,
                _in_flight: in_flight,
            });
            extensions.insert(call.clone());
            // It is here that tonic looks for the address.
            extensions.insert(tcp);
            let request = request.map(|body| Body::new(RequestBody::new(body, call.clone())));
            let response: Response = next.run(request).await;
            drop(lock(&call.received).take());
            response.map(|body| Body::new(ResponseBody { body, call }))
        }
    }))
}

fn too_many(max_calls: usize) -> Refusal {
    let message = format_args!("more than {max_calls} calls at the same time");
    Refusal::new(Reason::Overloaded, message).with("limit", max_calls)
}

/// The body of a response, whose bytes keep their room until the transport has
/// sent them.
struct ResponseBody {
    body: Body,
    call: Arc<Call>,
}

/// Bytes on their way, and the room that they take.
struct Sending {
    bytes: Bytes,
    _held: Held,
}

impl AsRef<[u8]> for Sending {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let Some(held) = lock(&self.call.sending).take() else {
            return Poll::Ready(frame);
        };
        let kept = |bytes| Bytes::from_owner(Sending { bytes, _held: held });
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(kept))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
