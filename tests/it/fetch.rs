//! Fetching: where it starts, what comes, and when it ends.

use std::collections::BTreeMap;

use prost::Message;
use statecast_proto::v1::{self, fetch_response::Event, start::Position};
use tonic::{Code, Streaming};

use crate::support::{TestBroker, batch, encode, error_info, record};

pub(crate) fn from(position: Position) -> v1::FetchRequest {
    v1::FetchRequest {
        topic: "t".to_owned(),
        start: Some(v1::Start {
            position: Some(position),
        }),
        ..v1::FetchRequest::default()
    }
}

pub(crate) fn earliest() -> v1::FetchRequest {
    from(Position::Earliest(v1::Earliest {}))
}

pub(crate) async fn fetch(
    broker: &TestBroker,
    request: v1::FetchRequest,
) -> Streaming<v1::FetchResponse> {
    broker.log().fetch(request).await.unwrap().into_inner()
}

pub(crate) async fn event(stream: &mut Streaming<v1::FetchResponse>) -> Event {
    stream
        .message()
        .await
        .unwrap()
        .expect("the stream goes on")
        .event
        .unwrap()
}

/// The next batches, whatever is said before.
pub(crate) async fn batches(stream: &mut Streaming<v1::FetchResponse>) -> Vec<v1::FetchedBatch> {
    loop {
        if let Event::Batches(fetched) = event(stream).await {
            return fetched.batches;
        }
    }
}

/// The values of everything up to the end, by partition.
async fn values(mut stream: Streaming<v1::FetchResponse>) -> BTreeMap<u32, Vec<String>> {
    let mut values: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    while let Some(response) = stream.message().await.unwrap() {
        let Some(Event::Batches(fetched)) = response.event else {
            continue;
        };
        for batch in fetched.batches {
            assert_eq!(batch.checksum, statecast_proto::checksum(&batch.batch));
            let records = v1::RecordBatch::decode(batch.batch).unwrap().records;
            let text = |record: &v1::Record| {
                String::from_utf8(record.value.clone().unwrap().to_vec()).unwrap()
            };
            let wanted = records.iter().skip(batch.skip_records as usize).map(text);
            values.entry(batch.partition).or_default().extend(wanted);
        }
    }
    values
}

#[tokio::test]
async fn reading_to_the_end_opens_reads_and_catches_up() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1).await;
    broker.produce("t", 0, batch(3)).await;
    let mut stream = fetch(
        &broker,
        v1::FetchRequest {
            until_end: true,
            ..earliest()
        },
    )
    .await;
    let Event::Opened(opened) = event(&mut stream).await else {
        panic!("opened comes first")
    };
    let at = |offset| v1::PartitionPosition {
        partition: 0,
        offset,
        log_start_offset: 0,
        high_watermark: 3,
    };
    assert_eq!(opened.positions, [at(0)]);
    let Event::Batches(fetched) = event(&mut stream).await else {
        panic!("records come next")
    };
    let [only] = <[v1::FetchedBatch; 1]>::try_from(fetched.batches).unwrap();
    assert_eq!(
        (only.base_offset, only.next_offset, only.high_watermark),
        (0, 3, 3)
    );
    assert_eq!(only.batch, batch(3), "the bytes are those that were sent");
    let Event::CaughtUp(caught_up) = event(&mut stream).await else {
        panic!("then the end")
    };
    assert_eq!(caught_up.positions, [at(3)]);
    assert!(stream.message().await.unwrap().is_none());
}

#[tokio::test]
async fn an_empty_topic_is_caught_up_at_once() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 2).await;
    let mut stream = fetch(&broker, earliest()).await;
    assert!(matches!(event(&mut stream).await, Event::Opened(_)));
    assert!(matches!(event(&mut stream).await, Event::CaughtUp(_)));
}

#[tokio::test]
async fn records_arrive_as_they_are_produced() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 3).await;
    let mut stream = fetch(&broker, from(Position::Latest(v1::Latest {}))).await;
    assert!(matches!(event(&mut stream).await, Event::Opened(_)));
    assert!(matches!(event(&mut stream).await, Event::CaughtUp(_)));
    for n in 0..30_u32 {
        let offset = broker.produce("t", n % 3, batch(1)).await;
        let fetched = batches(&mut stream).await;
        assert_eq!(
            (fetched[0].partition, fetched[0].base_offset),
            (n % 3, offset)
        );
        let Event::CaughtUp(caught_up) = event(&mut stream).await else {
            panic!("then it is caught up");
        };
        let [only] = caught_up.positions[..] else {
            panic!("only the partition that moved is named");
        };
        assert_eq!((only.partition, only.offset), (n % 3, offset + 1));
    }
}

