//! Producing: by key, pipelined, and with clients that go away.

use bytes::Bytes;
use statecast_broker::server::{Drained, ServerOptions};
use statecast_proto::v1::{self, batch_result::Outcome};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::support::{TestBroker, batch, encode, error_info, record};

fn one(topic: &str, partition: u32, batch: Bytes) -> v1::ProduceStreamRequest {
    let checksum = Some(statecast_proto::checksum(&batch));
    let batch = v1::PartitionBatch {
        topic: topic.to_owned(),
        partition,
        batch,
        checksum,
        sequence: None,
    };
    v1::ProduceStreamRequest {
        batches: vec![batch],
    }
}

fn base_offset(result: v1::BatchResult) -> u64 {
    match result.outcome.unwrap() {
        Outcome::Appended(appended) => appended.base_offset,
        Outcome::Error(error) => panic!("refused: {error:?}"),
    }
}

#[tokio::test]
async fn records_go_to_the_partition_of_their_key() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 5).await;
    let records: Vec<v1::Record> = (0..50).map(record).collect();
    let request = v1::ProduceRequest {
        topic: "t".to_owned(),
        partition: None,
        batch: encode(records.clone()),
        ..v1::ProduceRequest::default()
    };
    let produced = broker.log().produce(request).await.unwrap().into_inner();
    let mut next = [0; 5];
    for (record, position) in records.iter().zip(&produced.positions) {
        let key = record.key.as_ref().unwrap();
        assert_eq!(
            position.partition,
            statecast_proto::partition_for_key(key, 5)
        );
        let next = &mut next[position.partition as usize];
        assert_eq!(position.offset, *next, "dense, in the order of the request");
        *next += 1;
    }
    assert_eq!(produced.positions.len(), 50);
    assert!(
        next.iter().all(|&records| records > 0),
        "fifty keys reach five partitions"
    );
}

#[tokio::test]
async fn records_without_a_key_take_turns_by_call() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 2).await;
    let keyless = encode(vec![
        v1::Record {
            key: None,
            ..record(0)
        };
        3
    ]);
    let mut partitions = Vec::new();
    for _ in 0..2 {
        let request = v1::ProduceRequest {
            topic: "t".to_owned(),
            partition: None,
            batch: keyless.clone(),
            ..v1::ProduceRequest::default()
        };
        let produced = broker.log().produce(request).await.unwrap().into_inner();
        let first = produced.positions[0].partition;
        assert!(
            produced
                .positions
                .iter()
                .all(|position| position.partition == first)
        );
        partitions.push(first);
    }
    partitions.sort_unstable();
    assert_eq!(partitions, [0, 1]);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 2).await;
    // Partitions take turns; each request has three records for one of them.
    let requests = (0..1000_u32).map(|n| one("t", n % 2, batch(3)));
    let requests = tokio_stream::iter(requests.collect::<Vec<_>>());
    let mut responses = broker.produce_stream(requests).await;
    for n in 0..1000_u64 {
        let mut response = responses.message().await.unwrap().unwrap();
        assert_eq!(base_offset(response.results.pop().unwrap()), n / 2 * 3);
    }
    assert!(responses.message().await.unwrap().is_none());
}

#[tokio::test]
async fn a_lone_request_is_answered_before_the_next_one_comes() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1).await;
    let (send, requests) = mpsc::channel(1);
    let requests = ReceiverStream::new(requests);
    let mut responses = broker.produce_stream(requests).await;
    for n in 0..20 {
        send.send(one("t", 0, batch(1))).await.unwrap();
        let mut response = responses.message().await.unwrap().unwrap();
        assert_eq!(base_offset(response.results.pop().unwrap()), n);
    }
}

#[tokio::test]
async fn good_batches_next_to_a_bad_one_are_appended() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1).await;
    let mut request = one("t", 0, batch(2));
    request
        .batches
        .push(one("nowhere", 0, batch(1)).batches.remove(0));
    request
        .batches
        .push(one("t", 0, batch(1)).batches.remove(0));
    let requests = tokio_stream::iter([request]);
    let mut responses = broker.produce_stream(requests).await;
    let results = responses.message().await.unwrap().unwrap().results;
    let [first, bad, last] = <[v1::BatchResult; 3]>::try_from(results).unwrap();
    assert_eq!(base_offset(first), 0);
    assert_eq!(base_offset(last), 2);
    let Some(Outcome::Error(error)) = bad.outcome else {
        panic!("it was taken")
    };
    assert_eq!(error.reason, "TOPIC_NOT_FOUND");
    assert_eq!(error.metadata["topic"], "nowhere");
}

