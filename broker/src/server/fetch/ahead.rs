//! A stream that works on its next item while the last one is being sent.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::{FutureExt, Stream};
use statecast_proto::v1;
use tonic::Status;

/// Makes items one after the other.
pub(in crate::server) trait Source: Sized + Send + 'static {
    /// The next item and the source after it; nothing at the end.
    fn next(self) -> impl Future<Output = Option<(Item, Option<Self>)>> + Send;
}

type Item = Result<v1::FetchResponse, Status>;
type NextFuture<S> = Pin<Box<dyn Future<Output = Option<(Item, Option<S>)>> + Send>>;

/// The items of a source, the next of which is begun when one is handed out.
/// It is never further ahead than one.
pub(in crate::server) struct Ahead<S> {
    state: State<S>,
}

enum State<S> {
    Working(NextFuture<S>),
    /// Made before anybody asked.
    Made(Option<(Item, Option<S>)>),
}

impl<S: Source> Ahead<S> {
    pub(super) fn new(source: S) -> Ahead<S> {
        Ahead {
            state: State::Working(Box::pin(source.next())),
        }
    }

    /// Starts on the item after, as far as it goes without waiting.
    fn begin(&mut self, source: Option<S>, cx: &mut Context<'_>) {
        let Some(source) = source else {
            self.state = State::Made(None);
            return;
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
        let made = match &mut this.state {
            State::Working(next) => ready!(next.poll_unpin(cx)),
            State::Made(made) => made.take(),
        };
        let Some((item, source)) = made else {
            this.state = State::Made(None);
            return Poll::Ready(None);
        };
        this.begin(source, cx);
        Poll::Ready(Some(item))
    }
}
