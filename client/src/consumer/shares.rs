//! The partitions that the member has, and how far each of them is. Pure.
//!
//! Of each share holds
//!
//! - `start <= processed <= handed <= next`: nothing counts as processed that
//!   wasn't handed out, and nothing is handed out that didn't arrive;
//! - `committed <= sent <= processed`: what is committed was processed;
//! - what was handed out and isn't processed is in flight. A share that is to be
//!   given back goes once nothing of it is, and all that was processed is
//!   committed. When the broker takes the user for stuck, what is in flight is
//!   waited for only until the user waits for more itself; and it isn't when the user
//!   says that it is done with it.
//!
//! A partition that comes back is another share: what was begun in the one
//! before has no effect on it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use statecast_proto::reason::Reason;
use statecast_proto::v1;
use tokio::sync::oneshot;

use super::event::{CommitPosition, RevokeReason, TopicPartition};
use super::share::Share;
use crate::error::Error;

/// Who waits for a commit.
pub(super) type Waiter = oneshot::Sender<Result<(), Error>>;

/// A partition from when it was assigned until it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ShareId(u64);

/// A commit of one share, on its way.
#[derive(Debug)]
pub(super) struct SentCommit {
    pub(super) share: ShareId,
    pub(super) place: TopicPartition,
    pub(super) generation: u64,
    pub(super) offset: u64,
    pub(super) waiters: Vec<Waiter>,
}

#[derive(Debug, Default)]
pub(super) struct Shares {
    all: BTreeMap<ShareId, Share>,
    by_topic: HashMap<Arc<str>, BTreeMap<u32, ShareId>>,
    last_id: u64,
    /// Those with something to commit.
    dirty: BTreeSet<ShareId>,
    /// Those of them for which somebody waits.
    urgent: BTreeSet<ShareId>,
    /// Those that are to be given back.
    revoked: BTreeSet<ShareId>,
    /// Those of them of which too much was in flight for too long.
    stuck: BTreeSet<ShareId>,
}

impl Shares {
    /// The member has a partition. Returns the share that it replaces, too.
    pub(super) fn assign(
        &mut self,
        topic: &Arc<str>,
        generation: u64,
        assigned: &v1::AssignedPartition,
    ) -> (ShareId, Option<ShareId>) {
        self.last_id += 1;
        let id = ShareId(self.last_id);
        let committed = assigned.committed.then_some(assigned.offset);
        self.all.insert(
            id,
            Share {
                topic: Arc::clone(topic),
                partition: assigned.partition,
                generation,
                start: assigned.offset,
                next: assigned.offset,
                handed: assigned.offset,
                processed: assigned.offset,
                sent: committed,
                committed,
                on_their_way: 0,
                explicit: false,
                revoked: None,
                waiters: Vec::new(),
            },
        );
        let partitions = self.by_topic.entry(Arc::clone(topic)).or_default();
        let before = partitions.insert(assigned.partition, id);
        (id, before)
    }

    pub(super) fn find(&self, topic: &str, partition: u32) -> Option<ShareId> {
        self.by_topic.get(topic)?.get(&partition).copied()
    }

    /// The topic's name, shared, if the member has something of it.
    pub(super) fn topic(&self, name: &str) -> Option<&Arc<str>> {
        Some(self.by_topic.get_key_value(name)?.0)
    }

    pub(super) fn place(&self, id: ShareId) -> Option<TopicPartition> {
        self.all.get(&id).map(Share::place)
    }

    /// What the member has and isn't to give back, with what comes next.
    pub(super) fn positions(&self) -> impl Iterator<Item = CommitPosition> {
        let kept = self.all.values().filter(|share| share.revoked.is_none());
        kept.map(|share| CommitPosition {
            topic: Arc::clone(&share.topic),
            partition: share.partition,
            offset: share.processed,
        })
    }

    /// Whether the member has a share, and isn't to give it back.
    pub(super) fn is_kept(&self, id: ShareId) -> bool {
        self.all
            .get(&id)
            .is_some_and(|share| share.revoked.is_none())
    }

    pub(super) fn ids(&self) -> BTreeSet<ShareId> {
        self.all.keys().copied().collect()
    }

