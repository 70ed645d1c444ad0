//! What is true: get and scan, and what they refuse.

use std::collections::BTreeMap;

use bytes::Bytes;
use statecast_proto::v1::{self, state_client::StateClient};
use tonic::Code;
use tonic::transport::Channel;

use crate::support::{TestBroker, encode, error_info};

/// What a topic folds to: the value of each key.
pub(crate) type Fold = BTreeMap<Bytes, Bytes>;

pub(crate) async fn compacted(broker: &TestBroker, name: &str, partitions: u32) {
    let config = v1::TopicConfig {
        cleanup: v1::Cleanup::Compact.into(),
        ..v1::TopicConfig::default()
    };
    let request = v1::CreateTopicRequest {
        name: name.to_owned(),
        partitions: Some(partitions),
        config: Some(config),
    };
    broker.admin().create_topic(request).await.unwrap();
}

pub(crate) async fn state(broker: &TestBroker) -> StateClient<Channel> {
    StateClient::new(broker.connect().await)
}

/// A record, or a tombstone.
pub(crate) fn change(key: impl AsRef<[u8]>, value: Option<&str>) -> v1::Record {
    v1::Record {
        key: Some(Bytes::copy_from_slice(key.as_ref())),
        value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())),
        ..v1::Record::default()
    }
}

/// Appends records, each to the partition of its key.
pub(crate) async fn append(
    broker: &TestBroker,
    topic: &str,
    records: Vec<v1::Record>,
) -> Vec<v1::RecordPosition> {
    let request = v1::ProduceRequest {
        topic: topic.to_owned(),
        batch: encode(records),
        ..v1::ProduceRequest::default()
    };
    let produced = broker.log().produce(request).await.unwrap();
    produced.into_inner().positions
}

/// The changes of the fixture: key and value, in order.
pub(crate) fn real_changes() -> Vec<v1::Record> {
    let line = |line: &str| {
        let (key, value) = line.split_once('\t').expect("a key and a value");
        change(key, Some(value).filter(|value| !value.is_empty()))
    };
    include_str!("fixtures/repo/changes.tsv")
        .lines()
        .map(line)
        .collect()
}

pub(crate) fn fold(records: &[v1::Record]) -> Fold {
    let mut fold = Fold::new();
    for record in records {
        let key = record.key.clone().unwrap();
        match &record.value {
            Some(value) => drop(fold.insert(key, value.clone())),
            None => drop(fold.remove(&key)),
        }
    }
    fold
}

async fn scan(
    state: &mut StateClient<Channel>,
    request: v1::ScanRequest,
) -> (Vec<v1::Entry>, Bytes) {
    let page = state.scan(request).await.unwrap().into_inner();
    (page.entries, page.next_page_token)
}

#[tokio::test]
async fn scanning_gives_the_fold_in_order_and_goes_on_after_a_restart() {
    let broker = TestBroker::start().await;
    compacted(&broker, "repo", 4).await;
    let changes = real_changes();
    for some in changes.chunks(50) {
        append(&broker, "repo", some.to_vec()).await;
    }
    let expected = fold(&changes);
    let mut found = Fold::new();
    let mut keys = Vec::new();
    let mut request = v1::ScanRequest {
        topic: "repo".to_owned(),
        page_size: Some(7),
        ..v1::ScanRequest::default()
    };
    let mut state_client = state(&broker).await;
    let mut broker = broker;
    loop {
        let (entries, next) = scan(&mut state_client, request.clone()).await;
        assert!(entries.len() <= 7);
        for entry in entries {
            keys.push(entry.key.clone());
            found.insert(entry.key, entry.value);
        }
        if next.is_empty() {
            break;
        }
        request.page_token = next;
        if keys.len() == 14 {
            broker = broker.restart().await;
            state_client = state(&broker).await;
        }
    }
    assert!(keys.is_sorted() && keys.len() == expected.len());
    assert_eq!(found, expected);

    let prefix = keys[keys.len() / 2].slice(..3);
    let request = v1::ScanRequest {
        topic: "repo".to_owned(),
        prefix: prefix.clone(),
        ..v1::ScanRequest::default()
    };
    let (entries, _) = scan(&mut state_client, request).await;
    let of_prefix: Vec<&Bytes> = expected
        .keys()
        .filter(|key| key.starts_with(&prefix))
        .collect();
    assert!(entries.iter().map(|entry| &entry.key).eq(of_prefix));
}

