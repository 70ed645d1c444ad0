//! What records fold to, in whatever order compaction leaves them.

use super::*;
use crate::coordinator::record::{StoredGroup, StoredOffset, group_tombstone, offset_tombstone};

fn group(created_ms: i64, generation: u64) -> StoredGroup {
    StoredGroup {
        created_ms,
        generation,
        empty_since_ms: None,
        members: 0,
        next_partition: None,
    }
}

fn offset(offset: u64, group_created_ms: i64) -> StoredOffset {
    StoredOffset {
        offset,
        committed_ms: 7,
        group_created_ms,
    }
}

fn name(name: &str) -> GroupName {
    GroupName::try_from(name).unwrap()
}

/// Names, generations and offsets of the groups, and how many leftovers there are.
fn finish(records: &[NewRecord], damaged: bool) -> (Vec<(String, u64, Vec<u64>)>, usize) {
    let log = FakeLog::new();
    log.records.lock().unwrap().extend_from_slice(records);
    let exists = |topic| topic == TopicId(1);
    let (groups, leftovers) = log.fold().finish(damaged, exists);
    let group = |group: super::super::fold::LoadedGroup| {
        let mut offsets: Vec<u64> = group.offsets.values().map(|c| c.offset.0).collect();
        offsets.sort_unstable();
        (group.name.to_string(), group.stored.generation, offsets)
    };
    let mut groups: Vec<_> = groups.into_iter().map(group).collect();
    groups.sort();
    (groups, leftovers.len())
}

#[test]
fn an_offset_counts_wherever_the_record_of_its_group_lies() {
    let g = name("g");
    let records = [
        group(1, 5).record(&g),
        offset(3, 1).record(&g, t(0)),
        offset(4, 1).record(&g, t(1)),
    ];
    let expected = (vec![("g".to_owned(), 5, vec![3, 4])], 0);
    assert_eq!(finish(&records, false), expected);
    let mut reversed = records;
    reversed.reverse();
    assert_eq!(finish(&reversed, false), expected);
}

#[test]
fn what_a_former_group_of_the_name_committed_does_not_count() {
    let g = name("g");
    let records = [
        group(1, 5).record(&g),
        offset(3, 1).record(&g, t(0)),
        offset(4, 1).record(&g, t(1)),
        group_tombstone(&g),
        group(2, 1).record(&g),
        offset(1, 2).record(&g, t(1)),
    ];
    let expected = (vec![("g".to_owned(), 1, vec![1])], 1);
    assert_eq!(finish(&records, false), expected);
}

#[test]
fn what_belongs_to_nothing_any_more_is_left_over() {
    let (g, h) = (name("g"), name("h"));
    let other_topic = TopicPartition {
        topic: TopicId(2),
        partition: 0,
    };
    let records = [
        group(1, 1).record(&g),
        offset(3, 1).record(&g, other_topic),
        offset(3, 1).record(&h, t(0)),
        offset(3, 1).record(&h, t(1)),
        offset_tombstone("h", t(1)),
    ];
    let expected = (vec![("g".to_owned(), 1, vec![])], 2);
    assert_eq!(finish(&records, false), expected);
}

#[test]
fn a_group_whose_record_is_damaged_goes_on_with_what_it_committed() {
    let h = name("h");
    let records = [
        offset(2, 1).record(&h, t(0)),
        offset(3, 5).record(&h, t(1)),
        offset(4, 5).record(&h, t(2)),
    ];
    let expected = (vec![("h".to_owned(), 0, vec![3, 4])], 0);
    assert_eq!(finish(&records, true), expected);
    assert_eq!(finish(&records, false), (vec![], 3));
}

#[test]
fn a_record_that_is_none_of_ours_is_named() {
    let good = group(1, 1).record(&name("g"));
    let bad = [
        &b""[..],
        b"\x00g",
        b"\x03g",
        b"\x01",
        b"\x01__g",
        b"\x02short",
        b"\x0201234567abcd",
        b"\x0201234567abcd\xff",
    ];
    for key in bad {
        let mut fold = Fold::default();
        let record = LogRecord {
            offset: Offset(3),
            key: bytes::Bytes::from_static(key),
            value: good.value.clone(),
        };
        let error = fold.apply(&record).unwrap_err().to_string();
        assert!(error.contains("offset 3"), "{error}");
    }
}
