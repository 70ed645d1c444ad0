//! The latest offset of each key, in bounded memory.
//!
//! Keys are known by 128 bits of a keyed hash, so a slot has 24 bytes whatever the
//! key's size. Two keys with the same hash would lose a record; the hash has a
//! random and secret key of its own, so that comes by chance only, and its chance is
//! one in 2^89 among a million keys.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::model::Offset;

/// The first table has fewer than twice so many slots.
const FIRST_SLOTS: usize = 1024;

/// Two halves of a hash, and an offset plus one; 0 in an empty slot.
type Slot = [u64; 3];

/// The latest offset of each key.
#[derive(Debug)]
pub(super) struct KeyMap {
    /// At most three quarters are used. A slot is looked for from where its hash
    /// points, and lies before the next empty one.
    slots: Vec<Slot>,
    used: usize,
    /// As many slots as there may be, halved so many times, are there.
    max_slots: usize,
    halvings: u32,
    hasher: SipHasher13,
}

/// There is no room for another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

impl KeyMap {
    /// An empty map that takes at most `max_bytes`, while it grows included.
    /// `seed` is random and secret.
    pub(super) fn new(max_bytes: usize, seed: u128) -> KeyMap {
        // While it grows there is a table of half the size beside the new one.
        let max_slots = (max_bytes / size_of::<Slot>() / 3 * 2).max(4);
        let halvings = (max_slots / FIRST_SLOTS).checked_ilog2().unwrap_or(0);
        KeyMap {
            slots: vec![Slot::default(); max_slots >> halvings],
            used: 0,
            max_slots,
            halvings,
            hasher: SipHasher13::new_with_key(&seed.to_le_bytes()),
        }
    }

    /// Notes that a key has a record at `offset`, behind all that were noted.
    pub(super) fn note(&mut self, key: &[u8], offset: Offset) -> Result<(), Full> {
        let hash = self.hash(key);
        let mut at = self.slot_of(hash);
        if self.slots[at][2] == 0 {
            if !fits(self.used + 1, self.slots.len()) {
                self.grow()?;
                at = self.slot_of(hash);
            }
            self.used += 1;
        }
        self.slots[at] = [hash[0], hash[1], offset.0 + 1];
        Ok(())
    }

    /// The latest offset that was noted for a key.
    pub(super) fn latest(&self, key: &[u8]) -> Option<Offset> {
        let hash = self.hash(key);
        self.slots[self.slot_of(hash)][2].checked_sub(1).map(Offset)
    }

    fn hash(&self, key: &[u8]) -> [u64; 2] {
        let mut hasher = self.hasher;
        hasher.write(key);
        let hash = hasher.finish128();
        [hash.h1, hash.h2]
    }

    /// Where a hash lies, or the empty slot where it would.
    fn slot_of(&self, hash: [u64; 2]) -> usize {
        let count = self.slots.len();
        // The upper half of the product is evenly spread over all slots.
        let product = u128::from(hash[0]) * count as u128;
        let mut at = usize::try_from(product >> 64).expect("below the number of slots");
        loop {
            let slot = &self.slots[at];
            if slot[2] == 0 || slot[..2] == hash {
                return at;
            }
            at = if at + 1 == count { 0 } else { at + 1 };
        }
    }

    fn grow(&mut self) -> Result<(), Full> {
        self.halvings = self.halvings.checked_sub(1).ok_or(Full)?;
        let larger = vec![Slot::default(); self.max_slots >> self.halvings];
        let old = std::mem::replace(&mut self.slots, larger);
        for slot in old.into_iter().filter(|slot| slot[2] != 0) {
            let at = self.slot_of([slot[0], slot[1]]);
            self.slots[at] = slot;
        }
        Ok(())
    }
}

/// Whether so many of the slots may be used.
fn fits(used: usize, slots: usize) -> bool {
    used <= slots / 4 * 3
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u128 = 0x0123_4567_89ab_cdef << 40;

    #[test]
    fn latest_offset_of_each_key_is_found_whatever_the_size() {
        let mut keys = KeyMap::new(1 << 20, SEED);
        for round in 0..3 {
            for key in 0..20_000_u64 {
                let offset = Offset(round * 20_000 + key);
                keys.note(&key.to_le_bytes(), offset).unwrap();
            }
        }
        for key in 0..20_000_u64 {
            assert_eq!(keys.latest(&key.to_le_bytes()), Some(Offset(40_000 + key)));
        }
        assert_eq!(keys.latest(b""), None);
        assert_eq!(keys.latest(&20_000_u64.to_le_bytes()), None);
        keys.note(b"", Offset(0)).unwrap();
        assert_eq!(keys.latest(b""), Some(Offset(0)));
    }

    #[test]
    fn memory_is_bounded_and_a_full_map_still_takes_news_of_its_keys() {
        for max_bytes in [0, 1 << 10, 60_000, 100_000, 1 << 20, 3 << 20] {
            let mut keys = KeyMap::new(max_bytes, SEED);
            let mut largest = 0;
            let mut count = 0_u64;
            loop {
                let before = keys.slots.len();
                if keys.note(&count.to_le_bytes(), Offset(count)).is_err() {
                    break;
                }
                if keys.slots.len() > before {
                    largest = largest.max(keys.slots.len() + before);
                }
                count += 1;
            }
            assert!(largest * size_of::<Slot>() <= max_bytes.max(96));
            assert!(count >= (max_bytes / size_of::<Slot>() / 3) as u64);
            assert_eq!(keys.latest(&count.to_le_bytes()), None);
            keys.note(&0_u64.to_le_bytes(), Offset(count)).unwrap();
            assert_eq!(keys.latest(&0_u64.to_le_bytes()), Some(Offset(count)));
        }
    }
}
