//! What happens in the background: archiving, keeping spare journal files
//! ready, retention.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::engine::Shared;
use super::handle::Partition;
use crate::model::Offset;
use crate::storage::{ArchiveError, Pace, PartitionRetention, Prepared, Storage};

/// How often retention is looked at, and a full disk tried again.
pub(super) const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// How often an append that found the journal full is tried again.
const RETRY_FULL: Duration = Duration::from_millis(20);
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What the archiver waits after each piece while it is gentle. It then writes
/// about 100 MB/s.
const PAUSE: Duration = Duration::from_millis(4);

/// The archiver is gentle while fewer files than one in so many wait for it: it
/// leaves a burst the disk, and has the rest of the files to catch up.
const GENTLE_SHARE: usize = 4;

/// Sweeps after which a journal file that is not full is archived all the same,
/// so that retention reaches what it holds.
const SWEEPS_PER_FILE: u32 = 20;

/// How much the background gives way to those who wait for an answer: a nice
/// value. Bursts go to the journal first; it holds a gigabyte. What becomes of longer
/// ones, `haste` sees to.
const NICENESS: i32 = 10;

/// What the background threads share with the hands.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    state: Mutex<UpkeepState>,
    /// Something is to be done.
    work: Condvar,
    /// A journal file was recycled, or can't be.
    progress: Condvar,
}

#[derive(Debug, Default)]
struct UpkeepState {
    closed: bool,
    /// Grows with each call for work, so that none is missed.
    calls: u64,
    /// The archiver can't go on: the disk is full or failed.
    stuck: bool,
    /// Whether the disk has room for more journal files.
    room: Room,
    /// The next pass is wanted however few files there are for it.
    hurried: bool,
    /// Passes of the archiver.
    archived: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Room {
    #[default]
    Enough,
    Wanting,
}

impl Upkeep {
    /// There may be files to archive or to prepare.
    pub(super) fn wake(&self) {
        self.lock().calls += 1;
        self.work.notify_all();
    }

    /// Ends the threads: what they are at is given up, or done soon.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.work.notify_all();
        self.progress.notify_all();
    }

    /// As [`Upkeep::wake`], for a pass that doesn't wait for more files.
    fn hurry(&self) {
        self.lock().hurried = true;
        self.wake();
    }

    /// Whether the archiver may wait for more files.
    pub(super) fn may_gather(&self) -> bool {
        let state = self.lock();
        !state.hurried && !state.stuck && state.room == Room::Enough
    }

    /// A producer finds no room on the disk: what waits for more files may be what takes
    /// it. An archiver that is stuck tries again by itself.
    pub(super) fn ask_for_room(&self) {
        if !self.lock().stuck {
            self.hurry();
        }
    }

    /// Where there is no room for more journal files, there may never be as many as the
    /// archiver would wait for.
    fn note_room(&self, room: Room) {
        let before = std::mem::replace(&mut self.lock().room, room);
        if before != room {
            self.wake();
        }
    }

    /// The archiver has nothing to do for now.
    fn rest(&self) {
        let mut state = self.lock();
        state.stuck = false;
        state.hurried = false;
    }

    /// Waits until the archiver has recycled a file; false when it can't.
    pub(super) fn wait_for_archiver(&self) -> bool {
        // There may be no room for as many files as it would wait for.
        self.hurry();
        // Progress between the failed append and this wait goes unnoticed, so
        // the wait is short; then the append is tried again.
        let wait = self.progress.wait_timeout(self.lock(), RETRY_FULL);
        let state = wait.unwrap_or_else(PoisonError::into_inner).0;
        !state.stuck && !state.closed
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Waits, unless the threads are to end.
    pub(super) fn pause(&self, time: Duration) {
        let open = |state: &mut UpkeepState| !state.closed;
        let _ = self.work.wait_timeout_while(self.lock(), time, open);
    }

    /// The archiver has made a pass, or can't go on.
    fn report(&self, stuck: bool) {
        let mut state = self.lock();
        state.stuck = stuck;
        state.hurried = false;
        state.archived += u64::from(!stuck);
        drop(state);
        self.progress.notify_all();
    }

    /// Waits until the archiver has made more than `seen` passes, or a time;
    /// `None` when closed.
    pub(super) fn wait_for_archived(&self, seen: u64, time: Duration) -> Option<u64> {
        let state = self.lock();
        let idle = |state: &mut UpkeepState| state.archived == seen && !state.closed;
        let waited = self.progress.wait_timeout_while(state, time, idle);
        let state = waited.unwrap_or_else(PoisonError::into_inner).0;
        (!state.closed).then_some(state.archived)
    }

    /// Waits for a call after the `seen`th, or a time; `None` when closed.
    fn wait(&self, seen: u64, time: Duration) -> Option<u64> {
        let state = self.lock();
        let idle = |state: &mut UpkeepState| state.calls == seen && !state.closed;
        let waited = self.work.wait_timeout_while(state, time, idle);
        let state = waited.unwrap_or_else(PoisonError::into_inner).0;
        (!state.closed).then_some(state.calls)
    }

    fn lock(&self) -> MutexGuard<'_, UpkeepState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes this thread give way to others.
pub(super) fn give_way() {
    let thread = rustix::thread::gettid();
    // Where it is not allowed, things just take turns.
    let _ = rustix::process::setpriority_process(Some(thread), NICENESS);
}

impl Pace for Shared {
    fn is_gentle(&self) -> bool {
        self.archiver_keeps_up() && !self.upkeep.is_closed()
    }

    fn pause(&self) {
        self.upkeep.pause(PAUSE);
    }

    fn may_gather(&self) -> bool {
        self.upkeep.may_gather()
    }

    fn is_over(&self) -> bool {
        self.upkeep.is_closed()
    }
}

/// How far archiving came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Archived {
    /// Nothing is left, or not enough for a pass.
    All,
    /// There may be more.
    Some,
    /// That failed, and has to be tried again.
    Stuck,
}

impl Shared {
    /// Whether few journal files wait for the archiver, or too little for a pass.
    pub(super) fn archiver_keeps_up(&self) -> bool {
        self.storage.archiver_lag() <= self.storage.max_journal_files() / GENTLE_SHARE
            || !self.storage.is_pass_worthwhile()
    }

