//! Exactly once and in order, whatever is lost on the way.

use std::time::Duration;

use statecast_client::{
    BatchBuilder, Compression, Delivery, EncodedBatch, Error, Producer, ProducerBuilder, Reason,
    RecordPosition, RecordRef,
};

use super::fake_broker::{Answer, FakeBroker};
use super::fake_producers::Producers;
use super::producer::{refuse_for_now, send};

fn refuse_for_good(reason: Reason) -> Answer {
    Answer::Refuse {
        partition: 0,
        reason,
        retry_after_ms: None,
    }
}

/// Each of its records is a request, and the first one is acknowledged.
async fn warm_producer(broker: &FakeBroker) -> Producer {
    let client = broker.client().await;
    warm(client.producer_builder()).await
}

async fn warm(builder: ProducerBuilder) -> Producer {
    let producer = builder.batch_bytes(1024).build();
    send(&producer, 0, &long("warm")).await.await.unwrap();
    producer
}

/// So long that it fills a request.
fn long(name: &str) -> String {
    format!("{name}{}", " ".repeat(2000))
}

/// Sends these, of which none is on its way before all are queued.
async fn send_all(producer: &Producer, names: &[&str]) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    for name in names {
        deliveries.push(send(producer, 0, &long(name)).await);
    }
    deliveries
}

async fn offsets(deliveries: Vec<Delivery>) -> Vec<u64> {
    let mut offsets = Vec::new();
    for delivery in deliveries {
        offsets.push(delivery.await.unwrap().offset.unwrap());
    }
    offsets
}

/// What partition 0 has got.
fn names(broker: &FakeBroker) -> Vec<String> {
    let appended = broker.appended().into_iter();
    appended
        .map(|(_, value)| value.trim_end().to_owned())
        .collect()
}

async fn until_requests(broker: &FakeBroker, count: usize) {
    while broker.requests() < count {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn lost_answers_of_several_requests_append_nothing_twice() {
    let broker = FakeBroker::start(1).await;
    let producer = warm_producer(&broker).await;
    broker.script([
        Answer::AppendInSilence,
        Answer::AppendInSilence,
        Answer::AppendAndVanish,
        // Of those that are sent again, two are answered as duplicates.
        Answer::Append,
        Answer::Append,
        Answer::AppendAndVanish,
    ]);
    let deliveries = send_all(&producer, &["a", "b", "c", "d", "e"]).await;
    assert_eq!(offsets(deliveries).await, [1, 2, 3, 4, 5]);
    assert_eq!(names(&broker), ["warm", "a", "b", "c", "d", "e"]);
}

#[tokio::test]
async fn requests_that_never_arrived_are_sent_again_under_their_numbers() {
    let broker = FakeBroker::start(1).await;
    let producer = warm_producer(&broker).await;
    broker.script([Answer::Vanish, Answer::Append, Answer::Vanish]);
    let deliveries = send_all(&producer, &["a", "b", "c"]).await;
    assert_eq!(offsets(deliveries).await, [1, 2, 3]);
    assert_eq!(names(&broker), ["warm", "a", "b", "c"]);
    let numbers: Vec<_> = (0..4).map(|number| (1, 0, number)).collect();
    assert_eq!(broker.appended_numbers(), numbers);
}

#[tokio::test]
async fn what_is_behind_a_batch_that_is_refused_for_now_waits_for_it() {
    let broker = FakeBroker::start(1).await;
    let producer = warm_producer(&broker).await;
    broker.script([refuse_for_now(0)]);
    let deliveries = send_all(&producer, &["a", "b", "c"]).await;
    assert_eq!(offsets(deliveries).await, [1, 2, 3]);
    assert_eq!(names(&broker), ["warm", "a", "b", "c"]);
    assert!(broker.producers(|p| p.refusals(Reason::SequenceGap)) > 0);
}

#[tokio::test]
async fn what_is_behind_a_batch_that_is_refused_for_good_goes_on_without_it() {
    let broker = FakeBroker::start(1).await;
    let producer = warm_producer(&broker).await;
    broker.script([refuse_for_good(Reason::BatchTooLarge)]);
    let mut deliveries = send_all(&producer, &["a", "b", "c"]).await;
    let error = deliveries.remove(0).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::BatchTooLarge));
    assert_eq!(offsets(deliveries).await, [1, 2]);
    assert_eq!(names(&broker), ["warm", "b", "c"]);
    let numbers: Vec<_> = (0..3).map(|number| (1, 0, number)).collect();
    assert_eq!(broker.appended_numbers(), numbers);
}

