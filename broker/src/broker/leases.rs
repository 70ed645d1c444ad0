//! Leases: grants them, keeps them alive, and removes the keys of those that end.
//!
//! A lease that ends is over only once its keys are gone, by tombstones that are as
//! durable as their topics say: a crash in between leaves the lease, which has its whole
//! time after the start and ends again. What was put with it again meanwhile, without it
//! or with another one, stays: the tombstones expect the version that ends.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::internal_log::InternalLog;
use super::write::{Condition, Expected, KeyWrite, WriteError};
use super::{Broker, Shared, StartError, TopicState};
use crate::limits;
use crate::metadata::LEASES_PARTITION;
use crate::model::Offset;
use crate::partition::{AppendError, Engine};
use crate::state::{
    LeaseError, LeaseFold, LeaseId, Leases, lease_ended, lease_granted, lease_ids_reserved,
};
use crate::views::ViewError;

/// Ids that are reserved with one record.
const RESERVED_AT_ONCE: u64 = 1000;

/// All leases of a broker.
#[derive(Debug)]
pub(super) struct LeaseRegistry {
    leases: Mutex<Leases>,
    /// Rings when the next end may be sooner, or a put has ended.
    changed: Notify,
    /// Ids up to here are reserved. Held while more are.
    reserved: tokio::sync::Mutex<u64>,
    log: InternalLog,
    /// When milliseconds began to be counted.
    started: Instant,
    stopping: CancellationToken,
    tasks: TaskTracker,
    /// Leases that are ended at the same time.
    ending: Arc<Semaphore>,
}

/// Why a lease isn't granted.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// There are as many as there may be.
    #[error("there are {limit} leases already")]
    TooMany {
        /// How many there may be.
        limit: usize,
    },
    /// The log didn't take it.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// Keeps a lease from being over while a key is put with it.
#[derive(Debug)]
pub struct LeasedPut {
    registry: Arc<LeaseRegistry>,
    id: LeaseId,
}

impl LeasedPut {
    /// The lease.
    pub fn id(&self) -> LeaseId {
        self.id
    }
}

impl Drop for LeasedPut {
    fn drop(&mut self) {
        self.registry.leases().end_put(self.id);
        self.registry.changed.notify_waiters();
    }
}

impl LeaseRegistry {
    /// Reads which leases there are; they live their whole time from now on.
    pub(super) async fn open(engine: &Engine) -> Result<LeaseRegistry, StartError> {
        let log = InternalLog::open(engine.clone(), LEASES_PARTITION);
        let mut fold = LeaseFold::default();
        let (mut next, end) = log.range();
        while next < end {
            let found = log.read(next).await?;
            next = found.next;
            for record in &found.records {
                fold.apply(record)?;
            }
        }
        if log.is_damaged() {
            tracing::error!(
                "records of leases are damaged on disk: keys may stay though their lease is over"
            );
        }
        let reserved = fold.last;
        Ok(LeaseRegistry {
            leases: Mutex::new(Leases::recovered(fold.leases.into_iter(), fold.last, 0)),
            changed: Notify::new(),
            reserved: tokio::sync::Mutex::new(reserved),
            log,
            started: Instant::now(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
            ending: Arc::new(Semaphore::new(limits::LEASES_ENDING_AT_ONCE)),
        })
    }

    /// Ends leases when their time is over, until it is stopped.
    pub(super) fn watch(self: &Arc<Self>, broker: Weak<Shared>) {
        let registry = self.clone();
        let run = async move { registry.run(broker).await };
        let stopping = self.stopping.clone();
        self.tasks.spawn(stopping.run_until_cancelled_owned(run));
    }

    /// Ends no leases any more.
    pub(super) async fn stop(&self) {
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).expect("milliseconds fit in 64 bits")
    }

    /// Grants a lease; returns once that is durable. Goes on when nobody waits for that
    /// any more: what lies in the log has to end some day.
    pub(super) async fn grant(self: &Arc<Self>, ttl_ms: u64) -> Result<LeaseId, GrantError> {
        let registry = self.clone();
        let granting = async move { registry.grant_to_the_end(ttl_ms).await };
        let granted = self.tasks.spawn(granting).await;
        granted.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    async fn grant_to_the_end(&self, ttl_ms: u64) -> Result<LeaseId, GrantError> {
        let limit = limits::LEASES;
        let mut reserved = self.reserved.lock().await;
        if self.leases().len() >= limit {
            return Err(GrantError::TooMany { limit });
        }
        let next = self.leases().next_id();
        let mut records = Vec::new();
        if next.0.get() > *reserved {
            let last = next.0.get().saturating_add(RESERVED_AT_ONCE);
            records.push(lease_ids_reserved(last));
        }
        let id = self.leases().take_id();
        records.push(lease_granted(id, ttl_ms));
        let durable = self.log.submit(&records).await?;
        if records.len() > 1 {
            durable.await?;
            *reserved = id.0.get().saturating_add(RESERVED_AT_ONCE);
            drop(reserved);
        } else {
            drop(reserved);
            durable.await?;
        }
        self.leases().insert(id, ttl_ms, self.now_ms());
        self.changed.notify_waiters();
        Ok(id)
    }

    /// Gives a lease its whole time anew; returns that: milliseconds.
    pub(super) fn keep_alive(&self, id: u64) -> Result<u64, LeaseError> {
        let now_ms = self.now_ms();
        self.leases().keep_alive(id, now_ms)
    }

    /// Begins to put keys with a lease.
    pub(super) fn begin_put(self: &Arc<Self>, id: u64) -> Result<LeasedPut, LeaseError> {
        let id = self.leases().begin_put(id)?;
        Ok(LeasedPut {
            registry: self.clone(),
            id,
        })
    }

    /// Ends a lease now; returns how many keys were removed with it. Goes on when nobody
    /// waits for that any more; nothing when the broker stops before it is done.
    pub(super) async fn revoke(
        self: &Arc<Self>,
        broker: &Broker,
        id: u64,
    ) -> Result<Option<u64>, LeaseError> {
        let id = self.leases().revoke(id)?;
        let removed = self.spawn_finish(broker.clone(), id).await;
        Ok(removed.ok().flatten())
    }

    fn spawn_finish(self: &Arc<Self>, broker: Broker, id: LeaseId) -> JoinHandle<Option<u64>> {
        let registry = self.clone();
        let finish = async move { registry.finish(&broker, id).await };
        let stopping = self.stopping.clone();
        self.tasks.spawn(stopping.run_until_cancelled_owned(finish))
    }

    async fn run(self: Arc<Self>, broker: Weak<Shared>) {
        loop {
            let changed = self.changed.notified();
            let now_ms = self.now_ms();
            let looked = self.leases().look(now_ms);
            if looked.stood_still_ms > 0 {
                tracing::warn!(
                    "leases live {} ms longer: nobody could be heard",
                    looked.stood_still_ms
                );
            }
            for id in looked.due {
                let Some(shared) = broker.upgrade() else {
                    return;
                };
                self.spawn_finish(Broker { shared }, id);
            }
            match looked.next_ms {
                None => changed.await,
                Some(next_ms) => {
                    let next = self.started + Duration::from_millis(next_ms);
                    tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep_until(next) => {}
                    }
                }
            }
        }
    }

