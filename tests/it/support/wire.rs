//! Messages as any client would make them, and errors as it would read them.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;
use statecast_proto::v1;
use tonic::Status;

/// A record with a key and a value that depend on its number.
pub fn record(number: usize) -> v1::Record {
    v1::Record {
        key: Some(format!("key-{number}").into()),
        value: Some(format!("value-{number}").into()),
        ..v1::Record::default()
    }
}

/// A batch of so many records, as structured messages encode to.
pub fn batch(records: usize) -> Bytes {
    encode((0..records).map(record).collect())
}

/// A batch of these records.
pub fn encode(records: Vec<v1::Record>) -> Bytes {
    v1::RecordBatch {
        records,
        ..v1::RecordBatch::default()
    }
    .encode_to_vec()
    .into()
}

/// The `google.rpc.ErrorInfo` of a failed call.
#[derive(Debug)]
pub struct ErrorInfo {
    /// A stable name.
    pub reason: String,
    /// What it is about.
    pub metadata: HashMap<String, String>,
    /// Whether a `RetryInfo` goes with it.
    pub retry: bool,
}

/// What a failed call says of itself.
pub fn error_info(status: &Status) -> ErrorInfo {
    let details = StatusDetails::decode(status.details()).expect("details are a google.rpc.Status");
    let find = |name: &str| {
        let type_url = format!("type.googleapis.com/google.rpc.{name}");
        details.details.iter().find(|any| any.type_url == type_url)
    };
    let info = find("ErrorInfo").expect("every refusal carries an ErrorInfo");
    let info = Info::decode(info.value.clone()).expect("an ErrorInfo");
    assert_eq!(info.domain, "statecast");
    ErrorInfo {
        reason: info.reason,
        metadata: info.metadata,
        retry: find("RetryInfo").is_some(),
    }
}

// Written out here, so that the test doesn't believe the library that the
// broker uses.

#[derive(Clone, PartialEq, Message)]
struct StatusDetails {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Info {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(map = "string, string", tag = "3")]
    metadata: HashMap<String, String>,
}