#[tokio::test]
async fn partition_whose_first_batch_is_refused_for_good_begins_with_the_next() {
    let broker = FakeBroker::start(1).await;
    broker.script([refuse_for_good(Reason::BatchTooLarge)]);
    let client = broker.client().await;
    let producer = client.producer_builder().batch_bytes(1024).build();
    let mut deliveries = send_all(&producer, &["a", "b", "c"]).await;
    deliveries.remove(0).await.unwrap_err();
    assert_eq!(offsets(deliveries).await, [0, 1]);
    assert_eq!(broker.appended_numbers(), [(1, 0, 0), (1, 0, 1)]);
}

#[tokio::test]
async fn number_that_may_yet_arrive_is_used_for_nothing_else() {
    let broker = FakeBroker::start(1).await;
    let producer = warm_producer(&broker).await;
    broker.script([Answer::Vanish, refuse_for_good(Reason::BatchTooLarge)]);
    let mut deliveries = send_all(&producer, &["a", "b", "c"]).await;
    deliveries.remove(0).await.unwrap_err();
    assert_eq!(offsets(deliveries).await, [1, 2]);
    assert_eq!(names(&broker), ["warm", "b", "c"]);
    let expected = [(1, 0, 0), (2, 0, 0), (2, 0, 1)];
    assert_eq!(broker.appended_numbers(), expected);
}

/// However busy the machine is.
async fn send_until_acknowledged(producer: &Producer, name: &str) -> RecordPosition {
    loop {
        if let Ok(position) = send(producer, 0, &long(name)).await.await {
            return position;
        }
    }
}

#[tokio::test]
async fn producer_goes_on_behind_a_batch_that_was_given_up_whether_it_was_appended_or_not() {
    for appended in [true, false] {
        let broker = FakeBroker::start(1).await;
        let client = broker.client().await;
        let timeout = Duration::from_millis(100);
        let builder = client.producer_builder().delivery_timeout(timeout);
        let producer = builder.batch_bytes(1024).build();
        send_until_acknowledged(&producer, "warm").await;
        if appended {
            broker.script([Answer::AppendAndVanish]);
        }
        broker.script(std::iter::repeat_n(Answer::Vanish, 100_000));
        let error = send(&producer, 0, &long("given up")).await.await;
        assert!(matches!(error, Err(Error::Timeout { .. })), "{error:?}");
        broker.clear_script();
        let next = send_until_acknowledged(&producer, "next").await;
        producer.close().await.unwrap();
        let names = names(&broker);
        assert_eq!(
            names[usize::try_from(next.offset.unwrap()).unwrap()],
            "next"
        );
        // It may have been on its way when it was given up.
        let given_up = names.iter().filter(|name| *name == "given up").count();
        assert!(given_up <= 1, "{names:?}");
        assert!(
            names.is_sorted_by_key(|name| ["warm", "given up", "next"]
                .iter()
                .position(|n| n == name))
        );
    }
}

