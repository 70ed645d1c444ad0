//! Holds what `docs/format.md` says of the topics' records to the code.

use std::fmt::Write as _;
use std::time::Duration;

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::*;
use crate::model::{Cleanup, FlushLevel, ProducerName};

const PAGE: &str = include_str!("../../../../docs/format.md");

/// The bytes of an example: lines of a position and up to 16 bytes.
fn example(name: &str) -> Vec<u8> {
    let mut lines = PAGE.lines();
    let fence = format!("```hex {name}");
    assert!(lines.any(|line| line == fence), "there is a block {name}");
    let lines = lines.take_while(|line| *line != "```");
    let bytes = lines.flat_map(|line| line.split_whitespace().skip(1));
    bytes
        .map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal"))
        .collect()
}

/// The example is what the code writes for `change`, and reads as it.
fn check(name: &str, change: &TopicChange) {
    let written = change.encode();
    let key = written.key.clone();
    assert_eq!(key, change.name().as_str());
    let example = check_value(name, written);
    assert_eq!(TopicChange::decode(&key, &example).unwrap(), *change);
}

/// The example is the value of the record. Returns it.
fn check_value(name: &str, written: NewRecord) -> Vec<u8> {
    let value = written.value.expect("no tombstone");
    let mut rendered = String::new();
    for (nth, line) in value.chunks(16).enumerate() {
        let _ = write!(rendered, "\n{:04x} ", nth * 16);
        for byte in line {
            let _ = write!(rendered, " {byte:02x}");
        }
    }
    let example = example(name);
    assert!(example == value, "example {name} should be:{rendered}");
    example
}

fn ranges() -> Vec<PartitionRange> {
    let range = |first, count| PartitionRange {
        first: PartitionId(first),
        count,
    };
    vec![range(17, 2), range(20, 1)]
}

fn put() -> TopicChange {
    TopicChange::Put(Arc::new(TopicMeta {
        id: TopicId(3),
        name: topic_name("lamps"),
        ranges: ranges(),
        config: TopicConfig {
            retention_ms: Some(7 * 24 * 3600 * 1000),
            retention_bytes: Some(1 << 30),
            flush: FlushLevel::Interval(Duration::from_millis(100)),
            ..TopicConfig::default()
        },
        created_ms: 1_700_000_000_000,
    }))
}

/// With every field that there is.
fn put_compacted() -> TopicChange {
    TopicChange::Put(Arc::new(TopicMeta {
        id: TopicId(4),
        name: topic_name("doors"),
        ranges: vec![PartitionRange {
            first: PartitionId(21),
            count: 1,
        }],
        config: TopicConfig {
            retention_ms: Some(7 * 24 * 3600 * 1000),
            retention_bytes: Some(1 << 30),
            cleanup: Cleanup::CompactDelete,
            tombstone_grace_ms: Some(24 * 3600 * 1000),
            ..TopicConfig::default()
        },
        created_ms: 1_700_000_000_000,
    }))
}

fn delete() -> TopicChange {
    TopicChange::Delete {
        id: TopicId(3),
        name: topic_name("lamps"),
        ranges: ranges(),
    }
}

#[test]
fn examples_of_changes_are_decoded() {
    check("topic-put", &put());
    check("topic-put-compacted", &put_compacted());
    check("topic-delete", &delete());
}

/// The record with this example as its value.
fn record(name: &str, key: &'static str, written: NewRecord) -> LogRecord {
    assert_eq!(written.key, key);
    LogRecord {
        offset: Offset(0),
        key: key.into(),
        value: Some(check_value(name, written).into()),
    }
}

#[test]
fn examples_of_producers_are_decoded() {
    let billing = ProducerName::try_from("billing").unwrap();
    let producer = NamedProducer {
        id: ProducerId::new(7, true),
        epoch: 3,
        former: Some((ProducerId::new(7, true), 2)),
    };
    let ids = record("producer-ids", "i", Producers::reserve(2001));
    let name = Producers::begin(&billing, producer);
    let name = record("producer-name", "nbilling", name);
    let mut producers = Producers::default();
    producers.apply(&name).unwrap();
    assert_eq!(producers.named(&billing), Some(producer));
    producers.apply(&ids).unwrap();
    assert_eq!(producers.reserved_below(), 2001);
    check_table("ids", &ids.value.unwrap());
    check_table("name", &name.value.unwrap());
}

/// Numbers and types of the fields in the table of a message.
fn table(message: &str) -> Vec<(u32, &'static str)> {
    let mut lines = PAGE.lines();
    let article = if message == "ids" { "" } else { "a " };
    let head = format!("| number | type | field of {article}{message} |");
    assert!(lines.any(|line| line == head), "there is a table {message}");
    let rows = lines.skip(1).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let mut columns = row.split('|').skip(1).map(str::trim);
        let number = columns.next().unwrap().parse().unwrap();
        (number, columns.next().unwrap())
    })
    .collect()
}

/// Numbers of the fields of an encoded message, and the bytes of those that are
/// messages themselves.
fn fields(mut bytes: &[u8]) -> Vec<(u32, Option<&[u8]>)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (number, wire_type) = decode_key(&mut bytes).unwrap();
        let inner = if wire_type == WireType::LengthDelimited {
            let len = usize::try_from(decode_varint(&mut bytes).unwrap()).unwrap();
            let (inner, rest) = bytes.split_at(len);
            bytes = rest;
            Some(inner)
        } else {
            assert_eq!(wire_type, WireType::Varint);
            skip_field(wire_type, number, &mut bytes, DecodeContext::default()).unwrap();
            None
        };
        found.push((number, inner));
    }
    found
}

/// The table has the fields of `message`, and no others.
fn check_table(name: &str, message: &[u8]) {
    let mut written: Vec<(u32, bool)> = fields(message)
        .iter()
        .map(|(number, inner)| (*number, inner.is_some()))
        .collect();
    written.dedup();
    let described: Vec<(u32, bool)> = table(name)
        .iter()
        .map(|(number, kind)| (*number, kind.starts_with("message")))
        .collect();
    assert_eq!(described, written, "table of {name}");
}

#[test]
fn tables_name_every_field() {
    let value = |change: TopicChange| change.encode().value.expect("no tombstone");
    let (put, delete) = (value(put()), value(delete()));
    let (put, delete) = (fields(&put), fields(&delete));
    assert_eq!(
        table("change"),
        [(put[0].0, "message"), (delete[0].0, "message")]
    );
    let (put, delete) = (put[0].1.unwrap(), delete[0].1.unwrap());
    check_table("put", put);
    check_table("delete", delete);
    let inner = fields(put);
    check_table("range", inner[1].1.unwrap());
    let compacted = value(put_compacted());
    let compacted = fields(fields(&compacted)[0].1.unwrap());
    check_table("config", compacted[2].1.unwrap());
}
