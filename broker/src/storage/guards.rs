//! Conditions under which a unit is placed: that keys haven't been written since
//! somebody looked.

use std::sync::Arc;

use super::Storage;
use super::log::PartitionLog;
use super::recent_keys::RecentKeys;
use crate::model::{KeyHash, Offset, PartitionId};

/// Holds as long as no record with a key is placed in a partition at or beyond the
/// offset up to which somebody has seen it. While it lives, the partition remembers what
/// decides that; so it is made while what was seen is still what is remembered.
#[derive(Debug)]
pub struct KeyGuard {
    log: Arc<PartitionLog>,
    /// None if it never holds.
    looked: Option<Looked>,
}

/// What somebody has looked at.
#[derive(Debug, Clone, Copy)]
struct Looked {
    key: KeyHash,
    /// Up to here it was seen; that is pinned.
    seen: Offset,
}

/// A guard doesn't hold: a key may have been written since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyConflict {
    /// The guard's partition.
    pub partition: PartitionId,
    /// Who has seen everything below this knows what was written, and may try again.
    pub wait_for: Offset,
}

impl Storage {
    /// A guard for a key of a partition, all of whose records have keys, by somebody who
    /// has seen everything below `seen`. The first one of a partition knows nothing of
    /// what was placed before.
    pub fn guard(&self, log: &Arc<PartitionLog>, key: KeyHash, seen: Offset) -> KeyGuard {
        let mut state = log.lock();
        let next_offset = state.next_offset;
        let new = || Box::new(RecentKeys::new(next_offset, self.key_budget.clone()));
        if !state.deleted {
            state.recent_keys.get_or_insert_with(new).pin(seen);
        }
        drop(state);
        KeyGuard {
            log: log.clone(),
            looked: Some(Looked { key, seen }),
        }
    }
}

impl KeyGuard {
    /// Its partition.
    pub(super) fn log(&self) -> &PartitionLog {
        &self.log
    }

    /// A guard that never holds, and is worth no waiting.
    pub(crate) fn closed(log: &Arc<PartitionLog>) -> KeyGuard {
        KeyGuard {
            log: log.clone(),
            looked: None,
        }
    }

    fn may_end(&self) -> Option<Offset> {
        let Some(Looked { key, seen }) = self.looked else {
            return Some(Offset::ZERO);
        };
        let state = self.log.lock();
        let recent = state.recent_keys.as_ref()?;
        recent.conflict(key, seen)
    }
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        let Some(Looked { seen, .. }) = self.looked else {
            return;
        };
        // Gone when the partition was deleted meanwhile.
        if let Some(recent) = &mut self.log.lock().recent_keys {
            recent.unpin(seen);
        }
    }
}

/// Why these guards don't hold, if so: of the first partition where one doesn't, with
/// what all its guards have to wait for.
pub(super) fn conflict<'a>(
    guards: impl Iterator<Item = &'a KeyGuard> + Clone,
) -> Option<KeyConflict> {
    let (partition, _) = guards
        .clone()
        .find_map(|guard| Some((guard.log.id(), guard.may_end()?)))?;
    let of_partition = guards.filter(|guard| guard.log.id() == partition);
    let wait_for = of_partition.filter_map(KeyGuard::may_end).max()?;
    Some(KeyConflict {
        partition,
        wait_for,
    })
}
