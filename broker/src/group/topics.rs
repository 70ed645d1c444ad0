//! The topics that there are.

use std::cmp::Ordering;
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

    /// What is different from a former list.
    pub(super) fn since<'a>(&'a self, former: &TopicList) -> Difference<'a> {
        let mut difference = Difference::default();
        let mut before = former.all().iter().peekable();
        let mut now = self.all().iter().peekable();
        loop {
            // Both are in the order of names: of two names, the lower one is only in
            // its own list.
            let order = match (before.peek(), now.peek()) {
                (None, None) => return difference,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(before), Some(now)) if before.id == now.id => Ordering::Equal,
                (Some(before), Some(now)) => before.name.cmp(&now.name),
            };
            let before = before.next_if(|_| order.is_le());
            let now = now.next_if(|_| order.is_ge());
            match (before, now) {
                (Some(before), Some(now)) if before.id == now.id => {
                    let grows = now.partitions > before.partitions;
                    difference.grown.extend(grows.then_some(now));
                }
                (before, now) => {
                    difference.gone.extend(before.map(|topic| topic.id));
                    difference.grown.extend(now);
                }
            }
        }
    }
}

/// What is different between two lists of topics.
#[derive(Debug, Default)]
pub(super) struct Difference<'a> {
    /// Are there no longer.
    pub(super) gone: Vec<TopicId>,
    /// Are new, or have more partitions.
    pub(super) grown: Vec<&'a Topic>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(topics: &[(u64, &str, u32)]) -> TopicList {
        let topics = topics.iter().map(|&(id, name, partitions)| Topic {
            id: TopicId(id),
            name: TopicName::try_from(name).unwrap(),
            partitions,
        });
        TopicList::new(topics.collect())
    }

    #[test]
    fn topics_are_found_by_name_and_by_what_it_begins_with() {
        let list = list(&[(3, "b", 1), (1, "a.b", 1), (2, "a", 1), (4, "a-", 1)]);
        assert_eq!(list.named("a").map(|topic| topic.id), Some(TopicId(2)));
        assert_eq!(list.named("a."), None);
        let begins = |prefix| -> Vec<u64> {
            let topics = list.beginning_with(prefix).iter();
            topics.map(|topic| topic.id.0).collect()
        };
        assert_eq!(begins("a"), [2, 4, 1]);
        assert_eq!(begins("a."), [1]);
        assert_eq!(begins(""), [2, 4, 1, 3]);
        assert!(begins("c").is_empty());
    }

    #[test]
    fn what_is_gone_and_what_has_grown_is_told_from_what_is_the_same() {
        let before = list(&[(1, "a", 1), (2, "b", 1), (3, "c", 2), (4, "d", 1)]);
        let now = list(&[
            (9, "0", 1),
            (2, "b", 1),
            (3, "c", 5),
            (8, "d", 1),
            (7, "e", 1),
        ]);
        let difference = now.since(&before);
        assert_eq!(difference.gone, [TopicId(1), TopicId(4)]);
        let grown: Vec<u64> = difference.grown.iter().map(|topic| topic.id.0).collect();
        assert_eq!(grown, [9, 3, 8, 7]);
        let same = now.since(&now);
        assert!(same.gone.is_empty() && same.grown.is_empty());
        assert_eq!(TopicList::default().since(&now).gone.len(), 5);
    }
}
