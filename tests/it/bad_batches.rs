//! Batches that are refused: each with its reason, and the broker serves on.

use bytes::Bytes;
use statecast_proto::v1;
use tonic::{Code, Status};

use crate::support::{TestBroker, batch, encode, error_info, record};

const TOPIC: &str = "t";

fn produce(batch: Bytes) -> v1::ProduceRequest {
    v1::ProduceRequest {
        topic: TOPIC.to_owned(),
        partition: Some(0),
        batch,
        ..v1::ProduceRequest::default()
    }
}

/// What a request is refused with.
struct Refused {
    code: Code,
    reason: &'static str,
}

fn with_headers(headers: Vec<v1::Header>) -> Bytes {
    encode(vec![v1::Record {
        headers,
        ..record(0)
    }])
}

fn header(name: &str) -> v1::Header {
    v1::Header {
        name: name.to_owned(),
        value: None,
    }
}

fn with_key(len: usize) -> Bytes {
    encode(vec![v1::Record {
        key: Some(vec![b'k'; len].into()),
        ..record(0)
    }])
}

/// What is wrong, the request, and what it is refused with.
type Case = (&'static str, v1::ProduceRequest, Refused);

fn cases() -> Vec<Case> {
    wrong_around_the_batch()
        .into_iter()
        .chain(wrong_within_the_batch())
        .collect()
}

fn wrong_around_the_batch() -> Vec<Case> {
    let good = batch(3);
    let mismatch = Some(statecast_proto::checksum(&good) ^ 1);
    let not_found = |reason| Refused {
        code: Code::NotFound,
        reason,
    };
    vec![
        (
            "unknown topic",
            v1::ProduceRequest {
                topic: "nowhere".to_owned(),
                ..produce(good.clone())
            },
            not_found("TOPIC_NOT_FOUND"),
        ),
        (
            "unknown partition",
            v1::ProduceRequest {
                partition: Some(1),
                ..produce(good.clone())
            },
            not_found("PARTITION_NOT_FOUND"),
        ),
        (
            "wrong checksum",
            v1::ProduceRequest {
                checksum: mismatch,
                ..produce(good)
            },
            Refused {
                code: Code::DataLoss,
                reason: "CHECKSUM_MISMATCH",
            },
        ),
    ]
}

fn wrong_within_the_batch() -> Vec<Case> {
    let good = batch(3);
    let cut = good.slice(..good.len() - 1);
    let value = Some(vec![0; 4 << 20].into());
    let large = encode(vec![v1::Record { value, ..record(0) }]);
    let cases = [
        ("truncated batch", cut, "BATCH_MALFORMED"),
        (
            "no batch",
            Bytes::from_static(b"\xff\xff"),
            "BATCH_MALFORMED",
        ),
        ("bad compression", badly_compressed(), "BATCH_MALFORMED"),
        ("no record", Bytes::new(), "BATCH_EMPTY"),
        ("batch over the topic's limit", large, "BATCH_TOO_LARGE"),
        (
            "record over its limit",
            large_once_decompressed(),
            "RECORD_TOO_LARGE",
        ),
        ("too many records", batch(65_537), "TOO_MANY_RECORDS"),
        (
            "too many headers",
            with_headers(vec![header("h"); 65]),
            "TOO_MANY_HEADERS",
        ),
        (
            "header without a name",
            with_headers(vec![header("")]),
            "HEADER_INVALID",
        ),
        (
            "header with a long name",
            with_headers(vec![header(&"h".repeat(257))]),
            "HEADER_INVALID",
        ),
        (
            "header whose name isn't UTF-8",
            Bytes::from_static(&[0x0a, 5, 0x1a, 3, 0x0a, 1, 0xff]),
            "HEADER_INVALID",
        ),
        (
            "key over its limit",
            with_key((64 << 10) + 1),
            "KEY_TOO_LARGE",
        ),
    ];
    let case = |(what, batch, reason)| {
        (
            what,
            produce(batch),
            Refused {
                code: Code::InvalidArgument,
                reason,
            },
        )
    };
    cases.map(case).into()
}

/// A record of 9 MiB that takes little room on its way.
fn large_once_decompressed() -> Bytes {
    let value = Some(vec![0; 9 << 20].into());
    let records = vec![v1::Record { value, ..record(0) }];
    let plain = v1::RecordBatch {
        records,
        ..v1::RecordBatch::default()
    };
    let plain = prost::Message::encode_to_vec(&plain);
    let batch = v1::RecordBatch {
        compression: v1::Compression::Lz4.into(),
        uncompressed_size: u32::try_from(plain.len()).unwrap(),
        record_count: 1,
        compressed: lz4_flex::block::compress(&plain).into(),
        records: Vec::new(),
    };
    prost::Message::encode_to_vec(&batch).into()
}

fn badly_compressed() -> Bytes {
    let batch = v1::RecordBatch {
        compression: v1::Compression::Lz4.into(),
        uncompressed_size: 100,
        record_count: 1,
        compressed: Bytes::from_static(b"\xff\xff\xff nonsense"),
        records: Vec::new(),
    };
    prost::Message::encode_to_vec(&batch).into()
}

#[tokio::test]
async fn a_call_with_a_bad_batch_says_why() {
    let broker = TestBroker::start().await;
    broker.create_topic(TOPIC, 1).await;
    for (what, request, refused) in cases() {
        let status = broker.log().produce(request).await.expect_err(what);
        assert_eq!(status.code(), refused.code, "{what}");
        let info = error_info(&status);
        assert_eq!(info.reason, refused.reason, "{what}");
        assert!(
            info.metadata.contains_key("topic"),
            "{what}: {:?}",
            info.metadata
        );
    }
    broker.assert_serves().await;
    assert_nothing_was_appended(&broker).await;
}

#[tokio::test]
async fn a_bad_batch_of_a_stream_is_refused_alone() {
    let broker = TestBroker::start().await;
    broker.create_topic(TOPIC, 1).await;
    let cases = cases();
    let in_stream = |request: &v1::ProduceRequest| v1::PartitionBatch {
        topic: request.topic.clone(),
        partition: request.partition.unwrap(),
        batch: request.batch.clone(),
        checksum: request.checksum,
        sequence: None,
    };
    // Two requests, as all of them together are over the bound of one.
    let (large, small): (Vec<_>, Vec<_>) = cases
        .iter()
        .partition(|(_, request, _)| request.batch.len() > 1 << 20);
    for group in [large, small] {
        let batches = group
            .iter()
            .map(|(_, request, _)| in_stream(request))
            .collect();
        let request = v1::ProduceStreamRequest { batches };
        let requests = tokio_stream::iter([request.clone(), request]);
        let mut responses = broker.produce_stream(requests).await;
        for _ in 0..2 {
            let response = responses.message().await.unwrap().unwrap();
            assert_eq!(response.results.len(), group.len());
            for (result, (what, _, refused)) in response.results.into_iter().zip(&group) {
                let Some(v1::batch_result::Outcome::Error(error)) = result.outcome else {
                    panic!("{what} was taken");
                };
                assert_eq!(error.reason, refused.reason, "{what}");
                assert_eq!(Code::from_i32(error.code), refused.code, "{what}");
                assert!(!error.message.is_empty(), "{what}");
                assert!(error.metadata.contains_key("partition"), "{what}");
            }
        }
        assert!(responses.message().await.unwrap().is_none());
    }
    assert_nothing_was_appended(&broker).await;
}

#[tokio::test]
async fn a_limit_is_named() {
    let broker = TestBroker::start().await;
    broker.create_topic(TOPIC, 1).await;
    let request = produce(with_headers(vec![header("h"); 65]));
    let status = broker.log().produce(request).await.unwrap_err();
    let info = error_info(&status);
    assert_eq!(info.metadata["limit"], "64");
    assert_eq!(info.metadata["topic"], TOPIC);
    assert_eq!(info.metadata["partition"], "0");
    assert!(!info.retry);
}

#[tokio::test]
async fn a_damaged_transfer_may_be_tried_again() {
    let broker = TestBroker::start().await;
    broker.create_topic(TOPIC, 1).await;
    let request = v1::ProduceRequest {
        checksum: Some(1),
        ..produce(batch(1))
    };
    let status = broker.log().produce(request).await.unwrap_err();
    assert!(error_info(&status).retry);
}

#[tokio::test]
async fn a_compressed_batch_needs_a_partition() {
    let broker = TestBroker::start().await;
    broker.create_topic(TOPIC, 1).await;
    let mut builder = statecast_client::BatchBuilder::new(statecast_client::Compression::Zstd);
    for _ in 0..100 {
        builder
            .push(&statecast_client::RecordRef::new(b"key", b"the same value"))
            .unwrap();
    }
    let built = builder.finish();
    let request = v1::ProduceRequest {
        partition: None,
        ..produce(built.payload.clone())
    };
    let status = broker.log().produce(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(error_info(&status).reason, "INVALID_REQUEST");
    let produced = broker
        .log()
        .produce(produce(built.payload))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(produced.positions.len(), 100);
}

/// A batch that takes little room on its way, and unpacks to 14 MiB.
fn shrunk() -> Bytes {
    let mut builder = statecast_client::BatchBuilder::new(statecast_client::Compression::Zstd);
    for _ in 0..2 {
        let value = vec![0; 7 << 20];
        let record = statecast_client::RecordRef::new(b"key", &value);
        builder.push(&record).unwrap();
    }
    builder.finish().payload
}

async fn produce_shrunk(broker: &TestBroker, count: usize) -> Result<Vec<u64>, Status> {
    let batch = v1::PartitionBatch {
        topic: TOPIC.to_owned(),
        batch: shrunk(),
        ..v1::PartitionBatch::default()
    };
    let request = v1::ProduceStreamRequest {
        batches: vec![batch; count],
    };
    let mut responses = broker.produce_stream(tokio_stream::iter([request])).await;
    let answer = responses.message().await?.unwrap();
    let offset = |result: v1::BatchResult| match result.outcome {
        Some(v1::batch_result::Outcome::Appended(appended)) => appended.base_offset,
        refused => panic!("{refused:?}"),
    };
    Ok(answer.results.into_iter().map(offset).collect())
}

#[tokio::test]
async fn what_a_request_unpacks_to_is_bounded() {
    let broker = TestBroker::start().await;
    broker.create_topic(TOPIC, 1).await;
    let status = produce_shrunk(&broker, 5).await.unwrap_err();
    let info = error_info(&status);
    assert_eq!(info.reason, "BATCH_TOO_LARGE");
    assert_eq!(info.metadata["limit"], (64 << 20).to_string());
    assert_nothing_was_appended(&broker).await;
    assert_eq!(produce_shrunk(&broker, 4).await.unwrap(), [0, 2, 4, 6]);
    assert_eq!(
        broker.produce(TOPIC, 0, shrunk()).await,
        8,
        "by the other call too"
    );
}

async fn assert_nothing_was_appended(broker: &TestBroker) {
    let list = v1::ListOffsetsRequest {
        topic: TOPIC.to_owned(),
        ..v1::ListOffsetsRequest::default()
    };
    let offsets = broker.log().list_offsets(list).await.unwrap().into_inner();
    assert_eq!(offsets.partitions[0].high_watermark, 0);
}
