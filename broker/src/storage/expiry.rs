//! Carries out what retention says.
//!
//! The checkpoint says where a log starts before a file of it is removed. So a
//! crash, or a disk that refuses, leaves files that nobody reads. They are
//! remembered until they are gone; after a restart, the first look at the
//! directory finds them again.
//!
//! On a full disk all of this works without a byte of room: the checkpoint has its
//! room already, and a partition whose active segment goes may do without one
//! until something was removed.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::archiver::{ArchiveError, Archiver};
use super::log::PartitionLog;
use super::retention::{Expired, Limits, expired};
use super::segment::{self, SegmentExtent, SegmentName, SegmentState, SegmentWriter};
use super::segments::Extents;
use super::{PARTITIONS_DIR, Storage};
use crate::model::Offset;

/// What retention means for one partition.
#[derive(Debug)]
pub struct PartitionRetention {
    /// The partition.
    pub log: Arc<PartitionLog>,
    /// Records older than this may go: milliseconds. `None` keeps them.
    pub retention_ms: Option<u64>,
    /// Oldest segments go while the partition is larger: bytes.
    pub retention_bytes: Option<u64>,
}

/// Why retention was not carried out in full.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    /// Reading or removing segments failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Writing the checkpoint or a new segment failed, or removing deleted partitions.
    #[error(transparent)]
    Write(#[from] ArchiveError),
}

impl Storage {
    /// Removes segments that retention says may go, and seals active ones that
    /// would never go otherwise. Says how many segments were removed. What
    /// fails for one partition doesn't keep it from the others; the first error
    /// is returned. What is left is done by a later call.
    pub fn apply_retention(
        &self,
        partitions: impl Iterator<Item = PartitionRetention>,
        now_ms: i64,
    ) -> Result<usize, RetentionError> {
        self.check_unfailed().map_err(ArchiveError::from)?;
        let mut archiver = self.archiver();
        let mut failed = None;
        let mut without_active = Vec::new();
        for partition in partitions {
            if partition.retention_ms.is_none() && partition.retention_bytes.is_none() {
                continue;
            }
            if let Err(error) = self.expire(&partition, now_ms, &mut archiver) {
                failed.get_or_insert(error);
            }
            if partition.log.lock().lacks_active() {
                without_active.push(partition.log);
            }
        }
        let removed = self.remove_expired(&mut archiver);
        for log in without_active {
            if let Err(error) = self.begin_missing_active(&log, now_ms, &mut archiver) {
                failed.get_or_insert(error);
            }
        }
        drop(archiver);
        self.remove_doomed()?;
        match failed {
            Some(error) => Err(error),
            None => removed,
        }
    }

    /// Moves the start of one log behind what may go.
    fn expire(
        &self,
        partition: &PartitionRetention,
        now_ms: i64,
        archiver: &mut Archiver,
    ) -> Result<(), RetentionError> {
        let log = &partition.log;
        if log.lock().deleted {
            // Its files may be gone. If not, they stay until we are done.
            return Ok(());
        }
        self.find_left_behind(log, archiver)?;
        let Extents { sealed, active } = self.extents_of(log)?;
        let Some(active) = active else {
            return Ok(());
        };
        let (sealed, extents): (Vec<SegmentName>, Vec<SegmentExtent>) = sealed.into_iter().unzip();
        let limits = Limits {
            max_age_ms: partition.retention_ms,
            max_bytes: partition.retention_bytes,
        };
        let Expired {
            sealed: count,
            active: active_too,
        } = expired(&extents, active.extent(), limits, now_ms);
        let mut gone = sealed[..count].to_vec();
        let mut new_active = Some(active);
        let mut end_of_gone = active.base_offset;
        if active_too && active.batch_count > 0 {
            end_of_gone = active.next_offset;
            new_active = self.begin_active(log, end_of_gone, now_ms, archiver)?;
            gone.push(active.base_offset.into());
        }
        if gone.is_empty() {
            return Ok(());
        }
        let first = sealed.get(count).map(|name| name.base_offset);
        let start = first.unwrap_or(end_of_gone);
        archiver
            .expired
            .extend(gone.iter().map(|&name| (log.id(), name)));
        let mut state = log.lock();
        state.log_start = start;
        state.active = new_active;
        if let Some(sealed) = &mut state.sealed {
            sealed.retain(|segment| segment.name.base_offset >= start);
        }
        Ok(())
    }

