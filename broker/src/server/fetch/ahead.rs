//! A stream that works on its next item while the last one is being sent.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::{FutureExt, Stream};
use statecast_proto::v1;
use tonic::Status;

use crate::server::call::Call;
use crate::server::memory::Held;

/// Makes items one after the other.
pub(in crate::server) trait Source: Sized + Send + 'static {
    /// The next item and the source after it; nothing at the end.
    fn next(self) -> impl Future<Output = Option<(Made, Option<Self>)>> + Send;
}

/// An item, and the room that it takes until it was sent.
pub(in crate::server) struct Made {
    pub(super) item: Item,
    pub(super) room: Option<Held>,
}

type Item = Result<v1::FetchResponse, Status>;
type NextFuture<S> = Pin<Box<dyn Future<Output = Option<(Made, Option<S>)>> + Send>>;

/// The items of a source, the next of which is begun when one is handed out,
/// unless memory is scarce, or the connection crowded: then it is not even handed out
/// before the last one was sent. It is never further ahead than one.
pub(in crate::server) struct Ahead<S> {
    call: Arc<Call>,
    state: State<S>,
}

enum State<S> {
    /// To be begun when somebody asks; nothing at the end.
    Idle(Option<S>),
    Working(NextFuture<S>),
    /// Made before anybody asked.
    Made(Option<(Made, Option<S>)>),
}

impl<S: Source> Ahead<S> {
    pub(super) fn new(source: S, call: Arc<Call>) -> Ahead<S> {
        Ahead {
            call,
            state: State::Idle(Some(source)),
        }
    }

    /// Starts on the item after, as far as it goes without waiting.
    fn begin(&mut self, source: Option<S>, cx: &mut Context<'_>) {
        let plentiful = self.call.memory.sending.is_plentiful();
        let plentiful = plentiful && !self.call.connection.is_crowded();
        let source = match source {
            Some(source) if plentiful => source,
            idle => {
                self.state = State::Idle(idle);
                return;
            }
        };
        let mut next: NextFuture<S> = Box::pin(source.next());
        self.state = match next.poll_unpin(cx) {
            Poll::Ready(made) => State::Made(made),
            Poll::Pending => State::Working(next),
        };
    }
}

impl<S: Source + Unpin> Stream for Ahead<S> {
    type Item = Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        let this = self.get_mut();
        ready!(this.call.poll_turn(cx));
        if let State::Idle(source) = &mut this.state {
            let Some(source) = source.take() else {
                return Poll::Ready(None);
            };
            this.state = State::Working(Box::pin(source.next()));
        }
        let made = match &mut this.state {
            State::Idle(_) => None,
            State::Working(next) => ready!(next.poll_unpin(cx)),
            State::Made(made) => made.take(),
        };
        let Some((Made { item, room }, source)) = made else {
            this.state = State::Idle(None);
            return Poll::Ready(None);
        };
        if let Some(room) = room {
            this.call.send(room);
        }
        this.begin(source, cx);
        Poll::Ready(Some(item))
    }
}
