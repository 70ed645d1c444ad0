//! Which keys a partition was given lately, and where: that is what conditions on the
//! latest record of a key are checked against, at the one place with an order.
//!
//! A view of the partition knows the latest record of every key, up to some offset. What
//! was placed behind that, flushed or not, is here. So both together know all keys, and
//! whoever looked at the view can tell whether a key has been written since.
//!
//! Keys are known by 64 bits of a keyed hash. Two keys with the same one are taken for
//! the same: somebody then looks once more, in vain. A condition is never taken to hold
//! when it doesn't.
//!
//! Invariants:
//! - the records from `known_from` to the next offset of the partition are known, each
//!   with its key, without a hole.
//! - `latest` has the last one of each key among them.
//! - nothing at or beyond the first pin is forgotten, but for want of room.
//! - what is taken back leaves no trace, but that what was forgotten stays so.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::limits;
use crate::model::{KeyHash, Offset};

/// The keys of the last records of a partition.
#[derive(Debug)]
pub struct RecentKeys {
    known_from: Offset,
    /// The record at `known_from`, and all behind it.
    placed: VecDeque<PlacedKey>,
    latest: HashMap<KeyHash, Offset, BuildHasherDefault<AsItIs>>,
    /// What lies below is needed by nobody but those who have pinned it.
    needed_from: Offset,
    /// How many need what was placed from an offset on.
    pins: BTreeMap<Offset, usize>,
    budget: Arc<KeyBudget>,
}

/// A record that was placed.
#[derive(Debug, Clone, Copy)]
struct PlacedKey {
    key: KeyHash,
    /// So many records before it lies the one before with this key; 0 if none was known.
    back: u32,
}

impl RecentKeys {
    /// Knows all records from `next_offset` on, of which there is none yet.
    pub fn new(next_offset: Offset, budget: Arc<KeyBudget>) -> RecentKeys {
        RecentKeys {
            known_from: next_offset,
            placed: VecDeque::new(),
            latest: HashMap::default(),
            needed_from: next_offset,
            pins: BTreeMap::new(),
            budget,
        }
    }

    /// Whether a record with this key may lie at or beyond `seen`. If so, one past the
    /// last one, or past the last one that may be: who has seen everything below that
    /// knows.
    pub fn conflict(&self, key: KeyHash, seen: Offset) -> Option<Offset> {
        let latest = self.latest.get(&key).map(|latest| latest.advanced(1));
        let may_end = latest.unwrap_or(self.known_from);
        (may_end > seen).then_some(may_end)
    }

    /// Records with these keys were placed, from `base_offset` on.
    pub fn note(&mut self, base_offset: Offset, keys: &[KeyHash]) {
        assert_eq!(base_offset, self.end(), "no record goes unnoticed");
        self.budget.add(keys.len());
        for &key in keys {
            let offset = self.end();
            let before = self.latest.insert(key, offset);
            let back = before.map_or(0, |before| offset.0 - before.0);
            let back = u32::try_from(back).expect("bounded by what is known");
            self.placed.push_back(PlacedKey { key, back });
        }
        let most = match self.budget.has_room() {
            true => limits::RECENT_KEYS_PER_PARTITION,
            false => limits::FEW_RECENT_KEYS,
        };
        while self.placed.len() > most {
            self.forget_first();
        }
    }

    /// The records from `base_offset` on were taken back.
    pub fn take_back(&mut self, base_offset: Offset) {
        self.needed_from = self.needed_from.min(base_offset);
        while self.end() > base_offset {
            let Some(last) = self.placed.pop_back() else {
                // Forgotten already.
                self.known_from = base_offset;
                return;
            };
            self.budget.remove(1);
            let offset = self.end().0;
            let before = offset - u64::from(last.back);
            match last.back > 0 && before >= self.known_from.0 {
                true => self.latest.insert(last.key, Offset(before)),
                false => self.latest.remove(&last.key),
            };
        }
    }

    /// Nobody who comes from now on needs what lies below `offset`.
    pub fn forget_below(&mut self, offset: Offset) {
        self.needed_from = self.needed_from.max(offset.min(self.end()));
        self.forget_unneeded();
    }

    /// Somebody needs what is placed from `seen` on.
    pub fn pin(&mut self, seen: Offset) {
        *self.pins.entry(seen).or_default() += 1;
    }

