//! `Fetch`: streams records from a start on, then every new one.
//!
//! The reader is polled only when the transport can send, so a consumer that
//! never reads holds one response, one more that was read ahead, and nothing
//! else. Dropped with the call.

mod ahead;
mod reader;
mod start;

use statecast_proto::v1;

use super::Context;
use super::error::Refusal;
use crate::limits;
use ahead::Ahead;
use reader::Reader;

/// The responses of one call.
pub(super) type FetchStream = Ahead<Reader>;

/// Looks up where to read from.
pub(super) async fn open(
    context: &Context,
    request: v1::FetchRequest,
) -> Result<FetchStream, Refusal> {
    let max_bytes = request.max_bytes.unwrap_or(limits::DEFAULT_FETCH_BYTES);
    if !limits::FETCH_BYTES.contains(&max_bytes) {
        let (low, high) = (limits::FETCH_BYTES.start(), limits::FETCH_BYTES.end());
        let message = format_args!("max_bytes is {max_bytes}; it must lie within {low} to {high}");
        return Err(Refusal::invalid(message).with("limit", high));
    }
    if context.draining.is_cancelled() {
        return Err(Refusal::stopping());
    }
    let positions = start::positions(&context.broker, &request).await?;
    let draining = context.draining.clone();
    Ok(Ahead::new(Reader::new(
        request.topic,
        positions,
        request.until_end,
        max_bytes,
        draining,
    )))
}
