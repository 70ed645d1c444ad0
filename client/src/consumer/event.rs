//! What a consumer tells besides records, and the places that it is about.

use std::sync::Arc;
use std::time::Instant;

use statecast_proto::v1;

use crate::error::Error;
use crate::reader::{Batch, Record};

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct TopicPartition {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// Number of the partition, from 0.
    pub partition: u32,
}

/// A partition that a consumer got.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AssignedPartition {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// Number of the partition, from 0.
    pub partition: u32,
    /// Where reading begins.
    pub offset: u64,
    /// Whether the group had committed that offset, and it isn't just where
    /// the consumer starts otherwise.
    pub committed: bool,
    /// One past the last record that was readable then.
    pub high_watermark: u64,
}

/// Why a consumer gives a partition back, or has lost it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RevokeReason {
    /// Other members are to have it.
    Rebalance,
    /// Records were held for longer than
    /// [`max_processing_time`](super::ConsumerBuilder::max_processing_time).
    MaxProcessingTime,
    /// Its topic was deleted.
    TopicDeleted,
    /// The connection was lost; the consumer joins again.
    Disconnected,
    /// This library is older than the reason.
    Unknown,
}

impl RevokeReason {
    pub(super) fn from_wire(reason: v1::RevokeReason) -> Self {
        match reason {
            v1::RevokeReason::Unspecified => Self::Unknown,
            v1::RevokeReason::Rebalance => Self::Rebalance,
            v1::RevokeReason::MaxProcessingTime => Self::MaxProcessingTime,
            v1::RevokeReason::TopicDeleted => Self::TopicDeleted,
        }
    }
}

/// What a consumer came upon. Changes of who has what that were over before
/// anybody asked are left out.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum GroupEvent {
    /// Records.
    Batch(Batch),
    /// The consumer has these partitions from now on, besides those it had.
    Assigned {
        /// Of the group; it grows with each change of who has what.
        generation: u64,
        /// The partitions.
        partitions: Vec<AssignedPartition>,
    },
    /// These partitions are given back: no more of their records come. What was
    /// handed out can be committed until the deadline; when all of it is, they
    /// go on at once. So they do when
    /// [`Consumer::give_back`](super::Consumer::give_back) says that the rest won't be.
    Revoked {
        /// The partitions.
        partitions: Vec<TopicPartition>,
        /// Until when commits are taken.
        deadline: Instant,
        /// Why.
        reason: RevokeReason,
    },
    /// These partitions are gone. What wasn't committed comes again, here or
    /// elsewhere.
    Lost {
        /// The partitions.
        partitions: Vec<TopicPartition>,
        /// Why.
        reason: RevokeReason,
    },
    /// A commit that nobody waits for was refused. One that may succeed later
    /// is tried again.
    CommitRefused {
        /// Which partition it was for.
        partition: TopicPartition,
        /// What was to be committed.
        offset: u64,
        /// Why it was refused.
        error: Error,
    },
    /// Every partition that the consumer has was read up to its end. Comes each
    /// time that it catches up.
    CaughtUp,
}

/// How far a partition was processed: what a group commits.
///
/// Made from a [`Record`] or a [`Batch`], it lies behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitPosition {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// Number of the partition, from 0.
    pub partition: u32,
    /// One past the last record that was processed: where reading goes on.
    pub offset: u64,
}

impl From<&Record> for CommitPosition {
    fn from(record: &Record) -> Self {
        Self {
            topic: Arc::clone(&record.topic),
            partition: record.partition,
            offset: record.offset.saturating_add(1),
        }
    }
}

impl From<&Batch> for CommitPosition {
    fn from(batch: &Batch) -> Self {
        Self {
            topic: Arc::clone(batch.topic()),
            partition: batch.partition(),
            offset: batch.offsets().end,
        }
    }
}
