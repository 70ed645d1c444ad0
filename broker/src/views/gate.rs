//! Who watches a topic. Whoever holds the gate's lock keeps the view from changing
//! and watchers from being told: registering and telling never overlap.

use std::collections::HashMap;
use std::sync::Arc;

use super::ViewError;
use super::decode::KeyRecord;
use super::outbox::{News, Outbox};
use crate::model::Offset;
use crate::state::{Filter, Routes, WatcherId};

/// Who watches a topic.
#[derive(Debug, Default)]
pub(super) struct Gate {
    routes: Routes,
    outboxes: HashMap<WatcherId, Arc<Outbox>>,
    next: u64,
    ended: Option<ViewError>,
}

impl Gate {
    /// Adds a watcher, which is told of what is applied from now on.
    pub(super) fn add(&mut self, filter: &Filter, outbox: Arc<Outbox>) -> WatcherId {
        let id = WatcherId(self.next);
        self.next += 1;
        if let Some(why) = &self.ended {
            outbox.end(why.clone());
        }
        self.routes.add(id, filter);
        self.outboxes.insert(id, outbox);
        id
    }

    /// Removes a watcher.
    pub(super) fn remove(&mut self, id: WatcherId, filter: &Filter) {
        self.routes.remove(id, filter);
        self.outboxes.remove(&id);
    }

    /// Tells of a record.
    pub(super) fn tell(&self, partition: u32, record: &KeyRecord<'_>) {
        let mut change = None;
        for watcher in self.routes.watchers(record.key) {
            if let Some(outbox) = self.outboxes.get(&watcher) {
                let change = change.get_or_insert_with(|| record.to_change(partition));
                outbox.push(News::Change(change.clone()));
            }
        }
    }

    /// Tells everybody that retention removed what lies below `start`.
    pub(super) fn tell_truncated(&self, partition: u32, start: Offset) {
        for outbox in self.outboxes.values() {
            outbox.push(News::Truncated { partition, start });
        }
    }

    /// What everybody was told isn't all: they have to read the log.
    pub(super) fn overflow(&self) {
        for outbox in self.outboxes.values() {
            outbox.overflow();
        }
    }

    /// Those who are there will be told nothing any more, nor who comes.
    pub(super) fn end(&mut self, why: &ViewError) {
        for outbox in self.outboxes.values() {
            outbox.end(why.clone());
        }
        self.ended = Some(why.clone());
    }

    /// Those who come from now on are told again.
    pub(super) fn resume(&mut self) {
        self.ended = None;
    }
}
