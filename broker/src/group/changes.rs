//! Collects what one event changes, and says it in the right order.

use std::collections::{BTreeMap, BTreeSet};

use super::{Effect, ExpelReason, Generation, MemberId, RevokeReason, TopicPartition};

/// What an event changes.
#[derive(Debug)]
pub(super) struct Changes {
    /// The generation that begins with these changes, if there are any that need
    /// one.
    generation: Generation,
    expelled: Vec<(MemberId, ExpelReason)>,
    lost: BTreeMap<(MemberId, RevokeReason), Vec<TopicPartition>>,
    revoked: BTreeMap<(MemberId, RevokeReason, u64), Vec<TopicPartition>>,
    assigned: BTreeMap<MemberId, Vec<TopicPartition>>,
    /// Became free, and goes to whom the plan says.
    freed: BTreeSet<TopicPartition>,
}

impl Changes {
    /// No changes yet of a group in generation `now`.
    pub(super) fn behind(now: Generation) -> Changes {
        Changes {
            generation: now.next(),
            expelled: Vec::new(),
            lost: BTreeMap::new(),
            revoked: BTreeMap::new(),
            assigned: BTreeMap::new(),
            freed: BTreeSet::new(),
        }
    }

    /// In which the changes are.
    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    pub(super) fn expel(&mut self, member: MemberId, reason: ExpelReason) {
        self.expelled.push((member, reason));
    }

    pub(super) fn lose(&mut self, member: MemberId, what: TopicPartition, why: RevokeReason) {
        self.lost.entry((member, why)).or_default().push(what);
    }

    pub(super) fn revoke(
        &mut self,
        member: MemberId,
        what: TopicPartition,
        deadline_ms: u64,
        why: RevokeReason,
    ) {
        let key = (member, why, deadline_ms);
        self.revoked.entry(key).or_default().push(what);
    }

    pub(super) fn assign(&mut self, member: MemberId, what: TopicPartition) {
        self.assigned.entry(member).or_default().push(what);
    }

    pub(super) fn free(&mut self, what: TopicPartition) {
        self.freed.insert(what);
    }

    /// What became free, in ascending order.
    pub(super) fn take_freed(&mut self) -> BTreeSet<TopicPartition> {
        std::mem::take(&mut self.freed)
    }

    /// The effects in their order, and the generation that the group is in then.
    pub(super) fn into_effects(self) -> (Option<Generation>, Vec<Effect>) {
        let silent = self.lost.is_empty() && self.revoked.is_empty() && self.assigned.is_empty();
        let generation = self.generation;
        let mut effects = Vec::new();
        if !silent {
            effects.push(Effect::Generation(generation));
        }
        for (member, reason) in self.expelled {
            effects.push(Effect::Expel { member, reason });
        }
        for ((member, reason), partitions) in self.lost {
            effects.push(Effect::Lost {
                member,
                generation,
                partitions: ascending(partitions),
                reason,
            });
        }
        for (member, partitions) in self.assigned {
            effects.push(Effect::Assign {
                member,
                generation,
                partitions: ascending(partitions),
            });
        }
        for ((member, reason, deadline_ms), partitions) in self.revoked {
            effects.push(Effect::Revoke {
                member,
                generation,
                partitions: ascending(partitions),
                deadline_ms,
                reason,
            });
        }
        ((!silent).then_some(generation), effects)
    }
}

fn ascending(mut partitions: Vec<TopicPartition>) -> Vec<TopicPartition> {
    partitions.sort_unstable();
    partitions
}
