//! Calls of `Produce` that are made again under the same name.

use bytes::Bytes;
use statecast_proto::v1;
use tonic::{Code, Status};

use crate::support::{TestBroker, batch, encode, error_info, record};

const TOPIC: &str = "t";

fn request(partition: Option<u32>, batch: Bytes, id: &str) -> v1::ProduceRequest {
    v1::ProduceRequest {
        topic: TOPIC.to_owned(),
        partition,
        batch,
        request_id: Some(id.to_owned()),
        ..v1::ProduceRequest::default()
    }
}

/// Makes a call; returns the place of each record.
async fn produce(
    broker: &TestBroker,
    request: v1::ProduceRequest,
) -> Result<Vec<(u32, u64)>, Status> {
    let produced = broker.log().produce(request).await?.into_inner();
    let position = |p: &v1::RecordPosition| (p.partition, p.offset);
    Ok(produced.positions.iter().map(position).collect())
}

/// High watermarks of all partitions.
async fn ends(broker: &TestBroker) -> Vec<u64> {
    let request = v1::ListOffsetsRequest {
        topic: TOPIC.to_owned(),
        ..v1::ListOffsetsRequest::default()
    };
    let offsets = broker.log().list_offsets(request).await.unwrap();
    let partitions = offsets.into_inner().partitions;
    partitions.iter().map(|p| p.high_watermark).collect()
}

#[tokio::test]
async fn a_call_that_is_made_again_is_answered_as_the_first_time() {
    let broker = TestBroker::start().await;
    broker.create_topic(TOPIC, 3).await;
    let to_one = request(Some(1), batch(5), "to-one");
    let by_key = request(None, batch(30), "by-key");
    let first = produce(&broker, to_one.clone()).await.unwrap();
    assert_eq!(first, (0..5).map(|offset| (1, offset)).collect::<Vec<_>>());
    let spread = produce(&broker, by_key.clone()).await.unwrap();
    let before = ends(&broker).await;
    for broker in [broker.restart().await] {
        for _ in 0..3 {
            assert_eq!(produce(&broker, to_one.clone()).await.unwrap(), first);
            assert_eq!(produce(&broker, by_key.clone()).await.unwrap(), spread);
        }
        assert_eq!(ends(&broker).await, before);
        // Another name, or none, is another call.
        let other = request(Some(1), batch(5), "another");
        assert_ne!(produce(&broker, other).await.unwrap(), first);
        let nameless = v1::ProduceRequest {
            request_id: None,
            ..to_one.clone()
        };
        assert_ne!(produce(&broker, nameless).await.unwrap(), first);
    }
}

#[tokio::test]
async fn records_without_a_key_go_to_the_same_partition_again() {
    let broker = TestBroker::start().await;
    broker.create_topic(TOPIC, 5).await;
    let keyless = v1::Record {
        key: None,
        ..record(0)
    };
    let mut chosen = std::collections::BTreeSet::new();
    for nth in 0..40 {
        let call = request(
            None,
            encode(vec![keyless.clone(); 2]),
            &format!("call-{nth}"),
        );
        let first = produce(&broker, call.clone()).await.unwrap();
        assert_eq!(produce(&broker, call).await.unwrap(), first);
        chosen.extend(first.iter().map(|(partition, _)| *partition));
    }
    assert_eq!(ends(&broker).await.iter().sum::<u64>(), 80);
    assert_eq!(chosen.len(), 5, "names choose among all partitions");
}

#[tokio::test]
async fn calls_at_the_same_time_append_once() {
    let broker = TestBroker::start().await;
    broker.create_topic(TOPIC, 2).await;
    let call = request(None, batch(10), "raced");
    let calls = (0..16).map(|_| produce(&broker, call.clone()));
    let answers = futures_util::future::join_all(calls).await;
    let first = answers[0].as_ref().unwrap();
    assert!(
        answers
            .iter()
            .all(|answer| answer.as_ref().unwrap() == first)
    );
    assert_eq!(ends(&broker).await.iter().sum::<u64>(), 10);
}

#[tokio::test]
async fn what_a_first_try_did_not_reach_is_appended_by_the_next() {
    let broker = TestBroker::start().await;
    broker.create_topic(TOPIC, 3).await;
    let records: Vec<v1::Record> = (0..30).map(record).collect();
    let part: Vec<v1::Record> = records
        .iter()
        .filter(|record| {
            let key = record.key.as_ref().unwrap();
            statecast_proto::partition_for_key(key, 3) == 2
        })
        .cloned()
        .collect();
    // As if the broker had gone after it appended this part of the call.
    let count = part.len() as u64;
    let reached = request(Some(2), encode(part), "in-part");
    produce(&broker, reached).await.unwrap();
    let unrelated = v1::ProduceRequest {
        request_id: None,
        ..request(Some(2), batch(7), "")
    };
    produce(&broker, unrelated).await.unwrap();

    let whole = request(None, encode(records), "in-part");
    let positions = produce(&broker, whole.clone()).await.unwrap();
    let of_two: Vec<u64> = positions
        .iter()
        .filter(|(partition, _)| *partition == 2)
        .map(|(_, offset)| *offset)
        .collect();
    assert_eq!(of_two, (0..count).collect::<Vec<_>>(), "the first time");
    assert_eq!(ends(&broker).await.iter().sum::<u64>(), 37);
    assert_eq!(produce(&broker, whole).await.unwrap(), positions);
}

#[tokio::test]
async fn another_call_under_the_same_name_is_refused() {
    let broker = TestBroker::start().await;
    broker.create_topic(TOPIC, 2).await;
    produce(&broker, request(Some(0), batch(3), "name"))
        .await
        .unwrap();
    let status = produce(&broker, request(Some(0), batch(4), "name"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let info = error_info(&status);
    assert_eq!(info.reason, "INVALID_REQUEST");
    assert_eq!(info.metadata["partition"], "0");
    assert!(
        status.message().contains("3 records"),
        "{}",
        status.message()
    );
    assert_eq!(ends(&broker).await, [3, 0]);
}

#[tokio::test]
async fn names_have_1_to_64_bytes() {
    let broker = TestBroker::start().await;
    broker.create_topic(TOPIC, 1).await;
    let longest = "ä".repeat(32);
    let too_long = "x".repeat(65);
    for bad in ["", &too_long] {
        let status = produce(&broker, request(None, batch(1), bad))
            .await
            .unwrap_err();
        let info = error_info(&status);
        assert_eq!(info.reason, "INVALID_REQUEST");
        assert_eq!(info.metadata["limit"], "64");
        assert_eq!(info.metadata["size"], bad.len().to_string());
    }
    for good in ["x", &longest] {
        produce(&broker, request(None, batch(1), good))
            .await
            .unwrap();
    }
    assert_eq!(ends(&broker).await, [2]);
}