#[tokio::test]
async fn partition_that_forgot_the_producer_gets_its_next_records() {
    let broker = FakeBroker::start(1).await;
    let producer = warm_producer(&broker).await;
    broker.producers(Producers::forget_sequences);
    let deliveries = send_all(&producer, &["a", "b", "c"]).await;
    assert_eq!(offsets(deliveries).await, [1, 2, 3]);
    let expected = [(1, 0, 0), (1, 0, 0), (1, 0, 1), (1, 0, 2)];
    assert_eq!(broker.appended_numbers(), expected);
    assert_eq!(broker.producers(|p| p.requests().len()), 1);
}

#[tokio::test]
async fn producer_that_the_broker_forgot_gets_another_id() {
    let broker = FakeBroker::start(1).await;
    let producer = warm_producer(&broker).await;
    broker.producers(Producers::forget_all);
    let deliveries = send_all(&producer, &["a", "b", "c"]).await;
    assert_eq!(offsets(deliveries).await, [1, 2, 3]);
    let expected = [(1, 0, 0), (2, 0, 0), (2, 0, 1), (2, 0, 2)];
    assert_eq!(broker.appended_numbers(), expected);
}

#[tokio::test]
async fn record_that_nobody_remembers_fails_and_those_behind_it_go_on() {
    for appended in [true, false] {
        let broker = FakeBroker::start(1).await;
        let producer = warm_producer(&broker).await;
        broker.script([if appended {
            Answer::AppendAndVanish
        } else {
            Answer::Vanish
        }]);
        broker.allow_answers(2);
        let lost = send(&producer, 0, &long("lost")).await;
        // It is on its way again.
        until_requests(&broker, 3).await;
        let behind = send_all(&producer, &["a", "b"]).await;
        broker.producers(Producers::forget_sequences);
        broker.allow_answers(usize::MAX);
        let error = lost.await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::ProducerExpired));
        offsets(behind).await;
        let lost = if appended { vec!["lost"] } else { Vec::new() };
        let expected = [vec!["warm"], lost, vec!["a", "b"]].concat();
        assert_eq!(names(&broker), expected);
        assert_eq!(broker.appended_numbers().last(), Some(&(2, 0, 1)));
    }
}

#[tokio::test]
async fn batches_of_which_the_broker_forgot_where_they_are_are_delivered_once() {
    let broker = FakeBroker::start(1).await;
    let producer = warm_producer(&broker).await;
    broker.script([Answer::AppendInSilence, Answer::AppendAndVanish]);
    broker.allow_answers(3);
    let deliveries = send_all(&producer, &["a", "b", "c"]).await;
    // The first one is on its way again.
    until_requests(&broker, 4).await;
    broker.producers(Producers::forget_places);
    broker.allow_answers(usize::MAX);
    let mut known = Vec::new();
    for delivery in deliveries {
        let position = delivery.await.unwrap();
        assert_eq!(position.partition, 0);
        known.push(position.offset);
    }
    assert_eq!(known, [None, None, Some(3)]);
    // Nothing is wrong with the producer, and its numbers go on.
    assert_eq!(offsets(send_all(&producer, &["d"]).await).await, [4]);
    producer.flush().await.unwrap();
    assert_eq!(names(&broker), ["warm", "a", "b", "c", "d"]);
}

#[tokio::test]
async fn named_producer_that_begins_ends_its_former_self() {
    let broker = FakeBroker::start(1).await;
    let client = broker.client().await;
    let builder = client.producer_builder().producer_name("lamps");
    let former = warm(builder.clone()).await;
    let latter = warm(builder).await;
    assert_eq!(broker.appended_numbers(), [(1, 0, 0), (1, 1, 0)]);

    let fenced = send_all(&former, &["a", "b", "c"]).await;
    for delivery in fenced {
        let error = delivery.await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::ProducerFenced));
        assert!(!error.is_retryable());
    }
    // For good, and whoever asks is told why.
    for _ in 0..2 {
        let record = RecordRef::of_value(b"v");
        let error = former.send("t", &record).await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::ProducerFenced));
    }
    former.close().await.unwrap();
    send(&latter, 0, "still here").await.await.unwrap();
    assert_eq!(names(&broker), ["warm", "warm", "still here"]);
}

