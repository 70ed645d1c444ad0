//! The keys and values that a view holds.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::partition_for_key;
use crate::state::Entry;

/// Keys in their order. A key belongs to one partition; but a producer may have put
/// it elsewhere, so that it has a value in several.
type Place = (Bytes, u32);

/// Entries by key and partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct StateMap {
    entries: BTreeMap<Place, Arc<Entry>>,
    /// How many the topic has; 0 while nobody has told.
    pub(super) partitions: u32,
}

impl StateMap {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The value of a key: that of its own partition, if it has one there.
    pub(super) fn get(&self, key: &[u8]) -> Option<&Arc<Entry>> {
        let key = Bytes::copy_from_slice(key);
        let range = (key.clone(), 0)..=(key.clone(), u32::MAX);
        let mut found = self.entries.range(range).map(|(_, entry)| entry);
        let first = found.next()?;
        let Some(second) = found.next() else {
            return Some(first);
        };
        let home = partition_for_key(&key, self.partitions.max(1));
        let mut all = [first, second].into_iter().chain(found);
        Some(all.find(|entry| entry.partition == home).unwrap_or(first))
    }

    pub(super) fn at(&self, partition: u32, key: &Bytes) -> Option<&Arc<Entry>> {
        self.entries.get(&(key.clone(), partition))
    }

    /// Those whose keys begin with a prefix, in the order of the keys.
    pub(super) fn prefixed(&self, prefix: &[u8]) -> impl Iterator<Item = &Arc<Entry>> {
        let from = (Bytes::copy_from_slice(prefix), 0);
        let range = (Bound::Included(from), Bound::Unbounded);
        let entries = self.entries.range(range).map(|(_, entry)| entry);
        entries.take_while(move |entry| entry.key.starts_with(prefix))
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.values()
    }

    /// Returns what was there before.
    pub(super) fn insert(&mut self, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        let place = (entry.key.clone(), entry.partition);
        self.entries.insert(place, entry)
    }

    pub(super) fn remove(&mut self, partition: u32, key: &Bytes) -> Option<Arc<Entry>> {
        self.entries.remove(&(key.clone(), partition))
    }

    /// Removes those of a partition that were set below an offset, and returns them.
    pub(super) fn remove_below(&mut self, partition: u32, offset: u64) -> Vec<Arc<Entry>> {
        let is_gone = |entry: &&Arc<Entry>| entry.partition == partition && entry.offset < offset;
        let gone: Vec<_> = self.all().filter(is_gone).cloned().collect();
        for entry in &gone {
            self.remove(partition, &entry.key);
        }
        gone
    }
}
