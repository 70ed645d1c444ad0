//! What can't be put, deleted or appended to a compacted topic: with which code, reason and
//! words it is refused, and what the metadata name.

use bytes::Bytes;
use statecast_proto::v1::{self, expected_version::Expected, write::Change};
use tonic::{Code, Status};

use crate::state::{change, compacted, state};
use crate::support::{TestBroker, encode, error_info};

const RESERVED: &str = "statecast-lease";

/// A refusal as it is expected.
struct Told {
    code: Code,
    reason: &'static str,
    message: String,
    metadata: Vec<(&'static str, String)>,
}

fn told(code: Code, reason: &'static str, message: impl Into<String>) -> Told {
    Told {
        code,
        reason,
        message: message.into(),
        metadata: Vec::new(),
    }
}

fn invalid(reason: &'static str, message: impl Into<String>) -> Told {
    told(Code::InvalidArgument, reason, message)
}

/// What the metadata say.
struct Named(String);

impl From<&str> for Named {
    fn from(text: &str) -> Named {
        Named(text.to_owned())
    }
}

impl From<u64> for Named {
    fn from(number: u64) -> Named {
        Named(number.to_string())
    }
}

impl Told {
    fn with(mut self, name: &'static str, value: impl Into<Named>) -> Told {
        let Named(value) = value.into();
        self.metadata.push((name, value));
        self
    }

