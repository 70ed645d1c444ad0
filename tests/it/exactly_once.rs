//! Batches that are sent again: appended once, answered as the first time.

use bytes::Bytes;
use statecast_broker::limits;
use statecast_proto::v1::{self, batch_result::Outcome};
use tonic::Code;

use crate::support::{TestBroker, batch, encode, error_info, record};

const TOPIC: &str = "t";

/// A producer, as a client in any language would write it.
#[derive(Debug, Clone, Copy)]
struct Producer {
    id: u64,
    epoch: u32,
}

async fn init(broker: &TestBroker, name: Option<&str>) -> Producer {
    let request = v1::InitProducerRequest {
        producer_name: name.map(str::to_owned),
        current: None,
    };
    let answer = broker.log().init_producer(request).await.unwrap();
    let v1::InitProducerResponse { producer_id, epoch } = answer.into_inner();
    Producer {
        id: producer_id,
        epoch,
    }
}

/// Begins anew as the one that is there, under the name "billing".
async fn renew(broker: &TestBroker, producer: Producer) -> Result<(u64, u32), tonic::Status> {
    let request = v1::InitProducerRequest {
        producer_name: Some("billing".to_owned()),
        current: Some(v1::ProducerIdentity {
            producer_id: producer.id,
            epoch: producer.epoch,
        }),
    };
    let answer = broker.log().init_producer(request).await?.into_inner();
    Ok((answer.producer_id, answer.epoch))
}

impl Producer {
    /// A batch for a partition, with the number of its first record.
    fn batch(self, partition: u32, base_sequence: u32, batch: Bytes) -> v1::PartitionBatch {
        v1::PartitionBatch {
            topic: TOPIC.to_owned(),
            partition,
            checksum: None,
            batch,
            sequence: Some(v1::ProducerSequence {
                producer_id: self.id,
                epoch: self.epoch,
                base_sequence,
            }),
        }
    }
}

/// What a batch was answered with: offset and whether it is a duplicate, or the
/// error.
type Answer = Result<(u64, bool), v1::BatchError>;

/// Sends a request for each batch over one stream.
async fn send(broker: &TestBroker, batches: Vec<v1::PartitionBatch>) -> Vec<Answer> {
    let requests = batches.into_iter().map(|batch| v1::ProduceStreamRequest {
        batches: vec![batch],
    });
    let requests = tokio_stream::iter(requests.collect::<Vec<_>>());
    let mut responses = broker.produce_stream(requests).await;
    let mut answers = Vec::new();
    while let Some(response) = responses.message().await.unwrap() {
        for result in response.results {
            answers.push(match result.outcome.unwrap() {
                Outcome::Appended(appended) => Ok((appended.base_offset, appended.duplicate)),
                Outcome::Error(error) => Err(error),
            });
        }
    }
    answers
}

async fn send_one(broker: &TestBroker, batch: v1::PartitionBatch) -> Answer {
    send(broker, vec![batch]).await.remove(0)
}

/// The reason that a batch was refused with, and its metadata.
fn refused(answer: Answer) -> v1::BatchError {
    let error = answer.expect_err("it is refused");
    assert_eq!(error.metadata["topic"], TOPIC);
    assert!(error.retry_after_ms.is_none(), "no retry helps");
    error
}

async fn high_watermark(broker: &TestBroker, partition: u32) -> u64 {
    let request = v1::ListOffsetsRequest {
        topic: TOPIC.to_owned(),
        partitions: vec![partition],
        timestamp_ms: None,
    };
    let offsets = broker.log().list_offsets(request).await.unwrap();
    offsets.into_inner().partitions[0].high_watermark
}

#[tokio::test]
async fn a_batch_that_is_sent_again_is_answered_as_the_first_time() {
    let broker = TestBroker::start().await;
    broker.create_topic(TOPIC, 2).await;
    let producer = init(&broker, None).await;
    assert!(producer.id > 0);
    assert_eq!(producer.epoch, 0);
    let first = producer.batch(0, 0, batch(3));
    let second = producer.batch(0, 3, batch(2));
    let elsewhere = producer.batch(1, 0, batch(1));
    let all = vec![first.clone(), second.clone(), elsewhere.clone()];
    let answers = send(&broker, all.clone()).await;
    assert_eq!(answers, [Ok((0, false)), Ok((3, false)), Ok((0, false))]);
    // All of them, as after a lost connection; in one request, twice in it; and in
    // another order.
    let answers = send(&broker, all).await;
    assert_eq!(answers, [Ok((0, true)), Ok((3, true)), Ok((0, true))]);
    let twice = v1::ProduceStreamRequest {
        batches: vec![
            second.clone(),
            first,
            second,
            producer.batch(0, 5, batch(1)),
        ],
    };
    let mut responses = broker.produce_stream(tokio_stream::iter([twice])).await;
    let results = responses.message().await.unwrap().unwrap().results;
    let offset = |result: v1::BatchResult| match result.outcome.unwrap() {
        Outcome::Appended(appended) => (appended.base_offset, appended.duplicate),
        Outcome::Error(error) => panic!("{error:?}"),
    };
    let answers: Vec<_> = results.into_iter().map(offset).collect();
    assert_eq!(answers, [(3, true), (0, true), (3, true), (5, false)]);
    assert_eq!(high_watermark(&broker, 0).await, 6);
    assert_eq!(high_watermark(&broker, 1).await, 1);
}

