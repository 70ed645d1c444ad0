//! The log on disk: journal, segments, archiver, recovery. Synchronous; knows
//! nothing of networks, runtimes or metadata.
//!
//! An append goes to the journal ([`Storage::append`]), becomes durable with the
//! next flush ([`Storage::flush`]), and visible when it is published
//! ([`PartitionLog::publish`]). In the background the archiver
//! ([`Storage::archive_oldest`]) moves closed journal files to the segments of
//! their partitions. A read ([`Storage::read`]) doesn't care where a batch lies.

pub mod dir;

mod archiver;
mod checkpoint;
mod compaction;
mod deletion;
mod dropped;
mod expiry;
mod guards;
mod identity;
mod inspect;
mod journal;
mod log;
mod lsn;
mod open;
mod producers;
mod read;
mod recent_keys;
mod recovery;
mod retention;
mod runs;
mod segment;
mod segments;
#[cfg(test)]
mod tests;
mod time;
mod varint;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

pub use archiver::{ArchiveError, Pace};
pub use compaction::{
    CompactionConfig, CompactionError, CompactionSummary, Compactor, EncodedRecord, EncodedRecords,
    MalformedBatch, PartitionCompaction, RecordCodec,
};
pub use expiry::{PartitionRetention, RetentionError};
pub use guards::{KeyConflict, KeyGuard};
pub use identity::{FORMAT_VERSION, Identity, IdentityError};
pub use inspect::{Damage, FileKind, InspectedFile, Inspection, inspect_dir, inspect_file};
pub use journal::{
    AppendFailure, Claim, JournalAppend, JournalFailed, JournalOptions, JournalSize, Placed,
    Prepared, ToPlace, Written,
};
pub use log::{PartitionLog, QuarantinedRange};
pub use lsn::{Generation, Lsn};
pub use open::{OpenError, check_format};
pub use producers::SequenceError;
pub use read::{Read, ReadError, ReadRequest, StoredBatch};
pub use recovery::{JournalDamage, RecoveryReport};

use archiver::Archiver;
use dir::Dir;
use journal::Journal;
use producers::Tally;
use recent_keys::KeyBudget;
pub use segment::Dropped;
use segment::SegmentCache;

use crate::limits;
use crate::model::{Offset, PartitionId, RequestStamp};

/// Name of the directory that holds a directory per partition.
pub const PARTITIONS_DIR: &str = "partitions";

/// Bounds of storage.
#[derive(Debug, Clone, Copy)]
pub struct StorageOptions {
    /// The journal.
    pub journal: JournalOptions,
    /// Segments that are kept open for reading.
    pub open_segments: usize,
    /// Segments that are kept open between passes of the archiver that follow each other.
    pub growing_segments: usize,
}

impl Default for StorageOptions {
    /// Those of [`limits`]. No segments are kept open for writing: how many may be depends
    /// on the process.
    fn default() -> StorageOptions {
        StorageOptions {
            journal: JournalOptions {
                size: JournalSize {
                    file_bytes: limits::JOURNAL_FILE_BYTES,
                    max_files: limits::JOURNAL_FILES,
                    spares: limits::JOURNAL_SPARES,
                },
                max_frames_per_file: limits::BATCHES_PER_JOURNAL_FILE,
                tail_bytes: limits::TAIL_BYTES,
            },
            open_segments: limits::OPEN_SEGMENTS,
            growing_segments: 0,
        }
    }
}

/// Everything on disk that makes up the logs of one data directory.
#[derive(Debug)]
pub struct Storage {
    dir: Arc<dyn Dir>,
    identity: Identity,
    journal: Journal,
    logs: RwLock<HashMap<PartitionId, Arc<PartitionLog>>>,
    segments: SegmentCache,
    /// Recovery came upon damage that may have held so many records of any
    /// partition.
    lost_offsets: Option<u64>,
    /// Whoever holds it is the only one to change files of segments.
    archiver: Mutex<Archiver>,
    /// Deleted partitions whose files are still to be removed. Held for moments.
    doomed: Mutex<Vec<PartitionId>>,
    /// What all partitions together know of producers.
    tally: Arc<Tally>,
    /// How many keys all partitions together remember.
    key_budget: Arc<KeyBudget>,
}

impl Storage {
    /// What the data directory says of itself.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The log of a partition that was created before. If nothing of it was
    /// found, it is empty; but after damage it may have had records, whose
    /// offsets it then doesn't give out again.
    pub fn partition(&self, id: PartitionId) -> Arc<PartitionLog> {
        self.log_or_insert(id, || self.lost_offsets)
    }

    /// The log of a new partition. Its id was never used before.
    pub fn create_partition(&self, id: PartitionId) -> Arc<PartitionLog> {
        self.log_or_insert(id, || None)
    }