    fn assert(&self, status: &Status) {
        let info = error_info(status);
        let found = (status.code(), &*info.reason, status.message());
        assert_eq!(found, (self.code, self.reason, &*self.message));
        for (name, value) in &self.metadata {
            let found = info.metadata.get(*name);
            assert_eq!(found, Some(value), "{name} of {}", self.message);
        }
    }
}

fn expect(expected: Expected) -> v1::ExpectedVersion {
    v1::ExpectedVersion {
        expected: Some(expected),
    }
}

fn write(key: &str) -> v1::Write {
    v1::Write {
        key: Bytes::copy_from_slice(key.as_bytes()),
        change: Some(Change::Value(Bytes::from_static(b"v"))),
        ..v1::Write::default()
    }
}

fn header(name: &str) -> v1::Header {
    v1::Header {
        name: name.to_owned(),
        value: None,
    }
}

fn put(writes: Vec<v1::Write>) -> v1::PutRequest {
    v1::PutRequest {
        topic: "t".to_owned(),
        writes,
        ..v1::PutRequest::default()
    }
}

/// What is wrong with one write, which is the second of a request.
fn bad_writes() -> Vec<(v1::Write, Told)> {
    let long = "k".repeat((64 << 10) + 1);
    let of = |change: &dyn Fn(&mut v1::Write)| {
        let mut write = write("a");
        change(&mut write);
        write
    };
    vec![
        (write(""), invalid("KEY_REQUIRED", "a key has at least one byte")),
        (
            write(&long),
            invalid("KEY_TOO_LARGE", "the key has 65537 bytes, 65536 are the most")
                .with("size", 65_537)
                .with("limit", 65_536),
        ),
        (
            write("first"),
            invalid("INVALID_REQUEST", "a key is written twice in one call"),
        ),
        (
            of(&|write| write.change = None),
            invalid("INVALID_REQUEST", "a write has a value, or removes its key"),
        ),
        (
            of(&|write| write.headers = vec![header("own"), header(RESERVED)]),
            invalid(
                "HEADER_RESERVED",
                "only the broker writes the header statecast-lease; lease_id names the lease of a key",
            )
            .with("header", RESERVED),
        ),
        (
            of(&|write| {
                write.headers = vec![header("own"); 64];
                write.lease_id = Some(1);
            }),
            invalid("TOO_MANY_HEADERS", "with a lease, a record has at most 63 headers")
                .with("limit", 63),
        ),
        (
            of(&|write| {
                write.change = Some(Change::Remove(v1::Removal {}));
                write.lease_id = Some(1);
            }),
            invalid("INVALID_REQUEST", "a key that is removed ends with no lease"),
        ),
        (
            of(&|write| write.lease_id = Some(4711)),
            told(Code::NotFound, "LEASE_NOT_FOUND", "there never was a lease 4711")
                .with("lease_id", 4711),
        ),
        (
            of(&|write| write.lease_id = Some(0)),
            told(Code::NotFound, "LEASE_NOT_FOUND", "there never was a lease 0"),
        ),
        (
            of(&|write| write.lease_id = Some(1)),
            told(
                Code::FailedPrecondition,
                "LEASE_EXPIRED",
                "lease 1 is over: it wasn't kept alive, or was revoked",
            )
            .with("lease_id", 1),
        ),
    ]
}

/// What is wrong with a request as a whole.
fn bad_requests() -> Vec<(v1::PutRequest, Told)> {
    let many = (0..1001).map(|key| write(&key.to_string())).collect();
    let headers = |headers| v1::Write {
        headers,
        ..write("a")
    };
    let large = v1::Write {
        change: Some(Change::Value(vec![7; 5 << 20].into())),
        ..write("a")
    };
    let of = |change: &dyn Fn(&mut v1::PutRequest)| {
        let mut put = put(vec![write("a")]);
        change(&mut put);
        put
    };
    vec![
        (
            put(vec![]),
            invalid("INVALID_REQUEST", "there is nothing to write"),
        ),
        (
            put(many),
            invalid(
                "INVALID_REQUEST",
                "one call writes 1000 keys at most, not 1001",
            )
            .with("limit", 1000),
        ),
        (
            put(vec![headers(vec![header("own"); 65])]),
            invalid("TOO_MANY_HEADERS", "a record has at most 64 headers"),
        ),
        (
            put(vec![headers(vec![header("")])]),
            invalid(
                "HEADER_INVALID",
                "the name of a header is 1 to 256 bytes of UTF-8",
            ),
        ),
        (
            put(vec![large]),
            invalid(
                "BATCH_TOO_LARGE",
                "the batch has 5242893 bytes, topic t takes 4194304",
            )
            .with("limit", 4_194_304),
        ),
        (
            of(&|put| put.request_id = Some("r".repeat(65))),
            invalid("INVALID_REQUEST", "request_id has 65 bytes; it has 1 to 64"),
        ),
        (
            of(&|put| put.partition = Some(7)),
            told(
                Code::NotFound,
                "PARTITION_NOT_FOUND",
                "topic t has 2 partitions, no partition 7",
            )
            .with("partition", 7),
        ),
        (
            of(&|put| "none".clone_into(&mut put.topic)),
            told(Code::NotFound, "TOPIC_NOT_FOUND", "there is no topic none"),
        ),
        (
            of(&|put| "log".clone_into(&mut put.topic)),
            told(
                Code::FailedPrecondition,
                "TOPIC_NOT_COMPACTED",
                "topic log isn't compacted: it has no state",
            )
            .with("topic", "log"),
        ),
    ]
}

/// What is expected of key `there`, which is in version 0 of its partition, or of `gone`.
fn bad_expectations() -> Vec<(&'static str, Expected, Told)> {
    let mismatch = |message: &str| told(Code::Aborted, "VERSION_MISMATCH", message);
    let absent = Expected::Absent(v1::Absent {});
    vec![
        (
            "there",
            absent,
            mismatch("the key is there, in version 0").with("current_version", 0),
        ),
        (
            "there",
            Expected::Version(1),
            mismatch("the key is in version 0, not in version 1").with("current_version", 0),
        ),
        (
            "gone",
            Expected::Version(1),
            mismatch("the key isn't there, and version 1 was expected"),
        ),
        (
            "there",
            Expected::Version(1000),
            told(
                Code::OutOfRange,
                "VERSION_UNKNOWN",
                "the key was never in version 1000: its partition ends at 3",
            )
            .with("high_watermark", 3),
        ),
    ]
}

/// A broker with topic `t`, whose partition 0 has key `there`, and had `gone`; topic `log`,
/// which isn't compacted; and lease 1, which is over.
async fn world() -> TestBroker {
    let broker = TestBroker::start().await;
    compacted(&broker, "t", 2).await;
    broker.create_topic("log", 1).await;
    let mut state = state(&broker).await;
    let request = v1::GrantLeaseRequest { ttl_ms: 60_000 };
    let lease_id = state
        .grant_lease(request)
        .await
        .unwrap()
        .into_inner()
        .lease_id;
    assert_eq!(lease_id, 1);
    let request = v1::RevokeLeaseRequest { lease_id };
    state.revoke_lease(request).await.unwrap();
    let records = vec![
        change("there", Some("v")),
        change("gone", Some("v")),
        change("gone", None),
    ];
    broker.produce("t", 0, encode(records)).await;
    broker
}

#[tokio::test]
async fn what_cant_be_put_is_refused_in_clear_words() {
    let broker = world().await;
    let mut state = state(&broker).await;
    for (bad, told) in bad_writes() {
        // Nothing of the request is carried out.
        let request = put(vec![write("first"), bad, write("last")]);
        let status = state.put(request).await.unwrap_err();
        told.with("topic", "t").with("index", 1).assert(&status);
    }
    for (request, told) in bad_requests() {
        told.assert(&state.put(request).await.unwrap_err());
    }
    for (key, expected, told) in bad_expectations() {
        let conditional = v1::Write {
            expected: Some(expect(expected)),
            ..write(key)
        };
        // The place among the writes, not among those with a condition.
        let mut request = put(vec![write("first"), write("second"), conditional]);
        request.partition = Some(0);
        let status = state.put(request).await.unwrap_err();
        let told = told.with("topic", "t").with("partition", 0);
        told.with("key", key).with("index", 2).assert(&status);
    }
    for key in ["first", "second", "last", "a"] {
        let request = v1::GetRequest {
            topic: "t".to_owned(),
            key: Bytes::copy_from_slice(key.as_bytes()),
            partition: Some(0),
            ..v1::GetRequest::default()
        };
        assert_eq!(state.get(request).await.unwrap().into_inner().entry, None);
    }
    broker.assert_serves().await;
}

#[tokio::test]
async fn what_cant_be_deleted_is_refused_in_clear_words() {
    let broker = world().await;
    let mut state = state(&broker).await;
    let delete = |key: &str, expected| v1::DeleteRequest {
        topic: "t".to_owned(),
        key: Bytes::copy_from_slice(key.as_bytes()),
        partition: Some(0),
        expected,
        ..v1::DeleteRequest::default()
    };
    for (bad, told) in bad_writes().into_iter().take(2) {
        let key = String::from_utf8(bad.key.to_vec()).unwrap();
        told.assert(&state.delete(delete(&key, None)).await.unwrap_err());
    }
    for (key, expected, told) in bad_expectations() {
        let status = state.delete(delete(key, Some(expect(expected)))).await;
        told.with("key", key).assert(&status.unwrap_err());
    }
    // One that isn't there is removed all the same.
    state.delete(delete("gone", None)).await.unwrap();
}

#[tokio::test]
async fn records_that_a_compacted_topic_doesnt_take_are_refused_in_clear_words() {
    let broker = world().await;
    let sound = || change("a", Some("1"));
    let keyless = v1::Record {
        key: None,
        ..sound()
    };
    let reserved = v1::Record {
        headers: vec![header("own"), header(RESERVED)],
        ..sound()
    };
    let no_key = "record 1 of the batch has no key: every record of a compacted topic has one";
    let not_yours =
        "record 1 of the batch has the header statecast-lease, which only the broker writes";
    let bad = [
        (keyless, invalid("KEY_REQUIRED", no_key)),
        (
            reserved.clone(),
            invalid("HEADER_RESERVED", not_yours).with("header", RESERVED),
        ),
    ];
    for (record, told) in bad {
        let told = told.with("record", 1).with("topic", "t");
        let batch = encode(vec![sound(), record]);
        for partition in [None, Some(1)] {
            let request = v1::ProduceRequest {
                topic: "t".to_owned(),
                partition,
                batch: batch.clone(),
                ..v1::ProduceRequest::default()
            };
            told.assert(&broker.log().produce(request).await.unwrap_err());
        }
        let of_stream = v1::PartitionBatch {
            topic: "t".to_owned(),
            batch,
            ..v1::PartitionBatch::default()
        };
        let batches = vec![of_stream];
        let requests = tokio_stream::once(v1::ProduceStreamRequest { batches });
        let mut answers = broker.produce_stream(requests).await;
        let answer = answers.message().await.unwrap().unwrap();
        match answer.results[0].outcome.as_ref().unwrap() {
            v1::batch_result::Outcome::Error(error) => {
                assert_eq!(
                    (&*error.reason, &*error.message),
                    (told.reason, &*told.message)
                );
            }
            other @ v1::batch_result::Outcome::Appended(_) => panic!("{other:?}"),
        }
    }
    // Elsewhere it means nothing.
    broker.produce("log", 0, encode(vec![reserved])).await;
}

#[tokio::test]
async fn preconditions_that_arent_true_are_told_by_their_place() {
    let broker = world().await;
    let precondition = |key: &str, version| v1::Precondition {
        key: Bytes::copy_from_slice(key.as_bytes()),
        partition: Some(0),
        version,
    };
    for (key, expected, told) in bad_expectations() {
        let version = match expected {
            Expected::Absent(_) => None,
            Expected::Version(version) => Some(version),
        };
        let request = v1::ProduceRequest {
            topic: "t".to_owned(),
            partition: Some(0),
            batch: encode(vec![change("a", Some("1"))]),
            preconditions: vec![precondition("gone", None), precondition(key, version)],
            ..v1::ProduceRequest::default()
        };
        let status = broker.log().produce(request).await.unwrap_err();
        told.with("key", key).with("index", 1).assert(&status);
    }
    let request = v1::ProduceRequest {
        topic: "t".to_owned(),
        batch: encode(vec![change("a", Some("1"))]),
        preconditions: vec![precondition("gone", None), precondition("", None)],
        ..v1::ProduceRequest::default()
    };
    let status = broker.log().produce(request).await.unwrap_err();
    let told = invalid("KEY_REQUIRED", "a key has at least one byte");
    told.with("index", 1).assert(&status);
}
