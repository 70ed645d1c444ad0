//! All that was ever appended, and what a map may hold of it.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::PARTITIONS;
use crate::model::Offset;
use crate::partition::PartitionHandle;

/// What a map holds of a key: the partition, the offset and the value of its record.
pub(super) type Held = (u32, Offset, Bytes);

/// A key and its value; none for a tombstone.
pub(super) type Record = (Bytes, Option<Bytes>);

/// All that was ever appended and acknowledged, by partition and offset.
#[derive(Default)]
pub(super) struct History {
    records: [Vec<Record>; PARTITIONS as usize],
    /// What was ever reported as damaged.
    damaged: [Vec<(Offset, Offset)>; PARTITIONS as usize],
}

impl History {
    pub(super) fn append(&mut self, partition: usize, base: Offset, records: Vec<Record>) {
        let history = &mut self.records[partition];
        assert_eq!(base.0, history.len() as u64);
        history.extend(records);
    }

    pub(super) fn ends(&self) -> Vec<Offset> {
        let ends = self.records.iter().map(|records| records.len() as u64);
        ends.map(Offset).collect()
    }

    /// Notes what the logs report as damaged by now.
    pub(super) fn note_damage(&mut self, partitions: &[PartitionHandle]) {
        for (damaged, partition) in self.damaged.iter_mut().zip(partitions) {
            for range in partition.quarantined() {
                if !damaged.contains(&range) {
                    damaged.push(range);
                }
            }
        }
    }

    /// Whether the record was reported as damaged.
    pub(super) fn is_damaged(&self, partition: usize, offset: Offset) -> bool {
        let mut damaged = self.damaged[partition].iter();
        damaged.any(|&(from, to)| (from..to).contains(&offset))
    }

    fn record(&self, partition: usize, offset: Offset) -> &Record {
        &self.records[partition][usize::try_from(offset.0).unwrap()]
    }

    /// The offset of the latest record of each key, of those below `end`.
    fn latest(&self, partition: usize, end: Offset) -> BTreeMap<&Bytes, Offset> {
        let end = usize::try_from(end.0).unwrap();
        let records = self.records[partition][..end].iter();
        let places = records.enumerate();
        places
            .map(|(offset, (key, _))| (key, Offset(offset as u64)))
            .collect()
    }

    /// Whether a map is the fold of the records below `ends`, if retention had removed
    /// those below some offsets, which lie between `told` and `removed`.
    ///
    /// Where the latest record of a key is reported as damaged, the map may have it or
    /// not, or an older one of that key. What it has was in the log at that offset.
    pub(super) fn check(
        &self,
        map: &BTreeMap<Bytes, Held>,
        told: &[Offset],
        removed: &[Offset],
        ends: &[Offset],
    ) {
        for (partition, ((&told, &removed), &end)) in told.iter().zip(removed).zip(ends).enumerate()
        {
            let of = |held: &&Held| held.0 as usize == partition;
            let mut start = told;
            for (key, latest) in self.latest(partition, end) {
                if self.is_damaged(partition, latest) {
                    continue;
                }
                let held = map.get(key).filter(of).map(|held| held.1);
                match (&self.record(partition, latest).1, held) {
                    // It was removed by retention.
                    (Some(_), None) => start = latest.advanced(1).max(start),
                    (Some(_), held) => assert_eq!(held, Some(latest), "{key:?} of {partition}"),
                    (None, held) => assert_eq!(held, None, "{key:?} was removed at {latest}"),
                }
            }
            assert!(
                start <= removed,
                "{partition} lacks what lies below {start}, {removed} was removed"
            );
            for (key, held) in map.iter().filter(|(_, held)| of(held)) {
                let (_, offset, value) = held;
                assert!((start..end).contains(offset), "{key:?} {offset}");
                let expected = (key.clone(), Some(value.clone()));
                assert_eq!(*self.record(partition, *offset), expected);
            }
        }
    }
}
