//! The view of a topic: the views of its partitions, and who watches.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::{Semaphore, watch};
use tokio_util::task::AbortOnDropHandle;

use super::ViewError;
use super::decode::Unpacker;
use super::gate::Gate;
use super::outbox::{Outbox, OutboxMemory};
use super::saving::Saving;
use crate::limits;
use crate::model::Offset;
use crate::partition::PartitionHandle;
use crate::state::{Filter, PartitionView, ViewMemory, WatcherId};

/// The view of a topic, kept up to date for as long as somebody has it. Cheap to
/// clone.
#[derive(Clone)]
pub struct TopicView {
    pub(super) shared: Arc<Shared>,
    _follower: Arc<AbortOnDropHandle<()>>,
}

/// What the follower, the readers and the watchers share.
pub(super) struct Shared {
    /// By their numbers.
    pub(super) partitions: Vec<Viewed>,
    pub(super) memory: Arc<ViewMemory>,
    pub(super) saving: Saving,
    pub(super) unpacker: Unpacker,
    /// Turns of those who look into the past.
    pub(super) histories: Arc<Semaphore>,
    outboxes: Arc<OutboxMemory>,
    /// Taken before the lock of any partition's view.
    gate: Mutex<Gate>,
}

/// A partition, and what it folds to.
pub(super) struct Viewed {
    pub(super) handle: PartitionHandle,
    view: RwLock<PartitionView>,
    reached: watch::Sender<Reached>,
}

/// How far a view has got.
#[derive(Debug, Clone)]
pub(super) struct Reached {
    /// One past the last record that was applied when the view was exact.
    pub(super) applied: Offset,
    /// Why it goes no further.
    pub(super) ended: Option<ViewError>,
}

/// What those who read the log share.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    unpacker: Unpacker,
    histories: Arc<Semaphore>,
}

impl Reading {
    pub(super) fn new() -> Reading {
        Reading {
            unpacker: Unpacker::new(),
            histories: Arc::new(Semaphore::new(limits::HISTORIES_AT_ONCE)),
        }
    }
}

/// A watcher that is being told. Ends when it is dropped.
pub(super) struct Registration {
    shared: Arc<Shared>,
    id: WatcherId,
    filter: Filter,
    pub(super) outbox: Arc<Outbox>,
    /// From where on it is told, by the numbers of the partitions.
    pub(super) from: Vec<Place>,
}

/// Where a view is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Records below were removed by retention.
    pub(super) start: Offset,
    /// One past the last record that was applied.
    pub(super) applied: Offset,
    /// From here on it is exact.
    pub(super) exact_from: Offset,
}

impl TopicView {
    pub(super) fn new(shared: Arc<Shared>, follower: AbortOnDropHandle<()>) -> TopicView {
        TopicView {
            shared,
            _follower: Arc::new(follower),
        }
    }

    /// Waits until everything below `wanted` of a partition is in its view.
    pub async fn wait_for(&self, partition: u32, wanted: Offset) -> Result<(), ViewError> {
        let mut reached = self.shared.viewed(partition).reached.subscribe();
        let is_there = |reached: &Reached| reached.applied >= wanted || reached.ended.is_some();
        let arrival = tokio::time::timeout(limits::VIEW_WAIT, reached.wait_for(is_there)).await;
        let now = match arrival {
            Ok(Ok(now)) => now.clone(),
            Ok(Err(_)) => return Err(ViewError::Deleted),
            Err(_) => {
                return Err(ViewError::Behind {
                    partition,
                    applied: self.shared.applied(partition).0,
                    wanted: wanted.0,
                });
            }
        };
        now.ended.map_or(Ok(()), Err)
    }

    /// Waits until everything that can be read now is in the view of a partition.
    pub(super) async fn catch_up(&self, partition: u32) -> Result<(), ViewError> {
        let viewed = self.shared.viewed(partition);
        let end = viewed.handle.high_watermark();
        let is_there = {
            let reached = viewed.reached.borrow();
            reached.applied >= end && reached.ended.is_none()
        };
        match is_there {
            true => Ok(()),
            false => self.wait_for(partition, end).await,
        }
    }

