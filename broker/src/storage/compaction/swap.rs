//! The moments in which compaction is the archiver: it alone changes files then.

use std::io;
use std::path::Path;

use super::CompactionError;
use super::output::{Finished, Output};
use super::pass::Halt;
use crate::model::PartitionId;
use crate::storage::Storage;
use crate::storage::archiver::Archiver;
use crate::storage::dir::is_passing;
use crate::storage::log::{PartitionLog, SealedSegment};
use crate::storage::segment::{self, Compacted, SegmentName, SegmentState};

impl Storage {
    /// Begins a segment that is to take the place of `first` and of what follows.
    pub(super) fn begin_output(
        &self,
        log: &PartitionLog,
        first: SegmentName,
        created_ms: i64,
    ) -> Result<Output, Halt> {
        self.as_archiver(|archiver| {
            if !self.may_replace(log, archiver, &[first]) {
                return Err(Halt::GivenUp);
            }
            Output::create(self.dir.as_ref(), log.id(), first.base_offset, created_ms)
                .map_err(|error| self.compaction_failed(&error))
        })
    }

    /// Removes a segment that is not finished.
    pub(super) fn discard_output(&self, path: &Path) -> Result<(), Halt> {
        self.as_archiver(|_| Ok(segment::remove_if_there(self.dir.as_ref(), path)?))
    }

    /// Lets a finished segment take the place of those that it was made of. If
    /// they have changed meanwhile, it is not wanted any more.
    pub(super) fn replace(
        &self,
        log: &PartitionLog,
        replaced: &[SegmentName],
        finished: &Finished,
    ) -> Result<(), Halt> {
        self.as_archiver(|archiver| {
            if !self.may_replace(log, archiver, replaced) {
                return Err(Halt::GivenUp);
            }
            let name = name_of(replaced, &finished.state);
            self.publish(log, replaced, name, finished)
                .map_err(|error| self.compaction_failed(&error))?;
            for &old in replaced {
                self.segments.forget(log.id(), old);
                if let Err(error) = segment::remove(self.dir.as_ref(), log.id(), old) {
                    archiver.forget_sweep(log.id());
                    return Err(error.into());
                }
                // A reader may have opened it just before it went.
                self.segments.forget(log.id(), old);
            }
            Ok(())
        })
    }

    fn publish(
        &self,
        log: &PartitionLog,
        replaced: &[SegmentName],
        name: SegmentName,
        finished: &Finished,
    ) -> io::Result<()> {
        let path = segment::log_path(log.id(), name);
        self.dir.rename(&finished.path, &path)?;
        // Which of the two is on disk is open now. Whatever the error is, a later
        // attempt can't make it good.
        self.dir
            .sync_dir(&segment::partition_dir(log.id()))
            .map_err(|error| {
                io::Error::other(format!("a segment was replaced, but then: {error}"))
            })?;
        self.write_index(log.id(), name, finished)?;
        let mut state = log.lock();
        // With the segment: who finds it finds what is missing there.
        state.dropped = state.dropped.map(|known| known.and(finished.dropped));
        let sealed = state.sealed.as_mut().expect("it was listed for this pass");
        let at = sealed.partition_point(|other| other.name.base_offset < name.base_offset);
        let new = SealedSegment::known(name, &finished.state);
        let old = sealed.splice(at..at + replaced.len(), [new]);
        let old: Vec<SegmentName> = old.map(|segment| segment.name).collect();
        assert_eq!(old, replaced, "it takes the place of what it was made of");
        Ok(())
    }

    /// The index can be made again: it is neither flushed nor missed where there
    /// is no room for it.
    fn write_index(
        &self,
        id: PartitionId,
        name: SegmentName,
        finished: &Finished,
    ) -> io::Result<()> {
        if finished.index.len() == 0 {
            return Ok(());
        }
        match segment::write_index(self.dir.as_ref(), id, name, &finished.index) {
            Err(error) if !is_passing(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether the segments are still those of the log, and a crash brings no older
    /// ones back; nothing is changed any more once something failed.
    fn may_replace(&self, log: &PartitionLog, archiver: &Archiver, names: &[SegmentName]) -> bool {
        let state = log.lock();
        self.failure().is_none()
            && !archiver.expires(log.id())
            && names.iter().all(|&name| state.has_segment(name))
    }

    fn as_archiver<T>(
        &self,
        act: impl FnOnce(&mut Archiver) -> Result<T, Halt>,
    ) -> Result<T, Halt> {
        let done = act(&mut self.archiver());
        let removed = self.remove_doomed().map_err(CompactionError::Write);
        removed.map_err(Halt::Failed)?;
        done
    }

    /// Writing failed.
    pub(super) fn compaction_failed(&self, error: &io::Error) -> Halt {
        let failed = self.writing_failed("compacting", error);
        Halt::Failed(CompactionError::Write(failed))
    }
}

fn name_of(replaced: &[SegmentName], state: &SegmentState) -> SegmentName {
    let revisions = replaced.iter().map(SegmentName::revision);
    SegmentName {
        base_offset: state.base_offset,
        compacted: Some(Compacted {
            next_offset: state.next_offset,
            revision: revisions.max().unwrap_or(0) + 1,
        }),
    }
}
