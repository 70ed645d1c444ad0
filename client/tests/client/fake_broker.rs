//! A broker in memory that follows a script.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use statecast_client::{Backoff, Client, Reason};
use statecast_proto::reason::ERROR_DOMAIN;
use statecast_proto::v1::admin_server::{Admin, AdminServer};
use statecast_proto::v1::batch_result::Outcome;
use statecast_proto::v1::fetch_response::Event;
use statecast_proto::v1::log_server::{Log, LogServer};
use statecast_proto::v1::{self, PartitionBatch};
use statecast_proto::{batch, checksum};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

use super::fake_producers::Producers;

/// What becomes of the next request of a produce stream.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// All its batches are appended.
    Append,
    /// All its batches are appended, and then the connection is lost.
    AppendAndVanish,
    /// All its batches are appended, but no answer comes, and none of later
    /// requests: to be followed by one that vanishes.
    AppendInSilence,
    /// The connection is lost first.
    Vanish,
    /// The stream ends with this reason.
    End(Reason),
    /// Its batches for this partition are refused, the others appended.
    Refuse {
        partition: u32,
        reason: Reason,
        retry_after_ms: Option<u32>,
    },
}

/// What a fetch stream does, one after the other.
#[derive(Debug, Clone)]
pub(crate) enum Play {
    /// Sends an event.
    Send(Event),
    /// Ends the stream with an error that a retry mends.
    Vanish,
    /// Ends the stream with this reason and metadata.
    Refuse(Reason, Vec<(&'static str, String)>),
}

#[derive(Debug, Clone)]
pub(crate) struct FakeBroker {
    url: String,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// How many requests of produce streams may be answered.
    answers_allowed: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    partitions: u32,
    max_batch_bytes: Option<u32>,
    script: VecDeque<Answer>,
    appended: Vec<PartitionBatch>,
    next_offsets: Vec<u64>,
    producers: Producers,
    answered: usize,
    /// One script for each fetch that opens.
    fetches: VecDeque<Vec<Play>>,
    fetch_requests: Vec<v1::FetchRequest>,
}

impl FakeBroker {
    /// Serves until the runtime ends.
    pub(crate) async fn start(partitions: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                partitions,
                next_offsets: vec![0; partitions as usize],
                ..State::default()
            }),
            answers_allowed: watch::channel(usize::MAX).0,
        });
        let broker = Self { url, shared };
        let server = tonic::transport::Server::builder()
            .add_service(LogServer::new(broker.clone()))
            .add_service(AdminServer::new(broker.clone()));
        // What ends a stream would wait for the client's acknowledgement else.
        let incoming = TcpListenerStream::new(listener).map(|stream| {
            let stream = stream?;
            stream.set_nodelay(true)?;
            Ok::<_, std::io::Error>(stream)
        });
        tokio::spawn(server.serve_with_incoming(incoming));
        broker
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
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

    /// What becomes of the next requests; those after them are appended.
    pub(crate) fn script(&self, answers: impl IntoIterator<Item = Answer>) {
        self.lock().script.extend(answers);
    }

    /// What the next fetches do, in turn; those after them stay silent.
    pub(crate) fn play(&self, fetch: impl IntoIterator<Item = Play>) {
        self.lock().fetches.push_back(fetch.into_iter().collect());
    }

    /// What becomes of the next requests is as if nothing had been scripted.
    pub(crate) fn clear_script(&self) {
        self.lock().script.clear();
    }

    /// Holds back answers beyond this many.
    pub(crate) fn allow_answers(&self, count: usize) {
        self.shared.answers_allowed.send_replace(count);
    }

    /// What the topic is said to take from now on.
    pub(crate) fn limit_batches(&self, bytes: u32) {
        self.lock().max_batch_bytes = Some(bytes);
    }

    /// Sizes of the appended batches.
    pub(crate) fn appended_sizes(&self) -> Vec<usize> {
        let state = self.lock();
        state.appended.iter().map(|b| b.batch.len()).collect()
    }

    /// Values of the appended records, in order, with their partitions.
    pub(crate) fn appended(&self) -> Vec<(u32, String)> {
        let appended = self.lock().appended.clone();
        let values = |batch: PartitionBatch| {
            let records = batch::decode(batch.batch).unwrap();
            let value =
                |record: batch::Record| String::from_utf8(record.value.unwrap().to_vec()).unwrap();
            let partition = batch.partition;
            records.map(move |record| (partition, value(record.unwrap())))
        };
        appended.into_iter().flat_map(values).collect()
    }

    pub(crate) fn appended_batches(&self) -> usize {
        self.lock().appended.len()
    }

    /// Producer id, epoch and base sequence of each appended batch.
    pub(crate) fn appended_numbers(&self) -> Vec<(u64, u32, u32)> {
        let state = self.lock();
        let numbers = state.appended.iter().map(|batch| {
            let sequence = batch.sequence.as_ref().unwrap();
            (sequence.producer_id, sequence.epoch, sequence.base_sequence)
        });
        numbers.collect()
    }

    /// Does something with what it knows of producers.
    pub(crate) fn producers<T>(&self, change: impl FnOnce(&mut Producers) -> T) -> T {
        change(&mut self.lock().producers)
    }

    pub(crate) fn fetch_requests(&self) -> Vec<v1::FetchRequest> {
        self.lock().fetch_requests.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    /// Requests of produce streams that came, however often they were sent.
    pub(crate) fn requests(&self) -> usize {
        self.lock().answered
    }

    /// Carries out a request; an error ends the stream.
    fn answer(
        &self,
        request: v1::ProduceStreamRequest,
    ) -> Result<Option<v1::ProduceStreamResponse>, Status> {
        let vanish = || Status::unavailable("the script says vanish");
        let mut state = self.lock();
        let answer = state.script.pop_front().unwrap_or(Answer::Append);
        match answer {
            Answer::Vanish => return Err(vanish()),
            Answer::End(reason) => return Err(status(reason, Vec::new())),
            Answer::Append
            | Answer::AppendAndVanish
            | Answer::AppendInSilence
            | Answer::Refuse { .. } => {}
        }
        let results = request.batches.into_iter().map(|batch| {
            let outcome = match &answer {
                Answer::Refuse {
                    partition,
                    reason,
                    retry_after_ms,
                } if *partition == batch.partition => Outcome::Error(v1::BatchError {
                    reason: reason.as_str().to_owned(),
                    message: "as the script says".to_owned(),
                    retry_after_ms: *retry_after_ms,
                    ..v1::BatchError::default()
                }),
                _ => state.append(batch),
            };
            v1::BatchResult {
                outcome: Some(outcome),
            }
        });
        let response = v1::ProduceStreamResponse {
            results: results.collect(),
        };
        match answer {
            Answer::AppendAndVanish => Err(vanish()),
            Answer::AppendInSilence => Ok(None),
            _ => Ok(Some(response)),
        }
    }
}

