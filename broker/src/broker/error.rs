//! Why the broker refuses something.

use statecast_proto::batch::BatchError;

use super::ClaimError;
use crate::metadata::CatalogError;
use crate::model::{TopicConfigError, TopicName};
use crate::partition::{AppendError, ReadError};

/// There is no such topic or partition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// No topic has this name.
    #[error("there is no topic {topic}")]
    TopicNotFound {
        /// The name.
        topic: String,
    },
    /// The topic has fewer partitions.
    #[error("topic {topic} has {partitions} partitions, no partition {partition}")]
    PartitionNotFound {
        /// The topic.
        topic: TopicName,
        /// What was asked for.
        partition: u32,
        /// How many there are.
        partitions: u32,
    },
}

/// Why a batch is refused.
#[derive(Debug, thiserror::Error)]
pub enum ProduceError {
    /// It has nowhere to go.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// Larger than the topic takes.
    #[error("the batch has {bytes} bytes, topic {topic} takes {limit}")]
    BatchTooLarge {
        /// The topic.
        topic: TopicName,
        /// Its size.
        bytes: usize,
        /// The largest that is taken: bytes.
        limit: u32,
    },
    /// The bytes that arrived are not those that were sent.
    #[error("the batch has checksum {actual:#010x}, the request says {expected:#010x}")]
    ChecksumMismatch {
        /// What the request says.
        expected: u32,
        /// What it is.
        actual: u32,
    },
    /// It is not a sound batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Its records can't be seen, so they can't be spread by key.
    #[error("a compressed batch needs a partition")]
    CompressedWithoutPartition,
    /// It can't be what it claims to be.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The log didn't take it.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// Why a topic is not changed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// It contradicts what there is, or a bound.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A setting is out of bounds.
    #[error(transparent)]
    Config(#[from] TopicConfigError),
    /// The log didn't take the change.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// Why the broker can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory can't be opened.
    #[error(transparent)]
    Open(#[from] crate::storage::OpenError),
    /// The system gives no threads.
    #[error("can't start threads: {0}")]
    Threads(std::io::Error),
    /// The broker's own records can't be read.
    #[error("can't read the topics or producers: {0}")]
    Read(#[from] ReadError),
    /// The broker's own records can't be understood.
    #[error("can't read the topics or producers: {0}")]
    Replay(#[from] crate::metadata::ReplayError),
    /// The leases can't be understood.
    #[error("can't read the leases: {0}")]
    Leases(#[from] crate::state::UnreadableLease),
    /// The groups can't be understood.
    #[error("can't read the groups: {0}")]
    Groups(#[from] crate::coordinator::FoldError),
    /// Records of the broker's own are no sound batch.
    #[error("can't read what the broker remembers: {0}")]
    Batch(#[from] BatchError),
    /// The data directory can't be listed.
    #[error("can't list the partitions: {0}")]
    List(#[from] std::io::Error),
}