    /// Offsets of a partition arrived. Those of them that are to be handed out;
    /// `None` when none are.
    pub(super) fn arrive(&mut self, id: ShareId, offsets: Range<u64>) -> Option<Range<u64>> {
        let share = self
            .all
            .get_mut(&id)
            .filter(|share| share.revoked.is_none())?;
        let from = share.next;
        share.next = from.max(offsets.end);
        (from < offsets.end).then_some(from..offsets.end)
    }

    /// What lies before `to` is handed out. False when it isn't to be.
    pub(super) fn hand(&mut self, id: ShareId, to: u64) -> bool {
        let Some(share) = self
            .all
            .get_mut(&id)
            .filter(|share| share.revoked.is_none())
        else {
            return false;
        };
        share.handed = share.handed.max(to);
        assert!(share.handed <= share.next, "what is handed out arrived");
        true
    }

    /// Everything before `to` was processed; it may be so already.
    pub(super) fn process(&mut self, id: ShareId, to: u64) {
        let Some(share) = self.all.get_mut(&id) else {
            return;
        };
        if to <= share.processed {
            return;
        }
        assert!(to <= share.next, "what is processed arrived");
        share.processed = to;
        share.handed = share.handed.max(to);
        self.look_at(id);
    }

    /// Nothing of a share is worked on any more, and nothing will be.
    pub(super) fn release(&mut self, id: ShareId) {
        if let Some(share) = self.all.get_mut(&id) {
            share.handed = share.processed;
        }
    }

    /// Nothing of a partition is worked on any more, if it is to be given back.
    pub(super) fn drop_rest(&mut self, place: &TopicPartition) {
        if let Some(id) = self.find(&place.topic, place.partition)
            && self.revoked.contains(&id)
        {
            self.release(id);
        }
    }

    fn sets(&mut self) -> [&mut BTreeSet<ShareId>; 4] {
        let Shares {
            dirty,
            urgent,
            revoked,
            stuck,
            ..
        } = self;
        [dirty, urgent, revoked, stuck]
    }

    /// Sorts a share into the sets, after it changed.
    fn look_at(&mut self, id: ShareId) {
        let Some(share) = self.all.get(&id) else {
            return;
        };
        if !share.is_dirty() {
            self.dirty.remove(&id);
            self.urgent.remove(&id);
            return;
        }
        self.dirty.insert(id);
        if share.revoked.is_some() || !share.waiters.is_empty() {
            self.urgent.insert(id);
        }
    }

    /// Everything before a position was processed, somebody says.
    pub(super) fn mark(&mut self, position: &CommitPosition) -> Result<ShareId, Error> {
        let CommitPosition {
            topic,
            partition,
            offset,
        } = position;
        let id = self.find(topic, *partition).ok_or_else(|| {
            let message = format!("{topic}/{partition} is not assigned to this consumer");
            stale(message, topic, *partition)
        })?;
        let share = &self.all[&id];
        if *offset < share.start {
            let message = format!(
                "{topic}/{partition} was given back and assigned anew, from offset {} on",
                share.start
            );
            return Err(stale(message, topic, *partition));
        }
        if *offset > share.handed {
            let message = format!(
                "offset {offset} of {topic}/{partition} wasn't handed out since the partition \
                 was assigned, only up to {}",
                share.handed
            );
            return Err(stale(message, topic, *partition));
        }
        self.process(id, *offset);
        Ok(id)
    }

    /// As [`Shares::mark`], and somebody waits for the commit. `Some` when it
    /// is on its way already, or there.
    pub(super) fn want(
        &mut self,
        position: &CommitPosition,
        waiter: Waiter,
    ) -> Result<Option<(ShareId, Waiter)>, Error> {
        let id = self.mark(position)?;
        let share = self.all.get_mut(&id).expect("it was just found");
        if Some(position.offset) <= share.committed {
            // Whoever waits may have gone.
            let _ = waiter.send(Ok(()));
            return Ok(None);
        }
        if Some(position.offset) <= share.sent && share.on_their_way > 0 {
            return Ok(Some((id, waiter)));
        }
        if share.on_their_way == 0 {
            // Also when the broker has refused it before.
            share.sent = share.committed;
        }
        share.explicit = true;
        share.waiters.push(waiter);
        self.look_at(id);
        Ok(None)
    }

