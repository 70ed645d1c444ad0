//! Who may number batches: gives out ids, and knows which of them count.
//!
//! One task, the keeper, gives out ids: it appends the record that says so, and
//! answers once that is durable. Numbers are reserved many at a time, so most
//! producers without a name wait for no disk. Whoever sends a batch looks the id up
//! in memory.
//!
//! A name fences: before the record of its new epoch is appended, the fence of the
//! old one is raised, and the fence is looked at where offsets are given out. So no
//! batch of the former producer comes behind the record, and when the new one hears
//! of its epoch, all that its predecessor ever appended is in the log.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use tokio::sync::{mpsc, oneshot};

use super::StartError;
use super::internal_log::InternalLog;
use crate::limits;
use crate::metadata::{NamedProducer, ProducerId, Producers, RESERVED_AT_ONCE};
use crate::model::{NewRecord, ProducerFence, ProducerName, ProducerStamp};
use crate::partition::{AppendError, Engine};

/// What a batch claims to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SequenceClaim {
    /// From [`Registered::id`].
    pub producer_id: u64,
    /// From [`Registered::epoch`].
    pub epoch: u32,
    /// How many records the producer has sent to the partition before, modulo 2^32.
    pub base_sequence: u32,
}

/// Why a batch can't be what it claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// No producer has such an id or epoch.
    #[error("a producer's id is at least 1, and its epoch at most 65535")]
    OutOfBounds,
    /// The id was never given out in this epoch, or its name was forgotten.
    #[error("no producer with this id and epoch is known")]
    Unknown,
}

/// A producer that may number its batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registered {
    /// At least 1.
    pub id: u64,
    /// 0 for one without a name.
    pub epoch: u16,
}

impl Registered {
    fn is(self, (id, epoch): (ProducerId, u16)) -> bool {
        (self.id, self.epoch) == (id.get(), epoch)
    }
}

impl From<NamedProducer> for Registered {
    fn from(producer: NamedProducer) -> Registered {
        Registered {
            id: producer.id.get(),
            epoch: producer.epoch,
        }
    }
}

/// Why a producer can't begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// The log didn't take it.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// Another one with its name has begun since it did.
    #[error("another producer with the name {0} has begun since")]
    Fenced(ProducerName),
}

type Reply = oneshot::Sender<Result<Registered, RegisterError>>;

/// What the keeper is asked for.
#[derive(Debug)]
enum Command {
    Register {
        name: Option<ProducerName>,
        current: Option<Registered>,
        reply: Reply,
    },
    /// No more producers.
    Stop { done: oneshot::Sender<()> },
}

/// The producers that there are, to be looked up and to be added to.
#[derive(Debug)]
pub(super) struct ProducerRegistry {
    known: Arc<Known>,
    keeper: mpsc::Sender<Command>,
}

/// What is known of producers.
#[derive(Debug)]
struct Known {
    /// Numbers below were given out, or may have been.
    given_below: AtomicU64,
    /// Those with names, by id.
    fences: RwLock<HashMap<ProducerId, Arc<ProducerFence>>>,
}

impl Known {
    fn fence(&self, id: ProducerId) -> Option<Arc<ProducerFence>> {
        let fences = self.fences.read().unwrap_or_else(PoisonError::into_inner);
        fences.get(&id).cloned()
    }

    fn fences(&self) -> RwLockWriteGuard<'_, HashMap<ProducerId, Arc<ProducerFence>>> {
        self.fences.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProducerRegistry {
    /// Reads who there was; so many names will be remembered. The keeper is to be
    /// run.
    pub(super) async fn open(
        engine: &Engine,
        log: InternalLog,
        most_names: usize,
    ) -> Result<(ProducerRegistry, ProducerKeeper), StartError> {
        let mut producers = Producers::default();
        catch_up(&mut producers, &log).await?;
        let next = producers.reserved_below();
        engine.resume_producers(ProducerId::new(next, true).get());
        let fence = |(_, producer): (&ProducerName, NamedProducer)| {
            (producer.id, Arc::new(ProducerFence::new(producer.epoch)))
        };
        let known = Arc::new(Known {
            given_below: AtomicU64::new(next),
            fences: RwLock::new(producers.names().map(fence).collect()),
        });
        let (sender, commands) = mpsc::channel(limits::REGISTRATIONS_IN_FLIGHT);
        let keeper = ProducerKeeper {
            commands,
            engine: engine.clone(),
            log,
            known: known.clone(),
            producers,
            next,
            most_names,
        };
        let registry = ProducerRegistry {
            known,
            keeper: sender,
        };
        Ok((registry, keeper))
    }

    /// Gives out an id. With a name, those who had it before are refused from now on.
    /// Who says what it is now must still be that, or have become something else
    /// by an earlier call, whose answer it gets again.
    pub(super) async fn register(
        &self,
        name: Option<ProducerName>,
        current: Option<Registered>,
    ) -> Result<Registered, RegisterError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Register {
            name,
            current,
            reply,
        };
        let sent = self.keeper.send(command).await;
        sent.map_err(|_| AppendError::Stopping)?;
        answer.await.map_err(|_| AppendError::Stopping)?
    }