#[tokio::test]
async fn fence_is_told_by_flush_and_to_those_who_wait_for_room() {
    let broker = FakeBroker::start(1).await;
    let client = broker.client().await;
    let builder = client.producer_builder().producer_name("lamps");
    let former = warm(builder.clone().buffer_bytes(4096)).await;
    warm(builder).await;
    drop(send(&former, 0, &long("unheard")).await);
    let waiting = former.send("t", &RecordRef::of_value(&[b'x'; 3000])).await;
    assert_eq!(waiting.unwrap_err().reason(), Some(Reason::ProducerFenced));
    let flushed = former.flush().await.unwrap_err();
    assert_eq!(flushed.reason(), Some(Reason::ProducerFenced));
}

#[tokio::test]
async fn named_producer_that_numbers_anew_gives_way_to_whoever_began_since() {
    for replaced in [false, true] {
        let broker = FakeBroker::start(1).await;
        let client = broker.client().await;
        let builder = client.producer_builder().producer_name("lamps");
        let producer = warm(builder.clone()).await;
        // What leads to new numbers, as above.
        broker.script([Answer::Vanish, refuse_for_good(Reason::BatchTooLarge)]);
        broker.allow_answers(2);
        let mut deliveries = send_all(&producer, &["a", "b"]).await;
        until_requests(&broker, 3).await;
        if replaced {
            // Under the next epoch, before its first record is appended.
            let begin = statecast_proto::v1::InitProducerRequest {
                producer_name: Some("lamps".to_owned()),
                current: None,
            };
            broker.producers(|p| p.begin(&begin).unwrap());
        }
        broker.allow_answers(usize::MAX);
        let refused = deliveries.remove(0).await.unwrap_err();
        assert_eq!(refused.reason(), Some(Reason::BatchTooLarge));
        let behind = deliveries.remove(0).await;
        if replaced {
            let error = behind.unwrap_err();
            assert_eq!(error.reason(), Some(Reason::ProducerFenced));
        } else {
            behind.unwrap();
            assert_eq!(broker.appended_numbers(), [(1, 0, 0), (1, 1, 0)]);
            let current = broker.producers(|p| p.requests()[1].current).unwrap();
            assert_eq!((current.producer_id, current.epoch), (1, 0));
        }
    }
}

#[tokio::test]
async fn named_producer_ends_none_of_its_own_records_when_it_numbers_anew() {
    let broker = FakeBroker::start(2).await;
    let client = broker.client().await;
    let producer = warm(client.producer_builder().producer_name("lamps")).await;
    // What leads to new numbers in partition 0, while partition 1 waits for answers
    // that are lost.
    broker.script([
        Answer::Vanish,
        refuse_for_good(Reason::BatchTooLarge),
        Answer::Append,
        Answer::AppendAndVanish,
    ]);
    let mut deliveries = send_all(&producer, &["a", "b"]).await;
    for name in ["c", "d"] {
        deliveries.push(send(&producer, 1, &long(name)).await);
    }
    deliveries.remove(0).await.unwrap_err();
    assert_eq!(offsets(deliveries).await, [1, 0, 1]);
    let mut names = names(&broker);
    names.sort_unstable();
    assert_eq!(names, ["b", "c", "d", "warm"]);
    send(&producer, 1, "e").await.await.unwrap();
    let numbers = broker.appended_numbers();
    assert_eq!(
        numbers.last(),
        Some(&(1, 1, 0)),
        "all partitions begin anew"
    );
}

#[tokio::test]
async fn identity_is_asked_for_until_it_is_told() {
    let broker = FakeBroker::start(1).await;
    broker.producers(|producers| producers.lose_answers(3));
    warm_producer(&broker).await;
    assert_eq!(broker.appended_numbers(), [(4, 0, 0)]);
}

