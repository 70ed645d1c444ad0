//! The index over the topics partition: the only file that knows sled.
//!
//! One tree: `t` + name of a topic → the value of its last record, and `mark` →
//! what was applied. Both change in one batch, so they never contradict each
//! other unless the files were damaged; the mark's digest tells. sled's flush
//! doesn't survive power cuts and isn't asked to: the log is the promise.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::{fs, io};

use prost::Message;

use super::catalog::Catalog;
use super::change::{self, TopicChange};
use super::{TopicId, TopicMeta};
use crate::limits;
use crate::model::{LogRecord, Offset, PartitionId};

const TOPIC_PREFIX: &[u8] = b"t";
const MARK_KEY: &[u8] = b"mark";

/// How the tree is laid out. Another number: rebuild.
const LAYOUT: u32 = 1;

/// What has been applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    /// The data directory that the log belongs to.
    pub(super) cluster_id: String,
    /// The record that was applied last.
    pub(super) last: Option<LastApplied>,
    next_partition: PartitionId,
    next_topic: TopicId,
    /// Sum of the fingerprints of the topics there are.
    digest: u64,
}

/// The record that was applied last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LastApplied {
    pub(super) offset: Offset,
    pub(super) fingerprint: u32,
}

#[derive(Clone, PartialEq, Message)]
struct StoredMark {
    #[prost(uint32, tag = "1")]
    layout: u32,
    #[prost(string, tag = "2")]
    cluster_id: String,
    #[prost(uint64, tag = "3")]
    last_offset: u64,
    #[prost(uint32, tag = "4")]
    last_fingerprint: u32,
    #[prost(uint32, tag = "5")]
    next_partition: u32,
    #[prost(uint64, tag = "6")]
    next_topic: u64,
    #[prost(uint64, tag = "7")]
    digest: u64,
}

impl Mark {
    /// Nothing applied yet.
    pub(super) fn new(cluster_id: &str) -> Mark {
        let nothing = Catalog::default();
        Mark {
            cluster_id: cluster_id.to_owned(),
            last: None,
            next_partition: nothing.next_partition(),
            next_topic: nothing.next_topic(),
            digest: 0,
        }
    }

    /// `record`, with this fingerprint, has been applied to `catalog`, where
    /// `before` was in its place.
    pub(super) fn advance(
        &mut self,
        record: &LogRecord,
        fingerprint: u32,
        before: Option<&TopicMeta>,
        catalog: &Catalog,
    ) {
        self.last = Some(LastApplied {
            offset: record.offset,
            fingerprint,
        });
        self.next_partition = catalog.next_partition();
        self.next_topic = catalog.next_topic();
        if let Some(before) = before {
            self.digest = self.digest.wrapping_sub(digest_of(before));
        }
        let now = std::str::from_utf8(&record.key)
            .ok()
            .and_then(|name| catalog.topic_named(name));
        if let Some(now) = now {
            self.digest = self.digest.wrapping_add(digest_of(now));
        }
    }

