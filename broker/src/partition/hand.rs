//! The journal's two hands. Each takes a group from the mailbox, writes it,
//! makes it durable and answers. While one flushes, the other writes the next
//! group behind it; when little is going on, one hand does all of it, and no
//! time is lost on handing over.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::engine::Shared;
use super::handle::Partition;
use super::mailbox::{AppendResult, Call, Durability, Results, Submission};
use super::{Append, AppendError, Appended};
use crate::clock;
use crate::model::CheckedBatch;
use crate::storage::dir::is_full;
use crate::storage::{
    AppendFailure, Claim, JournalFailed, KeyGuard, Lsn, PartitionLog, Placed, ToPlace,
};

/// What the hands share.
#[derive(Debug, Default)]
pub(super) struct Hands {
    /// Held from taking a group to the end of its write, so that groups are
    /// written in the order in which they were taken.
    pen: Mutex<()>,
}

/// A group that was written.
struct Group {
    submissions: Vec<Pending>,
    /// Flush up to here before those that want it are answered.
    end: Lsn,
}

/// An append of a submission, while it is written.
struct Entry<'a> {
    append: &'a Append,
    unit_remaining: u16,
    guards: &'a [KeyGuard],
}

/// A submission that waits for its flush, or for nothing any more.
struct Pending {
    /// The partitions of its appends, and how many records each has.
    appends: Vec<(Arc<Partition>, u32)>,
    results: Results,
    /// Size of its batches: bytes.
    bytes: u64,
    durability: Durability,
    reply: oneshot::Sender<Results>,
    /// Dropped with the answer: those who wait for admission come in.
    _permit: OwnedSemaphorePermit,
}

impl Shared {
    /// Runs one hand until the mailbox is closed and empty.
    pub(super) fn run_hand(&self) {
        loop {
            match self.mailbox.wait() {
                Call::Write => self.write_and_flush(),
                Call::Flush => self.mailbox.during_flush(|| self.flush_written()),
                Call::Prove => self.prove_flushed(),
                Call::Close => break,
            }
        }
        self.flush_written();
    }

    /// Lets the disk prove that what was acknowledged was durable, so that damage
    /// to it will be known as such. A failure is final and told with the next append.
    pub(super) fn prove_flushed(&self) {
        if let Err(failed) = self.storage.prove_flushed() {
            tracing::error!("{failed}: the log is read-only until a restart");
        }
    }

    /// Flushes what topics with a lower flush level wrote. A failure is final
    /// and told with the next append.
    fn flush_written(&self) {
        if let Err(failed) = self.storage.flush(self.storage.written()) {
            tracing::error!("{failed}: the log is read-only until a restart");
        }
    }

    fn write_and_flush(&self) {
        let before = self.storage.written().generation();
        let group = {
            let _pen = self
                .hands
                .pen
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let submissions = self.mailbox.take_group();
            if submissions.is_empty() {
                // The other hand was faster.
                return;
            }
            self.write(submissions)
        };
        // Of a file that was closed the preparer is told, too: another one is to be ready.
        if self.storage.written().generation() != before || self.storage.is_pass_worthwhile() {
            self.upkeep.wake();
        }
        let (durable, written): (Vec<_>, Vec<_>) = group
            .submissions
            .into_iter()
            .partition(|pending| pending.durability.needs_flush);
        for pending in written {
            pending.answer(self);
        }
        if durable.is_empty() {
            return;
        }
        match self.mailbox.during_flush(|| self.storage.flush(group.end)) {
            Ok(_) => durable.into_iter().for_each(|pending| pending.answer(self)),
            Err(failed) => {
                tracing::error!("{failed}: the log is read-only until a restart");
                for pending in durable {
                    pending.refuse(&failed);
                }
            }
        }
    }

    /// Writes a group. Each append gets a result; some have to be flushed
    /// before they are true.
    fn write(&self, submissions: Vec<Submission>) -> Group {
        let (results, end) = {
            let count = submissions.iter().map(|s| s.appends.len()).sum();
            let mut entries = Vec::with_capacity(count);
            for submission in &submissions {
                entries.extend(entries_of(submission));
            }
            self.place(&entries)
        };
        // From the write on: a flush that began before it is no good.
        let within = submissions.iter().filter_map(|s| s.durability.flush_within);
        if let Some(within) = within.min() {
            self.mailbox.flush_by(clock::instant() + within);
        }
        let mut results = results.into_iter();
        let pending = submissions.into_iter().map(|submission| {
            let results = results.by_ref().take(submission.appends.len());
            Pending::new(submission, results)
        });
        Group {
            submissions: pending.collect(),
            end,
        }
    }

