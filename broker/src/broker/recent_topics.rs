//! The topics that one sender wrote to lately. Who asks all topics for one takes a lock
//! and counts on a counter that every sender shares, which with a batch for each record
//! is a tenth of what it takes to check it.
//!
//! Invariants: the index has each topic of the list by its name, and nothing else.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Broker, LookupError, Topic};
use crate::limits;
use crate::model::TopicName;

/// How many there are before anybody looks for those that are gone.
pub(super) const SWEEP_FROM: usize = 16;

/// The topics of one sender.
#[derive(Debug, Default)]
pub(super) struct RecentTopics {
    /// In the order of their first batches.
    topics: Vec<Arc<Topic>>,
    by_name: HashMap<TopicName, usize>,
    /// Where the last one was found.
    last: usize,
    /// Those that are gone are let go of when there are so many.
    sweep_at: usize,
}

impl RecentTopics {
    /// The topic of this name, as it is now.
    pub(super) fn get(&mut self, broker: &Broker, name: &str) -> Result<&Arc<Topic>, LookupError> {
        let at = match self.find(name) {
            Some(at) if !self.topics[at].is_retired() => at,
            Some(_) => {
                self.forget(|topic| !topic.is_retired());
                self.learn(broker.topic(name)?)
            }
            None => self.learn(broker.topic(name)?),
        };
        self.last = at;
        Ok(&self.topics[at])
    }

    /// How many it holds.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.topics.len()
    }

    /// Likely it is the last one again; or else the one behind it, where a sender goes
    /// round its topics.
    fn find(&self, name: &str) -> Option<usize> {
        let is_at = |at: &usize| {
            let topic = self.topics.get(*at);
            topic.is_some_and(|topic| topic.meta().name.as_str() == name)
        };
        let next = match self.last + 1 {
            end if end >= self.topics.len() => 0,
            next => next,
        };
        let near = [self.last, next].into_iter().find(is_at);
        near.or_else(|| self.by_name.get(name).copied())
    }

    fn learn(&mut self, topic: Arc<Topic>) -> usize {
        if self.topics.len() >= self.sweep_at.max(SWEEP_FROM) {
            self.forget(|topic| !topic.is_retired());
            self.sweep_at = 2 * self.topics.len();
        }
        if self.topics.len() >= limits::TOPICS_PER_SENDER {
            self.forget(|_| false);
        }
        let at = self.topics.len();
        self.by_name.insert(topic.meta().name.clone(), at);
        self.topics.push(topic);
        at
    }

    fn forget(&mut self, keep: impl Fn(&Topic) -> bool) {
        self.topics.retain(|topic| keep(topic));
        let names = self.topics.iter().map(|topic| topic.meta().name.clone());
        self.by_name = names.zip(0..).collect();
    }
}