#[tokio::test]
async fn what_follows_a_refused_batch_is_refused_until_it_is_sent_again() {
    let broker = TestBroker::start().await;
    broker.create_topic(TOPIC, 1).await;
    let producer = init(&broker, None).await;
    let large = Some(vec![0; 5 << 20].into());
    let too_large = encode(vec![v1::Record {
        value: large,
        ..record(0)
    }]);
    let batches = vec![
        producer.batch(0, 0, batch(4)),
        producer.batch(0, 4, too_large),
        producer.batch(0, 5, batch(1)),
        producer.batch(0, 6, batch(2)),
    ];
    let mut answers = send(&broker, batches).await.into_iter();
    assert_eq!(answers.next().unwrap(), Ok((0, false)));
    assert_eq!(
        answers.next().unwrap().unwrap_err().reason,
        "BATCH_TOO_LARGE"
    );
    for answer in answers {
        let error = refused(answer);
        assert_eq!(error.reason, "SEQUENCE_GAP");
        assert_eq!(error.metadata["expected_sequence"], "4");
    }
    // One that holds what was appended and more is no better.
    let error = refused(send_one(&broker, producer.batch(0, 3, batch(2))).await);
    assert_eq!(error.reason, "SEQUENCE_GAP");
    assert_eq!(error.metadata["expected_sequence"], "4");
    let batches = vec![
        producer.batch(0, 4, batch(1)),
        producer.batch(0, 5, batch(1)),
    ];
    let answers = send(&broker, batches).await;
    assert_eq!(answers, [Ok((4, false)), Ok((5, false))]);
    assert_eq!(high_watermark(&broker, 0).await, 6);
}

#[tokio::test]
async fn of_producers_that_take_turns_the_last_batches_are_known() {
    let broker = TestBroker::start().await;
    broker.create_topic(TOPIC, 1).await;
    let producers = [init(&broker, None).await, init(&broker, None).await];
    assert_ne!(producers[0].id, producers[1].id);
    let turns = (0..100_u32).map(|nth| {
        let producer = producers[nth as usize % 2];
        producer.batch(0, nth / 2, batch(1))
    });
    let turns: Vec<_> = turns.collect();
    let appended = send(&broker, turns.clone()).await;
    let again = send(&broker, turns).await;
    let (old, last) = again.split_at(100 - 2 * limits::RUNS_PER_PRODUCER);
    for answer in old {
        let error = refused(answer.clone());
        assert_eq!(error.reason, "SEQUENCE_TOO_OLD");
        assert_eq!(Code::from_i32(error.code), Code::AlreadyExists);
    }
    let offset = |answer: &Answer| answer.clone().unwrap().0;
    let offsets: Vec<u64> = last.iter().map(offset).collect();
    assert_eq!(offsets, (36..100).collect::<Vec<u64>>());
    assert_eq!(
        appended[36..].iter().map(offset).collect::<Vec<_>>(),
        offsets
    );
    assert_eq!(high_watermark(&broker, 0).await, 100);
}

#[tokio::test]
async fn a_producer_with_a_name_fences_its_former_self() {
    let broker = TestBroker::start().await;
    broker.create_topic(TOPIC, 2).await;
    let former = init(&broker, Some("billing")).await;
    let other = init(&broker, Some("shipping")).await;
    let appended = send_one(&broker, former.batch(0, 0, batch(2))).await;
    assert_eq!(appended, Ok((0, false)));
    let latter = init(&broker, Some("billing")).await;
    assert_eq!(latter.id, former.id);
    assert!(latter.epoch > former.epoch);
    assert_ne!(other.id, former.id);
    // What it appended already, what comes next, and where it has never been.
    for batch in [
        former.batch(0, 0, batch(2)),
        former.batch(0, 2, batch(1)),
        former.batch(1, 0, batch(1)),
    ] {
        let error = refused(send_one(&broker, batch).await);
        assert_eq!(error.reason, "PRODUCER_FENCED");
        assert_eq!(error.metadata["epoch"], latter.epoch.to_string());
    }
    let error = refused(send_one(&broker, latter.batch(0, 2, batch(1))).await);
    assert_eq!(error.reason, "SEQUENCE_GAP");
    assert_eq!(error.metadata["expected_sequence"], "0");
    let batches = vec![
        latter.batch(0, 0, batch(1)),
        latter.batch(0, 1, batch(1)),
        other.batch(0, 0, batch(1)),
    ];
    let answers = send(&broker, batches).await;
    assert_eq!(answers, [Ok((2, false)), Ok((3, false)), Ok((4, false))]);
}

