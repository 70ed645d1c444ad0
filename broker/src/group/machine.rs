//! The group: events in, effects out.

use super::assignment::{Seat, plan};
use super::changes::Changes;
use super::interest::Interests;
use super::members::{Member, Members, Presence};
use super::partitions::{Hold, Partitions, Slot};
use super::{
    CommitRefusal, Effect, Event, ExpelReason, Generation, GroupState, JoinRequest, MemberId,
    MemberView, Ownership, RevokeReason, Topic, TopicList, TopicPartition,
};
use crate::limits::{MEMBERS_PER_GROUP, REBALANCE_DELAY_MS, REBALANCE_QUIET_MS};

/// A consumer group. Times are milliseconds of any clock that doesn't go back.
#[derive(Debug)]
pub struct Group {
    generation: Generation,
    members: Members,
    interests: Interests,
    topics: TopicList,
    partitions: Partitions,
    /// Present when the plan is not that of the members and topics that there are.
    due: Option<Due>,
    /// The latest time that was told.
    now_ms: u64,
}

/// When a new plan is to be made.
#[derive(Debug, Clone, Copy)]
struct Due {
    /// The first change since the plan was made.
    first_ms: u64,
    /// The last one.
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
            now_ms: 0,
        }
    }

    /// Takes note of what happened at `now_ms`, and says what is to be done. What
    /// time alone brings about is done as well, whatever the event is.
    pub fn handle(&mut self, event: Event, now_ms: u64) -> Vec<Effect> {
        self.now_ms = self.now_ms.max(now_ms);
        let mut changes = Changes::behind(self.generation);
        self.apply(event, &mut changes);
        for member in self.members.expired(self.now_ms) {
            self.expire(member, &mut changes);
        }
        for (partition, revoking) in self.partitions.end_revokes(self.now_ms) {
            changes.lose(revoking.owner, partition, revoking.reason);
            changes.free(partition);
        }
        match self.due {
            Some(due) if due.at_ms() <= self.now_ms => self.rebalance(&mut changes),
            Some(_) => {}
            None => self.hand_over(&mut changes),
        }
        let (generation, effects) = changes.into_effects();
        self.generation = generation.unwrap_or(self.generation);
        effects
    }

    /// When the next event is wanted at the latest, be it a [`Event::Tick`]:
    /// milliseconds, possibly past. Absent while nothing happens by itself.
    pub fn next_deadline(&self) -> Option<u64> {
        let due = self.due.map(Due::at_ms);
        let expiry = self.members.next_expiry_ms();
        let deadline = self.partitions.next_deadline_ms();
        [due, expiry, deadline].into_iter().flatten().min()
    }

    fn apply(&mut self, event: Event, changes: &mut Changes) {
        match event {
            Event::Join { member, request } => self.join(member, request, changes),
            Event::Heartbeat(member) => self.hear(member),
            Event::Revoked { member, partitions } => {
                self.hear(member);
                self.give_back(member, &partitions, changes);
            }
            Event::Leave(member) => self.remove(member, changes),
            Event::Disconnected(member) => self.disconnect(member, changes),
            Event::Stalled(member) => self.change_presence(member, Presence::Stalled),
            Event::Resumed(member) => self.change_presence(member, Presence::Active),
            Event::Topics(topics) => self.change_topics(topics, changes),
            Event::Reset(partitions) => self.reset(&partitions, changes),
            Event::Tick => {}
        }
    }

    /// A new plan is to be made.
    fn replan(&mut self) {
        let first_ms = self.due.map_or(self.now_ms, |due| due.first_ms);
        self.due = Some(Due {
            first_ms,
            last_ms: self.now_ms,
        });
    }

    fn hear(&mut self, member: MemberId) {
        if let Some(member) = self.members.get_mut(member) {
            member.heard_ms = self.now_ms;
        }
    }

    fn join(&mut self, id: MemberId, request: JoinRequest, changes: &mut Changes) {
        let former = request
            .name
            .as_ref()
            .and_then(|name| self.members.named(name));
        if former.is_none() && self.members.len() >= MEMBERS_PER_GROUP {
            return changes.expel(id, ExpelReason::TooManyMembers);
        }
        if !self.interests.admits(&request.subscription) {
            return changes.expel(id, ExpelReason::TooManySubscriptions);
        }
        let (interest, is_new) = self.interests.enter(&request.subscription);
        if is_new {
            for topic in request.subscription.select(&self.topics) {
                self.partitions
                    .read(topic.id, topic.partitions, interest.into());
            }
        }
        if let Some(former) = former {
            self.replace(former, id, interest, changes);
        }
        let member = Member {
            name: request.name,
            interest,
            session_timeout_ms: request.session_timeout_ms,
            revoke_timeout_ms: request.revoke_timeout_ms,
            heard_ms: self.now_ms,
            presence: Presence::Active,
        };
        self.members.insert(id, member);
        self.replan();
    }

    /// A member's name joins anew: what it has, and still reads, passes on.
    fn replace(
        &mut self,
        former: MemberId,
        new: MemberId,
        interest: super::interest::InterestId,
        changes: &mut Changes,
    ) {
        for (partition, readers, slot) in self.partitions.iter_mut() {
            let passes_on = slot.hold() == Hold::Held(former) && readers.contains(interest);
            if slot.owner() == Some(former) {
                slot.release();
            }
            if passes_on {
                slot.assign(new, changes.generation());
                changes.assign(new, partition);
            }
        }
        let former_member = self.members.remove(former).expect("it has a name");
        if former_member.is_connected() {
            changes.expel(former, ExpelReason::MemberReplaced);
        }
        if self.interests.leave(former_member.interest) {
            self.partitions.forget_interest(former_member.interest);
        }
    }

    fn give_back(&mut self, id: MemberId, partitions: &[TopicPartition], changes: &mut Changes) {
        for &partition in partitions {
            let Some(slot) = self.partitions.get_mut(partition) else {
                continue;
            };
            if matches!(slot.hold(), Hold::Revoking(revoking) if revoking.owner == id) {
                slot.release();
                changes.free(partition);
            }
        }
    }

    fn expire(&mut self, id: MemberId, changes: &mut Changes) {
        let member = self.members.get(id).expect("it expires");
        if member.is_connected() {
            changes.expel(id, ExpelReason::MemberExpired);
        }
        self.remove(id, changes);
    }

    fn remove(&mut self, id: MemberId, changes: &mut Changes) {
        let Some(member) = self.members.remove(id) else {
            return;
        };
        for (partition, _, slot) in self.partitions.iter_mut() {
            if slot.owner() == Some(id) {
                slot.release();
                changes.free(partition);
            }
        }
        if self.interests.leave(member.interest) {
            self.partitions.forget_interest(member.interest);
        }
        self.replan();
    }

    fn disconnect(&mut self, id: MemberId, changes: &mut Changes) {
        let now_ms = self.now_ms;
        let named = self
            .members
            .get_mut(id)
            .filter(|member| member.name.is_some());
        let Some(member) = named else {
            return self.remove(id, changes);
        };
        if !member.is_connected() {
            return;
        }
        member.presence = Presence::Away;
        member.heard_ms = now_ms;
        for (partition, _, slot) in self.partitions.iter_mut() {
            if matches!(slot.hold(), Hold::Revoking(revoking) if revoking.owner == id) {
                slot.release();
                changes.free(partition);
            }
        }
        self.replan();
    }

    /// A connected member stalls, or resumes.
    fn change_presence(&mut self, id: MemberId, presence: Presence) {
        self.hear(id);
        let connected = self
            .members
            .get_mut(id)
            .filter(|member| member.is_connected());
        if let Some(member) = connected
            && member.presence != presence
        {
            member.presence = presence;
            self.replan();
        }
    }

    fn change_topics(&mut self, topics: TopicList, changes: &mut Changes) {
        let mut ids: Vec<_> = topics.all().iter().map(|topic| topic.id).collect();
        ids.sort_unstable();
        let gone = self
            .partitions
            .retain_topics(|id| ids.binary_search(&id).is_ok());
        for (partition, slot) in gone {
            let owner = slot
                .owner()
                .and_then(|owner| Some((owner, self.members.get(owner)?)));
            if let Some((owner, member)) = owner
                && member.is_connected()
            {
                changes.lose(owner, partition, RevokeReason::TopicDeleted);
            }
            self.replan();
        }
        for Topic {
            id,
            name,
            partitions,
        } in topics.all()
        {
            let readers = self.interests.that_fit(name.as_str());
            if !readers.is_empty() && self.partitions.read(*id, *partitions, readers) {
                self.replan();
            }
        }
        self.topics = topics;
    }

    fn reset(&mut self, partitions: &[TopicPartition], changes: &mut Changes) {
        for &partition in partitions {
            let Some(slot) = self.partitions.get_mut(partition) else {
                continue;
            };
            let owner = slot
                .owner()
                .and_then(|owner| Some((owner, self.members.get(owner)?)));
            let Some((owner, member)) = owner else {
                continue;
            };
            if !member.is_connected() || slot.since() == changes.generation() {
                continue;
            }
            let keeps = matches!(slot.hold(), Hold::Held(_));
            slot.release();
            changes.lose(owner, partition, RevokeReason::Rebalance);
            if keeps {
                slot.assign(owner, changes.generation());
                changes.assign(owner, partition);
            } else {
                changes.free(partition);
            }
        }
    }

    /// Assigns what became free to whom the plan says.
    fn hand_over(&mut self, changes: &mut Changes) {
        for partition in changes.take_freed() {
            let Some(slot) = self.partitions.get_mut(partition) else {
                continue;
            };
            if let Some(next) = slot.next() {
                slot.assign(next, changes.generation());
                changes.assign(next, partition);
            }
        }
    }

    /// Makes a new plan and begins to carry it out.
    fn rebalance(&mut self, changes: &mut Changes) {
        self.due = None;
        let active: Vec<_> = self
            .members
            .iter()
            .filter(|(_, member)| member.presence == Presence::Active)
            .map(|(id, member)| (id, member.interest))
            .collect();
        let interests: Vec<_> = active.iter().map(|(_, interest)| *interest).collect();
        let index_of = |id: MemberId| active.binary_search_by_key(&id, |(id, _)| *id).ok();
        let mut planned = Vec::new();
        let mut seats = Vec::new();
        for (partition, readers, slot) in self.partitions.iter() {
            let (hold, owner) = (slot.hold(), slot.owner());
            let is_kept = owner.is_some_and(|owner| {
                let member = self.members.get(owner).expect("owners are members");
                !member.is_connected()
            });
            if !is_kept {
                let owner = match hold {
                    Hold::Held(owner) => index_of(owner),
                    Hold::Free | Hold::Revoking(_) => None,
                };
                planned.push(partition);
                seats.push(Seat { readers, owner });
            }
        }
        for (partition, to) in planned.into_iter().zip(plan(&interests, &seats)) {
            let to = to.map(|at| active[at].0);
            self.carry_out(partition, to, changes);
        }
    }

    /// A partition is to go to this member.
    fn carry_out(
        &mut self,
        partition: TopicPartition,
        to: Option<MemberId>,
        changes: &mut Changes,
    ) {
        let slot = self.partitions.get_mut(partition).expect("it is planned");
        match (slot.hold(), to) {
            (Hold::Free, Some(to)) => {
                slot.assign(to, changes.generation());
                changes.assign(to, partition);
            }
            (Hold::Held(owner), to) if Some(owner) != to => {
                slot.plan(to);
                let member = self.members.get(owner).expect("owners are members");
                let reason = match member.presence {
                    Presence::Stalled => RevokeReason::MaxProcessingTime,
                    Presence::Active | Presence::Away => RevokeReason::Rebalance,
                };
                let deadline_ms = self.now_ms + u64::from(member.revoke_timeout_ms);
                self.partitions.revoke(partition, deadline_ms, reason);
                changes.revoke(owner, partition, deadline_ms, reason);
            }
            (Hold::Revoking(_), to) => slot.plan(to),
            (Hold::Free, None) | (Hold::Held(_), _) => slot.plan(None),
        }
    }
}

