//! What may happen while a fetch is open.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use statecast_broker::server::{Drained, ServerOptions};
use statecast_proto::v1::{self, fetch_response::Event, start::Position};
use tonic::Code;

use crate::fetch::{batches, earliest, event, fetch, from};
use crate::support::{TestBroker, batch, encode, error_info, record};

#[tokio::test]
async fn a_reader_of_a_deleted_topic_is_told() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 2).await;
    let mut stream = fetch(&broker, earliest()).await;
    assert!(matches!(event(&mut stream).await, Event::Opened(_)));
    assert!(matches!(event(&mut stream).await, Event::CaughtUp(_)));
    let delete = v1::DeleteTopicRequest {
        name: "t".to_owned(),
    };
    broker.admin().delete_topic(delete).await.unwrap();
    let status = stream.message().await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(error_info(&status).reason, "TOPIC_NOT_FOUND");
}

#[tokio::test]
async fn a_consumer_that_never_reads_hinders_nobody() {
    let drain = std::time::Duration::from_millis(50);
    let broker = TestBroker::start_with(ServerOptions {
        drain,
        ..ServerOptions::default()
    })
    .await;
    broker.create_topic("t", 1).await;
    let value = Some(Bytes::from(vec![0; 1 << 20]));
    let large = encode(vec![v1::Record { value, ..record(0) }]);
    for _ in 0..24 {
        broker.produce("t", 0, large.clone()).await;
    }
    // More than every window on the way holds, and none of it read.
    let mut log = v1::log_client::LogClient::new(broker.connect().await);
    let stream = log.fetch(earliest()).await.unwrap();
    let mut reading = fetch(
        &broker,
        v1::FetchRequest {
            until_end: true,
            ..earliest()
        },
    )
    .await;
    let mut read = 0;
    while let Some(response) = reading.message().await.unwrap() {
        if let Some(Event::Batches(fetched)) = response.event {
            read += fetched.batches.len();
        }
    }
    assert_eq!(read, 24);
    // What is kept for it is what is on its way and two responses, one of which has
    // room for a batch that is larger; what was read for it is little more.
    let bound = 8 << 20;
    broker
        .until("statecast_sending_bytes", |held| held <= bound)
        .await;
    let all = 24 * large.len();
    let read = broker.metric("statecast_read_bytes_total").await;
    assert!((all..=all + bound).contains(&read), "{read} of {all}");
    broker.assert_serves().await;
    // It can't be told that the broker stops; the deadline is for this.
    drop(reading);
    let (_, drained) = broker.stop_serving().await;
    assert_eq!(drained, Drained::InPart);
    drop(stream);
}

#[tokio::test]
async fn readers_are_told_that_the_broker_stops() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1).await;
    let mut log = v1::log_client::LogClient::new(broker.connect().await);
    let mut stream = log.fetch(earliest()).await.unwrap().into_inner();
    assert!(matches!(event(&mut stream).await, Event::Opened(_)));
    assert!(matches!(event(&mut stream).await, Event::CaughtUp(_)));
    let stopping = tokio::spawn(broker.stop_serving());
    let status = stream.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(error_info(&status).reason, "STOPPING");
    assert_eq!(stopping.await.unwrap().1, Drained::Completely);
}

#[tokio::test]
async fn partitions_that_are_added_are_read_from_their_beginning() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1).await;
    let latest = from(Position::Latest(v1::Latest {}));
    let mut all = fetch(&broker, latest.clone()).await;
    let named = v1::FetchRequest {
        partitions: vec![v1::PartitionStart {
            partition: 0,
            start: None,
        }],
        ..latest
    };
    let mut others = fetch(
        &broker,
        v1::FetchRequest {
            and_others: true,
            ..named.clone()
        },
    )
    .await;
    let mut one = fetch(&broker, named).await;
    for stream in [&mut all, &mut others, &mut one] {
        assert!(matches!(event(stream).await, Event::Opened(_)));
        assert!(matches!(event(stream).await, Event::CaughtUp(_)));
    }
    let alter = v1::AlterTopicRequest {
        name: "t".to_owned(),
        partitions: Some(3),
        config: None,
    };
    broker.admin().alter_topic(alter).await.unwrap();
    broker.produce("t", 2, batch(2)).await;
    broker.produce("t", 0, batch(1)).await;
    for stream in [&mut all, &mut others] {
        let Event::Opened(opened) = event(stream).await else {
            panic!("more partitions are told of first");
        };
        let places = opened.positions.iter().map(|p| (p.partition, p.offset));
        assert_eq!(places.collect::<Vec<_>>(), [(1, 0), (2, 0)]);
        let mut seen = BTreeMap::new();
        while seen.len() < 2 {
            for batch in batches(stream).await {
                seen.insert(batch.partition, batch.next_offset);
            }
        }
        assert_eq!(seen, BTreeMap::from([(0, 1), (2, 2)]));
    }
    let read = batches(&mut one).await;
    assert_eq!(read[0].partition, 0);
}

#[tokio::test]
async fn responses_of_tiny_batches_are_no_larger_than_asked_for() {
    const BATCHES: usize = 20_000;
    const MAX_BYTES: u32 = 16 << 10;
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1).await;
    let tiny = v1::PartitionBatch {
        topic: "t".to_owned(),
        partition: 0,
        batch: encode(vec![v1::Record::default()]),
        checksum: None,
        sequence: None,
    };
    let request = v1::ProduceStreamRequest {
        batches: vec![tiny; BATCHES / 5],
    };
    let requests = vec![request; 5];
    let mut answers = broker.produce_stream(tokio_stream::iter(requests)).await;
    while answers.message().await.unwrap().is_some() {}
    let request = v1::FetchRequest {
        max_bytes: Some(MAX_BYTES),
        until_end: true,
        ..earliest()
    };
    let mut stream = fetch(&broker, request).await;
    let mut read = 0;
    while let Some(response) = stream.message().await.unwrap() {
        let size = response.encoded_len();
        assert!(size <= 2 * MAX_BYTES as usize, "{size} bytes");
        if let Some(Event::Batches(fetched)) = response.event {
            read += fetched.batches.len();
        }
    }
    assert_eq!(read, BATCHES);
}