#[tokio::test]
async fn get_knows_what_was_acknowledged_and_names_where_it_lies() {
    let broker = TestBroker::start().await;
    compacted(&broker, "t", 3).await;
    let mut state = state(&broker).await;
    for round in 0..50 {
        let value = format!("value-{round}");
        let record = v1::Record {
            timestamp_ms: Some(1000 + round),
            headers: vec![v1::Header {
                name: "of".to_owned(),
                value: Some(Bytes::from_static(b"x")),
            }],
            ..change("key", Some(&value))
        };
        let position = append(&broker, "t", vec![record.clone()]).await[0];
        let request = v1::GetRequest {
            topic: "t".to_owned(),
            key: Bytes::from_static(b"key"),
            ..v1::GetRequest::default()
        };
        let response = state.get(request).await.unwrap().into_inner();
        let entry = response.entry.unwrap();
        assert_eq!(entry.value, value);
        assert_eq!(
            (entry.partition, entry.offset),
            (position.partition, position.offset)
        );
        assert_eq!(
            (entry.version, entry.timestamp_ms),
            (position.offset, 1000 + round)
        );
        assert_eq!(entry.headers, record.headers);
        assert_eq!(response.next_offset, position.offset + 1);
    }
    // One key, and the record beside it.
    assert!(broker.metric("statecast_view_key_bytes").await > b"key".len());
    assert!(broker.metric("statecast_view_record_bytes").await > b"value-49".len());
    append(&broker, "t", vec![change("key", None)]).await;
    let request = v1::GetRequest {
        topic: "t".to_owned(),
        key: Bytes::from_static(b"key"),
        ..v1::GetRequest::default()
    };
    let response = state.get(request).await.unwrap().into_inner();
    assert_eq!(response.entry, None);
    assert_eq!(broker.metric("statecast_view_key_bytes").await, 0);
    assert_eq!(broker.metric("statecast_view_record_bytes").await, 0);
}

#[tokio::test]
async fn the_past_is_known_by_offset_and_by_time() {
    let broker = TestBroker::start().await;
    compacted(&broker, "t", 1).await;
    let mut state = state(&broker).await;
    let at = |time: i64, record: v1::Record| v1::Record {
        timestamp_ms: Some(time),
        ..record
    };
    let records = vec![
        at(100, change("a", Some("1"))),
        at(200, change("b", Some("2"))),
        at(300, change("a", Some("3"))),
        at(400, change("b", None)),
        at(500, change("c", Some("4"))),
    ];
    append(&broker, "t", records.clone()).await;
    for end in 0..=records.len() {
        let expected = fold(&records[..end]);
        let request = v1::ScanRequest {
            topic: "t".to_owned(),
            page_size: Some(1),
            as_of_offsets: vec![v1::RecordPosition {
                partition: 0,
                offset: end as u64,
            }],
            ..v1::ScanRequest::default()
        };
        let by_time = v1::ScanRequest {
            as_of_offsets: Vec::new(),
            as_of_timestamp_ms: Some(i64::try_from(end).unwrap() * 100 + 50),
            ..request.clone()
        };
        for mut request in [request, by_time] {
            let mut found = Fold::new();
            loop {
                let (entries, next) = scan(&mut state, request.clone()).await;
                found.extend(entries.into_iter().map(|entry| (entry.key, entry.value)));
                if next.is_empty() {
                    break;
                }
                request.page_token = next;
            }
            assert_eq!(found, expected, "{end}");
        }
        let request = v1::GetRequest {
            topic: "t".to_owned(),
            key: Bytes::from_static(b"a"),
            as_of: Some(v1::get_request::AsOf::AsOfOffset(end as u64)),
            ..v1::GetRequest::default()
        };
        let found = state.get(request).await.unwrap().into_inner().entry;
        assert_eq!(
            found.map(|entry| entry.value).as_ref(),
            expected.get(&b"a"[..])
        );
    }
}

