//! What is appended to the journal.

use std::sync::Arc;

use super::files::Claim;
use crate::model::CheckedBatch;
use crate::storage::guards::KeyGuard;
use crate::storage::log::PartitionLog;

/// A batch for a partition, on its way into the journal, wherever its parts lie: there
/// are millions of them a second, and none is moved for it.
pub trait ToPlace {
    /// As [`JournalAppend::log`].
    fn log(&self) -> &PartitionLog;
    /// As [`JournalAppend::batch`].
    fn batch(&self) -> &CheckedBatch;
    /// As [`JournalAppend::unit_remaining`].
    fn unit_remaining(&self) -> u16;
    /// As [`JournalAppend::guards`].
    fn guards(&self) -> &[KeyGuard];
    /// As [`JournalAppend::claim`].
    fn claim(&self) -> Claim;
}

/// Such a batch with all its parts.
#[derive(Debug)]
pub struct JournalAppend {
    /// The partition.
    pub log: Arc<PartitionLog>,
    /// What is appended.
    pub batch: CheckedBatch,
    /// How many of the appends that follow belong to the same atomic unit.
    pub unit_remaining: u16,
    /// What has to hold for its unit to be placed. A unit has them in its first append.
    pub guards: Vec<KeyGuard>,
    /// Whether it may take the space that is kept for internal partitions.
    pub claim: Claim,
}

impl ToPlace for JournalAppend {
    fn log(&self) -> &PartitionLog {
        &self.log
    }

    fn batch(&self) -> &CheckedBatch {
        &self.batch
    }

    fn unit_remaining(&self) -> u16 {
        self.unit_remaining
    }

    fn guards(&self) -> &[KeyGuard] {
        &self.guards
    }

    fn claim(&self) -> Claim {
        self.claim
    }
}
