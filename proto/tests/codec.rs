//! The codec against prost, against nonsense, and against its own limits.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;
use statecast_proto::batch::{
    BatchBuilder, BatchError, BatchLimits, Compression, HeaderRef, RecordRef, check, decode,
    decode_ref, split,
};

/// The messages as any other language sees them: with structured records.
mod structured {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Header {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(bytes = "vec", optional, tag = "2")]
        pub value: Option<Vec<u8>>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Record {
        #[prost(bytes = "vec", optional, tag = "1")]
        pub key: Option<Vec<u8>>,
        #[prost(bytes = "vec", optional, tag = "2")]
        pub value: Option<Vec<u8>>,
        #[prost(message, repeated, tag = "3")]
        pub headers: Vec<Header>,
        #[prost(int64, optional, tag = "4")]
        pub timestamp_ms: Option<i64>,
        #[prost(uint32, tag = "5")]
        pub offset_gap: u32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct RecordBatch {
        #[prost(message, repeated, tag = "1")]
        pub records: Vec<Record>,
        #[prost(int32, tag = "2")]
        pub compression: i32,
        #[prost(uint32, tag = "3")]
        pub uncompressed_size: u32,
        #[prost(uint32, tag = "4")]
        pub record_count: u32,
        #[prost(bytes = "vec", tag = "5")]
        pub compressed: Vec<u8>,
    }
}

use structured::{Header, Record, RecordBatch};

fn header() -> impl Strategy<Value = Header> {
    (
        "[a-zé]{1,20}",
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)),
    )
        .prop_map(|(name, value)| Header { name, value })
}

fn record() -> impl Strategy<Value = Record> {
    let bytes = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300));
    (
        bytes(),
        bytes(),
        proptest::collection::vec(header(), 0..4),
        any::<Option<i64>>(),
    )
        .prop_map(|(key, value, headers, timestamp_ms)| Record {
            key,
            value,
            headers,
            timestamp_ms,
            offset_gap: 0,
        })
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    proptest::collection::vec(record(), 1..40)
}

fn any_compression() -> impl Strategy<Value = Compression> {
    prop_oneof![
        Just(Compression::None),
        Just(Compression::Lz4),
        Just(Compression::Zstd)
    ]
}

fn encode(records: &[Record], compression: Compression) -> Bytes {
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
    batch.payload
}

fn check_default(payload: &[u8]) -> Result<statecast_proto::batch::BatchSummary, BatchError> {
    check(payload, &BatchLimits::default(), &mut Vec::new())
}

fn to_structured(record: statecast_proto::batch::Record) -> Record {
    let header = |header: statecast_proto::batch::Header| Header {
        name: header.name,
        value: header.value.map(|value| value.to_vec()),
    };
    Record {
        key: record.key.map(|key| key.to_vec()),
        value: record.value.map(|value| value.to_vec()),
        headers: record.headers.into_iter().map(header).collect(),
        timestamp_ms: record.timestamp_ms,
        offset_gap: record.offset_gap,
    }
}

