//! Leases: grants them, keeps them alive, and removes the keys of those that end.
//!
//! A lease that ends is over only once its keys are gone, by tombstones that are as
//! durable as their topics say: a crash in between leaves the lease, which has its whole
//! time after the start and ends again. What was put with it again meanwhile, without it
//! or with another one, stays: the tombstones expect the version that ends. Keys that an
//! end can't come to are removed later (`sweep`).

mod sweep;

use std::sync::atomic::{AtomicU64, Ordering};
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
use super::produce::Author;
use super::write::{Condition, Expected, KeyWrite, WriteError};
use super::{Broker, Shared, StartError, TopicState};
use crate::limits;
use crate::metadata::LEASES_PARTITION;
use crate::model::Offset;
use crate::partition::{AppendError, Engine};
use crate::state::{
    LeaseError, LeaseFold, LeaseId, Leases, lease_ended, lease_granted, lease_ids_reserved,
};
use crate::views::{LeasedBound, LeasedKeys, ViewError};

/// Ids that are reserved with one record.
const RESERVED_AT_ONCE: u64 = 1000;

/// Far more ids than are used up for one record, those included whose leases the log
/// didn't take.
const IDS_PER_RECORD: u64 = 1 << 20;

/// When it is tried again for the first time to remove keys that couldn't be.
const FIRST_RETRY: Duration = Duration::from_millis(50);

/// That keys can't be removed is said this often: milliseconds.
const COMPLAINT_MS: u64 = 10_000;

const NEVER_CLOSED: &str = "the semaphore is never closed";

/// All leases of a broker.
#[derive(Debug)]
pub(super) struct LeaseRegistry {
    leases: Mutex<Leases>,
    /// Rings when the next end may be sooner, or a put has ended.
    changed: Notify,
    /// Ids up to here are reserved. Held while more are.
    reserved: tokio::sync::Mutex<u64>,
    log: InternalLog,
    /// Records of leases couldn't be read.
    is_damaged: bool,
    /// When milliseconds began to be counted.
    started: Instant,
    stopping: CancellationToken,
    tasks: TaskTracker,
    /// Turns of leases that are ended.
    ending: Semaphore,
    /// Turns of the writes that remove their keys.
    writing: Semaphore,
    /// When it was last said that keys can't be removed; 0 before that.
    complained_ms: AtomicU64,
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
        let is_damaged = log.is_damaged();
        if is_damaged {
            tracing::error!("records of leases are damaged on disk: those leases are over");
            // What is lost may have said that higher ids were given out.
            fold.last = fold.last.max(end.0.saturating_mul(IDS_PER_RECORD));
        }
        let reserved = fold.last;
        Ok(LeaseRegistry {
            leases: Mutex::new(Leases::recovered(fold.leases.into_iter(), fold.last, 0)),
            changed: Notify::new(),
            reserved: tokio::sync::Mutex::new(reserved),
            log,
            is_damaged,
            started: Instant::now(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
            ending: Semaphore::new(limits::LEASES_ENDING_AT_ONCE),
            writing: Semaphore::new(limits::LEASE_WRITES_AT_ONCE),
            complained_ms: AtomicU64::new(0),
        })
    }

