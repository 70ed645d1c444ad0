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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::tests::random::Random;
    use crate::model::{TopicId, TopicName};

    fn subscription(names: &[&str]) -> Subscription {
        Subscription::new(names.iter().copied()).unwrap()
    }

    fn list(names: &[&str]) -> TopicList {
        let topic = |(id, name): (u64, &&str)| Topic {
            id: TopicId(id),
            name: TopicName::try_from(*name).unwrap(),
            partitions: 1,
        };
        TopicList::new((0..).zip(names).map(topic).collect())
    }

    #[test]
    fn a_star_stands_for_any_characters_or_none() {
        let cases = [
            ("orders", "orders", true),
            ("orders", "orders.eu", false),
            ("orders.*", "orders.eu", true),
            ("orders.*", "orders.", true),
            ("orders.*", "orders", false),
            ("*", "a", true),
            ("**", "a", true),
            ("*.eu", "orders.eu", true),
            ("*.eu", ".eu", true),
            ("*.eu", "orders.eu.old", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "a.b.b.c", true),
            ("a*b*c", "acb", false),
            ("*ab*ab*", "abab", true),
            ("*ab*ab*", "aba", false),
            ("a*bc*c", "abc", false),
        ];
        for (pattern, name, fits) in cases {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn matching_is_the_same_as_trying_everything() {
        fn plainly(pattern: &[u8], name: &[u8]) -> bool {
            match pattern.split_first() {
                None => name.is_empty(),
                Some((b'*', rest)) => (0..=name.len()).any(|at| plainly(rest, &name[at..])),
                Some((first, rest)) => name.first() == Some(first) && plainly(rest, &name[1..]),
            }
        }
        let mut random = Random::new(1);
        let mut some = |letters: &[char], most: u64| -> String {
            let count = random.between(0, most);
            (0..count).map(|_| *random.one_of(letters)).collect()
        };
        for _ in 0..20_000 {
            let pattern = some(&['a', 'b', '*'], 8);
            let name = some(&['a', 'b'], 10);
            let expected = plainly(pattern.as_bytes(), name.as_bytes());
            assert_eq!(matches(&pattern, &name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn topics_of_a_list_are_selected_as_they_fit() {
        let names = ["a", "ab", "abc", "b", "ba", "bc", "c"];
        let topics = list(&names);
        for patterns in [
            &["ab"][..],
            &["a*"],
            &["*c"],
            &["b*", "c", "x"],
            &["a*c", "b*a"],
            &["zzz", "aa*"],
        ] {
            let subscription = subscription(patterns);
            let mut selected: Vec<&str> = subscription
                .select(&topics)
                .map(|topic| topic.name.as_str())
                .collect();
            selected.sort_unstable();
            let fitting = names.iter().copied().filter(|name| subscription.fits(name));
            assert!(fitting.eq(selected), "{patterns:?}");
        }
    }

    #[test]
    fn the_brokers_own_topics_fit_nothing() {
        for patterns in [&["*"][..], &["_*"], &["*groups", "*_*"]] {
            assert!(!subscription(patterns).fits("__groups"));
        }
        assert!(subscription(&["_*"]).fits("_groups"));
    }

    #[test]
    fn the_order_and_number_of_equal_names_does_not_matter() {
        assert_eq!(subscription(&["b", "a*", "b"]), subscription(&["a*", "b"]));
        assert_ne!(subscription(&["a"]), subscription(&["a*"]));
    }

    #[test]
    fn names_are_held_to_the_rules() {
        use NameError::{Character, Length, Reserved};
        let longest = "*".repeat(200);
        assert!(Subscription::new([longest.as_str()]).is_ok());
        let too_long = "*".repeat(201);
        let bad = [
            ("", Length),
            (&too_long, Length),
            ("a b", Character),
            ("a?", Character),
            ("__*", Reserved),
            (".*", Reserved),
        ];
        for (name, cause) in bad {
            let error = SubscriptionError::Name {
                name: name.to_owned(),
                cause,
            };
            assert_eq!(Subscription::new(["a", name]), Err(error));
        }
        let error = Subscription::new(["a b"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"a b\" is neither a topic's name nor a pattern of names: \
             it has other characters than A-Z a-z 0-9 . _ -"
        );
    }

    #[test]
    fn there_are_as_many_names_as_are_taken() {
        let names: Vec<String> = (0..101).map(|at| format!("t{at}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert!(Subscription::new(names[..100].iter().copied()).is_ok());
        for bad in [&names[..], &[]] {
            let error = Subscription::new(bad.iter().copied());
            assert_eq!(error, Err(SubscriptionError::Count));
        }
    }
}
