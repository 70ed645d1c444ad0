//! A client that applies what it is told, and notes what it had whenever it was synced.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::history::{Held, History};
use super::{PARTITIONS, value_of};
use crate::model::Offset;
use crate::partition::ReadError;
use crate::views::{Change, Filter, TopicView, ViewError, Watch, WatchEvent, WatchStart};

/// What a client has that applies what it is told.
#[derive(Default)]
pub(super) struct Receiver {
    map: BTreeMap<Bytes, Held>,
    latest: BTreeMap<Bytes, Offset>,
    next: Vec<Offset>,
    /// What it was told to be removed.
    starts: Vec<Offset>,
    is_synced: bool,
    /// Some of a snapshot may be missing: it can't go on from `next`.
    is_partial: bool,
    /// Up to where it had everything at some time.
    was_at: Vec<Offset>,
    /// What it had whenever it was synced.
    pub(super) seen: Vec<Seen>,
}

/// What a receiver had when it was synced.
pub(super) struct Seen {
    pub(super) starts: Vec<Offset>,
    pub(super) next: Vec<Offset>,
    pub(super) map: BTreeMap<Bytes, Held>,
}

impl Receiver {
    fn hear(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Opened { snapshot } => {
                self.is_synced = false;
                // Who resumes hears again of what is removed.
                self.starts.fill(Offset::ZERO);
                if snapshot {
                    self.is_partial = true;
                    self.map.clear();
                    self.latest.clear();
                    self.next = vec![Offset::ZERO; PARTITIONS as usize];
                    self.starts.clone_from(&self.next);
                }
            }
            WatchEvent::Entries(changes) => changes.into_iter().for_each(|one| self.apply(one)),
            WatchEvent::Changes(changes) => {
                for change in changes {
                    let next = &mut self.next[change.partition as usize];
                    assert!(change.offset >= *next, "changes come in their order, once");
                    *next = change.offset.advanced(1);
                    self.apply(change);
                }
            }
            WatchEvent::Synced(offsets) => {
                assert!(!self.is_synced);
                self.is_synced = true;
                self.is_partial = false;
                self.take(offsets);
            }
            WatchEvent::Progress(offsets) => {
                assert!(self.is_synced);
                self.take(offsets);
            }
            WatchEvent::Truncated { partition, start } => {
                let told = &mut self.starts[partition as usize];
                assert!(start > *told, "it is told once");
                *told = start;
                self.map
                    .retain(|_, (of, offset, _)| *of != partition || *offset >= start);
            }
        }
    }

    fn apply(&mut self, change: Change) {
        let before = self.latest.insert(change.key.clone(), change.offset);
        assert!(before < Some(change.offset), "no key goes back in time");
        if change.is_tombstone {
            self.map.remove(&change.key);
            return;
        }
        let value = value_of(&change.body);
        let entry = (change.partition, change.offset, value);
        self.map.insert(change.key, entry);
    }

    fn take(&mut self, offsets: Vec<Offset>) {
        let is_ahead = |before: &[Offset]| before.iter().zip(&offsets).all(|(a, b)| a <= b);
        assert!(is_ahead(&self.next));
        assert!(is_ahead(&self.was_at), "a snapshot doesn't go back either");
        self.was_at.clone_from(&offsets);
        self.next = offsets;
        self.seen.push(Seen {
            starts: self.starts.clone(),
            next: self.next.clone(),
            map: self.map.clone(),
        });
    }

    /// Looks at all that it has seen.
    pub(super) fn check(&mut self, history: &History, removed: &[Offset]) {
        for Seen { starts, next, map } in self.seen.drain(..) {
            history.check(&map, &starts, removed, &next);
        }
    }

    fn resume_point(&self) -> WatchStart {
        match self.next.is_empty() || self.is_partial {
            true => WatchStart::Snapshot,
            false => WatchStart::From(self.next.clone()),
        }
    }
}

/// A watcher, which a task of its own pumps.
pub(super) struct Watching {
    receiver: Receiver,
    events: mpsc::Receiver<Result<WatchEvent, ViewError>>,
    pump: JoinHandle<()>,
}

impl Watching {
    /// Begins with a snapshot.
    pub(super) fn begin(view: &TopicView, receiver: Receiver) -> Watching {
        Watching::start(view, receiver, WatchStart::Snapshot)
    }

    /// Goes on where the receiver was, if that is somewhere.
    pub(super) fn go_on(view: &TopicView, receiver: Receiver) -> Watching {
        let start = receiver.resume_point();
        Watching::start(view, receiver, start)
    }

    fn start(view: &TopicView, receiver: Receiver, start: WatchStart) -> Watching {
        let (sender, events) = mpsc::channel(16);
        let view = view.clone();
        let pump = tokio::spawn(async move {
            let mut watch = match Watch::open(view, Filter::Prefix(Bytes::new()), start).await {
                Ok(watch) => watch,
                Err(error) => return drop(sender.send(Err(error)).await),
            };
            loop {
                let event = watch.next().await;
                let is_over = event.is_err();
                if sender.send(event).await.is_err() || is_over {
                    return;
                }
            }
        });
        Watching {
            receiver,
            events,
            pump,
        }
    }

    /// Takes what came. Begins anew if it can't go on.
    pub(super) fn hear(&mut self, view: &TopicView) {
        while let Ok(event) = self.events.try_recv() {
            match event {
                Ok(event) => self.receiver.hear(event),
                Err(ViewError::ResumePointCompacted { .. }) => {
                    let receiver = std::mem::take(&mut self.receiver);
                    *self = Watching::begin(view, receiver);
                }
                // The disk failed to read: another time it doesn't.
                Err(ViewError::Read(ReadError::Io(_))) => {
                    let receiver = std::mem::take(&mut self.receiver);
                    *self = Watching::go_on(view, receiver);
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Goes away, and comes again where it was.
    pub(super) fn resume(mut self, view: &TopicView) -> Watching {
        self.pump.abort();
        self.hear(view);
        self.pump.abort();
        Watching::go_on(view, self.receiver)
    }

    /// Waits until it has heard everything.
    pub(super) async fn finish(mut self, view: &TopicView, ends: &[Offset]) -> Receiver {
        // What it was told before may not be all that was removed.
        let before = self.receiver.seen.len();
        let is_all = |seen: &Seen| seen.next == ends;
        while !self.receiver.seen[before..].last().is_some_and(is_all) {
            // What it has heard may be all; a new watch tells so at once.
            match tokio::time::timeout(Duration::from_millis(20), self.events.recv()).await {
                Ok(Some(Ok(event))) => self.receiver.hear(event),
                Ok(Some(Err(ViewError::ResumePointCompacted { .. }))) => {
                    self = Watching::begin(view, self.receiver);
                }
                Ok(Some(Err(ViewError::Read(ReadError::Io(_)))) | None) | Err(_) => {
                    self = self.resume(view);
                }
                Ok(Some(Err(error))) => panic!("{error}"),
            }
        }
        self.pump.abort();
        self.receiver
    }
}
