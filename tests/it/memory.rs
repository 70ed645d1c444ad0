//! What clients can make the broker hold stays bounded, whatever they do, and
//! those who mean no harm are served all the while.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use statecast_broker::server::ServerOptions;
use statecast_proto::v1::consume_request::Request;
use statecast_proto::v1::{self, fetch_response::Event, log_client::LogClient};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::fetch::{batches, earliest, fetch};
use crate::support::{HalfSent, Member, TestBroker, batch, encode, error_info, join, record};

const KIB: u32 = 1 << 10;
const MIB: usize = 1 << 20;

/// Longer than any test: nobody's connection is closed.
const NEVER: Duration = Duration::from_secs(3600);

/// How long one may stand still whom others wait for. Longer than one who goes on stands
/// still while the machine does something else; several have to go, one after the other.
const SOON: Duration = Duration::from_millis(250);

async fn broker_with(
    receiving_bytes: usize,
    sending_bytes: usize,
    stalled: Duration,
) -> TestBroker {
    TestBroker::start_with(ServerOptions {
        receiving_bytes,
        sending_bytes,
        stalled,
        ..ServerOptions::default()
    })
    .await
}

/// A batch of one record that is larger than a frame.
fn large(bytes: usize) -> Bytes {
    let value = Some(Bytes::from(vec![7; bytes]));
    encode(vec![v1::Record { value, ..record(0) }])
}

#[tokio::test]
async fn messages_on_their_way_take_no_more_than_there_is_room_for() {
    let broker = broker_with(MIB, MIB, NEVER).await;
    broker.create_topic("t", 1).await;
    let channel = broker.connect().await;
    let mut calls = Vec::new();
    for _ in 0..10 {
        let mut call = HalfSent::begin(&channel, broker.address(), 512 * KIB).await;
        call.send(256 << 10).await;
        calls.push(call);
    }
    // Two of them have room, three may wait: more would fill the window of the
    // connection, and the two could not be finished.
    while calls.iter().filter(|call| call.is_answered()).count() < 5 {
        tokio::task::yield_now().await;
    }
    assert_eq!(broker.metric("statecast_receiving_bytes").await, MIB);
    broker.assert_serves().await;
    let (refused, mut begun): (Vec<_>, Vec<_>) = calls.into_iter().partition(HalfSent::is_answered);
    assert_eq!((refused.len(), begun.len()), (5, 5));
    for call in refused {
        let status = call.answer().await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        let info = error_info(&status);
        assert!(info.reason == "OVERLOADED" && info.retry, "{info:?}");
    }
    // What was begun is finished, one after the other, on the same connection. It
    // is no request, but it was read to its end.
    for call in &mut begun {
        call.send(256 << 10).await;
    }
    for call in begun {
        let status = call.answer().await.unwrap_err();
        assert_ne!(status.code(), Code::ResourceExhausted, "{status}");
    }
    broker
        .until("statecast_receiving_bytes", |held| held == 0)
        .await;
}

#[tokio::test]
async fn one_who_stops_half_way_makes_way_for_others() {
    let broker = broker_with(MIB, MIB, SOON).await;
    broker.create_topic("t", 1).await;
    let channel = broker.connect().await;
    let mut stopped = HalfSent::begin(&channel, broker.address(), 1 << 20).await;
    stopped.send(100).await;
    broker
        .until("statecast_receiving_bytes", |held| held == MIB)
        .await;
    assert_eq!(broker.produce("t", 0, large(300 << 10)).await, 0);
    let status = stopped.answer().await.unwrap_err();
    assert!(
        status.message().contains("transport") || status.code() == Code::Unavailable,
        "{status}"
    );
    broker
        .until("statecast_receiving_bytes", |held| held == 0)
        .await;
}

#[tokio::test]
async fn a_large_request_keeps_its_room_until_it_is_in_the_log() {
    let broker = broker_with(2 * MIB, MIB, NEVER).await;
    broker.create_topic("t", 1).await;
    let request = v1::ProduceStreamRequest {
        batches: vec![v1::PartitionBatch {
            topic: "t".to_owned(),
            batch: large(1 << 20),
            ..v1::PartitionBatch::default()
        }],
    };
    let requests = tokio_stream::iter(vec![request; 20]);
    let requests = tokio_stream::StreamExt::chain(requests, tokio_stream::pending());
    let mut stream = broker.produce_stream(requests).await;
    for _ in 0..20 {
        assert!(broker.metric("statecast_receiving_bytes").await <= 2 * MIB);
        stream.message().await.unwrap().unwrap();
    }
    broker
        .until("statecast_receiving_bytes", |held| held == 0)
        .await;
}

