//! What a group's task does about each message.

use std::collections::{BTreeSet, HashSet};

use super::log::LogError;
use super::message::{
    Assignment, Commit, CommitAnswer, CommitError, CommitPosition, EndReason, Identity,
    MemberEvent, Message, Reply,
};
use super::offsets::{Committed, Full, Submitted};
use super::outboxes::{Line, Outbox};
use super::record::{StoredOffset, offset_tombstone};
use super::rounds::{CommitInFlight, Then};
use super::task::{GroupTask, Phase};
use super::view::{GroupDescription, GroupSummary, MemberDescription, PartitionDescription};
use super::{GroupError, JoinError};
use crate::group::{Effect, Event, JoinRequest, MemberId, TopicPartition};
use crate::model::{Offset, PartitionId, TopicId};

impl GroupTask {
    pub(super) fn hear(&mut self, message: Message) {
        match message {
            Message::Join {
                member,
                request,
                identity,
                outbox,
                reply,
            } => {
                let outbox = Outbox {
                    line: Line::new(outbox),
                    identity,
                    is_named: request.name.is_some(),
                    joined_ms: self.shared.clock.now_ms(),
                };
                // When nobody waits any more, the outbox is closed as well.
                let _ = reply.send(self.join(member, request, outbox));
            }
            Message::Heartbeat(member) => self.apply(Event::Heartbeat(member)),
            Message::Commit(member, commit) => self.commit(member, commit),
            Message::Begin {
                member,
                generation,
                starts,
                reply,
            } => self.begin(member, generation, starts, reply),
            Message::Revoked(member, partitions) => {
                self.apply(Event::Revoked { member, partitions });
            }
            Message::Stalled(member) => self.apply(Event::Stalled(member)),
            Message::Resumed(member) => self.apply(Event::Resumed(member)),
            Message::Leave(member) => {
                self.outboxes.remove(member);
                self.apply(Event::Leave(member));
            }
            Message::Disconnected(member) => {
                self.outboxes.set_away(member);
                self.apply(Event::Disconnected(member));
            }
            // Whoever asked may have gone.
            Message::Summarize(reply) => drop(reply.send(self.summary())),
            Message::Describe(reply) => drop(reply.send(self.describe())),
            Message::Delete(reply) if !self.group.is_empty() => {
                let _ = reply.send(Err(GroupError::Active(self.name.clone())));
            }
            Message::Delete(reply) => self.delete(Some(reply)),
            Message::Forget { topic, reply } => self.forget(topic, reply),
            Message::Reset { force, reply, .. } if !force && !self.group.is_empty() => {
                let _ = reply.send(Err(GroupError::Active(self.name.clone())));
            }
            Message::Reset {
                positions, reply, ..
            } => self.reset(positions, reply),
        }
    }

    /// Lets a member in, unless the group doesn't want it.
    fn join(
        &mut self,
        member: MemberId,
        request: JoinRequest,
        outbox: Outbox,
    ) -> Result<PartitionId, JoinError> {
        if outbox.is_named && self.outboxes.has_away() {
            let members: HashSet<MemberId> = self.group.members().map(|view| view.id).collect();
            self.outboxes.sweep(|member| members.contains(&member));
        }
        let now_ms = self.shared.ticker.now_ms();
        let effects = self.group.handle(Event::Join { member, request }, now_ms);
        let refused = effects.iter().find_map(|effect| match effect {
            Effect::Expel {
                member: who,
                reason,
            } if *who == member => Some(*reason),
            _ => None,
        });
        if refused.is_none() {
            self.outboxes.add(member, outbox);
            let was_empty = self.absence.since_ms().is_some();
            self.absence.end();
            if was_empty && self.record.exists {
                // There may be nothing for it to get, and so no generation that says
                // it: a crash, even much later, must not find the group abandoned.
                self.write_group();
            }
        }
        self.perform(effects);
        match refused {
            Some(reason) => Err(JoinError::Refused(reason)),
            None => Ok(self.record.next_partition),
        }
    }

