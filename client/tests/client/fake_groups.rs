//! The service `Groups` in memory: a test is the broker of each member.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use statecast_client::{Backoff, Client, ConsumerBuilder, Reason};
use statecast_proto::reason::ERROR_DOMAIN;
use statecast_proto::v1::consume_request::Request as Said;
use statecast_proto::v1::consume_response::Event;
use statecast_proto::v1::groups_server::{Groups, GroupsServer};
use statecast_proto::v1::{self, ConsumeRequest, ConsumeResponse};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

use crate::fake_broker::fetched;

/// The generation of each revoke.
pub(crate) const REVOKED_IN: u64 = 9;

/// As good as never, in a test.
pub(crate) const NEVER: std::time::Duration = std::time::Duration::from_secs(3600);

#[derive(Clone)]
pub(crate) struct FakeGroups {
    url: String,
    opened: mpsc::Sender<Opened>,
    accepted: Arc<Mutex<mpsc::Receiver<Opened>>>,
}

/// What a member said, and the way to answer it.
struct Opened {
    requests: Streaming<ConsumeRequest>,
    responses: mpsc::Sender<Result<ConsumeResponse, Status>>,
}

/// A member as its broker sees it.
pub(crate) struct FakeMember {
    pub(crate) join: v1::Join,
    requests: Streaming<ConsumeRequest>,
    responses: mpsc::Sender<Result<ConsumeResponse, Status>>,
}

impl FakeGroups {
    /// Serves until the runtime ends.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (opened, accepted) = mpsc::channel(16);
        let groups = Self {
            url,
            opened,
            accepted: Arc::new(Mutex::new(accepted)),
        };
        let server = tonic::transport::Server::builder()
            .add_service(GroupsServer::new(groups.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        groups
    }

    /// A consumer of `t` that commits and gives signs of life only for a reason.
    pub(crate) async fn consumer(&self) -> ConsumerBuilder {
        let backoff = Backoff {
            first: std::time::Duration::from_millis(1),
            max: std::time::Duration::from_millis(2),
        };
        let client = Client::builder(&self.url).backoff(backoff);
        let client = client.connect().await.unwrap();
        client.consumer("g").topic("t").commit_interval(NEVER)
    }

    /// The next stream that is opened, with its `Join`; nothing was answered.
    pub(crate) async fn accept(&self) -> FakeMember {
        let opened = self.accepted.lock().await.recv().await.unwrap();
        let Opened {
            mut requests,
            responses,
        } = opened;
        let first = requests.message().await.unwrap().unwrap();
        let Some(Said::Join(join)) = first.request else {
            panic!("the first request is a join: {first:?}");
        };
        FakeMember {
            join,
            requests,
            responses,
        }
    }

    /// The next stream that is opened, as a member.
    pub(crate) async fn join(&self) -> FakeMember {
        let member = self.accept().await;
        member.joined(u32::MAX).await;
        member
    }
}

impl FakeMember {
    pub(crate) async fn joined(&self, heartbeat_interval_ms: u32) {
        self.says(Event::Joined(v1::Joined {
            member_id: "m".to_owned(),
            heartbeat_interval_ms,
        }))
        .await;
    }

    pub(crate) async fn says(&self, event: Event) {
        let response = ConsumeResponse { event: Some(event) };
        self.responses.send(Ok(response)).await.unwrap();
    }

    /// What the member says next; `None` when it has nothing more to say.
    pub(crate) async fn hears(&mut self) -> Option<Said> {
        let request = self.requests.message().await.ok()?;
        request.map(|request| request.request.unwrap())
    }

    /// It says nothing more; whether its call was cut off.
    pub(crate) async fn is_cut_off(&mut self) -> bool {
        let end = self.requests.message().await;
        assert!(!matches!(end, Ok(Some(_))), "{end:?}");
        end.is_err()
    }

    /// A commit is what it says next, apart from giving credit.
    pub(crate) async fn hears_commit(&mut self) -> v1::Commit {
        loop {
            match self.hears().await.unwrap() {
                Said::Commit(commit) => return commit,
                Said::Credit(_) => {}
                other => panic!("a commit, not {other:?}"),
            }
        }
    }

    /// That it gives back is what it says next, apart from giving credit.
    pub(crate) async fn hears_revoked(&mut self) -> Vec<u32> {
        loop {
            match self.hears().await.unwrap() {
                Said::Revoked(revoked) => {
                    assert_eq!(revoked.generation, Some(REVOKED_IN));
                    return revoked.partitions.iter().map(|p| p.partition).collect();
                }
                Said::Credit(_) => {}
                other => panic!("that it gives back, not {other:?}"),
            }
        }
    }