    fn encode(&self, last: LastApplied) -> Vec<u8> {
        let stored = StoredMark {
            layout: LAYOUT,
            cluster_id: self.cluster_id.clone(),
            last_offset: last.offset.0,
            last_fingerprint: last.fingerprint,
            next_partition: self.next_partition.0,
            next_topic: self.next_topic.0,
            digest: self.digest,
        };
        stored.encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Option<Mark> {
        let stored = StoredMark::decode(bytes).ok()?;
        (stored.layout == LAYOUT).then_some(Mark {
            cluster_id: stored.cluster_id,
            last: Some(LastApplied {
                offset: Offset(stored.last_offset),
                fingerprint: stored.last_fingerprint,
            }),
            next_partition: PartitionId(stored.next_partition),
            next_topic: TopicId(stored.next_topic),
            digest: stored.digest,
        })
    }
}

fn digest_of(meta: &TopicMeta) -> u64 {
    let record = TopicChange::Put(meta.clone().into()).encode();
    let value = record.value.unwrap_or_default();
    u64::from(change::fingerprint(&record.key, &value))
}

/// Why an index can't be used. All of them are mended by a rebuild.
#[derive(Debug, thiserror::Error)]
pub(super) enum IndexError {
    #[error(transparent)]
    Sled(#[from] sled::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is damaged")]
    Damaged,
    #[error("it belongs to another data directory")]
    Foreign,
}

/// The open index.
#[derive(Debug)]
pub(super) struct Index {
    tree: sled::Db,
}

impl Index {
    /// Opens the index in `path` and loads what it holds. One that is of no use
    /// is removed, and an empty one made in its place. Without an index at all
    /// the broker still works; then there is none.
    pub(super) fn open_or_rebuild(
        path: &Path,
        fresh: &Mark,
    ) -> (Option<Index>, Option<(Catalog, Mark)>) {
        match Index::open(path).and_then(|index| Ok((index.load(fresh)?, index))) {
            Ok((saved, index)) => (Some(index), saved),
            Err(error) => {
                tracing::warn!("rebuilding the metadata index: {error}");
                (Index::recreate(path), None)
            }
        }
    }

    /// Removes what is in `path` and makes an empty index.
    pub(super) fn recreate(path: &Path) -> Option<Index> {
        let removed = match fs::remove_dir_all(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        removed
            .map_err(IndexError::from)
            .and_then(|()| Index::open(path))
            .inspect_err(|error| tracing::warn!("going on without a metadata index: {error}"))
            .ok()
    }

    /// sled asserts on some kinds of damage, hence the guard.
    fn open(path: &Path) -> Result<Index, IndexError> {
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(limits::INDEX_CACHE_BYTES);
        guarded(|| {
            Ok(Index {
                tree: config.open()?,
            })
        })
    }

    /// What it holds; `None` when it is empty.
    fn load(&self, fresh: &Mark) -> Result<Option<(Catalog, Mark)>, IndexError> {
        guarded(|| {
            let Some(mark) = self.tree.get(MARK_KEY)? else {
                return if self.tree.is_empty() {
                    Ok(None)
                } else {
                    Err(IndexError::Damaged)
                };
            };
            let mark = Mark::decode(&mark).ok_or(IndexError::Damaged)?;
            if mark.cluster_id != fresh.cluster_id {
                return Err(IndexError::Foreign);
            }
            let mut catalog = Catalog::default();
            let mut digest = 0_u64;
            for entry in self.tree.scan_prefix(TOPIC_PREFIX) {
                let (key, value) = entry?;
                let name = &key[TOPIC_PREFIX.len()..];
                digest = digest.wrapping_add(u64::from(change::fingerprint(name, &value)));
                let change = TopicChange::decode(name, &value).map_err(|_| IndexError::Damaged)?;
                catalog.apply(&change);
            }
            if digest != mark.digest {
                return Err(IndexError::Damaged);
            }
            catalog.reserve_partitions_below(mark.next_partition);
            catalog.reserve_topics_below(mark.next_topic);
            Ok(Some((catalog, mark)))
        })
    }

    /// Writes a change and the mark that goes with it.
    pub(super) fn apply(
        &self,
        change: &TopicChange,
        record: &LogRecord,
        mark: &Mark,
    ) -> Result<(), IndexError> {
        let last = mark.last.expect("a change has just been applied");
        let key = [TOPIC_PREFIX, change.name().as_str().as_bytes()].concat();
        let mut batch = sled::Batch::default();
        match change {
            TopicChange::Put(_) => batch.insert(key, record.value.as_deref().unwrap_or_default()),
            TopicChange::Delete { .. } => batch.remove(key),
        }
        batch.insert(MARK_KEY, mark.encode(last));
        guarded(|| Ok(self.tree.apply_batch(batch)?))
    }
}

/// Runs something of sled; a panic in it is an error.
fn guarded<T>(run: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
    std::panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or(Err(IndexError::Damaged))
}
