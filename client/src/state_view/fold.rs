//! What a view makes of what it is told: a pure state machine.
//!
//! The map that readers see is not in here. The fold looks at it and says what is to
//! be done to it, as one [`Step`], which is carried out at one moment. A snapshot is
//! built aside while readers go on with the map there was; at `synced` it is compared
//! with that, what differs is what is told as changes, and the map is replaced as a
//! whole. So readers see each snapshot not at all or all of it.
//!
//! Invariants, once the first `synced` came:
//! - The map equals the fold of the log of each partition up to `next`, as far as its
//!   keys are watched: at each `synced`, and at any other moment.
//! - `next` only rises, but where a snapshot replaces the map: if the log lost its end,
//!   or the topic is another one, so does the view.
//! - Nothing that lies below `next` is applied: what comes twice counts once.
//! - The changes that were told, one after the other, make the map.
//! - A snapshot that isn't complete leaves no trace: `next` and the map stay together,
//!   and so watching goes on from `next` if the connection is lost meanwhile.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::sync::Arc;

use statecast_proto::reason::Reason;
use statecast_proto::v1;
use statecast_proto::v1::watch_request::Start;
use statecast_proto::v1::watch_response::Event;

use super::change::{Change, Tombstone, detached};
use super::map::StateMap;
use crate::error::Error;
use crate::state::Entry;

/// How far a view is, and what is still on its way to it.
#[derive(Debug, Default)]
pub(super) struct Fold {
    /// Up to where the map holds everything, by the numbers of the partitions. Empty
    /// before the first `synced`.
    next: Vec<u64>,
    /// The snapshot that is coming.
    aside: Option<Aside>,
    /// The log can't tell any more what changed behind `next`.
    needs_snapshot: bool,
    /// The broker has said how this connection begins.
    is_opened: bool,
    /// Everything was told that there was when this connection began.
    is_synced: bool,
}

/// A snapshot that isn't complete.
#[derive(Debug, Default)]
struct Aside {
    map: StateMap,
    /// Up to where changes came since it was taken, by the numbers of their partitions.
    next: BTreeMap<u32, u64>,
}

/// What is to be done to the map, at one moment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing; it may be further, all the same.
    Nothing,
    /// These, in their order.
    Apply(Vec<Edit>),
    /// Keys of a partition that were set below an offset are gone.
    RemoveBelow { partition: u32, offset: u64 },
    /// Another map takes its place; what differs.
    Replace { map: StateMap, changes: Vec<Change> },
}

/// A change of a key that may not be there.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Edit {
    Put(Arc<Entry>),
    Remove {
        partition: u32,
        key: bytes::Bytes,
        tombstone: Tombstone,
    },
}

impl Fold {
    /// Up to where the map holds everything, by the numbers of the partitions; empty
    /// before the first `synced`.
    pub(super) fn next_offsets(&self) -> &[u64] {
        &self.next
    }

    /// Whether the broker has said how this connection begins.
    pub(super) fn is_opened(&self) -> bool {
        self.is_opened
    }

    /// Whether everything was told that there was when this connection began.
    pub(super) fn is_synced(&self) -> bool {
        self.is_synced
    }

    /// Where a new connection is to begin.
    pub(super) fn start(&self) -> Start {
        if self.next.is_empty() || self.needs_snapshot {
            return Start::Snapshot(v1::WatchSnapshot {});
        }
        let next_offsets = (0..).zip(&self.next);
        let next_offsets =
            next_offsets.map(|(partition, &offset)| v1::RecordPosition { partition, offset });
        Start::From(v1::WatchFrom {
            next_offsets: next_offsets.collect(),
        })
    }

    /// The connection was lost, or there is none yet. Whether to begin another one at
    /// once: where this one began isn't a place to go on from, but a snapshot is.
    pub(super) fn lost(&mut self, error: &Error) -> bool {
        self.aside = None;
        self.is_opened = false;
        self.is_synced = false;
        let resumed = matches!(self.start(), Start::From(_));
        // Compacted away; or beyond the end of a log that lost it, or of a topic that was
        // deleted and made again.
        self.needs_snapshot |= resumed
            && matches!(
                error.reason(),
                Some(
                    Reason::ResumePointCompacted
                        | Reason::OffsetOutOfRange
                        | Reason::PartitionNotFound
                        | Reason::InvalidRequest
                )
            );
        resumed && self.needs_snapshot
    }

