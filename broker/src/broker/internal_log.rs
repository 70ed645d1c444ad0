//! An internal partition: what the broker itself remembers, as records with keys.
//! Those that are appended together become one batch.

use statecast_proto::batch::{self, BatchBuilder, BatchLimits, Compression, RecordRef};

use super::StartError;
use crate::limits;
use crate::metadata::TOPICS_PARTITION;
use crate::model::{FlushLevel, KeyHasher, LogRecord, NewRecord, Offset, PartitionId};
use crate::partition::{
    Append, AppendError, CompactionConfig, Engine, PartitionConfig, PartitionHandle, Read,
    StoredBatch,
};

use super::produce::checked;

/// The log of one internal partition.
#[derive(Debug)]
pub(super) struct InternalLog {
    engine: Engine,
    partition: PartitionHandle,
}

/// What a read of the log found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) records: Vec<LogRecord>,
    /// Where to go on; at the end of the log it is where the read began.
    pub(super) next: Offset,
    /// Records before `next` are missing: damaged on disk.
    pub(super) damaged: bool,
}

impl InternalLog {
    pub(super) fn open(engine: Engine, id: PartitionId) -> InternalLog {
        let compaction = compaction_of(id);
        let config = PartitionConfig {
            flush: FlushLevel::Always,
            segment_bytes: match compaction {
                Some(_) => limits::COMPACTED_INTERNAL_SEGMENT_BYTES,
                None => limits::DEFAULT_SEGMENT_BYTES,
            },
            retention_ms: None,
            retention_bytes: None,
            compaction,
            internal: true,
        };
        let partition = engine.partition(id, config);
        InternalLog { engine, partition }
    }

    /// The offsets that it holds.
    pub(super) fn range(&self) -> (Offset, Offset) {
        let range = self.partition.range();
        (range.log_start_offset, range.high_watermark)
    }

    /// Whether some of its records are known to be lost.
    pub(super) fn is_damaged(&self) -> bool {
        !self.partition.quarantined().is_empty()
    }

    /// The next records from `from` on.
    pub(super) async fn read(&self, from: Offset) -> Result<Found, StartError> {
        let end = self.partition.range().high_watermark;
        if from >= end {
            return Ok(Found {
                records: Vec::new(),
                next: from,
                damaged: false,
            });
        }
        match self
            .partition
            .read(from, end, limits::METADATA_READ_BYTES)
            .await?
        {
            Read::Batches(batches) => {
                let mut records = Vec::new();
                for batch in &batches {
                    decode(batch, &mut records)?;
                }
                let next = batches
                    .last()
                    .map_or(from, |batch| batch.header.next_offset());
                records.retain(|record| record.offset >= from);
                Ok(Found {
                    records,
                    next,
                    damaged: false,
                })
            }
            Read::Truncated { log_start_offset } => Ok(Found {
                records: Vec::new(),
                next: log_start_offset,
                damaged: false,
            }),
            Read::Quarantined { to } => Ok(Found {
                records: Vec::new(),
                next: to,
                damaged: true,
            }),
        }
    }

    /// Appends a record; returns it as it lies in the log, durable.
    pub(super) async fn append(&self, record: NewRecord) -> Result<LogRecord, AppendError> {
        let appends = self.appends(std::slice::from_ref(&record));
        let result = self.engine.append(appends).await.pop();
        let appended = result.expect("one result for one batch")?;
        Ok(LogRecord {
            offset: appended.base_offset,
            key: record.key,
            value: record.value,
        })
    }

    /// Appends records in this order, in as few batches as they fit in, behind those
    /// of the calls before. Resolves when the log has taken them; what it resolves to
    /// does so when they are durable, or some of them failed.
    pub(super) fn submit(
        &self,
        records: &[NewRecord],
    ) -> impl Future<
        Output = Result<impl Future<Output = Result<(), AppendError>> + use<>, AppendError>,
    > + use<> {
        let appends = self.appends(records);
        let engine = self.engine.clone();
        async move {
            let answer = engine.submit(appends).await?;
            Ok(async {
                let results = answer.await.map_err(|_| AppendError::Stopping)?;
                results
                    .into_iter()
                    .try_for_each(|result| result.map(|_| ()))
            })
        }
    }

    fn appends(&self, records: &[NewRecord]) -> Vec<Append> {
        let mut appends = Vec::new();
        let mut builder = BatchBuilder::new(Compression::None);
        for (index, record) in records.iter().enumerate() {
            let content = RecordRef {
                key: Some(&record.key),
                value: record.value.as_deref(),
                ..RecordRef::default()
            };
            builder.push(&content).expect("a record of ours is small");
            let is_full = builder.encoded_len() >= limits::INTERNAL_BATCH_BYTES
                || builder.record_count() as usize >= limits::INTERNAL_BATCH_RECORDS;
            if !is_full && index + 1 < records.len() {
                continue;
            }
            let payload = builder.finish().payload;
            let batch = checked(
                payload,
                None,
                &BatchLimits::default(),
                None::<KeyHasher>,
                &mut Vec::new(),
            )
            .expect("we have just built it");
            appends.push(Append::new(&self.partition, batch));
        }
        appends
    }
}

/// How an internal partition is compacted. That of topics is not: its records of
/// deletions alone entitle a broker to remove files. Of the others only the last
/// record of each key counts, and nobody reads them but a start, from the first
/// record on; so a tombstone goes with what it deletes.
pub(super) fn compaction_of(id: PartitionId) -> Option<CompactionConfig> {
    (id != TOPICS_PARTITION).then_some(CompactionConfig {
        tombstone_grace_ms: 0,
        min_dirty_percent: 50,
        max_dirty_bytes: limits::INTERNAL_DIRTY_BYTES,
    })
}

/// Adds the records of a batch.
fn decode(batch: &StoredBatch, records: &mut Vec<LogRecord>) -> Result<(), StartError> {
    let mut offset = batch.header.base_offset;
    for record in batch::decode(batch.payload.clone())? {
        let record = record?;
        offset = offset.advanced(u64::from(record.offset_gap));
        records.push(LogRecord {
            offset,
            key: record.key.unwrap_or_default(),
            value: record.value,
        });
        offset = offset.advanced(1);
    }
    Ok(())
}
