//! The builder: what is refused leaves no trace, memory is used again.

use bytes::Bytes;
use statecast_proto::batch::{BatchBuilder, BatchError, Compression, RecordRef, decode};

fn values(payload: Bytes) -> Vec<Bytes> {
    let records = decode(payload).unwrap();
    records
        .map(|record| record.unwrap().value.unwrap())
        .collect()
}

#[test]
fn refused_record_leaves_the_batch_as_it_was() {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(&RecordRef::of_value(b"first")).unwrap();
    let before = builder.encoded_len();
    let key = vec![0; 100_000];
    let refused = builder.push(&RecordRef::tombstone(&key));
    assert!(matches!(refused, Err(BatchError::KeyTooLarge { .. })));
    assert_eq!(builder.encoded_len(), before);
    builder.push(&RecordRef::of_value(b"second")).unwrap();
    let batch = builder.finish();
    assert_eq!(batch.record_count, 2);
    assert_eq!(values(batch.payload), ["first", "second"]);
}

#[test]
fn records_of_a_batch_are_bounded_in_all() {
    let mut builder = BatchBuilder::new(Compression::Lz4);
    let value = vec![0; 4 << 20];
    for _ in 0..3 {
        builder.push(&RecordRef::of_value(&value)).unwrap();
    }
    let refused = builder.push(&RecordRef::of_value(&value));
    assert!(
        matches!(refused, Err(BatchError::UncompressedTooLarge { limit, .. }) if limit == 16 << 20),
        "{refused:?}"
    );
    assert_eq!(builder.record_count(), 3);
}

#[test]
fn buffer_is_used_again_once_the_batch_is_dropped() {
    let mut builder = BatchBuilder::new(Compression::None);
    let mut address_of_next = || {
        for _ in 0..100 {
            builder.push(&RecordRef::of_value(&[1; 1000])).unwrap();
        }
        builder.finish().payload.as_ptr()
    };
    // The first one grows, and tells how large the others will get.
    address_of_next();
    let second = address_of_next();
    for _ in 0..10 {
        assert_eq!(address_of_next(), second);
    }
}

#[test]
fn batch_that_is_kept_is_not_overwritten() {
    let mut builder = BatchBuilder::new(Compression::None);
    let mut batches = Vec::new();
    for byte in 0..20 {
        builder.push(&RecordRef::of_value(&[byte; 100])).unwrap();
        batches.push(builder.finish().payload);
    }
    for (byte, payload) in (0..).zip(batches) {
        assert_eq!(values(payload), [vec![byte; 100]]);
    }
}

#[test]
fn compression_never_makes_a_batch_larger() {
    // The bytes of a multiplicative generator: there is nothing to compress.
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_be_bytes()[0]
    })
    .take(1000)
    .collect();
    for compression in Compression::ALL {
        let mut builder = BatchBuilder::new(compression);
        builder.push(&RecordRef::of_value(&noise)).unwrap();
        let len = builder.encoded_len();
        let batch = builder.finish();
        assert_eq!(batch.payload.len(), len, "{compression}");
        assert_eq!(values(batch.payload), [&noise[..]]);
    }
}
