//! The view of one partition: each key's latest record.
//!
//! Invariants:
//! - After [`PartitionView::apply`] of every record below `applied`, in order, the
//!   entries are exactly the fold of those records that lie at or behind `start`.
//! - An entry's offset only rises, until its key is removed; so applying a record
//!   again that was applied before changes nothing.
//! - What is charged to the memory of all views is what this one holds, and is given
//!   back with it.

use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroU64;
use std::ops::Bound;
use std::sync::Arc;

use super::checkpoint::{Fingerprint, SavedEntry};
use super::filter::behind_prefix;
use super::memory::{KEPT_OVERHEAD, KEY_OVERHEAD, ViewMemory};
use crate::model::Offset;

/// A lease, as long as the data directory lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub NonZeroU64);

/// What is known of a key.
#[derive(Debug)]
pub struct Entry {
    /// Offset of its latest record.
    pub offset: Offset,
    /// The lease that it ends with.
    pub lease: Option<LeaseId>,
    /// The record without its key, if there was room for it: else it is to be
    /// read from the log.
    pub kept: Option<Box<[u8]>>,
}

/// A record that is to be applied.
#[derive(Debug, Clone, Copy)]
pub struct Update<'a> {
    /// Where it lies.
    pub offset: Offset,
    /// Its key.
    pub key: &'a [u8],
    /// The record without its key; `None` for a tombstone.
    pub body: Option<&'a [u8]>,
    /// The lease that it was put with.
    pub lease: Option<LeaseId>,
}

/// There is no room for the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ViewFull;

/// The view of one partition.
#[derive(Debug)]
pub struct PartitionView {
    memory: Arc<ViewMemory>,
    /// One past the last record that was applied.
    applied: Offset,
    /// The batch that was applied last.
    last_batch: Fingerprint,
    /// Records below were removed by retention: they count no more.
    start: Offset,
    /// Compaction dropped records that were superseded below this.
    exact_from: Offset,
    /// Records that were applied, as far as somebody counts them.
    changes: u64,
    /// Nothing was skipped.
    is_whole: bool,
    /// Bytes for keys that it leaves to others.
    spare: usize,
    entries: BTreeMap<Box<[u8]>, Entry>,
    /// The keys of each lease.
    leased: BTreeMap<LeaseId, HashSet<Box<[u8]>>>,
}

impl PartitionView {
    /// An empty view, to which records from `start` on are to be applied.
    pub fn new(memory: Arc<ViewMemory>, start: Offset) -> PartitionView {
        PartitionView {
            memory,
            applied: start,
            last_batch: Fingerprint::default(),
            start,
            exact_from: start,
            changes: 0,
            is_whole: true,
            spare: 0,
            entries: BTreeMap::new(),
            leased: BTreeMap::new(),
        }
    }

    /// A view that was saved: everything below `applied` was in it. The entries come
    /// in the order of their keys.
    pub fn restored(
        memory: Arc<ViewMemory>,
        start: Offset,
        applied: Offset,
        entries: Vec<SavedEntry>,
    ) -> Result<PartitionView, ViewFull> {
        let mut view = PartitionView::new(memory, start);
        let mut charged = Vec::with_capacity(entries.len());
        let mut is_full = false;
        for (key, mut entry) in entries {
            if entry.offset < start {
                continue;
            }
            if is_full || !view.memory.take_key(charge(&key, entry.lease), 0) {
                is_full = true;
                continue;
            }
            let memory = &view.memory;
            entry.kept = entry
                .kept
                .filter(|kept| memory.take_kept(kept.len() + KEPT_OVERHEAD));
            if let Some(lease) = entry.lease {
                view.leased.entry(lease).or_default().insert(key.clone());
            }
            charged.push((key, entry));
        }
        // Sorted, it is built at once, and its nodes are full.
        view.entries = charged.into_iter().collect();
        match is_full {
            true => Err(ViewFull),
            false => {
                view.applied = applied.max(start);
                Ok(view)
            }
        }
    }

    /// One past the last record that was applied.
    pub fn applied(&self) -> Offset {
        self.applied
    }

