//! A broker whose service `State` follows a script.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::Stream;
use statecast_client::{Backoff, Client, Reason};
use statecast_proto::v1;
use statecast_proto::v1::keep_alive_response::Outcome;
use statecast_proto::v1::state_server::{State, StateServer};
use statecast_proto::v1::watch_response::Event;
use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

use super::fake_broker::status;

/// What becomes of a write.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// It is carried out, and its answer is lost.
    Lose,
    /// It is refused.
    Refuse(Reason, Vec<(&'static str, String)>),
}

/// What a watch does, one after the other; then it stays silent.
#[derive(Debug, Clone)]
pub(crate) enum Play {
    /// Sends an event.
    Send(Event),
    /// Ends the stream with an error that a retry mends.
    Vanish,
    /// Ends the stream with this reason.
    Refuse(Reason),
}

#[derive(Debug, Clone)]
pub(crate) struct FakeState {
    url: String,
    script: Arc<Mutex<Script>>,
}

#[derive(Debug, Default)]
pub(crate) struct Script {
    /// What becomes of the next writes; those after them are carried out.
    pub(crate) writes: VecDeque<Answer>,
    pub(crate) put_requests: Vec<v1::PutRequest>,
    pub(crate) delete_requests: Vec<v1::DeleteRequest>,
    /// What the next watches do, in turn.
    pub(crate) watches: VecDeque<Vec<Play>>,
    pub(crate) watch_requests: Vec<v1::WatchRequest>,
    /// What becomes of the next signs of life of a lease, stream by stream; after them,
    /// it lives.
    pub(crate) signs: VecDeque<Sign>,
    pub(crate) signs_heard: u32,
    /// Streams of them that have ended.
    pub(crate) signs_ended: u32,
    pub(crate) revoked: Vec<u64>,
}

/// What a sign of life is answered with.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sign {
    Lives,
    Over,
    Vanish,
    /// Nothing, and the stream stays open.
    Silent,
    /// An error of somebody else on the way.
    Strange,
}

impl FakeState {
    /// Serves until the runtime ends.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            script: Arc::default(),
        };
        let server = tonic::transport::Server::builder();
        let server = { server }.add_service(StateServer::new(fake.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        fake
    }

    /// A client that doesn't make tests wait for its retries.
    pub(crate) async fn client(&self) -> Client {
        let backoff = Backoff {
            first: Duration::from_millis(1),
            max: Duration::from_millis(2),
        };
        let client = Client::builder(&self.url).backoff(backoff);
        client.connect().await.unwrap()
    }

    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    fn answer(&self) -> Result<(), Status> {
        match self.script().writes.pop_front() {
            None => Ok(()),
            Some(Answer::Lose) => Err(Status::unavailable("the answer is lost")),
            Some(Answer::Refuse(reason, metadata)) => Err(status(reason, metadata)),
        }
    }
}

/// Notes that a stream of signs of life has ended.
struct NotesEnd(FakeState);

impl Drop for NotesEnd {
    fn drop(&mut self) {
        self.0.script().signs_ended += 1;
    }
}

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl State for FakeState {
    type WatchStream = BoxStream<v1::WatchResponse>;
    type KeepAliveStream = BoxStream<v1::KeepAliveResponse>;

    async fn get(
        &self,
        _request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetResponse>, Status> {
        Ok(Response::new(v1::GetResponse::default()))
    }

    async fn scan(
        &self,
        request: Request<v1::ScanRequest>,
    ) -> Result<Response<v1::ScanResponse>, Status> {
        // A page that leads nowhere.
        let page = v1::ScanResponse {
            next_page_token: request.into_inner().topic.into(),
            ..v1::ScanResponse::default()
        };
        Ok(Response::new(page))
    }

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let plays = {
            let mut script = self.script();
            script.watch_requests.push(request.into_inner());
            script.watches.pop_front().unwrap_or_default()
        };
        let plays = plays.into_iter().map(|play| match play {
            Play::Send(event) => Ok(v1::WatchResponse { event: Some(event) }),
            Play::Vanish => Err(Status::unavailable("the script says vanish")),
            Play::Refuse(reason) => Err(status(reason, Vec::new())),
        });
        let stream = tokio_stream::iter(plays.collect::<Vec<_>>());
        let silence = tokio_stream::pending();
        Ok(Response::new(Box::pin(stream.chain(silence))))
    }

    async fn put(
        &self,
        request: Request<v1::PutRequest>,
    ) -> Result<Response<v1::PutResponse>, Status> {
        let request = request.into_inner();
        let written = (0..).zip(&request.writes).map(|(offset, _)| v1::Written {
            partition: 0,
            offset,
            version: offset,
        });
        let written = written.collect();
        self.script().put_requests.push(request);
        self.answer()?;
        Ok(Response::new(v1::PutResponse { written }))
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        self.script().delete_requests.push(request.into_inner());
        self.answer()?;
        Ok(Response::new(v1::DeleteResponse {
            written: Some(v1::Written::default()),
        }))
    }

    async fn grant_lease(
        &self,
        request: Request<v1::GrantLeaseRequest>,
    ) -> Result<Response<v1::GrantLeaseResponse>, Status> {
        Ok(Response::new(v1::GrantLeaseResponse {
            lease_id: 7,
            ttl_ms: request.into_inner().ttl_ms,
        }))
    }

    async fn keep_alive(
        &self,
        request: Request<Streaming<v1::KeepAliveRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        let ends = NotesEnd(self.clone());
        let answers = request.into_inner().filter_map(move |asked| {
            let NotesEnd(fake) = &ends;
            let lease_id = match asked {
                Ok(asked) => asked.lease_id,
                Err(status) => return Some(Err(status)),
            };
            let mut script = fake.script();
            script.signs_heard += 1;
            let sign = script.signs.pop_front().unwrap_or(Sign::Lives);
            if let Sign::Over = sign {
                script.signs.push_front(Sign::Over);
            }
            let outcome = match sign {
                Sign::Lives => Outcome::TtlMs(1),
                Sign::Over => Outcome::Error(v1::BatchError {
                    reason: Reason::LeaseExpired.as_str().to_owned(),
                    ..v1::BatchError::default()
                }),
                Sign::Vanish => {
                    return Some(Err(Status::unavailable("the script says vanish")));
                }
                Sign::Silent => return None,
                Sign::Strange => return Some(Err(Status::unknown("a page of some proxy"))),
            };
            Some(Ok(v1::KeepAliveResponse {
                lease_id,
                outcome: Some(outcome),
            }))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn revoke_lease(
        &self,
        request: Request<v1::RevokeLeaseRequest>,
    ) -> Result<Response<v1::RevokeLeaseResponse>, Status> {
        let id = request.into_inner().lease_id;
        self.script().revoked.push(id);
        self.answer()?;
        Ok(Response::new(v1::RevokeLeaseResponse { removed_keys: 3 }))
    }
}