    /// Takes a pin away.
    pub fn unpin(&mut self, seen: Offset) {
        let count = self.pins.get_mut(&seen).expect("it was pinned");
        *count -= 1;
        if *count == 0 {
            self.pins.remove(&seen);
            self.forget_unneeded();
        }
    }

    fn forget_unneeded(&mut self) {
        let pinned = self.pins.first_key_value().map(|(&seen, _)| seen);
        let needed_from = pinned.map_or(self.needed_from, |seen| seen.min(self.needed_from));
        if self.known_from >= needed_from {
            return;
        }
        while self.known_from < needed_from && !self.placed.is_empty() {
            self.forget_first();
        }
        let kept = self.placed.len();
        if self.placed.capacity() > 4 * kept + 64 {
            self.placed.shrink_to(2 * kept);
            self.latest.shrink_to(2 * kept);
        }
    }

    fn forget_first(&mut self) {
        let Some(first) = self.placed.pop_front() else {
            return;
        };
        self.budget.remove(1);
        if self.latest.get(&first.key) == Some(&self.known_from) {
            self.latest.remove(&first.key);
        }
        self.known_from = self.known_from.advanced(1);
    }

    /// The next offset of the partition.
    fn end(&self) -> Offset {
        self.known_from.advanced(self.placed.len() as u64)
    }
}

impl Drop for RecentKeys {
    fn drop(&mut self) {
        self.budget.remove(self.placed.len());
    }
}

/// What all partitions together remember: records.
#[derive(Debug, Default)]
pub struct KeyBudget(AtomicUsize);

impl KeyBudget {
    fn add(&self, records: usize) {
        self.0.fetch_add(records, Ordering::Relaxed);
    }

    fn remove(&self, records: usize) {
        self.0.fetch_sub(records, Ordering::Relaxed);
    }

    fn has_room(&self) -> bool {
        self.0.load(Ordering::Relaxed) <= limits::RECENT_KEYS
    }
}

