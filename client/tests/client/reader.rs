//! What a reader promises, whatever the broker does.

use std::time::Duration;

use statecast_client::{Error, Reader, Reason, Record, Start};
use statecast_proto::v1;
use statecast_proto::v1::fetch_response::Event;
use tokio_stream::StreamExt;

use super::fake_broker::{FakeBroker, Play, fetched};

fn opened(positions: &[(u32, u64, u64)]) -> Play {
    let position = |&(partition, offset, high_watermark)| v1::PartitionPosition {
        partition,
        offset,
        log_start_offset: 0,
        high_watermark,
    };
    Play::Send(Event::Opened(v1::FetchOpened {
        positions: positions.iter().map(position).collect(),
    }))
}

fn batches(batches: Vec<v1::FetchedBatch>) -> Play {
    Play::Send(Event::Batches(v1::FetchedBatches { batches }))
}

fn caught_up() -> Play {
    Play::Send(Event::CaughtUp(v1::CaughtUp::default()))
}

fn value(record: &Record) -> &str {
    std::str::from_utf8(record.value.as_deref().unwrap()).unwrap()
}

async fn next(reader: &mut Reader) -> Result<(u64, String), Error> {
    let record = reader.next().await.expect("the stream goes on")?;
    Ok((record.offset, value(&record).to_owned()))
}

/// Values of all records up to the end.
async fn all(mut reader: Reader) -> Vec<String> {
    let mut values = Vec::new();
    while let Some(record) = reader.next().await {
        values.push(value(&record.unwrap()).to_owned());
    }
    values
}

#[tokio::test]
async fn records_come_with_their_place_and_time() {
    let broker = FakeBroker::start(1).await;
    broker.play([
        opened(&[(0, 7, 9)]),
        batches(vec![fetched(0, 7, &["a", "b"])]),
    ]);
    let mut reader = broker.client().await.reader("t").open().await.unwrap();
    let record = reader.next().await.unwrap().unwrap();
    assert_eq!(
        (&*record.topic, record.partition, record.offset),
        ("t", 0, 7)
    );
    assert_eq!((record.timestamp_ms, record.key.as_ref()), (1000, None));
    assert_eq!(next(&mut reader).await.unwrap(), (8, "b".to_owned()));
    assert_eq!(reader.positions(), [(0, 9)]);
}

#[tokio::test]
async fn records_before_the_start_are_skipped() {
    let broker = FakeBroker::start(1).await;
    let mut batch = fetched(0, 5, &["5", "6", "7"]);
    batch.skip_records = 2;
    broker.play([opened(&[(0, 7, 8)]), batches(vec![batch])]);
    let reader = broker.client().await.reader("t").start(Start::Offset(7));
    let mut reader = reader.open().await.unwrap();
    assert_eq!(next(&mut reader).await.unwrap(), (7, "7".to_owned()));
}

#[tokio::test]
async fn lost_connection_leaves_no_gap_and_repeats_nothing() {
    let broker = FakeBroker::start(2).await;
    broker.play([
        opened(&[(0, 0, 9), (1, 0, 9)]),
        batches(vec![fetched(0, 0, &["a0", "a1"]), fetched(1, 0, &["b0"])]),
        Play::Vanish,
    ]);
    broker.play([Play::Vanish]);
    broker.play([
        opened(&[(0, 2, 9), (1, 1, 9)]),
        // The broker may serve whole batches, also what was read before.
        batches(vec![fetched(1, 0, &["b0", "b1"]), fetched(0, 2, &["a2"])]),
    ]);
    let mut reader = broker.client().await.reader("t").open().await.unwrap();
    let mut values = Vec::new();
    for _ in 0..5 {
        values.push(next(&mut reader).await.unwrap().1);
    }
    assert_eq!(values, ["a0", "a1", "b0", "b1", "a2"]);
    let requests = broker.fetch_requests();
    let resumed: Vec<_> = requests[2]
        .partitions
        .iter()
        .map(|p| (p.partition, p.start))
        .collect();
    let offset = |offset| {
        Some(v1::Start {
            position: Some(v1::start::Position::Offset(offset)),
        })
    };
    assert_eq!(resumed, [(0, offset(2)), (1, offset(1))]);
}

