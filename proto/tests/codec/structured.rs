//! The messages as any other language sees them, with structured records, and
//! arbitrary ones.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use statecast_proto::batch::{
    self, BatchBuilder, BatchError, BatchLimits, BatchSummary, Compression, HeaderRef, RecordRef,
    check,
};

pub(crate) use statecast_proto::v1::{Header, Record, RecordBatch};

pub(crate) fn batch_of(records: Vec<Record>) -> RecordBatch {
    RecordBatch {
        records,
        ..RecordBatch::default()
    }
}

pub(crate) fn record_of_value(value: Vec<u8>) -> Record {
    Record {
        value: Some(value.into()),
        ..Record::default()
    }
}

/// What the codec decoded, as the message that it was.
pub(crate) fn to_message(record: batch::Record) -> Record {
    let header = |header: batch::Header| Header {
        name: header.name,
        value: header.value,
    };
    Record {
        key: record.key,
        value: record.value,
        headers: record.headers.into_iter().map(header).collect(),
        timestamp_ms: record.timestamp_ms,
        offset_gap: record.offset_gap,
    }
}

/// Encodes as a client does.
pub(crate) fn encode(records: &[Record], compression: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(compression);
    for record in records {
        let headers: Vec<HeaderRef<'_>> = record
            .headers
            .iter()
            .map(|header| HeaderRef {
                name: &header.name,
                value: header.value.as_deref(),
            })
            .collect();
        let record = RecordRef {
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &headers,
            timestamp_ms: record.timestamp_ms,
        };
        builder.push(&record).expect("it is within all limits");
    }
    let batch = builder.finish();
    assert_eq!(batch.record_count as usize, records.len());
    assert_eq!(batch.checksum, statecast_proto::checksum(&batch.payload));
    assert!(builder.is_empty());
    assert_eq!(batch::count(&batch.payload), Ok(records.len() as u64));
    batch.payload
}

/// Checks as the broker does.
pub(crate) fn check_default(payload: &[u8]) -> Result<BatchSummary, BatchError> {
    check(payload, &BatchLimits::default(), &mut Vec::new())
}

fn header() -> impl Strategy<Value = Header> {
    let value = option::of(vec(any::<u8>(), 0..40).prop_map(Bytes::from));
    ("[a-zé]{1,20}", value).prop_map(|(name, value)| Header { name, value })
}

/// Some that compress well, and some that don't.
fn bytes() -> impl Strategy<Value = Option<Bytes>> {
    let bytes = prop_oneof![
        vec(any::<u8>(), 0..300),
        (any::<u8>(), 0..300_usize).prop_map(|(byte, len)| vec![byte; len]),
    ];
    option::of(bytes.prop_map(Bytes::from))
}

fn record() -> impl Strategy<Value = Record> {
    let headers = vec(header(), 0..4);
    (bytes(), bytes(), headers, any::<Option<i64>>()).prop_map(
        |(key, value, headers, timestamp_ms)| Record {
            key,
            value,
            headers,
            timestamp_ms,
            offset_gap: 0,
        },
    )
}

pub(crate) fn records() -> impl Strategy<Value = Vec<Record>> {
    vec(record(), 1..20)
}

pub(crate) fn any_compression() -> impl Strategy<Value = Compression> {
    prop::sample::select(&Compression::ALL[..])
}
