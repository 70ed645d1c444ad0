//! A record of the groups partition: its key says what it is about, its value is
//! one of these messages, or absent when it is gone. Field numbers are never used
//! again; `docs/format.md` lists them.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::group::{Generation, GroupName, TopicPartition};
use crate::limits;
use crate::model::{LogRecord, NewRecord, TopicId, check_name};

/// The first byte of the key of a group.
const KIND_GROUP: u8 = 1;

/// The first byte of the key of a committed offset.
const KIND_OFFSET: u8 = 2;

/// What is known of a group.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct StoredGroup {
    /// When it was created: milliseconds since the Unix epoch. Tells it from
    /// others that had its name before: no two of one name have the same.
    #[prost(int64, tag = "1")]
    pub(super) created_ms: i64,
    /// A generation that the group had; none that was told to anybody is higher.
    #[prost(uint64, tag = "2")]
    pub(super) generation: u64,
    /// Since when it has no members: milliseconds since the Unix epoch. Absent
    /// while it has.
    #[prost(int64, optional, tag = "3")]
    pub(super) empty_since_ms: Option<i64>,
    /// How many members it had: after a start they are waited for.
    #[prost(uint32, tag = "4")]
    pub(super) members: u32,
    /// When the group began, no partition had this id or a higher one: those that
    /// have are read from their beginning. Absent in records that are older than this.
    #[prost(uint32, optional, tag = "5")]
    pub(super) next_partition: Option<u32>,
}

/// How far a group has come in a partition.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct StoredOffset {
    /// One past the last record that was processed, or where the group began.
    #[prost(uint64, tag = "1")]
    pub(super) offset: u64,
    /// When it was committed: milliseconds since the Unix epoch.
    #[prost(int64, tag = "2")]
    pub(super) committed_ms: i64,
    /// When the group was created that committed it. What another group of its
    /// name committed doesn't count.
    #[prost(int64, tag = "3")]
    pub(super) group_created_ms: i64,
}

/// A record of the groups partition.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum GroupRecord<'a> {
    Group {
        name: &'a str,
        stored: Option<StoredGroup>,
    },
    Offset {
        group: &'a str,
        partition: TopicPartition,
        stored: Option<StoredOffset>,
    },
}

/// Why a record can't be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error(transparent)]
    Encoding(#[from] prost::DecodeError),
    #[error("its key is of a kind that this version doesn't know")]
    Kind,
    #[error("its key doesn't end with a group's name")]
    Name,
}

impl StoredGroup {
    pub(super) fn generation(&self) -> Generation {
        Generation(self.generation)
    }

    /// The record that says so of a group.
    pub(super) fn record(&self, name: &GroupName) -> NewRecord {
        NewRecord {
            key: group_key(name),
            value: Some(self.encode_to_vec().into()),
        }
    }
}

impl StoredOffset {
    /// The record that says so of a partition.
    pub(super) fn record(&self, group: &GroupName, partition: TopicPartition) -> NewRecord {
        NewRecord {
            key: offset_key(group.as_str(), partition),
            value: Some(self.encode_to_vec().into()),
        }
    }
}

/// The record that says that a group is gone.
pub(super) fn group_tombstone(name: &GroupName) -> NewRecord {
    NewRecord {
        key: group_key(name),
        value: None,
    }
}

/// The record that says that a group has committed nothing in a partition.
pub(super) fn offset_tombstone(group: &str, partition: TopicPartition) -> NewRecord {
    NewRecord {
        key: offset_key(group, partition),
        value: None,
    }
}

fn group_key(name: &GroupName) -> Bytes {
    let name = name.as_str();
    let mut key = BytesMut::with_capacity(1 + name.len());
    key.put_u8(KIND_GROUP);
    key.put_slice(name.as_bytes());
    key.freeze()
}

fn offset_key(group: &str, partition: TopicPartition) -> Bytes {
    let mut key = BytesMut::with_capacity(OFFSET_KEY_HEAD + group.len());
    key.put_u8(KIND_OFFSET);
    key.put_u64_le(partition.topic.0);
    key.put_u32_le(partition.partition);
    key.put_slice(group.as_bytes());
    key.freeze()
}

/// What the key of an offset has before the group's name: bytes.
const OFFSET_KEY_HEAD: usize = 1 + 8 + 4;

impl GroupRecord<'_> {
    pub(super) fn decode(record: &LogRecord) -> Result<GroupRecord<'_>, Unreadable> {
        let value = record.value.as_deref();
        let (kind, rest) = record.key.split_first().ok_or(Unreadable::Kind)?;
        match *kind {
            KIND_GROUP => Ok(GroupRecord::Group {
                name: name(rest)?,
                stored: value.map(StoredGroup::decode).transpose()?,
            }),
            KIND_OFFSET => {
                let (topic, rest) = rest.split_first_chunk().ok_or(Unreadable::Name)?;
                let (partition, rest) = rest.split_first_chunk().ok_or(Unreadable::Name)?;
                Ok(GroupRecord::Offset {
                    group: name(rest)?,
                    partition: TopicPartition {
                        topic: TopicId(u64::from_le_bytes(*topic)),
                        partition: u32::from_le_bytes(*partition),
                    },
                    stored: value.map(StoredOffset::decode).transpose()?,
                })
            }
            _ => Err(Unreadable::Kind),
        }
    }
}

/// The name that a key ends with, as [`GroupName`] takes it.
fn name(bytes: &[u8]) -> Result<&str, Unreadable> {
    let name = std::str::from_utf8(bytes).map_err(|_| Unreadable::Name)?;
    check_name(name, &limits::GROUP_NAME_BYTES, b"").map_err(|_| Unreadable::Name)?;
    Ok(name)
}