#[tokio::test]
async fn until_end_ends_where_the_end_was_at_first() {
    let broker = FakeBroker::start(1).await;
    broker.play([
        opened(&[(0, 0, 3)]),
        batches(vec![fetched(0, 0, &["a", "b"])]),
        Play::Vanish,
    ]);
    broker.play([
        opened(&[(0, 2, 5)]),
        batches(vec![fetched(0, 2, &["c", "d", "e"])]),
    ]);
    let reader = broker
        .client()
        .await
        .reader("t")
        .until_end()
        .open()
        .await
        .unwrap();
    assert_eq!(all(reader).await, ["a", "b", "c"]);
}

#[tokio::test]
async fn until_end_of_an_empty_topic_ends_at_once() {
    let broker = FakeBroker::start(1).await;
    broker.play([opened(&[(0, 4, 4)]), caught_up()]);
    let reader = broker
        .client()
        .await
        .reader("t")
        .until_end()
        .open()
        .await
        .unwrap();
    assert!(all(reader).await.is_empty());
}

#[tokio::test]
async fn catching_up_can_be_observed() {
    let broker = FakeBroker::start(1).await;
    broker.play([
        opened(&[(0, 0, 1)]),
        batches(vec![fetched(0, 0, &["a"])]),
        caught_up(),
        batches(vec![fetched(0, 1, &["b"])]),
    ]);
    let mut reader = broker.client().await.reader("t").open().await.unwrap();
    let mut events = Vec::new();
    for _ in 0..3 {
        let event = reader.next_event().await.unwrap().unwrap();
        events.push((
            matches!(event, statecast_client::Event::CaughtUp),
            reader.is_caught_up(),
        ));
    }
    assert_eq!(events, [(false, false), (true, true), (false, false)]);
}

#[tokio::test]
async fn missing_records_are_told_once_and_reading_goes_on() {
    let broker = FakeBroker::start(1).await;
    let quarantined = v1::Quarantined {
        partition: 0,
        from_offset: 1,
        to_offset: 5,
    };
    let truncated = v1::Truncated {
        partition: 0,
        from_offset: 6,
        log_start_offset: 8,
    };
    broker.play([
        opened(&[(0, 0, 9)]),
        batches(vec![fetched(0, 0, &["0"])]),
        Play::Send(Event::Quarantined(quarantined)),
        batches(vec![fetched(0, 5, &["5"])]),
        Play::Send(Event::Truncated(truncated)),
        batches(vec![fetched(0, 8, &["8"])]),
    ]);
    let mut reader = broker.client().await.reader("t").open().await.unwrap();
    assert_eq!(next(&mut reader).await.unwrap().0, 0);
    let error = next(&mut reader).await.unwrap_err();
    assert!(
        matches!(error, Error::Quarantined { from: 1, to: 5, .. }),
        "{error:?}"
    );
    assert_eq!(next(&mut reader).await.unwrap().0, 5);
    let error = next(&mut reader).await.unwrap_err();
    assert!(
        matches!(error, Error::Truncated { from: 6, to: 8, .. }),
        "{error:?}"
    );
    assert_eq!(next(&mut reader).await.unwrap().0, 8);
}

#[tokio::test]
async fn retention_that_overtakes_a_lost_connection_is_told() {
    let broker = FakeBroker::start(1).await;
    broker.play([
        opened(&[(0, 0, 9)]),
        batches(vec![fetched(0, 0, &["0"])]),
        Play::Vanish,
    ]);
    let range = [
        ("partition", "0"),
        ("log_start_offset", "4"),
        ("high_watermark", "9"),
    ];
    let range = range.map(|(key, value)| (key, value.to_owned())).to_vec();
    broker.play([Play::Refuse(Reason::OffsetOutOfRange, range)]);
    broker.play([opened(&[(0, 4, 9)]), batches(vec![fetched(0, 4, &["4"])])]);
    let mut reader = broker.client().await.reader("t").open().await.unwrap();
    assert_eq!(next(&mut reader).await.unwrap().0, 0);
    let error = next(&mut reader).await.unwrap_err();
    assert!(
        matches!(error, Error::Truncated { from: 1, to: 4, .. }),
        "{error:?}"
    );
    assert_eq!(next(&mut reader).await.unwrap().0, 4);
    let asked = &broker.fetch_requests()[2].partitions[0];
    let asked = asked.start.unwrap().position;
    assert_eq!(asked, Some(v1::start::Position::Offset(4)));
}

