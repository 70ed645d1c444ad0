//! Merging: what is kept stays what it was, wherever it comes to lie.

use bytes::{Bytes, BytesMut};
use statecast_proto::batch::{self, BatchBuilder, Compression, RecordRef};

use super::codec::RecordCodec;
use super::input::records;
use super::merge::{BatchBounds, BatchSink, Merger, is_opaque};
use crate::model::{BatchHeader, CheckedBatch, Offset};
use crate::storage::tests::ProtobufRecords;
use crate::storage::tests::Random;

/// Batches, one after the other.
#[derive(Debug, Default)]
struct Batches(Vec<(BatchHeader, Bytes)>);

impl BatchSink for Batches {
    fn take(&mut self, header: &BatchHeader, payload: &[u8]) {
        self.0.push((*header, Bytes::copy_from_slice(payload)));
    }
}

/// A record with all that a reader sees of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    offset: u64,
    key: Option<Bytes>,
    value: Option<Bytes>,
    time_ms: i64,
}

/// The records of a batch, as a reader sees them.
fn seen(header: &BatchHeader, payload: &Bytes) -> Vec<Seen> {
    let mut next = header.base_offset.0;
    let mut seen = Vec::new();
    for record in batch::decode(payload.clone()).unwrap() {
        let record = record.unwrap();
        let offset = next + u64::from(record.offset_gap);
        next = offset + 1;
        seen.push(Seen {
            offset,
            key: record.key,
            value: record.value,
            time_ms: record.timestamp_ms.unwrap_or(header.append_time_ms),
        });
    }
    assert!(
        next <= header.next_offset().0,
        "records lie within the span"
    );
    assert_eq!(seen.len(), header.record_count as usize);
    seen
}

/// A batch as a producer makes it.
fn produced(
    random: &mut Random,
    base: u64,
    append_time_ms: i64,
    compression: Compression,
) -> (BatchHeader, Bytes) {
    let mut builder = BatchBuilder::new(compression);
    for _ in 0..random.between(1, 12) {
        let value = vec![7; usize::try_from(random.between(0, 60)).unwrap()];
        let key = random.between(0, 5).to_le_bytes();
        let time = random.next().cast_signed();
        builder
            .push(&RecordRef {
                key: (!random.one_in(5)).then_some(&key),
                value: (!random.one_in(5)).then_some(&value),
                timestamp_ms: random.one_in(2).then_some(time),
                ..RecordRef::default()
            })
            .unwrap();
    }
    let payload = builder.finish().payload;
    let summary = batch::check(&payload, &batch::BatchLimits::DEFAULT, &mut Vec::new()).unwrap();
    let checked = CheckedBatch {
        payload_crc: crc32fast::hash(&payload),
        payload: payload.clone(),
        record_count: summary.record_count,
        max_timestamp_ms: summary.max_timestamp_ms,
        all_timed: summary.all_timed,
        uncompressed_len: summary.uncompressed_len,
        attributes: summary.compression.number().into(),
        stamp: None,
        key_hashes: Vec::new(),
    };
    (checked.header(Offset(base), append_time_ms), payload)
}

/// Merges what `kept` says of the batches, and covers everything up to `end`.
fn merge(
    batches: &[(BatchHeader, Bytes)],
    bounds: BatchBounds,
    end: u64,
    mut kept: impl FnMut(&Seen) -> bool,
) -> Vec<(BatchHeader, Bytes)> {
    let mut merger = Merger::new(&ProtobufRecords, bounds, batches[0].0.base_offset);
    let mut out = Batches::default();
    let mut room = Vec::new();
    for (header, payload) in batches {
        let unpacked = ProtobufRecords.unpack(payload, &mut room).unwrap();
        let placed = records(&ProtobufRecords, header, unpacked);
        for (placed, seen) in placed.zip(seen(header, payload)) {
            let (offset, record) = placed.unwrap();
            assert_eq!(offset.0, seen.offset);
            if kept(&seen) {
                merger.keep(offset, &record, header, &mut out);
            }
        }
    }
    merger.cover(Offset(end), &mut out);
    out.0
}

/// The batches are sound and cover the offsets without a hole.
fn check_batches(batches: &[(BatchHeader, Bytes)], from: u64, end: u64, span: u32) {
    let mut next = Offset(from);
    for (header, payload) in batches {
        assert!(header.matches(payload));
        assert_eq!(header.base_offset, next, "no hole");
        assert!((1..=span).contains(&header.offset_span));
        assert!(header.record_count <= header.offset_span);
        let times = seen(header, payload).into_iter().map(|seen| seen.time_ms);
        // Of a producer's batch, a record without a time decides.
        let latest = times.max().unwrap_or(i64::MIN);
        assert!(header.producer_id > 0 || header.max_timestamp_ms == latest);
        let records = batch::uncompressed(payload.clone()).unwrap();
        assert_eq!(header.uncompressed_len as usize, records.len());
        next = header.next_offset();
    }
    assert_eq!(next, Offset(end));
}

