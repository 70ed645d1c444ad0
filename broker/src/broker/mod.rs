//! The broker without its network: topics by name over the engine's partitions.
//!
//! Lookups read a registry in memory and take no longer than a hash; what
//! changes topics goes through one task, the `keeper`, which alone owns the
//! metadata and outlives the calls that asked for the change.

mod error;
mod groups;
mod internal_log;
mod keeper;
mod lag;
mod leases;
mod leftovers;
mod produce;
mod producers;
mod recent_topics;
mod record_codec;
mod registry;
mod start;
mod state;
mod time_lookup;
mod write;

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use crate::clock::Clock;
use crate::coordinator::Coordinator;
use crate::limits;
use crate::model::{KeyHasher, Offset, PartitionId, ProducerName, TopicConfig, TopicId, TopicName};
use crate::partition::{AppendError, Appended, Engine, PartitionHandle, ReadError};
use crate::state::LeaseError;
use crate::views::{LeaseId, Views};

pub use error::{AdminError, LookupError, ProduceError, StartError};
pub use keeper::TopicConfigChange;
pub use lag::Lag;
pub use leases::{GrantError, LeasedPut};
pub use produce::{Author, BatchChecker, ByKey, IncomingBatch, KeyedBatch};
pub use producers::{ClaimError, RegisterError, Registered, SequenceClaim};
pub use record_codec::ProtobufRecords;
pub use registry::Topic;
pub use start::BrokerOptions;
pub use state::{PointInTime, PointsInTime, StateError, TopicState};
pub use write::{Condition, Expected, KeyWrite, WriteError};

use groups::Groups;
use keeper::{Command, Keeper};
use leases::LeaseRegistry;
use producers::ProducerRegistry;
use registry::Registry;

/// A running broker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Broker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    engine: Engine,
    clock: Clock,
    registry: Arc<Registry>,
    groups: Groups,
    views: Views,
    leases: Arc<LeaseRegistry>,
    keeper: mpsc::Sender<Command>,
    producers: ProducerRegistry,
    key_hasher: KeyHasher,
    /// For checks that take long.
    checks: Arc<Semaphore>,
    /// When the broker became ready: milliseconds since the Unix epoch.
    started_ms: i64,
}

/// Results of appended batches, to come: one for each.
pub type Acks = oneshot::Receiver<Vec<Result<Appended, AppendError>>>;

impl Broker {
    /// The log below.
    pub fn engine(&self) -> &Engine {
        &self.shared.engine
    }

    /// When the broker became ready: milliseconds since the Unix epoch.
    pub fn started_ms(&self) -> i64 {
        self.shared.started_ms
    }

    /// The topic with this name.
    pub fn topic(&self, name: &str) -> Result<Arc<Topic>, LookupError> {
        let not_found = || LookupError::TopicNotFound {
            topic: name.to_owned(),
        };
        self.shared.registry.get(name).ok_or_else(not_found)
    }

    /// The topic with this id.
    pub fn topic_by_id(&self, id: TopicId) -> Option<Arc<Topic>> {
        self.shared.registry.get_by_id(id)
    }

    /// No topic has a partition with this id or a higher one; whatever is created from
    /// now on does.
    pub fn next_partition(&self) -> PartitionId {
        self.shared.registry.next_partition()
    }

    /// Gives keys the hashes by which partitions know which ones were appended lately.
    pub fn key_hasher(&self) -> KeyHasher {
        self.shared.key_hasher
    }

    /// The consumer groups.
    pub fn groups(&self) -> &Coordinator {
        self.shared.groups.coordinator()
    }

    /// A partition of a topic.
    pub fn partition(&self, topic: &str, partition: u32) -> Result<PartitionHandle, LookupError> {
        self.topic(topic)?.partition(partition).cloned()
    }

    /// What is true in a compacted topic.
    pub fn state(&self, topic: &str) -> Result<TopicState, StateError> {
        TopicState::of(self.topic(topic)?)
    }

    /// Grants a lease that lives so long when it isn't kept alive: milliseconds. Returns
    /// once that is durable.
    pub async fn grant_lease(&self, ttl_ms: u64) -> Result<LeaseId, GrantError> {
        self.shared.leases.grant(ttl_ms).await
    }

    /// Gives a lease its whole time to live anew; returns that: milliseconds.
    pub fn keep_lease_alive(&self, id: u64) -> Result<u64, LeaseError> {
        self.shared.leases.keep_alive(id)
    }

    /// Begins to put keys with a lease, which isn't over before that has ended.
    pub fn begin_leased_put(&self, id: u64) -> Result<LeasedPut, LeaseError> {
        self.shared.leases.begin_put(id)
    }

