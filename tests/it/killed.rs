//! What the built binary, killed as by a crash, knows of those who send again.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use statecast_client::Client;
use statecast_proto::v1::admin_client::AdminClient;
use statecast_proto::v1::log_client::LogClient;
use statecast_proto::v1::{self, batch_result::Outcome};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::support::{Binary, batch, encode};

const TOPIC: &str = "t";

async fn log(broker: &Binary) -> LogClient<Channel> {
    LogClient::connect(broker.endpoint()).await.unwrap()
}

async fn create_topic(broker: &Binary, partitions: u32) {
    let mut admin = AdminClient::connect(broker.endpoint()).await.unwrap();
    let create = v1::CreateTopicRequest {
        name: TOPIC.to_owned(),
        partitions: Some(partitions),
        config: None,
    };
    admin.create_topic(create).await.unwrap();
}

async fn init(broker: &Binary, name: Option<&str>) -> v1::InitProducerResponse {
    let request = v1::InitProducerRequest {
        producer_name: name.map(str::to_owned),
        current: None,
    };
    let answer = log(broker).await.init_producer(request).await.unwrap();
    answer.into_inner()
}

/// A request with one batch of one record, whose value is its number.
fn request(producer: &v1::InitProducerResponse, number: u32) -> v1::ProduceStreamRequest {
    let value = Some(Bytes::copy_from_slice(&number.to_le_bytes()));
    let record = v1::Record {
        value,
        ..v1::Record::default()
    };
    one(producer, number, encode(vec![record]))
}

fn one(
    producer: &v1::InitProducerResponse,
    base_sequence: u32,
    batch: Bytes,
) -> v1::ProduceStreamRequest {
    let batch = v1::PartitionBatch {
        topic: TOPIC.to_owned(),
        partition: 0,
        checksum: None,
        batch,
        sequence: Some(v1::ProducerSequence {
            producer_id: producer.producer_id,
            epoch: producer.epoch,
            base_sequence,
        }),
    };
    v1::ProduceStreamRequest {
        batches: vec![batch],
    }
}

fn appended(response: v1::ProduceStreamResponse) -> v1::Appended {
    match response
        .results
        .into_iter()
        .next()
        .unwrap()
        .outcome
        .unwrap()
    {
        Outcome::Appended(appended) => appended,
        Outcome::Error(error) => panic!("refused: {error:?}"),
    }
}

/// Sends these requests at once; the answers are to be read.
async fn send(
    broker: &Binary,
    requests: Vec<v1::ProduceStreamRequest>,
) -> Streaming<v1::ProduceStreamResponse> {
    let (sender, receiver) = mpsc::channel(requests.len());
    for request in requests {
        sender.try_send(request).unwrap();
    }
    let requests = ReceiverStream::new(receiver);
    let responses = log(broker).await.produce_stream(requests).await;
    responses.unwrap().into_inner()
}

/// The numbers of all records, in the order of the log.
async fn numbers(broker: &Binary) -> Vec<u32> {
    let client = Client::connect(broker.endpoint()).await.unwrap();
    let mut reader = client.reader(TOPIC).until_end().open().await.unwrap();
    let mut numbers = Vec::new();
    while let Some(record) = reader.next().await {
        let value = record.unwrap().value.unwrap();
        numbers.push(u32::from_le_bytes(value[..].try_into().unwrap()));
    }
    numbers
}

#[tokio::test]
async fn each_record_lies_in_the_log_once_and_in_order_however_often_it_is_killed() {
    const RECORDS: u32 = 1000;
    let data = tempfile::tempdir().unwrap();
    let mut broker = Binary::serve(data.path());
    create_topic(&broker, 1).await;
    let producer = init(&broker, None).await;
    let mut offsets = Vec::new();
    while offsets.len() < RECORDS as usize {
        let first = u32::try_from(offsets.len()).unwrap();
        let rest = (first..RECORDS).map(|number| request(&producer, number));
        let mut responses = send(&broker, rest.collect()).await;
        // Killed with much on its way, and some of it appended.
        for _ in 0..RECORDS / 4 {
            if let Ok(Some(response)) = responses.message().await {
                offsets.push(appended(response).base_offset);
            }
        }
        broker.kill();
        broker = Binary::serve(data.path());
    }
    let expected: Vec<u32> = (0..RECORDS).collect();
    assert_eq!(numbers(&broker).await, expected);
    let offset = |number: &u64| u32::try_from(*number).unwrap();
    assert_eq!(offsets.iter().map(offset).collect::<Vec<_>>(), expected);
    // All of it once more, and what comes next.
    let again = (0..=RECORDS).map(|number| request(&producer, number));
    let mut responses = send(&broker, again.collect()).await;
    for number in 0..=RECORDS {
        let appended = appended(responses.message().await.unwrap().unwrap());
        assert_eq!(appended.base_offset, u64::from(number));
        assert_eq!(appended.duplicate, number < RECORDS);
    }
    // Who begins now is somebody else.
    assert!(init(&broker, None).await.producer_id > producer.producer_id);
}

