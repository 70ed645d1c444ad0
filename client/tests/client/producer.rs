//! What a producer promises, whatever the broker does.

use std::collections::HashSet;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use statecast_client::{
    BatchBuilder, Compression, Delivery, EncodedBatch, Error, Producer, Reason, RecordRef,
};

use super::fake_broker::{Answer, FakeBroker};

pub(crate) async fn send(producer: &Producer, partition: u32, value: &str) -> Delivery {
    let record = RecordRef::of_value(value.as_bytes());
    producer.send_to("t", partition, &record).await.unwrap()
}

pub(crate) async fn is_pending<F: Future>(mut future: Pin<&mut F>) -> bool {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await
}

pub(crate) fn refuse_for_now(partition: u32) -> Answer {
    Answer::Refuse {
        partition,
        reason: Reason::DiskFull,
        retry_after_ms: Some(1),
    }
}

/// What was appended to partition 0.
fn values(broker: &FakeBroker) -> Vec<String> {
    let appended = broker.appended().into_iter();
    appended.map(|(_, value)| value).collect()
}

#[tokio::test]
async fn deliveries_tell_partition_and_offset() {
    let broker = FakeBroker::start(2).await;
    let producer = broker.client().await.producer();
    let mut deliveries = Vec::new();
    for number in 0..100_u32 {
        deliveries.push(send(&producer, number % 2, &number.to_string()).await);
    }
    for (number, delivery) in (0_u32..).zip(deliveries) {
        let position = delivery.await.unwrap();
        assert_eq!(position.partition, number % 2);
        assert_eq!(position.offset, Some(u64::from(number / 2)));
    }
}

#[tokio::test]
async fn records_gather_into_few_batches_while_answers_are_late() {
    let broker = FakeBroker::start(1).await;
    broker.allow_answers(0);
    let producer = broker.client().await.producer();
    for number in 0..1000 {
        drop(send(&producer, 0, &number.to_string()).await);
    }
    broker.allow_answers(usize::MAX);
    producer.flush().await.unwrap();
    let sent: Vec<_> = (0..1000).map(|number: u32| number.to_string()).collect();
    assert_eq!(values(&broker), sent);
    assert!(
        broker.appended_batches() <= 6,
        "{}",
        broker.appended_batches()
    );
}

#[tokio::test]
async fn order_survives_lost_connections_and_nothing_is_there_twice() {
    send_over_lost_connections(true).await;
}

#[tokio::test]
async fn first_appearances_are_in_order_without_numbers_too() {
    send_over_lost_connections(false).await;
}

async fn send_over_lost_connections(idempotent: bool) {
    let broker = FakeBroker::start(1).await;
    broker.script([
        Answer::Append,
        Answer::AppendAndVanish,
        Answer::Vanish,
        Answer::Append,
        Answer::Vanish,
        Answer::AppendAndVanish,
    ]);
    let client = broker.client().await;
    let builder = client.producer_builder().idempotent(idempotent);
    let producer = builder.batch_bytes(1024).build();
    let mut deliveries = Vec::new();
    for number in 0..500 {
        deliveries.push(send(&producer, 0, &number.to_string()).await);
    }
    for delivery in deliveries {
        delivery.await.unwrap();
    }
    let sent: Vec<_> = (0..500).map(|number: u32| number.to_string()).collect();
    let mut values = values(&broker);
    if !idempotent {
        let mut seen = HashSet::new();
        values.retain(|value| seen.insert(value.clone()));
    }
    assert_eq!(values, sent);
}

#[tokio::test]
async fn batch_refused_for_now_is_sent_again() {
    let broker = FakeBroker::start(2).await;
    let refuse = Answer::Refuse {
        partition: 0,
        reason: Reason::DiskFull,
        // Longer than any test, but no longer than the client's patience.
        retry_after_ms: Some(u32::MAX),
    };
    broker.script([refuse.clone(), refuse]);
    let producer = broker.client().await.producer();
    let first = send(&producer, 0, "a").await;
    first.await.unwrap();
    assert_eq!(broker.appended(), [(0, "a".to_owned())]);
}

