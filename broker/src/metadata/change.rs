//! A record of the topics partition: its key is the topic's name, its value one
//! of these messages. Field numbers are never used again; `docs/format.md` lists
//! them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::{PartitionRange, TopicId, TopicMeta};
use crate::model::{Cleanup, FlushLevel, NewRecord, PartitionId, TopicConfig, TopicName};

/// What happened to a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TopicChange {
    /// It is like this from now on.
    Put(Arc<TopicMeta>),
    /// It is gone. The record stays: it says which ids were used.
    Delete {
        id: TopicId,
        name: TopicName,
        ranges: Vec<PartitionRange>,
    },
}

/// Why a record is not a change.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error(transparent)]
    Encoding(#[from] prost::DecodeError),
    #[error("its key is not a topic's name")]
    Name,
    #[error("it holds something that this version doesn't know")]
    Unknown,
}

/// The value of a record.
#[derive(Clone, PartialEq, Message)]
struct StoredChange {
    #[prost(oneof = "StoredKind", tags = "1, 2")]
    kind: Option<StoredKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum StoredKind {
    #[prost(message, tag = "1")]
    Put(StoredTopic),
    #[prost(message, tag = "2")]
    Delete(StoredDeletion),
}

#[derive(Clone, PartialEq, Message)]
struct StoredTopic {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "2")]
    ranges: Vec<StoredRange>,
    #[prost(message, required, tag = "3")]
    config: StoredConfig,
    #[prost(int64, tag = "4")]
    created_ms: i64,
}

#[derive(Clone, PartialEq, Message)]
struct StoredDeletion {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "2")]
    ranges: Vec<StoredRange>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct StoredRange {
    #[prost(uint32, tag = "1")]
    first: u32,
    #[prost(uint32, tag = "2")]
    count: u32,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct StoredConfig {
    #[prost(uint64, optional, tag = "1")]
    retention_ms: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    retention_bytes: Option<u64>,
    /// 1 is delete, 2 compact, 3 both.
    #[prost(uint32, tag = "3")]
    cleanup: u32,
    /// Absent: the operating system flushes. 0: always.
    #[prost(uint64, optional, tag = "4")]
    flush_interval_ms: Option<u64>,
    #[prost(uint64, tag = "5")]
    segment_bytes: u64,
    #[prost(uint32, tag = "6")]
    max_batch_bytes: u32,
    /// There if the topic is compacted.
    #[prost(uint64, optional, tag = "7")]
    tombstone_grace_ms: Option<u64>,
}

const CLEANUP_DELETE: u32 = 1;
const CLEANUP_COMPACT: u32 = 2;
const CLEANUP_COMPACT_DELETE: u32 = 3;

/// Tells records apart; the same for the same key and value.
pub(super) fn fingerprint(key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(&[0]);
    hasher.update(value);
    hasher.finalize()
}

impl TopicChange {
    pub(super) fn name(&self) -> &TopicName {
        match self {
            TopicChange::Put(meta) => &meta.name,
            TopicChange::Delete { name, .. } => name,
        }
    }

    pub(super) fn topic_id(&self) -> TopicId {
        match self {
            TopicChange::Put(meta) => meta.id,
            TopicChange::Delete { id, .. } => *id,
        }
    }

    pub(super) fn ranges(&self) -> &[PartitionRange] {
        match self {
            TopicChange::Put(meta) => &meta.ranges,
            TopicChange::Delete { ranges, .. } => ranges,
        }
    }

    pub(super) fn encode(&self) -> NewRecord {
        let kind = match self {
            TopicChange::Put(meta) => StoredKind::Put(StoredTopic {
                id: meta.id.0,
                ranges: stored_ranges(&meta.ranges),
                config: stored_config(&meta.config),
                created_ms: meta.created_ms,
            }),
            TopicChange::Delete { id, ranges, .. } => StoredKind::Delete(StoredDeletion {
                id: id.0,
                ranges: stored_ranges(ranges),
            }),
        };
        let value = StoredChange { kind: Some(kind) }.encode_to_vec();
        let key = Bytes::copy_from_slice(self.name().as_str().as_bytes());
        NewRecord {
            key,
            value: Some(value.into()),
        }
    }

    pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<TopicChange, Unreadable> {
        let name = std::str::from_utf8(key).map_err(|_| Unreadable::Name)?;
        let name = TopicName::try_from(name).map_err(|_| Unreadable::Name)?;
        match StoredChange::decode(value)?
            .kind
            .ok_or(Unreadable::Unknown)?
        {
            StoredKind::Put(topic) => Ok(TopicChange::Put(Arc::new(TopicMeta {
                id: TopicId(topic.id),
                name,
                ranges: ranges(&topic.ranges),
                config: config(&topic.config)?,
                created_ms: topic.created_ms,
            }))),
            StoredKind::Delete(deletion) => Ok(TopicChange::Delete {
                id: TopicId(deletion.id),
                name,
                ranges: ranges(&deletion.ranges),
            }),
        }
    }
}

fn stored_ranges(ranges: &[PartitionRange]) -> Vec<StoredRange> {
    ranges
        .iter()
        .map(|range| StoredRange {
            first: range.first.0,
            count: range.count,
        })
        .collect()
}

fn ranges(stored: &[StoredRange]) -> Vec<PartitionRange> {
    let range = |r: &StoredRange| PartitionRange {
        first: PartitionId(r.first),
        count: r.count,
    };
    stored.iter().map(range).collect()
}

fn stored_config(config: &TopicConfig) -> StoredConfig {
    StoredConfig {
        retention_ms: config.retention_ms,
        retention_bytes: config.retention_bytes,
        cleanup: match config.cleanup {
            Cleanup::Delete => CLEANUP_DELETE,
            Cleanup::Compact => CLEANUP_COMPACT,
            Cleanup::CompactDelete => CLEANUP_COMPACT_DELETE,
        },
        tombstone_grace_ms: config.tombstone_grace_ms,
        flush_interval_ms: match config.flush {
            FlushLevel::Always => Some(0),
            FlushLevel::Interval(every) => {
                Some(u64::try_from(every.as_millis()).unwrap_or(u64::MAX))
            }
            FlushLevel::Os => None,
        },
        segment_bytes: config.segment_bytes,
        max_batch_bytes: config.max_batch_bytes,
    }
}

fn config(stored: &StoredConfig) -> Result<TopicConfig, Unreadable> {
    let cleanup = match stored.cleanup {
        CLEANUP_DELETE => Cleanup::Delete,
        CLEANUP_COMPACT => Cleanup::Compact,
        CLEANUP_COMPACT_DELETE => Cleanup::CompactDelete,
        _ => return Err(Unreadable::Unknown),
    };
    Ok(TopicConfig {
        retention_ms: stored.retention_ms,
        retention_bytes: stored.retention_bytes,
        cleanup,
        tombstone_grace_ms: stored.tombstone_grace_ms,
        flush: match stored.flush_interval_ms {
            Some(0) => FlushLevel::Always,
            Some(ms) => FlushLevel::Interval(Duration::from_millis(ms)),
            None => FlushLevel::Os,
        },
        segment_bytes: stored.segment_bytes,
        max_batch_bytes: stored.max_batch_bytes,
    })
}
