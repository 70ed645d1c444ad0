//! What the broker's responses do to the member.

use std::sync::Arc;
use std::time::{Duration, Instant};

use statecast_proto::v1;
use statecast_proto::v1::consume_response::Event;

use super::Member;
use crate::consumer::credit::Cost;
use crate::consumer::event::{AssignedPartition, RevokeReason, TopicPartition};
use crate::consumer::inbox::{Arrived, Missing};
use crate::consumer::shares::{SentCommit, ShareId};
use crate::error::Error;

impl Member {
    /// Takes what the broker says; an error ends the stream.
    pub(in crate::consumer) fn hear(&mut self, event: Event, now: Instant) -> Result<(), Error> {
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
            if let Some(place) = self.shares.place(id) {
                // The answer to its commit was lost.
                self.unsettled.settle(&place, wire.offset);
            }
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
        let reason = RevokeReason::from_wire(revoke.reason());
        for (share, _) in &shares {
            self.shares.revoke(*share, revoke.generation, reason);
        }
        let deadline = now + Duration::from_millis(revoke.deadline_ms.into());
        self.look_for_stuck(reason);
        let dropped = self.inbox.revoked(&shares, deadline, reason);
        self.credit.withhold(dropped);
    }

    fn lost(&mut self, partitions: &[v1::TopicPartition], reason: RevokeReason) {
        self.look_for_stuck(reason);
        let shares: Vec<ShareId> = self.found(partitions).into_iter().map(|s| s.0).collect();
        self.end(&shares, reason);
    }

    fn look_for_stuck(&mut self, reason: RevokeReason) {
        if reason == RevokeReason::MaxProcessingTime {
            self.credit.is_stuck();
        }
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
}
