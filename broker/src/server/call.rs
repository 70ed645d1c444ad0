//! A call, from its first byte to its last: how many there are, what they hold,
//! and when all are answered.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::Extensions;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::Frame;
use statecast_proto::reason::Reason;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::Status;

use super::connection::{Connection, Peer, Unsent};
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
    /// Bytes that were given to the transport and not sent yet.
    unsent: AtomicUsize,
    /// Who waits for them to be sent.
    waits: AtomicWaker,
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
            unsent: AtomicUsize::new(0),
            waits: AtomicWaker::new(),
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

    /// Room to send so many bytes, in place of some that was taken before anybody knew how
    /// many they would be. Where that was too little, it isn't kept while more is waited
    /// for: others may wait for it.
    pub(super) async fn fit(&self, mut held: Held, bytes: usize) -> Held {
        let budget = &self.memory.sending;
        if budget.most(bytes) > held.bytes() {
            drop(held);
            return self.take(budget, bytes).await;
        }
        held.shrink(bytes);
        held
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

    /// Waits while the connection is crowded and something of this call was not sent
    /// yet. What others have there holds nobody up: they may be stuck.
    pub(super) fn poll_turn(&self, cx: &Context<'_>) -> Poll<()> {
        if self.may_go_on() {
            return Poll::Ready(());
        }
        self.waits.register(cx.waker());
        // It may have been sent just before somebody waited.
        match self.may_go_on() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    fn may_go_on(&self) -> bool {
        !self.connection.is_crowded() || self.unsent.load(Ordering::Acquire) == 0
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
                unsent: AtomicUsize::new(0),
                waits: AtomicWaker::new(),
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
    call: Arc<Call>,
    _held: Held,
    _unsent: Unsent,
}

impl Sending {
    fn new(bytes: Bytes, call: Arc<Call>, held: Held) -> Sending {
        call.unsent.fetch_add(bytes.len(), Ordering::Relaxed);
        Sending {
            _unsent: call.connection.give(bytes.len()),
            _held: held,
            bytes,
            call,
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let bytes = self.bytes.len();
        if self.call.unsent.fetch_sub(bytes, Ordering::AcqRel) == bytes {
            self.call.waits.wake();
        }
    }
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
        let call = self.call.clone();
        let kept = |bytes| Bytes::from_owner(Sending::new(bytes, call, held));
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(kept))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::task::{Wake, Waker};

    use super::*;
    use crate::limits;
    use crate::server::ServerOptions;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    fn send(call: &Arc<Call>, bytes: usize) -> Sending {
        let held = call.memory.sending.try_take(bytes).unwrap();
        Sending::new(vec![0; bytes].into(), call.clone(), held)
    }

    #[test]
    fn call_on_a_crowded_connection_waits_for_its_own_bytes_and_for_no_others() {
        let memory = Arc::new(Memory::new(&ServerOptions::default()));
        let connection = Arc::new(Connection::new(([127, 0, 0, 1], 1).into(), 1));
        let call = || Call::of_nobody(memory.clone(), connection.clone());
        let (small, large, silent) = (call(), call(), call());
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let cx = Context::from_waker(&waker);

        let few = send(&small, 1000);
        assert!(small.poll_turn(&cx).is_ready(), "there is room for more");
        let many = send(&large, limits::UNSENT_BYTES - 1000);
        assert!(small.poll_turn(&cx).is_pending());
        assert!(silent.poll_turn(&cx).is_ready());
        drop(few);
        assert!(woken.0.swap(false, Ordering::Relaxed));
        assert!(small.poll_turn(&cx).is_ready());

        let few = send(&small, 1000);
        assert!(large.poll_turn(&cx).is_pending());
        drop(many);
        assert!(woken.0.load(Ordering::Relaxed));
        assert!(!connection.is_crowded());
        assert!(small.poll_turn(&cx).is_ready());
        drop(few);
        assert_eq!(memory.sending.used(), 0);
    }

    #[tokio::test]
    async fn room_fits_what_is_sent_however_large_that_turns_out() {
        let memory = Arc::new(Memory::new(&ServerOptions::default()));
        let connection = Arc::new(Connection::new(([127, 0, 0, 1], 1).into(), 1));
        let call = Call::of_nobody(memory.clone(), connection);
        let budget = &memory.sending;
        for bytes in [
            0,
            10,
            1000,
            5000,
            limits::SENDING_BYTES,
            2 * limits::SENDING_BYTES,
        ] {
            let room = call.take(budget, 1000).await;
            let room = call.fit(room, bytes).await;
            assert_eq!(budget.used(), budget.most(bytes));
            drop(room);
        }
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn readers_share_a_crowded_connection() {
        let memory = Arc::new(Memory::new(&ServerOptions::default()));
        let connection = Arc::new(Connection::new(([127, 0, 0, 1], 1).into(), 1));
        let reader = connection.add_reader();
        let others: Vec<_> = (0..31).map(|_| connection.add_reader()).collect();
        assert_eq!(reader.response_bytes(1 << 20), 1 << 20);
        let call = Call::of_nobody(memory, connection.clone());
        let _sending = send(&call, limits::UNSENT_BYTES);
        assert_eq!(
            reader.response_bytes(1 << 20),
            limits::CROWDED_FETCH_BYTES / 32
        );
        assert_eq!(reader.response_bytes(5000), 5000);
        let more: Vec<_> = (0..2000).map(|_| connection.add_reader()).collect();
        assert_eq!(reader.response_bytes(1 << 20), limits::LEAST_FETCH_SHARE);
        drop((others, more));
        assert_eq!(reader.response_bytes(8 << 20), limits::CROWDED_FETCH_BYTES);
    }
}