    /// What was processed and isn't committed.
    pub(super) fn uncommitted(&self) -> Vec<CommitPosition> {
        let uncommitted = self.all.values().filter(|share| {
            Some(share.processed) > share.committed
                && (share.processed > share.start || share.explicit)
        });
        let position = |share: &Share| CommitPosition {
            topic: Arc::clone(&share.topic),
            partition: share.partition,
            offset: share.processed,
        };
        uncommitted.map(position).collect()
    }

    pub(super) fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    pub(super) fn has_urgent(&self) -> bool {
        !self.urgent.is_empty()
    }

    /// Commits what is to be committed, of at most so many shares; only what is
    /// urgent, unless `all`.
    pub(super) fn commit(&mut self, all: bool, most: usize) -> Vec<SentCommit> {
        let due = if all { &self.dirty } else { &self.urgent };
        let due: Vec<ShareId> = due.iter().copied().take(most).collect();
        let mut commits = Vec::with_capacity(due.len());
        for id in due {
            let share = self.all.get_mut(&id).expect("the sets name shares");
            share.sent = Some(share.processed);
            share.on_their_way += 1;
            commits.push(SentCommit {
                share: id,
                place: share.place(),
                generation: share.generation,
                offset: share.processed,
                waiters: std::mem::take(&mut share.waiters),
            });
            self.look_at(id);
        }
        commits
    }

    /// The broker committed.
    pub(super) fn committed(&mut self, id: ShareId, offset: u64) {
        if let Some(share) = self.all.get_mut(&id) {
            share.on_their_way -= 1;
            share.committed = share.committed.max(Some(offset));
        }
    }

    /// The broker refused to commit; it is to be tried again with the next
    /// commits, if `again`.
    pub(super) fn refused(&mut self, id: ShareId, again: bool) {
        let Some(share) = self.all.get_mut(&id) else {
            return;
        };
        share.on_their_way -= 1;
        if again && share.on_their_way == 0 {
            share.sent = share.committed;
            self.look_at(id);
            // Not at once, whoever asked for it was told.
            self.urgent.remove(&id);
        }
    }

    /// A share is to be given back; in which generation that was decided, and why.
    pub(super) fn revoke(&mut self, id: ShareId, generation: u64, reason: RevokeReason) {
        if let Some(share) = self.all.get_mut(&id) {
            share.revoked = Some(generation);
            self.revoked.insert(id);
            if reason == RevokeReason::MaxProcessingTime {
                self.stuck.insert(id);
            }
            self.look_at(id);
        }
    }

    /// The user waits for more, so it isn't stuck: it has no use for the time that
    /// is left to finish what it didn't within the longest time that it may take.
    pub(super) fn let_go(&mut self) {
        for id in std::mem::take(&mut self.stuck) {
            self.release(id);
        }
    }

    /// Whether a share that is to be given back can be.
    pub(super) fn can_return(&self) -> bool {
        self.revoked.iter().any(|id| self.all[id].is_settled())
    }

    /// Gives back shares that are to be and can be: at most so many, all of them in
    /// answer to one generation, which is returned with them.
    pub(super) fn give_back(&mut self, most: usize) -> Option<(u64, Vec<TopicPartition>)> {
        let settled = |id: &ShareId| self.all[id].is_settled();
        let mut settled = self.revoked.iter().copied().filter(settled).peekable();
        let generation = self.all[settled.peek()?].revoked?;
        let same = settled.filter(|id| self.all[id].revoked == Some(generation));
        let same: Vec<ShareId> = same.take(most).collect();
        let given = same.into_iter().filter_map(|id| self.lose(id));
        Some((generation, given.collect()))
    }

    /// A share is gone. Whoever waits to commit it is told so.
    pub(super) fn lose(&mut self, id: ShareId) -> Option<TopicPartition> {
        let share = self.all.remove(&id)?;
        for set in self.sets() {
            set.remove(&id);
        }
        if let Some(partitions) = self.by_topic.get_mut(&share.topic) {
            if partitions.get(&share.partition) == Some(&id) {
                partitions.remove(&share.partition);
            }
            if partitions.is_empty() {
                self.by_topic.remove(&share.topic);
            }
        }
        let place = share.place();
        for waiter in share.waiters {
            let message = format!(
                "{}/{} was lost before the commit",
                place.topic, place.partition
            );
            let _ = waiter.send(Err(stale(message, &place.topic, place.partition)));
        }
        Some(place)
    }

