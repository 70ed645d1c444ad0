//! The member that a consumer is: what the broker's responses do to it, and
//! what it has to say. Pure; the session carries it out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use statecast_proto::v1;
use statecast_proto::v1::consume_request::Request;
use statecast_proto::v1::consume_response::Event;

use super::credit::{Cost, Credit};
use super::event::{AssignedPartition, CommitPosition, RevokeReason, TopicPartition};
use super::inbox::{Arrived, Inbox, Item, Missing};
use super::shares::{SentCommit, ShareId, Shares, Waiter};
use crate::error::Error;

/// Commits that may be on their way. While there are as many, what else is to be
/// committed gathers.
const COMMITS_IN_FLIGHT: usize = 16;
/// The broker takes no more positions in one commit.
const POSITIONS_PER_COMMIT: usize = 10_000;

/// How the member ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goodbye {
    /// It goes for good.
    Leave,
    /// It may come again under its name, and keeps its partitions until then.
    Pause,
}

#[derive(Debug, Clone, Copy)]
enum Stay {
    Stays,
    /// Once all that was processed is committed.
    Goes(Goodbye),
    /// Everything was said that there was to say.
    Gone(Goodbye),
}

/// What somebody who asks for more gets.
#[derive(Debug)]
pub(super) enum Taken {
    Item(Item),
    /// Nothing yet.
    Nothing,
    /// Nothing ever; the error is told once.
    End(Option<Error>),
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) shares: Shares,
    inbox: Inbox,
    credit: Credit,
    /// The oldest first, as they are answered.
    in_flight: VecDeque<(u64, Vec<SentCommit>)>,
    last_commit_id: u64,
    /// Of the stream; `None` while there is none.
    joined: Option<v1::Joined>,
    /// What is processed is to be committed now, and free credit to be given.
    flush: bool,
    /// Nothing was said for long.
    silent: bool,
    stay: Stay,
    /// What was refused since the member goes.
    unfinished: Option<Error>,
    /// Nothing more is handed out.
    stopped: bool,
    ended: Option<Result<(), Error>>,
    /// Who waits for something to be handed out.
    pub(super) reader: Option<Waker>,
    /// Who waits for the member to end.
    pub(super) closers: Vec<Waker>,
}

impl Member {
    pub(super) fn new(capacity: Cost) -> Self {
        Self {
            shares: Shares::default(),
            inbox: Inbox::default(),
            credit: Credit::new(capacity),
            in_flight: VecDeque::new(),
            last_commit_id: 0,
            joined: None,
            flush: false,
            silent: false,
            stay: Stay::Stays,
            unfinished: None,
            stopped: false,
            ended: None,
            reader: None,
            closers: Vec::new(),
        }
    }

    /// A stream begins. What the member takes first.
    pub(super) fn join(&mut self) -> v1::Credit {
        self.credit.begin()
    }

    pub(super) fn joined(&self) -> Option<&v1::Joined> {
        self.joined.as_ref()
    }

    /// Takes what the broker says; an error ends the stream.
    pub(super) fn hear(&mut self, event: Event, now: Instant) -> Result<(), Error> {
        if self.joined.is_none() {
            let Event::Joined(joined) = event else {
                return Err(Error::protocol("a member wasn't told that it joined"));
            };
            self.joined = Some(joined);
            return Ok(());
        }
        match event {
            Event::Joined(_) => return Err(Error::protocol("a member joined twice")),
            Event::Assigned(assigned) => self.assigned(assigned),
            Event::Batches(batches) => {
                for batch in batches.batches {
                    self.batch(batch)?;
                }
            }
            Event::Revoke(revoke) => self.revoke(&revoke, now),
            Event::CommitResult(result) => self.commit_result(result)?,
            Event::Lost(lost) => {
                let reason = RevokeReason::from_wire(lost.reason());
                self.lost(&lost.partitions, reason);
            }
            Event::CaughtUp(_) => self.inbox.caught_up(),
            Event::Truncated(v1::GroupTruncated { topic, truncated }) => {
                let gap = truncated.unwrap_or_default();
                self.missing(&topic, gap.partition, gap.log_start_offset, |topic| {
                    Error::Truncated {
                        topic,
                        partition: gap.partition,
                        from: gap.from_offset,
                        to: gap.log_start_offset,
                    }
                });
            }
            Event::Quarantined(v1::GroupQuarantined { topic, quarantined }) => {
                let gap = quarantined.unwrap_or_default();
                self.missing(&topic, gap.partition, gap.to_offset, |topic| {
                    Error::Quarantined {
                        topic,
                        partition: gap.partition,
                        from: gap.from_offset,
                        to: gap.to_offset,
                    }
                });
            }
            Event::Heartbeat(_) => {}
            // What is refused so crossed with something: a partition that was
            // given back was lost meanwhile.
            Event::Refused(error) => {
                let error = Error::from_batch_error(error);
                tracing::debug!(%error, "request of a group's member refused");
            }
        }
        Ok(())
    }