#[tokio::test]
async fn stream_that_opens_and_fails_each_time_is_given_up() {
    let broker = FakeBroker::start(1).await;
    let whole = [opened(&[(0, 0, 9)]), batches(vec![fetched(0, 0, &["0"])])];
    broker.play(whole.into_iter().chain([Play::Vanish]));
    for _ in 0..1000 {
        broker.play([opened(&[(0, 1, 9)]), Play::Vanish]);
    }
    let reader = broker.client().await.reader("t");
    let reader = reader.reconnect_for(Duration::from_millis(50));
    let mut reader = reader.open().await.unwrap();
    assert_eq!(next(&mut reader).await.unwrap().0, 0);
    let error = next(&mut reader).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert!(reader.next_batch().await.is_none());
}

#[tokio::test]
async fn partitions_that_are_added_are_read() {
    let broker = FakeBroker::start(1).await;
    broker.play([
        opened(&[(0, 0, 9)]),
        batches(vec![fetched(0, 0, &["0"])]),
        opened(&[(1, 0, 0)]),
        batches(vec![fetched(1, 0, &["new"])]),
        Play::Vanish,
    ]);
    broker.play([opened(&[(0, 1, 9), (1, 1, 9), (2, 0, 1)])]);
    let reader = broker.client().await.reader("t").start(Start::Latest);
    let mut reader = reader.open().await.unwrap();
    assert_eq!(next(&mut reader).await.unwrap().1, "0");
    assert_eq!(next(&mut reader).await.unwrap().1, "new");
    // The next one opens a new connection, and waits on it.
    let waited = tokio::select! {
        biased;
        () = async {
            while broker.fetch_requests().len() < 2 {
                tokio::task::yield_now().await;
            }
        } => None,
        item = reader.next_batch() => Some(item),
    };
    assert!(waited.is_none(), "{waited:?}");
    let resumed = &broker.fetch_requests()[1];
    assert!(resumed.and_others);
    let start = resumed.start.unwrap().position.unwrap();
    assert!(matches!(start, v1::start::Position::Earliest(_)));
}

#[tokio::test]
async fn batch_with_a_wrong_checksum_is_told_and_left_out() {
    let broker = FakeBroker::start(1).await;
    let mut damaged = fetched(0, 0, &["damaged"]);
    damaged.checksum ^= 1;
    broker.play([
        opened(&[(0, 0, 9)]),
        batches(vec![damaged, fetched(0, 1, &["whole"])]),
    ]);
    let mut reader = broker.client().await.reader("t").open().await.unwrap();
    let error = next(&mut reader).await.unwrap_err();
    assert!(
        matches!(error, Error::DamagedBatch { offset: 0, .. }),
        "{error:?}"
    );
    assert_eq!(next(&mut reader).await.unwrap(), (1, "whole".to_owned()));
}

#[tokio::test]
async fn open_fails_with_what_the_broker_says() {
    let broker = FakeBroker::start(1).await;
    let range = vec![("high_watermark", "9".to_owned())];
    broker.play([Play::Refuse(Reason::OffsetOutOfRange, range)]);
    let reader = broker.client().await.reader("t").start(Start::Offset(10));
    let error = reader.open().await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::OffsetOutOfRange));
    assert_eq!(error.refusal().unwrap().metadata["high_watermark"], "9");
}

#[tokio::test]
async fn reader_gives_up_when_told_to() {
    let broker = FakeBroker::start(1).await;
    broker.play([opened(&[(0, 0, 9)]), Play::Vanish]);
    let reader = broker
        .client()
        .await
        .reader("t")
        .reconnect_for(Duration::ZERO);
    let mut reader = reader.open().await.unwrap();
    let error = next(&mut reader).await.unwrap_err();
    assert!(matches!(error, Error::Connection(_)), "{error:?}");
    assert!(reader.next().await.is_none());
}
