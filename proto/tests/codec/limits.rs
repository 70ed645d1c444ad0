//! Each limit, by the broker's check and by the client's builder alike.

use prost::Message;
use statecast_proto::batch::{
    BatchBuilder, BatchError, BatchLimits, Compression, HeaderRef, RecordRef,
};

use crate::structured::{Header, Record, batch_of, check_default, record_of_value};

const LIMITS: BatchLimits = BatchLimits::DEFAULT;

/// What check and builder say of a batch of one record; they must agree.
fn verdict(record: &Record) -> Result<(), BatchError> {
    let headers: Vec<HeaderRef<'_>> = record
        .headers
        .iter()
        .map(|header| HeaderRef {
            name: &header.name,
            value: header.value.as_deref(),
        })
        .collect();
    let pushed = BatchBuilder::new(Compression::None).push(&RecordRef {
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers: &headers,
        timestamp_ms: record.timestamp_ms,
    });
    let payload = batch_of(vec![record.clone()]).encode_to_vec();
    assert_eq!(check_default(&payload).map(drop), pushed);
    pushed
}

#[test]
fn keys_are_bounded() {
    let record = |size| Record {
        key: Some(vec![0; size].into()),
        ..Record::default()
    };
    let limit = 64 << 10;
    assert_eq!(verdict(&record(limit)), Ok(()));
    assert_eq!(
        verdict(&record(limit + 1)),
        Err(BatchError::KeyTooLarge {
            size: limit + 1,
            limit
        })
    );
}

#[test]
fn records_are_bounded() {
    // A tag and a length of four bytes precede the value.
    let record = |size| record_of_value(vec![0; size - 5]);
    let limit = LIMITS.max_record;
    assert_eq!(verdict(&record(limit)), Ok(()));
    assert_eq!(
        verdict(&record(limit + 1)),
        Err(BatchError::RecordTooLarge {
            size: limit + 1,
            limit
        })
    );
}

#[test]
fn headers_are_bounded() {
    let header = |name: String| Header { name, value: None };
    let record = |headers| Record {
        headers,
        ..Record::default()
    };
    assert_eq!(verdict(&record(vec![header("h".to_owned()); 64])), Ok(()));
    assert_eq!(
        verdict(&record(vec![header("h".to_owned()); 65])),
        Err(BatchError::TooManyHeaders { limit: 64 })
    );
    assert_eq!(verdict(&record(vec![header("x".repeat(256))])), Ok(()));
    for name in [String::new(), "x".repeat(257)] {
        assert_eq!(
            verdict(&record(vec![header(name)])),
            Err(BatchError::HeaderInvalid { limit: 256 })
        );
    }
}

#[test]
fn records_of_a_batch_are_counted() {
    let many = batch_of(vec![Record::default(); 65_536]);
    assert!(check_default(&many.encode_to_vec()).is_ok());
    let too_many = batch_of(vec![Record::default(); 65_537]);
    let expected = Err(BatchError::TooManyRecords { limit: 65_536 });
    assert_eq!(check_default(&too_many.encode_to_vec()).map(drop), expected);

    let mut builder = BatchBuilder::new(Compression::None);
    for _ in 0..65_536 {
        builder.push(&RecordRef::default()).unwrap();
    }
    assert_eq!(builder.push(&RecordRef::default()), expected);
    assert_eq!(builder.finish().record_count, 65_536);
}
