//! A group, members that behave well and badly, and time.

use std::collections::BTreeMap;

use super::model::{Model, ModelMember};
use super::random::Random;
use crate::group::{
    CommitRefusal, Effect, Event, Generation, Group, GroupState, JoinRequest, MemberId, MemberName,
    RevokeReason, Subscription, Topic, TopicList, TopicPartition,
};
use crate::limits::REBALANCE_DELAY_MS;
use crate::model::{TopicId, TopicName};

/// How a member answers when it is to give something back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Prompt,
    Slow,
    Deaf,
}

/// Names, patterns, and what they are tried on.
const NAMES: [&str; 8] = [
    "orders",
    "orders.eu",
    "orders.us",
    "orders.us.returns",
    "stock",
    "stock.eu",
    "s",
    "_x",
];
const SUBSCRIPTIONS: [&[&str]; 7] = [
    &["*"],
    &["orders*", "s*"],
    &["orders.*"],
    &["*.eu", "orders"],
    &["stock", "stock.eu", "orders.us"],
    &["*o*r*s*"],
    &["nothing", "_*"],
];
const MAX_REVOKE_TIMEOUT_MS: u32 = 3_000;
const MEMBER_NAMES: [&str; 3] = ["alpha", "beta", "gamma"];

pub(super) struct World {
    pub(super) random: Random,
    group: Group,
    model: Model,
    manners: BTreeMap<MemberId, Manner>,
    now_ms: u64,
    next_member: u64,
    next_topic: u64,
    topics: BTreeMap<String, Topic>,
    /// All members read the same.
    equal: bool,
    /// Assignments that were, for commits that come late.
    former: Vec<(MemberId, TopicPartition, Generation)>,
    /// The generation of the latest commit of each partition that was taken.
    committed: BTreeMap<TopicPartition, Generation>,
}

impl World {
    pub(super) fn new(seed: u64, equal: bool) -> World {
        let mut random = Random::new(seed);
        let generation = Generation(random.between(0, 1000));
        let mut group = Group::new(generation);
        group.expect(usize::try_from(random.between(0, 4)).unwrap());
        let mut world = World {
            random,
            group,
            model: Model::new(generation),
            manners: BTreeMap::new(),
            now_ms: 1_000,
            next_member: 1,
            next_topic: 1,
            topics: BTreeMap::new(),
            equal,
            former: Vec::new(),
            committed: BTreeMap::new(),
        };
        world.change_topics();
        world
    }

    /// Something happens.
    pub(super) fn step(&mut self) {
        match self.random.between(0, 24) {
            0..4 => self.join(),
            4 => self.with_member(Event::Leave),
            5 => self.with_member(Event::Disconnected),
            6 => self.with_member(Event::Stalled),
            7 => self.with_member(Event::Resumed),
            8..12 => self.revoked(),
            12 => self.change_topics(),
            13 => self.reset(),
            14..18 => self.commit(),
            18 => self.with_member(Event::Heartbeat),
            19 => self.everybody_heartbeats(),
            20 if self.random.one_in(8) => self.sleep(),
            _ => self.pass_time(),
        }
        self.answer();
    }

    fn tell(&mut self, event: Event) {
        let quiet = matches!(event, Event::Heartbeat(_) | Event::Tick);
        let deadline_ms = self.group.next_deadline();
        self.model.happens(&event, self.now_ms, deadline_ms);
        let at_once = self.assigned_at_once(&event);
        let effects = self.group.handle(event, self.now_ms);
        self.model.told(&effects);
        for effect in &effects {
            let Effect::Assign {
                member,
                generation,
                partitions,
            } = effect
            else {
                continue;
            };
            let assigned = partitions.iter().map(|at| (*member, *at, *generation));
            self.former.extend(assigned);
        }
        if self.equal && !effects.is_empty() {
            self.check_moves(&effects, &at_once);
        }
        // Nothing was to change, and nothing was said.
        if !quiet || !effects.is_empty() || self.random.one_in(16) {
            self.check_state(&effects);
        }
    }

    /// What is not up to the plan: what a member has that comes again, and what is
    /// begun anew.
    fn assigned_at_once(&self, event: &Event) -> Vec<TopicPartition> {
        if !matches!(event, Event::Join { .. } | Event::Reset(_)) {
            return Vec::new();
        }
        let held = self.group.partitions();
        let held = held.filter_map(|(partition, owner)| {
            let owner = owner.filter(|owner| owner.revoke.is_none())?;
            Some((partition, owner.member))
        });
        let is_former = |id: MemberId, request: &JoinRequest| {
            let name = &self.model.members[&id].request.name;
            name.is_some() && *name == request.name
        };
        let at_once = held.filter(|(partition, owner)| match event {
            Event::Join { request, .. } => {
                self.model.members.contains_key(owner) && is_former(*owner, request)
            }
            Event::Reset(partitions) => partitions.contains(partition),
            _ => false,
        });
        at_once.map(|(partition, _)| partition).collect()
    }

