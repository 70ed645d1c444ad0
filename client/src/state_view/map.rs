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

#[cfg(test)]
mod tests {
    use statecast_proto::v1;

    use super::*;

    fn map(partitions: u32, entries: &[(&'static str, u32, u64)]) -> StateMap {
        let mut map = StateMap {
            partitions,
            ..StateMap::default()
        };
        for &(key, partition, offset) in entries {
            map.insert(Arc::new(Entry::from_wire(v1::Entry {
                partition,
                key: key.into(),
                offset,
                ..v1::Entry::default()
            })));
        }
        map
    }

    #[test]
    fn key_that_lies_in_several_partitions_is_that_of_its_own() {
        let home = partition_for_key(b"key", 4);
        let others = (0..4).filter(|partition| *partition != home);
        let mut entries: Vec<_> = others.map(|partition| ("key", partition, 1)).collect();
        let stray = map(4, &entries[..1]);
        assert_eq!(stray.get(b"key").unwrap().partition, entries[0].1);
        entries.push(("key", home, 1));
        assert_eq!(map(4, &entries).get(b"key").unwrap().partition, home);
        assert_eq!(map(4, &entries).get(b"ke"), None);
    }

    #[test]
    fn prefix_finds_its_keys_in_their_order_and_no_others() {
        let entries = [("a/2", 1, 1), ("b", 0, 1), ("a/1", 2, 1), ("a", 0, 1)];
        let map = map(4, &entries);
        let found = |prefix: &str| {
            let found = map.prefixed(prefix.as_bytes());
            found.map(|entry| entry.key.clone()).collect::<Vec<_>>()
        };
        assert_eq!(found("a/"), ["a/1", "a/2"]);
        assert_eq!(found(""), ["a", "a/1", "a/2", "b"]);
        assert_eq!(found("c"), [""; 0]);
    }

    #[test]
    fn what_lies_below_an_offset_goes_in_its_partition_only() {
        let mut map = map(2, &[("a", 0, 1), ("b", 0, 5), ("c", 1, 1)]);
        let gone = map.remove_below(0, 5);
        assert_eq!((gone.len(), &gone[0].key[..]), (1, &b"a"[..]));
        assert_eq!(map.len(), 2);
    }
}