/// A connection that takes nothing that isn't read.
pub async fn narrow(broker: &TestBroker) -> Channel {
    Endpoint::try_from(format!("http://{}", broker.address()))
        .unwrap()
        .initial_stream_window_size(0)
        .connect()
        .await
        .unwrap()
}

/// Calls that read a mebibyte at a time, and are never read.
async fn stand_still(broker: &TestBroker, calls: usize) -> Vec<impl Sized> {
    let mut still = Vec::new();
    for _ in 0..calls {
        let mut log = LogClient::new(narrow(broker).await);
        still.push(log.fetch(earliest()).await.unwrap());
    }
    still
}

async fn fill(broker: &TestBroker) {
    broker.create_topic("t", 1).await;
    for _ in 0..24 {
        broker.produce("t", 0, large(1 << 20)).await;
    }
}

#[tokio::test]
async fn readers_that_stand_still_hold_no_more_than_there_is_room_for() {
    let broker = broker_with(8 * MIB, 8 * MIB, NEVER).await;
    fill(&broker).await;
    let still = stand_still(&broker, 10).await;
    // A response and a batch that is larger have to find room, 5 MiB in all.
    broker
        .until("statecast_sending_bytes", |held| held > 3 * MIB)
        .await;
    // Whoever writes is not concerned.
    broker.produce("t", 0, batch(1)).await;
    assert!(broker.metric("statecast_sending_bytes").await <= 8 * MIB);
    let read = broker.metric("statecast_read_bytes_total").await;
    assert!(
        read <= 9 * MIB,
        "{read} were read for readers that read nothing"
    );
    drop(still);
    broker
        .until("statecast_sending_bytes", |held| held == 0)
        .await;
}

#[tokio::test]
async fn readers_that_stand_still_make_way_for_one_that_reads() {
    let broker = broker_with(8 * MIB, 8 * MIB, SOON).await;
    fill(&broker).await;
    let still = stand_still(&broker, 10).await;
    broker
        .until("statecast_sending_bytes", |held| held > 3 * MIB)
        .await;
    let mut reading = fetch(&broker, earliest()).await;
    let mut read = 0;
    while read < 24 {
        read += batches(&mut reading).await.len();
    }
    drop(still);
}

/// Members of ten groups that never read what they are told.
async fn members_standing_still(broker: &TestBroker) -> Vec<Member> {
    let mut still = Vec::new();
    for number in 0..10 {
        let member = Member::open(narrow(broker).await).await;
        let join = join(&format!("g{number}"), &["t"]);
        member.say(Request::Join(join)).await;
        still.push(member);
    }
    broker
        .until("statecast_sending_bytes", |held| held > 3 * MIB)
        .await;
    still
}

#[tokio::test]
async fn members_that_stand_still_hold_no_more_than_there_is_room_for() {
    let broker = broker_with(8 * MIB, 8 * MIB, NEVER).await;
    fill(&broker).await;
    let still = members_standing_still(&broker).await;
    assert!(broker.metric("statecast_sending_bytes").await <= 8 * MIB);
    let read = broker.metric("statecast_read_bytes_total").await;
    assert!(
        read <= 9 * MIB,
        "{read} were read for members that read nothing"
    );
    drop(still);
    broker
        .until("statecast_sending_bytes", |held| held == 0)
        .await;
}

#[tokio::test]
async fn members_that_stand_still_make_way_for_one_that_reads() {
    let broker = broker_with(8 * MIB, 8 * MIB, SOON).await;
    fill(&broker).await;
    let still = members_standing_still(&broker).await;
    let mut member = Member::join(broker.connect().await, join("reads", &["t"])).await;
    let mut read = 0;
    while read < 24 {
        read += member.batches().await.len();
    }
    drop(still);
}