    /// Files of segments before the start of the log, which an earlier run of
    /// the broker didn't come to remove.
    pub(super) fn find_left_behind(
        &self,
        log: &PartitionLog,
        archiver: &mut Archiver,
    ) -> io::Result<()> {
        if !archiver.looked_behind.insert(log.id()) {
            return Ok(());
        }
        let look = || {
            let (sealed, active) = self.segments_of(log)?;
            let first = sealed.first().map(|name| name.base_offset);
            let first = first.or(active.map(|active| active.base_offset));
            let first = first.unwrap_or(log.lock().log_start);
            let listing = segment::list(self.dir.as_ref(), log.id())?;
            Ok((first, listing.segments().to_vec()))
        };
        match look() {
            Ok((first, listed)) => {
                let left = listed.into_iter().filter(|name| name.base_offset < first);
                archiver.expired.extend(left.map(|name| (log.id(), name)));
                Ok(())
            }
            Err(error) => {
                archiver.looked_behind.remove(&log.id());
                Err(error)
            }
        }
    }

    /// Writes the checkpoint and removes the files that are not needed then.
    fn remove_expired(&self, archiver: &mut Archiver) -> Result<usize, RetentionError> {
        if archiver.expired.is_empty() {
            return Ok(0);
        }
        match self.store_checkpoint(archiver) {
            // The room that was kept for it is gone: somebody else was faster.
            Err(ArchiveError::NoSpace(_)) if self.journal.files().give_up_spare()? => {
                self.store_checkpoint(archiver)?;
            }
            stored => stored?,
        }
        let mut removed = 0;
        while let Some(&(id, name)) = archiver.expired.last() {
            self.segments.forget(id, name);
            archiver.close_if_growing(id, name);
            segment::remove(self.dir.as_ref(), id, name)?;
            // A reader may have opened it just before it went.
            self.segments.forget(id, name);
            archiver.expired.pop();
            removed += 1;
        }
        Ok(removed)
    }

    /// Begins the active segment of a partition that had to do without one.
    fn begin_missing_active(
        &self,
        log: &PartitionLog,
        now_ms: i64,
        archiver: &mut Archiver,
    ) -> Result<(), RetentionError> {
        let base = log.lock().archived_end();
        let begun = self.begin_active(log, base, now_ms, archiver)?;
        log.lock().active = begun;
        Ok(())
    }

    /// Begins an empty active segment at `base`, or says that there is no room
    /// for it. One is needed even though it is empty: if the checkpoint is lost,
    /// only its name tells that the offsets before were given out.
    fn begin_active(
        &self,
        log: &PartitionLog,
        base: Offset,
        now_ms: i64,
        archiver: &mut Archiver,
    ) -> Result<Option<SegmentState>, RetentionError> {
        let begun = self.create_segment(log, base, now_ms).or_else(|error| {
            archiver.doubt(log.id());
            match self.writing_failed("beginning a segment", &error) {
                ArchiveError::NoSpace(_) => Ok(None),
                failed @ ArchiveError::Failed(_) => Err(failed),
            }
        });
        Ok(begun?)
    }

    fn create_segment(
        &self,
        log: &PartitionLog,
        base: Offset,
        now_ms: i64,
    ) -> io::Result<Option<SegmentState>> {
        // There is none if damage took everything that it ever had.
        self.dir.create_dir(&segment::partition_dir(log.id()))?;
        self.dir.sync_dir(Path::new(PARTITIONS_DIR))?;
        // An attempt before this one may have failed halfway.
        segment::remove(self.dir.as_ref(), log.id(), base)?;
        let writer = SegmentWriter::create(self.dir.as_ref(), log.id(), base, now_ms)?;
        writer.flush()?;
        self.dir.sync_dir(&segment::partition_dir(log.id()))?;
        Ok(Some(writer.state()))
    }
}