/// What a group says when it is asked.
impl Group {
    /// Whether a commit of a partition by a member is good at this time; of which
    /// generation's assignment it is, if the member says so.
    pub fn check_commit(
        &self,
        member: MemberId,
        partition: TopicPartition,
        generation: Option<Generation>,
        now_ms: u64,
    ) -> Result<(), CommitRefusal> {
        let slot = self.partitions.get(partition);
        let slot = slot.ok_or(CommitRefusal::NotAssigned)?;
        let is_over = match slot.hold() {
            Hold::Revoking(revoking) => revoking.deadline_ms <= now_ms,
            Hold::Free | Hold::Held(_) => false,
        };
        if slot.owner() == Some(member) {
            let is_stale = generation.is_some_and(|generation| generation != slot.since());
            return match is_over || is_stale {
                true => Err(CommitRefusal::StaleGeneration),
                false => Ok(()),
            };
        }
        let was_before = generation.is_some_and(|generation| generation < slot.since());
        match was_before || slot.previous() == Some(member) {
            true => Err(CommitRefusal::StaleGeneration),
            false => Err(CommitRefusal::NotAssigned),
        }
    }

    /// The latest generation.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// What the group is doing.
    pub fn state(&self) -> GroupState {
        if self.is_empty() {
            return GroupState::Empty;
        }
        let is_settled = |slot: &Slot| matches!(slot.hold(), Hold::Held(_));
        let settled = self.partitions.iter().all(|(_, _, slot)| is_settled(slot));
        match settled && self.due.is_none() {
            true => GroupState::Stable,
            false => GroupState::Rebalancing,
        }
    }

