//! Deleting partitions, and what is too old or too much of them.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError, TryLockError};

use super::log::PartitionLog;
use super::retention::{Expired, Limits, SealedSegment, expired};
use super::segment::{self, recover_state};
use super::{PARTITIONS_DIR, Storage};
use crate::model::{Offset, PartitionId};

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

impl Storage {
    /// Removes partitions with all their records. What lies in the journal is
    /// dropped when its file is archived. Their ids must not be used again.
    ///
    /// Their files go at once or, while the archiver is at work, when it has
    /// done: it may be writing them.
    pub fn delete_partitions(&self, ids: &[PartitionId]) -> io::Result<()> {
        for id in ids {
            let log = {
                let mut logs = self.logs.write().unwrap_or_else(PoisonError::into_inner);
                logs.remove(id)
            };
            if let Some(log) = log {
                let mut state = log.lock();
                state.deleted = true;
                state.runs = VecDeque::new();
            }
        }
        self.doomed().extend(ids);
        self.remove_doomed()
    }

    /// Removes the files of deleted partitions. Whoever was the archiver calls
    /// this afterwards: a deletion that found it at work left them to it.
    pub(super) fn remove_doomed(&self) -> io::Result<()> {
        // Looks again after each round: one that came too late for it, and found
        // the archiver still taken, has left its files.
        while !self.doomed().is_empty() {
            let mut archiver = match self.archiver.try_lock() {
                Ok(archiver) => archiver,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return Ok(()),
            };
            let doomed = std::mem::take(&mut *self.doomed());
            for (index, &id) in doomed.iter().enumerate() {
                self.segments.forget_partition(id);
                archiver.forget(id);
                if let Err(error) = self.dir.remove_dir_all(&segment::partition_dir(id)) {
                    self.doomed().extend(&doomed[index..]);
                    return Err(error);
                }
            }
            self.dir.sync_dir(Path::new(PARTITIONS_DIR))?;
        }
        Ok(())
    }

    fn doomed(&self) -> MutexGuard<'_, Vec<PartitionId>> {
        self.doomed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The base offsets of the partition's sealed segments, ascending. Lists
    /// the directory when it is first asked.
    pub(super) fn sealed_segments(&self, log: &PartitionLog) -> io::Result<Vec<Offset>> {
        loop {
            let active = {
                let state = log.lock();
                if let Some(sealed) = &state.sealed {
                    return Ok(sealed.clone());
                }
                state.active.map(|active| active.base_offset)
            };
            let listed = segment::list(self.dir.as_ref(), log.id())?;
            let mut state = log.lock();
            // The archiver sealed one meanwhile: the list may lack it.
            if state.active.map(|active| active.base_offset) != active {
                continue;
            }
            let start = state.log_start;
            let before = |base: &Offset| active.is_some_and(|active| *base < active);
            let mut sealed: Vec<Offset> = listed.into_iter().filter(before).collect();
            // Retention may have been interrupted before it removed the oldest.
            let gone = sealed
                .partition_point(|&base| base <= start)
                .saturating_sub(1);
            sealed.drain(..gone);
            state.sealed = Some(sealed);
        }
    }

    /// Removes segments that retention says may go, and seals active ones that
    /// would never go otherwise. Says how many segments were removed.
    ///
    /// The checkpoint is written before files are removed: a crash in between
    /// leaves files that nobody reads, and the next sweep removes them.
    pub fn apply_retention(
        &self,
        partitions: impl Iterator<Item = PartitionRetention>,
        now_ms: i64,
    ) -> io::Result<usize> {
        let mut archiver = self.archiver();
        let mut doomed = Vec::new();
        let mut changed = false;
        for partition in partitions {
            if partition.retention_ms.is_none() && partition.retention_bytes.is_none() {
                continue;
            }
            let removed = self.expire(&partition, now_ms, &mut changed)?;
            doomed.extend(removed.into_iter().map(|base| (partition.log.id(), base)));
        }
        let count = doomed.len();
        if changed {
            self.store_checkpoint(&mut archiver)?;
        }
        for (id, base) in doomed {
            self.segments.forget(id, base);
            segment::remove(self.dir.as_ref(), id, base)?;
        }
        drop(archiver);
        self.remove_doomed()?;
        Ok(count)
    }

    /// Moves the start of one log; returns the segments to remove.
    fn expire(
        &self,
        partition: &PartitionRetention,
        now_ms: i64,
        changed: &mut bool,
    ) -> io::Result<Vec<Offset>> {
        let log = &partition.log;
        let sealed = self.sealed_segments(log)?;
        let Some(active) = log.lock().active else {
            return Ok(Vec::new());
        };
        let mut segments = Vec::with_capacity(sealed.len());
        for &base in &sealed {
            let state = recover_state(self.dir.as_ref(), log.id(), base)?;
            segments.push(SealedSegment {
                len: state.len,
                max_timestamp_ms: state.max_timestamp_ms,
            });
        }
        let limits = Limits {
            max_age_ms: partition.retention_ms,
            max_bytes: partition.retention_bytes,
        };
        let last = SealedSegment {
            len: active.len,
            max_timestamp_ms: active.max_timestamp_ms,
        };
        let Expired {
            sealed: count,
            active: active_too,
        } = expired(&segments, last, limits, now_ms);
        let mut doomed = sealed[..count].to_vec();
        let mut new_active = active;
        if active_too && active.batch_count > 0 {
            doomed.push(active.base_offset);
            new_active = self.replace_active(log, active.next_offset, now_ms)?;
        }
        if doomed.is_empty() {
            return Ok(doomed);
        }
        *changed = true;
        let start = sealed.get(count).copied().unwrap_or(new_active.base_offset);
        let mut state = log.lock();
        state.log_start = start;
        state.active = Some(new_active);
        if let Some(sealed) = &mut state.sealed {
            sealed.retain(|&base| base >= start && base < new_active.base_offset);
        }
        Ok(doomed)
    }

    /// Begins an empty active segment at `base`.
    fn replace_active(
        &self,
        log: &PartitionLog,
        base: Offset,
        now_ms: i64,
    ) -> io::Result<segment::SegmentState> {
        match segment::remove(self.dir.as_ref(), log.id(), base) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let writer = segment::SegmentWriter::create(self.dir.as_ref(), log.id(), base, now_ms)?;
        writer.flush()?;
        self.dir.sync_dir(&segment::partition_dir(log.id()))?;
        Ok(writer.state())
    }

    /// Bytes in the segments of a partition. Blocks.
    pub fn segment_bytes(&self, log: &PartitionLog) -> io::Result<u64> {
        let mut bytes = log.lock().active.map_or(0, |active| active.len);
        for base in self.sealed_segments(log)? {
            match recover_state(self.dir.as_ref(), log.id(), base) {
                Ok(state) => bytes += state.len,
                // Retention removed it just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }
}
