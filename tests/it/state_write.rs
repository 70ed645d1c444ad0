//! Writes to keys on conditions: compare and set, all or nothing, once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use statecast_proto::v1::{
    self, expected_version::Expected, state_client::StateClient, write::Change,
};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::state::{append, change, compacted, state};
use crate::support::{TestBroker, encode, error_info};

fn expect(expected: Option<Expected>) -> Option<v1::ExpectedVersion> {
    expected.map(|expected| v1::ExpectedVersion {
        expected: Some(expected),
    })
}

const ABSENT: Option<Expected> = Some(Expected::Absent(v1::Absent {}));

fn write(key: &str, value: &str, expected: Option<Expected>) -> v1::Write {
    v1::Write {
        key: Bytes::copy_from_slice(key.as_bytes()),
        change: Some(Change::Value(Bytes::copy_from_slice(value.as_bytes()))),
        expected: expect(expected),
        ..v1::Write::default()
    }
}

fn put_of(writes: Vec<v1::Write>) -> v1::PutRequest {
    v1::PutRequest {
        topic: "t".to_owned(),
        writes,
        ..v1::PutRequest::default()
    }
}

async fn put(
    state: &mut StateClient<Channel>,
    writes: Vec<v1::Write>,
) -> Result<Vec<v1::Written>, Status> {
    Ok(state.put(put_of(writes)).await?.into_inner().written)
}

async fn get(state: &mut StateClient<Channel>, key: &str) -> Option<v1::Entry> {
    let request = v1::GetRequest {
        topic: "t".to_owned(),
        key: Bytes::copy_from_slice(key.as_bytes()),
        ..v1::GetRequest::default()
    };
    state.get(request).await.unwrap().into_inner().entry
}

fn reason(status: &Status) -> String {
    error_info(status).reason
}

#[tokio::test]
async fn a_write_needs_the_version_that_it_expects() {
    let broker = TestBroker::start().await;
    compacted(&broker, "t", 3).await;
    let mut state = state(&broker).await;
    let first = put(&mut state, vec![write("a", "1", ABSENT)])
        .await
        .unwrap();
    let status = put(&mut state, vec![write("a", "2", ABSENT)])
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), &*reason(&status)),
        (Code::Aborted, "VERSION_MISMATCH")
    );
    let metadata = error_info(&status).metadata;
    assert_eq!(metadata["current_version"], first[0].version.to_string());
    assert_eq!((&*metadata["key"], &*metadata["topic"]), ("a", "t"));

    let version = Some(Expected::Version(first[0].version));
    let second = put(&mut state, vec![write("a", "3", version)])
        .await
        .unwrap();
    let status = put(&mut state, vec![write("a", "4", version)])
        .await
        .unwrap_err();
    assert_eq!(reason(&status), "VERSION_MISMATCH");
    let never = Some(Expected::Version(1000));
    let status = put(&mut state, vec![write("a", "5", never)])
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), &*reason(&status)),
        (Code::OutOfRange, "VERSION_UNKNOWN")
    );
    assert_eq!(get(&mut state, "a").await.unwrap().value, "3");

    // Removed only in the version that is expected; and then it is absent.
    let delete = |expected| v1::DeleteRequest {
        topic: "t".to_owned(),
        key: Bytes::from_static(b"a"),
        expected: expect(expected),
        ..v1::DeleteRequest::default()
    };
    let status = state.delete(delete(version)).await.unwrap_err();
    assert_eq!(reason(&status), "VERSION_MISMATCH");
    let version = Some(Expected::Version(second[0].version));
    state.delete(delete(version)).await.unwrap();
    assert_eq!(get(&mut state, "a").await, None);
    let status = put(&mut state, vec![write("a", "6", version)])
        .await
        .unwrap_err();
    assert_eq!(reason(&status), "VERSION_MISMATCH");
    assert!(!error_info(&status).metadata.contains_key("current_version"));
    put(&mut state, vec![write("a", "7", ABSENT)])
        .await
        .unwrap();
}