/// Hashes what is a hash.
#[derive(Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("a hash of a key is one number");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(from: u64) -> RecentKeys {
        RecentKeys::new(Offset(from), Arc::default())
    }

    fn hashes(keys: &[u64]) -> Vec<KeyHash> {
        keys.iter().copied().map(KeyHash).collect()
    }

    fn conflict(recent: &RecentKeys, key: u64, seen: u64) -> Option<u64> {
        let end = recent.conflict(KeyHash(key), Offset(seen));
        end.map(|end| end.0)
    }

    #[test]
    fn a_key_is_in_conflict_with_its_records_that_were_not_seen() {
        let mut recent = keys(10);
        recent.note(Offset(10), &hashes(&[1, 2, 1]));
        recent.note(Offset(13), &hashes(&[3]));
        assert_eq!(conflict(&recent, 1, 10), Some(13));
        assert_eq!(conflict(&recent, 1, 12), Some(13));
        assert_eq!(conflict(&recent, 1, 13), None);
        assert_eq!(conflict(&recent, 2, 11), Some(12));
        assert_eq!(conflict(&recent, 2, 12), None);
        assert_eq!(conflict(&recent, 4, 10), None);
        // What was there before it began to look, it doesn't know.
        assert_eq!(conflict(&recent, 4, 9), Some(10));
        assert_eq!(conflict(&recent, 1, 0), Some(13));
    }

    #[test]
    fn what_is_taken_back_is_as_if_it_had_not_been() {
        let mut recent = keys(0);
        recent.note(Offset(0), &hashes(&[1, 2]));
        recent.note(Offset(2), &hashes(&[1, 1, 3]));
        recent.take_back(Offset(2));
        assert_eq!(conflict(&recent, 1, 0), Some(1));
        assert_eq!(conflict(&recent, 3, 0), None);
        recent.note(Offset(2), &hashes(&[4]));
        assert_eq!(conflict(&recent, 4, 2), Some(3));
        recent.forget_below(Offset(1));
        recent.note(Offset(3), &hashes(&[1]));
        recent.take_back(Offset(3));
        assert_eq!(conflict(&recent, 1, 1), None);
    }

    #[test]
    fn what_is_forgotten_is_in_conflict_with_everything() {
        let mut recent = keys(0);
        recent.note(Offset(0), &hashes(&[1, 2, 1, 3]));
        recent.forget_below(Offset(2));
        assert_eq!(conflict(&recent, 2, 1), Some(2));
        assert_eq!(conflict(&recent, 2, 2), None);
        assert_eq!(conflict(&recent, 1, 2), Some(3));
        recent.forget_below(Offset(100));
        assert_eq!(conflict(&recent, 9, 3), Some(4));
        assert_eq!(conflict(&recent, 3, 4), None);
        assert_eq!(recent.budget.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_taken_back_leads_to_nothing_that_was_forgotten() {
        let mut recent = keys(0);
        recent.note(Offset(0), &hashes(&[1, 2, 3, 1, 4]));
        recent.forget_below(Offset(4));
        recent.note(Offset(5), &hashes(&[1]));
        recent.take_back(Offset(5));
        assert_eq!(conflict(&recent, 1, 4), None);
        // The same where the record before was known when the last one came.
        let mut recent = keys(0);
        recent.note(Offset(0), &hashes(&[1, 2, 1]));
        recent.pin(Offset(3));
        recent.forget_below(Offset(2));
        recent.take_back(Offset(2));
        assert_eq!(conflict(&recent, 1, 1), Some(2));
        assert_eq!(conflict(&recent, 1, 2), None);
    }

    #[test]
    fn what_is_needed_ends_with_what_there_is_and_never_goes_back() {
        let mut recent = keys(0);
        recent.note(Offset(0), &hashes(&[1]));
        recent.forget_below(Offset(9));
        recent.note(Offset(1), &hashes(&[2, 3]));
        recent.pin(Offset(1));
        recent.unpin(Offset(1));
        assert_eq!(conflict(&recent, 4, 1), None, "none of them was seen");
        recent.pin(Offset(1));
        recent.forget_below(Offset(3));
        recent.forget_below(Offset(2));
        recent.unpin(Offset(1));
        assert_eq!(conflict(&recent, 4, 2), Some(3));
    }

    #[test]
    fn what_is_pinned_stays_until_it_is_not_pinned_any_more() {
        let mut recent = keys(0);
        recent.note(Offset(0), &hashes(&[1, 2, 3, 4]));
        recent.pin(Offset(3));
        recent.pin(Offset(1));
        recent.pin(Offset(1));
        recent.forget_below(Offset(4));
        assert_eq!(conflict(&recent, 9, 1), None);
        assert_eq!(conflict(&recent, 9, 0), Some(1));
        recent.unpin(Offset(1));
        assert_eq!(conflict(&recent, 9, 1), None);
        recent.unpin(Offset(1));
        assert_eq!(conflict(&recent, 9, 2), Some(3));
        assert_eq!(conflict(&recent, 9, 3), None);
        recent.unpin(Offset(3));
        assert_eq!(conflict(&recent, 9, 3), Some(4));
    }

    #[test]
    fn memory_is_bounded_for_each_partition_and_for_all() {
        let most = limits::RECENT_KEYS_PER_PARTITION as u64;
        let budget = Arc::new(KeyBudget::default());
        let mut recent = RecentKeys::new(Offset(0), budget.clone());
        let batch: Vec<KeyHash> = (0..most).map(KeyHash).collect();
        recent.pin(Offset(0));
        recent.note(Offset(0), &batch);
        assert_eq!(conflict(&recent, most, 0), None);
        recent.note(Offset(most), &hashes(&[most, most]));
        assert_eq!(conflict(&recent, 0, 1), Some(2));
        assert_eq!(conflict(&recent, 2, 2), Some(3));
        // All of it was forgotten before it is taken back.
        budget.add(limits::RECENT_KEYS);
        let few = limits::FEW_RECENT_KEYS as u64;
        recent.note(Offset(most + 2), &batch);
        assert_eq!(recent.known_from, Offset(2 * most + 2 - few));
        recent.take_back(Offset(most + 2));
        assert_eq!(conflict(&recent, 1, most + 1), Some(most + 2));
        assert_eq!(conflict(&recent, 1, most + 2), None);
        drop(recent);
        assert_eq!(budget.0.load(Ordering::Relaxed), limits::RECENT_KEYS);
    }
}