#[tokio::test]
async fn batch_that_was_overtaken_fails_rather_than_change_the_order() {
    let broker = FakeBroker::start(1).await;
    broker.allow_answers(0);
    broker.script([Answer::Refuse {
        partition: 0,
        reason: Reason::DiskFull,
        retry_after_ms: Some(1),
    }]);
    let client = broker.client().await;
    let builder = client.producer_builder().idempotent(false);
    let producer = builder.batch_bytes(1024).build();
    let big = "x".repeat(2000);
    let refused = send(&producer, 0, &big).await;
    let appended = send(&producer, 0, "after").await;
    // Both are on their way before the first is refused.
    broker.allow_answers(usize::MAX);
    appended.await.unwrap();
    let error = refused.await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::DiskFull));
    assert_eq!(broker.appended(), [(0, "after".to_owned())]);
    // The producer goes on.
    send(&producer, 0, "next").await.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_records_are_there_however_refusals_meet_encoding() {
    let broker = FakeBroker::start(2).await;
    let client = broker.client().await;
    let producer = client
        .producer_builder()
        .compression(Compression::Zstd)
        .build();
    // Takes so long to compress that the refusal of the request before is often
    // read meanwhile.
    let numbers = (0..20_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_string());
    let long: String = numbers.collect();
    let mut expected = Vec::new();
    for round in 0..50 {
        broker.script([refuse_for_now(0)]);
        let first = send(&producer, 0, &round.to_string()).await;
        for _ in 0..round % 10 {
            tokio::task::yield_now().await;
        }
        let second = send(&producer, 1, &format!("{round} {long}")).await;
        for delivery in [first, second] {
            let position = delivery.await.unwrap();
            expected.push((position, round.to_string()));
        }
    }
    let mut appended = [Vec::new(), Vec::new()];
    for (partition, value) in broker.appended() {
        let start = value.split(' ').next().unwrap().to_owned();
        appended[partition as usize].push(start);
    }
    for (position, value) in expected {
        let offset = usize::try_from(position.offset.unwrap()).unwrap();
        assert_eq!(appended[position.partition as usize][offset], value);
    }
}