#[tokio::test]
async fn what_is_in_segments_is_known_as_well() {
    let data = tempfile::tempdir().unwrap();
    let broker = Binary::serve(data.path());
    create_topic(&broker, 1).await;
    let former = init(&broker, Some("billing")).await;
    let silent = init(&broker, Some("billing")).await;
    assert_eq!(silent.producer_id, former.producer_id);
    let busy = init(&broker, None).await;
    let call = v1::ProduceRequest {
        topic: TOPIC.to_owned(),
        partition: Some(0),
        batch: batch(2),
        request_id: Some("once".to_owned()),
        ..v1::ProduceRequest::default()
    };
    let first = log(&broker).await.produce(call.clone()).await.unwrap();
    let mut responses = send(&broker, vec![request(&silent, 0)]).await;
    let of_silent = appended(responses.message().await.unwrap().unwrap());
    // More than a journal file holds, so that it goes to segments.
    let value = Some(Bytes::from(vec![7; 3 << 20]));
    let record = v1::Record {
        value,
        ..v1::Record::default()
    };
    let large = encode(vec![record]);
    for number in 0..24 {
        let mut responses = send(&broker, vec![one(&busy, number, large.clone())]).await;
        responses.message().await.unwrap().unwrap();
    }
    wait_for(&data.path().join("producers")).await;
    broker.kill();

    let broker = Binary::serve(data.path());
    let mut responses = send(&broker, vec![request(&silent, 0)]).await;
    let again = appended(responses.message().await.unwrap().unwrap());
    assert_eq!(again.base_offset, of_silent.base_offset);
    assert!(again.duplicate);
    let second = log(&broker).await.produce(call).await.unwrap();
    assert_eq!(second.into_inner(), first.into_inner());
    let mut responses = send(&broker, vec![one(&busy, 24, batch(1))]).await;
    assert!(!appended(responses.message().await.unwrap().unwrap()).duplicate);
    let latter = init(&broker, Some("billing")).await;
    assert_eq!(latter.producer_id, silent.producer_id);
    assert_eq!(latter.epoch, silent.epoch + 1);
}

/// Waits until the archiver has written a file.
async fn wait_for(file: &Path) {
    while !file.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_call_that_is_made_again_finds_what_it_appended() {
    let data = tempfile::tempdir().unwrap();
    let mut broker = Binary::serve(data.path());
    create_topic(&broker, 3).await;
    let call = |nth: u32| v1::ProduceRequest {
        topic: TOPIC.to_owned(),
        partition: None,
        batch: batch(20),
        request_id: Some(format!("call-{nth}")),
        ..v1::ProduceRequest::default()
    };
    let mut answers = Vec::new();
    for nth in 0..5 {
        let mut client = log(&broker).await;
        let answer = client.produce(call(nth)).await.unwrap();
        answers.push(answer.into_inner());
        // The next one is on its way when the broker is killed.
        let lost = tokio::spawn(async move { client.produce(call(nth + 1)).await });
        broker.kill();
        let _ = lost.await.unwrap();
        broker = Binary::serve(data.path());
        for (nth, answer) in (0..).zip(&answers) {
            let again = log(&broker).await.produce(call(nth)).await.unwrap();
            assert_eq!(&again.into_inner(), answer);
        }
    }
    let list = v1::ListOffsetsRequest {
        topic: TOPIC.to_owned(),
        ..v1::ListOffsetsRequest::default()
    };
    log(&broker).await.produce(call(5)).await.unwrap();
    let offsets = log(&broker).await.list_offsets(list).await.unwrap();
    let ends = offsets.into_inner().partitions.into_iter();
    assert_eq!(ends.map(|p| p.high_watermark).sum::<u64>(), 6 * 20);
}
