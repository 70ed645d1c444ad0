//! The partitions of the topics that a group reads, and who has them.
//!
//! The life of a partition: what it is, what happens, and what it is then.
//!
//! | | free | held | being given back | kept for a member that is away |
//! |---|---|---|---|---|
//! | the plan gives it to a member | held; `Assign` | – | – | – |
//! | the plan wants it elsewhere | – | being given back; `Revoke` | the plan is remembered | – |
//! | the plan wants it where it is | – | nothing | the plan is remembered: it comes back as a new assignment | – |
//! | its owner says `Revoked` | – | nothing: it was not asked for | free | – |
//! | its owner says so to an earlier `Revoke` | – | nothing | nothing: it has got it anew since | – |
//! | the deadline passes | – | – | free; `Lost` | – |
//! | its owner leaves, expires, or is gone without a name | – | free | free | free |
//! | its owner is gone, and has a name | – | kept | free: nobody can commit it any more | – |
//! | its owner comes again, or is replaced by its name | – | held by the new one; `Assign` | free | held by the new one; `Assign` |
//! | the group begins anew with it | nothing | held by the same; `Lost`, `Assign` | free; `Lost` | nothing: it begins there anyway |
//! | its topic is deleted, or nobody reads it | gone | gone; `Lost` | gone; `Lost` | gone |
//!
//! What becomes free goes to whom the plan says in the same step, unless a new
//! plan is due: then it waits for that.
//!
//! Invariants:
//! - A partition is assigned only when it is free, or passes to the same member's
//!   new stream: it never has two owners in one generation.
//! - An owner reads the topic: what it doesn't read it doesn't have.

use std::collections::BTreeMap;

use super::interest::{InterestId, InterestSet};
use super::{Generation, MemberId, RevokeReason, TopicPartition};
use crate::model::TopicId;

/// What a partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// Nobody has it.
    Free,
    /// A member has it. It is kept for that member while it is away.
    Held(MemberId),
    /// A member has it, and is to give it back.
    Revoking(Revoking),
}

/// A partition that is being given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Revoking {
    pub(super) owner: MemberId,
    /// In which this was decided.
    pub(super) generation: Generation,
    /// From when on it is lost.
    pub(super) deadline_ms: u64,
    pub(super) reason: RevokeReason,
}

/// One partition.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    hold: Hold,
    /// The generation in which it was assigned last; 0 when it never was.
    since: Generation,
    /// Who had it before its owner, or last when it is free.
    previous: Option<MemberId>,
    /// Who gets it once it is free, according to the plan.
    next: Option<MemberId>,
}

impl Slot {
    const NEW: Slot = Slot {
        hold: Hold::Free,
        since: Generation::ZERO,
        previous: None,
        next: None,
    };

    pub(super) fn hold(&self) -> Hold {
        self.hold
    }

    pub(super) fn owner(&self) -> Option<MemberId> {
        match self.hold {
            Hold::Free => None,
            Hold::Held(owner) | Hold::Revoking(Revoking { owner, .. }) => Some(owner),
        }
    }

    /// How this member is to give it back, if it has it and is to.
    pub(super) fn revoked_from(&self, member: MemberId) -> Option<Revoking> {
        match self.hold {
            Hold::Revoking(revoking) if revoking.owner == member => Some(revoking),
            Hold::Free | Hold::Held(_) | Hold::Revoking(_) => None,
        }
    }

    /// In which generation it was assigned last.
    pub(super) fn since(&self) -> Generation {
        self.since
    }

    pub(super) fn previous(&self) -> Option<MemberId> {
        self.previous
    }

    /// Who gets it once it is free.
    pub(super) fn next(&self) -> Option<MemberId> {
        self.next
    }

    pub(super) fn plan(&mut self, next: Option<MemberId>) {
        self.next = next;
    }

    /// Nobody has it any more.
    pub(super) fn release(&mut self) {
        self.previous = self.owner().or(self.previous);
        self.hold = Hold::Free;
    }

    /// A free one is assigned to a member.
    pub(super) fn assign(&mut self, member: MemberId, generation: Generation) {
        assert!(self.hold == Hold::Free, "a partition has one owner");
        assert!(self.since < generation, "generations grow");
        self.hold = Hold::Held(member);
        self.since = generation;
        self.next = None;
    }

    /// Its owner is to give it back.
    fn revoke(&mut self, generation: Generation, deadline_ms: u64, reason: RevokeReason) {
        let Hold::Held(owner) = self.hold else {
            unreachable!("only what is held can be given back");
        };
        self.hold = Hold::Revoking(Revoking {
            owner,
            generation,
            deadline_ms,
            reason,
        });
    }
}

