//! Figures of all groups, for those who watch.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What all groups count together.
#[derive(Debug, Default)]
pub(super) struct Counters {
    members: AtomicUsize,
    commits: AtomicU64,
    rebalances: AtomicU64,
}

impl Counters {
    pub(super) fn member_came(&self) {
        self.members.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn member_went(&self) {
        self.members.fetch_sub(1, Ordering::Relaxed);
    }

    /// So many offsets were committed.
    pub(super) fn committed(&self, count: u64) {
        self.commits.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn rebalanced(&self) {
        self.rebalances.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn members(&self) -> usize {
        self.members.load(Ordering::Relaxed)
    }

    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    pub(super) fn rebalances(&self) -> u64 {
        self.rebalances.load(Ordering::Relaxed)
    }
}