    fn place(&self, appends: &[Entry<'_>]) -> (Results, Lsn) {
        let mut results = Vec::with_capacity(appends.len());
        let mut end = Lsn::ZERO;
        while results.len() < appends.len() {
            let rest = &appends[results.len()..];
            match self.storage.append(rest, self.producers_now_ms()) {
                Ok(written) => {
                    end = written.end;
                    let placed = written.placed.into_iter().zip(rest);
                    results.extend(placed.map(|(placed, entry)| result(placed, entry)));
                }
                Err(AppendFailure::JournalFull) if self.upkeep.wait_for_archiver() => {}
                Err(failure @ (AppendFailure::JournalFull | AppendFailure::NoSpace(_))) => {
                    log_shortage(&failure);
                    self.upkeep.ask_for_room();
                    // Internal appends behind this one may still find room.
                    let refused = rest
                        .iter()
                        .take_while(|entry| entry.claim() == rest[0].claim());
                    results.extend(refused.map(|_| Err(AppendError::DiskFull)));
                }
                Err(AppendFailure::Failed(JournalFailed(why))) => {
                    results.extend(rest.iter().map(|_| Err(AppendError::ReadOnly(why.clone()))));
                }
                Err(AppendFailure::Io(_)) => unreachable!("the journal makes it its failure"),
            }
        }
        (results, end)
    }
}

/// That the disk is full, the archiver says every now and then. What else may be
/// short is not what the producers are told.
fn log_shortage(failure: &AppendFailure) {
    if let AppendFailure::NoSpace(error) = failure
        && !is_full(error)
    {
        tracing::warn!("{failure}; appends are refused as if the disk were full");
    }
}

/// What is to be placed of a submission.
fn entries_of(submission: &Submission) -> impl Iterator<Item = Entry<'_>> {
    let count = submission.appends.len();
    let guards = submission.unit.as_deref();
    let numbered = submission.appends.iter().enumerate();
    numbered.map(move |(nth, append)| {
        let follow = if guards.is_some() { count - 1 - nth } else { 0 };
        Entry {
            append,
            unit_remaining: u16::try_from(follow).expect("bounded by UNIT_APPENDS"),
            guards: guards.filter(|_| nth == 0).unwrap_or_default(),
        }
    })
}

impl ToPlace for Entry<'_> {
    fn log(&self) -> &PartitionLog {
        &self.append.partition.log
    }

    fn batch(&self) -> &CheckedBatch {
        &self.append.batch
    }

    fn unit_remaining(&self) -> u16 {
        self.unit_remaining
    }

    fn guards(&self) -> &[KeyGuard] {
        self.guards
    }

    fn claim(&self) -> Claim {
        self.append.partition.claim
    }
}

fn result(placed: Placed, entry: &Entry<'_>) -> Result<Appended, AppendError> {
    let (base_offset, duplicate) = match placed {
        Placed::At(offset) => (offset, false),
        Placed::Duplicate(offset) => (offset, true),
        Placed::Deleted => return Err(AppendError::Deleted(entry.log().id())),
        Placed::Refused(error) => return Err(error.into()),
        Placed::Conflict(conflict) => return Err(AppendError::Conflict(conflict)),
    };
    Ok(Appended {
        base_offset,
        duplicate,
    })
}

impl Pending {
    /// A submission that was placed. What was written is let go of.
    fn new(submission: Submission, results: impl Iterator<Item = AppendResult>) -> Pending {
        // Not in the place of what was written, which takes ten times as much.
        let mut appends = Vec::with_capacity(submission.appends.len());
        let written = submission.appends.into_iter();
        appends.extend(written.map(|append| (append.partition, append.batch.record_count)));
        Pending {
            appends,
            results: results.collect(),
            bytes: submission.bytes as u64,
            durability: submission.durability,
            reply: submission.reply,
            _permit: submission.permit,
        }
    }

    /// Everything is as durable as it should be: readers may see it.
    fn answer(self, shared: &Shared) {
        self.fetch_ahead();
        let (mut records, mut batches) = (0, 0);
        for ((partition, count), result) in self.appends.iter().zip(&self.results) {
            if let Ok(Appended {
                base_offset,
                duplicate,
            }) = *result
            {
                let end = base_offset.advanced(u64::from(*count));
                partition.publish(end);
                if !duplicate {
                    records += u64::from(*count);
                    batches += 1;
                }
            }
        }
        if batches > 0 {
            shared.counters.appended(records, batches, self.bytes);
        }
        // Nobody listens when the client went away meanwhile.
        let _ = self.reply.send(self.results);
    }

    /// Brings the partitions into the processor's cache. Of thousands none is left there
    /// after a flush, and to wait for all together takes little longer than to wait for one.
    fn fetch_ahead(&self) {
        let partitions = self.appends.iter().map(|(partition, _)| partition);
        let marks = partitions.map(|partition| partition.log.high_watermark().0);
        std::hint::black_box(marks.fold(0, u64::wrapping_add));
    }

    /// The flush failed.
    fn refuse(self, failed: &JournalFailed) {
        let refused = self
            .results
            .into_iter()
            .map(|_| Err(AppendError::ReadOnly(failed.0.clone())));
        let _ = self.reply.send(refused.collect());
    }
}
