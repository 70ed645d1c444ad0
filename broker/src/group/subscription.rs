//! What a member reads: names of topics, and patterns of names.

use std::slice;
use std::sync::Arc;

use super::{Topic, TopicList};
use crate::limits;
use crate::model::{NameError, check_name};

/// Names and patterns, each once, in ascending order. In a pattern, `*` stands for
/// any characters, or none. Equal ones fit the same topics. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subscription(Arc<[Box<str>]>);

/// Why a list of names and patterns is none to subscribe to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubscriptionError {
    /// None, or too many.
    #[error(
        "a member reads {} to {} topics and patterns",
        limits::SUBSCRIPTIONS_PER_MEMBER.start(),
        limits::SUBSCRIPTIONS_PER_MEMBER.end()
    )]
    Count,
    /// This one can't be the name of a topic, nor a pattern that fits any.
    #[error("{name:?} is neither a topic's name nor a pattern of names: it {cause}")]
    Name {
        /// As it was asked for.
        name: String,
        /// What is wrong with it.
        cause: NameError,
    },
}

impl Subscription {
    /// A subscription to topics with these names, and to those that fit a pattern.
    pub fn new<'a>(
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Subscription, SubscriptionError> {
        let mut checked: Vec<Box<str>> = Vec::new();
        let mut count = 0;
        for name in names {
            count += 1;
            if count > *limits::SUBSCRIPTIONS_PER_MEMBER.end() {
                return Err(SubscriptionError::Count);
            }
            check_name(name, &limits::TOPIC_NAME_BYTES, b"*").map_err(|cause| {
                SubscriptionError::Name {
                    name: name.to_owned(),
                    cause,
                }
            })?;
            checked.push(name.into());
        }
        if !limits::SUBSCRIPTIONS_PER_MEMBER.contains(&count) {
            return Err(SubscriptionError::Count);
        }
        checked.sort_unstable();
        checked.dedup();
        Ok(Subscription(checked.into()))
    }

    /// The names and patterns, as they were asked for.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(|name| &**name)
    }

    /// Whether a topic of this name is read. The broker's own never are.
    pub fn fits(&self, topic: &str) -> bool {
        !topic.starts_with("__") && self.names().any(|pattern| matches(pattern, topic))
    }

    /// The topics of the list that fit; one that several patterns fit may come
    /// several times.
    pub(super) fn select<'a>(&self, topics: &'a TopicList) -> impl Iterator<Item = &'a Topic> {
        self.names().flat_map(move |pattern| {
            let candidates = match pattern.split_once('*') {
                Some((prefix, _)) => topics.beginning_with(prefix),
                None => topics
                    .named(pattern)
                    .map(slice::from_ref)
                    .unwrap_or_default(),
            };
            let fits = move |topic: &&Topic| matches(pattern, topic.name.as_str());
            candidates.iter().filter(fits)
        })
    }
}

/// Whether `name` fits `pattern`, in which each `*` stands for any characters. Each
/// piece between stars is looked for once, at the first place where it fits: a
/// later place leaves less for those that follow.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((prefix, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let (middle, suffix) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(name) = name.strip_prefix(prefix) else {
        return false;
    };
    let Some(mut name) = name.strip_suffix(suffix) else {
        return false;
    };
    for piece in middle.split('*') {
        let Some(at) = name.find(piece) else {
            return false;
        };
        name = &name[at + piece.len()..];
    }
    true
}
