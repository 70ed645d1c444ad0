//! The compressed form: it must say the truth, and can't make anyone allocate
//! more than the bound.

use bytes::Bytes;
use prost::Message;
use statecast_proto::batch::{
    BatchError, BatchLimits, Compression, check, decode, stated_uncompressed_len,
};

use crate::structured::{Record, RecordBatch, batch_of, check_default, encode, record_of_value};

const CODECS: [Compression; 2] = [Compression::Lz4, Compression::Zstd];

fn three_records() -> Vec<Record> {
    vec![record_of_value(vec![7; 5000]); 3]
}

fn honest(codec: Compression) -> RecordBatch {
    let batch = RecordBatch::decode(encode(&three_records(), codec)).unwrap();
    assert_eq!(batch.compression, i32::from(codec.number()));
    batch
}

/// The compressed form of `records`, whatever they are.
fn compressed(codec: Compression, records: &[u8], record_count: u32) -> RecordBatch {
    RecordBatch {
        records: Vec::new(),
        compression: codec.number().into(),
        uncompressed_size: u32::try_from(records.len()).unwrap(),
        record_count,
        compressed: match codec {
            Compression::None => records.to_vec(),
            Compression::Lz4 => lz4_flex::block::compress(records),
            Compression::Zstd => zstd::bulk::compress(records, 3).unwrap(),
        }
        .into(),
    }
}

#[test]
fn honest_batches_pass() {
    let size = batch_of(three_records()).encoded_len();
    for codec in CODECS {
        let summary = check_default(&honest(codec).encode_to_vec()).unwrap();
        assert_eq!(summary.compression, codec);
        assert_eq!(summary.record_count, 3);
        assert_eq!(summary.uncompressed_len as usize, size);
    }
}

#[test]
fn what_is_stated_is_what_would_be_unpacked() {
    let plain = batch_of(three_records());
    let mut both = plain.clone();
    for codec in CODECS {
        let honest = honest(codec);
        let stated = stated_uncompressed_len(&honest.encode_to_vec());
        assert_eq!(stated, plain.encoded_len());
        both.uncompressed_size = honest.uncompressed_size;
        both.compressed = honest.compressed;
    }
    // Of these nothing is unpacked.
    for payload in [
        &plain.encode_to_vec()[..],
        &both.encode_to_vec(),
        b"\xff",
        b"",
    ] {
        assert_eq!(stated_uncompressed_len(payload), 0);
    }
}

#[test]
fn each_lie_is_refused() {
    for codec in CODECS {
        let honest = honest(codec);
        let other = CODECS.into_iter().find(|&other| other != codec).unwrap();
        let lie = |change: fn(&mut RecordBatch)| {
            let mut batch = honest.clone();
            change(&mut batch);
            batch
        };
        let mut other_codec = honest.clone();
        other_codec.compression = other.number().into();
        let lies = [
            ("smaller", lie(|batch| batch.uncompressed_size -= 1)),
            ("larger", lie(|batch| batch.uncompressed_size += 1)),
            ("no size", lie(|batch| batch.uncompressed_size = 0)),
            ("more records", lie(|batch| batch.record_count += 1)),
            ("fewer records", lie(|batch| batch.record_count -= 1)),
            ("another codec", other_codec),
            ("unknown codec", lie(|batch| batch.compression = 9)),
            ("negative codec", lie(|batch| batch.compression = -1)),
            ("no codec", lie(|batch| batch.compression = 0)),
            ("both forms", lie(|batch| batch.records = three_records())),
            ("nothing compressed", lie(|batch| batch.compressed.clear())),
            (
                "garbage",
                lie(|batch| batch.compressed = vec![0xfe; 40].into()),
            ),
            ("cut off", lie(|batch| batch.compressed.truncate(9))),
            (
                "garbage behind",
                lie(|batch| batch.compressed = [&batch.compressed[..], &[0]].concat().into()),
            ),
        ];
        for (what, batch) in lies {
            let checked = check_default(&batch.encode_to_vec());
            assert!(
                matches!(checked, Err(BatchError::Malformed(_))),
                "{codec}, {what}: {checked:?}"
            );
        }
    }
}

/// Libraries that decompress just one frame would miss records.
#[test]
fn second_zstd_frame_is_refused() {
    let half = batch_of(three_records()).encode_to_vec();
    let mut batch = compressed(Compression::Zstd, &half, 6);
    batch.compressed = batch.compressed.repeat(2).into();
    batch.uncompressed_size *= 2;
    let payload = batch.encode_to_vec();
    assert!(check_default(&payload).is_err());
    assert!(decode(Bytes::from(payload)).is_err());
}

#[test]
fn records_within_are_checked_too() {
    for codec in CODECS {
        let broken = compressed(codec, &[0x0a, 9, 0x12, 1], 1).encode_to_vec();
        let expected = BatchError::Malformed("it ends in the middle of a field");
        assert_eq!(check_default(&broken), Err(expected));
        let empty = compressed(codec, &[], 0).encode_to_vec();
        assert!(check_default(&empty).is_err());
    }
}

#[test]
fn compressed_batch_within_a_compressed_batch_is_refused() {
    let inner = honest(Compression::Zstd).encode_to_vec();
    let outer = compressed(Compression::Lz4, &inner, 3).encode_to_vec();
    let expected = BatchError::Malformed("a compressed batch within a compressed batch");
    assert_eq!(check_default(&outer), Err(expected));
    let read = decode(Bytes::from(outer)).unwrap().next().unwrap();
    assert!(matches!(read, Err(BatchError::Malformed(_))), "{read:?}");
}

#[test]
fn bombs_are_refused_before_memory_is_taken() {
    let limits = BatchLimits {
        max_uncompressed: 100_000,
        ..BatchLimits::default()
    };
    let records = batch_of(vec![record_of_value(vec![0; 5_000_000])]).encode_to_vec();
    for codec in CODECS {
        let mut bomb = compressed(codec, &records, 1);
        assert!(bomb.compressed.len() < 50_000);
        let mut scratch = Vec::new();
        assert_eq!(
            check(&bomb.encode_to_vec(), &limits, &mut scratch),
            Err(BatchError::UncompressedTooLarge {
                size: records.len(),
                limit: 100_000
            })
        );
        assert_eq!(scratch.capacity(), 0);

        // One that lies about it gets no more than it says.
        bomb.uncompressed_size = 90_000;
        let checked = check(&bomb.encode_to_vec(), &limits, &mut scratch);
        assert!(matches!(checked, Err(BatchError::Malformed(_))));
        assert!(scratch.capacity() <= 100_000);

        bomb.uncompressed_size = u32::MAX;
        let decoded = decode(Bytes::from(bomb.encode_to_vec())).map(drop);
        assert_eq!(
            decoded,
            Err(BatchError::UncompressedTooLarge {
                size: u32::MAX as usize,
                limit: 16 << 20
            })
        );
    }
}
