//! The one task of a group. It owns everything about it: who has what, how far the
//! group has come, and how its members are told.
//!
//! Invariants:
//! - It waits for nothing but the next thing to happen: not for a member, and for the
//!   log only when it is deleted or reset. So a full disk, or a member that doesn't
//!   read, hold up nobody else.
//! - What an event brings about is told in the order of the events, and not before
//!   the generation in which it happened is durable.
//! - Commits are answered in the order in which they came, each once it is durable.
//! - Everything that the group writes goes through `rounds`, in the order in which
//!   it was decided.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::GroupError;
use super::absence::{Absence, Verdict};
use super::counters::Counters;
use super::fold::LoadedGroup;
use super::log::{LogError, LogWriter};
use super::message::{EndReason, MemberEvent, Message, Reply};
use super::offsets::{Offsets, OffsetsRoom};
use super::outboxes::Outboxes;
use super::record::{StoredGroup, group_tombstone, offset_tombstone};
use super::registry::Registry;
use super::rounds::{Rounds, Then};
use super::ticker::Ticker;
use super::topics::KnownTopics;
use crate::clock::Clock;
use crate::group::{Effect, Event, Generation, Group, GroupName, TopicPartition};
use crate::limits;
use crate::model::PartitionId;

/// What all groups share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) writer: LogWriter,
    pub(super) clock: Clock,
    pub(super) ticker: Ticker,
    pub(super) counters: Arc<Counters>,
    pub(super) room: OffsetsRoom,
    /// The topics that there are.
    pub(super) topics: watch::Receiver<KnownTopics>,
    /// Cancelled when groups are to end, as they are.
    pub(super) stopping: CancellationToken,
}

/// A group, as its task has it.
#[derive(Debug)]
pub(super) struct GroupTask {
    pub(super) name: GroupName,
    pub(super) group: Group,
    pub(super) offsets: Offsets,
    pub(super) outboxes: Outboxes,
    pub(super) rounds: Rounds,
    pub(super) record: Record,
    pub(super) absence: Absence,
    pub(super) shared: Shared,
    mailbox: mpsc::Receiver<Message>,
    /// Messages that have arrived and were not heard yet.
    waiting: VecDeque<Message>,
    /// What there is to tell, each with the generation that has to be durable.
    untold: VecDeque<(Generation, Vec<Effect>)>,
    /// The topics that the group was told of last.
    pub(super) known: KnownTopics,
    pub(super) phase: Phase,
}

/// How the group stands in the log.
#[derive(Debug)]
pub(super) struct Record {
    /// Tells it from others of its name: milliseconds since the Unix epoch.
    pub(super) created_ms: i64,
    /// When the group began, no partition had this id or a higher one.
    pub(super) next_partition: PartitionId,
    /// Whether there may be a record.
    pub(super) exists: bool,
    durable_generation: Generation,
    /// When to write it again, since that failed.
    rewrite_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Living,
    /// A reset is on its way into the log. Nothing else happens meanwhile: what is
    /// committed would count although it belongs to before.
    Resetting,
    /// Its deletion is on its way into the log. Nothing else happens meanwhile.
    Deleting,
    Gone,
}

impl GroupTask {
    /// A group that was there when the broker started, or that is created now.
    pub(super) fn new(
        loaded: LoadedGroup,
        is_recorded: bool,
        mailbox: mpsc::Receiver<Message>,
        shared: Shared,
    ) -> GroupTask {
        let LoadedGroup {
            name,
            stored,
            offsets,
        } = loaded;
        let mut topics = shared.topics.clone();
        let known = topics.borrow_and_update().clone();
        let mut group = Group::new(stored.generation());
        let not_before = shared.ticker.started() + limits::OFFSETS_GRACE;
        let nobody_is_there = Event::Topics(known.list().clone());
        group.handle(nobody_is_there, shared.ticker.now_ms());
        group.expect(usize::try_from(stored.members).expect("usize has 32 bits or more"));
        GroupTask {
            name,
            group,
            offsets: Offsets::new(offsets, shared.room.clone()),
            outboxes: Outboxes::new(shared.counters.clone()),
            rounds: Rounds::new(shared.writer.clone()),
            record: Record {
                created_ms: stored.created_ms,
                next_partition: PartitionId(stored.next_partition.unwrap_or(u32::MAX)),
                exists: is_recorded,
                durable_generation: stored.generation(),
                rewrite_at: None,
            },
            absence: Absence::since(stored.empty_since_ms, not_before),
            shared: Shared { topics, ..shared },
            mailbox,
            waiting: VecDeque::new(),
            untold: VecDeque::new(),
            known,
            phase: Phase::Living,
        }
    }

