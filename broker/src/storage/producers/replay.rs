//! What recovery makes of producers: the snapshot, and on top of it the frames of
//! the journal, in their order.
//!
//! | snapshot | what is known of a partition |
//! |---|---|
//! | as new as the checkpoint, or newer | what it says, and what frames behind it add |
//! | missing, and the checkpoint says that it had nothing of the partition | what frames add |
//! | missing, damaged or older, and it had something | what frames add; whoever isn't among them is refused if they had their id before this start |
//!
//! When the checkpoint is lost as well, nobody knows what it had: then the last row
//! counts for all partitions with segments.

use std::collections::HashMap;
use std::sync::Arc;

use super::Tally;
use super::admission::Incoming;
use super::requests::Requests;
use super::snapshot::{Known, Loaded, Noted, Snapshot};
use super::table::{Forgotten, ProducerTable};
use crate::model::{Offset, PartitionId, StoredStamp};
use crate::storage::checkpoint::CheckpointEntry;
use crate::storage::log::PartitionLog;
use crate::storage::lsn::Generation;

/// Producers as they are found again.
#[derive(Debug, Default)]
pub struct ProducerReplay {
    partitions: HashMap<PartitionId, Known>,
    tally: Arc<Tally>,
    /// There is a file.
    is_there: bool,
    /// Partitions of which something was lost.
    lost: usize,
}

impl ProducerReplay {
    /// Begins with a snapshot, given what the checkpoint says; `archived` is `None`
    /// if it was lost, and `entries` is what segments say.
    pub fn new(
        loaded: Loaded,
        archived: Option<Generation>,
        entries: &[CheckpointEntry],
        tally: Arc<Tally>,
    ) -> ProducerReplay {
        let is_there = !matches!(loaded, Loaded::Missing);
        let is_current =
            |snapshot: &Snapshot| archived.is_none_or(|archived| archived <= snapshot.archived);
        let (partitions, older) = match loaded {
            Loaded::Snapshot(snapshot) if is_current(&snapshot) => {
                (Some(snapshot.partitions), None)
            }
            Loaded::Snapshot(older) => (None, Some(older.partitions)),
            Loaded::Missing | Loaded::Damaged => (None, None),
        };
        let is_lost = partitions.is_none();
        let mut replay = ProducerReplay {
            partitions: partitions.unwrap_or_default(),
            tally,
            is_there,
            lost: 0,
        };
        if is_lost {
            let had = |entry: &&CheckpointEntry| entry.has_producers || archived.is_none();
            let noted = entries.iter().filter(had).map(|entry| entry.partition);
            for id in noted.chain(older.into_iter().flat_map(HashMap::into_keys)) {
                replay.lose(id);
            }
            // If the checkpoint is lost, too, there may never have been one.
            if is_there || archived.is_some() {
                replay.lost = replay.partitions.len();
            }
        }
        replay
    }

    /// What the file has something of, or had.
    pub fn noted(&self) -> Noted {
        Noted {
            is_there: self.is_there,
            partitions: self.partitions.keys().copied().collect(),
        }
    }

    fn lose(&mut self, id: PartitionId) {
        let table = ProducerTable::of(
            self.tally.clone(),
            Vec::new(),
            Requests::default(),
            Some(Forgotten::ALL_SO_FAR),
        );
        let known = Known {
            end: Offset::ZERO,
            table,
        };
        self.partitions.insert(id, known);
    }

    /// Takes a batch of the journal.
    pub fn apply(&mut self, id: PartitionId, stamp: StoredStamp, batch: Incoming) {
        let tally = &self.tally;
        let known = self.partitions.entry(id).or_insert_with(|| Known {
            end: Offset::ZERO,
            table: ProducerTable::new(tally.clone()),
        });
        if batch.base_offset >= known.end {
            known.table.replay(stamp, batch);
        }
    }

    /// What is known of one partition.
    #[cfg(test)]
    pub(super) fn into_known(mut self, id: PartitionId) -> Known {
        self.partitions.remove(&id).expect("something is known")
    }

    /// Gives each partition what is known of its producers. Returns for how many
    /// something was lost.
    pub fn finish(self, logs: &HashMap<PartitionId, Arc<PartitionLog>>) -> usize {
        for (id, known) in self.partitions {
            // Without a log it was deleted since.
            if let Some(log) = logs.get(&id)
                && !known.table.is_empty()
            {
                log.lock().producers = Some(known.table);
            }
        }
        self.lost
    }
}
