//! The service `Groups`: one stream is one member.
//!
//! Each member has a task of its own, which hears its requests whether or not the
//! transport takes the responses: a member that is busy with what it has is alive.
//! What it gives to the transport lies in a channel of one place, so a member that
//! never reads holds two responses, and what the transport has of them. They have
//! room in the budget of the server, and one only while that is scarce. So have its
//! commits, from before they are looked at until their answers are with the transport.

mod commit_room;
mod commits;
mod credit;
mod delivery;
mod join;
mod outgoing;
mod progress;
mod session;
mod start;

use statecast_proto::v1;
use statecast_proto::v1::groups_server::Groups;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Context;
use super::call::Call;

/// What a member is told.
type Responses = mpsc::Sender<Result<v1::ConsumeResponse, Status>>;

/// Lets clients be members of groups.
#[derive(Debug)]
pub(super) struct GroupsService {
    context: Context,
}

impl GroupsService {
    pub(super) fn new(context: Context) -> GroupsService {
        GroupsService { context }
    }
}

#[tonic::async_trait]
impl Groups for GroupsService {
    type ConsumeStream = ReceiverStream<Result<v1::ConsumeResponse, Status>>;

    async fn consume(
        &self,
        request: Request<Streaming<v1::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        let address = request.remote_addr();
        let address = address.map(|address| address.to_string());
        let (responses, stream) = mpsc::channel(1);
        let context = self.context.clone();
        let call = Call::of(request.extensions());
        let incoming = request.into_inner();
        let address = address.unwrap_or_default();
        tokio::spawn(session::serve(context, incoming, responses, address, call));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