    /// Records below were removed by retention.
    pub fn start(&self) -> Offset {
        self.start
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Applies a record. Those of a partition come in the order of their offsets; one
    /// that is not newer than what is known of its key is ignored.
    pub fn apply(&mut self, update: Update<'_>) -> Result<(), ViewFull> {
        let Some(body) = update.body else {
            if self
                .entries
                .get(update.key)
                .is_some_and(|entry| entry.offset < update.offset)
            {
                self.remove(update.key);
            }
            return Ok(());
        };
        let charge_now = charge(update.key, update.lease);
        let (before, kept_before) = match self.entries.get_mut(update.key) {
            Some(entry) if entry.offset >= update.offset => return Ok(()),
            Some(entry) => {
                let charge_before = charge(update.key, entry.lease);
                let more = charge_now.saturating_sub(charge_before);
                if !self.memory.take_key(more, self.spare) {
                    return Err(ViewFull);
                }
                self.memory.give_key(charge_before + more - charge_now);
                (entry.lease, entry.kept.take())
            }
            None if self.memory.take_key(charge_now, self.spare) => (None, None),
            None => return Err(ViewFull),
        };
        if let Some(kept) = kept_before {
            self.memory.give_kept(kept.len() + KEPT_OVERHEAD);
        }
        let kept = self.memory.take_kept(body.len() + KEPT_OVERHEAD);
        let entry = Entry {
            offset: update.offset,
            lease: update.lease,
            kept: kept.then(|| body.into()),
        };
        match self.entries.get_mut(update.key) {
            Some(known) => *known = entry,
            None => drop(self.entries.insert(update.key.into(), entry)),
        }
        if before != update.lease {
            self.change_lease(update.key, before, update.lease);
        }
        Ok(())
    }

    /// Everything below `to` was applied; with the batch that ends there.
    pub fn advance(&mut self, to: Offset, batch: Fingerprint) {
        if to > self.applied {
            self.changes += to.0 - self.applied.0;
            self.applied = to;
            self.last_batch = batch;
        }
    }

    /// Everything below `to` that wasn't applied can't be read now.
    pub fn skip(&mut self, to: Offset) {
        self.advance(to, Fingerprint::default());
        self.is_whole = false;
    }

    /// Whether everything was applied that was there. What isn't whole is not to outlive
    /// this process: another one may be able to read what was skipped.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// The keys leave so many bytes of the memory of all views to others, from now on.
    pub fn leave(&mut self, spare: usize) {
        self.spare = spare;
    }

    /// The batch that was applied last.
    pub fn last_batch(&self) -> Fingerprint {
        self.last_batch
    }

    /// The batch that was applied last, of a view that was saved.
    pub fn note_last_batch(&mut self, batch: Fingerprint) {
        self.last_batch = batch;
    }

    /// How many records were applied since this was called last.
    pub fn take_changes(&mut self) -> u64 {
        std::mem::take(&mut self.changes)
    }

    /// As [`PartitionView::take_changes`], and goes on counting.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Compaction has dropped records that were superseded below `to`. Before everything
    /// up to there is applied, one of them may be missing without the one behind it.
    pub fn note_superseded(&mut self, to: Offset) {
        self.exact_from = self.exact_from.max(to);
    }

    /// Once it was applied up to here, the view is what the whole log folds to.
    pub fn exact_from(&self) -> Offset {
        self.exact_from
    }

    /// Whether the view is what all records below `applied` fold to, those that
    /// compaction dropped included.
    pub fn is_exact(&self) -> bool {
        self.applied >= self.exact_from
    }

    /// What it has to be applied up to, if it isn't, to have everything below `wanted`
    /// and be exact.
    pub fn lacks(&self, wanted: Offset) -> Option<Offset> {
        let wanted = self.exact_from.max(wanted);
        (self.applied < wanted).then_some(wanted)
    }

    /// Records below `start` are gone, and keys whose latest record was among them.
    pub fn truncate(&mut self, start: Offset) {
        if start <= self.start {
            return;
        }
        self.start = start;
        self.applied = self.applied.max(start);
        let gone = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.offset < start);
        let gone: Vec<Box<[u8]>> = gone.map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.remove(&key);
        }
    }

    /// What is known of a key.
    pub fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// The keys that begin with `prefix`, from one on, in their order.
    pub fn range<'a>(
        &'a self,
        prefix: &'a [u8],
        from: Bound<&'a [u8]>,
    ) -> impl Iterator<Item = (&'a [u8], &'a Entry)> {
        let from = match from {
            Bound::Excluded(key) | Bound::Included(key) if key >= prefix => from,
            _ => Bound::Included(prefix),
        };
        let end = behind_prefix(prefix);
        let is_within = move |key: &[u8]| end.as_deref().is_none_or(|end| key < end);
        self.entries
            .range::<[u8], _>((from, Bound::Unbounded))
            .map(|(key, entry)| (key.as_ref(), entry))
            .take_while(move |(key, _)| is_within(key))
    }

    /// The keys that end with a lease.
    pub fn leased(&self, lease: LeaseId) -> impl Iterator<Item = &[u8]> {
        let keys = self.leased.get(&lease);
        keys.into_iter().flatten().map(AsRef::as_ref)
    }

    /// The leases that keys end with, behind one, in their order.
    pub fn leases_behind(&self, after: Option<LeaseId>) -> impl Iterator<Item = LeaseId> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let leases = self.leased.range((from, Bound::Unbounded));
        leases.map(|(&lease, _)| lease)
    }

    /// Forgets all keys; records from `start` on are to be applied.
    pub fn start_over(&mut self, start: Offset) {
        let spare = self.spare;
        *self = PartitionView::new(self.memory.clone(), start);
        self.spare = spare;
    }

    fn remove(&mut self, key: &[u8]) {
        let Some(entry) = self.entries.remove(key) else {
            return;
        };
        self.memory.give_key(charge(key, entry.lease));
        if let Some(kept) = &entry.kept {
            self.memory.give_kept(kept.len() + KEPT_OVERHEAD);
        }
        self.change_lease(key, entry.lease, None);
    }

    fn change_lease(&mut self, key: &[u8], before: Option<LeaseId>, now: Option<LeaseId>) {
        if let Some(before) = before
            && let Some(keys) = self.leased.get_mut(&before)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.leased.remove(&before);
            }
        }
        if let Some(now) = now {
            self.leased.entry(now).or_default().insert(key.into());
        }
    }
}

