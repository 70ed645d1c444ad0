//! The group: events in, effects out.

use super::changes::Changes;
use super::interest::Interests;
use super::members::{Member, Members, Presence};
use super::partitions::Partitions;
use super::{Effect, Event, Generation, MemberId, TopicList};
use crate::limits::{REBALANCE_DELAY_MS, REBALANCE_QUIET_MS, RETURN_DELAY_MS, TICK_LATENESS_MS};

/// A consumer group.
///
/// Times are milliseconds of a clock that counts on while the broker runs, such as
/// the time since its start; one that goes back is taken to stand still.
#[derive(Debug)]
pub struct Group {
    pub(super) generation: Generation,
    pub(super) members: Members,
    pub(super) interests: Interests,
    pub(super) topics: TopicList,
    pub(super) partitions: Partitions,
    /// When a new plan is to be made. Absent when the plan is that of the members
    /// and topics that there are: who is to get a partition then takes it.
    due: Option<Due>,
    /// How many members there were before the start, until the first of them have
    /// their partitions: whoever is a moment earlier than others doesn't get it all.
    returning: usize,
    /// The latest time that was told.
    pub(super) now_ms: u64,
}

/// When a new plan is to be made.
#[derive(Debug, Clone, Copy)]
struct Due {
    /// The first change since the last plan.
    first_ms: u64,
    /// The latest one.
    last_ms: u64,
}

impl Due {
    fn at_ms(self) -> u64 {
        let quiet = self.last_ms.saturating_add(REBALANCE_QUIET_MS);
        quiet.min(self.first_ms.saturating_add(REBALANCE_DELAY_MS))
    }
}

impl Group {
    /// A group without members and topics. `generation` is the latest that is known
    /// to be durable: the next one is higher.
    pub fn new(generation: Generation) -> Group {
        Group {
            generation,
            members: Members::default(),
            interests: Interests::default(),
            topics: TopicList::default(),
            partitions: Partitions::default(),
            due: None,
            returning: 0,
            now_ms: 0,
        }
    }

    /// So many members are about to come again, perhaps: the first plan waits for
    /// them for a moment.
    pub fn expect(&mut self, members: usize) {
        self.returning = members;
    }

    /// Takes note of what happened at `now_ms`, and says what is to be done. What
    /// time alone brings about is done as well, whatever the event is.
    ///
    /// Panics when a member joins with an id that is in use.
    pub fn handle(&mut self, event: Event, now_ms: u64) -> Vec<Effect> {
        self.advance(now_ms);
        let mut changes = Changes::behind(self.generation);
        // Who is heard of just now is not gone, though it may be late.
        self.hear_sender(&event);
        for member in self.members.expired(self.now_ms) {
            self.expire(member, &mut changes);
        }
        self.apply(event, &mut changes);
        for (partition, revoking) in self.partitions.end_revokes(self.now_ms) {
            changes.lose(revoking.owner, partition, revoking.reason);
            changes.free(partition);
        }
        match self.due_ms() {
            Some(due_ms) if due_ms <= self.now_ms => {
                self.due = None;
                if self.members.len() > 0 {
                    self.returning = 0;
                }
                self.rebalance(&mut changes);
            }
            // The new plan has what is free now, too.
            Some(_) => {}
            None => self.hand_over(&mut changes),
        }
        let (generation, effects) = changes.into_effects();
        self.generation = generation.unwrap_or(self.generation);
        effects
    }

    /// When the next event is wanted at the latest, be it an [`Event::Tick`]:
    /// milliseconds, possibly past. Absent while nothing happens by itself. It may be
    /// earlier than anything happens.
    pub fn next_deadline(&self) -> Option<u64> {
        let due = self.due_ms();
        let expiry = self.members.next_expiry_ms();
        let deadline = self.partitions.next_deadline_ms();
        [due, expiry, deadline].into_iter().flatten().min()
    }

    /// A broker that is told of a deadline long after it was itself stopped or
    /// starved meanwhile, and may have heard of nobody: that makes no member late.
    fn advance(&mut self, now_ms: u64) {
        let wanted_ms = self.next_deadline().unwrap_or(now_ms);
        let late_ms = now_ms.saturating_sub(wanted_ms);
        if late_ms > TICK_LATENESS_MS {
            self.members.excuse(late_ms);
        }
        self.now_ms = self.now_ms.max(now_ms);
    }

    fn hear_sender(&mut self, event: &Event) {
        let sender = match event {
            Event::Join { request, .. } => {
                let name = request.name.as_ref();
                name.and_then(|name| self.members.named(name))
            }
            Event::Heartbeat(member)
            | Event::Revoked { member, .. }
            | Event::Resumed(member)
            | Event::Leave(member)
            | Event::Disconnected(member) => Some(*member),
            Event::Stalled(_) | Event::Topics(_) | Event::Reset(_) | Event::Tick => None,
        };
        if let Some(member) = sender.and_then(|sender| self.members.get_mut(sender)) {
            member.heard_ms = self.now_ms;
        }
    }

    fn apply(&mut self, event: Event, changes: &mut Changes) {
        match event {
            Event::Join { member, request } => self.join(member, request, changes),
            Event::Revoked { member, partitions } => {
                self.give_back(member, &partitions, changes);
            }
            Event::Leave(member) => self.remove(member, changes),
            Event::Disconnected(member) => self.disconnect(member, changes),
            Event::Stalled(member) => self.change_presence(member, Presence::Stalled),
            Event::Resumed(member) => self.change_presence(member, Presence::Active),
            Event::Topics(topics) => self.change_topics(topics, changes),
            Event::Reset(partitions) => self.reset(&partitions, changes),
            Event::Heartbeat(_) | Event::Tick => {}
        }
    }

    /// Members or topics are others than those of the plan.
    pub(super) fn replan(&mut self) {
        let first_ms = self.due.map_or(self.now_ms, |due| due.first_ms);
        self.due = Some(Due {
            first_ms,
            last_ms: self.now_ms,
        });
    }

    /// When a new plan is to be made: milliseconds.
    fn due_ms(&self) -> Option<u64> {
        let due = self.due?;
        let there = self.members.len();
        match there > 0 && there < self.returning {
            true => Some(due.first_ms.saturating_add(RETURN_DELAY_MS)),
            false => Some(due.at_ms()),
        }
    }

    /// Whether a new plan is to be made.
    pub(super) fn is_replanning(&self) -> bool {
        self.due.is_some()
    }

    /// Whether a member is there to be told something.
    pub(super) fn is_connected(&self, member: MemberId) -> bool {
        let member = self.members.get(member);
        member.is_some_and(Member::is_connected)
    }
}
