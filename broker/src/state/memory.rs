//! How much memory the views of all topics take, and may take.

use std::sync::atomic::{AtomicUsize, Ordering};

/// What one more key costs beside its own bytes: the entry, its share of the
/// tree's free places, and what the allocator adds. Measured.
pub(super) const KEY_OVERHEAD: usize = 96;

/// What one more kept record costs beside its own bytes.
pub(super) const KEPT_OVERHEAD: usize = 16;

/// The memory of all views of a broker. Keys need it; what else it holds of records
/// makes reading them faster.
#[derive(Debug)]
pub struct ViewMemory {
    keys: Pool,
    kept: Pool,
}

#[derive(Debug)]
struct Pool {
    used: AtomicUsize,
    limit: usize,
}

impl ViewMemory {
    /// With so many bytes for keys, and for records that are kept beside them.
    pub fn new(keys: usize, kept: usize) -> ViewMemory {
        let pool = |limit| Pool {
            used: AtomicUsize::new(0),
            limit,
        };
        ViewMemory {
            keys: pool(keys),
            kept: pool(kept),
        }
    }

    /// Bytes that keys take now, and kept records.
    pub fn used(&self) -> (usize, usize) {
        let used = |pool: &Pool| pool.used.load(Ordering::Relaxed);
        (used(&self.keys), used(&self.kept))
    }

    /// The most bytes that keys may take.
    pub fn keys_limit(&self) -> usize {
        self.keys.limit
    }

    /// Takes room for a key, if `spare` bytes are left then.
    pub(super) fn take_key(&self, bytes: usize, spare: usize) -> bool {
        self.keys.take(bytes, spare)
    }

    pub(super) fn give_key(&self, bytes: usize) {
        self.keys.give(bytes);
    }

    pub(super) fn take_kept(&self, bytes: usize) -> bool {
        self.kept.take(bytes, 0)
    }

    pub(super) fn give_kept(&self, bytes: usize) {
        self.kept.give(bytes);
    }
}

impl Pool {
    fn take(&self, bytes: usize, spare: usize) -> bool {
        let limit = self.limit.saturating_sub(spare);
        let within = |used: usize| used.checked_add(bytes).filter(|&used| used <= limit);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, within)
            .is_ok()
    }

    fn give(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}
