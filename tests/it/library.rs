//! The client library against a broker that crashes and comes back.

use std::time::Duration;

use statecast_client::{
    Backoff, Client, Compression, Error, GroupEvent, HeaderRef, Producer, Reason, Record,
    RecordRef, Start, TopicConfig,
};
use tempfile::TempDir;
use tokio_stream::StreamExt;

use crate::support::Binary;

/// A broker that can crash and come back at its address.
pub(crate) struct Phoenix {
    data: TempDir,
    broker: Binary,
}

impl Phoenix {
    pub(crate) fn start() -> Phoenix {
        let data = tempfile::tempdir().unwrap();
        let broker = Binary::serve(data.path());
        Phoenix { data, broker }
    }

    pub(crate) fn crash_and_return(self) -> Phoenix {
        let endpoint = self.broker.endpoint();
        let address = endpoint.strip_prefix("http://").unwrap();
        self.broker.kill();
        Phoenix {
            broker: Binary::serve_at(self.data.path(), address),
            data: self.data,
        }
    }

    /// As after `systemctl restart`.
    fn stop_and_return(self) -> Phoenix {
        let endpoint = self.broker.endpoint();
        let address = endpoint.strip_prefix("http://").unwrap();
        self.broker.terminate();
        let output = self.broker.wait();
        assert!(output.status.success(), "{output:?}");
        Phoenix {
            broker: Binary::serve_at(self.data.path(), address),
            data: self.data,
        }
    }

    pub(crate) async fn client(&self) -> Client {
        let backoff = Backoff {
            first: Duration::from_millis(5),
            max: Duration::from_millis(20),
        };
        Client::builder(self.broker.endpoint())
            .backoff(backoff)
            .connect()
            .await
            .unwrap()
    }
}

pub(crate) async fn create(client: &Client, topic: &str, partitions: u32) {
    let config = TopicConfig::new();
    client
        .admin()
        .create_topic(topic, Some(partitions), config)
        .await
        .unwrap();
}

async fn send(producer: &Producer, topic: &str, value: &str) -> statecast_client::Delivery {
    producer
        .send(topic, &RecordRef::of_value(value.as_bytes()))
        .await
        .unwrap()
}

pub(crate) async fn read_all(client: &Client, topic: &str) -> Vec<Record> {
    let reader = client.reader(topic).until_end().open().await.unwrap();
    reader.map(Result::unwrap).collect().await
}

pub(crate) fn text(record: &Record) -> &str {
    std::str::from_utf8(record.value.as_deref().unwrap()).unwrap()
}

