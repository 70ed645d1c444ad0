//! Holds `docs/format.md` to the code: its examples are what is written, byte
//! for byte, and its tables have no holes and the right sizes.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::content;
use crate::model::{
    BatchHeader, CheckedBatch, HEADER_LEN, Offset, PartitionId, ProducerStamp, RequestStamp, Stamp,
};
use crate::storage::checkpoint::{Checkpoint, CheckpointEntry};
use crate::storage::dir::sim::SimDir;
use crate::storage::identity::Identity;
use crate::storage::journal::{
    FILE_HEADER_LEN, FRAME_HEADER_LEN, FRAME_PREFIX_LEN, FileHeader, Frame,
};
use crate::storage::lsn::{Generation, Lsn};
use crate::storage::producers::{
    self, Incoming, ProducerTable, Snapshot, SnapshotWriter, Tally, admit,
};
use crate::storage::segment::{
    Compacted, Dropped, ENTRY_LEN, FOOTER_LEN, Footer, IndexEntry, SEGMENT_HEADER_LEN,
    SegmentHeader, SegmentName, SegmentState, log_path,
};

const PAGE: &str = include_str!("../../../../docs/format.md");

const PAYLOAD: &[u8] = b"\x0a\x0c\x0a\x06lamp/3\x12\x02on";

/// The lines of the block that is marked so.
fn block(mark: &str) -> Vec<&'static str> {
    let mut lines = PAGE.lines();
    let fence = format!("```{mark}");
    assert!(lines.any(|line| line == fence), "there is a block {mark}");
    lines.take_while(|line| *line != "```").collect()
}