    /// Runs the group until it is deleted, or groups are to end; takes it out of
    /// the registry, where it has this id.
    pub(super) async fn run(mut self, registry: Weak<Registry>, id: u64) {
        let mut arrived = Vec::new();
        // A group that was there before may have something to do at once. One that
        // is created now is about to hear of its first member.
        if self.record.exists {
            self.finish_round();
        }
        while self.phase != Phase::Gone {
            let living = self.phase == Phase::Living;
            let woken = sleep_until_some(self.wake_at());
            tokio::select! {
                biased;
                () = self.shared.stopping.cancelled() => break,
                (then, outcome) = self.rounds.settled() => self.settle(then, &outcome),
                () = topics_changed(&mut self.shared.topics), if living => self.change_topics(),
                count = self.mailbox.recv_many(&mut arrived, limits::GROUP_MESSAGES_AT_ONCE),
                        if living => {
                    if count == 0 {
                        break;
                    }
                    self.waiting.extend(arrived.drain(..));
                }
                () = woken, if living => self.apply(Event::Tick),
            }
            while self.phase == Phase::Living
                && let Some(message) = self.waiting.pop_front()
            {
                self.hear(message);
            }
            self.finish_round();
        }
        self.rounds.send_all();
        if let Some(registry) = registry.upgrade() {
            registry.remove(&self.name, id);
        }
        // Messages that came too late are dropped with the mailbox: whoever waits
        // for an answer looks again, and finds another group or none.
    }

    /// Something happened: does what the group says is to be done.
    pub(super) fn apply(&mut self, event: Event) {
        let effects = self.group.handle(event, self.shared.ticker.now_ms());
        self.perform(effects);
    }

    pub(super) fn perform(&mut self, effects: Vec<Effect>) {
        if effects.is_empty() {
            return;
        }
        if let Some(Effect::Generation(_)) = effects.first() {
            self.shared.counters.rebalanced();
            self.write_group();
        }
        self.untold.push_back((self.group.generation(), effects));
        self.tell();
    }

    /// Tells what is durable.
    fn tell(&mut self) {
        while let Some((generation, _)) = self.untold.front()
            && *generation <= self.record.durable_generation
        {
            let (_, effects) = self.untold.pop_front().expect("it was just looked at");
            for effect in effects {
                self.tell_effect(effect);
            }
        }
    }

    /// The record of the group goes into the log, as the group is now.
    pub(super) fn write_group(&mut self) {
        let generation = self.group.generation();
        let stored = StoredGroup {
            created_ms: self.record.created_ms,
            generation: generation.0,
            empty_since_ms: self.absence.since_ms(),
            members: u32::try_from(self.group.members().count()).expect("they are bounded"),
            next_partition: Some(self.record.next_partition.0),
        };
        self.rounds.write(stored.record(&self.name));
        self.rounds.then(Then::Generation(generation));
        self.record.exists = true;
        self.record.rewrite_at = None;
    }

    fn settle(&mut self, then: Vec<Then>, outcome: &Result<(), LogError>) {
        for then in then {
            match then {
                Then::Commit(commit) => self.settle_commit(commit, outcome),
                Then::Generation(generation) => self.settle_generation(generation, outcome),
                Then::Begin(begin) => self.settle_begin(begin, outcome),
                Then::Reset { submitted, reply } => self.settle_reset(&submitted, reply, outcome),
                Then::Forgotten { partitions, reply } => {
                    if outcome.is_ok() {
                        self.offsets
                            .forget(|partition| partitions.contains(&partition));
                        self.absence.look_again();
                    }
                    let _ = reply.send(outcome.clone().map_err(GroupError::from));
                }
                Then::Deleted(reply) => self.settle_deletion(reply, outcome),
            }
        }
    }

