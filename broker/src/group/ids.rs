//! Who and what a group is about.

use std::fmt;
use std::sync::Arc;

use crate::limits;
use crate::model::{NameError, TopicId, check_name};

/// A member, from its join on. Chosen by whoever drives the group, never twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Grows with each change of who has what. Within one generation, a partition has
/// at most one owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u64);

impl Generation {
    /// Before anything was assigned.
    pub const ZERO: Generation = Generation(0);

    /// The one that follows.
    #[must_use]
    pub fn next(self) -> Generation {
        Generation(self.0.checked_add(1).expect("generations fit in 64 bits"))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A partition by the id of its topic and its number within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicId,
    /// Counted from 0.
    pub partition: u32,
}

/// The name of a group: 1 to 200 of `A–Z a–z 0–9 . _ -`, not beginning with a dot
/// or with two underscores. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName(Arc<str>);

/// The name of a member beyond its stream; the same rules as for [`GroupName`].
/// Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberName(Arc<str>);

impl GroupName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for GroupName {
    type Error = NameError;

    fn try_from(name: &str) -> Result<GroupName, NameError> {
        check_name(name, &limits::GROUP_NAME_BYTES, b"")?;
        Ok(GroupName(name.into()))
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl MemberName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for MemberName {
    type Error = NameError;

    fn try_from(name: &str) -> Result<MemberName, NameError> {
        check_name(name, &limits::GROUP_NAME_BYTES, b"")?;
        Ok(MemberName(name.into()))
    }
}

impl fmt::Display for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_groups_and_members_are_held_to_the_rules_of_topics() {
        let longest = "x".repeat(200);
        for good in ["a", "A-z_0.9", "_one", &longest] {
            assert_eq!(GroupName::try_from(good).unwrap().as_str(), good);
            assert_eq!(MemberName::try_from(good).unwrap().to_string(), good);
        }
        let too_long = "x".repeat(201);
        let bad = [
            ("", NameError::Length),
            (&too_long, NameError::Length),
            ("a*", NameError::Character),
            ("ä", NameError::Character),
            (".a", NameError::Reserved),
            ("__a", NameError::Reserved),
        ];
        for (name, error) in bad {
            assert_eq!(GroupName::try_from(name), Err(error), "{name:?}");
            assert_eq!(MemberName::try_from(name), Err(error), "{name:?}");
        }
    }
}
