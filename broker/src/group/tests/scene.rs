//! A group whose members do as they are told.

use crate::group::{
    Effect, Event, Generation, Group, JoinRequest, MemberId, MemberName, RevokeReason,
    Subscription, Topic, TopicList, TopicPartition,
};
use crate::model::{TopicId, TopicName};

pub(super) fn topic(id: u64, name: &str, partitions: u32) -> Topic {
    Topic {
        id: TopicId(id),
        name: TopicName::try_from(name).unwrap(),
        partitions,
    }
}

pub(super) fn at(topic: u64, partition: u32) -> TopicPartition {
    TopicPartition {
        topic: TopicId(topic),
        partition,
    }
}

/// Partitions of topic 1.
pub(super) fn of<const N: usize>(partitions: [u32; N]) -> Vec<TopicPartition> {
    partitions.map(|partition| at(1, partition)).into()
}

pub(super) fn request(name: Option<&str>, topics: &[&str]) -> JoinRequest {
    JoinRequest {
        name: name.map(|name| MemberName::try_from(name).unwrap()),
        subscription: Subscription::new(topics.iter().copied()).unwrap(),
        session_timeout_ms: 10_000,
        revoke_timeout_ms: 5_000,
    }
}

pub(super) fn generation(generation: u64) -> Effect {
    Effect::Generation(Generation(generation))
}

pub(super) fn assign(member: u64, generation: u64, partitions: Vec<TopicPartition>) -> Effect {
    Effect::Assign {
        member: MemberId(member),
        generation: Generation(generation),
        partitions,
    }
}

pub(super) fn lost(
    member: u64,
    generation: u64,
    partitions: Vec<TopicPartition>,
    reason: RevokeReason,
) -> Effect {
    Effect::Lost {
        member: MemberId(member),
        generation: Generation(generation),
        partitions,
        reason,
    }
}

pub(super) struct Scene {
    pub(super) group: Group,
    pub(super) now_ms: u64,
}

impl Scene {
    /// Topic 1 is called `t`.
    pub(super) fn new(partitions: u32) -> Scene {
        Scene::with_topics(vec![topic(1, "t", partitions)])
    }

    pub(super) fn with_topics(topics: Vec<Topic>) -> Scene {
        let mut scene = Scene {
            group: Group::new(Generation::ZERO),
            now_ms: 0,
        };
        let effects = scene.topics(topics);
        assert_eq!(effects, []);
        scene
    }

    pub(super) fn tell(&mut self, event: Event) -> Vec<Effect> {
        self.group.handle(event, self.now_ms)
    }

    pub(super) fn topics(&mut self, topics: Vec<Topic>) -> Vec<Effect> {
        self.tell(Event::Topics(TopicList::new(topics)))
    }

    pub(super) fn request(&mut self, member: u64, request: JoinRequest) -> Vec<Effect> {
        self.tell(Event::Join {
            member: MemberId(member),
            request,
        })
    }

    /// An unnamed member of everything.
    pub(super) fn join(&mut self, member: u64) -> Vec<Effect> {
        self.request(member, request(None, &["*"]))
    }

    /// A named member of everything.
    pub(super) fn join_as(&mut self, member: u64, name: &str) -> Vec<Effect> {
        self.request(member, request(Some(name), &["*"]))
    }

    /// A member answers what it was asked last.
    pub(super) fn revoked(&mut self, member: u64, partitions: &[TopicPartition]) -> Vec<Effect> {
        let asked = |&partition| {
            let revoke = self.group.owner(partition).and_then(|owner| owner.revoke);
            (partition, revoke.map_or(Generation(1), |revoke| revoke.0))
        };
        let partitions = partitions.iter().map(asked).collect();
        self.tell(Event::Revoked {
            member: MemberId(member),
            partitions,
        })
    }

    pub(super) fn heartbeat(&mut self, member: u64) {
        assert_eq!(self.tell(Event::Heartbeat(MemberId(member))), []);
    }

    /// What happens within so long, by itself.
    pub(super) fn wait(&mut self, ms: u64) -> Vec<Effect> {
        let until_ms = self.now_ms + ms;
        let mut effects = Vec::new();
        while let Some(at) = self.group.next_deadline().filter(|at| *at <= until_ms) {
            self.now_ms = at.max(self.now_ms);
            effects.extend(self.tell(Event::Tick));
        }
        self.now_ms = until_ms;
        effects
    }

    /// Waits, while all members answer at once and are heard of.
    pub(super) fn settle(&mut self) -> Vec<Effect> {
        let mut effects = self.wait(250);
        for member in self.connected() {
            effects.extend(self.tell(Event::Heartbeat(member)));
        }
        let mut next = 0;
        while let Some(effect) = effects.get(next) {
            if let Effect::Revoke {
                member, partitions, ..
            } = effect.clone()
            {
                effects.extend(self.revoked(member.0, &partitions));
            }
            next += 1;
        }
        effects
    }

    fn connected(&self) -> Vec<MemberId> {
        let connected = self.group.members().filter(|member| member.connected);
        connected.map(|member| member.id).collect()
    }

    /// What a member has, whether it is to give it back or not.
    pub(super) fn has(&self, member: u64) -> Vec<TopicPartition> {
        let all = self.group.partitions();
        let owned = all.filter(|(_, owner)| owner.is_some_and(|o| o.member == MemberId(member)));
        owned.map(|(partition, _)| partition).collect()
    }
}

/// How many partitions are revoked.
pub(super) fn moves(effects: &[Effect]) -> usize {
    let revoked = effects.iter().map(|effect| match effect {
        Effect::Revoke { partitions, .. } => partitions.len(),
        _ => 0,
    });
    revoked.sum()
}

/// The one revoke among these effects: of whom, what, until when, and why.
pub(super) fn the_revoke(effects: &[Effect]) -> (u64, Vec<TopicPartition>, u64, RevokeReason) {
    let revokes = effects.iter().filter_map(|effect| match effect {
        Effect::Revoke {
            member,
            partitions,
            deadline_ms,
            reason,
            ..
        } => Some((member.0, partitions.clone(), *deadline_ms, *reason)),
        _ => None,
    });
    let revokes: Vec<_> = revokes.collect();
    let [revoke] = &revokes[..] else {
        panic!("{revokes:?}");
    };
    revoke.clone()
}