/// A broker's answers at random, most of them good.
fn whims(mut random: u64) -> impl Iterator<Item = Answer> {
    std::iter::repeat_with(move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let partition = u32::try_from(random >> 32).unwrap() % 3;
        match random % 16 {
            0 => Answer::Vanish,
            1 => Answer::AppendAndVanish,
            2 => Answer::End(Reason::Internal),
            3..6 => refuse_for_now(partition),
            6 => Answer::Refuse {
                partition,
                reason: Reason::BatchMalformed,
                retry_after_ms: None,
            },
            _ => Answer::Append,
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_broker_does_all_is_settled_and_what_it_acknowledged_is_there() {
    for seed in 1..20 {
        let broker = FakeBroker::start(3).await;
        broker.script(whims(seed * 0x9E37_79B9).take(200));
        let client = broker.client().await;
        let producer = client.producer_builder().batch_bytes(1024).build();
        let mut deliveries = Vec::new();
        for number in 0..1500_u32 {
            let delivery = send(&producer, number % 3, &number.to_string()).await;
            deliveries.push((number.to_string(), delivery));
            if number % 50 == 0 {
                tokio::task::yield_now().await;
            }
        }
        let _ = producer.close().await;
        let mut appended = [const { Vec::new() }; 3];
        for (partition, value) in broker.appended() {
            appended[partition as usize].push(value);
        }
        for (value, delivery) in deliveries {
            if let Ok(position) = delivery.now().expect("close waits for all") {
                let offset = usize::try_from(position.offset.unwrap()).unwrap();
                assert_eq!(appended[position.partition as usize][offset], value);
            }
        }
        // Whatever else may be there, it is there once and in order.
        for values in appended {
            let numbers = values.iter().map(|value| value.parse::<u32>().unwrap());
            assert!(numbers.is_sorted_by(|a, b| a < b), "{values:?}");
        }
    }
}

#[tokio::test]
async fn refused_batch_fails_alone() {
    let broker = FakeBroker::start(2).await;
    broker.script([Answer::Refuse {
        partition: 1,
        reason: Reason::BatchTooLarge,
        retry_after_ms: None,
    }]);
    let producer = broker.client().await.producer();
    let (kept, refused) = (
        send(&producer, 0, "kept").await,
        send(&producer, 1, "refused").await,
    );
    assert_eq!(
        producer.flush().await.unwrap_err().reason(),
        Some(Reason::BatchTooLarge)
    );
    assert_eq!(kept.await.unwrap().offset, Some(0));
    assert_eq!(
        refused.await.unwrap_err().reason(),
        Some(Reason::BatchTooLarge)
    );
}

#[tokio::test]
async fn send_waits_while_the_buffer_is_full() {
    let broker = FakeBroker::start(1).await;
    broker.allow_answers(0);
    let client = broker.client().await;
    let producer = client.producer_builder().buffer_bytes(4096).build();
    let value = [b'x'; 1500];
    let record = RecordRef::of_value(&value);
    let first = producer.send("t", &record).await.unwrap();
    drop(producer.send("t", &record).await.unwrap());
    let mut third = std::pin::pin!(producer.send("t", &record));
    assert!(is_pending(third.as_mut()).await);
    broker.allow_answers(usize::MAX);
    first.await.unwrap();
    third.await.unwrap().await.unwrap();
}

#[tokio::test]
async fn cancelled_send_leaves_its_room_to_others() {
    let broker = FakeBroker::start(1).await;
    broker.allow_answers(0);
    let client = broker.client().await;
    let producer = client.producer_builder().buffer_bytes(4096).build();
    let value = [b'x'; 3000];
    let record = RecordRef::of_value(&value);
    drop(producer.send("t", &record).await.unwrap());
    {
        let mut waiting = std::pin::pin!(producer.send("t", &record));
        assert!(is_pending(waiting.as_mut()).await);
    }
    broker.allow_answers(usize::MAX);
    producer.send("t", &record).await.unwrap().await.unwrap();
    assert_eq!(broker.appended_batches(), 2);
}

#[tokio::test]
async fn flush_waits_for_everything_before_it() {
    let broker = FakeBroker::start(3).await;
    broker.allow_answers(0);
    let client = broker.client().await;
    let producer = client
        .producer_builder()
        .linger(Duration::from_secs(3600))
        .build();
    let deliveries = [send(&producer, 0, "a").await, send(&producer, 2, "b").await];
    let mut flush = std::pin::pin!(producer.flush());
    assert!(is_pending(flush.as_mut()).await);
    broker.allow_answers(usize::MAX);
    flush.await.unwrap();
    assert!(
        deliveries
            .iter()
            .all(|delivery| matches!(delivery.now(), Some(Ok(_))))
    );
}

#[tokio::test]
async fn close_delivers_and_refuses_what_comes_later() {
    let broker = FakeBroker::start(1).await;
    let producer = broker.client().await.producer();
    let delivery = send(&producer, 0, "last").await;
    producer.close().await.unwrap();
    assert!(delivery.now().is_some());
    let late = producer.send("t", &RecordRef::of_value(b"late")).await;
    assert!(matches!(late, Err(Error::Closed)));
}

#[tokio::test]
async fn dropped_producer_delivers_what_was_sent() {
    let broker = FakeBroker::start(1).await;
    let producer = broker.client().await.producer();
    let delivery = send(&producer, 0, "parting").await;
    drop(producer);
    delivery.await.unwrap();
}

#[tokio::test]
async fn delivery_fails_when_the_broker_stays_away() {
    let broker = FakeBroker::start(1).await;
    let client = broker.client().await;
    let timeout = Duration::from_millis(200);
    let producer = client.producer_builder().delivery_timeout(timeout).build();
    broker.script(std::iter::repeat_n(Answer::Vanish, 1000));
    let delivery = send(&producer, 0, "in vain").await;
    let error = delivery.await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
    assert!(error.to_string().contains("vanish"), "{error}");
}

#[tokio::test]
async fn unknown_topics_and_partitions_are_refused_before_anything_is_sent() {
    let broker = FakeBroker::start(2).await;
    let producer = broker.client().await.producer();
    let record = RecordRef::of_value(b"v");
    let missing = producer.send("missing", &record).await.unwrap_err();
    assert_eq!(missing.reason(), Some(Reason::TopicNotFound));
    assert_eq!(missing.refusal().unwrap().metadata["topic"], "missing");
    let beyond = producer.send_to("t", 2, &record).await.unwrap_err();
    assert_eq!(beyond.reason(), Some(Reason::PartitionNotFound));
    assert_eq!(broker.appended_batches(), 0);
}

#[tokio::test]
async fn limit_that_became_lower_is_learnt_from_the_refusal() {
    let broker = FakeBroker::start(1).await;
    let producer = broker.client().await.producer();
    broker.limit_batches(4096);
    send(&producer, 0, "learns the topic").await.await.unwrap();
    broker.limit_batches(1024);
    broker.script([Answer::Refuse {
        partition: 0,
        reason: Reason::BatchTooLarge,
        retry_after_ms: None,
    }]);
    send(&producer, 0, "too large").await.await.unwrap_err();
    broker.allow_answers(2);
    for _ in 0..20 {
        drop(send(&producer, 0, &"x".repeat(300)).await);
    }
    broker.allow_answers(usize::MAX);
    producer.close().await.unwrap();
    let sizes = broker.appended_sizes();
    assert!(sizes.iter().all(|size| *size <= 1024), "{sizes:?}");
    assert!(sizes.iter().any(|size| *size > 600), "{sizes:?}");
}

#[tokio::test]
async fn absurd_number_of_partitions_is_not_believed() {
    let broker = FakeBroker::start(1).await;
    let producer = broker.client().await.producer();
    let record = RecordRef::of_value(b"v");
    let error = producer.send("absurd", &record).await.unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error:?}");
}

#[tokio::test]
async fn records_without_a_key_share_a_partition_until_their_batch_is_sent() {
    let broker = FakeBroker::start(4).await;
    let producer = broker.client().await.producer();
    let mut used = Vec::new();
    for _ in 0..8 {
        let record = RecordRef::of_value(b"v");
        let delivery = producer.send("t", &record).await.unwrap();
        used.push(delivery.await.unwrap().partition);
    }
    // Each was a batch of its own, so they go round.
    let mut sorted = used[..4].to_vec();
    sorted.sort_unstable();
    assert_eq!(sorted, [0, 1, 2, 3]);
    assert_eq!(used[..4], used[4..]);
}

#[tokio::test]
async fn keyed_records_go_where_their_key_says() {
    let broker = FakeBroker::start(16).await;
    let producer = broker.client().await.producer();
    for key in ["a", "b", "account-17"] {
        let record = RecordRef::new(key.as_bytes(), b"v");
        let position = producer.send("t", &record).await.unwrap().await.unwrap();
        let expected = statecast_client::partition_for_key(key.as_bytes(), 16);
        assert_eq!(position.partition, expected);
    }
}

#[tokio::test]
async fn delivery_is_pending_until_the_answer() {
    let broker = FakeBroker::start(1).await;
    broker.allow_answers(0);
    let producer = broker.client().await.producer();
    let mut delivery = send(&producer, 0, "v").await;
    assert!(is_pending(Pin::new(&mut delivery)).await);
    assert!(delivery.now().is_none());
    broker.allow_answers(usize::MAX);
    assert_eq!(delivery.await.unwrap().offset, Some(0));
}

#[tokio::test]
async fn close_waits_for_what_was_refused_for_now() {
    let broker = FakeBroker::start(1).await;
    broker.script(std::iter::repeat_n(refuse_for_now(0), 20));
    let producer = broker.client().await.producer();
    let delivery = send(&producer, 0, "a").await;
    while broker.requests() < 2 {
        tokio::task::yield_now().await;
    }
    producer.close().await.unwrap();
    delivery.now().unwrap().unwrap();
    assert_eq!(broker.appended(), [(0, "a".to_owned())]);
}

#[tokio::test]
async fn flush_and_close_tell_of_failures_before_them_once() {
    let broker = FakeBroker::start(1).await;
    let refuse = Answer::Refuse {
        partition: 0,
        reason: Reason::RecordTooLarge,
        retry_after_ms: None,
    };
    let producer = broker.client().await.producer();
    broker.script([refuse.clone()]);
    drop(send(&producer, 0, "nobody asks").await);
    // A batch of its own, which fails before the next is acknowledged.
    while broker.requests() < 1 {
        tokio::task::yield_now().await;
    }
    send(&producer, 0, "kept").await.await.unwrap();
    let error = producer.flush().await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::RecordTooLarge));
    broker.script([refuse]);
    send(&producer, 0, "told").await.await.unwrap_err();
    producer.close().await.unwrap();
}

