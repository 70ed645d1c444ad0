//! Holds what `docs/format.md` says of the groups' records to the code.

use std::fmt::Write as _;

use prost::encoding::{DecodeContext, decode_key, skip_field};

use super::*;
use crate::coordinator::record::{GroupRecord, StoredGroup, StoredOffset};

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

fn check_bytes(name: &str, written: &[u8]) {
    let mut rendered = String::new();
    for (nth, line) in written.chunks(16).enumerate() {
        let _ = write!(rendered, "\n{:04x} ", nth * 16);
        for byte in line {
            let _ = write!(rendered, " {byte:02x}");
        }
    }
    assert!(
        example(name) == written,
        "example {name} should be:{rendered}"
    );
}

/// Numbers of the fields in the table of a message.
fn table(message: &str) -> Vec<u32> {
    let mut lines = PAGE.lines();
    let head = format!("| number | type | field of {message} |");
    assert!(lines.any(|line| line == head), "there is a table {message}");
    let rows = lines.skip(1).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.split('|').nth(1).unwrap().trim().parse().unwrap())
        .collect()
}

/// Numbers of the fields of an encoded message.
fn fields(mut bytes: &[u8]) -> Vec<u32> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (number, wire_type) = decode_key(&mut bytes).unwrap();
        skip_field(wire_type, number, &mut bytes, DecodeContext::default()).unwrap();
        found.push(number);
    }
    found
}

fn stored_group() -> StoredGroup {
    StoredGroup {
        created_ms: 1_700_000_000_000,
        generation: 7,
        empty_since_ms: Some(1_700_000_360_000),
        members: 0,
        next_partition: Some(20),
    }
}

fn stored_offset() -> StoredOffset {
    StoredOffset {
        offset: 42,
        committed_ms: 1_700_000_000_123,
        group_created_ms: 1_700_000_000_000,
    }
}

#[test]
fn examples_are_what_is_written_and_read() {
    let billing = GroupName::try_from("billing").unwrap();
    let partition = TopicPartition {
        topic: TopicId(3),
        partition: 1,
    };
    let records = [
        ("group", stored_group().record(&billing)),
        ("offset", stored_offset().record(&billing, partition)),
    ];
    for (name, written) in records {
        let value = written.value.expect("no tombstone");
        check_bytes(&format!("{name}-key"), &written.key);
        check_bytes(&format!("{name}-value"), &value);
        let record = LogRecord {
            offset: Offset(0),
            key: example(&format!("{name}-key")).into(),
            value: Some(example(&format!("{name}-value")).into()),
        };
        let expected = match name {
            "group" => GroupRecord::Group {
                name: "billing",
                stored: Some(stored_group()),
            },
            _ => GroupRecord::Offset {
                group: "billing",
                partition,
                stored: Some(stored_offset()),
            },
        };
        assert_eq!(GroupRecord::decode(&record).unwrap(), expected);
    }
}

#[test]
fn tables_name_every_field() {
    use prost::Message;
    let full = StoredGroup {
        members: 2,
        ..stored_group()
    };
    assert_eq!(table("a group"), fields(&full.encode_to_vec()));
    assert_eq!(
        table("a committed offset"),
        fields(&stored_offset().encode_to_vec())
    );
}