    /// If partitions move, so many as have to: where all read the same, as many as
    /// members have more than their part, those with most having the larger parts.
    fn check_moves(&self, effects: &[Effect], at_once: &[TopicPartition]) {
        let mut kept: BTreeMap<MemberId, usize> = BTreeMap::new();
        let mut total = self.model.partitions.len();
        for (id, member) in &self.model.members {
            let held = member.has.values();
            let held = held.filter(|holding| holding.revoke.is_none()).count();
            if member.is_active() {
                kept.insert(*id, held);
            } else if !member.connected {
                total -= member.has.len();
            }
        }
        let mut moves = 0;
        for effect in effects {
            match effect {
                Effect::Assign {
                    member, partitions, ..
                } => {
                    let planned = partitions.iter().filter(|at| !at_once.contains(at));
                    if let Some(kept) = kept.get_mut(member) {
                        *kept -= planned.count();
                    }
                }
                Effect::Revoke {
                    member,
                    partitions,
                    reason: RevokeReason::Rebalance,
                    ..
                } => {
                    *kept.get_mut(member).unwrap() += partitions.len();
                    moves += partitions.len();
                }
                _ => {}
            }
        }
        if moves == 0 {
            return;
        }
        let mut kept: Vec<usize> = kept.into_values().collect();
        kept.sort_unstable_by(|a, b| b.cmp(a));
        let (part, larger) = (total / kept.len(), total % kept.len());
        let parts = (0..).map(|at| part + usize::from(at < larger));
        let needed: usize = kept
            .iter()
            .zip(parts)
            .map(|(has, part)| has.saturating_sub(part))
            .sum();
        assert_eq!(moves, needed, "{kept:?} of {total}: {effects:?}");
    }

    fn check_state(&self, effects: &[Effect]) {
        let ids: Vec<MemberId> = self.group.members().map(|member| member.id).collect();
        assert!(ids.iter().eq(self.model.members.keys()), "{ids:?}");
        for view in self.group.members() {
            let member = &self.model.members[&view.id];
            assert_eq!(view.connected, member.connected);
            assert_eq!(view.stalled, member.stalled);
            assert_eq!(view.name, member.request.name.as_ref());
        }
        let partitions: Vec<_> = self.group.partitions().map(|(at, _)| at).collect();
        assert_eq!(partitions, self.model.partitions);
        let mut settled = true;
        for (partition, ownership) in self.group.partitions() {
            assert_eq!(ownership, self.group.owner(partition));
            let owner = self.model.owner(partition);
            let expected = owner.map(|(id, has)| {
                let revoke = has.revoke.map(|of| (of.generation, of.deadline_ms));
                (id, has.since, revoke)
            });
            let found = ownership.map(|o| (o.member, o.generation, o.revoke));
            assert_eq!(found, expected, "{partition:?}");
            settled &= owner.is_some_and(|(_, has)| has.revoke.is_none());
        }
        match self.group.state() {
            GroupState::Empty => assert!(ids.is_empty()),
            GroupState::Stable => assert!(settled && !ids.is_empty()),
            GroupState::Rebalancing => assert!(!ids.is_empty()),
        }
        assert_eq!(self.group.generation(), self.model.generation);
        // Time goes on: only what is to be given back at once is due at once.
        let at_once = |effect: &Effect| matches!(effect, Effect::Revoke { deadline_ms, .. } if *deadline_ms == self.now_ms);
        if !effects.iter().any(at_once) {
            assert!(self.group.next_deadline().is_none_or(|at| at > self.now_ms));
        }
    }
}