    /// Archives closed journal files and looks after retention.
    pub(super) fn run_archiver(&self) {
        give_way();
        self.archive_and_sweep();
        self.haste.end();
    }

    fn archive_and_sweep(&self) {
        let mut seen = 0;
        let mut next_sweep = crate::clock::instant() + SWEEP_EVERY;
        let mut file_age = FileAge::default();
        loop {
            let archived = self.archive_until(next_sweep);
            if self.storage.failure().is_some() {
                // What failed was the last thing that is tried.
                return;
            }
            let now = crate::clock::instant();
            if now >= next_sweep {
                next_sweep = now + SWEEP_EVERY;
                self.sweep(&mut file_age);
            }
            let time = match archived {
                Archived::All => next_sweep.saturating_duration_since(now),
                Archived::Some => continue,
                Archived::Stuck => RETRY_AFTER,
            };
            match self.upkeep.wait(seen, time) {
                Some(calls) => seen = calls,
                None => return,
            }
        }
    }

    /// Archives until what is left isn't worth a pass, or it is time for something else:
    /// producers may be faster than the archiver for long.
    pub(super) fn archive_until(&self, end: Instant) -> Archived {
        loop {
            match self.archive_oldest() {
                Ok(0) => {
                    self.upkeep.rest();
                    return Archived::All;
                }
                Ok(_) => self.upkeep.report(false),
                Err(error @ ArchiveError::Failed(_)) => {
                    tracing::error!("{error}: the log is read-only until a restart");
                    self.upkeep.report(true);
                    return Archived::All;
                }
                Err(error) => {
                    tracing::warn!("{error}; trying again");
                    self.upkeep.report(true);
                    return Archived::Stuck;
                }
            }
            if crate::clock::instant() >= end {
                return Archived::Some;
            }
        }
    }

    /// What is done every half minute.
    pub(super) fn sweep(&self, file_age: &mut FileAge) {
        let closed = file_age.is_due(&self.storage) && self.storage.close_journal_file();
        if self.storage.archiver_lag() > 0 {
            // Those that wait for more have waited long enough.
            self.upkeep.hurry();
        }
        if closed {
            // Retention sees only what is in segments.
            self.archive_until(crate::clock::instant() + SWEEP_EVERY);
        }
        self.storage.expire_producers(self.producers_now_ms());
        if let Err(error) = self.storage.trim_spare() {
            tracing::warn!("removing a spare journal file failed: {error}");
        }
        let partitions = self.partitions();
        // Who keeps a view of a partition has to hear of what goes.
        let viewed = partitions.iter().filter(|partition| {
            let config = partition.config();
            let expires = config.retention_ms.is_some() || config.retention_bytes.is_some();
            expires && config.compaction.is_some()
        });
        let start = |partition: &Arc<Partition>| partition.log.lock().log_start;
        let viewed: Vec<_> = viewed.map(|one| (one.clone(), start(one))).collect();
        let retention = partitions.into_iter().map(|partition| {
            let config = partition.config();
            PartitionRetention {
                log: partition.log.clone(),
                retention_ms: config.retention_ms,
                retention_bytes: config.retention_bytes,
            }
        });
        match self.storage.apply_retention(retention, self.clock.now_ms()) {
            Ok(_) => {}
            Err(error) => tracing::warn!("retention failed: {error}; trying again later"),
        }
        for (partition, before) in viewed {
            if start(&partition) > before {
                partition.waiters.ring_below(Offset(u64::MAX));
            }
        }
        if let Err(error) = self.storage.restore_indexes() {
            tracing::warn!("restoring an index failed: {error}");
        }
    }

    /// Keeps spare journal files ready.
    pub(super) fn run_preparer(&self) {
        give_way();
        let mut seen = 0;
        while !self.upkeep.is_closed() {
            let time = match self.storage.prepare_spare() {
                Ok(Prepared::One) => {
                    self.upkeep.note_room(Room::Enough);
                    // What was begun before any file was ready is slower to flush.
                    self.storage.leave_unprepared_file();
                    self.upkeep.wake();
                    continue;
                }
                Ok(Prepared::Enough) => {
                    self.upkeep.note_room(Room::Enough);
                    SWEEP_EVERY
                }
                Ok(Prepared::NoRoom) => {
                    self.upkeep.note_room(Room::Wanting);
                    RETRY_AFTER
                }
                Err(error @ ArchiveError::Failed(_)) => {
                    tracing::error!("{error}: the log is read-only until a restart");
                    return;
                }
                Err(error) => {
                    tracing::warn!("preparing a journal file failed: {error}; trying again");
                    SWEEP_EVERY
                }
            };
            match self.upkeep.wait(seen, time) {
                Some(calls) => seen = calls,
                None => return,
            }
        }
    }
}

/// How long the same journal file has been written: sweeps.
#[derive(Debug, Default)]
pub(super) struct FileAge {
    generation: u32,
    sweeps: u32,
}

impl FileAge {
    fn is_due(&mut self, storage: &Storage) -> bool {
        let generation = storage.written().generation().0;
        self.sweeps = if generation == self.generation {
            self.sweeps + 1
        } else {
            0
        };
        self.generation = generation;
        self.sweeps >= SWEEPS_PER_FILE
    }
}