    /// Ends leases when their time is over, and sweeps, until it is stopped.
    pub(super) fn watch(self: &Arc<Self>, broker: Weak<Shared>) {
        let registry = self.clone();
        let sweeping = self.clone().sweep_always(broker.clone());
        let run = async move { registry.run(broker).await };
        let stopping = self.stopping.clone();
        self.tasks.spawn(stopping.run_until_cancelled_owned(run));
        let stopping = self.stopping.clone();
        self.tasks
            .spawn(stopping.run_until_cancelled_owned(sweeping));
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

    /// The end of the millisecond that has begun: from then on whoever asks now has the
    /// whole time.
    fn next_ms(&self) -> u64 {
        self.now_ms() + 1
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
        let reserved = self.reserved.lock().await;
        let id = self.leases().begin_grant(limit);
        let id = id.ok_or(GrantError::TooMany { limit })?;
        let appended = self.append_grant(reserved, id, ttl_ms).await;
        let ttl_ms = appended.is_ok().then_some(ttl_ms);
        self.leases().end_grant(id, ttl_ms, self.next_ms());
        self.changed.notify_waiters();
        appended.map(|()| id).map_err(GrantError::from)
    }

    /// Makes a lease durable, and before it that ids like its own may have been given out.
    async fn append_grant(
        &self,
        mut reserved: tokio::sync::MutexGuard<'_, u64>,
        id: LeaseId,
        ttl_ms: u64,
    ) -> Result<(), AppendError> {
        let granted = lease_granted(id, ttl_ms);
        if id.0.get() <= *reserved {
            let durable = self.log.submit(&[granted]).await?;
            drop(reserved);
            return durable.await;
        }
        let last = id.0.get().saturating_add(RESERVED_AT_ONCE);
        let records = [lease_ids_reserved(last), granted];
        self.log.submit(&records).await?.await?;
        *reserved = last;
        Ok(())
    }

    /// Gives a lease its whole time anew; returns that: milliseconds.
    pub(super) fn keep_alive(&self, id: u64) -> Result<u64, LeaseError> {
        let from_ms = self.next_ms();
        self.leases().keep_alive(id, from_ms)
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
        self.until_quiet(id).await;
        let mut removed = 0;
        let mut pause = FIRST_RETRY;
        while let Err(error) = self.try_finish(broker, id, &mut removed).await {
            if pause == limits::LEASE_RETRY && self.may_complain() {
                let id = id.0;
                tracing::warn!("lease {id} is over, and its keys can't be removed yet: {error}");
            }
            tokio::time::sleep(pause).await;
            pause = limits::LEASE_RETRY.min(2 * pause);
        }
        removed
    }

    /// Waits until nobody puts anything with a lease that is ending.
    async fn until_quiet(&self, id: LeaseId) {
        loop {
            let changed = self.changed.notified();
            if self.leases().is_quiet(id) {
                return;
            }
            changed.await;
        }
    }

    /// Whether what goes wrong may be said: of many leases, one at a time is enough.
    fn may_complain(&self) -> bool {
        let (now_ms, last) = (self.next_ms(), &self.complained_ms);
        let before = last.load(Ordering::Relaxed);
        let is_due = before == 0 || now_ms >= before + COMPLAINT_MS;
        is_due
            && last
                .compare_exchange(before, now_ms, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    async fn try_finish(
        &self,
        broker: &Broker,
        id: LeaseId,
        removed: &mut u64,
    ) -> Result<(), WriteError> {
        let turn = self.ending.acquire().await.expect(NEVER_CLOSED);
        let states = broker.shared.registry.all().into_iter();
        let states: Vec<_> = states
            .filter_map(|topic| TopicState::of(topic).ok())
            .collect();
        let places = states.iter().flat_map(|state| {
            let partitions = state.view().partitions_with(id);
            partitions
                .into_iter()
                .map(move |partition| (state, partition))
        });
        // All at once: one that has to be waited for keeps no key of another.
        let removing =
            places.map(|(state, partition)| self.remove_keys(broker, state, partition, id));
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
        // While this one can't be ended, others are.
        drop(turn);
        if let Some(error) = failed {
            return Err(error);
        }
        self.log.append(lease_ended(id)).await?;
        self.leases().remove(id);
        Ok(())
    }

    /// Removes the keys of a partition that end with a lease. Returns how many it removed,
    /// also when that then failed.
    async fn remove_keys(
        &self,
        broker: &Broker,
        state: &TopicState,
        partition: u32,
        id: LeaseId,
    ) -> (u64, Result<(), WriteError>) {
        let mut removed = 0;
        loop {
            let LeasedKeys { keys, are_all } = match leased(state, partition, id).await {
                Ok(leased) if leased.keys.is_empty() => return (removed, Ok(())),
                Ok(leased) => leased,
                Err(error) => return (removed, Err(error.into())),
            };
            let turn = self.writing.acquire().await.expect(NEVER_CLOSED);
            let outcome = remove_some(broker, state, partition, keys).await;
            drop(turn);
            match outcome {
                // Nobody puts others any more.
                Ok(count) if are_all => return (removed + count, Ok(())),
                Ok(count) => removed += count,
                // Written again in this moment: looked up again.
                Err(WriteError::Mismatch { .. }) => {}
                Err(error) => return (removed, Err(error)),
            }
        }
    }
}

/// Keys of a partition that end with a lease, as many as one write removes. Waits for a
/// view that is a little behind.
async fn leased(state: &TopicState, partition: u32, id: LeaseId) -> Result<LeasedKeys, ViewError> {
    let view = state.view();
    let most = LeasedBound {
        keys: limits::KEYS_PER_CALL,
        bytes: limits::LEASE_WRITE_BYTES,
    };
    let leased = view.leased(partition, id, most);
    let leased = tokio::time::timeout(limits::LEASE_VIEW_WAIT, leased).await;
    leased.unwrap_or_else(|_| {
        let handle = &state.topic().partitions()[partition as usize];
        Err(ViewError::Behind {
            partition,
            applied: view.applied(partition).0,
            wanted: handle.high_watermark().0,
        })
    })
}

/// Removes keys. Returns how many.
async fn remove_some(
    broker: &Broker,
    state: &TopicState,
    partition: u32,
    keys: Vec<(Bytes, Offset)>,
) -> Result<u64, WriteError> {
    let condition = |(place, (key, version)): (usize, &(Bytes, Offset))| Condition {
        place,
        partition,
        key: key.clone(),
        expected: Expected::Version(*version),
    };
    let conditions: Vec<Condition> = keys.iter().enumerate().map(condition).collect();
    let tombstone = |(key, _)| KeyWrite {
        partition,
        key,
        value: None,
        headers: Vec::new(),
        lease: None,
    };
    let writes: Vec<KeyWrite> = keys.into_iter().map(tombstone).collect();
    // Whatever the topic takes of clients by now, its keys go.
    let written = state.write(broker, Author::Broker, &writes, &conditions, None);
    Ok(written.await?.len() as u64)
}