    /// Ends the keeper.
    pub(super) async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        if self.keeper.send(Command::Stop { done }).await.is_ok() {
            // An error says that another call was first.
            let _ = stopped.await;
        }
    }
}

/// Turns the claims of one sender into stamps.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// The last producer, who is likely the next one, too, and its fence.
    last: Option<(ProducerId, Option<Arc<ProducerFence>>)>,
}

impl Claims {
    /// The stamp of a batch, if it can be what it claims.
    pub(super) fn stamp(
        &mut self,
        registry: &ProducerRegistry,
        claim: SequenceClaim,
    ) -> Result<ProducerStamp, ClaimError> {
        let epoch = u16::try_from(claim.epoch).map_err(|_| ClaimError::OutOfBounds)?;
        if claim.producer_id == 0 {
            return Err(ClaimError::OutOfBounds);
        }
        let id = ProducerId::from(claim.producer_id);
        let fence = match &self.last {
            Some((last, fence)) if *last == id => fence.clone(),
            _ => {
                let fence = look_up(&registry.known, id)?;
                self.last = Some((id, fence.clone()));
                fence
            }
        };
        // Of an epoch that was not given out yet, nothing may be appended: it would
        // be taken for the first batches of the one who gets it.
        let newest = fence.as_ref().map_or(Some(0), |fence| fence.epoch());
        if newest.is_none_or(|newest| epoch > newest) {
            return Err(ClaimError::Unknown);
        }
        Ok(ProducerStamp {
            id: claim.producer_id,
            epoch,
            base_sequence: claim.base_sequence,
            fence,
        })
    }
}

/// The fence of a producer, if it has one.
fn look_up(known: &Known, id: ProducerId) -> Result<Option<Arc<ProducerFence>>, ClaimError> {
    if id.is_named() {
        return known.fence(id).ok_or(ClaimError::Unknown).map(Some);
    }
    match (1..known.given_below.load(Ordering::Acquire)).contains(&id.number()) {
        true => Ok(None),
        false => Err(ClaimError::Unknown),
    }
}

/// The one task that gives out ids. A call that is given up leaves nothing half
/// done, since the task goes on.
#[derive(Debug)]
pub(super) struct ProducerKeeper {
    commands: mpsc::Receiver<Command>,
    engine: Engine,
    log: InternalLog,
    known: Arc<Known>,
    /// What the log says.
    producers: Producers,
    /// The number that is given out next.
    next: u64,
    most_names: usize,
}

impl ProducerKeeper {
    /// Serves commands until it is stopped, or nobody can send any more.
    pub(super) async fn run(mut self) {
        while let Some(command) = self.commands.recv().await {
            match command {
                Command::Register {
                    name,
                    current,
                    reply,
                } => {
                    let registered = match name {
                        Some(name) => self.register_named(name, current).await,
                        None => self.register_anonymous().await,
                    };
                    // Whoever asked may have gone.
                    let _ = reply.send(registered);
                }
                Command::Stop { done } => {
                    // The log is let go before anybody hears of it.
                    drop(self);
                    let _ = done.send(());
                    return;
                }
            }
        }
    }

    async fn register_anonymous(&mut self) -> Result<Registered, RegisterError> {
        let id = self.new_id(false).await?;
        Ok(Registered {
            id: id.get(),
            epoch: 0,
        })
    }