/// What happens.
impl World {
    fn join(&mut self) {
        if self.model.members.len() >= 8 {
            return self.with_member(Event::Leave);
        }
        let id = MemberId(self.next_member);
        self.next_member += 1;
        let manners = [Manner::Prompt, Manner::Prompt, Manner::Slow, Manner::Deaf];
        let manner = *self.random.one_of(&manners);
        self.manners.insert(id, manner);
        let subscription = match self.equal {
            true => SUBSCRIPTIONS[0],
            false => *self.random.one_of(&SUBSCRIPTIONS),
        };
        let named = self.random.one_in(3);
        let name = named.then(|| MemberName::try_from(*self.random.one_of(&MEMBER_NAMES)).unwrap());
        let request = JoinRequest {
            name,
            subscription: Subscription::new(subscription.iter().copied()).unwrap(),
            session_timeout_ms: self.random.number(1_000, 10_000),
            revoke_timeout_ms: match self.random.one_in(4) {
                true => 0,
                false => self.random.number(1, MAX_REVOKE_TIMEOUT_MS + 1),
            },
        };
        self.tell(Event::Join {
            member: id,
            request,
        });
    }

    /// Seldom one that isn't there any more, or never was.
    fn some_member(&mut self) -> MemberId {
        let ids: Vec<MemberId> = self.model.members.keys().copied().collect();
        if ids.is_empty() || self.random.one_in(10) {
            return MemberId(self.random.between(0, self.next_member + 1));
        }
        *self.random.one_of(&ids)
    }

    fn with_member(&mut self, event: fn(MemberId) -> Event) {
        let member = self.some_member();
        self.tell(event(member));
    }

    /// A member gives something back, be it asked for or not, or asked for anew.
    fn revoked(&mut self) {
        let member = self.some_member();
        let mut partitions = self.model.partitions.clone();
        partitions.push(TopicPartition {
            topic: TopicId(self.next_topic),
            partition: 7,
        });
        partitions.retain(|_| !self.random.one_in(3));
        let is_late = self.random.one_in(2);
        let asked = |partition| {
            let held = self.model.members.get(&member)?.has.get(&partition)?;
            let asked = held.revoke.map(|revoke| revoke.generation);
            Some(asked.unwrap_or(held.since))
        };
        let partitions = partitions.into_iter().map(|partition| {
            let before = Generation(self.model.generation.0 / 2);
            let asked = asked(partition).filter(|_| !is_late);
            (partition, asked.unwrap_or(before))
        });
        let partitions = partitions.collect();
        self.tell(Event::Revoked { member, partitions });
    }

    /// Members are asked, and answer in their manner.
    fn answer(&mut self) {
        let asked = self.model.members.iter().filter_map(|(id, member)| {
            let asked = member.has.iter();
            let asked = asked.filter_map(|(at, has)| Some((*at, has.revoke?.generation)));
            let asked: Vec<(TopicPartition, Generation)> = asked.collect();
            (member.connected && !asked.is_empty()).then_some((*id, asked))
        });
        for (member, partitions) in asked.collect::<Vec<_>>() {
            let answers = match self.manners[&member] {
                Manner::Prompt => self.random.one_in(2),
                Manner::Slow => self.random.one_in(10),
                Manner::Deaf => false,
            };
            if answers {
                self.tell(Event::Revoked { member, partitions });
            }
        }
    }

    fn change_topics(&mut self) {
        for _ in 0..self.random.between(1, 4) {
            let name = *self.random.one_of(&NAMES);
            match self.topics.get_mut(name) {
                Some(_) if self.random.one_in(2) => {
                    self.topics.remove(name);
                }
                Some(topic) => topic.partitions += 1,
                None => {
                    let topic = Topic {
                        id: TopicId(self.next_topic),
                        name: TopicName::try_from(name).unwrap(),
                        partitions: self.random.number(1, 6),
                    };
                    self.next_topic += 1;
                    self.topics.insert(name.to_owned(), topic);
                }
            }
        }
        let topics = self.topics.values().cloned().collect();
        self.tell(Event::Topics(TopicList::new(topics)));
    }

    fn reset(&mut self) {
        let mut partitions = self.model.partitions.clone();
        partitions.retain(|_| self.random.one_in(3));
        self.tell(Event::Reset(partitions));
    }

    fn everybody_heartbeats(&mut self) {
        let ids: Vec<MemberId> = self.connected().map(|(id, _)| id).collect();
        for id in ids {
            self.tell(Event::Heartbeat(id));
        }
    }

    fn connected(&self) -> impl Iterator<Item = (MemberId, &ModelMember)> {
        let members = self.model.members.iter();
        members.filter_map(|(id, member)| member.connected.then_some((*id, member)))
    }

    /// The broker is stopped for a while.
    fn sleep(&mut self) {
        self.now_ms += self.random.between(2_000, 60_000);
        self.tell(Event::Tick);
    }