    /// Whether it has no members, not even ones that may come again.
    pub fn is_empty(&self) -> bool {
        self.members.len() == 0
    }

    /// The members, in the order of their ids, those included that may come again.
    pub fn members(&self) -> impl Iterator<Item = MemberView<'_>> {
        self.members.iter().map(|(id, member)| MemberView {
            id,
            name: member.name.as_ref(),
            subscription: self.interests.subscription(member.interest),
            connected: member.is_connected(),
            stalled: member.presence == Presence::Stalled,
        })
    }

    /// Who has a partition.
    pub fn owner(&self, partition: TopicPartition) -> Option<Ownership> {
        self.partitions.get(partition).and_then(ownership)
    }

    /// All partitions of the topics that members read, in ascending order, and who
    /// has them.
    pub fn partitions(&self) -> impl Iterator<Item = (TopicPartition, Option<Ownership>)> {
        let all = self.partitions.iter();
        all.map(|(partition, _, slot)| (partition, ownership(slot)))
    }
}

fn ownership(slot: &Slot) -> Option<Ownership> {
    let revoke_deadline_ms = match slot.hold() {
        Hold::Revoking(revoking) => Some(revoking.deadline_ms),
        Hold::Free | Hold::Held(_) => None,
    };
    Some(Ownership {
        member: slot.owner()?,
        generation: slot.since(),
        revoke_deadline_ms,
    })
}
