//! What a view, its clones and its task share.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::watch;

use super::change::Change;
use super::fold::{Fold, Step};
use super::map::StateMap;
use crate::error::Error;

pub(super) struct Shared {
    /// Written by the task only, for as long as one step takes; never locked across an
    /// await, and never together with another lock.
    map: RwLock<StateMap>,
    /// How many changes there were.
    pub(super) changes: watch::Sender<u64>,
    pub(super) status: watch::Sender<Status>,
}

/// How far the view is.
#[derive(Debug, Clone, Default)]
pub(super) struct Status {
    /// The broker has said how a connection begins, once.
    pub(super) was_opened: bool,
    /// The map was whole, once.
    pub(super) was_synced: bool,
    /// It has all that there was when the connection began that there is.
    pub(super) is_synced: bool,
    /// Up to where it has everything, by the numbers of the partitions.
    pub(super) next: Vec<u64>,
    /// It goes no further.
    pub(super) ended: Option<Error>,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            map: RwLock::default(),
            changes: watch::Sender::new(0),
            status: watch::Sender::new(Status::default()),
        }
    }

    pub(super) fn map(&self) -> RwLockReadGuard<'_, StateMap> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out a step; returns what has changed.
    pub(super) fn carry_out(&self, step: Step) -> Vec<Change> {
        let replaced;
        let changes = {
            let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
            let before = matches!(step, Step::Replace { .. }).then(|| std::mem::take(&mut *map));
            replaced = before;
            step.apply(&mut map)
        };
        // What a million entries take is given back while readers go on.
        drop(replaced);
        changes
    }

    /// Tells those who wait how far the view is.
    pub(super) fn report(&self, fold: &Fold, changed: usize) {
        self.status.send_modify(|status| {
            status.was_opened |= fold.is_opened();
            status.is_synced = fold.is_synced();
            status.was_synced |= fold.is_synced();
            status.next.clear();
            status.next.extend_from_slice(fold.next_offsets());
        });
        if changed > 0 {
            self.changes.send_modify(|count| *count += changed as u64);
        }
    }

    /// Tells those who wait that there is nothing to wait for any more.
    pub(super) fn end(&self, error: Error) {
        self.status.send_modify(|status| {
            status.is_synced = false;
            status.ended.get_or_insert(error);
        });
        // Who waits for a change looks why there is none.
        self.changes.send_modify(|_| {});
    }

    /// Why it has ended, if it has.
    pub(super) fn ended(&self) -> Option<Error> {
        self.status.borrow().ended.clone()
    }

    /// Waits until the view is so far; fails when it ends first.
    pub(super) async fn until(&self, is_so_far: impl Fn(&Status) -> bool) -> Result<(), Error> {
        let mut status = self.status.subscribe();
        let decided = |status: &Status| is_so_far(status) || status.ended.is_some();
        let status = status.wait_for(decided).await.map_err(|_| Error::Closed)?;
        match &status.ended {
            Some(error) if !is_so_far(&status) => Err(error.clone()),
            _ => Ok(()),
        }
    }
}

/// What the task shares, to end it with the last view.
pub(super) struct Handle {
    pub(super) shared: Arc<Shared>,
    pub(super) task: tokio::task::AbortHandle,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}
