//! Writes the snapshot of producers that goes with a checkpoint.

use std::io;
use std::sync::Arc;

use super::Archiver;
use crate::model::Offset;
use crate::storage::Storage;
use crate::storage::log::PartitionLog;
use crate::storage::lsn::Generation;
use crate::storage::producers::{Noted, SnapshotWriter};

impl Storage {
    /// Writes what partitions know of producers where the journal files up to
    /// `upto` end. Does nothing while nobody ever said who they are.
    pub(super) fn snapshot_producers(
        &self,
        upto: Generation,
        archiver: &mut Archiver,
    ) -> io::Result<()> {
        let knows = |log: &&Arc<PartitionLog>| log.lock().producers.is_some();
        let mut logs: Vec<Arc<PartitionLog>> =
            self.logs().values().filter(knows).cloned().collect();
        logs.sort_unstable_by_key(|log| log.id());
        let mut noted = Noted::default();
        let mut snapshot = SnapshotWriter::new(self.dir.as_ref(), upto);
        for log in logs {
            {
                let mut state = log.lock();
                let (end, for_good) = (state.end_of(upto), state.end_of(archiver.archived));
                let Some(producers) = &mut state.producers else {
                    continue;
                };
                producers.archived(for_good);
                // Nothing of it is archived: frames will tell it all.
                if end == Offset::ZERO || producers.is_empty() {
                    continue;
                }
                snapshot.add(log.id(), end, producers);
                noted.partitions.insert(log.id());
            }
            snapshot.write()?;
        }
        // Once there is one, it must not become older than the checkpoint.
        noted.is_there = archiver.noted.is_there || !noted.partitions.is_empty();
        if noted.is_there {
            snapshot.finish()?;
            archiver.noted = noted;
        }
        Ok(())
    }
}
