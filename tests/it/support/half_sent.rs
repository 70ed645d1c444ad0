//! A call whose message is sent piece by piece.

use std::future::poll_fn;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::channel::{Channel as PieceBody, Sender};
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::http::{Request, Version};
use tonic::transport::Channel;

/// A call of `Produce` that goes on as the test says.
pub struct HalfSent {
    pieces: Sender<Bytes>,
    answer: JoinHandle<Result<(), Status>>,
}

impl HalfSent {
    /// Begins a message of `len` bytes, of which none is sent yet.
    pub async fn begin(channel: &Channel, address: SocketAddr, len: u32) -> HalfSent {
        let mut channel = channel.clone();
        let (mut pieces, body) = PieceBody::<Bytes>::new(1024);
        let request = Request::post(format!("http://{address}/statecast.v1.Log/Produce"))
            .version(Version::HTTP_2)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::new(body))
            .unwrap();
        poll_fn(|cx| GrpcService::<Body>::poll_ready(&mut channel, cx))
            .await
            .unwrap();
        let answer = channel.call(request);
        let answer = tokio::spawn(async move {
            let response = answer
                .await
                .map_err(|error| Status::from_error(error.into()))?;
            Status::from_header_map(response.headers()).map_or(Ok(()), Err)
        });
        let prefix = [&[0], &len.to_be_bytes()[..]].concat();
        pieces.send_data(prefix.into()).await.unwrap();
        HalfSent { pieces, answer }
    }

    /// Sends some more of the message.
    pub async fn send(&mut self, len: usize) {
        // What the broker has refused need not be sent.
        let _ = self.pieces.send_data(vec![0; len].into()).await;
    }

    /// Whether it was answered.
    pub fn is_answered(&self) -> bool {
        self.answer.is_finished()
    }

    /// What it is answered once no more is sent.
    pub async fn answer(self) -> Result<(), Status> {
        drop(self.pieces);
        self.answer.await.unwrap()
    }
}