#[tokio::test]
async fn a_page_of_the_past_whose_keys_were_all_removed_leads_to_the_next() {
    let broker = TestBroker::start().await;
    compacted(&broker, "t", 1).await;
    let mut state = state(&broker).await;
    let records = vec![
        change("a", Some("1")),
        change("b", Some("2")),
        change("a", None),
    ];
    append(&broker, "t", records).await;
    let mut request = v1::ScanRequest {
        topic: "t".to_owned(),
        page_size: Some(1),
        as_of_timestamp_ms: Some(i64::MAX),
        ..v1::ScanRequest::default()
    };
    let (entries, next) = scan(&mut state, request.clone()).await;
    assert_eq!(entries, []);
    request.page_token = next;
    let (entries, next) = scan(&mut state, request).await;
    assert_eq!(entries.len(), 1);
    assert_eq!((&entries[0].key[..], &next[..]), (&b"b"[..], &b""[..]));
}

#[tokio::test]
async fn a_get_that_makes_no_sense_is_refused_with_a_reason() {
    let broker = TestBroker::start().await;
    compacted(&broker, "t", 2).await;
    broker.create_topic("plain", 1).await;
    let mut state = state(&broker).await;
    let get = |topic: &str, key: Vec<u8>| v1::GetRequest {
        topic: topic.to_owned(),
        key: key.into(),
        ..v1::GetRequest::default()
    };
    let refused = [
        (
            get("plain", vec![1]),
            Code::FailedPrecondition,
            "TOPIC_NOT_COMPACTED",
        ),
        (get("none", vec![1]), Code::NotFound, "TOPIC_NOT_FOUND"),
        (get("t", vec![]), Code::InvalidArgument, "KEY_REQUIRED"),
        (
            get("t", vec![1; (64 << 10) + 1]),
            Code::InvalidArgument,
            "KEY_TOO_LARGE",
        ),
        (
            v1::GetRequest {
                partition: Some(2),
                ..get("t", vec![1])
            },
            Code::NotFound,
            "PARTITION_NOT_FOUND",
        ),
        (
            v1::GetRequest {
                as_of: Some(v1::get_request::AsOf::AsOfOffset(1)),
                ..get("t", vec![1])
            },
            Code::OutOfRange,
            "OFFSET_OUT_OF_RANGE",
        ),
        (
            v1::GetRequest {
                at_least_offset: Some(u64::MAX),
                ..get("t", vec![1])
            },
            Code::InvalidArgument,
            "INVALID_REQUEST",
        ),
    ];
    for (request, code, reason) in refused {
        let status = state.get(request).await.unwrap_err();
        assert_eq!(
            (status.code(), &*error_info(&status).reason),
            (code, reason)
        );
    }
    broker.assert_serves().await;
}

#[tokio::test]
async fn a_scan_that_makes_no_sense_is_refused_with_a_reason() {
    let broker = TestBroker::start().await;
    compacted(&broker, "t", 2).await;
    let mut state = state(&broker).await;
    let twice = vec![v1::RecordPosition::default(); 2];
    let scans = [
        v1::ScanRequest {
            at_least: twice.clone(),
            ..v1::ScanRequest::default()
        },
        v1::ScanRequest {
            as_of_offsets: twice.clone(),
            ..v1::ScanRequest::default()
        },
        v1::ScanRequest {
            as_of_offsets: twice[..1].to_vec(),
            as_of_timestamp_ms: Some(0),
            ..v1::ScanRequest::default()
        },
        v1::ScanRequest {
            prefix: vec![1; (64 << 10) + 1].into(),
            ..v1::ScanRequest::default()
        },
        v1::ScanRequest {
            page_size: Some(0),
            ..v1::ScanRequest::default()
        },
        v1::ScanRequest {
            page_token: Bytes::from_static(b"nonsense"),
            ..v1::ScanRequest::default()
        },
    ];
    for request in scans {
        let reason = match request.prefix.is_empty() {
            true => "INVALID_REQUEST",
            false => "KEY_TOO_LARGE",
        };
        let request = v1::ScanRequest {
            topic: "t".to_owned(),
            ..request
        };
        let status = state.scan(request).await.unwrap_err();
        assert_eq!(error_info(&status).reason, reason);
    }
    broker.assert_serves().await;
}
