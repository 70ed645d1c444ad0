//! The topics that there are, for all groups to share.

use std::collections::HashSet;
use std::sync::Arc;

use crate::group::{Topic, TopicList};
use crate::model::TopicId;

/// The topics that there are. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct KnownTopics {
    list: TopicList,
    ids: Arc<HashSet<TopicId>>,
}

impl KnownTopics {
    /// These topics, whose names and ids differ.
    pub fn new(topics: Vec<Topic>) -> KnownTopics {
        KnownTopics {
            ids: Arc::new(topics.iter().map(|topic| topic.id).collect()),
            list: TopicList::new(topics),
        }
    }

    pub(super) fn list(&self) -> &TopicList {
        &self.list
    }

    pub(super) fn contains(&self, topic: TopicId) -> bool {
        self.ids.contains(&topic)
    }
}