#[tokio::test]
async fn what_ends_the_stream_fails_only_the_request_that_it_is_about() {
    let broker = FakeBroker::start(1).await;
    broker.allow_answers(0);
    broker.script([Answer::Append, Answer::End(Reason::TooManyBatches)]);
    let client = broker.client().await;
    let producer = client.producer_builder().batch_bytes(1024).build();
    let mut deliveries = Vec::new();
    for name in ["a", "b", "c", "d"] {
        deliveries.push(send(&producer, 0, &name.repeat(2000)).await);
    }
    broker.allow_answers(usize::MAX);
    let mut reasons = Vec::new();
    for delivery in deliveries {
        reasons.push(delivery.await.err().and_then(|error| error.reason()));
    }
    assert_eq!(reasons, [None, Some(Reason::TooManyBatches), None, None]);
    assert_eq!(values(&broker).len(), 3);
}

#[tokio::test]
async fn batch_that_no_request_can_hold_is_not_sent() {
    let broker = FakeBroker::start(1).await;
    let producer = broker.client().await.producer();
    let payload = vec![0; (8 << 20) + 1];
    let batch = EncodedBatch {
        checksum: statecast_proto::checksum(&payload),
        payload: payload.into(),
        record_count: 1,
    };
    let error = producer.send_batch("t", 0, batch).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::BatchTooLarge));
    let metadata = &error.refusal().unwrap().metadata;
    assert_eq!(
        (&*metadata["size"], &*metadata["limit"]),
        ("8388609", "8388608")
    );
    assert_eq!(broker.requests(), 0);
}

