//! The requests of one session as a stream. The transport polls it when it has
//! room, so there is no task and no channel between a record and the wire.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::Stream;
use statecast_proto::v1::ProduceStreamRequest;
use tokio::time::Sleep;

use super::batch::{self, Request, WaitingBatch};
use super::queue::Step;
use super::shared::{Shared, wake};
use crate::clock;

pub(super) struct Outbox {
    shared: Arc<Shared>,
    session: u64,
    /// Runs while a batch lingers.
    timer: Pin<Box<Sleep>>,
}

impl Outbox {
    pub(super) fn new(shared: Arc<Shared>, session: u64) -> Self {
        Self {
            shared,
            session,
            timer: Box::pin(tokio::time::sleep_until(clock::now().into())),
        }
    }

    /// Encodes the batches; `None` when they aren't to be sent now: others go
    /// first, or the session ended.
    fn cut(&self, batches: Vec<WaitingBatch>) -> Option<Arc<Request>> {
        let mut request = Vec::with_capacity(batches.len());
        let mut builders = Vec::with_capacity(batches.len());
        for batch in batches {
            let (batch, builder) = batch.cut();
            request.push(batch);
            builders.extend(builder);
        }
        let (sent, waker) = {
            let mut state = self.shared.lock();
            state.queue.cut(self.session, request, builders)
        };
        wake(waker);
        sent
    }

    fn poll_timer(&mut self, time: Instant, cx: &mut Context<'_>) -> Poll<()> {
        self.timer.as_mut().reset(time.into());
        self.timer.as_mut().poll(cx)
    }
}

impl Stream for Outbox {
    type Item = ProduceStreamRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let now = clock::now();
            let step = self.shared.lock().queue.step(self.session, now, cx.waker());
            match step {
                Step::Send(request) => return Poll::Ready(Some(batch::message(&request))),
                Step::Cut(batches) => {
                    if let Some(request) = self.cut(batches) {
                        return Poll::Ready(Some(batch::message(&request)));
                    }
                }
                Step::At(time) => {
                    std::task::ready!(self.poll_timer(time, cx));
                }
                Step::Idle => return Poll::Pending,
                Step::End => return Poll::Ready(None),
            }
        }
    }
}
