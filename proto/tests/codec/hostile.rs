//! Bytes that no honest producer sends are refused, and never a panic.

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use statecast_proto::batch::{BatchError, BatchLimits, Compression, decode, split};

use crate::structured::{
    Record, RecordBatch, any_compression, batch_of, check_default, encode, records, to_message,
};

/// Tags, lengths and numbers as they occur in a batch: far more likely than
/// arbitrary bytes to get past the first field.
fn nearly_a_batch() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        prop::sample::select(&[0x0a, 0x12, 0x1a, 0x20, 0x28, 0x2a, 0x10, 0x18][..]),
        0..12_u8,
        any::<u8>(),
    ];
    vec(byte, 0..60)
}

proptest! {
    #[test]
    fn nonsense_never_panics(bytes in vec(any::<u8>(), 0..400)) {
        let _ = check_default(&bytes);
        let _ = decode(Bytes::from(bytes.clone())).map(Iterator::count);
        let _ = split(&bytes).count();
    }

    #[test]
    fn what_decodes_is_what_a_protobuf_library_decodes(bytes in nearly_a_batch()) {
        let decoded: Result<Vec<Record>, BatchError> = decode(Bytes::from(bytes.clone()))
            .and_then(|records| records.map(|record| record.map(to_message)).collect());
        if let Ok(decoded) = decoded {
            let batch = RecordBatch::decode(&bytes[..]).unwrap();
            if batch.compressed.is_empty() {
                prop_assert_eq!(decoded, batch.records);
            }
        }
    }

    #[test]
    fn what_can_be_split_can_be_moved(bytes in nearly_a_batch(), gap in any::<u32>()) {
        for piece in split(&bytes).map_while(Result::ok) {
            let mut moved = BytesMut::new();
            piece.put_moved(gap, Some(1), &mut moved);
            let moved = split(&moved).next().unwrap().unwrap();
            prop_assert_eq!((moved.key, moved.is_tombstone), (piece.key, piece.is_tombstone));
            prop_assert_eq!(moved.timestamp_ms, piece.timestamp_ms.or(Some(1)));
            prop_assert_eq!(moved.offset_gap, gap);
        }
    }

    #[test]
    fn what_passes_the_check_decodes(bytes in nearly_a_batch()) {
        if let Ok(summary) = check_default(&bytes) {
            prop_assert_eq!(count(bytes), summary.record_count as usize);
        }
    }

    #[test]
    fn what_passes_the_check_decodes_even_after_mutation(
        records in records(),
        compression in any_compression(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut payload = encode(&records, compression).to_vec();
        for (at, byte) in changes {
            let at = at.index(payload.len());
            payload[at] = byte;
        }
        if let Ok(summary) = check_default(&payload) {
            prop_assert_eq!(count(payload), summary.record_count as usize);
        }
    }

    #[test]
    fn truncated_batches_are_refused(records in records(), cut in any::<prop::sample::Index>()) {
        let payload = encode(&records, Compression::None);
        let mut ends = vec![0];
        for piece in split(&payload) {
            ends.push(ends.last().unwrap() + piece.unwrap().bytes.len());
        }
        let cut = cut.index(payload.len());
        prop_assert_eq!(check_default(&payload[..cut]).is_ok(), cut > 0 && ends.contains(&cut));
    }
}

/// How many records `payload` decodes to; each must.
fn count(payload: Vec<u8>) -> usize {
    let records = decode(Bytes::from(payload)).unwrap();
    records.inspect(|record| assert!(record.is_ok())).count()
}

fn assert_malformed(what: &str, payload: &[u8], expected: &'static str) {
    assert_refused(what, payload, &BatchError::Malformed(expected));
}

/// Each of those who read a batch says what is wrong with it.
fn assert_refused(what: &str, payload: &[u8], expected: &BatchError) {
    assert_eq!(check_default(payload).as_ref(), Err(expected), "{what}");
    let decoded = decode(Bytes::copy_from_slice(payload))
        .and_then(|mut records| records.try_for_each(|record| record.map(drop)));
    assert_eq!(decoded.as_ref(), Err(expected), "{what}");
    let split = split(payload).try_for_each(|piece| piece.map(drop));
    assert_eq!(split.as_ref(), Err(expected), "{what}");
}

#[test]
fn each_kind_of_malformed_encoding_is_named() {
    const TRUNCATED: &str = "it ends in the middle of a field";
    const WIRE_TYPE: &str = "a field has an unknown wire type";
    const WRONG_TYPE: &str = "a field has the wrong type";
    const OVER_64_BITS: &str = "a number is over 64 bits";
    let long = |last: u8| {
        let mut payload = vec![0x0a, 11, 0x20];
        payload.extend([0xff; 9]);
        payload.push(last);
        payload
    };
    assert!(check_default(&long(1)).is_ok(), "64 bits are fine");
    assert_malformed("a 65th bit", &long(2), OVER_64_BITS);
    assert_malformed("an eleventh byte", &long(0x80), OVER_64_BITS);
    assert_malformed("no length", &[0x0a], TRUNCATED);
    assert_malformed("half a number", &[0x0a, 2, 0x20, 0x80], TRUNCATED);
    assert_malformed("a record beyond the end", &[0x0a, 3, 0x12, 0], TRUNCATED);
    assert_malformed("a key beyond its record", &[0x0a, 2, 0x0a, 1, 7], TRUNCATED);
    assert_malformed(
        "a length of 64 bits",
        &[
            0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
        ],
        TRUNCATED,
    );
    assert_malformed("a group begins", &[0x0a, 0, 6 << 3 | 3], WIRE_TYPE);
    assert_malformed("a group ends", &[0x0a, 1, 6 << 3 | 4], WIRE_TYPE);
    assert_malformed("wire type 7", &[0x0a, 1, 6 << 3 | 7], WIRE_TYPE);
    assert_malformed("a number for records", &[0x0a, 0, 0x08, 1], WRONG_TYPE);
    assert_malformed("a number for a key", &[0x0a, 2, 0x08, 1], WRONG_TYPE);
    assert_malformed("bytes for a time", &[0x0a, 2, 0x22, 0], WRONG_TYPE);
    assert_malformed("field 0", &[0x0a, 2, 0x02, 0], "a field has number 0");
    assert_malformed(
        "a tag of 33 bits",
        &[0x0a, 0, 0x80, 0x80, 0x80, 0x80, 0x10, 0],
        "a tag is over 32 bits",
    );
}

#[test]
fn name_of_a_header_that_is_not_utf_8_is_refused_as_such() {
    let limit = BatchLimits::DEFAULT.max_header_name;
    assert_refused(
        "a header that isn't UTF-8",
        &[0x0a, 5, 0x1a, 3, 0x0a, 1, 0xff],
        &BatchError::HeaderInvalid { limit },
    );
}

#[test]
fn producers_leave_no_gaps() {
    let gap = Record {
        offset_gap: 1,
        ..Record::default()
    };
    assert_eq!(
        check_default(&batch_of(vec![gap]).encode_to_vec()),
        Err(BatchError::Malformed("a producer set offset_gap"))
    );
}

#[test]
fn batch_without_records_is_empty() {
    assert_eq!(check_default(&[]), Err(BatchError::Empty));
    // Only a field of a later version.
    assert_eq!(check_default(&[15 << 3, 1]), Err(BatchError::Empty));
}
