//! The running log: the threads that write, flush and archive, and the way in.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::abort_on_panic::AbortOnPanic;
use super::hand::Hands;
use super::handle::{Partition, PartitionHandle};
use super::haste::Haste;
use super::jumps::Jumps;
use super::mailbox::{Durability, Mailbox, Results, Submission};
use super::traffic::{Counters, Traffic};
use super::upkeep::Upkeep;
use super::{Append, AppendError, PartitionConfig, Unit};
use crate::clock::Clock;
use crate::limits;
use crate::model::{HEADER_LEN, Offset, PartitionId};
use crate::storage::{Compactor, KeyGuard, PartitionLog, ReadError, RecordCodec, Storage};

/// Bounds of the engine.
#[derive(Debug, Clone, Copy)]
pub struct EngineOptions {
    /// Records that wait to be written, of all producers together: bytes.
    pub mailbox_bytes: usize,
    /// Reads from disk at the same time.
    pub disk_reads: usize,
}

impl Default for EngineOptions {
    /// Those of [`limits`].
    fn default() -> EngineOptions {
        EngineOptions {
            mailbox_bytes: limits::MAILBOX_BYTES,
            disk_reads: limits::DISK_READS,
        }
    }
}

/// The running log: every partition's appends go through it. Cheap to clone. If nobody
/// stops it, it writes what was submitted and ends its threads once the last clone is gone.
#[derive(Clone)]
pub struct Engine {
    pub(super) shared: Arc<Shared>,
    _use: Arc<InUse>,
}

/// Lives as long as any clone of an engine.
struct InUse(Arc<Shared>);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.close();
        self.0.upkeep.close();
    }
}

/// What the threads, the handles and the clones of the engine share.
pub(super) struct Shared {
    pub(super) storage: Storage,
    pub(super) mailbox: Mailbox,
    pub(super) hands: Hands,
    pub(super) upkeep: Upkeep,
    pub(super) haste: Haste,
    pub(super) clock: Clock,
    jumps: Jumps,
    pub(super) counters: Counters,
    options: EngineOptions,
    /// Bytes that may be submitted.
    pub(super) admission: Arc<Semaphore>,
    disk_reads: Arc<Semaphore>,
    partitions: RwLock<HashMap<PartitionId, Arc<Partition>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    /// Starts the journal's hands over an opened storage.
    pub fn start(
        storage: Storage,
        options: EngineOptions,
        clock: Clock,
    ) -> std::io::Result<Engine> {
        let shared = Arc::new(Shared {
            storage,
            mailbox: Mailbox::default(),
            hands: Hands::default(),
            upkeep: Upkeep::default(),
            haste: Haste::default(),
            jumps: Jumps::start(&clock),
            clock,
            counters: Counters::default(),
            options,
            admission: Arc::new(Semaphore::new(options.mailbox_bytes)),
            disk_reads: Arc::new(Semaphore::new(options.disk_reads)),
            partitions: RwLock::default(),
            threads: Mutex::default(),
        });
        let engine = Engine {
            _use: Arc::new(InUse(shared.clone())),
            shared,
        };
        engine.spawn("journal-0", Shared::run_hand)?;
        engine.spawn("journal-1", Shared::run_hand)?;
        Ok(engine)
    }

    /// Starts what happens in the background: archiving, retention, keeping
    /// journal files ready. Not before every partition that exists is open: what
    /// recovery made of one that lost its records is in memory only until then,
    /// and an archived journal file doesn't tell it again.
    pub fn begin_upkeep(&self) -> std::io::Result<()> {
        self.shared.haste.begin();
        self.spawn("archiver-haste", Shared::run_haste)?;
        self.spawn("archiver", Shared::run_archiver)?;
        self.spawn("preparer", Shared::run_preparer)
    }

    /// Starts compaction of the partitions that want it. `codec` knows how records
    /// are encoded; `seed` is random and secret. After [`Engine::begin_upkeep`].
    pub fn begin_compaction(&self, codec: Arc<dyn RecordCodec>, seed: u128) -> std::io::Result<()> {
        let compactor = Compactor::new(codec, seed);
        self.spawn("compactor", |shared| shared.run_compactor(compactor))
    }