impl Drop for PartitionView {
    fn drop(&mut self) {
        let entries = std::mem::take(&mut self.entries);
        for (key, entry) in entries {
            self.memory.give_key(charge(&key, entry.lease));
            if let Some(kept) = entry.kept {
                self.memory.give_kept(kept.len() + KEPT_OVERHEAD);
            }
        }
    }
}

/// What a key takes: one that ends with a lease is there twice.
fn charge(key: &[u8], lease: Option<LeaseId>) -> usize {
    let times = 1 + usize::from(lease.is_some());
    times * (key.len() + KEY_OVERHEAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(keys: usize, kept: usize) -> (PartitionView, Arc<ViewMemory>) {
        let memory = Arc::new(ViewMemory::new(keys, kept));
        (PartitionView::new(memory.clone(), Offset::ZERO), memory)
    }

    fn put<'a>(offset: u64, key: &'a str, body: Option<&'a str>) -> Update<'a> {
        Update {
            offset: Offset(offset),
            key: key.as_bytes(),
            body: body.map(str::as_bytes),
            lease: None,
        }
    }

    fn keys(view: &PartitionView, prefix: &str, after: Option<&str>) -> Vec<String> {
        let from = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.as_bytes()));
        view.range(prefix.as_bytes(), from)
            .map(|(key, _)| String::from_utf8(key.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn the_latest_record_of_each_key_counts() {
        let (mut view, _) = view(usize::MAX, usize::MAX);
        for update in [
            put(0, "a", Some("1")),
            put(1, "b", Some("2")),
            put(2, "a", Some("3")),
            put(3, "b", None),
            put(4, "c", None),
        ] {
            view.apply(update).unwrap();
        }
        let a = view.get(b"a").unwrap();
        assert_eq!((a.offset, a.kept.as_deref()), (Offset(2), Some(&b"3"[..])));
        assert!(view.get(b"b").is_none() && view.get(b"c").is_none());
        // What was applied before changes nothing.
        view.apply(put(0, "a", Some("1"))).unwrap();
        assert_eq!(view.get(b"a").unwrap().offset, Offset(2));
    }

    #[test]
    fn keys_come_in_their_order_by_prefix_and_from_any_place_on() {
        let (mut view, _) = view(usize::MAX, usize::MAX);
        for (offset, key) in (0..).zip(["b/2", "a", "b/1", "b", "c", "b/10"]) {
            view.apply(put(offset, key, Some("x"))).unwrap();
        }
        assert_eq!(keys(&view, "", None), ["a", "b", "b/1", "b/10", "b/2", "c"]);
        assert_eq!(keys(&view, "b/", None), ["b/1", "b/10", "b/2"]);
        assert_eq!(keys(&view, "b/", Some("b/1")), ["b/10", "b/2"]);
        assert_eq!(keys(&view, "b/", Some("a")), ["b/1", "b/10", "b/2"]);
        assert_eq!(keys(&view, "b/", Some("c")), [""; 0]);
        let from = |key| view.range(b"b/", Bound::Included(key)).next().unwrap().0;
        assert_eq!(from(b"b/1"), b"b/1");
        assert_eq!(from(b"a"), b"b/1");
    }

    #[test]
    fn memory_is_bounded_and_given_back() {
        let charge = 1 + KEY_OVERHEAD;
        let (mut view, memory) = view(2 * charge, 3 + KEPT_OVERHEAD);
        view.apply(put(0, "a", Some("xxx"))).unwrap();
        view.apply(put(1, "b", Some("x"))).unwrap();
        assert!(view.get(b"a").unwrap().kept.is_some());
        assert!(view.get(b"b").unwrap().kept.is_none(), "no room is left");
        assert_eq!(view.apply(put(2, "c", Some("x"))), Err(ViewFull));
        assert_eq!(memory.used(), (2 * charge, 3 + KEPT_OVERHEAD));
        // A larger one doesn't fit any more; the smaller one was dropped for it.
        view.apply(put(3, "a", Some("xxxx"))).unwrap();
        assert_eq!(memory.used(), (2 * charge, 0));
        view.apply(put(4, "a", None)).unwrap();
        assert_eq!(memory.used(), (charge, 0));
        drop(view);
        assert_eq!(memory.used(), (0, 0));
    }

    #[test]
    fn keys_leave_to_others_what_they_are_told_to() {
        let charge = 1 + KEY_OVERHEAD;
        let (mut view, memory) = view(3 * charge, usize::MAX);
        view.leave(charge);
        // It stays so when it is begun anew.
        view.start_over(Offset::ZERO);
        view.apply(put(0, "a", Some("x"))).unwrap();
        view.apply(put(1, "b", Some("x"))).unwrap();
        assert_eq!(view.apply(put(2, "c", Some("x"))), Err(ViewFull));
        let mut other = PartitionView::new(memory, Offset::ZERO);
        other.apply(put(0, "d", Some("x"))).unwrap();
        drop(other);
        view.leave(0);
        view.apply(put(3, "c", Some("x"))).unwrap();
    }

    #[test]
    fn what_was_skipped_is_known_until_it_is_begun_anew() {
        let (mut view, _) = view(usize::MAX, usize::MAX);
        view.advance(Offset(2), Fingerprint::default());
        assert!(view.is_whole());
        view.skip(Offset(5));
        assert_eq!((view.is_whole(), view.applied()), (false, Offset(5)));
        view.start_over(Offset::ZERO);
        assert!(view.is_whole());
    }

    #[test]
    fn what_compaction_dropped_counts_until_what_came_behind_is_there() {
        let (mut view, _) = view(usize::MAX, usize::MAX);
        view.note_superseded(Offset(5));
        view.advance(Offset(4), Fingerprint::default());
        assert!(!view.is_exact());
        view.note_superseded(Offset(3));
        view.advance(Offset(5), Fingerprint::default());
        assert!(view.is_exact());
    }

    #[test]
    fn what_retention_removed_counts_no_more() {
        let (mut view, _) = view(usize::MAX, usize::MAX);
        for (offset, key) in (0..).zip(["a", "b", "a"]) {
            view.apply(put(offset, key, Some("x"))).unwrap();
        }
        view.advance(Offset(3), Fingerprint::default());
        view.truncate(Offset(2));
        assert_eq!(keys(&view, "", None), ["a"]);
        view.truncate(Offset(5));
        assert!(view.is_empty() && view.applied() == Offset(5));
    }

    #[test]
    fn a_key_belongs_to_the_lease_of_its_latest_record() {
        let lease = |id| Some(LeaseId(NonZeroU64::new(id).unwrap()));
        let (mut view, memory) = view(usize::MAX, usize::MAX);
        let leased = |view: &PartitionView, id| view.leased(lease(id).unwrap()).count();
        let first = lease(1);
        let mut offset = 0;
        let mut apply = |key, body, lease| {
            let update = Update {
                lease,
                ..put(offset, key, body)
            };
            view.apply(update).unwrap();
            offset += 1;
            let (one, two) = (leased(&view, 1), leased(&view, 2));
            let ids = view.leases_behind(None).map(|lease| lease.0.get());
            let expected = [(1, one), (2, two)].into_iter();
            assert!(ids.eq(expected.filter(|it| it.1 > 0).map(|it| it.0)));
            let behind = view.leases_behind(first);
            assert_eq!(behind.count(), usize::from(two > 0));
            let copies = view.len() + one + two;
            assert_eq!(memory.used().0, copies * (1 + KEY_OVERHEAD));
            (one, two)
        };
        assert_eq!(apply("a", Some("x"), lease(1)), (1, 0));
        assert_eq!(apply("b", Some("x"), lease(1)), (2, 0));
        assert_eq!(apply("a", Some("x"), lease(2)), (1, 1));
        assert_eq!(apply("b", Some("x"), None), (0, 1));
        assert_eq!(apply("a", None, None), (0, 0));
        assert!(view.leased.is_empty());
    }
}
