//! The connection of a member, so that the broker can tell a member that goes
//! in order from one that is cut off: whoever ends its requests has left, and a
//! named member that is to come again must not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::{StreamExt, future, stream};
use http_body_util::{BodyStream, StreamBody};
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Service, StdError, http};
use tonic::transport::Channel;

/// Whether the member has said that it leaves.
#[derive(Debug, Clone, Default)]
pub(super) struct Farewell(Arc<AtomicBool>);

impl Farewell {
    pub(super) fn said(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn was_said(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Cuts off its call when the requests end without a farewell.
#[derive(Debug, Clone)]
pub(super) struct Call {
    channel: Channel,
    farewell: Farewell,
}

impl Call {
    pub(super) fn new(channel: Channel, farewell: Farewell) -> Self {
        Self { channel, farewell }
    }

    fn with_end(&self, requests: Body) -> Body {
        let farewell = self.farewell.clone();
        let frames = BodyStream::new(requests).map(|frame| frame.map_err(StdError::from));
        let end = stream::once(future::lazy(move |_| farewell.was_said()));
        let cut = end.filter_map(|was_said| {
            // Not `CANCEL`: servers take that for an end of the requests.
            let cut = || Err(StdError::from(h2::Error::from(h2::Reason::INTERNAL_ERROR)));
            future::ready((!was_said).then(cut))
        });
        Body::new(StreamBody::new(frames.chain(cut)))
    }
}

impl Service<http::Request<Body>> for Call {
    type Response = http::Response<<Channel as GrpcService<Body>>::ResponseBody>;
    type Error = <Channel as GrpcService<Body>>::Error;
    type Future = <Channel as GrpcService<Body>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        GrpcService::poll_ready(&mut self.channel, cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let request = request.map(|requests| self.with_end(requests));
        GrpcService::call(&mut self.channel, request)
    }
}
