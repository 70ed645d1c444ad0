//! Views on disk: a file for each partition, written now and then and at the end, so
//! that a start folds only what came after. The log is the truth: a file that is lost,
//! damaged, behind or ahead costs time and nothing else.
//!
//! A file counts only if
//! - it belongs to this data directory and partition, and is whole;
//! - the log still holds the last record that it reflects, in the same batch: else
//!   the log lost its end in a power cut, and may have been written on since, or was
//!   compacted there;
//! - no tombstone that it may not reflect was removed.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::topic_view::Viewed;
use crate::limits;
use crate::model::{Offset, PartitionId};
use crate::partition::{Read, StoredBatch};
use crate::state::{
    CheckpointFooter, CheckpointHeader, CheckpointReader, CheckpointWriter, Fingerprint,
    PartitionView, SavedEntry, ViewFull, ViewMemory,
};

/// Where views are saved.
#[derive(Debug, Clone)]
pub struct ViewStore {
    dir: Arc<Path>,
    cluster_id: Arc<str>,
}

/// A view that was saved.
pub(super) struct Saved {
    applied: Offset,
    footer: CheckpointFooter,
    entries: Vec<SavedEntry>,
}

impl ViewStore {
    /// In this directory, which is made when it is first needed, for this data
    /// directory.
    pub fn new(dir: &Path, cluster_id: &str) -> ViewStore {
        ViewStore {
            dir: dir.into(),
            cluster_id: cluster_id.into(),
        }
    }

    /// Removes what was saved of other partitions than these.
    pub fn retain(&self, keep: impl Fn(PartitionId) -> bool) -> io::Result<()> {
        let files = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            files => files?,
        };
        for file in files {
            let path = file?.path();
            let id = path
                .file_name()
                .and_then(|name| name.to_str()?.strip_suffix(".view")?.parse().ok());
            if !id.is_some_and(|id| keep(PartitionId(id))) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn path(&self, id: PartitionId) -> PathBuf {
        self.dir.join(format!("{id}.view"))
    }

    /// Forgets the view of a partition.
    pub(super) fn remove(&self, id: PartitionId) {
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("the saved view of partition {id} can't be removed: {error}");
            }
            _ => {}
        }
    }

    /// Whether a view of a partition was saved.
    pub(super) fn has(&self, id: PartitionId) -> bool {
        self.path(id).exists()
    }

    /// Reads the view of a partition; nothing when there is none that is whole. Blocks.
    pub(super) fn read(&self, id: PartitionId) -> Option<Saved> {
        match self.try_read(id) {
            Ok(saved) => Some(saved),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!("the saved view of partition {id} is of no use: {error}");
                None
            }
        }
    }

    fn try_read(&self, id: PartitionId) -> io::Result<Saved> {
        let file = File::open(self.path(id))?;
        let mut reader = CheckpointReader::new(BufReader::with_capacity(1 << 20, file))?;
        let header = reader.header().clone();
        if header.partition != id || *header.cluster_id != *self.cluster_id {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it belongs to another data directory",
            ));
        }
        let mut entries = Vec::new();
        loop {
            match reader.next_block()? {
                Ok(some) => entries.extend(some),
                Err(footer) => {
                    return Ok(Saved {
                        applied: header.applied,
                        footer,
                        entries,
                    });
                }
            }
        }
    }

    /// Saves the view of a partition as it is, while it may change. Blocks.
    pub(super) fn write(&self, viewed: &Viewed) -> io::Result<()> {
        let id = viewed.handle.id();
        let path = self.path(id);
        let new = path.with_extension("new");
        fs::create_dir_all(&self.dir)?;
        let written = self.try_write(viewed, id, &new);
        match written {
            Ok(()) => fs::rename(&new, &path),
            Err(error) => {
                // What can't be removed now is by the next start.
                let _ = fs::remove_file(&new);
                Err(error)
            }
        }
    }

    fn try_write(&self, viewed: &Viewed, id: PartitionId, path: &Path) -> io::Result<()> {
        let header = CheckpointHeader {
            cluster_id: self.cluster_id.to_string(),
            partition: id,
            applied: viewed.read().applied(),
        };
        let out = BufWriter::with_capacity(1 << 20, File::create(path)?);
        let mut writer = CheckpointWriter::new(out, &header)?;
        let mut after: Option<Box<[u8]>> = None;
        loop {
            let footer = {
                let view = viewed.read();
                match push_some(&mut writer, &view, after.as_deref()) {
                    Some(last) => {
                        after = Some(last);
                        None
                    }
                    None => Some(CheckpointFooter {
                        end: view.applied(),
                        last: view.last_batch(),
                    }),
                }
            };
            match footer {
                None => writer.write_block()?,
                Some(footer) => return writer.finish(&footer).map(drop),
            }
        }
    }
}

/// Adds the entries behind a key, as many as go into a block; returns the last one's
/// key if there may be more.
fn push_some<W: io::Write>(
    writer: &mut CheckpointWriter<W>,
    view: &PartitionView,
    after: Option<&[u8]>,
) -> Option<Box<[u8]>> {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let range = (1..).zip(view.range(&[], from));
    for (looked_at, (key, entry)) in range {
        if writer.push(key, entry) || looked_at == limits::SNAPSHOT_KEYS_PER_LOOK {
            return Some(key.into());
        }
    }
    None
}

impl Saved {
    /// The view that was saved, if the log goes on where it ends.
    pub(super) async fn restore(
        self,
        viewed: &Viewed,
        memory: &Arc<ViewMemory>,
    ) -> Option<Result<PartitionView, ViewFull>> {
        let range = viewed.handle.range();
        let end = self.footer.end;
        let compacted = viewed.handle.compacted().await.ok()?;
        let is_behind = self.applied < compacted.tombstones_removed_to;
        if end > range.high_watermark || end < self.applied || is_behind {
            return None;
        }
        let last = Offset(end.0.checked_sub(1)?);
        match viewed.handle.read(last, end, 1).await {
            Ok(Read::Batches(batches)) if is_last(&batches, &self.footer) => {}
            _ => return None,
        }
        let (start, applied) = (range.log_start_offset, self.applied);
        let view = PartitionView::restored(memory.clone(), start, applied, self.entries);
        Some(view.map(|mut view| {
            view.note_last_batch(self.footer.last);
            // Before, keys may be as they were later.
            view.note_superseded(compacted.state_from.max(end));
            view
        }))
    }
}

fn is_last(batches: &[StoredBatch], footer: &CheckpointFooter) -> bool {
    batches.first().is_some_and(|batch| {
        batch.header.next_offset() == footer.end && fingerprint(batch) == footer.last
    })
}

/// What a batch is known again by.
pub(super) fn fingerprint(batch: &StoredBatch) -> Fingerprint {
    Fingerprint {
        append_time_ms: batch.header.append_time_ms,
        payload_crc: batch.header.payload_crc,
    }
}