    /// Ends a lease, and removes its keys; returns how many they were. Goes on when
    /// the caller doesn't wait; nothing when the broker stops before it is done.
    pub async fn revoke_lease(&self, id: u64) -> Result<Option<u64>, LeaseError> {
        self.shared.leases.revoke(self, id).await
    }

    /// Bytes that the keys of all compacted topics take now, and the records that are
    /// kept beside them.
    pub fn view_memory(&self) -> (usize, usize) {
        self.shared.views.memory_used()
    }

    /// Topics whose names begin with `prefix` and lie behind `after`, in the
    /// order of their names: at most `count`, and whether there are more.
    pub fn topics(&self, prefix: &str, after: &str, count: usize) -> (Vec<Arc<Topic>>, bool) {
        self.shared.registry.list(prefix, after, count)
    }

    /// Number of topics, and of all their partitions.
    pub fn counts(&self) -> (usize, u32) {
        self.shared.registry.counts()
    }

    /// Creates a topic; it exists once its record is durable.
    pub async fn create_topic(
        &self,
        name: TopicName,
        partitions: u32,
        config: TopicConfig,
    ) -> Result<Arc<Topic>, AdminError> {
        let now_ms = self.shared.clock.now_ms();
        self.ask(|reply| Command::Create {
            name,
            partitions,
            config,
            now_ms,
            reply,
        })
        .await
    }

    /// Changes a topic.
    pub async fn alter_topic(
        &self,
        name: TopicName,
        partitions: Option<u32>,
        change: TopicConfigChange,
    ) -> Result<Arc<Topic>, AdminError> {
        self.ask(|reply| Command::Alter {
            name,
            partitions,
            change,
            reply,
        })
        .await
    }

    /// Deletes a topic with its records.
    pub async fn delete_topic(&self, name: TopicName) -> Result<(), AdminError> {
        self.ask(|reply| Command::Delete { name, reply }).await
    }

    /// Gives a producer its id. One with a name gets, as a rule, the same id as
    /// before in a higher epoch, and whoever had the name is refused from now on; one
    /// that says who it is now, and isn't that any more, is refused itself.
    pub async fn register_producer(
        &self,
        name: Option<ProducerName>,
        current: Option<Registered>,
    ) -> Result<Registered, RegisterError> {
        self.shared.producers.register(name, current).await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, AdminError>>) -> Command,
    ) -> Result<T, AdminError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.shared.keeper.send(command(reply)).await;
        sent.map_err(|_| AppendError::Stopping)?;
        answer.await.map_err(|_| AppendError::Stopping)?
    }

    /// The first record of a partition at or after a time, in milliseconds since
    /// the Unix epoch.
    pub async fn offset_at_time(
        &self,
        partition: &PartitionHandle,
        timestamp_ms: i64,
    ) -> Result<Option<Offset>, ReadError> {
        time_lookup::offset_at_time(partition, timestamp_ms).await
    }

    /// How far behind somebody is who goes on at `next`.
    pub async fn lag(&self, partition: &PartitionHandle, next: Offset) -> Result<Lag, ReadError> {
        lag::lag(partition, next, self.shared.clock.now_ms()).await
    }

    /// Runs a check that takes long off the runtime, a few at a time; nothing when
    /// it panicked, or the runtime ends. It takes its turn in a task of its own: a
    /// caller whose client doesn't read may not be polled any more, and would keep
    /// its turn from all others.
    pub async fn check_off_runtime<T: Send + 'static>(
        &self,
        check: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let checks = self.shared.checks.clone();
        let turn = async move {
            let turn = checks.acquire_owned().await;
            let run = move || {
                let _turn = turn;
                check()
            };
            tokio::task::spawn_blocking(run).await.ok()
        };
        AbortOnDropHandle::new(tokio::spawn(turn)).await.ok()?
    }

    /// Whether appends are taken: false after a write or flush failed.
    pub fn writable(&self) -> bool {
        self.shared.engine.writable()
    }

    /// Finishes what was asked for of topics and producers, writes and flushes what was appended, and ends.
    pub async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        if self
            .shared
            .keeper
            .send(Command::Stop { done })
            .await
            .is_ok()
        {
            // An error says that another call was first.
            let _ = stopped.await;
        }
        self.shared.groups.stop().await;
        self.shared.leases.stop().await;
        self.shared.views.stop().await;
        self.shared.producers.stop().await;
        self.shared.engine.stop().await;
    }
}

/// How many changes of topics may wait for the keeper.
const KEEPER_MAILBOX: usize = limits::ADMIN_CALLS_IN_FLIGHT;

#[cfg(test)]
mod tests;