    /// All of a commit is durable.
    pub(crate) async fn commits(&self, commit: &v1::Commit) {
        self.answers(commit, None).await;
    }

    /// All of a commit is refused.
    pub(crate) async fn refuses(&self, commit: &v1::Commit, reason: Reason) {
        self.answers(commit, Some(reason)).await;
    }

    async fn answers(&self, commit: &v1::Commit, reason: Option<Reason>) {
        let positions = commit.positions.iter();
        let refused = positions.filter_map(|position| {
            let reason = reason?;
            Some(v1::RefusedCommit {
                topic: position.topic.clone(),
                partition: position.partition,
                error: Some(v1::BatchError {
                    code: reason.code(),
                    reason: reason.as_str().to_owned(),
                    ..v1::BatchError::default()
                }),
            })
        });
        self.says(Event::CommitResult(v1::CommitResult {
            commit_id: commit.commit_id,
            refused: refused.collect(),
        }))
        .await;
    }

    /// Partitions of `t`, each from an offset that was committed.
    pub(crate) async fn assigns(&self, generation: u64, partitions: &[(u32, u64)]) {
        let partition = |&(partition, offset): &(u32, u64)| v1::AssignedPartition {
            topic: "t".to_owned(),
            partition,
            offset,
            committed: true,
            high_watermark: 100,
        };
        self.says(Event::Assigned(v1::Assigned {
            generation,
            partitions: partitions.iter().map(partition).collect(),
        }))
        .await;
    }

    /// Records of `t`.
    pub(crate) async fn sends(&self, partition: u32, base_offset: u64, values: &[&str]) {
        self.sends_batch(fetched(partition, base_offset, values))
            .await;
    }

    pub(crate) async fn sends_batch(&self, batch: v1::FetchedBatch) {
        let batch = v1::GroupBatch {
            topic: "t".to_owned(),
            batch: Some(batch),
        };
        self.says(Event::Batches(v1::GroupBatches {
            batches: vec![batch],
        }))
        .await;
    }

    pub(crate) async fn revokes(&self, partition: u32, reason: v1::RevokeReason) {
        self.says(Event::Revoke(v1::Revoke {
            generation: REVOKED_IN,
            partitions: vec![place(partition)],
            deadline_ms: 10_000,
            reason: reason.into(),
        }))
        .await;
    }

    pub(crate) async fn takes_away(&self, partition: u32, reason: v1::RevokeReason) {
        self.says(Event::Lost(v1::Lost {
            generation: 9,
            partitions: vec![place(partition)],
            reason: reason.into(),
        }))
        .await;
    }

    /// Ends the stream with an error that a retry mends.
    pub(crate) async fn vanishes(self) {
        let status = Status::unavailable("the test says vanish");
        self.responses.send(Err(status)).await.unwrap();
    }

    /// Ends the stream with this reason.
    pub(crate) async fn ends(self, reason: Reason) {
        let details = ErrorDetails::with_error_info(
            reason.as_str(),
            ERROR_DOMAIN,
            std::collections::HashMap::new(),
        );
        let status = Status::with_error_details(tonic::Code::Aborted, "as the test says", details);
        self.responses.send(Err(status)).await.unwrap();
    }
}

fn place(partition: u32) -> v1::TopicPartition {
    v1::TopicPartition {
        topic: "t".to_owned(),
        partition,
    }
}

/// Partitions, offsets and generations of a commit.
pub(crate) fn positions(commit: &v1::Commit) -> Vec<(u32, u64, u64)> {
    let positions = commit.positions.iter();
    positions
        .map(|p| (p.partition, p.offset, p.generation.unwrap()))
        .collect()
}

#[tonic::async_trait]
impl Groups for FakeGroups {
    type ConsumeStream = Pin<Box<dyn Stream<Item = Result<ConsumeResponse, Status>> + Send>>;

    async fn consume(
        &self,
        request: Request<Streaming<ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        let (responses, stream) = mpsc::channel(64);
        let requests = request.into_inner();
        let opened = Opened {
            requests,
            responses,
        };
        self.opened.send(opened).await.unwrap();
        // Nothing follows an error.
        let stream = ReceiverStream::new(stream).map(|item: Result<_, Status>| item);
        Ok(Response::new(Box::pin(stream)))
    }
}
