//! The view of a topic: the views of its partitions, and who watches.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::{Semaphore, watch};
use tokio_util::task::AbortOnDropHandle;

use super::ViewError;
use super::gate::Gate;
use super::outbox::{Outbox, OutboxMemory};
use super::saving::Saving;
use super::unpack::Unpacker;
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
    pub(super) reading: Reading,
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
    /// Why there is none.
    pub(super) ended: Option<ViewError>,
}

/// What those who read the log share.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub(super) unpacker: Unpacker,
    /// Turns of watchers.
    pub(super) watchers: Arc<Semaphore>,
    /// Turns of those who ask for what isn't in memory.
    pub(super) lookups: Arc<Semaphore>,
    /// Turns of those who look into the past.
    pub(super) histories: Arc<Semaphore>,
    /// The turn of one that was given up, and is tried again.
    pub(super) regaining: Arc<Semaphore>,
}

impl Reading {
    pub(super) fn new() -> Reading {
        Reading {
            unpacker: Unpacker::new(),
            watchers: Arc::new(Semaphore::new(limits::WATCHERS_READING_AT_ONCE)),
            lookups: Arc::new(Semaphore::new(limits::LOOKUPS_READING_AT_ONCE)),
            histories: Arc::new(Semaphore::new(limits::HISTORIES_AT_ONCE)),
            regaining: Arc::new(Semaphore::new(1)),
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

    /// Waits until everything below `wanted` of a partition was in its view.
    async fn reach(&self, partition: u32, wanted: Offset) -> Result<(), ViewError> {
        let is_there = {
            let reached = self.shared.viewed(partition).reached.borrow();
            reached.applied >= wanted && reached.ended.is_none()
        };
        match is_there {
            true => Ok(()),
            false => self.wait_for(partition, wanted).await,
        }
    }

    /// What `see` makes of the view of a partition, once that holds everything that can
    /// be read now, and everything below `at_least`. It was so before it is looked at;
    /// whether it still is, and wasn't begun anew, shows only under its lock.
    pub(super) async fn see<T>(
        &self,
        partition: u32,
        at_least: Option<Offset>,
        see: impl FnOnce(&PartitionView) -> T,
    ) -> Result<T, ViewError> {
        let viewed = self.shared.viewed(partition);
        let mut wanted = viewed
            .handle
            .high_watermark()
            .max(at_least.unwrap_or_default());
        loop {
            self.reach(partition, wanted).await?;
            {
                let view = viewed.read();
                match view.lacks(wanted) {
                    None => return Ok(see(&view)),
                    Some(more) => wanted = more,
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// As [`TopicView::see`], of the views of all partitions at one moment.
    pub(super) async fn see_all<T>(
        &self,
        see: impl FnOnce(&[RwLockReadGuard<'_, PartitionView>]) -> T,
    ) -> Result<T, ViewError> {
        let partitions = &self.shared.partitions;
        let mut wanted: Vec<Offset> = partitions
            .iter()
            .map(|it| it.handle.high_watermark())
            .collect();
        loop {
            for (partition, &wanted) in (0..).zip(&wanted) {
                self.reach(partition, wanted).await?;
            }
            {
                let views: Vec<_> = partitions.iter().map(Viewed::read).collect();
                let mut is_whole = true;
                for (wanted, view) in wanted.iter_mut().zip(&views) {
                    if let Some(more) = view.lacks(*wanted) {
                        *wanted = more;
                        is_whole = false;
                    }
                }
                if is_whole {
                    return Ok(see(&views));
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Waits until everything that can be read now is in the views of all partitions.
    /// Returns how far at least each is.
    pub(super) async fn catch_up_all(&self) -> Result<Vec<Offset>, ViewError> {
        let mut ends = Vec::with_capacity(self.shared.partitions.len());
        for (partition, viewed) in (0..).zip(&self.shared.partitions) {
            let end = viewed.handle.high_watermark();
            self.reach(partition, end).await?;
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
        viewed.publish_start(start);
        let gate = self.shared.gate();
        viewed.write().start_over(start);
        gate.overflow();
    }

    /// The view is empty, and whoever looked just before doesn't know.
    pub(crate) fn empty(&self, partition: u32) {
        let viewed = self.shared.viewed(partition);
        let start = viewed.handle.range().log_start_offset;
        viewed.write().start_over(start);
    }

    /// What the follower does when the keys don't fit into memory.
    pub(crate) fn give_up(&self, partition: u32) {
        let viewed = self.shared.viewed(partition);
        viewed.end(&ViewError::TooLarge { limit: 0 });
        self.begin_anew(partition);
    }

    /// There is a view again after [`TopicView::give_up`]. The follower goes on when it
    /// hears of the next record.
    pub(crate) fn resume(&self, partition: u32) {
        self.shared.viewed(partition).resume();
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
            reading,
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

    /// The view is there again.
    pub(super) fn resume(&self) {
        self.reached.send_modify(|reached| reached.ended = None);
    }

    /// There is no view any more.
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
