//! What a compacted partition should be: its records, some of which may go.

use std::collections::BTreeMap;

use bytes::Bytes;
use statecast_proto::batch;

use super::random::Random;
use crate::model::{Offset, PartitionId};
use crate::storage::{Dropped, Read, ReadRequest, Storage};

/// A record, as a reader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyedRecord {
    pub(super) offset: u64,
    pub(super) key: Option<Bytes>,
    /// Absent in a tombstone.
    pub(super) value: Option<Bytes>,
    pub(super) time_ms: i64,
}

/// What a partition reads as.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) log_start: u64,
    pub(super) high_watermark: u64,
    pub(super) records: Vec<KeyedRecord>,
    /// Half-open ranges that were reported as damaged, neighbours as one.
    pub(super) quarantined: Vec<(u64, u64)>,
}

/// One partition.
#[derive(Debug, Clone, Default)]
pub(super) struct KeyedPartition {
    /// Those that may be there, in the order of their offsets.
    pub(super) records: Vec<KeyedRecord>,
    /// All that there ever were, in this order, too.
    pub(super) history: Vec<KeyedRecord>,
    /// Everything below may be gone.
    pub(super) log_start: u64,
    /// Everything below is durable.
    pub(super) acked_end: u64,
    /// One past the last offset that was given out.
    pub(super) next: u64,
    /// Where batches end that are not durable, and where in the journal.
    pub(super) unacked: Vec<(u64, crate::storage::Lsn)>,
}

/// Reads a partition from its start to its high watermark in small bites.
pub(super) fn read_records(storage: &Storage, id: PartitionId, max_bytes: usize) -> Found {
    let log = storage.partition(id);
    let high_watermark = log.high_watermark();
    let log_start = log.lock().log_start;
    let mut found = Found {
        log_start: log_start.0,
        high_watermark: high_watermark.0,
        ..Found::default()
    };
    let mut at = log_start;
    while at < high_watermark {
        let request = ReadRequest {
            from: at,
            until: high_watermark,
            max_bytes,
        };
        match storage.read(&log, request).expect("reading works") {
            Read::Batches(batches) => {
                assert!(!batches.is_empty(), "{id}: nothing at {at}");
                for batch in batches {
                    let header = batch.header;
                    assert!(header.matches(&batch.payload), "{id}: payload at {at}");
                    let covered = header.base_offset..header.next_offset();
                    assert!(covered.contains(&at), "{id}: {at} is covered");
                    let mut next = header.base_offset.0;
                    for record in batch::decode(batch.payload).unwrap() {
                        let record = record.unwrap();
                        let offset = next + u64::from(record.offset_gap);
                        next = offset + 1;
                        assert!(covered.contains(&Offset(offset)));
                        found.records.push(KeyedRecord {
                            offset,
                            key: record.key,
                            value: record.value,
                            time_ms: record.timestamp_ms.unwrap_or(header.append_time_ms),
                        });
                    }
                    at = header.next_offset();
                }
            }
            Read::Truncated { .. } => panic!("{id}: the start is readable"),
            Read::Quarantined { to } => {
                assert!(to > at, "{id}: damage at {at} ends behind it");
                match found.quarantined.last_mut() {
                    Some(last) if last.1 == at.0 => last.1 = to.0,
                    _ => found.quarantined.push((at.0, to.0)),
                }
                at = to;
            }
        }
    }
    found
}

/// What the records say in the end: the last value of each key that has one, and
/// all that has no key.
pub(super) fn fold(records: &[KeyedRecord]) -> (BTreeMap<&Bytes, &KeyedRecord>, Vec<&KeyedRecord>) {
    let mut latest = BTreeMap::new();
    let mut keyless = Vec::new();
    for record in records {
        match &record.key {
            Some(key) if record.value.is_some() => drop(latest.insert(key, record)),
            Some(key) => drop(latest.remove(key)),
            None => keyless.push(record),
        }
    }
    (latest, keyless)
}

/// What is left of `before` is some of it, in order, and says the same.
pub(super) fn check_compacted(id: PartitionId, before: &[KeyedRecord], left: &[KeyedRecord]) {
    let mut rest = before.iter();
    for record in left {
        assert!(
            rest.any(|expected| expected == record),
            "{id}: {record:?} is not what was there"
        );
    }
    assert_eq!(fold(left), fold(before), "{id}: says something else");
}

/// The values of all keys.
fn values(records: &[KeyedRecord]) -> BTreeMap<&Bytes, &KeyedRecord> {
    fold(records).0
}

impl KeyedPartition {
    /// Compaction says what can't be told any more, and what it doesn't say can be: what
    /// was true at an offset, and what has happened since.
    pub(super) fn check_dropped(
        &self,
        id: PartitionId,
        found: &Found,
        dropped: Dropped,
        random: &mut Random,
    ) {
        let before = |records: &[KeyedRecord], offset| {
            let from = records.partition_point(|one| one.offset < found.log_start);
            let to = records.partition_point(|one| one.offset < offset);
            records[from.min(to)..to].to_vec()
        };
        let history = before(&self.history, found.high_watermark);
        let mut some_offset = |from: Offset| {
            let from = from.0.max(found.log_start);
            let more = (found.high_watermark + 1).saturating_sub(from);
            let further = random.next().checked_rem(more);
            [Some(from).filter(|_| more > 0), further.map(|by| from + by)]
        };
        for at in some_offset(dropped.superseded_to).into_iter().flatten() {
            let (was, is) = (before(&history, at), before(&found.records, at));
            assert_eq!(values(&is), values(&was), "{id}: at {at}, with {dropped:?}");
        }
        for at in some_offset(dropped.tombstones_to).into_iter().flatten() {
            let mut received = before(&history, at);
            let since = found.records.iter().filter(|record| record.offset >= at);
            received.extend(since.cloned());
            let (heard, is) = (values(&received), values(&found.records));
            assert_eq!(heard, is, "{id}: since {at}, with {dropped:?}");
        }
    }

    /// What may be read, and up to where.
    pub(super) fn check(&mut self, id: PartitionId, found: &Found, grace: Option<(u64, i64)>) {
        assert_eq!(found.quarantined, [], "{id}: nothing was damaged");
        assert!(found.log_start >= self.log_start, "{id}: log start");
        // A crash may bring back what lies before.
        let place = |offset| self.records.partition_point(|one| one.offset < offset);
        let readable = place(found.log_start)..place(found.high_watermark);
        let before = &self.records[readable.clone()];
        check_compacted(id, before, &found.records);
        if let Some((grace_ms, now_ms)) = grace {
            check_tombstones(id, before, found, grace_ms, now_ms);
        }
        // What is gone is gone for good, crash or not.
        self.records.splice(readable, found.records.iter().cloned());
    }

    /// Retention removed what lies below `start`.
    pub(super) fn forget_below(&mut self, start: u64) {
        self.log_start = start;
        self.records.retain(|record| record.offset >= start);
    }
}

/// A tombstone that nothing supersedes stays until it is old enough.
fn check_tombstones(
    id: PartitionId,
    before: &[KeyedRecord],
    found: &Found,
    grace_ms: u64,
    now_ms: i64,
) {
    for (index, record) in before.iter().enumerate() {
        let is_superseded = before[index + 1..]
            .iter()
            .any(|later| later.key == record.key);
        if record.key.is_some() && record.value.is_none() && !is_superseded {
            let is_young = now_ms - record.time_ms < i64::try_from(grace_ms).unwrap();
            assert!(
                !is_young || found.records.contains(record),
                "{id}: {record:?} went too early, at {now_ms}"
            );
        }
    }
}