    async fn register_named(
        &mut self,
        name: ProducerName,
        current: Option<Registered>,
    ) -> Result<Registered, RegisterError> {
        let before = self.producers.named(&name);
        if let (Some(current), Some(newest)) = (current, before) {
            if newest.former.is_some_and(|former| current.is(former)) {
                // The answer to its last call was lost.
                return Ok(Registered::from(newest));
            }
            if !current.is((newest.id, newest.epoch)) {
                return Err(RegisterError::Fenced(name));
            }
        }
        let mut producer = match before.and_then(|before| self.next_epoch(before)) {
            Some(next) => next,
            None => NamedProducer {
                id: self.new_id(true).await?,
                epoch: 1,
                former: None,
            },
        };
        producer.former = current.map(|current| (ProducerId::from(current.id), current.epoch));
        // First the fence, then the record.
        if let Some(before) = before
            && let Some(fence) = self.known.fence(before.id)
        {
            match before.id == producer.id {
                true => fence.raise(producer.epoch),
                false => fence.close(),
            }
        }
        self.append(Producers::begin(&name, producer)).await?;
        if let Some(before) = before.filter(|before| before.id != producer.id) {
            self.known.fences().remove(&before.id);
        }
        self.known
            .fences()
            .entry(producer.id)
            .or_insert_with(|| Arc::new(ProducerFence::new(producer.epoch)));
        self.forget_names().await;
        Ok(Registered::from(producer))
    }

    /// The same producer in its next epoch; `None` if it needs another id: when there
    /// is no next epoch, or when a partition may have forgotten it and would refuse
    /// it in any epoch.
    fn next_epoch(&self, before: NamedProducer) -> Option<NamedProducer> {
        let epoch = before.epoch.checked_add(1)?;
        let forgotten_below = self.engine.producers_forgotten_below();
        (before.id.get() >= forgotten_below).then_some(NamedProducer { epoch, ..before })
    }

    /// An id that nobody ever had, and that nobody gets again after a restart.
    async fn new_id(&mut self, is_named: bool) -> Result<ProducerId, AppendError> {
        if self.next >= self.producers.reserved_below() {
            self.append(Producers::reserve(self.next + RESERVED_AT_ONCE))
                .await?;
        }
        let number = self.next;
        self.next += 1;
        self.known.given_below.store(self.next, Ordering::Release);
        Ok(ProducerId::new(number, is_named))
    }

    /// Forgets names until there are no more than are remembered.
    async fn forget_names(&mut self) {
        while let Some((name, id)) = self.name_too_many() {
            if let Some(fence) = self.known.fences().remove(&id) {
                fence.close();
            }
            // If that fails, the next one who registers tries again.
            if let Err(error) = self.append(Producers::forget(&name)).await {
                tracing::warn!("a producer's name can't be forgotten yet: {error}");
                return;
            }
        }
    }

    /// If there are too many names, one that goes: of those of whom no batch is on
    /// its way and no stream is open, the one that began the longest ago.
    fn name_too_many(&self) -> Option<(ProducerName, ProducerId)> {
        if self.producers.len() <= self.most_names {
            return None;
        }
        let is_idle = |producer: NamedProducer| {
            let fence = self.known.fence(producer.id);
            // One is in the map, and one is ours.
            fence.is_none_or(|fence| Arc::strong_count(&fence) <= 2)
        };
        let idle = self.producers.names().find(|(_, of)| is_idle(*of));
        let (name, producer) = idle.or_else(|| self.producers.names().next())?;
        Some((name.clone(), producer.id))
    }

    async fn append(&mut self, record: NewRecord) -> Result<(), AppendError> {
        let record = self.log.append(record).await?;
        self.producers
            .apply(&record)
            .expect("we wrote the record, and after the last one");
        Ok(())
    }
}

#[cfg(test)]
mod tests;

/// Applies all records of the log.
async fn catch_up(producers: &mut Producers, log: &InternalLog) -> Result<(), StartError> {
    let (mut next, end) = log.range();
    while next < end {
        let found = log.read(next).await?;
        if found.damaged {
            let lost = found.next.0 - next.0;
            tracing::error!(
                "records of producers are damaged on disk: those with names may have to begin anew"
            );
            producers.skip_lost(lost);
        }
        for record in &found.records {
            producers.apply(record)?;
        }
        next = found.next;
    }
    Ok(())
}