    fn spawn(&self, name: &str, run: impl FnOnce(&Shared) + Send + 'static) -> std::io::Result<()> {
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let _guard = AbortOnPanic;
                run(&shared);
            })?;
        self.shared
            .threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(thread);
        Ok(())
    }

    /// The handle of a partition that was created before.
    pub fn partition(&self, id: PartitionId, config: PartitionConfig) -> PartitionHandle {
        self.handle(id, || {
            Partition::new(self.shared.storage.partition(id), config)
        })
    }

    /// The handle of a new partition. Its id was never used before.
    pub fn create_partition(&self, id: PartitionId, config: PartitionConfig) -> PartitionHandle {
        self.handle(id, || {
            Partition::new(self.shared.storage.create_partition(id), config)
        })
    }

    fn handle(&self, id: PartitionId, new: impl FnOnce() -> Partition) -> PartitionHandle {
        let partitions = &self.shared.partitions;
        let mut partitions = partitions.write().unwrap_or_else(PoisonError::into_inner);
        let partition = partitions
            .entry(id)
            .or_insert_with(|| Arc::new(new()))
            .clone();
        PartitionHandle::new(partition, self.shared.clone())
    }

    /// Removes partitions with all their records; the space comes back. Ids are
    /// never used again. An error leaves files behind; a restart finds them
    /// with [`Engine::partition_ids`].
    pub async fn delete(&self, ids: Vec<PartitionId>) -> Result<(), ReadError> {
        let removed: Vec<Arc<Partition>> = {
            let mut partitions = self
                .shared
                .partitions
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            ids.iter().filter_map(|id| partitions.remove(id)).collect()
        };
        let deleted = self
            .shared
            .off_runtime(move |storage| {
                let deleted = storage.delete_partitions(&ids);
                deleted.map_err(|error| ReadError::Io(error.to_string().into()))
            })
            .await;
        for partition in removed {
            partition.waiters.ring_below(Offset(u64::MAX));
        }
        deleted
    }

    /// Bytes in the segments of each of these partitions. Looks at the files, all
    /// in one go.
    pub async fn segment_bytes(
        &self,
        partitions: &[PartitionHandle],
    ) -> Result<Vec<Result<u64, ReadError>>, ReadError> {
        let logs = partitions
            .iter()
            .map(|handle| handle.partition().log.clone());
        let logs: Vec<Arc<PartitionLog>> = logs.collect();
        let look = move |storage: &Storage| {
            let bytes = |log: &Arc<PartitionLog>| Ok(storage.segment_bytes(log)?);
            Ok(logs.iter().map(bytes).collect())
        };
        self.shared.off_runtime(look).await
    }

    /// Ids of the partitions that are on disk, ascending.
    pub fn partition_ids(&self) -> std::io::Result<Vec<PartitionId>> {
        self.shared.storage.partition_ids()
    }

    /// The id of the data directory: 32 hexadecimal digits.
    pub fn cluster_id(&self) -> &str {
        &self.shared.storage.identity().cluster_id
    }

    /// The largest batch that fits into the journal: bytes.
    pub fn max_batch_bytes(&self) -> u32 {
        self.shared.storage.max_batch_bytes()
    }

    /// Appends batches to partitions, in this order. Resolves when each is as
    /// durable as its partition's flush level says; waits while the mailbox is
    /// full. One result per batch.
    pub async fn append(&self, appends: Vec<Append>) -> Results {
        let count = appends.len();
        results(self.submit(appends).await, count).await
    }

    /// As [`Engine::append`], all of them or none.
    pub async fn append_unit(&self, unit: Unit) -> Results {
        let count = unit.appends.len();
        results(self.submit_unit(unit).await, count).await
    }

    /// The first half of [`Engine::append`]: waits until the mailbox has taken
    /// the batches. The order of calls is the order in the log.
    pub async fn submit(
        &self,
        appends: Vec<Append>,
    ) -> Result<oneshot::Receiver<Results>, AppendError> {
        self.submit_as(appends, None).await
    }

    /// The first half of [`Engine::append_unit`], as [`Engine::submit`].
    pub async fn submit_unit(&self, unit: Unit) -> Result<oneshot::Receiver<Results>, AppendError> {
        let Unit { appends, guards } = unit;
        let payloads = appends.iter().map(|append| append.batch.payload.len());
        let fits = self.shared.storage.fits_unit(payloads);
        if !fits || appends.len() > limits::UNIT_APPENDS {
            return Err(AppendError::UnitTooLarge);
        }
        self.submit_as(appends, Some(guards)).await
    }

    async fn submit_as(
        &self,
        appends: Vec<Append>,
        unit: Option<Vec<KeyGuard>>,
    ) -> Result<oneshot::Receiver<Results>, AppendError> {
        let bytes: usize = appends
            .iter()
            .map(|a| HEADER_LEN + a.batch.payload.len())
            .sum();
        // One that is larger than the mailbox is let in when it is empty.
        let wanted = bytes.min(self.shared.options.mailbox_bytes);
        let wanted = u32::try_from(wanted).expect("the mailbox is far smaller");
        let shared = self.shared.clone();
        let submit = move |permit| shared.submit(appends, unit, bytes, permit);
        let admission = self.shared.admission.clone();
        match admission.clone().try_acquire_many_owned(wanted) {
            Ok(permit) => submit(permit),
            Err(TryAcquireError::Closed) => Err(AppendError::Stopping),
            Err(TryAcquireError::NoPermits) => {
                // In a task of its own: a caller whose client doesn't read its
                // answers may not be polled any more, and would keep from all
                // others what it is given in its turn.
                let turn = async move {
                    let permit = admission.acquire_many_owned(wanted).await;
                    submit(permit.map_err(|_| AppendError::Stopping)?)
                };
                let turn = AbortOnDropHandle::new(tokio::spawn(turn));
                turn.await.unwrap_or(Err(AppendError::Stopping))
            }
        }
    }

    /// Goes on with what partitions know of producers, of whom none will get an id
    /// below `given_below` any more. To be called once, before the first append.
    pub fn resume_producers(&self, given_below: u64) {
        let now_ms = self.shared.clock.now_ms();
        self.shared.storage.resume_producers(now_ms, given_below);
    }

    /// A producer with a lower id may have been forgotten by a partition before its
    /// time, which refuses it then.
    pub fn producers_forgotten_below(&self) -> u64 {
        self.shared.storage.producers_forgotten_below()
    }

    /// Carries out retention now, and not only every half minute.
    #[cfg(test)]
    pub(crate) fn sweep_now(&self) {
        self.shared.storage.close_journal_file();
        self.shared.upkeep.wake();
        self.shared.sweep(&mut super::upkeep::FileAge::default());
    }

    /// What went through the log since the start.
    pub fn traffic(&self) -> Traffic {
        self.shared.counters.traffic()
    }

    /// Closed journal files that are not in segments yet.
    pub fn archiver_lag(&self) -> usize {
        self.shared.storage.archiver_lag()
    }

    /// Whether appends are still taken: false after a write or flush failed.
    pub fn writable(&self) -> bool {
        self.shared.storage.failure().is_none()
    }

    /// Writes and flushes what was submitted, and ends the threads.
    pub async fn stop(&self) {
        self.shared.close();
        let shared = self.shared.clone();
        let joined = tokio::task::spawn_blocking(move || shared.join()).await;
        joined.expect("threads of the engine don't panic");
    }
}