    /// As [`TopicView::catch_up`], for all partitions. Returns how far at least each is.
    pub(super) async fn catch_up_all(&self) -> Result<Vec<Offset>, ViewError> {
        let mut ends = Vec::with_capacity(self.shared.partitions.len());
        for (partition, viewed) in (0..).zip(&self.shared.partitions) {
            let end = viewed.handle.high_watermark();
            self.catch_up(partition).await?;
            ends.push(end);
        }
        Ok(ends)
    }

    /// How many partitions it has.
    pub fn partition_count(&self) -> u32 {
        u32::try_from(self.shared.partitions.len()).expect("bounded by limits")
    }

    /// One past the last record of a partition that its view reflects.
    pub fn applied(&self, partition: u32) -> Offset {
        self.shared.applied(partition)
    }
}

#[cfg(test)]
impl TopicView {
    /// What the follower does when compaction overtook it. It goes on when it hears of
    /// the next record.
    pub(crate) fn begin_anew(&self, partition: u32) {
        let viewed = self.shared.viewed(partition);
        let start = viewed.handle.range().log_start_offset;
        let gate = self.shared.gate();
        viewed.write().start_over(start);
        gate.overflow();
        drop(gate);
        viewed.publish_start(start);
    }

    /// What retention removed, as far as the view knows.
    pub(crate) fn start(&self, partition: u32) -> Offset {
        self.shared.viewed(partition).read().start()
    }

    /// As if compaction had dropped what a record below `to` superseded.
    pub(crate) fn note_superseded(&self, partition: u32, to: Offset) {
        self.shared.viewed(partition).write().note_superseded(to);
    }
}

impl Shared {
    pub(super) fn new(
        partitions: &[PartitionHandle],
        memory: Arc<ViewMemory>,
        saving: Saving,
        outboxes: Arc<OutboxMemory>,
        reading: Reading,
    ) -> Shared {
        let viewed = |handle: &PartitionHandle| {
            let start = handle.range().log_start_offset;
            let (reached, _) = watch::channel(Reached {
                applied: start,
                ended: None,
            });
            Viewed {
                handle: handle.clone(),
                view: RwLock::new(PartitionView::new(memory.clone(), start)),
                reached,
            }
        };
        Shared {
            partitions: partitions.iter().map(viewed).collect(),
            memory,
            saving,
            unpacker: reading.unpacker,
            histories: reading.histories,
            outboxes,
            gate: Mutex::default(),
        }
    }

    pub(super) fn viewed(&self, partition: u32) -> &Viewed {
        &self.partitions[partition as usize]
    }

    pub(super) fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn applied(&self, partition: u32) -> Offset {
        self.viewed(partition).reached.borrow().applied
    }

    /// Where the views are; of one moment while `_gate` is held.
    pub(super) fn places(&self, _gate: &Gate) -> Vec<Place> {
        let place = |viewed: &Viewed| {
            let view = viewed.read();
            Place {
                start: view.start(),
                applied: view.applied(),
                exact_from: view.exact_from(),
            }
        };
        self.partitions.iter().map(place).collect()
    }

    /// Begins to tell a watcher.
    pub(super) fn register(self: &Arc<Self>, filter: &Filter) -> Registration {
        let outbox = Arc::new(Outbox::new(self.outboxes.clone()));
        let mut gate = self.gate();
        let from = self.places(&gate);
        let id = gate.add(filter, outbox.clone());
        drop(gate);
        Registration {
            shared: self.clone(),
            id,
            filter: filter.clone(),
            outbox,
            from,
        }
    }
}

impl Viewed {
    pub(super) fn read(&self) -> RwLockReadGuard<'_, PartitionView> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, PartitionView> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes those who wait for what was just applied.
    pub(super) fn publish(&self) {
        let (applied, is_exact) = {
            let view = self.read();
            (view.applied(), view.is_exact())
        };
        if is_exact {
            self.reached
                .send_modify(|reached| reached.applied = applied);
        }
    }

    /// The view begins anew: nobody is to take it for what it was.
    pub(super) fn publish_start(&self, start: Offset) {
        self.reached.send_modify(|reached| reached.applied = start);
    }

    /// The view goes no further.
    pub(super) fn end(&self, why: &ViewError) {
        self.reached
            .send_modify(|reached| reached.ended = Some(why.clone()));
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.shared.gate().remove(self.id, &self.filter);
    }
}