impl State {
    fn append(&mut self, batch: PartitionBatch) -> Outcome {
        assert_eq!(
            batch.checksum,
            Some(checksum(&batch.batch)),
            "the client's checksum"
        );
        let records = batch::decode(batch.batch.clone()).unwrap().count();
        let records = u32::try_from(records).unwrap();
        let next = &mut self.next_offsets[batch.partition as usize];
        let judged = self.producers.judge(&batch, records, *next);
        if let Outcome::Appended(v1::Appended {
            duplicate: false, ..
        }) = judged
        {
            *next += u64::from(records);
            self.appended.push(batch);
        }
        judged
    }
}

pub(super) fn status(reason: Reason, metadata: Vec<(&'static str, String)>) -> Status {
    let metadata = metadata.into_iter().map(|(k, v)| (k.to_owned(), v));
    let details = ErrorDetails::with_error_info(
        reason.as_str(),
        ERROR_DOMAIN,
        metadata.collect::<std::collections::HashMap<_, _>>(),
    );
    Status::with_error_details(tonic::Code::Aborted, "as the script says", details)
}

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Log for FakeBroker {
    type ProduceStreamStream = BoxStream<v1::ProduceStreamResponse>;
    type FetchStream = BoxStream<v1::FetchResponse>;

    async fn init_producer(
        &self,
        request: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        let answer = self.lock().producers.begin(&request.into_inner());
        answer.map(Response::new)
    }

    async fn produce(
        &self,
        _request: Request<v1::ProduceRequest>,
    ) -> Result<Response<v1::ProduceResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn produce_stream(
        &self,
        request: Request<Streaming<v1::ProduceStreamRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        let mut requests = request.into_inner();
        let (sender, receiver) = mpsc::channel(64);
        let broker = self.clone();
        let mut allowed = broker.shared.answers_allowed.subscribe();
        tokio::spawn(async move {
            while let Some(Ok(request)) = requests.next().await {
                let number = {
                    let mut state = broker.lock();
                    state.answered += 1;
                    state.answered
                };
                allowed
                    .wait_for(|allowed| number <= *allowed)
                    .await
                    .unwrap();
                let Some(answer) = broker.answer(request).transpose() else {
                    continue;
                };
                let ends = answer.is_err();
                if sender.send(answer).await.is_err() || ends {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn fetch(
        &self,
        request: Request<v1::FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let plays = {
            let mut state = self.lock();
            state.fetch_requests.push(request.into_inner());
            state.fetches.pop_front().unwrap_or_default()
        };
        let plays = plays.into_iter().map(|play| match play {
            Play::Send(event) => Ok(v1::FetchResponse { event: Some(event) }),
            Play::Vanish => Err(Status::unavailable("the script says vanish")),
            Play::Refuse(reason, metadata) => Err(status(reason, metadata)),
        });
        let stream = tokio_stream::iter(plays.collect::<Vec<_>>());
        let silence = tokio_stream::pending();
        Ok(Response::new(Box::pin(stream.chain(silence))))
    }

    async fn list_offsets(
        &self,
        _request: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }
}

#[tonic::async_trait]
impl Admin for FakeBroker {
    async fn list_groups(
        &self,
        _request: Request<v1::ListGroupsRequest>,
    ) -> Result<Response<v1::ListGroupsResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn describe_group(
        &self,
        _request: Request<v1::DescribeGroupRequest>,
    ) -> Result<Response<v1::DescribeGroupResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn delete_group(
        &self,
        _request: Request<v1::DeleteGroupRequest>,
    ) -> Result<Response<v1::DeleteGroupResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn reset_group(
        &self,
        _request: Request<v1::ResetGroupRequest>,
    ) -> Result<Response<v1::ResetGroupResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn describe_topic(
        &self,
        request: Request<v1::DescribeTopicRequest>,
    ) -> Result<Response<v1::DescribeTopicResponse>, Status> {
        let name = request.into_inner().name;
        if name == "missing" {
            return Err(status(Reason::TopicNotFound, vec![("topic", name)]));
        }
        let partitions = match name.as_str() {
            "absurd" => u32::MAX,
            _ => self.lock().partitions,
        };
        Ok(Response::new(v1::DescribeTopicResponse {
            topic: Some(v1::Topic {
                name,
                partitions,
                config: Some(v1::TopicConfig {
                    max_batch_bytes: self.lock().max_batch_bytes,
                    ..v1::TopicConfig::default()
                }),
                created_ms: 0,
            }),
            partitions: Vec::new(),
        }))
    }

    async fn create_topic(
        &self,
        _request: Request<v1::CreateTopicRequest>,
    ) -> Result<Response<v1::CreateTopicResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn alter_topic(
        &self,
        _request: Request<v1::AlterTopicRequest>,
    ) -> Result<Response<v1::AlterTopicResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn delete_topic(
        &self,
        _request: Request<v1::DeleteTopicRequest>,
    ) -> Result<Response<v1::DeleteTopicResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn list_topics(
        &self,
        _request: Request<v1::ListTopicsRequest>,
    ) -> Result<Response<v1::ListTopicsResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn get_broker_info(
        &self,
        _request: Request<v1::GetBrokerInfoRequest>,
    ) -> Result<Response<v1::GetBrokerInfoResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }
}

/// A batch as the broker serves it.
pub(crate) fn fetched(partition: u32, base_offset: u64, values: &[&str]) -> v1::FetchedBatch {
    let mut builder = batch::BatchBuilder::new(batch::Compression::None);
    for value in values {
        let record = batch::RecordRef::of_value(value.as_bytes());
        builder.push(&record).unwrap();
    }
    let encoded = builder.finish();
    v1::FetchedBatch {
        partition,
        base_offset,
        skip_records: 0,
        append_time_ms: 1000,
        checksum: encoded.checksum,
        batch: Bytes::clone(&encoded.payload),
        high_watermark: 100,
        next_offset: base_offset + values.len() as u64,
    }
}
