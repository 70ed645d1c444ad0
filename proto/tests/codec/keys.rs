//! Batches whose records all need keys.

use proptest::prelude::*;
use prost::Message;
use statecast_proto::batch::{BatchError, BatchLimits, BatchSummary, Compression, check_keyed};
use statecast_proto::reason::Reason;

use crate::structured::{
    Header, Record, any_compression, batch_of, check_default, encode, records,
};

/// The verdict, and the keys that were seen until then.
fn keyed(payload: &[u8]) -> (Result<BatchSummary, BatchError>, Vec<Vec<u8>>) {
    let mut keys = Vec::new();
    let mut scratch = Vec::new();
    let each = |key: &[u8]| keys.push(key.to_vec());
    let limits = BatchLimits::DEFAULT;
    let verdict = check_keyed(payload, &limits, &mut scratch, Some("reserved"), each);
    (verdict, keys)
}

proptest! {
    #[test]
    fn keys_are_seen_in_order_up_to_the_first_that_is_missing(
        records in records(),
        compression in any_compression(),
    ) {
        let payload = encode(&records, compression);
        let (verdict, seen) = keyed(&payload);
        let has_key = |record: &&Record| record.key.as_ref().is_some_and(|key| !key.is_empty());
        let expected: Vec<&[u8]> = records
            .iter()
            .take_while(has_key)
            .map(|record| &record.key.as_ref().unwrap()[..])
            .collect();
        prop_assert_eq!(&seen, &expected);
        if expected.len() < records.len() {
            let record = u32::try_from(expected.len()).unwrap();
            let error = verdict.unwrap_err();
            prop_assert_eq!(error.record(), Some(record));
            prop_assert_eq!(error.reason(), Reason::KeyRequired);
        } else {
            prop_assert_eq!(verdict, check_default(&payload));
        }
    }
}

#[test]
fn of_a_key_that_comes_twice_the_last_one_counts() {
    // A record with two key fields, as a protobuf library would merge it.
    let record = [&b"\x0a\x03one"[..], b"\x0a\x03two"].concat();
    let payload = [&[0x0a, 10][..], &record].concat();
    assert_eq!(keyed(&payload).1, [b"two"]);
    let emptied = [&b"\x0a\x03one"[..], b"\x0a\x00"].concat();
    let payload = [&[0x0a, 7][..], &emptied].concat();
    let (verdict, keys) = keyed(&payload);
    assert_eq!(verdict, Err(BatchError::KeyRequired { record: 0 }));
    assert!(keys.is_empty());
}

#[test]
fn a_header_that_is_reserved_is_refused_wherever_it_is() {
    let header = |name: &str| Header {
        name: name.to_owned(),
        value: None,
    };
    let record = |names: &[&str]| Record {
        key: Some(b"key".to_vec().into()),
        headers: names.iter().map(|name| header(name)).collect(),
        ..Record::default()
    };
    let sound = ["reserve", "reserved-", "Reserved", "x"];
    let refused = BatchError::HeaderReserved {
        record: 1,
        name: "reserved",
    };
    for compression in [Compression::None, Compression::Lz4] {
        let payload = encode(&[record(&sound)], compression);
        assert_eq!(keyed(&payload).0, check_default(&payload));
        let records = [record(&sound), record(&["x", "reserved"])];
        let payload = encode(&records, compression);
        assert_eq!(keyed(&payload).0, Err(refused.clone()));
        // Whoever may write it is not held up, nor who needs no keys.
        let own = check_keyed(
            &payload,
            &BatchLimits::DEFAULT,
            &mut Vec::new(),
            None,
            |_| {},
        );
        assert_eq!(own, check_default(&payload));
        assert!(own.is_ok());
    }
    // Of a name that comes twice the last one counts, as for those who read it.
    let twice = b"\x0a\x01k\x1a\x0d\x0a\x01x\x0a\x08reserved";
    let len = u8::try_from(twice.len()).unwrap();
    let payload = [&[0x0a, len][..], twice].concat();
    assert_eq!(keyed(&payload).0.unwrap_err().record(), Some(0));
    assert_eq!(refused.reason(), Reason::HeaderReserved);
}

#[test]
fn other_errors_are_told_as_without_keys() {
    let too_long = Record {
        key: Some(vec![0; (64 << 10) + 1].into()),
        ..Record::default()
    };
    let payload = batch_of(vec![too_long]).encode_to_vec();
    assert_eq!(keyed(&payload).0, check_default(&payload));
    assert_eq!(keyed(&[]).0, Err(BatchError::Empty));
}