#[tokio::test]
async fn producer_and_reader_live_through_crashes_of_the_broker() {
    let mut phoenix = Phoenix::start();
    let client = phoenix.client().await;
    create(&client, "t", 1).await;
    let producer = client.producer();
    let mut reader = client.reader("t").open().await.unwrap();
    let mut read = Vec::new();
    let mut sent = 0;
    for _ in 0..3 {
        let mut deliveries = Vec::new();
        for _ in 0..2000 {
            deliveries.push(send(&producer, "t", &sent.to_string()).await);
            sent += 1;
        }
        // Some are acknowledged, the rest is caught by the crash.
        deliveries.remove(0).await.unwrap();
        phoenix = phoenix.crash_and_return();
        for delivery in deliveries {
            delivery.await.unwrap();
        }
        let last = (sent - 1).to_string();
        while read.last() != Some(&last) {
            let record = reader.next().await.unwrap().unwrap();
            read.push(text(&record).to_owned());
        }
    }
    // What was caught by a crash was sent again, and is there once.
    let expected: Vec<_> = (0..sent).map(|number: u32| number.to_string()).collect();
    assert_eq!(read, expected);
    // The reader saw each offset once: what a new reader sees.
    let anew: Vec<_> = read_all(&client, "t")
        .await
        .iter()
        .map(|r| text(r).to_owned())
        .collect();
    assert_eq!(read[..], anew[..read.len()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orderly_restart_of_the_broker_loses_and_repeats_nothing() {
    let phoenix = Phoenix::start();
    let client = phoenix.client().await;
    create(&client, "t", 1).await;
    let producer = client.producer_builder().batch_bytes(2048).build();
    let mut reader = client.reader("t").open().await.unwrap();
    let sending = tokio::spawn(async move {
        let mut deliveries = Vec::new();
        for number in 0..20_000 {
            deliveries.push(send(&producer, "t", &number.to_string()).await);
        }
        for delivery in deliveries {
            delivery.await.unwrap();
        }
    });
    let mut read = Vec::new();
    read.push(reader.next().await.unwrap().unwrap());
    // In the middle of it all.
    let _phoenix = tokio::task::spawn_blocking(|| phoenix.stop_and_return())
        .await
        .unwrap();
    while read.len() < 20_000 {
        read.push(reader.next().await.unwrap().unwrap());
    }
    sending.await.unwrap();
    let values: Vec<_> = read.iter().map(text).collect();
    let expected: Vec<_> = (0..20_000).map(|number: u32| number.to_string()).collect();
    assert_eq!(values, expected);
}

#[tokio::test]
async fn hung_broker_is_waited_for_no_longer_than_asked() {
    let phoenix = Phoenix::start();
    let client = phoenix.client().await;
    create(&client, "t", 1).await;
    let timeout = Duration::from_secs(2);
    let producer = client.producer_builder().delivery_timeout(timeout).build();
    send(&producer, "t", "before").await.await.unwrap();
    phoenix.broker.pause();
    let error = send(&producer, "t", "into the void")
        .await
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
    phoenix.broker.resume();
    let patient = client.producer();
    send(&patient, "t", "after").await.await.unwrap();
}

#[tokio::test]
async fn every_part_of_a_record_comes_back_with_each_compression() {
    let phoenix = Phoenix::start();
    let client = phoenix.client().await;
    for (topic, compression) in [
        ("none", Compression::None),
        ("lz4", Compression::Lz4),
        ("zstd", Compression::Zstd),
    ] {
        create(&client, topic, 1).await;
        let producer = client.producer_builder().compression(compression).build();
        let headers = [
            HeaderRef {
                name: "trace",
                value: Some(b"\xff\x00"),
            },
            HeaderRef {
                name: "empty",
                value: None,
            },
        ];
        let record = RecordRef {
            headers: &headers,
            timestamp_ms: Some(1234),
            ..RecordRef::new(b"key", b"value")
        };
        let deliveries = [
            producer.send(topic, &record).await.unwrap(),
            producer
                .send(topic, &RecordRef::tombstone(b"key"))
                .await
                .unwrap(),
            producer
                .send(topic, &RecordRef::of_value(b""))
                .await
                .unwrap(),
        ];
        for (offset, delivery) in (0..).zip(deliveries) {
            assert_eq!(delivery.await.unwrap().offset, Some(offset));
        }
        let records = read_all(&client, topic).await;
        let [full, tombstone, empty] = &records[..] else {
            panic!("three records, not {records:?}");
        };
        assert_eq!(full.key.as_deref(), Some(&b"key"[..]));
        assert_eq!((text(full), full.timestamp_ms), ("value", 1234));
        assert_eq!(full.headers.len(), 2);
        assert_eq!(full.headers[0].name, "trace");
        assert_eq!(full.headers[0].value.as_deref(), Some(&b"\xff\x00"[..]));
        assert_eq!(
            (&*full.headers[1].name, &full.headers[1].value),
            ("empty", &None)
        );
        assert_eq!(
            (tombstone.key.as_deref(), &tombstone.value),
            (Some(&b"key"[..]), &None)
        );
        assert!(tombstone.timestamp_ms > 1234, "the broker's time");
        assert_eq!(
            (&empty.key, empty.value.as_deref()),
            (&None, Some(&b""[..]))
        );
    }
}

#[tokio::test]
async fn reading_starts_at_offsets_times_and_ends() {
    let phoenix = Phoenix::start();
    let client = phoenix.client().await;
    create(&client, "t", 2).await;
    let producer = client.producer();
    for number in 0..10_i64 {
        let value = number.to_string();
        let record = RecordRef {
            timestamp_ms: Some(1000 + number),
            ..RecordRef::of_value(value.as_bytes())
        };
        drop(producer.send_to("t", 1, &record).await.unwrap());
        // One batch for each, so that times differ between batches.
        producer.flush().await.unwrap();
    }
    let first = |start| {
        let reader = client.reader("t").partition_from(1, start).until_end();
        async {
            let mut reader = reader.open().await.unwrap();
            reader
                .next()
                .await
                .map(|record| text(&record.unwrap()).to_owned())
        }
    };
    assert_eq!(first(Start::Earliest).await.as_deref(), Some("0"));
    assert_eq!(first(Start::Offset(4)).await.as_deref(), Some("4"));
    assert_eq!(first(Start::Time(1007)).await.as_deref(), Some("7"));
    assert_eq!(first(Start::Time(99_999)).await, None);
    assert_eq!(first(Start::Latest).await, None);
    let offsets = client.admin().list_offsets("t", Some(1003)).await.unwrap();
    assert_eq!(
        (offsets[0].high_watermark, offsets[0].offset_at_time),
        (0, None)
    );
    assert_eq!(
        (offsets[1].high_watermark, offsets[1].offset_at_time),
        (10, Some(3))
    );
}

#[tokio::test]
async fn errors_carry_the_reason_and_what_it_is_about() {
    let phoenix = Phoenix::start();
    let client = phoenix.client().await;
    let admin = client.admin();
    create(&client, "t", 1).await;
    let config = TopicConfig::new();
    let again = admin
        .create_topic("t", None, config.clone())
        .await
        .unwrap_err();
    assert_eq!(again.reason(), Some(Reason::TopicExists));
    let bad = admin
        .create_topic("../etc", None, config.clone())
        .await
        .unwrap_err();
    assert_eq!(bad.reason(), Some(Reason::InvalidTopicName));
    let none = admin
        .create_topic("none", Some(0), config)
        .await
        .unwrap_err();
    assert_eq!(none.reason(), Some(Reason::InvalidPartitionCount));
    let tiny = TopicConfig::new().segment_bytes(1);
    let tiny = admin.create_topic("tiny", None, tiny).await.unwrap_err();
    assert_eq!(tiny.reason(), Some(Reason::InvalidConfig));
    assert_eq!(
        admin.delete_topic("no").await.unwrap_err().reason(),
        Some(Reason::TopicNotFound)
    );

    let beyond = client
        .reader("t")
        .start(Start::Offset(5))
        .open()
        .await
        .unwrap_err();
    assert_eq!(beyond.reason(), Some(Reason::OffsetOutOfRange));
    assert_eq!(beyond.refusal().unwrap().metadata["high_watermark"], "0");
    assert!(!beyond.is_retryable());
    let partition = client.reader("t").partition(3).open().await.unwrap_err();
    assert_eq!(partition.reason(), Some(Reason::PartitionNotFound));

    let producer = client.producer();
    let key = vec![b'k'; 100_000];
    let large = producer
        .send("t", &RecordRef::tombstone(&key))
        .await
        .unwrap_err();
    assert_eq!(large.reason(), Some(Reason::KeyTooLarge));
    let value = vec![b'v'; 5 << 20];
    let sent = producer
        .send("t", &RecordRef::of_value(&value))
        .await
        .unwrap();
    let large = sent.await.unwrap_err();
    assert_eq!(large.reason(), Some(Reason::BatchTooLarge));
    send(&producer, "t", "still serving").await.await.unwrap();
}

#[tokio::test]
async fn topics_that_come_and_go_are_noticed() {
    let phoenix = Phoenix::start();
    let client = phoenix.client().await;
    create(&client, "t", 4).await;
    let producer = client.producer();
    producer
        .send_to("t", 3, &RecordRef::of_value(b"v"))
        .await
        .unwrap()
        .await
        .unwrap();
    client.admin().delete_topic("t").await.unwrap();
    let gone = send(&producer, "t", "too late").await.await.unwrap_err();
    assert_eq!(gone.reason(), Some(Reason::TopicNotFound));
    create(&client, "t", 1).await;
    let position = send(&producer, "t", "anew").await.await.unwrap();
    assert_eq!((position.partition, position.offset), (0, Some(0)));
}

#[tokio::test]
async fn a_consumer_whose_topic_is_gone_has_nothing_left_to_commit() {
    let phoenix = Phoenix::start();
    let client = phoenix.client().await;
    create(&client, "t", 1).await;
    let producer = client.producer();
    send(&producer, "t", "processed").await.await.unwrap();
    let consumer = client.consumer("g").topic("t").auto_commit(false);
    let never = consumer.commit_interval(Duration::from_secs(3600));
    let mut consumer = never.open().await.unwrap();
    let batch = consumer.next_batch().await.unwrap().unwrap();
    consumer.mark_processed(&batch).unwrap();
    let phoenix = phoenix.crash_and_return();
    // What it had is lost, and comes again.
    while !matches!(
        consumer.next_event().await.unwrap().unwrap(),
        GroupEvent::Assigned { .. }
    ) {}
    client.admin().delete_topic("t").await.unwrap();
    while !consumer.assignment().is_empty() {
        tokio::task::yield_now().await;
    }
    consumer.close().await.unwrap();
    drop(phoenix);
}

#[tokio::test]
async fn readers_that_stand_still_hold_up_no_other_on_their_connection() {
    const RECORDS: usize = 8;
    let phoenix = Phoenix::start();
    let client = phoenix.client().await;
    create(&client, "t", 1).await;
    let producer = client.producer();
    let value = vec![b'v'; 1 << 20];
    for _ in 0..RECORDS {
        let sent = producer.send("t", &RecordRef::of_value(&value)).await;
        sent.unwrap().await.unwrap();
    }
    // Each takes as much as its stream lets in, of which it reads one record: some
    // 40 MiB in all, on one connection.
    let mut still = Vec::new();
    for _ in 0..10 {
        let mut reader = client.reader("t").open().await.unwrap();
        reader.next().await.unwrap().unwrap();
        still.push(reader);
    }
    let reader = client.reader("t").until_end().open().await.unwrap();
    let read: Vec<Record> = reader.map(Result::unwrap).collect().await;
    assert_eq!(read.len(), RECORDS);
    // Nothing is lost to those who come later.
    for reader in &mut still {
        for _ in 1..RECORDS {
            reader.next().await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn connecting_to_nothing_fails_at_once() {
    let error = Client::connect("http://127.0.0.1:1").await.unwrap_err();
    assert!(matches!(error, Error::Connection(_)), "{error:?}");
    assert!(error.is_retryable());
    let error = Client::connect("not an address").await.unwrap_err();
    assert!(matches!(error, Error::InvalidInput(_)), "{error:?}");
}