#[tokio::test]
async fn a_request_out_of_bounds_ends_the_stream_after_the_answers_before() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1).await;
    let tiny = one("t", 0, batch(1)).batches.remove(0);
    let large = one("t", 0, vec![0; 3 << 20].into()).batches.remove(0);
    let bad = [
        (vec![], "TOO_MANY_BATCHES"),
        (vec![tiny; 4097], "TOO_MANY_BATCHES"),
        (vec![large; 3], "BATCH_TOO_LARGE"),
    ];
    for (batches, reason) in bad {
        let requests = [one("t", 0, batch(1)), v1::ProduceStreamRequest { batches }];
        let requests = tokio_stream::iter(requests);
        let mut responses = broker.produce_stream(requests).await;
        assert_eq!(responses.message().await.unwrap().unwrap().results.len(), 1);
        let status = responses.message().await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(error_info(&status).reason, reason);
    }
    broker.assert_serves().await;
}

#[tokio::test]
async fn a_message_that_is_too_large_ends_its_stream_only() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1).await;
    let requests = tokio_stream::iter([one("t", 0, vec![0; 17 << 20].into())]);
    let mut responses = broker.produce_stream(requests).await;
    let status = responses.message().await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    broker.assert_serves().await;
}

#[tokio::test]
async fn a_message_that_unfolds_to_much_more_ends_its_stream_only() {
    let broker = TestBroker::start().await;
    let batches = vec![v1::PartitionBatch::default(); 1_000_000];
    let requests = tokio_stream::iter([v1::ProduceStreamRequest { batches }]);
    let mut responses = broker.produce_stream(requests).await;
    let status = responses.message().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("fields"), "{status:?}");
    broker.assert_serves().await;
}

#[tokio::test]
async fn a_client_that_vanishes_leaves_nothing_behind() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1).await;
    for _ in 0..20 {
        let channel = broker.connect().await;
        let mut log = v1::log_client::LogClient::new(channel);
        let (send, requests) = mpsc::channel(100);
        for _ in 0..100 {
            send.try_send(one("t", 0, batch(10))).unwrap();
        }
        let mut responses = log
            .produce_stream(ReceiverStream::new(requests))
            .await
            .unwrap()
            .into_inner();
        responses.message().await.unwrap().unwrap();
        // Gone with most of the answers unread and requests still to come.
    }
    broker.assert_serves().await;
    // Streams that were left behind would keep the server from draining.
    let (_, drained) = broker.stop_serving().await;
    assert_eq!(drained, Drained::Completely);
}

#[tokio::test]
async fn draining_answers_what_was_taken_and_says_that_it_stops() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1).await;
    let (send, requests) = mpsc::channel(10);
    let mut log = v1::log_client::LogClient::new(broker.connect().await);
    let requests = ReceiverStream::new(requests);
    let mut responses = log.produce_stream(requests).await.unwrap().into_inner();
    send.send(one("t", 0, batch(1))).await.unwrap();
    assert_eq!(
        base_offset(responses.message().await.unwrap().unwrap().results[0].clone()),
        0
    );
    let stopping = tokio::spawn(broker.stop_serving());
    let status = responses.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let info = error_info(&status);
    assert_eq!(info.reason, "STOPPING");
    assert!(info.retry);
    assert_eq!(stopping.await.unwrap().1, Drained::Completely);
}

#[tokio::test]
async fn a_client_that_never_reads_its_answers_is_not_waited_for() {
    let drain = std::time::Duration::from_millis(50);
    let broker = TestBroker::start_with(ServerOptions {
        drain,
        ..ServerOptions::default()
    })
    .await;
    broker.create_topic("t", 1).await;
    let (_send, requests) = mpsc::channel::<v1::ProduceStreamRequest>(1);
    let mut log = v1::log_client::LogClient::new(broker.connect().await);
    let responses = log
        .produce_stream(ReceiverStream::new(requests))
        .await
        .unwrap();
    broker.stop_serving().await;
    drop(responses);
}
