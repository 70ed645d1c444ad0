//! Which keys somebody wants.

use std::collections::BTreeSet;

use bytes::Bytes;

/// Which keys somebody wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// Those that begin with this; all, when it is empty.
    Prefix(Bytes),
    /// These.
    Keys(BTreeSet<Bytes>),
}

impl Filter {
    /// Whether a key is wanted.
    pub fn matches(&self, key: &[u8]) -> bool {
        match self {
            Filter::Prefix(prefix) => key.starts_with(prefix),
            Filter::Keys(keys) => keys.contains(key),
        }
    }
}

/// The first key behind all that begin with `prefix`; `None` when there is none.
pub(super) fn behind_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte < u8::MAX)?;
    let mut behind = prefix[..=last].to_vec();
    behind[last] += 1;
    Some(behind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_a_prefix_comes_what_is_larger_than_all_that_begin_with_it() {
        assert_eq!(behind_prefix(b"ab").as_deref(), Some(&b"ac"[..]));
        assert_eq!(behind_prefix(b"a\xff\xff").as_deref(), Some(&b"b"[..]));
        assert_eq!(behind_prefix(b"\xff"), None);
        assert_eq!(behind_prefix(b""), None);
    }

    #[test]
    fn keys_are_wanted_by_prefix_or_by_name() {
        let prefix = Filter::Prefix(Bytes::from_static(b"a/"));
        assert!(prefix.matches(b"a/b") && prefix.matches(b"a/") && !prefix.matches(b"a"));
        let keys = Filter::Keys(BTreeSet::from([Bytes::from_static(b"a")]));
        assert!(keys.matches(b"a") && !keys.matches(b"a/"));
    }
}