/// A topic that is read.
#[derive(Debug)]
struct Topic {
    readers: InterestSet,
    slots: Vec<Slot>,
}

/// All partitions of the topics that somebody reads.
#[derive(Debug, Default)]
pub(super) struct Partitions {
    topics: BTreeMap<TopicId, Topic>,
    /// No revoke ends before this by its deadline.
    deadline_ms: Option<u64>,
}

impl Partitions {
    pub(super) fn get(&self, partition: TopicPartition) -> Option<&Slot> {
        let number = usize::try_from(partition.partition).ok()?;
        self.topics.get(&partition.topic)?.slots.get(number)
    }

    pub(super) fn get_mut(&mut self, partition: TopicPartition) -> Option<&mut Slot> {
        let number = usize::try_from(partition.partition).ok()?;
        self.topics.get_mut(&partition.topic)?.slots.get_mut(number)
    }

    /// In ascending order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (TopicPartition, InterestSet, &Slot)> {
        self.topics.iter().flat_map(|(id, topic)| {
            let numbered = (0..).zip(&topic.slots);
            numbered.map(|(number, slot)| (at(*id, number), topic.readers, slot))
        })
    }

    /// In ascending order.
    pub(super) fn iter_mut(
        &mut self,
    ) -> impl Iterator<Item = (TopicPartition, InterestSet, &mut Slot)> {
        self.topics.iter_mut().flat_map(|(id, topic)| {
            let readers = topic.readers;
            let numbered = (0..).zip(&mut topic.slots);
            numbered.map(move |(number, slot)| (at(*id, number), readers, slot))
        })
    }

    /// Some more read a topic, which has so many partitions.
    pub(super) fn read(&mut self, id: TopicId, partitions: u32, readers: InterestSet) {
        let count = usize::try_from(partitions).unwrap_or(usize::MAX);
        let topic = self.topics.entry(id).or_insert_with(|| Topic {
            readers: InterestSet::default(),
            slots: Vec::new(),
        });
        topic.readers.extend(readers);
        if count > topic.slots.len() {
            topic.slots.resize(count, Slot::NEW);
        }
    }

    /// Nobody shares this interest any more; what nobody reads then is dropped.
    /// None of it has an owner.
    pub(super) fn forget_interest(&mut self, interest: InterestId) {
        self.topics.retain(|_, topic| {
            topic.readers.remove(interest);
            !topic.readers.is_empty()
        });
    }

    /// A topic is gone; so are its partitions, if it was read.
    pub(super) fn remove(
        &mut self,
        id: TopicId,
    ) -> impl Iterator<Item = (TopicPartition, Slot)> + use<> {
        let slots = self.topics.remove(&id).map(|topic| topic.slots);
        let numbered = (0..).zip(slots.unwrap_or_default());
        numbered.map(move |(number, slot)| (at(id, number), slot))
    }

    /// The owner of a partition is to give it back until the deadline.
    pub(super) fn revoke(
        &mut self,
        partition: TopicPartition,
        generation: Generation,
        deadline_ms: u64,
        reason: RevokeReason,
    ) {
        let slot = self.get_mut(partition).expect("it is planned");
        slot.revoke(generation, deadline_ms, reason);
        self.deadline_ms = Some(
            self.deadline_ms
                .map_or(deadline_ms, |at| at.min(deadline_ms)),
        );
    }

    /// When it has to be looked which revokes have ended by their deadline.
    pub(super) fn next_deadline_ms(&self) -> Option<u64> {
        self.deadline_ms
    }

    /// Takes the partitions away that were not given back in time.
    pub(super) fn end_revokes(&mut self, now_ms: u64) -> Vec<(TopicPartition, Revoking)> {
        if self.deadline_ms.is_none_or(|at| now_ms < at) {
            return Vec::new();
        }
        let mut ended = Vec::new();
        let mut earliest: Option<u64> = None;
        for (partition, _, slot) in self.iter_mut() {
            let Hold::Revoking(revoking) = slot.hold else {
                continue;
            };
            if revoking.deadline_ms <= now_ms {
                slot.release();
                ended.push((partition, revoking));
            } else {
                let at = revoking.deadline_ms;
                earliest = Some(earliest.map_or(at, |earliest| earliest.min(at)));
            }
        }
        self.deadline_ms = earliest;
        ended
    }
}

fn at(topic: TopicId, partition: u32) -> TopicPartition {
    TopicPartition { topic, partition }
}