    /// Removes the keys of a lease that is ending, and then the lease; tries again until
    /// that is done. Returns how many keys were removed.
    async fn finish(&self, broker: &Broker, id: LeaseId) -> u64 {
        loop {
            let changed = self.changed.notified();
            if self.leases().is_quiet(id) {
                break;
            }
            changed.await;
        }
        let mut removed = 0;
        loop {
            let turn = self.ending.acquire().await;
            let turn = turn.expect("the semaphore is never closed");
            let tried = self.try_finish(broker, id, &mut removed).await;
            // While this one can't be ended, others are.
            drop(turn);
            match tried {
                Ok(()) => return removed,
                Err(error) => {
                    let id = id.0;
                    tracing::warn!("lease {id} is over, and its keys can't be removed: {error}");
                    tokio::time::sleep(limits::LEASE_RETRY).await;
                }
            }
        }
    }

    async fn try_finish(
        &self,
        broker: &Broker,
        id: LeaseId,
        removed: &mut u64,
    ) -> Result<(), WriteError> {
        let states = broker.shared.registry.all().into_iter();
        let states = states.filter_map(|topic| TopicState::of(topic).ok());
        let states: Vec<_> = states.filter(|it| it.view().may_have_leased(id)).collect();
        // All at once: one that has to be waited for keeps no key of another.
        let removing = states.iter().map(|state| remove_keys(broker, state, id));
        let mut failed = None;
        for (count, outcome) in join_all(removing).await {
            *removed += count;
            match outcome {
                // There is nothing to be removed any more, or nobody knows what.
                Ok(()) | Err(WriteError::View(ViewError::Deleted | ViewError::TooLarge { .. })) => {
                }
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        self.log.append(lease_ended(id)).await?;
        self.leases().remove(id);
        Ok(())
    }
}

/// Removes the keys of a topic that end with a lease. Returns how many it removed, also
/// when that then failed.
async fn remove_keys(
    broker: &Broker,
    state: &TopicState,
    id: LeaseId,
) -> (u64, Result<(), WriteError>) {
    let mut removed = 0;
    for partition in 0..state.view().partition_count() {
        loop {
            match remove_some(broker, state, partition, id).await {
                Ok(None) => break,
                Ok(Some(count)) => removed += count,
                Err(error) => return (removed, Err(error)),
            }
        }
    }
    (removed, Ok(()))
}

/// Removes as many keys as go into a batch; `None` when there are none.
async fn remove_some(
    broker: &Broker,
    state: &TopicState,
    partition: u32,
    id: LeaseId,
) -> Result<Option<u64>, WriteError> {
    let most = limits::KEYS_PER_CALL;
    let bytes = state.topic().max_batch_bytes() as usize;
    let mut keys = state.view().leased(partition, id, most).await?;
    if keys.is_empty() {
        return Ok(None);
    }
    let mut room = bytes;
    let fitting = keys.iter().take_while(|(key, _)| {
        let left = room.checked_sub(key.len() + TOMBSTONE_OVERHEAD);
        room = left.unwrap_or_default();
        left.is_some()
    });
    let fitting = fitting.count().max(1);
    keys.truncate(fitting);
    let condition = |(key, version): &(Bytes, Offset)| Condition {
        partition,
        key: key.clone(),
        expected: Expected::Version(*version),
    };
    let conditions: Vec<Condition> = keys.iter().map(condition).collect();
    let tombstone = |(key, _)| KeyWrite {
        partition,
        key,
        value: None,
        headers: Vec::new(),
        lease: None,
    };
    let writes: Vec<KeyWrite> = keys.into_iter().map(tombstone).collect();
    match state.write(broker, &writes, &conditions, None).await {
        Ok(written) => Ok(Some(written.len() as u64)),
        // Written again in this moment: looked up again.
        Err(WriteError::Mismatch { .. }) => Ok(Some(0)),
        Err(error) => Err(error),
    }
}

/// What a tombstone takes beside its key: bytes, at most.
const TOMBSTONE_OVERHEAD: usize = 16;
