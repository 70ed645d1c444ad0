//! Partitions on disk that no topic has.
//!
//! | why | what the log says | what is done |
//! |---|---|---|
//! | a crash came between the record of a deletion and the removal of the files | a record deletes them | removed |
//! | a deleted topic's batches are in journal files that are not archived yet | a record deletes them | forgotten |
//! | the record that created the topic, or added partitions, is damaged | nothing | kept |
//!
//! That a topic is unknown never suffices to remove anything: the index may have
//! been rebuilt from a log that has lost records, in this start or in any before.
//! So the log itself is asked, all of it, whenever there is something to remove.
//! What is kept costs that reading with each start, until somebody removes it.

use std::collections::BTreeSet;

use super::StartError;
use super::internal_log::InternalLog;
use crate::metadata::{self, FIRST_USER_PARTITION, Metadata};
use crate::model::PartitionId;
use crate::partition::Engine;

/// Removes the partitions whose topics were deleted, and keeps new ones from
/// getting an id that anything on disk has.
pub(super) async fn remove(
    engine: &Engine,
    metadata: &mut Metadata,
    log: &InternalLog,
) -> Result<(), StartError> {
    let mut unknown: BTreeSet<PartitionId> = engine.partition_ids()?.into_iter().collect();
    if let Some(highest) = unknown.last() {
        // It may lie behind all that is known, when the record is damaged that
        // gave it out.
        metadata.reserve_partitions_below(PartitionId(highest.0.saturating_add(1)));
    }
    unknown.retain(|id| *id >= FIRST_USER_PARTITION);
    for topic in metadata.topics() {
        for id in topic.partition_ids() {
            unknown.remove(&id);
        }
    }
    let deleted = take_deleted(&mut unknown, log).await?;
    if let (Some(lowest), Some(highest)) = (unknown.first(), unknown.last()) {
        tracing::error!(
            "{} partitions on disk, with ids from {lowest} to {highest}, belong to no topic that is known; they are kept, as no record says that their topic was deleted",
            unknown.len()
        );
    }
    if !deleted.is_empty() {
        tracing::info!("removing {} partitions of deleted topics", deleted.len());
        engine.delete(deleted).await?;
    }
    Ok(())
}

/// Takes those of `unknown` out that a record of the log deletes.
async fn take_deleted(
    unknown: &mut BTreeSet<PartitionId>,
    log: &InternalLog,
) -> Result<Vec<PartitionId>, StartError> {
    let mut deleted = Vec::new();
    let (mut next, end) = log.range();
    while next < end && !unknown.is_empty() {
        let found = log.read(next).await?;
        next = found.next;
        let named = found.records.iter().flat_map(metadata::deleted_by);
        deleted.extend(named.filter(|id| unknown.remove(id)));
    }
    Ok(deleted)
}
