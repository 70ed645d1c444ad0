//! `Fetch`: streams records from a start on, then every new one.
//!
//! The reader is polled only when the transport can send, so a consumer that
//! never reads holds one response, one more that was read ahead, and what the
//! transport has of them. All of it has room in the budget of the server, and
//! nothing is read ahead while that is scarce. Where the transport of a connection has
//! much to send, a call has one response there at a time, and a smaller one the more
//! readers share the connection. Dropped with the call.

mod ahead;
mod follow;
mod reader;
mod start;

use std::sync::Arc;

use statecast_proto::v1;

use super::Context;
use super::call::Call;
use super::error::Refusal;
use crate::limits;
use ahead::Ahead;
use follow::Follow;
use reader::{Reader, ReaderOptions};
pub(super) use start::position;

/// The responses of one call.
pub(super) type FetchStream = Ahead<Reader>;

/// Looks up where to read from.
pub(super) async fn open(
    context: &Context,
    request: v1::FetchRequest,
    call: Arc<Call>,
) -> Result<FetchStream, Refusal> {
    let max_bytes = request.max_bytes.unwrap_or(limits::DEFAULT_FETCH_BYTES);
    if !limits::FETCH_BYTES.contains(&max_bytes) {
        let (low, high) = (limits::FETCH_BYTES.start(), limits::FETCH_BYTES.end());
        let message = format_args!("max_bytes is {max_bytes}; it must lie within {low} to {high}");
        return Err(Refusal::invalid(message).beyond(max_bytes, high));
    }
    if context.draining.is_cancelled() {
        return Err(Refusal::stopping());
    }
    let topic = context.broker.topic(&request.topic)?;
    let opened = start::positions(&context.broker, &topic, &request).await?;
    let grows = start::is_whole(&request) && !request.until_end;
    let reader = Reader::new(ReaderOptions {
        follow: grows.then(|| Follow::new(context.broker.clone(), topic)),
        until_end: request.until_end,
        max_bytes: max_bytes as usize,
        draining: context.draining.clone(),
        opened,
        call: &call,
    })?;
    Ok(Ahead::new(reader, call))
}