#[tokio::test]
async fn name_that_the_broker_refuses_fails_whatever_is_sent() {
    let broker = FakeBroker::start(1).await;
    let client = broker.client().await;
    let builder = client.producer_builder().producer_name("no such name");
    let producer = builder.build();
    for _ in 0..2 {
        let error = send(&producer, 0, "v").await.await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::InvalidRequest));
    }
    assert_eq!(broker.requests(), 0);
}

#[tokio::test]
async fn older_broker_gets_records_at_least_once_until_it_is_replaced() {
    let broker = FakeBroker::start(1).await;
    broker.producers(|producers| producers.set_too_old(true));
    let producer = warm_producer(&broker).await;
    broker.script([Answer::AppendAndVanish]);
    send(&producer, 0, "twice").await.await.unwrap();
    assert_eq!(names(&broker), ["warm", "twice", "twice"]);
    // A newer one has its place when the connection is made again.
    broker.script([Answer::Vanish, Answer::AppendAndVanish]);
    broker.producers(|producers| producers.set_too_old(false));
    send(&producer, 0, "once").await.await.unwrap();
    assert_eq!(names(&broker), ["warm", "twice", "twice", "once"]);
}

#[tokio::test]
async fn older_broker_gets_nothing_of_a_producer_with_a_name() {
    let broker = FakeBroker::start(1).await;
    broker.producers(|producers| producers.set_too_old(true));
    let client = broker.client().await;
    let producer = client.producer_builder().producer_name("lamps").build();
    let error = send(&producer, 0, "v").await.await.unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error:?}");
    assert_eq!(broker.requests(), 0);
}

#[tokio::test]
async fn numbers_can_be_done_without() {
    let broker = FakeBroker::start(1).await;
    let client = broker.client().await;
    let producer = client.producer_builder().idempotent(false).build();
    broker.script([Answer::AppendAndVanish]);
    send(&producer, 0, "twice").await.await.unwrap();
    assert_eq!(names(&broker), ["twice", "twice"]);
    assert!(broker.producers(|producers| producers.requests().is_empty()));
}

fn encoded(numbers: std::ops::Range<u32>) -> EncodedBatch {
    let mut builder = BatchBuilder::new(Compression::None);
    for number in numbers {
        let value = number.to_string();
        builder
            .push(&RecordRef::of_value(value.as_bytes()))
            .unwrap();
    }
    builder.finish()
}

#[tokio::test]
async fn encoded_batches_are_numbered_by_their_records() {
    let broker = FakeBroker::start(1).await;
    let producer = broker.client().await.producer();
    broker.script([Answer::AppendAndVanish, Answer::Append, Answer::Vanish]);
    let mut deliveries = Vec::new();
    for range in [0..3, 3..4, 4..9] {
        let batch = encoded(range);
        deliveries.push(producer.send_batch("t", 0, batch).await.unwrap());
    }
    assert_eq!(offsets(deliveries).await, [0, 3, 4]);
    assert_eq!(broker.appended_numbers(), [(1, 0, 0), (1, 0, 3), (1, 0, 4)]);
    assert_eq!(names(&broker).len(), 9);
}

#[tokio::test]
async fn no_more_small_batches_are_on_their_way_than_the_broker_remembers() {
    let broker = FakeBroker::start(1).await;
    let producer = broker.client().await.producer();
    // The answers to all that is on its way at most are lost.
    broker.script(std::iter::repeat_n(Answer::AppendInSilence, 7));
    broker.script([Answer::AppendAndVanish]);
    let mut deliveries = Vec::new();
    for number in 0..200 {
        let batch = encoded(number..number + 1);
        deliveries.push(producer.send_batch("t", 0, batch).await.unwrap());
    }
    let expected: Vec<_> = (0..200).collect();
    assert_eq!(offsets(deliveries).await, expected);
    assert_eq!(names(&broker).len(), 200);
}