#[tokio::test]
async fn several_keys_are_written_all_or_none_whatever_their_partitions() {
    let broker = TestBroker::start().await;
    compacted(&broker, "t", 4).await;
    let mut state = state(&broker).await;
    let keys: Vec<String> = (0..10).map(|key| format!("key-{key}")).collect();
    let all = |value: &str, last: Option<Expected>| {
        let mut writes: Vec<_> = keys.iter().map(|key| write(key, value, None)).collect();
        writes.last_mut().unwrap().expected = expect(last);
        writes
    };
    let written = put(&mut state, all("1", ABSENT)).await.unwrap();
    let partitions: std::collections::BTreeSet<_> =
        written.iter().map(|one| one.partition).collect();
    assert!(partitions.len() > 1);
    let status = put(&mut state, all("2", ABSENT)).await.unwrap_err();
    assert_eq!(error_info(&status).metadata["key"], "key-9");
    for (key, written) in keys.iter().zip(&written) {
        let entry = get(&mut state, key).await.unwrap();
        assert_eq!((&*entry.value, entry.version), (&b"1"[..], written.version));
    }
    let version = Some(Expected::Version(written[9].version));
    put(&mut state, all("3", version)).await.unwrap();
    for key in &keys {
        assert_eq!(get(&mut state, key).await.unwrap().value, "3");
    }
}

#[tokio::test]
async fn a_request_that_is_made_again_is_answered_as_the_first_time() {
    let broker = TestBroker::start().await;
    compacted(&broker, "t", 3).await;
    let mut state = state(&broker).await;
    let request = v1::PutRequest {
        request_id: Some("request-1".to_owned()),
        ..put_of(vec![write("a", "1", ABSENT), write("b", "1", ABSENT)])
    };
    let first = state.put(request.clone()).await.unwrap().into_inner();
    let again = state.put(request.clone()).await.unwrap().into_inner();
    assert_eq!(first, again);
    // Also after others have written, and after a restart.
    put(&mut state, vec![write("a", "2", None)]).await.unwrap();
    let broker = broker.restart().await;
    let mut state = crate::state::state(&broker).await;
    let again = state.put(request).await.unwrap().into_inner();
    assert_eq!(first, again);
    assert_eq!(get(&mut state, "a").await.unwrap().value, "2");
}