    fn assigned(&mut self, assigned: v1::Assigned) {
        let mut told = Vec::with_capacity(assigned.partitions.len());
        for wire in assigned.partitions {
            let topic = match self.shares.topic(&wire.topic) {
                Some(topic) => Arc::clone(topic),
                None => wire.topic.as_str().into(),
            };
            let (id, before) = self.shares.assign(&topic, assigned.generation, &wire);
            if let Some(before) = before {
                self.end(&[before], RevokeReason::Rebalance);
            }
            let partition = AssignedPartition {
                topic,
                partition: wire.partition,
                offset: wire.offset,
                committed: wire.committed,
                high_watermark: wire.high_watermark,
            };
            told.push((id, partition));
        }
        self.inbox.assigned(assigned.generation, told);
    }

    fn batch(&mut self, batch: v1::GroupBatch) -> Result<(), Error> {
        let v1::GroupBatch { topic, batch } = batch;
        let wire = batch.ok_or_else(|| Error::protocol("a batch without a batch"))?;
        if wire.next_offset <= wire.base_offset {
            return Err(Error::protocol("a batch ends before it begins"));
        }
        let cost = Cost::of(&wire);
        let share = self.shares.find(&topic, wire.partition);
        let arrived = share.and_then(|share| {
            let offsets = wire.base_offset..wire.next_offset;
            Some((share, self.shares.arrive(share, offsets)?))
        });
        let (Some((share, offsets)), Some(topic)) = (arrived, self.shares.topic(&topic)) else {
            self.credit.withhold(cost);
            return Ok(());
        };
        self.inbox.batch(Arrived {
            share,
            topic: Arc::clone(topic),
            offsets,
            wire,
            cost,
        });
        Ok(())
    }

    fn missing(
        &mut self,
        topic: &str,
        partition: u32,
        to: u64,
        error: impl FnOnce(Arc<str>) -> Error,
    ) {
        let Some(share) = self.shares.find(topic, partition) else {
            return;
        };
        if self.shares.arrive(share, 0..to).is_some() {
            let topic = self
                .shares
                .topic(topic)
                .map_or_else(|| topic.into(), Arc::clone);
            let error = error(topic);
            self.inbox.missing(Missing { share, to, error });
        }
    }

    fn revoke(&mut self, revoke: &v1::Revoke, now: Instant) {
        let shares = self.found(&revoke.partitions);
        for (share, _) in &shares {
            self.shares.revoke(*share);
        }
        let deadline = now + Duration::from_millis(revoke.deadline_ms.into());
        let reason = RevokeReason::from_wire(revoke.reason());
        let dropped = self.inbox.revoked(&shares, deadline, reason);
        self.credit.withhold(dropped);
    }

    fn lost(&mut self, partitions: &[v1::TopicPartition], reason: RevokeReason) {
        let shares: Vec<ShareId> = self.found(partitions).into_iter().map(|s| s.0).collect();
        self.end(&shares, reason);
    }

    /// Shares are gone.
    fn end(&mut self, shares: &[ShareId], reason: RevokeReason) {
        let ended: Vec<_> = shares
            .iter()
            .filter_map(|&share| Some((share, self.shares.lose(share)?)))
            .collect();
        let dropped = self.inbox.lost(&ended, reason);
        self.credit.withhold(dropped);
    }

    /// Those of the partitions that the member has.
    fn found(&self, partitions: &[v1::TopicPartition]) -> Vec<(ShareId, TopicPartition)> {
        let found = partitions.iter().filter_map(|wire| {
            let share = self.shares.find(&wire.topic, wire.partition)?;
            Some((share, self.shares.place(share)?))
        });
        found.collect()
    }