    /// What an event means for the map that there is.
    pub(super) fn hear(&mut self, map: &StateMap, event: Event) -> Result<Step, Error> {
        if let Event::Opened(opened) = event {
            return self.open(opened.snapshot);
        }
        if !self.is_opened {
            return Err(Error::protocol("a watch began without saying how"));
        }
        match event {
            Event::Opened(_) => Ok(Step::Nothing),
            Event::Entries(entries) => self.add(map, entries.entries),
            Event::Changes(changes) => self.change(map, changes.changes),
            Event::Synced(synced) => self.sync(map, synced),
            Event::Progress(progress) => {
                if self.aside.is_none() {
                    self.advance(&positions(progress)?);
                }
                Ok(Step::Nothing)
            }
            Event::Truncated(truncated) => Ok(self.truncate(&truncated)),
        }
    }

    fn open(&mut self, snapshot: bool) -> Result<Step, Error> {
        if !snapshot && (self.next.is_empty() || self.needs_snapshot) {
            return Err(Error::protocol("a watch began without its snapshot"));
        }
        self.is_opened = true;
        self.is_synced = false;
        self.aside = snapshot.then(Aside::default);
        Ok(Step::Nothing)
    }

    /// Entries of the snapshot.
    fn add(&mut self, map: &StateMap, entries: Vec<v1::Entry>) -> Result<Step, Error> {
        let Some(aside) = &mut self.aside else {
            return Err(Error::protocol("entries came without a snapshot"));
        };
        for entry in entries {
            set_aside(&mut aside.map, map, detached(entry));
        }
        Ok(Step::Nothing)
    }

    fn change(&mut self, map: &StateMap, changes: Vec<v1::Change>) -> Result<Step, Error> {
        let mut edits = Vec::with_capacity(changes.len());
        for change in changes {
            let edit = match change.change {
                Some(v1::change::Change::Put(entry)) => Edit::Put(Arc::new(detached(entry))),
                Some(v1::change::Change::Removed(removed)) => Edit::Remove {
                    partition: removed.partition,
                    key: bytes::Bytes::copy_from_slice(&removed.key),
                    tombstone: Tombstone::from_wire(removed),
                },
                None => return Err(Error::protocol("a change that this library doesn't know")),
            };
            let (partition, offset) = edit.place();
            let next = match &mut self.aside {
                Some(aside) => Some(aside.next.entry(partition).or_default()),
                None => self.next.get_mut(partition as usize),
            };
            let next = next.ok_or_else(|| Error::protocol("a change in an unknown partition"))?;
            if offset < *next {
                continue;
            }
            *next = offset.saturating_add(1);
            match &mut self.aside {
                Some(aside) => edit.set_aside(&mut aside.map, map),
                None => edits.push(edit),
            }
        }
        Ok(match edits.is_empty() {
            true => Step::Nothing,
            false => Step::Apply(edits),
        })
    }

    fn sync(&mut self, map: &StateMap, synced: v1::Synced) -> Result<Step, Error> {
        let next = positions(synced)?;
        self.is_synced = true;
        let Some(Aside { map: mut aside, .. }) = self.aside.take() else {
            self.advance(&next);
            return Ok(Step::Nothing);
        };
        aside.partitions = u32::try_from(next.len()).unwrap_or(u32::MAX);
        self.next = next;
        self.needs_snapshot = false;
        Ok(Step::Replace {
            changes: difference(map, &aside),
            map: aside,
        })
    }

    fn advance(&mut self, next: &[u64]) {
        for (known, &told) in self.next.iter_mut().zip(next) {
            *known = told.max(*known);
        }
    }

