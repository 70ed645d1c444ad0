//! What the codec writes and reads is what any protobuf library does.

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use prost_types::FileDescriptorSet;
use statecast_proto::DESCRIPTOR_SET;
use statecast_proto::batch::{Compression, decode, decode_ref, split};

use crate::structured::{
    Header, Record, any_compression, batch_of, check_default, encode, records, to_message,
};

proptest! {
    #[test]
    fn bytes_are_those_that_any_protobuf_library_makes(records in records()) {
        let batch = batch_of(records.clone());
        prop_assert_eq!(encode(&records, Compression::None), batch.encode_to_vec());
    }

    #[test]
    fn records_come_back_as_they_were(records in records(), compression in any_compression()) {
        let payload = encode(&records, compression);
        let decoded: Vec<Record> =
            decode(payload).unwrap().map(|record| to_message(record.unwrap())).collect();
        prop_assert_eq!(decoded, records);
    }

    #[test]
    fn views_are_the_records(records in records()) {
        let payload = encode(&records, Compression::None);
        let decoded: Vec<Record> = decode_ref(&payload)
            .map(|view| {
                let view = view.unwrap();
                let headers = view.headers().map(|header| Header {
                    name: header.name.to_owned(),
                    value: header.value.map(Bytes::copy_from_slice),
                });
                Record {
                    key: view.key.map(Bytes::copy_from_slice),
                    value: view.value.map(Bytes::copy_from_slice),
                    headers: headers.collect(),
                    timestamp_ms: view.timestamp_ms,
                    offset_gap: view.offset_gap,
                }
            })
            .collect();
        prop_assert_eq!(decoded, records);
    }

    #[test]
    fn check_counts_and_finds_the_latest_time(
        records in records(),
        compression in any_compression(),
    ) {
        let summary = check_default(&encode(&records, compression)).unwrap();
        prop_assert_eq!(summary.record_count as usize, records.len());
        let times = || records.iter().map(|record| record.timestamp_ms);
        prop_assert_eq!(summary.max_timestamp_ms, times().flatten().max());
        prop_assert_eq!(summary.all_timed, times().all(|time| time.is_some()));
        let size = batch_of(records).encoded_len();
        prop_assert_eq!(summary.uncompressed_len as usize, size);
    }

    #[test]
    fn pieces_of_a_split_batch_make_a_batch(records in records()) {
        let payload = encode(&records, Compression::None);
        let pieces: Vec<_> = split(&payload).map(|piece| piece.unwrap()).collect();
        let keys: Vec<_> = pieces.iter().map(|piece| piece.key.map(Bytes::copy_from_slice)).collect();
        prop_assert_eq!(keys, records.iter().map(|record| record.key.clone()).collect::<Vec<_>>());
        let whole: Vec<u8> = pieces.iter().flat_map(|piece| piece.bytes.iter().copied()).collect();
        prop_assert_eq!(whole, payload);
    }

    #[test]
    fn moved_records_get_their_gap_and_a_time_if_they_had_none(
        records in records(),
        gaps in vec((0..3_u32, any::<u32>(), any::<Option<i64>>()), 100),
    ) {
        let payload = encode(&records, Compression::None);
        let mut moved = BytesMut::new();
        let mut expected = records.clone();
        // Each one is moved twice: the first gap must leave nothing behind.
        for ((piece, record), &(kind, gap, time)) in
            split(&payload).zip(&mut expected).zip(gaps.iter().cycle())
        {
            let mut once = BytesMut::new();
            piece.unwrap().put_moved(gap, None, &mut once);
            let gap = if kind == 0 { 0 } else { gap.rotate_left(kind) };
            split(&once).next().unwrap().unwrap().put_moved(gap, time, &mut moved);
            record.offset_gap = gap;
            record.timestamp_ms = record.timestamp_ms.or(time);
        }
        prop_assert_eq!(&moved, &batch_of(expected).encode_to_vec());
    }
}

#[test]
fn gap_that_compaction_left_is_read() {
    let record = Record {
        offset_gap: 70_000,
        ..Record::default()
    };
    let payload = Bytes::from(batch_of(vec![record]).encode_to_vec());
    assert_eq!(
        decode(payload).unwrap().next().unwrap().unwrap().offset_gap,
        70_000
    );
}

#[test]
fn fields_of_a_later_version_are_skipped() {
    let mut record = Record {
        key: Some(Bytes::from_static(b"k")),
        ..Record::default()
    }
    .encode_to_vec();
    // Field 15 as a varint, field 14 as a fixed 64-bit number.
    record.extend([15 << 3, 1, 14 << 3 | 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut payload = vec![0x0a, u8::try_from(record.len()).unwrap()];
    payload.extend(&record);
    let len = payload.len();
    // Field 15 as a fixed 32-bit number, field 13 as bytes.
    payload.extend([15 << 3 | 5, 1, 2, 3, 4, 13 << 3 | 2, 1, 7]);

    assert_eq!(check_default(&payload).unwrap().record_count, 1);
    let view = decode_ref(&payload).next().unwrap().unwrap();
    assert_eq!(view.key, Some(&b"k"[..]));
    let piece = split(&payload).next().unwrap().unwrap();
    assert_eq!(piece.bytes, &payload[..len]);

    let mut moved = BytesMut::new();
    piece.put_moved(300, Some(7), &mut moved);
    let mut expected = vec![0x0a, u8::try_from(record.len() + 5).unwrap()];
    expected.extend(&record);
    expected.extend([4 << 3, 7, 5 << 3, 0xac, 0x02]);
    assert_eq!(moved, expected, "what isn't known is kept");
    let moved = split(&moved).next().unwrap().unwrap();
    assert_eq!((moved.timestamp_ms, moved.offset_gap), (Some(7), 300));
    let mut back = BytesMut::new();
    moved.put_moved(0, None, &mut back);
    assert_eq!(back[2..][..record.len()], record);
}

/// As protobuf has it for a field that isn't repeated.
#[test]
fn last_one_of_a_field_that_comes_twice_counts() {
    let record = [0x0a, 1, b'a', 0x20, 9, 0x0a, 2, b'b', b'c', 0x20, 7];
    let mut payload = vec![0x0a, u8::try_from(record.len()).unwrap()];
    payload.extend(record);
    assert_eq!(check_default(&payload).unwrap().max_timestamp_ms, Some(7));
    let view = decode_ref(&payload).next().unwrap().unwrap();
    assert_eq!((view.key, view.timestamp_ms), (Some(&b"bc"[..]), Some(7)));
}

/// The codec is written by hand: this fails when the protocol gets a field that
/// it doesn't know.
#[test]
fn codec_knows_every_field_of_the_protocol() {
    let files = FileDescriptorSet::decode(DESCRIPTOR_SET).unwrap().file;
    let fields = |name: &str| {
        let message = files
            .iter()
            .flat_map(|file| &file.message_type)
            .find(|message| message.name() == name)
            .unwrap();
        message
            .field
            .iter()
            .map(|field| format!("{} {} {:?}", field.number(), field.name(), field.r#type()))
            .collect::<Vec<_>>()
    };
    assert_eq!(fields("Header"), ["1 name String", "2 value Bytes"]);
    assert_eq!(
        fields("Record"),
        [
            "1 key Bytes",
            "2 value Bytes",
            "3 headers Message",
            "4 timestamp_ms Int64",
            "5 offset_gap Uint32",
        ]
    );
    assert_eq!(
        fields("RecordBatch"),
        [
            "1 records Message",
            "2 compression Enum",
            "3 uncompressed_size Uint32",
            "4 record_count Uint32",
            "5 compressed Bytes",
        ]
    );
}
