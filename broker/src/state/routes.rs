//! From a key to those who want to hear of it, without asking each of them.
//!
//! Prefixes are looked up by their lengths: as many hashes for each key as there are
//! different lengths among the prefixes that are watched, however many watchers
//! there are.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::filter::Filter;

/// A watcher, as long as it is registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatcherId(pub u64);

/// Who wants to hear of which key.
#[derive(Debug, Default)]
pub struct Routes {
    by_prefix: HashMap<Bytes, Vec<WatcherId>>,
    /// How many different prefixes there are of each length.
    lengths: BTreeMap<usize, usize>,
    by_key: HashMap<Bytes, Vec<WatcherId>>,
}

impl Routes {
    /// Adds a watcher.
    pub fn add(&mut self, watcher: WatcherId, filter: &Filter) {
        match filter {
            Filter::Prefix(prefix) => {
                let watchers = self.by_prefix.entry(prefix.clone()).or_default();
                if watchers.is_empty() {
                    *self.lengths.entry(prefix.len()).or_default() += 1;
                }
                watchers.push(watcher);
            }
            Filter::Keys(keys) => {
                for key in keys {
                    self.by_key.entry(key.clone()).or_default().push(watcher);
                }
            }
        }
    }

    /// Removes a watcher that was added with this filter.
    pub fn remove(&mut self, watcher: WatcherId, filter: &Filter) {
        match filter {
            Filter::Prefix(prefix) => {
                if take(&mut self.by_prefix, prefix, watcher)
                    && let Some(prefixes) = self.lengths.get_mut(&prefix.len())
                {
                    *prefixes -= 1;
                    if *prefixes == 0 {
                        self.lengths.remove(&prefix.len());
                    }
                }
            }
            Filter::Keys(keys) => {
                for key in keys {
                    take(&mut self.by_key, key, watcher);
                }
            }
        }
    }

    /// Whether nobody wants anything.
    pub fn is_empty(&self) -> bool {
        self.by_prefix.is_empty() && self.by_key.is_empty()
    }

    /// Those who want to hear of a key, each once.
    pub fn watchers<'a>(&'a self, key: &'a [u8]) -> impl Iterator<Item = WatcherId> + 'a {
        let fitting = self.lengths.range(..=key.len());
        let of_prefix = move |(&len, _): (&usize, &usize)| self.by_prefix.get(&key[..len]);
        let by_prefix = fitting.filter_map(of_prefix);
        by_prefix.chain(self.by_key.get(key)).flatten().copied()
    }
}

/// Takes a watcher out of a list; whether the list was dropped with it.
fn take(lists: &mut HashMap<Bytes, Vec<WatcherId>>, of: &Bytes, watcher: WatcherId) -> bool {
    let Some(list) = lists.get_mut(of) else {
        return false;
    };
    list.retain(|&other| other != watcher);
    let is_empty = list.is_empty();
    if is_empty {
        lists.remove(of);
    }
    is_empty
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_key_finds_those_whose_filter_matches_and_nobody_else() {
        let prefix = |prefix: &'static str| Filter::Prefix(Bytes::from_static(prefix.as_bytes()));
        let keys = |keys: &[&'static str]| {
            Filter::Keys(
                keys.iter()
                    .map(|key| Bytes::from_static(key.as_bytes()))
                    .collect(),
            )
        };
        let filters = [
            prefix(""),
            prefix("a"),
            prefix("a/"),
            prefix("a/"),
            prefix("b"),
            keys(&["a/1", "b"]),
            keys(&[]),
        ];
        let mut routes = Routes::default();
        for (id, filter) in (0..).zip(&filters) {
            routes.add(WatcherId(id), filter);
        }
        // Each time one less.
        for (gone, filter) in (0..).zip(&filters) {
            for key in ["", "a", "a/", "a/1", "a/12", "b", "c"] {
                let found: Vec<_> = routes.watchers(key.as_bytes()).collect();
                let expected = (gone..).zip(&filters[usize::try_from(gone).unwrap()..]);
                let expected = expected.filter(|(_, filter)| filter.matches(key.as_bytes()));
                let expected: BTreeSet<_> = expected.map(|(id, _)| WatcherId(id)).collect();
                assert_eq!(found.len(), expected.len(), "{key}: {found:?}");
                assert_eq!(
                    found.into_iter().collect::<BTreeSet<_>>(),
                    expected,
                    "{key}"
                );
            }
            routes.remove(WatcherId(gone), filter);
        }
        assert!(routes.is_empty() && routes.lengths.is_empty());
    }
}