    /// Everything is gone, and whoever waits is told this.
    pub(super) fn clear(&mut self, error: &Error) {
        for share in std::mem::take(&mut self.all).into_values() {
            for waiter in share.waiters {
                let _ = waiter.send(Err(error.clone()));
            }
        }
        self.by_topic.clear();
        for set in self.sets() {
            set.clear();
        }
    }
}

/// What the broker would say.
fn stale(message: String, topic: &str, partition: u32) -> Error {
    let metadata = [
        ("topic".to_owned(), topic.to_owned()),
        ("partition".to_owned(), partition.to_string()),
    ];
    Error::refused_here(
        Reason::StaleGeneration,
        message,
        metadata.into_iter().collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(partition: u32, offset: u64, committed: bool) -> v1::AssignedPartition {
        v1::AssignedPartition {
            topic: "t".to_owned(),
            partition,
            offset,
            committed,
            high_watermark: 100,
        }
    }

    /// A share of t/0 that begins at an offset, with what arrived and was handed
    /// out up to another one.
    fn share(shares: &mut Shares, start: u64, handed: u64) -> ShareId {
        let (id, _) = shares.assign(&"t".into(), 7, &assigned(0, start, false));
        shares.arrive(id, start..handed);
        shares.hand(id, handed);
        id
    }

    fn position(offset: u64) -> CommitPosition {
        CommitPosition {
            topic: "t".into(),
            partition: 0,
            offset,
        }
    }

    fn offsets(commits: &[SentCommit]) -> Vec<u64> {
        commits.iter().map(|commit| commit.offset).collect()
    }

    type Told = oneshot::Receiver<Result<(), Error>>;

    fn want(shares: &mut Shares, offset: u64) -> (Option<(ShareId, Waiter)>, Told) {
        let (waiter, told) = oneshot::channel();
        (shares.want(&position(offset), waiter).unwrap(), told)
    }

    #[test]
    fn what_is_processed_is_committed_once() {
        let mut shares = Shares::default();
        let id = share(&mut shares, 5, 10);
        assert!(!shares.has_dirty(), "nothing was processed");
        shares.process(id, 7);
        shares.process(id, 8);
        assert_eq!(offsets(&shares.commit(true, 10)), [8]);
        assert!(!shares.has_dirty());
        shares.committed(id, 8);
        assert!(shares.uncommitted().is_empty());
        shares.process(id, 6);
        assert!(!shares.has_dirty(), "it doesn't go back");
    }

    #[test]
    fn only_what_somebody_waits_for_is_urgent() {
        let mut shares = Shares::default();
        share(&mut shares, 0, 10);
        shares.mark(&position(3)).unwrap();
        assert!(shares.commit(false, 10).is_empty());
        let (on_its_way, mut told) = want(&mut shares, 5);
        assert!(on_its_way.is_none());
        let mut commits = shares.commit(false, 10);
        assert_eq!(offsets(&commits), [5]);
        let (again, _) = want(&mut shares, 4);
        assert!(again.is_some(), "5 is on its way");
        commits[0].waiters.pop().unwrap().send(Ok(())).unwrap();
        told.try_recv().unwrap().unwrap();
    }

    #[test]
    fn start_is_committed_when_asked_for_and_not_otherwise() {
        let mut shares = Shares::default();
        let id = share(&mut shares, 5, 5);
        assert!(shares.commit(true, 10).is_empty());
        want(&mut shares, 5);
        assert_eq!(offsets(&shares.commit(false, 10)), [5]);
        shares.committed(id, 5);
        let (_, mut told) = want(&mut shares, 5);
        told.try_recv().unwrap().unwrap();
    }

    #[test]
    fn positions_before_and_beyond_what_was_handed_out_are_refused() {
        let mut shares = Shares::default();
        assert_eq!(
            shares.mark(&position(0)).unwrap_err().reason(),
            Some(Reason::StaleGeneration)
        );
        share(&mut shares, 5, 8);
        let before = shares.mark(&position(4)).unwrap_err();
        assert_eq!(before.reason(), Some(Reason::StaleGeneration));
        assert_eq!(before.refusal().unwrap().metadata["partition"], "0");
        let beyond = shares.mark(&position(9)).unwrap_err();
        assert_eq!(beyond.reason(), Some(Reason::StaleGeneration));
        shares.mark(&position(8)).unwrap();
    }

    #[test]
    fn revoked_share_goes_when_nothing_is_in_flight_and_all_is_committed() {
        let mut shares = Shares::default();
        let id = share(&mut shares, 0, 3);
        shares.process(id, 2);
        shares.revoke(id, 8, RevokeReason::Rebalance);
        assert!(!shares.hand(id, 4), "nothing more is handed out");
        assert!(shares.arrive(id, 3..9).is_none());
        assert!(!shares.can_return());
        assert_eq!(offsets(&shares.commit(false, 10)), [2]);
        shares.process(id, 3);
        assert!(!shares.can_return(), "it isn't committed");
        assert_eq!(offsets(&shares.commit(false, 10)), [3]);
        shares.committed(id, 2);
        assert!(!shares.can_return(), "it isn't answered");
        shares.committed(id, 3);
        assert!(shares.can_return());
        assert_eq!(shares.give_back(10).unwrap().1.len(), 1);
        assert!(shares.find("t", 0).is_none());
    }

    #[test]
    fn share_of_a_stuck_user_goes_once_it_waits_for_more() {
        for (reason, goes) in [
            (RevokeReason::MaxProcessingTime, true),
            (RevokeReason::Rebalance, false),
        ] {
            let mut shares = Shares::default();
            let id = share(&mut shares, 0, 10);
            shares.process(id, 4);
            shares.revoke(id, 8, reason);
            shares.let_go();
            assert!(
                !shares.can_return(),
                "what was processed is committed first"
            );
            shares.commit(true, 10);
            shares.committed(id, 4);
            assert_eq!(shares.can_return(), goes, "{reason:?}");
        }
    }

    #[test]
    fn released_share_goes_with_what_was_not_processed() {
        let mut shares = Shares::default();
        let id = share(&mut shares, 0, 3);
        shares.revoke(id, 8, RevokeReason::Rebalance);
        assert!(!shares.can_return());
        shares.release(id);
        assert!(shares.can_return());
    }

    #[test]
    fn refused_commit_is_tried_again_with_the_next() {
        let mut shares = Shares::default();
        let id = share(&mut shares, 0, 3);
        shares.process(id, 2);
        shares.commit(true, 10);
        shares.refused(id, true);
        assert!(shares.has_dirty() && !shares.has_urgent());
        shares.commit(true, 10);
        shares.refused(id, false);
        assert!(!shares.has_dirty());
    }

    #[test]
    fn lost_share_tells_whoever_waits_and_has_no_effect_on_the_next() {
        let mut shares = Shares::default();
        let old = share(&mut shares, 0, 3);
        let (_, mut told) = want(&mut shares, 2);
        shares.lose(old);
        let error = told.try_recv().unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(Reason::StaleGeneration));
        share(&mut shares, 0, 3);
        shares.process(old, 3);
        shares.committed(old, 2);
        shares.refused(old, true);
        assert!(!shares.has_dirty());
    }

    #[test]
    fn what_arrived_before_does_not_arrive_again() {
        let mut shares = Shares::default();
        let (id, _) = shares.assign(&"t".into(), 7, &assigned(0, 5, true));
        assert_eq!(shares.arrive(id, 3..9), Some(5..9));
        assert_eq!(shares.arrive(id, 3..9), None);
        assert_eq!(shares.arrive(id, 8..12), Some(9..12));
    }

    #[test]
    fn partition_that_is_assigned_twice_is_another_share() {
        let mut shares = Shares::default();
        let (old, before) = shares.assign(&"t".into(), 7, &assigned(0, 5, true));
        assert_eq!(before, None);
        let (new, before) = shares.assign(&"t".into(), 8, &assigned(0, 5, true));
        assert_eq!(before, Some(old));
        shares.lose(old);
        assert_eq!(shares.find("t", 0), Some(new));
    }
}
