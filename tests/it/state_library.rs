//! What is true in a compacted topic, through the client library.

use std::collections::BTreeMap;

use statecast_client::{
    AsOf, Cleanup, Client, Entry, Error, HeaderRef, Producer, Reason, RecordRef, TopicConfig,
    Update, Version, Write,
};
use tokio_stream::StreamExt;

use crate::library::Phoenix;

pub(crate) async fn create(client: &Client, topic: &str, partitions: u32) {
    let config = TopicConfig::new().cleanup(Cleanup::Compact);
    let admin = client.admin();
    let created = admin.create_topic(topic, Some(partitions), config).await;
    created.unwrap();
}

/// Returns where it lies: the partition and the offset.
async fn send(producer: &Producer, topic: &str, record: &RecordRef<'_>) -> (u32, u64) {
    let sent = producer.send(topic, record).await.unwrap();
    let position = sent.await.unwrap();
    (position.partition, position.offset.unwrap())
}

fn value(entry: Option<Entry>) -> Option<String> {
    entry.map(|entry| String::from_utf8(entry.value.to_vec()).unwrap())
}

#[tokio::test]
async fn get_tells_every_part_of_the_latest_record_of_a_key() {
    let phoenix = Phoenix::start();
    let client = phoenix.client().await;
    create(&client, "t", 4).await;
    let producer = client.producer();
    send(&producer, "t", &RecordRef::new(b"key", b"old")).await;
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
        ..RecordRef::new(b"key", b"new")
    };
    let (partition, offset) = send(&producer, "t", &record).await;
    let state = client.state("t");
    let entry = state.get("key").await.unwrap().unwrap();
    assert_eq!(
        (&entry.key[..], &entry.value[..]),
        (&b"key"[..], &b"new"[..])
    );
    assert_eq!((entry.partition, entry.offset), (partition, offset));
    assert_eq!((entry.timestamp_ms, entry.lease), (1234, None));
    assert_eq!(entry.headers.len(), 2);
    assert_eq!(entry.headers[0].name, "trace");
    assert_eq!(entry.headers[0].value.as_deref(), Some(&b"\xff\x00"[..]));
    assert_eq!(entry.headers[1].value, None);
    assert_eq!(state.get("other").await.unwrap(), None);

    let elsewhere = (partition + 1) % 4;
    let get = state.get("key").partition(elsewhere);
    assert_eq!(get.await.unwrap(), None);

    let (_, gone) = send(&producer, "t", &RecordRef::tombstone(b"key")).await;
    assert_eq!(state.get("key").at_least(gone).await.unwrap(), None);
    let before = state.get("key").as_of(AsOf::Offset(gone)).await.unwrap();
    assert_eq!(before, Some(entry));
    let first = state.get("key").as_of(AsOf::Offset(offset)).await.unwrap();
    assert_eq!(value(first), Some("old".to_owned()));
}

#[tokio::test]
async fn scan_yields_the_keys_of_a_prefix_in_their_order_over_pages_and_crashes() {
    let phoenix = Phoenix::start();
    let client = phoenix.client().await;
    create(&client, "t", 4).await;
    let producer = client.producer();
    let mut expected = BTreeMap::new();
    for number in 0..500 {
        let (key, value) = (format!("k/{:03}", number * 7 % 500), number.to_string());
        let record = RecordRef::new(key.as_bytes(), value.as_bytes());
        drop(producer.send("t", &record).await.unwrap());
        expected.insert(key, value);
    }
    let outside = RecordRef::new(b"l/0", b"not this one");
    drop(producer.send("t", &outside).await.unwrap());
    producer.flush().await.unwrap();

    let state = client.state("t");
    let mut entries = state.scan("k/").page_size(60).stream();
    let mut found = BTreeMap::new();
    let mut last = None;
    let mut take = |entry: Entry| {
        let key = String::from_utf8(entry.key.to_vec()).unwrap();
        assert!(last < Some(key.clone()), "{key} comes in its order");
        last = Some(key.clone());
        found.insert(key, value(Some(entry)).unwrap());
    };
    for _ in 0..100 {
        take(entries.next().await.unwrap().unwrap());
    }
    // The token of the page is good for the broker that comes next.
    let _phoenix = phoenix.crash_and_return();
    while let Some(entry) = entries.next().await {
        take(entry.unwrap());
    }
    assert_eq!(found, expected);
    assert_eq!(state.scan("").await.unwrap().len(), 501);
    assert_eq!(state.scan("m").await.unwrap(), []);
}

#[tokio::test]
async fn scan_of_the_past_is_that_of_the_offsets_it_is_asked_for() {
    let phoenix = Phoenix::start();
    let client = phoenix.client().await;
    create(&client, "t", 1).await;
    let producer = client.producer();
    for (key, value) in [("a", "1"), ("b", "1"), ("a", "2")] {
        let record = RecordRef::new(key.as_bytes(), value.as_bytes());
        send(&producer, "t", &record).await;
    }
    send(&producer, "t", &RecordRef::tombstone(b"b")).await;
    let state = client.state("t");
    let values = async |offset| {
        let scan = state.scan("").as_of_offset(0, offset).page_size(1).await;
        let entries = scan.unwrap().into_iter();
        let text =
            |entry: Entry| format!("{:?}={}", entry.key, value(Some(entry.clone())).unwrap());
        entries.map(text).collect::<Vec<_>>()
    };
    assert_eq!(values(0).await, [""; 0]);
    assert_eq!(values(2).await, ["b\"a\"=1", "b\"b\"=1"]);
    assert_eq!(values(3).await, ["b\"a\"=2", "b\"b\"=1"]);
    assert_eq!(values(4).await, ["b\"a\"=2"]);
}