    fn log_or_insert(
        &self,
        id: PartitionId,
        lost_offsets: impl Fn() -> Option<u64>,
    ) -> Arc<PartitionLog> {
        if let Some(log) = self.log(id) {
            return log;
        }
        let mut logs = self.logs.write().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let log = PartitionLog::new(id);
            if let Some(count) = lost_offsets() {
                let to = Offset(count);
                log.lock().skip_damaged(to);
                log.publish(to);
            }
            Arc::new(log)
        };
        logs.entry(id).or_insert_with(new).clone()
    }

    /// The ids of all partitions that exist, and of those that left files
    /// behind when they were deleted, ascending.
    pub fn partition_ids(&self) -> io::Result<Vec<PartitionId>> {
        let on_disk = self.dir.list(Path::new(PARTITIONS_DIR))?;
        let on_disk = on_disk
            .iter()
            .filter_map(|name| name.parse().ok().map(PartitionId));
        let mut ids: Vec<PartitionId> = self.logs().keys().copied().chain(on_disk).collect();
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// The largest payload that fits into a journal file: bytes.
    pub fn max_batch_bytes(&self) -> u32 {
        self.journal.max_payload()
    }

    /// Whether appends with payloads of these sizes can be one unit: a journal file
    /// takes them.
    pub fn fits_unit(&self, payloads: impl Iterator<Item = usize>) -> bool {
        self.journal.fits_unit(payloads)
    }

    /// Writes the appends at the front of `group` that fit into the active
    /// journal file, and says how many that were.
    pub fn append<A: ToPlace>(&self, group: &[A], now_ms: i64) -> Result<Written, AppendFailure> {
        self.journal.append(group, now_ms)
    }

    /// Makes everything before `upto` durable.
    pub fn flush(&self, upto: Lsn) -> Result<Lsn, JournalFailed> {
        self.journal.flush(upto)
    }

    /// Lets the disk prove that what is flushed now was durable: when no append is
    /// in sight whose frames would do the same.
    pub fn prove_flushed(&self) -> Result<(), JournalFailed> {
        self.journal.prove_flushed()
    }

    /// One past the last frame that was written to the journal.
    pub fn written(&self) -> Lsn {
        self.journal.written()
    }

    /// Everything in the journal before this is durable.
    pub fn flushed(&self) -> Lsn {
        self.journal.flushed()
    }

    /// Why appends are not taken any more, if so.
    pub fn failure(&self) -> Option<JournalFailed> {
        self.journal.failure()
    }

    /// Goes on with what partitions know of producers, at `now_ms`: the time in which
    /// the broker didn't run counts for nobody. No id below `given_below` will be given
    /// to another producer: where it was lost what was known, these are refused.
    pub fn resume_producers(&self, now_ms: i64, given_below: u64) {
        let known = |log: &Arc<PartitionLog>| log.lock().producers.as_ref()?.last_ms();
        let logs: Vec<Arc<PartitionLog>> = self.logs().values().cloned().collect();
        let latest_ms = logs.iter().filter_map(known).max().unwrap_or(now_ms);
        let passed_ms = now_ms.saturating_sub(latest_ms).max(0);
        for log in logs {
            if let Some(producers) = &mut log.lock().producers {
                producers.resume(passed_ms, now_ms, given_below);
            }
        }
    }

    /// The clock was set forward by so much, to `now_ms`: that is no time in which a
    /// producer was silent.
    pub fn shift_producers(&self, by_ms: i64, now_ms: i64) {
        let logs: Vec<Arc<PartitionLog>> = self.logs().values().cloned().collect();
        for log in logs {
            if let Some(producers) = &mut log.lock().producers {
                producers.shift(by_ms, now_ms);
            }
        }
    }

    /// Forgets producers and requests whose time is over.
    pub fn expire_producers(&self, now_ms: i64) {
        let logs: Vec<Arc<PartitionLog>> = self.logs().values().cloned().collect();
        for log in logs {
            let mut state = log.lock();
            state.producers.take_if(|known| !known.expire(now_ms));
        }
    }

    /// Where the records of a request lie that was appended to a partition before, if that
    /// is remembered; they may not be durable yet.
    pub fn appended_before(
        &self,
        log: &PartitionLog,
        stamp: RequestStamp,
        now_ms: i64,
    ) -> Option<Offset> {
        let state = log.lock();
        state.producers.as_ref()?.find_request(stamp, now_ms)
    }

    /// A producer with a lower id may have been forgotten before its time.
    pub fn producers_forgotten_below(&self) -> u64 {
        self.tally.forgotten_below()
    }

    /// Makes one spare journal file ready if there are too few. Blocks.
    pub fn prepare_spare(&self) -> Result<Prepared, ArchiveError> {
        self.check_unfailed()?;
        let prepared = self.journal.files().prepare_spare();
        prepared.map_err(|error| self.writing_failed("preparing a journal file", &error))
    }

    /// What failed before is the last thing that is tried.
    fn check_unfailed(&self) -> Result<(), JournalFailed> {
        self.failure().map_or(Ok(()), Err)
    }

    /// Removes one spare journal file if there are more than are wanted; says
    /// whether it did.
    pub fn trim_spare(&self) -> io::Result<bool> {
        self.journal.files().trim_spare()
    }

    /// Closes the active journal file if it has frames, so that the archiver
    /// can take it. Says whether it did.
    pub fn close_journal_file(&self) -> bool {
        self.journal.close_active()
    }

    /// Closes the active journal file if it is one that was begun before any
    /// was prepared, and a prepared one is ready: it is slower to flush.
    pub fn leave_unprepared_file(&self) -> bool {
        self.journal.leave_unprepared()
    }

    /// The most journal files that there can be.
    pub fn max_journal_files(&self) -> usize {
        self.journal.files().size().max_files
    }

    /// How many closed journal files wait for the archiver.
    pub fn archiver_lag(&self) -> usize {
        self.journal.files().closed_count()
    }

    fn log(&self, id: PartitionId) -> Option<Arc<PartitionLog>> {
        self.logs().get(&id).cloned()
    }

    fn logs(&self) -> RwLockReadGuard<'_, HashMap<PartitionId, Arc<PartitionLog>>> {
        self.logs.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn archiver(&self) -> MutexGuard<'_, Archiver> {
        self.archiver.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