    fn settle_generation(&mut self, generation: Generation, outcome: &Result<(), LogError>) {
        match outcome {
            Ok(()) => {
                let durable = &mut self.record.durable_generation;
                *durable = generation.max(*durable);
                self.tell();
            }
            Err(LogError::DiskFull) => {
                self.record.rewrite_at = Some(Instant::now() + limits::RETRY_AFTER);
            }
            Err(error @ LogError::ReadOnly(_)) => self.give_up(error),
            Err(LogError::Stopping) => {}
        }
    }

    /// Nothing can change hands any more until the broker is restarted: whoever is
    /// here has to know.
    fn give_up(&mut self, error: &LogError) {
        self.untold.clear();
        for member in self.outboxes.members() {
            let ended = MemberEvent::Ended(EndReason::Log(error.clone()));
            self.outboxes.tell(member, ended);
            self.outboxes.remove(member);
            // What it brings about can't be told either.
            let now_ms = self.shared.ticker.now_ms();
            self.group.handle(Event::Leave(member), now_ms);
        }
    }

    /// What is to be done when everything that has arrived was heard.
    fn finish_round(&mut self) {
        while let Some(fallen) = self.outboxes.take_fallen() {
            self.apply(fallen);
        }
        if self.phase == Phase::Living {
            let now = Instant::now();
            if self.record.rewrite_at.is_some_and(|at| at <= now) {
                self.write_group();
            }
            if self.group.is_empty() {
                self.look_after_empty();
            } else {
                self.absence.end();
            }
        }
        self.rounds.send();
    }

    fn look_after_empty(&mut self) {
        let has_offsets = !self.offsets.is_empty();
        let now_ms = self.shared.clock.now_ms();
        match self.absence.look(has_offsets, now_ms) {
            Verdict::Keep => {}
            Verdict::Record => self.write_group(),
            Verdict::Delete => self.delete(None),
        }
    }

    /// The group goes once the record that says so is durable.
    pub(super) fn delete(&mut self, reply: Option<Reply<()>>) {
        self.phase = Phase::Deleting;
        if self.record.exists {
            self.rounds.write(group_tombstone(&self.name));
        }
        self.rounds.then(Then::Deleted(reply));
        self.rounds.send_all();
    }

    fn settle_deletion(&mut self, reply: Option<Reply<()>>, outcome: &Result<(), LogError>) {
        match outcome {
            Ok(()) => {
                self.phase = Phase::Gone;
                // Those of the next group of this name come behind in the log.
                for partition in self.offsets.forget(|_| true) {
                    let gone = offset_tombstone(self.name.as_str(), partition);
                    self.rounds.write(gone);
                }
            }
            Err(_) => {
                self.phase = Phase::Living;
                self.absence.try_later();
            }
        }
        if let Some(reply) = reply {
            let _ = reply.send(outcome.clone().map_err(GroupError::from));
        }
    }

    fn change_topics(&mut self) {
        let known = self.shared.topics.borrow_and_update().clone();
        // Only those that were there: others may be ones whose record is damaged.
        let before = &self.known;
        let is_gone = |partition: TopicPartition| {
            before.contains(partition.topic) && !known.contains(partition.topic)
        };
        for partition in self.offsets.forget(is_gone) {
            let gone = offset_tombstone(self.name.as_str(), partition);
            self.rounds.write(gone);
        }
        let list = known.list().clone();
        self.known = known;
        self.apply(Event::Topics(list));
    }

    /// When something is to be done although nothing arrives.
    fn wake_at(&self) -> Option<Instant> {
        let ticker = self.shared.ticker;
        let deadline = self.group.next_deadline().map(|ms| ticker.at(ms));
        let (rewrite, look) = (self.record.rewrite_at, self.absence.look_at());
        [deadline, rewrite, look].into_iter().flatten().min()
    }
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn topics_changed(topics: &mut watch::Receiver<KnownTopics>) {
    if topics.changed().await.is_err() {
        // Nobody watches them any more: the broker is stopping.
        std::future::pending::<()>().await;
    }
}
