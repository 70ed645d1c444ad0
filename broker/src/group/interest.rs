//! Members with equal subscriptions share an interest: which topics they read is
//! found out once for all of them.

use std::collections::BTreeMap;

use super::Subscription;
use crate::limits::SUBSCRIPTIONS_PER_GROUP;

/// One of the different subscriptions of a group; below
/// [`SUBSCRIPTIONS_PER_GROUP`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct InterestId(u8);

impl InterestId {
    /// As an index.
    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }
}

const WORDS: usize = SUBSCRIPTIONS_PER_GROUP.div_ceil(u64::BITS as usize);

/// Some interests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct InterestSet([u64; WORDS]);

impl InterestSet {
    pub(super) fn insert(&mut self, interest: InterestId) {
        self.0[interest.index() / 64] |= 1 << (interest.index() % 64);
    }

    /// Adds those of another set.
    pub(super) fn extend(&mut self, other: InterestSet) {
        for (word, other) in self.0.iter_mut().zip(other.0) {
            *word |= other;
        }
    }

    pub(super) fn remove(&mut self, interest: InterestId) {
        self.0[interest.index() / 64] &= !(1 << (interest.index() % 64));
    }

    pub(super) fn contains(&self, interest: InterestId) -> bool {
        self.0[interest.index() / 64] & (1 << (interest.index() % 64)) != 0
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == InterestSet::default()
    }
}

impl From<InterestId> for InterestSet {
    fn from(interest: InterestId) -> InterestSet {
        let mut set = InterestSet::default();
        set.insert(interest);
        set
    }
}

#[derive(Debug)]
struct Interest {
    subscription: Subscription,
    /// How many share it; at least one.
    members: usize,
}

/// The interests of a group.
#[derive(Debug, Default)]
pub(super) struct Interests {
    /// By id; what nobody shares any more is absent, and its id is used again.
    all: Vec<Option<Interest>>,
    by_subscription: BTreeMap<Subscription, InterestId>,
}

impl Interests {
    /// Whether a member with this subscription fits in.
    pub(super) fn admits(&self, subscription: &Subscription) -> bool {
        self.by_subscription.len() < SUBSCRIPTIONS_PER_GROUP
            || self.by_subscription.contains_key(subscription)
    }

    /// One more member has this subscription, which is admitted. Says whether it is
    /// the first.
    pub(super) fn enter(&mut self, subscription: &Subscription) -> (InterestId, bool) {
        if let Some(&id) = self.by_subscription.get(subscription) {
            let interest = self.all[id.index()].as_mut();
            interest.expect("it is known by its subscription").members += 1;
            return (id, false);
        }
        let at = self.all.iter().position(Option::is_none);
        let at = at.unwrap_or(self.all.len());
        let id = InterestId(u8::try_from(at).expect("it was admitted"));
        if at == self.all.len() {
            self.all.push(None);
        }
        self.all[at] = Some(Interest {
            subscription: subscription.clone(),
            members: 1,
        });
        self.by_subscription.insert(subscription.clone(), id);
        (id, true)
    }

    /// A member that shared this interest is gone. Says whether it was the last.
    pub(super) fn leave(&mut self, id: InterestId) -> bool {
        let slot = &mut self.all[id.index()];
        let interest = slot.as_mut().expect("a member shares it");
        interest.members -= 1;
        if interest.members > 0 {
            return false;
        }
        self.by_subscription.remove(&interest.subscription);
        *slot = None;
        true
    }

    /// The subscription of those who share this interest.
    pub(super) fn subscription(&self, id: InterestId) -> &Subscription {
        let interest = self.all[id.index()].as_ref();
        &interest.expect("a member shares it").subscription
    }

    /// Those that fit a topic of this name.
    pub(super) fn that_fit(&self, topic: &str) -> InterestSet {
        let mut set = InterestSet::default();
        for (subscription, &id) in &self.by_subscription {
            if subscription.fits(topic) {
                set.insert(id);
            }
        }
        set
    }
}