    fn commit_result(&mut self, result: v1::CommitResult) -> Result<(), Error> {
        let Some((id, commits)) = self.in_flight.pop_front() else {
            return Err(Error::protocol("an answer without a commit"));
        };
        if id != result.commit_id {
            return Err(Error::protocol("commits are answered in another order"));
        }
        let mut refused = result.refused;
        for commit in commits {
            let place = &commit.place;
            let at = refused
                .iter()
                .position(|r| r.partition == place.partition && *r.topic == *place.topic);
            let outcome = match at.map(|at| refused.swap_remove(at)) {
                None => Ok(()),
                Some(refused) => Err(Error::from_batch_error(refused.error.unwrap_or_default())),
            };
            self.answered(commit, &outcome);
        }
        Ok(())
    }

    fn answered(&mut self, commit: SentCommit, outcome: &Result<(), Error>) {
        match outcome {
            Ok(()) => self.shares.committed(commit.share, commit.offset),
            Err(error) => {
                // Whoever goes doesn't wait for a better time.
                let goes = self.is_leaving();
                let again = error.is_retryable() && !goes;
                self.shares.refused(commit.share, again);
                if goes {
                    self.unfinished.get_or_insert_with(|| error.clone());
                }
                if commit.waiters.is_empty() {
                    tracing::debug!(%error, "commit refused");
                    let place = commit.place.clone();
                    self.inbox.refused(place, commit.offset, error.clone());
                }
            }
        }
        for waiter in commit.waiters {
            // Whoever waited may have gone.
            let _ = waiter.send(outcome.clone());
        }
    }

    /// The stream is gone, and with it everything that the member had.
    pub(super) fn disconnected(&mut self, error: &Error) {
        self.joined = None;
        if let Stay::Gone(goodbye) = self.stay {
            self.stay = Stay::Goes(goodbye);
        }
        self.silent = false;
        for commit in std::mem::take(&mut self.in_flight)
            .into_iter()
            .flat_map(|c| c.1)
        {
            for waiter in commit.waiters {
                let _ = waiter.send(Err(error.clone()));
            }
        }
        let ids = self.shares.ids();
        let gone: Vec<_> = ids
            .into_iter()
            .filter_map(|share| Some((share, self.shares.place(share)?)))
            .collect();
        self.shares.clear(error);
        // The next stream gives the member what it takes anew.
        let _ = self.inbox.lost(&gone, RevokeReason::Disconnected);
    }

    /// The member is gone for good.
    pub(super) fn end_with(&mut self, outcome: Result<(), Error>) {
        if self.ended.is_some() {
            return;
        }
        self.disconnected(outcome.as_ref().err().unwrap_or(&Error::Closed));
        let outcome = outcome.and(self.unfinished.take().map_or(Ok(()), Err));
        self.ended = Some(outcome);
    }

    pub(super) fn has_ended(&self) -> Option<&Result<(), Error>> {
        self.ended.as_ref()
    }

    /// Somebody asks for more.
    pub(super) fn take(&mut self) -> Taken {
        self.credit.ask();
        if self.stopped {
            return Taken::End(None);
        }
        if let Some(item) = self.inbox.pop() {
            if let Item::Batch(batch) = &item {
                self.credit.take(batch.cost);
            }
            return Taken::Item(item);
        }
        match &mut self.ended {
            None => Taken::Nothing,
            Some(outcome) => {
                self.stopped = true;
                Taken::End(std::mem::replace(outcome, Ok(())).err())
            }
        }
    }

    /// What lies before `to` is handed out. False when it isn't to be.
    pub(super) fn hand(&mut self, share: ShareId, to: u64) -> bool {
        !self.stopped && self.shares.hand(share, to)
    }

    /// The user is done with a batch.
    pub(super) fn finish(&mut self, cost: Cost) {
        self.credit.finish(cost);
    }

    /// Nothing more is handed out.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }

    /// Everything before a position was processed, and somebody waits until
    /// that is committed.
    pub(super) fn commit(
        &mut self,
        position: &CommitPosition,
        waiter: Waiter,
    ) -> Result<(), Error> {
        if self.ended.is_some() {
            return Err(Error::Closed);
        }
        let Some((share, waiter)) = self.shares.want(position, waiter)? else {
            return Ok(());
        };
        let mut commits = self.in_flight.iter_mut().flat_map(|commit| &mut commit.1);
        let commit = commits.find(|c| c.share == share && c.offset >= position.offset);
        commit.expect("it is on its way").waiters.push(waiter);
        Ok(())
    }

    /// A commit interval is over.
    pub(super) fn flush(&mut self) {
        self.flush = true;
    }

    /// Something has to be said, lest the member be taken for gone.
    pub(super) fn break_silence(&mut self) {
        self.silent = true;
    }

    /// Commits what was processed, and goes.
    pub(super) fn say_goodbye(&mut self, goodbye: Goodbye) {
        self.stopped = true;
        self.flush = true;
        if let Stay::Stays = self.stay {
            self.stay = Stay::Goes(goodbye);
        }
    }

    pub(super) fn is_leaving(&self) -> bool {
        !matches!(self.stay, Stay::Stays)
    }

    /// Whether everything was said that there was to say.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.stay, Stay::Gone(_))
    }

    /// What the end of the stream means.
    pub(super) fn farewell(&self) -> Result<(), Error> {
        match self.is_done() {
            true => Ok(()),
            false => Err(Error::Connection("the broker ended the stream".into())),
        }
    }

    /// Whether there is something to say now.
    pub(super) fn has_request(&mut self) -> bool {
        let has = self.next_kind().is_some();
        // A flush is over once there is nothing left to be said.
        self.flush &= has || self.is_leaving();
        has
    }

    fn next_kind(&self) -> Option<Kind> {
        if self.joined.is_none() || self.is_done() {
            return None;
        }
        let flushes = self.flush && self.shares.has_dirty();
        if (flushes || self.shares.has_urgent()) && self.in_flight.len() < COMMITS_IN_FLIGHT {
            return Some(Kind::Commit);
        }
        if self.shares.can_return() {
            return Some(Kind::Revoked);
        }
        let settled = self.in_flight.is_empty() && !self.shares.has_dirty();
        if let Stay::Goes(goodbye) = self.stay
            && settled
        {
            return Some(Kind::Goodbye(goodbye));
        }
        // Whoever hands out no more takes no more.
        if !self.stopped && self.credit.is_due(self.flush || !self.inbox.has_batches()) {
            return Some(Kind::Credit);
        }
        self.silent.then_some(Kind::Heartbeat)
    }

    /// What is to be said next; `None` when that is nothing, or to end the
    /// stream once the member [`is_done`](Self::is_done).
    pub(super) fn next_request(&mut self) -> Option<Request> {
        let kind = self.next_kind()?;
        self.silent = false;
        match kind {
            Kind::Commit => Some(Request::Commit(self.cut_commit())),
            Kind::Revoked => {
                let partitions = self.shares.give_back().iter().map(wire_place).collect();
                Some(Request::Revoked(v1::Revoked { partitions }))
            }
            Kind::Credit => Some(Request::Credit(self.credit.give())),
            Kind::Goodbye(goodbye) => {
                self.stay = Stay::Gone(goodbye);
                (goodbye == Goodbye::Leave).then_some(Request::Leave(v1::Leave {}))
            }
            Kind::Heartbeat => Some(Request::Heartbeat(v1::MemberHeartbeat {})),
        }
    }

    fn cut_commit(&mut self) -> v1::Commit {
        let commits = self.shares.commit(self.flush, POSITIONS_PER_COMMIT);
        self.last_commit_id += 1;
        let position = |commit: &SentCommit| v1::CommitPosition {
            topic: commit.place.topic.to_string(),
            partition: commit.place.partition,
            offset: commit.offset,
            generation: Some(commit.generation),
        };
        let positions = commits.iter().map(position).collect();
        self.in_flight.push_back((self.last_commit_id, commits));
        v1::Commit {
            commit_id: self.last_commit_id,
            positions,
        }
    }
}

enum Kind {
    Commit,
    Revoked,
    Goodbye(Goodbye),
    Credit,
    Heartbeat,
}

fn wire_place(place: &TopicPartition) -> v1::TopicPartition {
    v1::TopicPartition {
        topic: place.topic.to_string(),
        partition: place.partition,
    }
}
