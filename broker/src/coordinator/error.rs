//! Why groups refuse something.

use super::log::LogError;
use crate::group::{ExpelReason, GroupName};

/// Why somebody can't be a member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The group doesn't want it.
    #[error(transparent)]
    Refused(ExpelReason),
    /// It would be the first of a group too many.
    #[error("there are {} groups, which is the most", crate::limits::GROUPS)]
    TooManyGroups,
    /// The broker is stopping.
    #[error("the broker is stopping")]
    Stopping,
}

/// Why nothing is done about a group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// There is none of this name.
    #[error("there is no group {0}")]
    NotFound(String),
    /// Its members would be harmed.
    #[error(
        "group {0} has members; one with a name that went without leaving counts until its session \
         timeout is over"
    )]
    Active(GroupName),
    /// Its members read what is to be forgotten.
    #[error("group {0} has members that read the topic")]
    Read(GroupName),
    /// There is no room for offsets of so many partitions.
    #[error(
        "all groups together have committed offsets of {} partitions, which is the most",
        crate::limits::COMMITTED_OFFSETS
    )]
    TooManyOffsets,
    /// The log didn't take it.
    #[error(transparent)]
    Log(#[from] LogError),
}
