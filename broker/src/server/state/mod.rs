//! The service `State`: each call is a file of its own.

mod encode;
mod get;
mod lease;
mod scan;
mod watch;
mod write;

use statecast_proto::v1;
use statecast_proto::v1::state_server::State;
use tonic::{Request, Response, Status, Streaming};

use super::Context;
use super::call::Call;
use watch::WatchStream;

/// Answers what is true, and tells what changes.
#[derive(Debug)]
pub(super) struct StateService {
    context: Context,
}

impl StateService {
    pub(super) fn new(context: Context) -> StateService {
        StateService { context }
    }
}

#[tonic::async_trait]
impl State for StateService {
    type WatchStream = WatchStream;
    type KeepAliveStream = lease::KeepAliveStream;

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetResponse>, Status> {
        let call = Call::of(request.extensions());
        let response = get::get(&self.context.broker, &call, request.get_ref()).await?;
        Ok(Response::new(response))
    }

    async fn scan(
        &self,
        request: Request<v1::ScanRequest>,
    ) -> Result<Response<v1::ScanResponse>, Status> {
        let call = Call::of(request.extensions());
        let response = scan::scan(&self.context.broker, &call, request.into_inner()).await?;
        Ok(Response::new(response))
    }

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<WatchStream>, Status> {
        let call = Call::of(request.extensions());
        let stream = watch::open(&self.context, request.into_inner(), call).await?;
        Ok(Response::new(stream))
    }

    async fn put(
        &self,
        request: Request<v1::PutRequest>,
    ) -> Result<Response<v1::PutResponse>, Status> {
        let call = Call::of(request.extensions());
        let response = write::put(&self.context.broker, call, request.into_inner()).await?;
        Ok(Response::new(response))
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        let call = Call::of(request.extensions());
        let response = write::delete(&self.context.broker, call, request.into_inner()).await?;
        Ok(Response::new(response))
    }

    async fn grant_lease(
        &self,
        request: Request<v1::GrantLeaseRequest>,
    ) -> Result<Response<v1::GrantLeaseResponse>, Status> {
        let response = lease::grant(&self.context.broker, request.get_ref()).await?;
        Ok(Response::new(response))
    }

    async fn keep_alive(
        &self,
        request: Request<Streaming<v1::KeepAliveRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        let responses = lease::keep_alive(&self.context, request.into_inner());
        Ok(Response::new(responses))
    }

    async fn revoke_lease(
        &self,
        request: Request<v1::RevokeLeaseRequest>,
    ) -> Result<Response<v1::RevokeLeaseResponse>, Status> {
        let response = lease::revoke(&self.context.broker, request.get_ref()).await?;
        Ok(Response::new(response))
    }
}