/// The bytes of an example: lines of a position and up to 16 bytes.
fn example(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in block(&format!("hex {name}")) {
        let (position, line) = line.split_once("  ").expect("position, bytes");
        assert_eq!(usize::from_str_radix(position, 16), Ok(bytes.len()));
        let pairs = line.split_whitespace();
        bytes.extend(pairs.map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal")));
    }
    bytes
}

/// As [`example`] reads it, to be copied into the page.
fn rendered(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (nth, line) in bytes.chunks(16).enumerate() {
        let _ = write!(text, "\n{:04x} ", nth * 16);
        for byte in line {
            let _ = write!(text, " {byte:02x}");
        }
    }
    text
}

/// The example is what the code writes. Returns it.
fn check(name: &str, written: &[u8]) -> Vec<u8> {
    let example = example(name);
    assert!(
        example == written,
        "example {name} should be:{}",
        rendered(written)
    );
    example
}

fn batch() -> BatchHeader {
    let checked = CheckedBatch {
        payload: Bytes::from_static(PAYLOAD),
        payload_crc: crc32fast::hash(PAYLOAD),
        record_count: 1,
        max_timestamp_ms: Some(1_700_000_000_000),
        all_timed: true,
        uncompressed_len: 14,
        attributes: 0,
        stamp: None,
        key_hashes: Vec::new(),
    };
    checked.header(Offset(42), 1_700_000_000_123)
}

fn state() -> SegmentState {
    let mut state = SegmentState::empty(Offset(42), 1_700_000_000_500);
    state.add(&batch());
    state
}

fn journal_header() -> FileHeader {
    FileHeader {
        generation: Generation(5),
        salt: 0x5ca1_ab1e,
        previous_end: Lsn::new(Generation(4), 1 << 20),
        flushed: Lsn::new(Generation(4), 1 << 20),
    }
}

#[test]
fn example_of_a_batch_is_decoded() {
    let bytes = check("batch", &[&batch().encode()[..], PAYLOAD].concat());
    let header = BatchHeader::decode(&bytes).unwrap();
    assert_eq!(header, batch());
    assert!(header.matches(&bytes[HEADER_LEN..]));
}

#[test]
fn example_of_a_journal_file_is_decoded() {
    let header = journal_header();
    let mut file = header.encode().to_vec();
    let bytes = check("journal-header", &file[..32]);
    file[2048..].fill(0);
    assert_eq!(file[..32], bytes);
    assert_eq!(FileHeader::decode(&file), Some(header));

    let first = u32::try_from(FILE_HEADER_LEN).unwrap();
    let frame = Frame {
        lsn: Lsn::new(Generation(5), first),
        flushed: header.flushed,
        partition: PartitionId(17),
        unit_remaining: 0,
        batch: batch(),
    };
    let mut written = [&frame.encode(header.seed())[..], PAYLOAD].concat();
    written.resize(frame.len(), 0);
    let bytes = check("frame", &written);
    assert_eq!(Frame::decode(&bytes, frame.lsn, header.seed()), Some(frame));
    assert_eq!(FRAME_PREFIX_LEN, 104);
}

#[test]
fn examples_of_a_segment_are_decoded() {
    let header = SegmentHeader {
        partition: PartitionId(17),
        base_offset: Offset(42),
        created_ms: 1_700_000_000_500,
        compacted_to: Offset::ZERO,
        dropped: Dropped::default(),
    };
    let bytes = check("segment-header", &header.encode());
    assert_eq!(SegmentHeader::decode(&bytes), Some(header));

    let header = SegmentHeader {
        compacted_to: Offset(1042),
        dropped: Dropped {
            superseded_to: Offset(2100),
            tombstones_to: Offset(800),
        },
        ..header
    };
    let bytes = check("compacted-segment-header", &header.encode());
    assert_eq!(SegmentHeader::decode(&bytes), Some(header));

    let footer = Footer { state: state() };
    let bytes = check("footer", &footer.encode());
    assert_eq!(Footer::decode(&bytes), Some(footer));

    let entry = IndexEntry {
        base_offset: Offset(1042),
        position: 16_500,
        max_timestamp_before_ms: 1_700_000_000_999,
    };
    let bytes = check("index-entry", &entry.encode());
    assert_eq!(IndexEntry::decode(&bytes), Some(entry));
}

#[test]
fn example_of_a_compacted_segment_is_a_name() {
    let name = SegmentName {
        base_offset: Offset(42),
        compacted: Some(Compacted {
            next_offset: Offset(1042),
            revision: 3,
        }),
    };
    let file = log_path(PartitionId(17), name);
    let file = file.file_name().unwrap().to_str().unwrap();
    assert_eq!(block("text compacted-segment"), [file]);
}

#[test]
fn example_of_a_checkpoint_is_decoded() {
    let checkpoint = Checkpoint {
        archived: Generation(5),
        partitions: vec![CheckpointEntry {
            partition: PartitionId(17),
            log_start: Offset(42),
            archived_end: Offset(43),
            active: Some(state()),
            has_producers: false,
        }],
    };
    let bytes = check("checkpoint", &checkpoint.encode());
    assert_eq!(Checkpoint::decode(&bytes), Some(checkpoint));
}

/// What a partition knows after three runs of a producer, and one request.
fn known_producers(tally: &Arc<Tally>) -> Option<ProducerTable> {
    let mut table = None;
    let producer = |base_sequence| {
        Stamp::Producer(ProducerStamp {
            id: 6,
            epoch: 2,
            base_sequence,
            fence: None,
        })
    };
    let request = Stamp::Request(RequestStamp::of(b"4be1b2bb-0a4d-4fd4-8a6b-6a5d1ea4e8a0"));
    for (stamp, offset, count, now_ms) in [
        (producer(0), 42, 3, 1_700_000_000_100),
        (producer(3), 250, 1, 1_700_000_000_100),
        (producer(4), 255, 2, 1_700_000_000_123),
        (request, 257, 1, 1_700_000_000_456),
    ] {
        let batch = Incoming {
            base_offset: Offset(offset),
            count,
            generation: Generation(5),
            now_ms,
        };
        admit(&mut table, tally, &stamp, batch).unwrap();
    }
    table
}

/// The snapshot with this partition's table, as far as it lies below `end`.
fn snapshot(table: Option<&ProducerTable>, end: u64) -> Vec<u8> {
    let dir = SimDir::new();
    let mut writer = SnapshotWriter::new(&dir, Generation(5));
    if let Some(table) = table {
        writer.add(PartitionId(17), Offset(end), table);
    }
    writer.finish().unwrap();
    content(&dir, producers::FILE)
}

#[test]
fn example_of_the_producers_is_decoded() {
    let tally = Arc::default();
    let table = known_producers(&tally);
    let bytes = check("producers", &snapshot(table.as_ref(), 258));
    let read = Snapshot::decode(&bytes, &tally).unwrap();
    assert_eq!(read.archived, Generation(5));
    let known = &read.partitions[&PartitionId(17)];
    assert_eq!(known.end, Offset(258));
    assert_eq!(snapshot(Some(&known.table), 258), bytes);
}

/// The sizes of what a snapshot is made of, in the order of the page.
fn snapshot_sizes() -> [usize; 5] {
    let table = known_producers(&Arc::default());
    let len = |table, end| snapshot(table, end).len();
    let header = len(None, 0);
    let nothing = len(table.as_ref(), 42);
    let producer = len(table.as_ref(), 43);
    let all_runs = len(table.as_ref(), 257);
    let both = len(table.as_ref(), 258);
    // A producer takes its own size and that of a run. Those before the last have no table:
    // these take two bytes, and three.
    let run = 16;
    assert_eq!(all_runs - producer, 2 + 3);
    [
        header,
        nothing - header,
        producer - nothing - run,
        run,
        both - all_runs,
    ]
}

#[test]
fn example_of_the_identity_is_parsed() {
    let text = block("text identity").join("\n") + "\n";
    let identity = Identity::parse(&text).unwrap();
    assert_eq!(identity.journal_file_bytes, 64 << 20);
    assert_eq!(identity.render(), text);
}

#[test]
fn tables_of_bytes_have_no_holes_and_the_sizes_of_the_code() {
    let mut sizes = vec![
        HEADER_LEN,
        32,
        FRAME_HEADER_LEN,
        SEGMENT_HEADER_LEN,
        SegmentState::ENCODED_LEN,
        FOOTER_LEN,
        ENTRY_LEN,
        Checkpoint::HEADER_LEN,
        Checkpoint::ENTRY_LEN,
    ];
    sizes.extend(snapshot_sizes());
    // What records hold is not for storage to say.
    let is_ours = |line: &&str| !line.starts_with("## The records of partition");
    let mut lines = PAGE.lines().take_while(is_ours);
    for size in sizes {
        assert!(lines.any(|line| line == "| at | size | field |"));
        let rows = lines
            .by_ref()
            .skip(1)
            .take_while(|line| line.starts_with('|'));
        let end = rows.map(row).fold(0, |end, field| {
            assert_eq!(field.start, end, "no hole, no overlap");
            field.end
        });
        assert_eq!(end, size);
    }
    assert!(!lines.any(|line| line == "| at | size | field |"));
}

/// The bytes that a row is about.
fn row(line: &str) -> Range<usize> {
    let mut columns = line.split('|').skip(1).map(str::trim);
    let mut number = || columns.next().unwrap().parse::<usize>().unwrap();
    let (at, size) = (number(), number());
    at..at + size
}
