//! What the log should be, as plainly as it can be said.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::stamps::History;
use crate::model::{CheckedBatch, KeyHash, Offset, PartitionId};
use crate::storage::{Lsn, Read, ReadRequest, Storage};

/// A batch that was placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModelBatch {
    pub(super) base: u64,
    pub(super) count: u64,
    pub(super) payload: Bytes,
    /// Durable once the journal is flushed up to here.
    pub(super) end: Lsn,
    pub(super) acked: bool,
    /// The latest time of its records.
    pub(super) time_ms: i64,
    /// Batches of the same unit share it.
    pub(super) unit: u64,
}

/// One partition.
#[derive(Debug, Clone, Default)]
pub(super) struct ModelPartition {
    pub(super) batches: Vec<ModelBatch>,
    /// What retention removed: files that a crash may bring back.
    pub(super) removed: Vec<ModelBatch>,
    /// Everything below may be gone.
    pub(super) log_start: u64,
    /// Readers see what lies below, though it may not be durable.
    pub(super) published: u64,
    /// Offsets below were lost to damage, and are not given out again.
    pub(super) skipped_to: u64,
    /// Batches that say who sent them; retention takes none of these.
    pub(super) history: History,
}

impl ModelPartition {
    pub(super) fn next(&self) -> u64 {
        self.end_of(self.batches.last())
    }

    /// Retention removed what lies below `start`.
    pub(super) fn forget_below(&mut self, start: u64) {
        self.log_start = self.log_start.max(start);
        let removed = self.batches.extract_if(.., |batch| batch.base < start);
        self.removed.extend(removed);
    }

    /// One past the last offset that was acknowledged.
    pub(super) fn acked_end(&self) -> u64 {
        let acked = self.batches.iter().rev().find(|batch| batch.acked);
        self.end_of(acked)
    }

    /// One past the last offset that readers see.
    pub(super) fn visible_end(&self) -> u64 {
        self.acked_end().max(self.published)
    }

    /// Where the first batch at or behind `from` begins with a record at or after a
    /// time, if readers see it.
    pub(super) fn offset_at_time(&self, from: u64, time_ms: i64) -> Option<Offset> {
        let mut readable = self.batches.iter().filter(|batch| batch.base >= from);
        let first = readable.find(|batch| batch.time_ms >= time_ms)?;
        (first.base < self.visible_end()).then_some(Offset(first.base))
    }

    fn end_of(&self, last: Option<&ModelBatch>) -> u64 {
        let end = last.map_or(self.log_start, |batch| batch.base + batch.count);
        end.max(self.skipped_to)
    }
}

/// All partitions.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) partitions: BTreeMap<PartitionId, ModelPartition>,
}

/// What a whole partition reads as.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct WholeLog {
    pub(super) log_start: u64,
    pub(super) high_watermark: u64,
    /// Base offset, number of offsets, payload.
    pub(super) batches: Vec<(u64, u64, Bytes)>,
    /// Half-open ranges that were reported as damaged.
    pub(super) quarantined: Vec<(u64, u64)>,
}

/// Reads a partition from its start to its high watermark, as a reader would:
/// in small bites, going on where it is told to.
pub(super) fn read_whole(storage: &Storage, id: PartitionId, max_bytes: usize) -> WholeLog {
    let log = storage.partition(id);
    let high_watermark = log.high_watermark();
    let log_start = log.lock().log_start;
    let mut whole = WholeLog {
        log_start: log_start.0,
        high_watermark: high_watermark.0,
        ..WholeLog::default()
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
                assert!(
                    !batches.is_empty(),
                    "{id}: nothing at {at}, below {high_watermark}"
                );
                for batch in batches {
                    let header = batch.header;
                    assert!(header.matches(&batch.payload), "{id}: payload at {at}");
                    assert!(
                        header.base_offset <= at && at < header.next_offset(),
                        "{id}: {at} is covered"
                    );
                    whole.batches.push((
                        header.base_offset.0,
                        u64::from(header.offset_span),
                        batch.payload,
                    ));
                    at = header.next_offset();
                }
            }
            Read::Truncated { log_start_offset } => {
                panic!("{id}: {at} is below {log_start_offset}, the start was {log_start}")
            }
            Read::Quarantined { to } => {
                assert!(to > at, "{id}: damage at {at} ends behind it");
                whole.quarantined.push((at.0, to.0));
                at = to;
            }
        }
    }
    assert_eq!(
        at, high_watermark,
        "{id}: nothing beyond the high watermark is read"
    );
    whole
}

/// A batch whose payload says which one it is.
pub(super) fn batch(unique: u64, records: u32, filler: usize) -> CheckedBatch {
    let mut payload = unique.to_le_bytes().to_vec();
    payload.extend(
        (0..filler).map(|i| unique.wrapping_mul(31).wrapping_add(i as u64).to_le_bytes()[0]),
    );
    let payload = Bytes::from(payload);
    CheckedBatch {
        payload_crc: crc32fast::hash(&payload),
        uncompressed_len: u32::try_from(payload.len()).unwrap(),
        payload,
        record_count: records,
        max_timestamp_ms: None,
        all_timed: false,
        attributes: 0,
        stamp: None,
        key_hashes: (0..records).map(|nth| KeyHash(nth.into())).collect(),
    }
}

impl Model {
    /// Checks what recovery made of the partition, then takes it as the truth:
    /// what was not acknowledged may be gone from some place on.
    pub(super) fn reconcile(&mut self, id: PartitionId, found: &WholeLog) {
        let model = self.partitions.get_mut(&id).expect("the model knows it");
        assert!(
            found.quarantined.is_empty(),
            "{id}: nothing was damaged, yet {found:?}"
        );
        assert!(
            found.high_watermark >= model.acked_end(),
            "{id}: acknowledged records are lost"
        );
        assert!(
            found.log_start >= model.log_start,
            "{id}: removed records came back"
        );
        let expected = model
            .batches
            .iter()
            .filter(|batch| batch.base >= found.log_start);
        for (found, expected) in found.batches.iter().zip(expected) {
            assert_eq!(found.0, expected.base, "{id}: offset");
            assert_eq!(
                found.1, expected.count,
                "{id}: offsets of the batch at {}",
                found.0
            );
            assert_eq!(found.2, expected.payload, "{id}: payload at {}", found.0);
        }
        assert!(
            found.high_watermark <= model.next(),
            "{id}: records out of nowhere"
        );
        let end = found.high_watermark;
        model
            .history
            .retain(|stamped| stamped.base + stamped.count <= end);
        model.log_start = found.log_start;
        model.batches.retain(|batch| {
            batch.base >= found.log_start && batch.base + batch.count <= found.high_watermark
        });
        assert_eq!(
            model.next(),
            found.high_watermark.max(model.log_start),
            "{id}: ends at a batch"
        );
        model.published = 0;
        // They survived a crash: they are there to stay.
        for batch in &mut model.batches {
            batch.acked = true;
        }
    }

    /// Marks everything below `flushed` as acknowledged.
    pub(super) fn acknowledge(&mut self, flushed: Lsn) {
        for partition in self.partitions.values_mut() {
            for batch in partition
                .batches
                .iter_mut()
                .filter(|batch| batch.end <= flushed)
            {
                batch.acked = true;
            }
        }
    }

    /// The high watermark of a partition is where those end that are acknowledged or
    /// published before.
    pub(super) fn high_watermark(&self, id: PartitionId) -> Offset {
        Offset(self.partitions[&id].visible_end())
    }
}