    /// Takes what is good of a commit; its answer waits until that is durable.
    fn commit(&mut self, member: MemberId, commit: Commit) {
        self.apply(Event::Heartbeat(member));
        let Some(outbox) = self.outboxes.get(member) else {
            return;
        };
        let line = outbox.line.clone();
        let mut submitted = Vec::with_capacity(commit.positions.len());
        let mut refused = Vec::new();
        for position in commit.positions {
            match self.submit(member, position) {
                Ok(offset) => submitted.push((position.place, offset)),
                Err(error) => refused.push((position.place, error)),
            }
        }
        self.rounds.then(Then::Commit(CommitInFlight {
            member,
            line,
            id: commit.id,
            submitted,
            refused,
            room: commit.room,
        }));
    }

    fn submit(
        &mut self,
        member: MemberId,
        position: CommitPosition,
    ) -> Result<Submitted, CommitError> {
        let CommitPosition {
            partition,
            offset,
            generation,
            ..
        } = position;
        let now_ms = self.shared.ticker.now_ms();
        self.group
            .check_commit(member, partition, generation, now_ms)?;
        self.write_offset(partition, offset)
            .map_err(|Full| CommitError::TooManyOffsets)
    }

    fn write_offset(
        &mut self,
        partition: TopicPartition,
        offset: Offset,
    ) -> Result<Submitted, Full> {
        let submitted = self.submit_offset(partition, offset)?;
        self.write_submitted(&submitted);
        Ok(submitted)
    }

    /// Takes room for an offset that is to be written.
    pub(super) fn submit_offset(
        &mut self,
        partition: TopicPartition,
        offset: Offset,
    ) -> Result<Submitted, Full> {
        let committed = Committed {
            offset,
            at_ms: self.shared.clock.now_ms(),
        };
        // One that was just created may not be, when its offsets are reset.
        let topic_is_known = self.known.contains(partition.topic);
        self.offsets.submit(partition, committed, topic_is_known)
    }

    pub(super) fn write_submitted(&mut self, submitted: &Submitted) {
        let stored = StoredOffset {
            offset: submitted.committed.offset.0,
            committed_ms: submitted.committed.at_ms,
            group_created_ms: self.record.created_ms,
        };
        let record = stored.record(&self.name, submitted.partition);
        self.rounds.write(record);
    }

    pub(super) fn settle_commit(&mut self, commit: CommitInFlight, outcome: &Result<(), LogError>) {
        let mut refused = commit.refused;
        for (place, submitted) in &commit.submitted {
            self.settle_offset(submitted, outcome);
            if let Err(error) = outcome {
                refused.push((*place, CommitError::Log(error.clone())));
            }
        }
        if outcome.is_ok() {
            self.shared
                .counters
                .committed(commit.submitted.len() as u64);
        }
        let answer = CommitAnswer {
            id: commit.id,
            refused,
            room: commit.room,
        };
        self.outboxes.answer(commit.member, &commit.line, answer);
    }

    pub(super) fn settle_offset(&mut self, submitted: &Submitted, outcome: &Result<(), LogError>) {
        // Its topic may have been deleted meanwhile, and with it all offsets but those
        // that were on their way.
        let is_gone = submitted.topic_was_known && !self.known.contains(submitted.partition.topic);
        self.offsets.settle(submitted, outcome.is_ok() && !is_gone);
        if is_gone {
            let gone = offset_tombstone(self.name.as_str(), submitted.partition);
            self.rounds.write(gone);
        }
    }

    /// The group is to go on somewhere else, in all of these partitions or in none.
    fn reset(&mut self, positions: Vec<(TopicPartition, Offset)>, reply: Reply<()>) {
        let mut submitted = Vec::with_capacity(positions.len());
        for (partition, offset) in positions {
            match self.submit_offset(partition, offset) {
                Ok(offset) => submitted.push(offset),
                Err(Full) => {
                    // Nothing was written: the room that was taken is free again.
                    for submitted in &submitted {
                        self.offsets.settle(submitted, false);
                    }
                    let _ = reply.send(Err(GroupError::TooManyOffsets));
                    return;
                }
            }
        }
        for submitted in &submitted {
            self.write_submitted(submitted);
        }
        if !self.record.exists {
            // Offsets count only with it.
            self.write_group();
        }
        self.phase = Phase::Resetting;
        self.rounds.then(Then::Reset { submitted, reply });
        self.rounds.send_all();
    }

