//! The standard health service, answered from the broker's state when asked:
//! serving while appends are taken.

use std::pin::Pin;

use futures_util::{Stream, StreamExt, stream};
use statecast_proto::v1::admin_server::SERVICE_NAME as ADMIN;
use statecast_proto::v1::groups_server::SERVICE_NAME as GROUPS;
use statecast_proto::v1::log_server::SERVICE_NAME as LOG;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::Context;
use crate::limits;

/// Tells whether the broker serves.
#[derive(Debug)]
pub(super) struct HealthService {
    context: Context,
}

impl HealthService {
    pub(super) fn new(context: Context) -> HealthService {
        HealthService { context }
    }
}

fn is_known(service: &str) -> bool {
    ["", LOG, ADMIN, GROUPS].contains(&service)
}

fn status(context: &Context) -> ServingStatus {
    if context.ready() {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !is_known(&request.get_ref().service) {
            return Err(Status::not_found("unknown service"));
        }
        Ok(Response::new(response(status(&self.context))))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        if !is_known(&request.get_ref().service) {
            let unknown = stream::iter([Ok(response(ServingStatus::ServiceUnknown))]);
            // The protocol keeps the stream open: the service may come.
            let draining = self.context.draining.clone().cancelled_owned();
            let open = unknown.chain(stream::pending()).take_until(draining);
            return Ok(Response::new(Box::pin(open)));
        }
        let changes = stream::unfold(Some((self.context.clone(), None)), next_change);
        Ok(Response::new(Box::pin(changes)))
    }
}

/// What a watch saw last; none when it ends.
type Watch = Option<(Context, Option<ServingStatus>)>;

/// Waits until the status is another one. Ends after telling that the broker
/// stops.
async fn next_change(watch: Watch) -> Option<(Result<HealthCheckResponse, Status>, Watch)> {
    let (context, seen) = watch?;
    loop {
        let now = status(&context);
        if seen != Some(now) {
            let stopping = context.draining.is_cancelled();
            let next = (!stopping).then_some((context, Some(now)));
            return Some((Ok(response(now)), next));
        }
        tokio::select! {
            () = context.draining.cancelled() => {
                // Nothing to tell any more if it was not serving before.
                if seen == Some(ServingStatus::NotServing) {
                    return None;
                }
            }
            () = tokio::time::sleep(limits::HEALTH_WATCH) => {}
        }
    }
}
