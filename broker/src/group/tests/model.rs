//! What a group should be, as far as its members can tell: who has what follows from
//! the effects alone.

use std::collections::{BTreeMap, BTreeSet};

use crate::group::{
    Effect, Event, ExpelReason, Generation, JoinRequest, MemberId, RevokeReason, TopicPartition,
};
use crate::limits::TICK_LATENESS_MS;
use crate::model::TopicId;

/// A partition that is to be given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Revoke {
    /// In which that was decided.
    pub(super) generation: Generation,
    pub(super) deadline_ms: u64,
    reason: RevokeReason,
}

/// A partition that a member has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holding {
    pub(super) since: Generation,
    /// How it is to be given back, if it is.
    pub(super) revoke: Option<Revoke>,
}

/// A member.
#[derive(Debug, Clone)]
pub(super) struct ModelMember {
    pub(super) request: JoinRequest,
    pub(super) heard_ms: u64,
    pub(super) connected: bool,
    pub(super) stalled: bool,
    pub(super) has: BTreeMap<TopicPartition, Holding>,
}

impl ModelMember {
    fn expires_ms(&self) -> u64 {
        self.heard_ms + u64::from(self.request.session_timeout_ms)
    }

    pub(super) fn is_active(&self) -> bool {
        self.connected && !self.stalled
    }

    pub(super) fn reads(&self, topic: &ModelTopic) -> bool {
        let mut patterns = self.request.subscription.names();
        patterns.any(|pattern| fits(pattern.as_bytes(), topic.name.as_bytes()))
    }
}

/// A topic.
#[derive(Debug, Clone)]
pub(super) struct ModelTopic {
    pub(super) name: String,
    pub(super) partitions: u32,
}

/// Plainly, and slowly if need be.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.first(), name.first()) {
        (None, None) => true,
        (Some(b'*'), _) => {
            fits(&pattern[1..], name) || !name.is_empty() && fits(pattern, &name[1..])
        }
        (Some(p), Some(n)) => p == n && fits(&pattern[1..], &name[1..]),
        _ => false,
    }
}

/// A change that an event brings about for certain.
type Loss = (MemberId, TopicPartition, RevokeReason);

/// All that is to be known of a group.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) generation: Generation,
    pub(super) members: BTreeMap<MemberId, ModelMember>,
    pub(super) topics: BTreeMap<TopicId, ModelTopic>,
    /// Who got each partition last, and when.
    pub(super) assigned: BTreeMap<TopicPartition, (Generation, MemberId)>,
    /// The same, as long as its topic is read.
    pub(super) latest: BTreeMap<TopicPartition, MemberId>,
    /// All partitions of the topics that somebody reads.
    pub(super) partitions: Vec<TopicPartition>,
    pub(super) now_ms: u64,
    expels: BTreeSet<(MemberId, ExpelReason)>,
    losses: BTreeSet<Loss>,
    /// What has to be assigned at once.
    passes_on: BTreeSet<(MemberId, TopicPartition)>,
}

impl Model {
    pub(super) fn new(generation: Generation) -> Model {
        Model {
            generation,
            ..Model::default()
        }
    }

    /// Takes note of an event, of which the group is told after its `deadline_ms`.
    pub(super) fn happens(&mut self, event: &Event, now_ms: u64, deadline_ms: Option<u64>) {
        let late_ms = now_ms.saturating_sub(deadline_ms.unwrap_or(now_ms));
        if late_ms > TICK_LATENESS_MS {
            for member in self.members.values_mut() {
                member.heard_ms += late_ms;
            }
        }
        self.now_ms = now_ms;
        self.expels.clear();
        self.losses.clear();
        self.passes_on.clear();
        let heard = match event {
            Event::Heartbeat(member)
            | Event::Resumed(member)
            | Event::Leave(member)
            | Event::Disconnected(member)
            | Event::Revoked { member, .. } => Some(*member),
            Event::Join { request, .. } => self.named(request),
            _ => None,
        };
        if let Some(member) = heard.and_then(|heard| self.members.get_mut(&heard)) {
            member.heard_ms = now_ms;
        }
        let members = self.members.len();
        self.expire();
        self.apply(event);
        self.pass_deadlines();
        let quiet = matches!(event, Event::Heartbeat(_) | Event::Tick);
        if !quiet || self.members.len() != members {
            self.partitions = self.read_partitions();
            let read = &self.partitions;
            self.latest.retain(|at, _| read.binary_search(at).is_ok());
        }
    }