proptest! {
    #[test]
    fn bytes_are_those_that_any_protobuf_library_makes(records in records()) {
        let batch = RecordBatch { records: records.clone(), ..RecordBatch::default() };
        prop_assert_eq!(encode(&records, Compression::None), batch.encode_to_vec());
    }

    #[test]
    fn records_come_back_as_they_were(records in records(), compression in any_compression()) {
        let payload = encode(&records, compression);
        let decoded: Vec<Record> =
            decode(payload).unwrap().map(|record| to_structured(record.unwrap())).collect();
        prop_assert_eq!(decoded, records);
    }

    #[test]
    fn check_counts_and_finds_the_latest_time(records in records(), compression in any_compression()) {
        let summary = check_default(&encode(&records, compression)).unwrap();
        prop_assert_eq!(summary.record_count as usize, records.len());
        prop_assert_eq!(summary.compression, compression);
        let times: Option<Vec<i64>> = records.iter().map(|record| record.timestamp_ms).collect();
        prop_assert_eq!(summary.max_timestamp_ms, times.and_then(|times| times.into_iter().max()));
    }

    #[test]
    fn pieces_of_a_split_batch_make_a_batch(records in records()) {
        let payload = encode(&records, Compression::None);
        let pieces: Vec<_> = split(&payload).map(|piece| piece.unwrap()).collect();
        let keys: Vec<_> = pieces.iter().map(|piece| piece.key.map(<[u8]>::to_vec)).collect();
        prop_assert_eq!(keys, records.iter().map(|record| record.key.clone()).collect::<Vec<_>>());
        let whole: Vec<u8> = pieces.iter().flat_map(|piece| piece.bytes.iter().copied()).collect();
        prop_assert_eq!(whole, payload);
    }

    #[test]
    fn nonsense_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = check_default(&bytes);
        let _ = decode(Bytes::from(bytes.clone())).map(Iterator::count);
        let _ = split(&bytes).count();
    }

    #[test]
    fn what_passes_the_check_decodes_even_after_mutation(
        records in records(),
        compression in any_compression(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut payload = encode(&records, compression).to_vec();
        for (at, byte) in changes {
            let at = at.index(payload.len());
            payload[at] = byte;
        }
        if let Ok(summary) = check_default(&payload) {
            let decoded = decode(Bytes::from(payload)).unwrap();
            let count = decoded.inspect(|record| assert!(record.is_ok())).count();
            prop_assert_eq!(count, summary.record_count as usize);
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

fn one(record: Record) -> Vec<u8> {
    RecordBatch {
        records: vec![record],
        ..RecordBatch::default()
    }
    .encode_to_vec()
}

#[test]
fn limits_are_enforced_one_by_one() {
    let limits = BatchLimits::default();
    let long_key = Record {
        key: Some(vec![0; limits.max_key + 1]),
        ..Record::default()
    };
    assert!(matches!(
        check_default(&one(long_key)),
        Err(BatchError::KeyTooLarge { .. })
    ));
    let header = Header {
        name: "h".to_owned(),
        value: None,
    };
    let headers = Record {
        headers: vec![header.clone(); 65],
        ..Record::default()
    };
    assert_eq!(
        check_default(&one(headers)),
        Err(BatchError::TooManyHeaders { limit: 64 })
    );
    for name in [String::new(), "x".repeat(257)] {
        let bad = Record {
            headers: vec![Header { name, value: None }],
            ..Record::default()
        };
        assert_eq!(
            check_default(&one(bad)),
            Err(BatchError::HeaderInvalid { limit: 256 })
        );
    }
    let large = Record {
        value: Some(vec![0; limits.max_record]),
        ..Record::default()
    };
    assert!(matches!(
        check_default(&one(large)),
        Err(BatchError::RecordTooLarge { .. })
    ));
    let many = RecordBatch {
        records: vec![Record::default(); 65_537],
        ..RecordBatch::default()
    };
    assert_eq!(
        check_default(&many.encode_to_vec()),
        Err(BatchError::TooManyRecords { limit: 65_536 })
    );
    let gap = Record {
        offset_gap: 1,
        ..Record::default()
    };
    assert!(matches!(
        check_default(&one(gap)),
        Err(BatchError::Malformed(_))
    ));
    assert_eq!(check_default(&[]), Err(BatchError::Empty));
}

#[test]
fn batches_that_lie_about_their_compressed_form_are_refused() {
    let records = vec![
        Record {
            value: Some(vec![7; 5000]),
            ..Record::default()
        };
        3
    ];
    let honest = RecordBatch::decode(encode(&records, Compression::Zstd)).unwrap();
    assert!(check_default(&honest.encode_to_vec()).is_ok());
    let size = honest.uncompressed_size;
    let lies = [
        RecordBatch {
            uncompressed_size: size - 1,
            ..honest.clone()
        },
        RecordBatch {
            uncompressed_size: size + 1,
            ..honest.clone()
        },
        RecordBatch {
            record_count: 4,
            ..honest.clone()
        },
        RecordBatch {
            compression: 1,
            ..honest.clone()
        },
        RecordBatch {
            compression: 9,
            ..honest.clone()
        },
        RecordBatch {
            compression: 0,
            ..honest.clone()
        },
        RecordBatch {
            records: records.clone(),
            ..honest.clone()
        },
        RecordBatch {
            compressed: Vec::new(),
            ..honest.clone()
        },
        RecordBatch {
            compressed: vec![1, 2, 3],
            ..honest.clone()
        },
    ];
    for lie in lies {
        let checked = check_default(&lie.encode_to_vec());
        assert!(
            matches!(checked, Err(BatchError::Malformed(_))),
            "{checked:?}"
        );
    }
    let bomb = RecordBatch {
        uncompressed_size: u32::MAX,
        ..honest
    };
    let checked = check_default(&bomb.encode_to_vec());
    assert!(
        matches!(checked, Err(BatchError::UncompressedTooLarge { .. })),
        "{checked:?}"
    );
    assert!(decode(Bytes::from(bomb.encode_to_vec())).is_err());
}

#[test]
fn fields_of_a_later_version_are_skipped() {
    let mut record = Record {
        key: Some(b"k".to_vec()),
        ..Record::default()
    }
    .encode_to_vec();
    // Field 15 as a varint, field 14 as a fixed 64-bit number.
    record.extend([15 << 3, 1, 14 << 3 | 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut payload = vec![0x0a, u8::try_from(record.len()).unwrap()];
    payload.extend(&record);
    payload.extend([15 << 3, 1]);
    assert_eq!(check_default(&payload).unwrap().record_count, 1);
    let view = decode_ref(&payload).next().unwrap().unwrap();
    assert_eq!(view.key, Some(&b"k"[..]));
}

#[test]
fn buffer_is_used_again_once_the_batch_is_dropped() {
    let mut builder = BatchBuilder::new(Compression::None);
    let value = [1; 1000];
    builder.push(&RecordRef::of_value(&value)).unwrap();
    let first = builder.finish().payload;
    let address = first.as_ptr();
    drop(first);
    builder.push(&RecordRef::of_value(&value)).unwrap();
    assert_eq!(builder.finish().payload.as_ptr(), address);
}
