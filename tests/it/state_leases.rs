//! Leases: keys that end by themselves.

use std::time::Duration;

use bytes::Bytes;
use statecast_proto::v1::{
    self, change::Change, keep_alive_response::Outcome, state_client::StateClient,
    watch_response::Event, write,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::state::{compacted, state};
use crate::support::{TestBroker, error_info};

async fn grant(state: &mut StateClient<Channel>, ttl_ms: u64) -> u64 {
    let request = v1::GrantLeaseRequest { ttl_ms };
    state
        .grant_lease(request)
        .await
        .unwrap()
        .into_inner()
        .lease_id
}

fn put(key: &str, lease_id: Option<u64>) -> v1::PutRequest {
    let write = v1::Write {
        key: Bytes::copy_from_slice(key.as_bytes()),
        change: Some(write::Change::Value(Bytes::from_static(b"here"))),
        lease_id,
        ..v1::Write::default()
    };
    v1::PutRequest {
        topic: "services".to_owned(),
        writes: vec![write],
        ..v1::PutRequest::default()
    }
}

async fn watch(state: &mut StateClient<Channel>) -> Streaming<v1::WatchResponse> {
    let request = v1::WatchRequest {
        topic: "services".to_owned(),
        ..v1::WatchRequest::default()
    };
    state.watch(request).await.unwrap().into_inner()
}

/// Waits until these keys, and no others, have been told to be gone.
async fn until_removed(stream: &mut Streaming<v1::WatchResponse>, keys: &[&str]) {
    let mut removed = Vec::new();
    while removed.len() < keys.len() {
        let event = stream.message().await.unwrap().unwrap().event.unwrap();
        if let Event::Changes(changes) = event {
            for change in changes.changes {
                if let Some(Change::Removed(change)) = change.change {
                    removed.push(String::from_utf8(change.key.to_vec()).unwrap());
                }
            }
        }
    }
    removed.sort();
    assert_eq!(removed, keys);
}

async fn keys(state: &mut StateClient<Channel>) -> Vec<(String, Option<u64>)> {
    let request = v1::ScanRequest {
        topic: "services".to_owned(),
        ..v1::ScanRequest::default()
    };
    let entries = state.scan(request).await.unwrap().into_inner().entries;
    let key = |entry: v1::Entry| {
        assert_eq!(entry.headers, [], "the broker's own header isn't shown");
        (
            String::from_utf8(entry.key.to_vec()).unwrap(),
            entry.lease_id,
        )
    };
    entries.into_iter().map(key).collect()
}

#[tokio::test]
async fn keys_go_when_their_lease_ends_and_only_they() {
    let broker = TestBroker::start().await;
    compacted(&broker, "services", 3).await;
    let mut state = state(&broker).await;
    let short = grant(&mut state, 1000).await;
    let long = grant(&mut state, 86_400_000).await;
    assert!(short >= 1 && long > short);
    for (key, lease) in [
        ("a", Some(short)),
        ("b", Some(short)),
        ("c", Some(long)),
        ("d", None),
        ("e", Some(short)),
        ("f", Some(short)),
    ] {
        state.put(put(key, lease)).await.unwrap();
    }
    // What is put again without the lease, or with another one, stays.
    state.put(put("e", None)).await.unwrap();
    state.put(put("f", Some(long))).await.unwrap();
    let mut stream = watch(&mut state).await;
    until_removed(&mut stream, &["a", "b"]).await;
    let expected = [
        ("c", Some(long)),
        ("d", None),
        ("e", None),
        ("f", Some(long)),
    ];
    let expected = expected.map(|(key, lease)| (key.to_owned(), lease));
    assert_eq!(keys(&mut state).await, expected);

    let status = state.put(put("g", Some(short))).await.unwrap_err();
    let info = error_info(&status);
    assert_eq!(
        (status.code(), &*info.reason),
        (Code::FailedPrecondition, "LEASE_EXPIRED")
    );
    let status = state.put(put("g", Some(4711))).await.unwrap_err();
    assert_eq!(
        (status.code(), &*error_info(&status).reason),
        (Code::NotFound, "LEASE_NOT_FOUND")
    );

    let revoke = v1::RevokeLeaseRequest { lease_id: long };
    let revoked = state.revoke_lease(revoke).await.unwrap().into_inner();
    assert_eq!(revoked.removed_keys, 2);
    until_removed(&mut stream, &["c", "f"]).await;
    let status = state.revoke_lease(revoke).await.unwrap_err();
    assert_eq!(error_info(&status).reason, "LEASE_EXPIRED");
}

#[tokio::test]
async fn a_lease_lives_as_long_as_it_is_kept_alive_and_others_dont_end_the_call() {
    let broker = TestBroker::start().await;
    compacted(&broker, "services", 1).await;
    let mut state = state(&broker).await;
    let kept = grant(&mut state, 1000).await;
    let left = grant(&mut state, 1000).await;
    state.put(put("kept", Some(kept))).await.unwrap();
    state.put(put("left", Some(left))).await.unwrap();
    let (requests, incoming) = mpsc::channel(4);
    let responses = state.keep_alive(ReceiverStream::new(incoming)).await;
    let mut responses = responses.unwrap().into_inner();
    let keep_alive = async {
        loop {
            requests
                .send(v1::KeepAliveRequest { lease_id: kept })
                .await
                .unwrap();
            let response = responses.message().await.unwrap().unwrap();
            assert_eq!(response.outcome, Some(Outcome::TtlMs(1000)));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let mut watching = state.clone();
    let mut stream = watch(&mut watching).await;
    tokio::select! {
        () = keep_alive => unreachable!("it goes on for ever"),
        () = until_removed(&mut stream, &["left"]) => {}
    }
    for (lease_id, reason) in [(left, "LEASE_EXPIRED"), (4711, "LEASE_NOT_FOUND")] {
        requests
            .send(v1::KeepAliveRequest { lease_id })
            .await
            .unwrap();
        let mut response = responses.message().await.unwrap().unwrap();
        if response.lease_id == kept {
            response = responses.message().await.unwrap().unwrap();
        }
        let Some(Outcome::Error(error)) = response.outcome else {
            panic!("{response:?}");
        };
        assert_eq!((response.lease_id, &*error.reason), (lease_id, reason));
    }
    until_removed(&mut stream, &["kept"]).await;
}

#[tokio::test]
async fn leases_survive_a_restart_and_no_id_comes_again() {
    let broker = TestBroker::start().await;
    compacted(&broker, "services", 2).await;
    let mut before = state(&broker).await;
    let lease = grant(&mut before, 1500).await;
    let over = grant(&mut before, 60_000).await;
    before.put(put("a", Some(lease))).await.unwrap();
    before.put(put("b", Some(over))).await.unwrap();
    let revoke = v1::RevokeLeaseRequest { lease_id: over };
    before.revoke_lease(revoke).await.unwrap();
    drop(before);
    let broker = broker.restart().await;
    let mut state = state(&broker).await;
    assert_eq!(keys(&mut state).await, [("a".to_owned(), Some(lease))]);
    let status = state.put(put("b", Some(over))).await.unwrap_err();
    assert_eq!(error_info(&status).reason, "LEASE_EXPIRED");
    assert!(grant(&mut state, 1000).await > over);
    let mut stream = watch(&mut state).await;
    until_removed(&mut stream, &["a"]).await;
}

/// A topic that takes batches of so many bytes.
async fn narrow(broker: &TestBroker, name: &str) {
    let config = v1::TopicConfig {
        cleanup: v1::Cleanup::Compact.into(),
        max_batch_bytes: Some(8 << 10),
        ..v1::TopicConfig::default()
    };
    let request = v1::CreateTopicRequest {
        name: name.to_owned(),
        partitions: Some(1),
        config: Some(config),
    };
    broker.admin().create_topic(request).await.unwrap();
}

#[tokio::test]
async fn a_lease_ends_though_its_keys_dont_go_into_one_batch() {
    let broker = TestBroker::start().await;
    narrow(&broker, "services").await;
    let mut state = state(&broker).await;
    let lease_id = grant(&mut state, 60_000).await;
    for number in 0..30 {
        let key = format!("{number}-{}", "x".repeat(1000));
        state.put(put(&key, Some(lease_id))).await.unwrap();
    }
    let revoke = v1::RevokeLeaseRequest { lease_id };
    let revoked = state.revoke_lease(revoke).await.unwrap().into_inner();
    assert_eq!(revoked.removed_keys, 30);
    assert_eq!(keys(&mut state).await, []);
}

#[tokio::test]
async fn a_lease_ends_though_its_topic_takes_less_of_clients_by_now() {
    let broker = TestBroker::start().await;
    compacted(&broker, "services", 1).await;
    let mut state = state(&broker).await;
    narrow(&broker, "narrow").await;
    let lease_id = grant(&mut state, 60_000).await;
    let key = "x".repeat(2000);
    let mut request = put(&key, Some(lease_id));
    request.topic = "narrow".to_owned();
    state.put(request.clone()).await.unwrap();
    let config = v1::TopicConfig {
        max_batch_bytes: Some(1 << 10),
        ..v1::TopicConfig::default()
    };
    let alter = v1::AlterTopicRequest {
        name: "narrow".to_owned(),
        config: Some(config),
        ..v1::AlterTopicRequest::default()
    };
    broker.admin().alter_topic(alter).await.unwrap();
    let status = state.put(request).await.unwrap_err();
    assert_eq!(error_info(&status).reason, "BATCH_TOO_LARGE");
    let revoke = v1::RevokeLeaseRequest { lease_id };
    let revoked = state.revoke_lease(revoke).await.unwrap().into_inner();
    assert_eq!(revoked.removed_keys, 1);
}

#[tokio::test]
async fn a_time_to_live_out_of_bounds_is_refused() {
    let broker = TestBroker::start().await;
    let mut state = state(&broker).await;
    for ttl_ms in [0, 999, 86_400_001, u64::MAX] {
        let request = v1::GrantLeaseRequest { ttl_ms };
        let status = state.grant_lease(request).await.unwrap_err();
        assert_eq!(error_info(&status).reason, "INVALID_REQUEST");
    }
}
