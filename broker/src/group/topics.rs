//! The topics that there are.

use std::sync::Arc;

use crate::model::{TopicId, TopicName};

/// A topic, as far as groups care.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Which of the topics that had this name.
    pub id: TopicId,
    /// Its name.
    pub name: TopicName,
    /// How many partitions it has.
    pub partitions: u32,
}

/// All topics, in the order of their names. Cheap to clone: groups share it.
#[derive(Debug, Clone, Default)]
pub struct TopicList(Arc<[Topic]>);

impl TopicList {
    /// The list of these topics, whose names and ids differ.
    pub fn new(mut topics: Vec<Topic>) -> TopicList {
        topics.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        TopicList(topics.into())
    }

    /// All of them.
    pub fn all(&self) -> &[Topic] {
        &self.0
    }

    /// The topic of this name.
    pub fn named(&self, name: &str) -> Option<&Topic> {
        let at = self
            .0
            .binary_search_by(|topic| topic.name.as_str().cmp(name));
        at.ok().map(|at| &self.0[at])
    }

    /// The topics whose names begin with `prefix`.
    pub fn beginning_with(&self, prefix: &str) -> &[Topic] {
        let from = self.0.partition_point(|topic| topic.name.as_str() < prefix);
        let count = self.0[from..].partition_point(|topic| topic.name.as_str().starts_with(prefix));
        &self.0[from..from + count]
    }
}