    fn pass_time(&mut self) {
        let most = *self.random.one_of(&[5, 30, 300, 4_000]);
        let until_ms = self.now_ms + self.random.between(0, most);
        // Whoever is to call in time is late at times, if not much.
        let late_ms = self.random.between(0, 2) * self.random.between(0, 900);
        while let Some(at) = self.group.next_deadline().filter(|at| *at <= until_ms) {
            self.now_ms = self.now_ms.max(at + late_ms);
            self.tell(Event::Tick);
        }
        self.now_ms = self.now_ms.max(until_ms);
    }

    /// A member commits, perhaps what it has no longer, or never had.
    fn commit(&mut self) {
        let Some(&(member, partition, since)) = self.random.some_of(&self.former) else {
            return;
        };
        let member = match self.random.one_in(4) {
            true => self.some_member(),
            false => member,
        };
        let generation = match self.random.between(0, 4) {
            0 => None,
            1 => Some(Generation(
                self.random.between(0, self.model.generation.0 + 2),
            )),
            _ => Some(since),
        };
        let at_ms = self.now_ms + *self.random.one_of(&[0, 0, 1_000]);
        let result = self
            .group
            .check_commit(member, partition, generation, at_ms);
        let has = self.model.members.get(&member);
        let has = has.and_then(|member| member.has.get(&partition));
        let Some(has) = has else {
            assert!(result.is_err(), "{member} has lost {partition:?}");
            let had = self
                .former
                .iter()
                .any(|(m, p, _)| (*m, *p) == (member, partition));
            if !had && generation.is_none() {
                assert_eq!(result, Err(CommitRefusal::NotAssigned));
            }
            if self.model.latest.get(&partition) == Some(&member) {
                assert_eq!(result, Err(CommitRefusal::StaleGeneration));
            }
            return;
        };
        let in_time = has.revoke.is_none_or(|revoke| at_ms < revoke.deadline_ms);
        if !in_time || generation.is_some_and(|generation| generation != has.since) {
            assert_eq!(result, Err(CommitRefusal::StaleGeneration));
            return;
        }
        assert_eq!(result, Ok(()));
        assert_eq!(self.model.assigned[&partition], (has.since, member));
        let before = self.committed.insert(partition, has.since);
        assert!(before.is_none_or(|before| before <= has.since));
    }
}

/// What comes of it.
impl World {
    /// Nothing more happens but heartbeats and time, and everything finds its place.
    pub(super) fn settle(&mut self) {
        let away: Vec<MemberId> = self
            .group
            .members()
            .filter(|m| !m.connected)
            .map(|m| m.id)
            .collect();
        for member in away {
            self.tell(Event::Leave(member));
        }
        self.everybody_heartbeats();
        let until_ms = self.now_ms + REBALANCE_DELAY_MS + u64::from(MAX_REVOKE_TIMEOUT_MS) + 1;
        while self.now_ms < until_ms {
            let deadline_ms = self.group.next_deadline().unwrap_or(until_ms);
            self.now_ms = deadline_ms.clamp(self.now_ms, self.now_ms + 300);
            self.everybody_heartbeats();
            self.tell(Event::Tick);
            if deadline_ms > until_ms {
                break;
            }
        }
        self.check_settled();
    }

    fn check_settled(&self) {
        let active: BTreeMap<MemberId, &ModelMember> = self
            .connected()
            .filter(|(_, member)| member.is_active())
            .collect();
        for partition in self.model.partitions.iter().copied() {
            let topic = &self.model.topics[&partition.topic];
            let has_reader = active.values().any(|member| member.reads(topic));
            let owner = self.model.owner(partition);
            assert_eq!(owner.is_some(), has_reader, "{partition:?}");
            assert!(owner.is_none_or(|(_, has)| has.revoke.is_none()));
        }
        for (id, member) in &active {
            for other in self.within_reach(*id, &active) {
                let others = active[&other].has.len();
                assert!(member.has.len() <= others + 1, "{id} could give to {other}");
            }
        }
    }

    /// To whom something of a member can go, directly or through others.
    fn within_reach(
        &self,
        member: MemberId,
        active: &BTreeMap<MemberId, &ModelMember>,
    ) -> Vec<MemberId> {
        let mut reached = vec![member];
        let mut next = 0;
        while let Some(&giver) = reached.get(next) {
            for partition in active[&giver].has.keys() {
                let topic = &self.model.topics[&partition.topic];
                for (id, taker) in active {
                    if taker.reads(topic) && !reached.contains(id) {
                        reached.push(*id);
                    }
                }
            }
            next += 1;
        }
        reached
    }
}
