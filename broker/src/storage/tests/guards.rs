//! Units under conditions on keys: whether each is placed is told beforehand by what was
//! placed, as plainly as it can be said.

use std::collections::BTreeMap;

use super::random::Random;
use super::stamps::Expected;
use super::world::World;
use crate::model::{KeyHash, PartitionId};
use crate::storage::KeyGuard;

/// Few, so that units meet.
const KEYS: u64 = 6;

/// Guards that live on beyond a step.
const HELD: usize = 4;

/// What is known of the keys of all partitions.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownKeys(BTreeMap<PartitionId, Known>);

/// What is known of the keys of a partition, from its first guard on.
#[derive(Debug, Clone, Default)]
struct Known {
    /// What was placed before may be anything.
    from: u64,
    /// Nobody needs what lies before, but for pins.
    needed_from: u64,
    pins: Vec<u64>,
    placed: Vec<(u64, KeyHash)>,
}

/// What a guard is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guarded {
    pub(super) id: PartitionId,
    key: KeyHash,
    seen: u64,
}

/// A guard for one of the next units.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) guarded: Guarded,
    pub(super) guard: KeyGuard,
}

/// Keys for the records of a batch.
pub(super) fn some_keys(random: &mut Random, count: u32) -> Vec<KeyHash> {
    (0..count).map(|_| some_key(random)).collect()
}

fn some_key(random: &mut Random) -> KeyHash {
    // As wide as hashes are.
    KeyHash(random.between(0, KEYS).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

impl Known {
    /// One past the last record that the guard hasn't seen, or that nobody knows.
    fn conflict(&self, guarded: &Guarded) -> Option<u64> {
        let is_it = |(offset, key): &&(u64, KeyHash)| *key == guarded.key && *offset >= self.from;
        let latest = self.placed.iter().rev().find(is_it);
        let may_end = latest.map_or(self.from, |(offset, _)| offset + 1);
        (may_end > guarded.seen).then_some(may_end)
    }

    fn settle(&mut self) {
        let pinned = self.pins.iter().min().copied().unwrap_or(u64::MAX);
        self.from = self.from.max(self.needed_from.min(pinned));
    }
}

impl KnownKeys {
    /// A guard was made, when `next` was the next offset of its partition.
    fn pin(&mut self, guarded: &Guarded, next: u64) {
        let new = || Known {
            from: next,
            ..Known::default()
        };
        let known = self.0.entry(guarded.id).or_insert_with(new);
        known.pins.push(guarded.seen);
    }

    /// A guard was dropped.
    pub(super) fn unpin(&mut self, guarded: &Guarded) {
        if let Some(known) = self.0.get_mut(&guarded.id) {
            let at = known.pins.iter().position(|&seen| seen == guarded.seen);
            known.pins.swap_remove(at.expect("it was made"));
            known.settle();
        }
    }

    fn forget_below(&mut self, id: PartitionId, offset: u64) {
        if let Some(known) = self.0.get_mut(&id) {
            known.needed_from = known.needed_from.max(offset);
            known.settle();
        }
    }

    /// Records were placed.
    pub(super) fn note(&mut self, id: PartitionId, base: u64, keys: &[KeyHash]) {
        if let Some(known) = self.0.get_mut(&id) {
            known.placed.extend((base..).zip(keys.iter().copied()));
        }
    }

    /// The partition was deleted.
    pub(super) fn remove(&mut self, id: PartitionId) {
        self.0.remove(&id);
    }

    /// What becomes of a unit with these guards that would be placed otherwise.
    pub(super) fn expected(&self, guards: &[Guarded]) -> Option<Expected> {
        let conflict = |guarded: &Guarded| self.0[&guarded.id].conflict(guarded);
        let first = guards.iter().find(|guarded| conflict(guarded).is_some())?;
        let of_partition = guards.iter().filter(|guarded| guarded.id == first.id);
        let wait_for = of_partition.filter_map(conflict).max()?;
        Some(Expected::Conflict(first.id, wait_for))
    }
}

impl World {
    /// Guards for a unit: mostly by somebody who has seen nearly everything.
    pub(super) fn some_guards(&mut self) -> Vec<Held> {
        if !self.random.one_in(3) {
            return Vec::new();
        }
        let made = (0..self.random.between(1, 4)).filter_map(|_| self.some_guard());
        let mut guards: Vec<Held> = made.collect();
        if self.random.one_in(2) && !self.held.is_empty() {
            let nth = self.random.between(0, self.held.len() as u64);
            guards.push(self.held.swap_remove(usize::try_from(nth).unwrap()));
        }
        let (alive, of_deleted) = guards
            .into_iter()
            .partition(|held| self.model.partitions.contains_key(&held.guarded.id));
        self.release(of_deleted);
        alive
    }

    fn some_guard(&mut self) -> Option<Held> {
        let id = self.some_partition()?;
        let next = self.model.partitions[&id].next();
        let back = match self.random.one_in(2) {
            true => 0,
            false => self.random.between(0, 8),
        };
        let guarded = Guarded {
            id,
            key: some_key(&mut self.random),
            seen: next.saturating_sub(back),
        };
        self.known_keys.pin(&guarded, next);
        let log = self.storage().partition(id);
        let seen = crate::model::Offset(guarded.seen);
        let guard = self.storage().guard(&log, guarded.key, seen);
        Some(Held { guarded, guard })
    }

    /// Drops guards.
    pub(super) fn release(&mut self, guards: Vec<Held>) {
        for Held { guarded, guard } in guards {
            drop(guard);
            self.known_keys.unpin(&guarded);
        }
    }

    /// Somebody looks now, and makes a unit later; or never.
    pub(super) fn hold_a_guard(&mut self) {
        if self.held.len() == HELD {
            let oldest = self.held.remove(0);
            self.release(vec![oldest]);
        }
        let guard = self.some_guard();
        self.held.extend(guard);
    }

    /// A view has come so far.
    pub(super) fn forget_some_keys(&mut self) {
        let Some(id) = self.some_partition() else {
            return;
        };
        let end = self.model.partitions[&id].visible_end();
        let offset = end.saturating_sub(self.random.between(0, 6));
        self.known_keys.forget_below(id, offset);
        if let Some(recent) = &mut self.storage().partition(id).lock().recent_keys {
            recent.forget_below(crate::model::Offset(offset));
        }
    }

    /// Ends the storage as it is: with what it knew in memory only.
    pub(super) fn close(&mut self) {
        self.storage = None;
        self.held.clear();
        self.known_keys = KnownKeys::default();
    }
}