#[tokio::test]
async fn what_makes_no_sense_is_told_by_its_reason() {
    let phoenix = Phoenix::start();
    let client = phoenix.client().await;
    crate::library::create(&client, "log", 1).await;
    create(&client, "t", 1).await;
    let reason = |error: Error| error.reason();
    let get = client.state("no").get("key").await;
    assert_eq!(get.map_err(reason), Err(Some(Reason::TopicNotFound)));
    let get = client.state("log").get("key").await;
    assert_eq!(get.map_err(reason), Err(Some(Reason::TopicNotCompacted)));
    let state = client.state("t");
    let large = vec![b'k'; 100_000];
    let get = state.get(&large).await;
    assert_eq!(get.map_err(reason), Err(Some(Reason::KeyTooLarge)));
    let scan = state.scan(&large).await;
    assert_eq!(scan.map_err(reason), Err(Some(Reason::KeyTooLarge)));
    let get = state.get("key").partition(7).await;
    assert_eq!(get.map_err(reason), Err(Some(Reason::PartitionNotFound)));
    let scan = state.scan("").page_size(0).await;
    assert_eq!(scan.map_err(reason), Err(Some(Reason::InvalidRequest)));
}

#[tokio::test]
async fn put_and_delete_change_a_key_only_in_the_version_that_is_expected() {
    let phoenix = Phoenix::start();
    let client = phoenix.client().await;
    create(&client, "t", 4).await;
    let state = client.state("t");
    let first = state.put("key", "1").header("by", "me").expect_absent();
    let first = first.await.unwrap();
    let entry = state.get("key").await.unwrap().unwrap();
    assert_eq!(
        (&entry.value[..], entry.version),
        (&b"1"[..], first.version)
    );
    assert_eq!(entry.headers[0].value.as_deref(), Some(&b"me"[..]));

    let current = |error| match error {
        Error::VersionMismatch { current, .. } => current,
        other => panic!("{other:?}"),
    };
    let late = state.put("key", "2").expect_absent().await.unwrap_err();
    assert_eq!(current(late), Some(first.version));
    let second = state.put("key", "2").expect_version(first.version);
    let second = second.await.unwrap();
    let late = state.delete("key").expect_version(first.version).await;
    assert_eq!(current(late.unwrap_err()), Some(second.version));
    state
        .delete("key")
        .expect_version(second.version)
        .await
        .unwrap();
    assert_eq!(state.get("key").await.unwrap(), None);
    let late = state.delete("key").expect_version(second.version).await;
    assert_eq!(current(late.unwrap_err()), None);
    let never = state
        .put("key", "3")
        .expect_version(Version::from_number(1 << 40));
    let never = never.await.unwrap_err();
    assert_eq!(never.reason(), Some(Reason::VersionUnknown));
}

#[tokio::test]
async fn put_of_several_keys_is_all_or_nothing() {
    let phoenix = Phoenix::start();
    let client = phoenix.client().await;
    create(&client, "t", 4).await;
    let state = client.state("t");
    let accounts = [
        Write::put("a", "100"),
        Write::put("b", "0"),
        Write::put("c", ""),
    ];
    let opened = state.put_all(accounts).await.unwrap();
    let transfer = |from: Version, to: Version| {
        [
            Write::put("a", "60").expect_version(from),
            Write::put("b", "40").expect_version(to),
            Write::delete("c"),
        ]
    };
    let (a, b) = (opened[0].version, opened[1].version);
    let touched = state.put("b", "0").await.unwrap();
    let late = state.put_all(transfer(a, b)).await.unwrap_err();
    assert_eq!(late.reason(), Some(Reason::VersionMismatch));
    assert_eq!(value(state.get("a").await.unwrap()).as_deref(), Some("100"));
    let written = state.put_all(transfer(a, touched.version)).await.unwrap();
    assert_eq!(written.len(), 3);
    let values = state.scan("").await.unwrap().into_iter();
    let values: Vec<_> = values.map(|entry| value(Some(entry)).unwrap()).collect();
    assert_eq!(values, ["60", "40"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn update_loses_no_change_of_many_at_the_same_time_nor_over_a_crash() {
    const CLIENTS: u64 = 4;
    const EACH: u64 = 40;
    let phoenix = Phoenix::start();
    let client = phoenix.client().await;
    create(&client, "t", 1).await;
    let mut counting = Vec::new();
    for _ in 0..CLIENTS {
        let state = phoenix.client().await.state("t");
        counting.push(tokio::spawn(async move {
            for _ in 0..EACH {
                let one_more = state.update("count", |entry| {
                    let before = value(entry.cloned()).map_or(0, |v| v.parse::<u64>().unwrap());
                    Update::put((before + 1).to_string())
                });
                one_more.await.unwrap().unwrap();
            }
        }));
    }
    let phoenix = tokio::task::spawn_blocking(|| phoenix.crash_and_return());
    let _phoenix = phoenix.await.unwrap();
    for counting in counting {
        counting.await.unwrap();
    }
    let state = client.state("t");
    let count = value(state.get("count").await.unwrap());
    assert_eq!(count, Some((CLIENTS * EACH).to_string()));
    let kept = state.update("count", |_| Update::keep()).await.unwrap();
    assert_eq!(kept, None);
    state.update("count", |_| Update::delete()).await.unwrap();
    assert_eq!(state.get("count").await.unwrap(), None);
}
