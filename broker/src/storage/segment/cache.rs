//! Keeps segments open that were read lately.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::SegmentName;
use super::reader::SegmentReader;
use crate::model::PartitionId;
use crate::storage::dir::Dir;

/// Open segments, a bounded number of them. The one that was not used for
/// longest goes first.
#[derive(Debug)]
pub struct SegmentCache {
    capacity: usize,
    state: Mutex<CacheState>,
}

#[derive(Debug, Default)]
struct CacheState {
    open: HashMap<(PartitionId, SegmentName), Cached>,
    uses: u64,
}

#[derive(Debug)]
struct Cached {
    reader: Arc<SegmentReader>,
    last_use: u64,
}

impl SegmentCache {
    /// A cache of at most `capacity` open segments.
    pub fn new(capacity: usize) -> SegmentCache {
        SegmentCache {
            capacity,
            state: Mutex::default(),
        }
    }

    /// The segment, opened if it isn't.
    pub fn open(
        &self,
        dir: &dyn Dir,
        id: PartitionId,
        name: SegmentName,
    ) -> io::Result<Arc<SegmentReader>> {
        {
            let mut state = self.lock();
            state.uses += 1;
            let uses = state.uses;
            if let Some(cached) = state.open.get_mut(&(id, name)) {
                cached.last_use = uses;
                return Ok(cached.reader.clone());
            }
        }
        let reader = Arc::new(SegmentReader::open(dir, id, name)?);
        let mut state = self.lock();
        if state.open.len() >= self.capacity {
            // Looks at all of them; opening a file costs more.
            let oldest = state.open.iter().min_by_key(|(_, cached)| cached.last_use);
            if let Some(key) = oldest.map(|(&key, _)| key) {
                state.open.remove(&key);
            }
        }
        let last_use = state.uses;
        state.open.insert(
            (id, name),
            Cached {
                reader: reader.clone(),
                last_use,
            },
        );
        Ok(reader)
    }

    /// Those that are open.
    pub fn readers(&self) -> Vec<(PartitionId, SegmentName, Arc<SegmentReader>)> {
        let state = self.lock();
        let open = state.open.iter();
        open.map(|(&(id, name), cached)| (id, name, cached.reader.clone()))
            .collect()
    }

    /// The segment was removed.
    pub fn forget(&self, id: PartitionId, name: SegmentName) {
        self.lock().open.remove(&(id, name));
    }

    /// The partition was removed.
    pub fn forget_partition(&self, id: PartitionId) {
        self.lock().open.retain(|&(open, _), _| open != id);
    }

    fn lock(&self) -> MutexGuard<'_, CacheState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
