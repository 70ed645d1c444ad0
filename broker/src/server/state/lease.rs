//! Leases: keys that end by themselves.

use std::pin::Pin;

use futures_util::{Stream, StreamExt, stream};
use statecast_proto::v1;
use statecast_proto::v1::keep_alive_response::Outcome;
use tonic::{Status, Streaming};

use crate::broker::Broker;
use crate::limits;
use crate::server::Context;
use crate::server::error::Refusal;

/// The responses of one call.
pub(super) type KeepAliveStream =
    Pin<Box<dyn Stream<Item = Result<v1::KeepAliveResponse, Status>> + Send>>;

pub(super) async fn grant(
    broker: &Broker,
    request: &v1::GrantLeaseRequest,
) -> Result<v1::GrantLeaseResponse, Refusal> {
    let ttl_ms = request.ttl_ms;
    if !limits::LEASE_TTL_MS.contains(&ttl_ms) {
        let (low, high) = (limits::LEASE_TTL_MS.start(), limits::LEASE_TTL_MS.end());
        let message = format_args!("ttl_ms is {ttl_ms}; it must lie within {low} to {high}");
        return Err(Refusal::invalid(message).beyond(ttl_ms, high));
    }
    let id = broker.grant_lease(ttl_ms).await?;
    Ok(v1::GrantLeaseResponse {
        lease_id: id.0.get(),
        ttl_ms,
    })
}

/// Answers each request, until there are no more, or the broker stops.
pub(super) fn keep_alive(
    context: &Context,
    requests: Streaming<v1::KeepAliveRequest>,
) -> KeepAliveStream {
    let broker = context.broker.clone();
    let responses = requests.map(move |request| {
        let lease_id = request?.lease_id;
        let outcome = match broker.keep_lease_alive(lease_id) {
            Ok(ttl_ms) => Outcome::TtlMs(ttl_ms),
            Err(error) => Outcome::Error(Refusal::from(error).into_batch_error()),
        };
        Ok(v1::KeepAliveResponse {
            lease_id,
            outcome: Some(outcome),
        })
    });
    let draining = context.draining.clone();
    let stopped = draining.clone().cancelled_owned();
    // Said when the broker stops, and not when the client has ended the call.
    let stopping = stream::once(async { Err(Status::from(Refusal::stopping())) })
        .filter(move |_| std::future::ready(draining.is_cancelled()));
    Box::pin(responses.take_until(stopped).chain(stopping))
}

pub(super) async fn revoke(
    broker: &Broker,
    request: &v1::RevokeLeaseRequest,
) -> Result<v1::RevokeLeaseResponse, Refusal> {
    let removed_keys = broker.revoke_lease(request.lease_id).await?;
    let removed_keys = removed_keys.ok_or_else(Refusal::stopping)?;
    Ok(v1::RevokeLeaseResponse { removed_keys })
}