/// Counts up in compare-and-set loops; each must land once, whatever else is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counting_by_many_loses_no_step_while_others_write_without_looking() {
    const CLIENTS: u64 = 8;
    const STEPS: u64 = 50;
    let broker = Arc::new(TestBroker::start().await);
    compacted(&broker, "t", 1).await;
    let stop = Arc::new(AtomicBool::new(false));
    let noise = {
        let (broker, stop) = (broker.clone(), stop.clone());
        tokio::spawn(async move {
            let mut number = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                let records =
                    (0..20).map(|nth| change(format!("noise-{nth}"), Some(&number.to_string())));
                append(&broker, "t", records.collect()).await;
            }
        })
    };
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let broker = broker.clone();
            tokio::spawn(async move {
                let mut state = state(&broker).await;
                for _ in 0..STEPS {
                    loop {
                        let entry = get(&mut state, "counter").await;
                        let (count, expected) = match &entry {
                            Some(entry) => (
                                std::str::from_utf8(&entry.value)
                                    .unwrap()
                                    .parse::<u64>()
                                    .unwrap(),
                                Some(Expected::Version(entry.version)),
                            ),
                            None => (0, ABSENT),
                        };
                        let next = write("counter", &(count + 1).to_string(), expected);
                        match put(&mut state, vec![next]).await {
                            Ok(_) => break,
                            Err(status) => assert_eq!(reason(&status), "VERSION_MISMATCH"),
                        }
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    noise.await.unwrap();
    let mut state = state(&broker).await;
    let counter = get(&mut state, "counter").await.unwrap();
    assert_eq!(counter.value, (CLIENTS * STEPS).to_string());
}

/// What a client did and was answered, with the moments between which it took effect.
#[derive(Debug)]
struct Call {
    began: u64,
    ended: u64,
    /// The version that it saw: none when there was no key.
    saw: Option<u64>,
    /// The version that it wrote, if it did.
    wrote: Option<u64>,
}

/// Looks for an order that explains what was seen: each version was written by one call,
/// which expected the version before; and no call that began after another had ended saw
/// an older version.
fn check_history(calls: &[Call]) {
    // The versions form one chain.
    let writes: BTreeMap<u64, &Call> = calls
        .iter()
        .filter_map(|call| Some((call.wrote?, call)))
        .collect();
    assert_eq!(
        writes.len(),
        calls.iter().filter(|call| call.wrote.is_some()).count()
    );
    let mut before = None;
    for (&version, call) in &writes {
        assert_eq!(call.saw, before, "{call:?}");
        before = Some(version);
    }
    // With versions as places in that order, real time agrees with it.
    let mut by_end: Vec<&Call> = calls.iter().collect();
    by_end.sort_by_key(|call| call.ended);
    let mut by_begin: Vec<&Call> = calls.iter().collect();
    by_begin.sort_by_key(|call| call.began);
    let (mut ended, mut newest) = (by_end.into_iter().peekable(), None);
    for call in by_begin {
        while let Some(earlier) = ended.next_if(|earlier| earlier.ended < call.began) {
            newest = newest.max(earlier.wrote.or(earlier.saw));
        }
        assert!(
            call.saw >= newest.filter(|_| call.wrote.is_none()).or(call.saw),
            "{call:?} {newest:?}"
        );
        assert!(
            call.wrote.is_none() || call.wrote > newest,
            "{call:?} {newest:?}"
        );
        // Nobody sees what wasn't begun yet.
        let author = call.saw.map(|saw| writes[&saw]);
        assert!(
            author.is_none_or(|author| author.began < call.ended),
            "{call:?}"
        );
    }
}

/// Records calls and answers on one key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_on_a_key_are_linearizable() {
    let broker = Arc::new(TestBroker::start().await);
    compacted(&broker, "t", 1).await;
    let clock = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..6_u64)
        .map(|client| {
            let (broker, clock) = (broker.clone(), clock.clone());
            tokio::spawn(async move {
                let tick = || clock.fetch_add(1, Ordering::SeqCst);
                let mut state = state(&broker).await;
                let mut calls = Vec::new();
                for round in 0..60_u64 {
                    let began = tick();
                    let saw = get(&mut state, "k").await.map(|entry| entry.version);
                    calls.push(Call {
                        began,
                        ended: tick(),
                        saw,
                        wrote: None,
                    });
                    if (client + round).is_multiple_of(3) {
                        continue;
                    }
                    let expected = saw.map_or(ABSENT, |saw| Some(Expected::Version(saw)));
                    let began = tick();
                    match put(&mut state, vec![write("k", "x", expected)]).await {
                        Ok(written) => calls.push(Call {
                            began,
                            ended: tick(),
                            saw,
                            wrote: Some(written[0].version),
                        }),
                        Err(status) => {
                            // It saw another version then.
                            let current = error_info(&status).metadata["current_version"].parse();
                            let saw = Some(current.unwrap());
                            calls.push(Call {
                                began,
                                ended: tick(),
                                saw,
                                wrote: None,
                            });
                        }
                    }
                }
                calls
            })
        })
        .collect();
    let mut calls = Vec::new();
    for client in clients {
        calls.extend(client.await.unwrap());
    }
    check_history(&calls);
}

#[tokio::test]
async fn produce_takes_preconditions() {
    let broker = TestBroker::start().await;
    compacted(&broker, "t", 2).await;
    broker.create_topic("plain", 1).await;
    let mut state = state(&broker).await;
    let produce = |topic: &str, version: Option<u64>| v1::ProduceRequest {
        topic: topic.to_owned(),
        batch: encode(vec![change("x", Some("1")), change("y", Some("1"))]),
        preconditions: vec![v1::Precondition {
            key: Bytes::from_static(b"lock"),
            partition: None,
            version,
        }],
        ..v1::ProduceRequest::default()
    };
    broker.log().produce(produce("t", None)).await.unwrap();
    let lock = put(&mut state, vec![write("lock", "me", ABSENT)])
        .await
        .unwrap()[0]
        .version;
    let status = broker.log().produce(produce("t", None)).await.unwrap_err();
    assert_eq!(reason(&status), "VERSION_MISMATCH");
    broker
        .log()
        .produce(produce("t", Some(lock)))
        .await
        .unwrap();
    let status = broker
        .log()
        .produce(produce("plain", None))
        .await
        .unwrap_err();
    assert_eq!(reason(&status), "TOPIC_NOT_COMPACTED");
}