    /// For members it is as if they lost these partitions and got them anew: once it
    /// is sure that the group goes on somewhere else.
    pub(super) fn settle_reset(
        &mut self,
        submitted: &[Submitted],
        reply: Reply<()>,
        outcome: &Result<(), LogError>,
    ) {
        self.phase = Phase::Living;
        for submitted in submitted {
            self.settle_offset(submitted, outcome);
        }
        if outcome.is_ok() {
            if self.group.is_empty() {
                // What was chosen by hand isn't to expire soon.
                self.absence.end();
            }
            let partitions = submitted.iter().map(|submitted| submitted.partition);
            self.apply(Event::Reset(partitions.collect()));
        }
        let _ = reply.send(outcome.clone().map_err(GroupError::from));
    }

    /// Forgets what was committed for a topic, and what is about to be, unless a member
    /// reads it. It counts until the record that says so is durable; what somebody
    /// commits from now on comes behind that.
    fn forget(&mut self, topic: TopicId, reply: Reply<()>) {
        let mut read = self.group.partitions();
        if read.any(|(partition, _)| partition.topic == topic) {
            let _ = reply.send(Err(GroupError::Read(self.name.clone())));
            return;
        }
        let in_flight = self.rounds.submitted().map(|submitted| submitted.partition);
        let partitions: BTreeSet<TopicPartition> = self
            .offsets
            .partitions()
            .chain(in_flight)
            .filter(|partition| partition.topic == topic)
            .collect();
        for partition in &partitions {
            let gone = offset_tombstone(self.name.as_str(), *partition);
            self.rounds.write(gone);
        }
        self.rounds.then(Then::Forgotten { partitions, reply });
    }

    pub(super) fn tell_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Generation(_) => {}
            Effect::Expel { member, reason } => {
                self.outboxes
                    .tell(member, MemberEvent::Ended(EndReason::Expelled(reason)));
                self.outboxes.remove(member);
            }
            Effect::Lost {
                member,
                generation,
                partitions,
                reason,
            } => {
                let event = MemberEvent::Lost {
                    generation,
                    partitions,
                    reason,
                };
                self.outboxes.tell(member, event);
            }
            Effect::Revoke {
                member,
                generation,
                partitions,
                deadline_ms,
                reason,
            } => {
                let event = MemberEvent::Revoke {
                    generation,
                    partitions,
                    deadline: self.shared.ticker.at(deadline_ms),
                    reason,
                };
                self.outboxes.tell(member, event);
            }
            Effect::Assign {
                member,
                generation,
                partitions,
            } => {
                let assignment = |partition| Assignment {
                    partition,
                    committed: self
                        .offsets
                        .get(partition)
                        .map(|committed| committed.offset),
                };
                let event = MemberEvent::Assigned {
                    generation,
                    partitions: partitions.into_iter().map(assignment).collect(),
                };
                self.outboxes.tell(member, event);
            }
        }
    }

    fn summary(&self) -> GroupSummary {
        GroupSummary {
            name: self.name.clone(),
            state: self.group.state(),
            members: self.group.members().count(),
            generation: self.group.generation(),
        }
    }

    fn describe(&self) -> GroupDescription {
        let members = self.group.members().map(|view| {
            let outbox = self.outboxes.get(view.id);
            let identity = outbox.map(|outbox| outbox.identity.clone());
            let Identity { client, address } = identity.unwrap_or_default();
            MemberDescription {
                id: view.id,
                name: view
                    .name
                    .map(|name| name.as_str().to_owned())
                    .unwrap_or_default(),
                client,
                address,
                topics: view.subscription.names().map(str::to_owned).collect(),
                joined_ms: self.outboxes.joined_ms(view.id),
                stalled: view.stalled,
            }
        });
        let read = self.group.partitions().map(|(partition, _)| partition);
        let read: BTreeSet<TopicPartition> = read.collect();
        let committed = self.offsets.partitions();
        let all: BTreeSet<TopicPartition> = read.iter().copied().chain(committed).collect();
        let partitions = all.into_iter().map(|partition| PartitionDescription {
            partition,
            member: self.group.owner(partition).map(|owner| owner.member),
            committed: self.offsets.get(partition),
            left_behind: !self.group.is_empty() && !read.contains(&partition),
        });
        GroupDescription {
            summary: self.summary(),
            members: members.collect(),
            partitions: partitions.collect(),
            next_partition: self.record.next_partition,
        }
    }
}