#[test]
fn records_keep_their_offset_content_and_time_whatever_is_dropped() {
    for seed in 0..3000 {
        let mut random = Random::new(seed);
        let mut batches = Vec::new();
        let from = random.between(0, 1000);
        let mut next = from;
        for _ in 0..random.between(1, 8) {
            let time = 1000 * i64::try_from(random.between(0, 3)).unwrap();
            let codec = Compression::ALL[usize::try_from(random.between(0, 3)).unwrap()];
            let batch = produced(&mut random, next, time, codec);
            next = batch.0.next_offset().0;
            batches.push(batch);
        }
        let bounds = BatchBounds {
            bytes: usize::try_from(random.between(1, 600)).unwrap(),
            span: u32::try_from(random.between(1, 60)).unwrap(),
        };
        // Twice, as the gaps of the first time must not count in the second.
        for _ in 0..2 {
            let one_in = random.between(1, 8);
            let mut expected = Vec::new();
            let merged = merge(&batches, bounds, next, |seen| {
                let kept = random.one_in(one_in);
                expected.extend(kept.then(|| seen.clone()));
                kept
            });
            check_batches(&merged, from, next, bounds.span);
            let found: Vec<Seen> = merged.iter().flat_map(|(h, p)| seen(h, p)).collect();
            assert_eq!(found, expected, "seed {seed}");
            batches = merged;
        }
    }
}

#[test]
fn small_batches_become_one_of_the_same_codec() {
    let mut random = Random::new(1);
    for codec in Compression::ALL {
        let mut next = 0;
        let batches: Vec<_> = std::iter::repeat_with(|| {
            let batch = produced(&mut random, next, 5, codec);
            next = batch.0.next_offset().0;
            batch
        })
        .take(50)
        .collect();
        let bounds = BatchBounds {
            bytes: 1 << 20,
            span: u32::MAX,
        };
        let merged = merge(&batches, bounds, next, |seen| seen.offset % 2 == 0);
        let [(header, payload)] = &merged[..] else {
            panic!("{} batches", merged.len());
        };
        assert_eq!(header.attributes, u16::from(codec.number()));
        assert_eq!(u64::from(header.offset_span), next);
        check_batches(&merged, 0, next, u32::MAX);
        assert!(
            seen(header, payload)
                .iter()
                .all(|seen| seen.offset % 2 == 0)
        );
    }
}

#[test]
fn more_dropped_offsets_than_a_gap_can_say_are_covered_without_a_record() {
    let mut random = Random::new(1);
    let first = produced(&mut random, 0, 5, Compression::None);
    let far = 20_000_000_000;
    let last = produced(&mut random, far, 5, Compression::None);
    let bounds = BatchBounds {
        bytes: 1 << 20,
        span: u32::MAX,
    };
    let end = 2 * far;
    let merged = merge(&[first.clone(), last.clone()], bounds, end, |_| true);
    check_batches(&merged, 0, end, u32::MAX);
    let records: Vec<Seen> = merged.iter().flat_map(|(h, p)| seen(h, p)).collect();
    let expected = [seen(&first.0, &first.1), seen(&last.0, &last.1)].concat();
    assert_eq!(records, expected);
    let nothing = merge(&[first], bounds, end, |_| false);
    check_batches(&nothing, 0, end, u32::MAX);
    assert!(nothing.iter().all(|(header, _)| header.record_count == 0));
}

#[test]
fn whole_batches_stay_byte_for_byte_among_others() {
    let mut random = Random::new(3);
    let small = produced(&mut random, 0, 5, Compression::None);
    let at = small.0.next_offset().0 + 10;
    let (mut header, payload) = produced(&mut random, at, 6, Compression::Zstd);
    header.producer_id = 77;
    let mut merger = Merger::new(
        &ProtobufRecords,
        BatchBounds {
            bytes: 1 << 20,
            span: 40,
        },
        Offset(0),
    );
    assert!(!merger.joins(Offset(at)), "it would need an empty batch");
    let mut out = Batches::default();
    let placed = records(&ProtobufRecords, &small.0, &small.1);
    for (offset, record) in placed.flatten() {
        merger.keep(offset, &record, &small.0, &mut out);
    }
    assert!(merger.joins(Offset(at)));
    assert!(!merger.joins(Offset(41)), "the span is bounded");
    merger.keep_whole(&header, &payload, &mut out);
    let end = header.next_offset().0;
    assert!(merger.joins(Offset(end)));
    merger.cover(Offset(end), &mut out);
    check_batches(&out.0, 0, end, 40);
    assert_eq!(out.0.len(), 2);
    assert_eq!(out.0[1], (header, payload));
}

#[test]
fn offsets_that_contradict_the_header_are_malformed() {
    let mut random = Random::new(5);
    let (header, payload) = produced(&mut random, 100, 5, Compression::None);
    let is_sound = |header: &BatchHeader, payload: &[u8]| {
        records(&ProtobufRecords, header, payload).all(|record| record.is_ok())
    };
    assert!(is_sound(&header, &payload));
    let more = BatchHeader {
        record_count: header.record_count + 1,
        offset_span: header.offset_span + 1,
        ..header
    };
    assert!(!is_sound(&more, &payload));
    let fewer = BatchHeader {
        record_count: header.record_count - 1,
        ..header
    };
    assert!(!is_sound(&fewer, &payload));
    let mut gap = BytesMut::new();
    let split: Vec<_> = ProtobufRecords.split(&payload).flatten().collect();
    ProtobufRecords.put(&split[0], 1, None, &mut gap);
    gap.extend_from_slice(&payload[split[0].bytes.len()..]);
    assert!(!is_sound(&header, &gap), "beyond the span");
    let wider = BatchHeader {
        offset_span: header.offset_span + 1,
        ..header
    };
    assert!(is_sound(&wider, &gap));
    assert!(!is_opaque(&header));
}