#[tokio::test]
async fn answers_that_nobody_reads_hold_no_more_than_there_is_room_for() {
    let broker = TestBroker::start_with(ServerOptions {
        answering_bytes: 8 * MIB,
        stalled: SOON,
        ..ServerOptions::default()
    })
    .await;
    broker.create_topic("t", 1).await;
    // Each batch is refused, which takes a kibibyte to say, 4 MiB in all.
    let batches = vec![v1::PartitionBatch::default(); 4096];
    let request = v1::ProduceStreamRequest { batches };
    let requests = |count| {
        let requests = tokio_stream::iter(vec![request.clone(); count]);
        tokio_stream::StreamExt::chain(requests, tokio_stream::pending())
    };
    let mut log = LogClient::new(narrow(&broker).await);
    let unread = log.produce_stream(requests(20)).await.unwrap();
    broker
        .until("statecast_answering_bytes", |held| held > 4 * MIB)
        .await;
    assert!(broker.metric("statecast_answering_bytes").await <= 8 * MIB);
    assert_eq!(broker.produce("t", 0, batch(1)).await, 0);
    let mut read = broker.produce_stream(requests(3)).await;
    for _ in 0..3 {
        let answer = read.message().await.unwrap().unwrap();
        assert_eq!(answer.results.len(), 4096);
    }
    drop((unread, read));
    broker
        .until("statecast_answering_bytes", |held| held == 0)
        .await;
}

#[tokio::test]
async fn connections_beyond_the_bound_are_turned_away() {
    let broker = TestBroker::start_with(ServerOptions {
        // The broker's own and another one.
        max_connections: 2,
        ..ServerOptions::default()
    })
    .await;
    broker.create_topic("t", 1).await;
    let info = v1::GetBrokerInfoRequest {};
    let mut second = v1::admin_client::AdminClient::new(broker.connect().await);
    second.get_broker_info(info).await.unwrap();
    let lazy = || {
        let endpoint = Endpoint::try_from(format!("http://{}", broker.address())).unwrap();
        v1::admin_client::AdminClient::new(endpoint.connect_lazy())
    };
    let status = lazy().get_broker_info(info).await.unwrap_err();
    // The connection is closed before the call gets through: no answer of ours.
    assert!(status.details().is_empty(), "{status}");
    drop(second);
    // As soon as the broker has noticed.
    while lazy().get_broker_info(info).await.is_err() {}
}

#[tokio::test]
async fn calls_beyond_the_bound_are_refused() {
    let broker = TestBroker::start_with(ServerOptions {
        max_connections: 1,
        ..ServerOptions::default()
    })
    .await;
    broker.create_topic("t", 1).await;
    broker.until("statecast_calls", |calls| calls == 0).await;
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(fetch(&broker, earliest()).await);
    }
    let status = broker.log().fetch(earliest()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let info = error_info(&status);
    assert!(info.reason == "OVERLOADED" && info.retry, "{info:?}");
    assert_eq!(info.metadata["limit"], "8");
    streams.clear();
    broker.until("statecast_calls", |calls| calls == 0).await;
    broker.assert_serves().await;
}

#[tokio::test]
async fn many_connections_with_narrow_windows_all_work() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1).await;
    let connections = join_all((0..50).map(|_| broker.connect())).await;
    let produce = |channel: &Channel| {
        let request = v1::ProduceRequest {
            topic: "t".to_owned(),
            partition: Some(0),
            batch: large(1 << 20),
            ..v1::ProduceRequest::default()
        };
        let mut log = LogClient::new(channel.clone());
        async move { log.produce(request).await.unwrap() }
    };
    let produced = join_all(connections.iter().map(produce)).await;
    assert_eq!(produced.len(), 50);
}

#[tokio::test]
async fn five_hundred_readers_share_a_connection() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1).await;
    let log = LogClient::new(broker.connect().await);
    let mut streams = join_all((0..500).map(|_| {
        let mut log = log.clone();
        async move { log.fetch(earliest()).await.unwrap().into_inner() }
    }))
    .await;
    for stream in &mut streams {
        while !matches!(
            stream.message().await.unwrap().unwrap().event,
            Some(Event::CaughtUp(_))
        ) {}
    }
    let offset = broker.produce("t", 0, batch(1)).await;
    for stream in &mut streams {
        assert_eq!(batches(stream).await[0].base_offset, offset);
    }
}
