//! When views are saved: once much has changed, one at a time, and when the broker
//! stops. One that had to skip damage isn't: what couldn't be read may be there again at
//! the next start, and would be missing for ever.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::store::ViewStore;
use super::topic_view::{Shared, Viewed};
use crate::limits;
use crate::state::{PartitionView, ViewFull, ViewMemory};

/// Where views are saved, one at a time.
#[derive(Debug, Clone)]
pub(super) struct Saving {
    store: ViewStore,
    turn: Arc<Semaphore>,
    /// Turns of those that are read.
    restoring: Arc<Semaphore>,
}

impl Saving {
    pub(super) fn new(store: ViewStore) -> Saving {
        Saving {
            store,
            turn: Arc::new(Semaphore::new(1)),
            restoring: Arc::new(Semaphore::new(limits::VIEWS_RESTORED_AT_ONCE)),
        }
    }

    /// The view of a partition as it was saved; nothing if that is of no use.
    pub(super) async fn restore(
        &self,
        viewed: &Viewed,
        memory: &Arc<ViewMemory>,
    ) -> Option<Result<PartitionView, ViewFull>> {
        let id = viewed.handle.id();
        if !self.store.has(id) {
            return None;
        }
        let _turn = self.restoring.acquire().await;
        let store = self.store.clone();
        let read = tokio::task::spawn_blocking(move || store.read(id)).await;
        let restored = match read.ok().flatten() {
            Some(saved) => saved.restore(viewed, memory).await,
            None => None,
        };
        if restored.is_none() {
            tracing::info!("the view of partition {id} is made anew");
            self.store.remove(id);
        }
        restored
    }

    /// Forgets what was saved of partitions that are gone.
    pub(super) fn forget(&self, partitions: &[Viewed]) {
        for viewed in partitions {
            self.store.remove(viewed.handle.id());
        }
    }

    /// Saves a view if much of it has changed since it was saved last.
    pub(super) fn save_when_due(&self, shared: &Arc<Shared>, slot: usize) {
        let is_due = {
            let view = shared.partitions[slot].read();
            let enough = limits::VIEW_SAVE_CHANGES.max(view.len() as u64 / 2);
            view.is_whole() && view.changes() >= enough
        };
        if !is_due {
            return;
        }
        let Ok(turn) = self.turn.clone().try_acquire_owned() else {
            return;
        };
        let (store, shared) = (self.store.clone(), shared.clone());
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            save(&store, &shared.partitions[slot]);
        });
    }

    /// Waits until nothing is being saved, and keeps it so.
    pub(super) async fn turn(&self) -> OwnedSemaphorePermit {
        let turn = self.turn.clone().acquire_owned().await;
        turn.expect("the semaphore is never closed")
    }

    /// Saves what has changed in any view, in its [`Saving::turn`]. Blocks.
    pub(super) fn save_all(&self, shared: &Shared) {
        for viewed in &shared.partitions {
            let is_due = {
                let view = viewed.read();
                view.is_whole() && view.changes() >= limits::VIEW_SAVE_CHANGES_AT_STOP
            };
            if is_due {
                save(&self.store, viewed);
            }
        }
    }
}

fn save(store: &ViewStore, viewed: &Viewed) {
    let changes = viewed.write().take_changes();
    if let Err(error) = store.write(viewed) {
        let id = viewed.handle.id();
        tracing::warn!(
            "the view of partition {id} can't be saved after {changes} changes: {error}"
        );
    }
}
