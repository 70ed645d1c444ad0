//! From records of keys to what goes over the wire.

use bytes::Bytes;
use statecast_proto::batch::RecordView;
use statecast_proto::v1;

use crate::model::Offset;
use crate::views::{Change, LEASE_HEADER, lease_of_header};

/// A key and its value.
pub(super) fn entry(change: Change) -> v1::Entry {
    let Decoded {
        value,
        timestamp_ms,
        headers,
        lease_id,
    } = decode(&change.body);
    v1::Entry {
        partition: change.partition,
        key: change.key,
        value: value.unwrap_or_default(),
        offset: change.offset.0,
        version: version(change.offset),
        timestamp_ms,
        headers,
        lease_id,
    }
}

/// A change of a key.
pub(super) fn change(change: Change) -> v1::Change {
    use v1::change::Change::{Put, Removed};
    let change = match change.is_tombstone {
        false => Put(entry(change)),
        true => {
            let decoded = decode(&change.body);
            Removed(v1::Removed {
                partition: change.partition,
                key: change.key,
                offset: change.offset.0,
                timestamp_ms: decoded.timestamp_ms,
                headers: decoded.headers,
            })
        }
    };
    v1::Change {
        change: Some(change),
    }
}

/// The version of a key whose latest record lies there.
pub(super) fn version(offset: Offset) -> u64 {
    offset.0
}

/// Offsets by the numbers of their partitions.
pub(super) fn positions(offsets: &[Offset]) -> Vec<v1::RecordPosition> {
    let position = |(partition, &Offset(offset))| v1::RecordPosition { partition, offset };
    (0..).zip(offsets).map(position).collect()
}

struct Decoded {
    value: Option<Bytes>,
    timestamp_ms: i64,
    headers: Vec<v1::Header>,
    lease_id: Option<u64>,
}

fn decode(body: &Bytes) -> Decoded {
    let record = RecordView::decode(body).expect("it was read before it was kept");
    let slice = |bytes: &[u8]| body.slice_ref(bytes);
    let mut lease_id = None;
    let mut headers = Vec::new();
    for header in record.headers() {
        if header.name == LEASE_HEADER {
            let lease = header.value.and_then(lease_of_header);
            lease_id = lease.map(|lease| lease.0.get());
            continue;
        }
        headers.push(v1::Header {
            name: header.name.to_owned(),
            value: header.value.map(slice),
        });
    }
    Decoded {
        value: record.value.map(slice),
        timestamp_ms: record.timestamp_ms.unwrap_or_default(),
        headers,
        lease_id,
    }
}