/// What became of `count` appends that were submitted.
async fn results(
    submitted: Result<oneshot::Receiver<Results>, AppendError>,
    count: usize,
) -> Results {
    let refused = |error| vec![Err(error); count];
    match submitted {
        Ok(answer) => answer
            .await
            .unwrap_or_else(|_| refused(AppendError::Stopping)),
        Err(error) => refused(error),
    }
}

impl Shared {
    /// The time by which producers are remembered: milliseconds since the Unix epoch.
    /// What is known of them has come along, if the clock was set.
    pub(super) fn producers_now_ms(&self) -> i64 {
        let follow = |by_ms, now_ms| {
            tracing::warn!("the clock went {by_ms} ms further than time did");
            self.storage.shift_producers(by_ms, now_ms);
        };
        self.jumps.now_ms(&self.clock, follow)
    }

    /// Takes no more appends; what was submitted is still written.
    fn close(&self) {
        self.admission.close();
        self.mailbox.close();
    }

    /// Puts appends that were admitted into the mailbox.
    fn submit(
        &self,
        appends: Vec<Append>,
        unit: Option<Vec<KeyGuard>>,
        bytes: usize,
        permit: OwnedSemaphorePermit,
    ) -> Result<oneshot::Receiver<Results>, AppendError> {
        let (reply, answer) = oneshot::channel();
        let submission = Submission {
            durability: Durability::of(&appends),
            appends,
            unit,
            bytes,
            permit,
            reply,
        };
        let submitted = self.mailbox.submit(submission);
        submitted.map_err(|_| AppendError::Stopping)?;
        Ok(answer)
    }

    /// Runs something that may wait for a disk, off the runtime. It takes its
    /// turn in a task of its own: a caller whose client doesn't read may not be
    /// polled any more, and would keep its turn from all others.
    pub(super) async fn off_runtime<T: Send + 'static>(
        self: &Arc<Self>,
        run: impl FnOnce(&Storage) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let shared = self.clone();
        let turn = async move {
            let turn = shared.disk_reads.clone().acquire_owned().await;
            tokio::task::spawn_blocking(move || {
                let _turn = turn;
                run(&shared.storage)
            })
            .await
        };
        let done = AbortOnDropHandle::new(tokio::spawn(turn)).await;
        done.and_then(|done| done)
            .map_err(|error| ReadError::Io(error.to_string().into()))?
    }

    /// The partitions, each with its configuration, in no order.
    pub(super) fn partitions(&self) -> Vec<Arc<Partition>> {
        let partitions = self
            .partitions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        partitions.values().cloned().collect()
    }

    fn join(&self) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        // The hands first, in the order of spawning: upkeep goes on until
        // everything is written.
        let hands = threads.len().min(2);
        let background = threads.split_off(hands);
        for hand in threads.drain(..) {
            hand.join().expect("a journal hand doesn't panic");
        }
        // Before what may take longer: who stops us may lose patience.
        self.prove_flushed();
        self.upkeep.close();
        for thread in background {
            thread.join().expect("upkeep doesn't panic");
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}