    fn named(&self, request: &JoinRequest) -> Option<MemberId> {
        let name = request.name.as_ref()?;
        let mut members = self.members.iter();
        let found = members.find(|(_, member)| member.request.name.as_ref() == Some(name));
        found.map(|(id, _)| *id)
    }

    fn expire(&mut self) {
        let now_ms = self.now_ms;
        let expels = &mut self.expels;
        self.members.retain(|id, member| {
            let expires = member.expires_ms() <= now_ms;
            if expires && member.connected {
                expels.insert((*id, ExpelReason::MemberExpired));
            }
            !expires
        });
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Join { member, request } => self.join(*member, request),
            Event::Revoked { member, partitions } => {
                if let Some(member) = self.members.get_mut(member) {
                    for (partition, generation) in partitions {
                        let revoke = member.has.get(partition).and_then(|held| held.revoke);
                        if revoke.is_some_and(|revoke| revoke.generation == *generation) {
                            member.has.remove(partition);
                        }
                    }
                }
            }
            Event::Leave(member) => {
                self.members.remove(member);
            }
            Event::Disconnected(id) => {
                let Some(member) = self.members.get_mut(id) else {
                    return;
                };
                if member.request.name.is_none() {
                    self.members.remove(id);
                    return;
                }
                member.connected = false;
                member.stalled = false;
                member.has.retain(|_, holding| holding.revoke.is_none());
            }
            Event::Stalled(member) => self.set_stalled(*member, true),
            Event::Resumed(member) => self.set_stalled(*member, false),
            Event::Topics(topics) => {
                let topic = |topic: &crate::group::Topic| ModelTopic {
                    name: topic.name.to_string(),
                    partitions: topic.partitions,
                };
                let all = topics.all().iter();
                self.topics = all.map(|of| (of.id, topic(of))).collect();
                let topics = &self.topics;
                let gone = |partition: &TopicPartition| !topics.contains_key(&partition.topic);
                for (id, member) in &mut self.members {
                    for partition in member.has.keys().filter(|at| gone(at) && member.connected) {
                        self.losses
                            .insert((*id, *partition, RevokeReason::TopicDeleted));
                    }
                    member.has.retain(|partition, _| !gone(partition));
                }
            }
            Event::Reset(partitions) => self.reset(partitions),
            Event::Heartbeat(_) | Event::Tick => {}
        }
    }

    fn set_stalled(&mut self, id: MemberId, stalled: bool) {
        if let Some(member) = self.members.get_mut(&id)
            && member.connected
        {
            member.stalled = stalled;
        }
    }

    fn join(&mut self, id: MemberId, request: &JoinRequest) {
        let mut member = ModelMember {
            request: request.clone(),
            heard_ms: self.now_ms,
            connected: true,
            stalled: false,
            has: BTreeMap::new(),
        };
        if let Some(former_id) = self.named(request) {
            let former = self.members.remove(&former_id).unwrap();
            if former.connected {
                self.expels.insert((former_id, ExpelReason::MemberReplaced));
            }
            for (partition, holding) in former.has {
                let topic = &self.topics[&partition.topic];
                if holding.revoke.is_none() && member.reads(topic) {
                    self.passes_on.insert((id, partition));
                }
            }
        }
        member.has.clear();
        self.members.insert(id, member);
    }

    fn reset(&mut self, partitions: &[TopicPartition]) {
        for (id, member) in &mut self.members {
            if !member.connected {
                continue;
            }
            for partition in partitions {
                if let Some(holding) = member.has.remove(partition) {
                    self.losses
                        .insert((*id, *partition, RevokeReason::Rebalance));
                    if holding.revoke.is_none() {
                        self.passes_on.insert((*id, *partition));
                    }
                }
            }
        }
    }

    fn pass_deadlines(&mut self) {
        let now_ms = self.now_ms;
        for (id, member) in &mut self.members {
            let losses = &mut self.losses;
            member
                .has
                .retain(|partition, holding| match holding.revoke {
                    Some(revoke) if revoke.deadline_ms <= now_ms => {
                        losses.insert((*id, *partition, revoke.reason));
                        false
                    }
                    _ => true,
                });
        }
    }

    /// Takes note of what the group says of the event, and holds it to the rules.
    pub(super) fn told(&mut self, effects: &[Effect]) {
        let rank = |effect: &Effect| match effect {
            Effect::Generation(_) => 0,
            Effect::Expel { .. } => 1,
            Effect::Lost { .. } => 2,
            Effect::Assign { .. } => 3,
            Effect::Revoke { .. } => 4,
        };
        assert!(effects.is_sorted_by_key(rank), "out of order");
        let needs_generation = effects.iter().any(|effect| rank(effect) > 1);
        if needs_generation {
            self.generation = self.generation.next();
        }
        let generations = effects.iter().filter(|effect| rank(effect) == 0);
        assert_eq!(generations.count(), usize::from(needs_generation));
        for effect in effects {
            match effect {
                Effect::Generation(generation) => assert_eq!(*generation, self.generation),
                Effect::Expel { member, reason } => {
                    assert!(self.expels.remove(&(*member, *reason)), "{effect:?}");
                }
                Effect::Lost {
                    member,
                    generation,
                    partitions,
                    reason,
                } => {
                    self.check_list(*member, *generation, partitions);
                    for partition in partitions {
                        let loss = (*member, *partition, *reason);
                        assert!(self.losses.remove(&loss), "{loss:?}");
                    }
                }
                Effect::Assign {
                    member,
                    generation,
                    partitions,
                } => {
                    self.check_list(*member, *generation, partitions);
                    for partition in partitions {
                        self.assign(*member, *partition);
                    }
                }
                Effect::Revoke {
                    member,
                    generation,
                    partitions,
                    deadline_ms,
                    reason,
                } => {
                    self.check_list(*member, *generation, partitions);
                    for partition in partitions {
                        self.revoke(*member, *partition, *deadline_ms, *reason);
                    }
                }
            }
        }
        assert!(self.expels.is_empty(), "not expelled: {:?}", self.expels);
        assert!(self.losses.is_empty(), "not lost: {:?}", self.losses);
        assert!(self.passes_on.is_empty(), "kept: {:?}", self.passes_on);
    }

    fn check_list(&self, id: MemberId, generation: Generation, list: &[TopicPartition]) {
        let member = self.members.get(&id);
        assert!(member.is_some_and(|m| m.connected), "{id} isn't there");
        assert_eq!(generation, self.generation);
        assert!(!list.is_empty());
        assert!(list.is_sorted_by(|a, b| a < b), "{list:?}");
    }

    fn assign(&mut self, id: MemberId, partition: TopicPartition) {
        let owner = self.owner(partition);
        assert_eq!(owner, None, "{partition:?} goes to {id}");
        let passes_on = self.passes_on.remove(&(id, partition));
        let topic = &self.topics[&partition.topic];
        assert!(partition.partition < topic.partitions);
        let member = &self.members[&id];
        assert!(member.reads(topic), "{id} gets {partition:?}");
        assert!(member.is_active() || passes_on, "{id} gets {partition:?}");
        let is_kept = self.passes_on.iter().any(|(_, kept)| *kept == partition);
        assert!(!is_kept, "{partition:?} goes to {id}");
        self.latest.insert(partition, id);
        let before = self.assigned.insert(partition, (self.generation, id));
        assert!(before.is_none_or(|(since, _)| since < self.generation));
        let holding = Holding {
            since: self.generation,
            revoke: None,
        };
        let member = self.members.get_mut(&id).unwrap();
        member.has.insert(partition, holding);
    }

    fn revoke(&mut self, id: MemberId, what: TopicPartition, at_ms: u64, why: RevokeReason) {
        let member = self.members.get_mut(&id).unwrap();
        let timeout_ms = u64::from(member.request.revoke_timeout_ms);
        assert_eq!(at_ms, self.now_ms + timeout_ms);
        let expected = match member.stalled {
            true => RevokeReason::MaxProcessingTime,
            false => RevokeReason::Rebalance,
        };
        assert_eq!(why, expected);
        let holding = member.has.get_mut(&what);
        let revoke = Revoke {
            generation: self.generation,
            deadline_ms: at_ms,
            reason: why,
        };
        let before = holding.expect("it has it").revoke.replace(revoke);
        assert_eq!(before, None, "{what:?} is revoked twice");
    }

    /// Who has a partition, and since when.
    pub(super) fn owner(&self, partition: TopicPartition) -> Option<(MemberId, Holding)> {
        let holders = self.members.iter();
        let mut holders = holders.filter_map(|(id, m)| Some((*id, *m.has.get(&partition)?)));
        let owner = holders.next();
        assert_eq!(holders.next(), None, "{partition:?} has two owners");
        owner
    }

    fn read_partitions(&self) -> Vec<TopicPartition> {
        let read = self
            .topics
            .iter()
            .filter(|(_, topic)| self.members.values().any(|member| member.reads(topic)));
        let numbered = read.flat_map(|(id, topic)| {
            let numbers = 0..topic.partitions;
            numbers.map(|partition| TopicPartition {
                topic: *id,
                partition,
            })
        });
        numbered.collect()
    }
}