    fn truncate(&mut self, truncated: &v1::StateTruncated) -> Step {
        let (partition, offset) = (truncated.partition, truncated.log_start_offset);
        if let Some(aside) = &mut self.aside {
            aside.map.remove_below(partition, offset);
            return Step::Nothing;
        }
        if let Some(next) = self.next.get_mut(partition as usize) {
            *next = offset.max(*next);
        }
        Step::RemoveBelow { partition, offset }
    }
}

impl Step {
    /// Carries it out. Returns what has changed by it.
    pub(super) fn apply(self, map: &mut StateMap) -> Vec<Change> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Apply(edits) => {
                let changes = edits.into_iter().filter_map(|edit| edit.apply(map));
                changes.collect()
            }
            Self::RemoveBelow { partition, offset } => {
                let gone = map.remove_below(partition, offset).into_iter();
                gone.map(removed).collect()
            }
            Self::Replace {
                map: another,
                changes,
            } => {
                *map = another;
                changes
            }
        }
    }
}

impl Edit {
    fn place(&self) -> (u32, u64) {
        match self {
            Self::Put(entry) => (entry.partition, entry.offset),
            Self::Remove {
                partition,
                tombstone,
                ..
            } => (*partition, tombstone.offset),
        }
    }

    fn apply(self, map: &mut StateMap) -> Option<Change> {
        match self {
            Self::Put(entry) => {
                let previous = map.insert(Arc::clone(&entry));
                Some(Change::Put { entry, previous })
            }
            Self::Remove {
                partition,
                key,
                tombstone,
            } => Some(Change::Removed {
                previous: map.remove(partition, &key)?,
                tombstone: Some(tombstone),
            }),
        }
    }

    fn set_aside(self, aside: &mut StateMap, map: &StateMap) {
        match self {
            Self::Put(entry) => set_aside(aside, map, Arc::unwrap_or_clone(entry)),
            Self::Remove { partition, key, .. } => drop(aside.remove(partition, &key)),
        }
    }
}

/// Adds an entry to a snapshot. One that was there before is shared with the map that
/// readers see: a resync takes no second copy of what hasn't changed.
fn set_aside(aside: &mut StateMap, map: &StateMap, entry: Entry) {
    let known = map.at(entry.partition, &entry.key);
    let known = known.filter(|known| ***known == entry).cloned();
    aside.insert(known.unwrap_or_else(|| Arc::new(entry)));
}

/// The changes that make one map of another, in the order of the keys.
fn difference(old: &StateMap, new: &StateMap) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut old = old.all().peekable();
    for entry in new.all() {
        let place = place(entry);
        changes.extend(before(&mut old, place).cloned().map(removed));
        let previous = old.next_if(|previous| self::place(previous) == place);
        let is_same =
            previous.is_some_and(|previous| Arc::ptr_eq(previous, entry) || **previous == **entry);
        if !is_same {
            changes.push(Change::Put {
                entry: Arc::clone(entry),
                previous: previous.cloned(),
            });
        }
    }
    changes.extend(old.cloned().map(removed));
    changes
}

fn place(entry: &Entry) -> (&[u8], u32) {
    (&entry.key, entry.partition)
}

/// Takes those that lie before a place.
fn before<'m>(
    entries: &mut Peekable<impl Iterator<Item = &'m Arc<Entry>>>,
    place: (&[u8], u32),
) -> impl Iterator<Item = &'m Arc<Entry>> {
    std::iter::from_fn(move || entries.next_if(|entry| self::place(entry) < place))
}

fn removed(previous: Arc<Entry>) -> Change {
    Change::Removed {
        previous,
        tombstone: None,
    }
}

/// Offsets by the numbers of their partitions, of which each is to be there once.
pub(crate) fn positions(synced: v1::Synced) -> Result<Vec<u64>, Error> {
    let mut positions = synced.next_offsets;
    positions.sort_unstable_by_key(|position| position.partition);
    let is_whole = (0..).zip(&positions).all(|(n, at)| at.partition == n);
    if !is_whole || positions.is_empty() {
        return Err(Error::protocol("synced without each partition once"));
    }
    Ok(positions.into_iter().map(|at| at.offset).collect())
}