#[tokio::test]
async fn all_partitions_are_read_each_in_order() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 4).await;
    for round in 0..25 {
        for partition in 0..4 {
            let value = Some(format!("{partition}-{round}").into());
            let records = vec![v1::Record { value, ..record(0) }];
            broker.produce("t", partition, encode(records)).await;
        }
    }
    let request = v1::FetchRequest {
        until_end: true,
        max_bytes: Some(1 << 10),
        ..earliest()
    };
    let values = values(fetch(&broker, request).await).await;
    for partition in 0..4 {
        let expected: Vec<String> = (0..25)
            .map(|round| format!("{partition}-{round}"))
            .collect();
        assert_eq!(values[&partition], expected);
    }
}

#[tokio::test]
async fn an_offset_within_a_batch_skips_the_records_before() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1).await;
    broker.produce("t", 0, batch(10)).await;
    let request = v1::FetchRequest {
        until_end: true,
        ..from(Position::Offset(7))
    };
    let values = values(fetch(&broker, request).await).await;
    assert_eq!(values[&0], ["value-7", "value-8", "value-9"]);
}

#[tokio::test]
async fn a_partition_may_have_a_start_of_its_own() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 3).await;
    for partition in 0..3 {
        broker.produce("t", partition, batch(2)).await;
    }
    let own = v1::Start {
        position: Some(Position::Offset(1)),
    };
    let named = |partition, start| v1::PartitionStart { partition, start };
    let partitions = vec![named(2, Some(own)), named(0, None)];
    let request = v1::FetchRequest {
        until_end: true,
        partitions,
        ..earliest()
    };
    let values = values(fetch(&broker, request).await).await;
    assert_eq!(values[&0], ["value-0", "value-1"]);
    assert_eq!(values[&2], ["value-1"]);
    assert!(!values.contains_key(&1));
}

#[tokio::test]
async fn a_time_is_found_to_the_record() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1).await;
    for start in [0, 100, 200] {
        let at = |n: i64| v1::Record {
            timestamp_ms: Some(start + n * 10),
            ..record(0)
        };
        broker
            .produce("t", 0, encode((0..5).map(at).collect()))
            .await;
    }
    for (timestamp_ms, offset) in [(-5, Some(0)), (100, Some(5)), (111, Some(7)), (999, None)] {
        let list = v1::ListOffsetsRequest {
            topic: "t".to_owned(),
            timestamp_ms: Some(timestamp_ms),
            ..v1::ListOffsetsRequest::default()
        };
        let offsets = broker.log().list_offsets(list).await.unwrap().into_inner();
        assert_eq!(
            offsets.partitions[0].offset_at_time, offset,
            "at {timestamp_ms}"
        );
        let mut stream = fetch(&broker, from(Position::TimestampMs(timestamp_ms))).await;
        let Event::Opened(opened) = event(&mut stream).await else {
            panic!("opened comes first")
        };
        assert_eq!(
            opened.positions[0].offset,
            offset.unwrap_or(15),
            "at {timestamp_ms}"
        );
    }
}

#[tokio::test]
async fn an_offset_out_of_range_names_the_range() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1).await;
    broker.produce("t", 0, batch(4)).await;
    let status = broker
        .log()
        .fetch(from(Position::Offset(5)))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    let info = error_info(&status);
    assert_eq!(info.reason, "OFFSET_OUT_OF_RANGE");
    let named = [
        "topic",
        "partition",
        "offset",
        "log_start_offset",
        "high_watermark",
    ];
    assert_eq!(
        named.map(|name| info.metadata[name].as_str()),
        ["t", "0", "5", "0", "4"]
    );
    fetch(&broker, from(Position::Offset(4))).await;
    broker.assert_serves().await;
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 2).await;
    let named = |partition| v1::PartitionStart {
        partition,
        start: None,
    };
    let cases = [
        (
            v1::FetchRequest {
                topic: "nowhere".to_owned(),
                ..earliest()
            },
            "TOPIC_NOT_FOUND",
        ),
        (
            v1::FetchRequest {
                partitions: vec![named(2)],
                ..earliest()
            },
            "PARTITION_NOT_FOUND",
        ),
        (
            v1::FetchRequest {
                partitions: vec![named(1); 2],
                ..earliest()
            },
            "INVALID_REQUEST",
        ),
        (
            v1::FetchRequest {
                max_bytes: Some(1),
                ..earliest()
            },
            "INVALID_REQUEST",
        ),
        (
            v1::FetchRequest {
                max_bytes: Some(u32::MAX),
                ..earliest()
            },
            "INVALID_REQUEST",
        ),
    ];
    for (request, reason) in cases {
        let status = broker.log().fetch(request).await.unwrap_err();
        assert_eq!(error_info(&status).reason, reason);
    }
    broker.assert_serves().await;
}
