//! The service `Log`: each call is a file of its own.

use statecast_proto::v1;
use statecast_proto::v1::log_server::Log;
use tonic::{Request, Response, Status, Streaming};

use super::call::Call;
use super::fetch::FetchStream;
use super::produce_stream::ProduceStream;
use super::{Context, fetch, init_producer, list_offsets, produce};

/// Appends and reads records.
#[derive(Debug)]
pub(super) struct LogService {
    context: Context,
}

impl LogService {
    pub(super) fn new(context: Context) -> LogService {
        LogService { context }
    }
}

#[tonic::async_trait]
impl Log for LogService {
    type ProduceStreamStream = ProduceStream<Streaming<v1::ProduceStreamRequest>>;
    type FetchStream = FetchStream;

    async fn init_producer(
        &self,
        request: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        let response =
            init_producer::init_producer(&self.context.broker, request.get_ref()).await?;
        Ok(Response::new(response))
    }

    async fn produce(
        &self,
        request: Request<v1::ProduceRequest>,
    ) -> Result<Response<v1::ProduceResponse>, Status> {
        let response = produce::produce(&self.context.broker, request.into_inner()).await?;
        Ok(Response::new(response))
    }

    async fn produce_stream(
        &self,
        request: Request<Streaming<v1::ProduceStreamRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        let call = Call::of(request.extensions());
        let incoming = request.into_inner();
        let draining = self.context.draining.clone();
        Ok(Response::new(ProduceStream::new(
            self.context.broker.clone(),
            incoming,
            draining,
            call,
        )))
    }

    async fn fetch(
        &self,
        request: Request<v1::FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let call = Call::of(request.extensions());
        let stream = fetch::open(&self.context, request.into_inner(), call).await?;
        Ok(Response::new(stream))
    }

    async fn list_offsets(
        &self,
        request: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        let response =
            list_offsets::list_offsets(&self.context.broker, request.into_inner()).await?;
        Ok(Response::new(response))
    }
}
