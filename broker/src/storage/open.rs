//! Opening a data directory: identity, checkpoint, journal, in this order.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};

use super::archiver::Archiver;
use super::checkpoint::{self, Checkpoint, CheckpointEntry, Loaded};
use super::dir::{Dir, ExaminedDir};
use super::identity::{Identity, IdentityError};
use super::journal::{JOURNAL_DIR, Journal, JournalFiles};
use super::log::PartitionLog;
use super::lsn::Generation;
use super::producers::{ProducerReplay, Snapshot, Tally};
use super::recovery::{self, RecoveryReport, ReplayInto};
use super::segment::{self, SegmentCache, SegmentState};
use super::{PARTITIONS_DIR, Storage, StorageOptions};
use crate::model::PartitionId;

/// Why a data directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is not one of ours, or of a newer format.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Storage {
    /// Opens the data directory, or makes a new one. `seed` is random and new
    /// each time: it marks the frames of this run, and the id of a new directory
    /// is made of it.
    pub fn open(
        dir: Arc<dyn Dir>,
        mut options: StorageOptions,
        seed: u128,
    ) -> Result<(Storage, RecoveryReport), OpenError> {
        // Before anything is changed: it may be a newer broker's.
        let found = Identity::load(dir.as_ref())?;
        dir.create_dir(Path::new(JOURNAL_DIR))?;
        dir.create_dir(Path::new(PARTITIONS_DIR))?;
        dir.sync_dir(Path::new(""))?;
        let size = &mut options.journal.size;
        let identity = match found {
            Some(identity) => identity,
            None => Identity::create(dir.as_ref(), size.file_bytes, seed)?,
        };
        // The files that are there have the size that was chosen first.
        size.file_bytes = identity.journal_file_bytes;

        // Nothing was appended before the first checkpoint was there.
        let is_new = dir.list(Path::new(JOURNAL_DIR))?.is_empty()
            && dir.list(Path::new(PARTITIONS_DIR))?.is_empty();
        let salt = u32::try_from(seed >> 96).expect("the upper 32 bits");
        let mut report = RecoveryReport::default();
        let (archived, entries) = match Checkpoint::load(dir.as_ref())? {
            Loaded::Checkpoint(checkpoint) => (Some(checkpoint.archived), checkpoint.partitions),
            Loaded::Missing if is_new => {
                let first = Checkpoint {
                    archived: Generation::ZERO,
                    partitions: Vec::new(),
                };
                first.store(dir.as_ref())?;
                (Some(first.archived), first.partitions)
            }
            Loaded::Missing | Loaded::Damaged => {
                report.rebuilt_checkpoint = true;
                (None, entries_of_segments(dir.as_ref())?)
            }
        };
        // Before anything else takes what is free: a crash has freed it, too.
        checkpoint::keep_room(dir.as_ref())?;
        let tally = Arc::new(Tally::default());
        let snapshot = Snapshot::load(dir.as_ref(), &tally)?;
        let mut producers = ProducerReplay::new(snapshot, archived, &entries, tally.clone());
        let noted = producers.noted();
        let mut logs: HashMap<PartitionId, Arc<PartitionLog>> = entries
            .into_iter()
            .map(|entry| (entry.partition, Arc::new(log_of(&entry))))
            .collect();

        let files = Arc::new(JournalFiles::new(dir.clone(), options.journal.size));
        let into = ReplayInto {
            logs: &mut logs,
            producers: &mut producers,
            report: &mut report,
        };
        let recovered = recovery::replay(&files, archived, into)?;
        report.lost_producers = producers.finish(&logs);
        let journal = Journal::new(
            files,
            options.journal,
            salt,
            recovered.newest,
            recovered.end,
            recovered.proof,
            tally.clone(),
        );
        // Recovery has flushed what it found. It may be long until something comes
        // behind that.
        journal.prove_flushed().map_err(io::Error::other)?;
        let growing = options.growing_segments;
        let storage = Storage {
            segments: SegmentCache::new(options.open_segments),
            dir,
            identity,
            lost_offsets: recovered.lost_offsets,
            journal,
            logs: RwLock::new(logs),
            archiver: Mutex::new(Archiver::new(recovered.archived, noted, growing)),
            tally,
            key_budget: Arc::default(),
            doomed: Mutex::default(),
        };
        Ok((storage, report))
    }
}

/// Whether this broker may take the data directory at `root`, as far as its format goes:
/// to be asked before [`super::dir::RealDir::take`], which changes something in it. What isn't
/// there yet may be taken.
pub fn check_format(root: &Path) -> Result<(), IdentityError> {
    Identity::load(&ExaminedDir::unlocked(root)).map(|_| ())
}

/// The log that a checkpoint speaks of.
pub(super) fn log_of(entry: &CheckpointEntry) -> PartitionLog {
    PartitionLog::recovered(
        entry.partition,
        entry.log_start,
        entry.archived_end,
        entry.active,
    )
}

/// What a checkpoint would say of the segments on disk: for when there is none.
/// Reads every segment that is not sealed.
pub(super) fn entries_of_segments(dir: &dyn Dir) -> io::Result<Vec<CheckpointEntry>> {
    let mut entries = Vec::new();
    for name in dir.list(Path::new(PARTITIONS_DIR))? {
        let Ok(id) = name.parse().map(PartitionId) else {
            continue;
        };
        let names = segment::list(dir, id)?.current();
        let (Some(&first), Some(&last)) = (names.first(), names.last()) else {
            continue;
        };
        let mut active = segment::recover_state(dir, id, last)?;
        if last.compacted.is_some() {
            // The active one is lost, and nothing is appended to this one.
            active = SegmentState::empty(active.next_offset, active.created_ms);
        }
        entries.push(CheckpointEntry {
            partition: id,
            log_start: first.base_offset,
            archived_end: active.next_offset,
            active: Some(active),
            has_producers: false,
        });
    }
    Ok(entries)
}