#[tokio::test]
async fn batch_with_a_wrong_checksum_is_not_sent() {
    let broker = FakeBroker::start(1).await;
    let producer = broker.client().await.producer();
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(&RecordRef::of_value(b"v")).unwrap();
    let mut batch = builder.finish();
    batch.checksum ^= 1;
    let error = producer.send_batch("t", 0, batch).await.unwrap_err();
    assert!(matches!(error, Error::InvalidInput(_)), "{error:?}");
}

#[tokio::test]
async fn batch_with_a_wrong_count_of_records_is_not_sent() {
    let broker = FakeBroker::start(1).await;
    let producer = broker.client().await.producer();
    for compression in [Compression::None, Compression::Lz4] {
        let mut builder = BatchBuilder::new(compression);
        builder.push(&RecordRef::of_value(b"v")).unwrap();
        let mut batch = builder.finish();
        batch.record_count = 2;
        let error = producer.send_batch("t", 0, batch).await.unwrap_err();
        assert!(matches!(error, Error::InvalidInput(_)), "{error:?}");
    }
    assert_eq!(broker.requests(), 0);
}

#[tokio::test]
async fn batch_that_arrives_damaged_each_time_fails_soon() {
    let broker = FakeBroker::start(1).await;
    let damaged = Answer::Refuse {
        partition: 0,
        reason: Reason::ChecksumMismatch,
        retry_after_ms: Some(1),
    };
    broker.script(std::iter::repeat_n(damaged, 3));
    let producer = broker.client().await.producer();
    let error = send(&producer, 0, "v").await.await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::ChecksumMismatch));
    assert_eq!(broker.requests(), 3);
    send(&producer, 0, "next").await.await.unwrap();
}

#[tokio::test]
async fn records_without_a_key_spread_while_answers_are_late() {
    let broker = FakeBroker::start(4).await;
    broker.allow_answers(0);
    let client = broker.client().await;
    let producer = client.producer_builder().batch_bytes(1024).build();
    let value = [b'x'; 400];
    let mut deliveries = Vec::new();
    for _ in 0..200 {
        let record = RecordRef::of_value(&value);
        deliveries.push(producer.send("t", &record).await.unwrap());
    }
    broker.allow_answers(usize::MAX);
    let mut counts = [0; 4];
    for delivery in deliveries {
        counts[delivery.await.unwrap().partition as usize] += 1;
    }
    assert!(counts.iter().all(|count| *count > 40), "{counts:?}");
}

#[tokio::test]
async fn for_ever_is_a_timeout_too() {
    let broker = FakeBroker::start(1).await;
    broker.script([refuse_for_now(0), Answer::Vanish]);
    let client = statecast_client::Client::builder(broker.url())
        .retry_for(Duration::MAX)
        .request_timeout(Duration::MAX)
        .connect()
        .await
        .unwrap();
    let producer = client
        .producer_builder()
        .delivery_timeout(Duration::MAX)
        .linger(Duration::MAX)
        .build();
    let delivery = send(&producer, 0, "a").await;
    producer.close().await.unwrap();
    delivery.await.unwrap();
}

#[tokio::test]
async fn what_waits_behind_a_silent_broker_fails_in_time_too() {
    let broker = FakeBroker::start(1).await;
    broker.allow_answers(0);
    let client = broker.client().await;
    let producer = client
        .producer_builder()
        .max_in_flight(1)
        .delivery_timeout(Duration::from_millis(100))
        .build();
    let sent = send(&producer, 0, "sent").await;
    let waiting = send(&producer, 0, "waiting").await;
    for delivery in [sent, waiting] {
        let error = delivery.await.unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
    }
}

#[test]
fn deliveries_end_with_the_runtime_of_their_producer() {
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let producers = runtime();
    let (producer, delivery) = producers.block_on(async {
        let broker = FakeBroker::start(1).await;
        broker.allow_answers(0);
        let producer = broker.client().await.producer();
        let delivery = send(&producer, 0, "v").await;
        (producer, delivery)
    });
    drop(producers);
    runtime().block_on(async {
        let error = producer.close().await.unwrap_err();
        assert!(matches!(error, Error::Connection(_)), "{error:?}");
        delivery.await.unwrap_err();
        let late = producer.send("t", &RecordRef::of_value(b"late")).await;
        assert!(matches!(late, Err(Error::Closed)));
    });
}