#[tokio::test]
async fn producers_that_nobody_knows_are_refused() {
    let broker = TestBroker::start().await;
    broker.create_topic(TOPIC, 1).await;
    let anonymous = init(&broker, None).await;
    let named = init(&broker, Some("billing")).await;
    let of = |producer: Producer, id: u64, epoch: u32| Producer {
        id: producer.id + id,
        epoch: producer.epoch + epoch,
    };
    let cases = [
        (Producer { id: 1, epoch: 0 }, 0, "PRODUCER_EXPIRED"),
        (of(anonymous, 4000, 0), 0, "PRODUCER_EXPIRED"),
        (of(named, 2, 0), 0, "PRODUCER_EXPIRED"),
        (
            Producer {
                id: u64::MAX,
                epoch: 0,
            },
            0,
            "PRODUCER_EXPIRED",
        ),
        (of(anonymous, 0, 1), 0, "PRODUCER_EXPIRED"),
        (of(named, 0, 1), 0, "PRODUCER_EXPIRED"),
        (anonymous, 1, "PRODUCER_EXPIRED"),
        (Producer { id: 0, epoch: 0 }, 0, "INVALID_REQUEST"),
        (of(anonymous, 0, 65_536), 0, "INVALID_REQUEST"),
        (of(named, 0, u32::MAX - 65_536), 0, "INVALID_REQUEST"),
    ];
    for (producer, base_sequence, reason) in cases {
        let answer = send_one(&broker, producer.batch(0, base_sequence, batch(1))).await;
        assert_eq!(refused(answer).reason, reason, "{producer:?}");
    }
    assert_eq!(high_watermark(&broker, 0).await, 0);
    broker.assert_serves().await;
}

#[tokio::test]
async fn names_are_held_to_the_rules() {
    let broker = TestBroker::start().await;
    let too_long = "x".repeat(201);
    for bad in ["", "a b", "ä", "a/b", &too_long] {
        let request = v1::InitProducerRequest {
            producer_name: Some(bad.to_owned()),
            current: None,
        };
        let status = broker.log().init_producer(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{bad:?}");
        assert_eq!(error_info(&status).reason, "INVALID_REQUEST");
    }
    let longest = "x".repeat(200);
    for good in [".", "__a", &longest] {
        init(&broker, Some(good)).await;
    }
}

#[tokio::test]
async fn one_that_begins_anew_by_itself_is_fenced_by_others_only() {
    let broker = TestBroker::start().await;
    let first = init(&broker, Some("billing")).await;
    let renewed = renew(&broker, first).await.unwrap();
    assert_eq!(renewed, (first.id, first.epoch + 1));
    // The answer may have been lost: asked again, it is the same.
    assert_eq!(renew(&broker, first).await.unwrap(), renewed);
    let broker = broker.restart().await;
    assert_eq!(renew(&broker, first).await.unwrap(), renewed);

    let other = init(&broker, Some("billing")).await;
    assert!(other.epoch > renewed.1);
    for fenced in [
        first,
        Producer {
            epoch: renewed.1,
            ..first
        },
    ] {
        let status = renew(&broker, fenced).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(error_info(&status).reason, "PRODUCER_FENCED");
    }
    let absurd = Producer {
        epoch: 65_536,
        ..other
    };
    let status = renew(&broker, absurd).await.unwrap_err();
    assert_eq!(error_info(&status).reason, "INVALID_REQUEST");
    renew(&broker, other).await.unwrap();
}

#[tokio::test]
async fn everything_is_as_it_was_after_a_restart() {
    let broker = TestBroker::start().await;
    broker.create_topic(TOPIC, 1).await;
    let anonymous = init(&broker, None).await;
    let former = init(&broker, Some("billing")).await;
    let named = init(&broker, Some("billing")).await;
    let batches = vec![
        anonymous.batch(0, 0, batch(2)),
        named.batch(0, 0, batch(1)),
        anonymous.batch(0, 2, batch(1)),
    ];
    send(&broker, batches.clone()).await;
    let broker = broker.restart().await;
    let answers = send(&broker, batches).await;
    assert_eq!(answers, [Ok((0, true)), Ok((2, true)), Ok((3, true))]);
    let error = refused(send_one(&broker, former.batch(0, 1, batch(1))).await);
    assert_eq!(error.reason, "PRODUCER_FENCED");
    let error = refused(send_one(&broker, anonymous.batch(0, 4, batch(1))).await);
    assert_eq!(error.metadata["expected_sequence"], "3");
    assert_eq!(
        send_one(&broker, anonymous.batch(0, 3, batch(1))).await,
        Ok((4, false))
    );
    let again = init(&broker, Some("billing")).await;
    assert_eq!((again.id, again.epoch), (named.id, named.epoch + 1));
    assert!(init(&broker, None).await.id > named.id);
}
