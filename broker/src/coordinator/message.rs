//! What a group's task is told, and what it tells its members.

use std::fmt::Debug;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::beginnings::BeginReply;
use super::log::LogError;
use super::view::{GroupDescription, GroupSummary};
use super::{GroupError, JoinError};
use crate::group::{
    CommitRefusal, ExpelReason, Generation, JoinRequest, MemberId, RevokeReason, TopicPartition,
};
use crate::model::{Offset, PartitionId, TopicId};

/// Where the answer to a message goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, GroupError>>;

/// Everything that a group's task hears of.
#[derive(Debug)]
pub(super) enum Message {
    Join {
        member: MemberId,
        request: JoinRequest,
        identity: Identity,
        /// Where the member is told things.
        outbox: mpsc::Sender<MemberEvent>,
        /// When the group began, no partition had this id or a higher one.
        reply: oneshot::Sender<Result<PartitionId, JoinError>>,
    },
    Heartbeat(MemberId),
    Commit(MemberId, Commit),
    /// A member found out where partitions begin for which nothing was committed.
    Begin {
        member: MemberId,
        /// In which they were assigned.
        generation: Generation,
        starts: Vec<(TopicPartition, Offset)>,
        reply: BeginReply,
    },
    /// Each with the generation in which it was asked for.
    Revoked(MemberId, Vec<(TopicPartition, Generation)>),
    Stalled(MemberId),
    Resumed(MemberId),
    Leave(MemberId),
    Disconnected(MemberId),
    Summarize(oneshot::Sender<GroupSummary>),
    Describe(oneshot::Sender<GroupDescription>),
    Delete(Reply<()>),
    Forget {
        topic: TopicId,
        reply: Reply<()>,
    },
    Reset {
        positions: Vec<(TopicPartition, Offset)>,
        /// Also when there are members.
        force: bool,
        reply: Reply<()>,
    },
}

/// How a member shows itself to those who look at the group.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// As it calls itself.
    pub client: String,
    /// Where it is connected from.
    pub address: String,
}

/// Offsets that a member commits together.
#[derive(Debug)]
pub struct Commit {
    /// Of the member's choice.
    pub id: u64,
    /// What is committed.
    pub positions: Vec<CommitPosition>,
    /// Kept for as long as anything of it is: whoever has been there for it may go
    /// meanwhile.
    pub room: CommitRoom,
}

/// Memory that is accounted for elsewhere, until this is dropped.
pub type CommitRoom = Arc<dyn Debug + Send + Sync>;

/// An offset of a commit.
#[derive(Debug, Clone, Copy)]
pub struct CommitPosition {
    /// Its place in what the member sent; the answer names it.
    pub place: usize,
    /// Of which partition.
    pub partition: TopicPartition,
    /// One past the last record that was processed.
    pub offset: Offset,
    /// That of the assignment, if the member says so.
    pub generation: Option<Generation>,
}

/// What a member is told.
#[derive(Debug)]
pub enum MemberEvent {
    /// It has these from now on, besides those that it had.
    Assigned {
        /// Since when.
        generation: Generation,
        /// What.
        partitions: Vec<Assignment>,
    },
    /// It is to give these back, and gets no more of their records.
    Revoke {
        /// From when on they are somebody else's.
        generation: Generation,
        /// What.
        partitions: Vec<TopicPartition>,
        /// Commits are taken until then.
        deadline: Instant,
        /// Why.
        reason: RevokeReason,
    },
    /// It has these no longer.
    Lost {
        /// Since when.
        generation: Generation,
        /// What.
        partitions: Vec<TopicPartition>,
        /// Why.
        reason: RevokeReason,
    },
    /// Answers a commit; what was not refused is durable.
    Committed(CommitAnswer),
    /// It is a member no longer. Nothing follows.
    Ended(EndReason),
}

/// A partition, and where in it the group goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assignment {
    /// Which one.
    pub partition: TopicPartition,
    /// What was committed last, if anything was.
    pub committed: Option<Offset>,
}

/// The answer to a commit.
#[derive(Debug)]
pub struct CommitAnswer {
    /// That of the commit.
    pub id: u64,
    /// What was refused, by its place in what the member sent.
    pub refused: Vec<(usize, CommitError)>,
    /// That of the commit.
    pub room: CommitRoom,
}

/// Why an offset is not committed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// It isn't this member's to commit.
    #[error(transparent)]
    Refused(#[from] CommitRefusal),
    /// There is no room for offsets of one more partition.
    #[error(
        "all groups together have committed offsets of {} partitions, which is the most",
        crate::limits::COMMITTED_OFFSETS
    )]
    TooManyOffsets,
    /// The log didn't take it.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Why a member is one no longer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndReason {
    /// The group sent it away.
    #[error(transparent)]
    Expelled(#[from] ExpelReason),
    /// The group can't go on.
    #[error(transparent)]
    Log(#[from] LogError),
}
