//! What a watcher reads of the log that it wasn't told: it resumes, or was too slow.

use super::ViewError;
use super::decode::{Change, Go, each_record};
use super::topic_view::{Shared, Viewed};
use super::watch::{Phase, Watch, WatchEvent};
use crate::limits;
use crate::model::Offset;
use crate::partition::{Read, ReadError, StoredBatch};

impl Watch {
    /// It has come to the end of each partition. Once it is told, it reads what came in
    /// between, and then hears the rest.
    pub(super) fn end_reading(&mut self) -> Option<WatchEvent> {
        let Some(registration) = &mut self.registration else {
            self.registration = Some(self.shared().register(&self.filter));
            self.phase = Phase::Behind(0);
            return None;
        };
        let starts: Vec<Offset> = registration.from.iter().map(|it| it.start).collect();
        let mut untold = (0..).zip(starts).filter(|(partition, start)| {
            let told: &Offset = &self.starts[*partition];
            start > told
        });
        match untold.next() {
            Some((partition, start)) => Some(self.truncated(partition, start)),
            None => {
                // Many, if there are many partitions, and needed no more.
                registration.from = Vec::new();
                self.phase = Phase::Told;
                None
            }
        }
    }

    pub(super) fn truncated(&mut self, partition: usize, start: Offset) -> WatchEvent {
        self.starts[partition] = start;
        self.sent[partition] = start.max(self.sent[partition]);
        WatchEvent::Truncated {
            partition: u32::try_from(partition).expect("bounded by limits"),
            start,
        }
    }

    /// Reads some of a partition that it is behind in.
    pub(super) async fn read(
        &mut self,
        shared: &Shared,
        viewed: &Viewed,
        partition: usize,
    ) -> Result<Option<WatchEvent>, ViewError> {
        let from = self.sent[partition];
        let end = match &self.registration {
            Some(registration) => registration.from[partition].applied,
            None => viewed.handle.high_watermark(),
        };
        if from >= end {
            self.phase = Phase::Behind(partition + 1);
            return Ok(None);
        }
        let max_bytes = limits::WATCH_READ_BYTES;
        let read = viewed.handle.read(from, end, max_bytes).await;
        // Looked at after it was read: records go only once this says so.
        let compacted = viewed.handle.compacted().await?;
        if compacted.tombstones_removed_to > from {
            self.start_over();
            return Ok(None);
        }
        let exact_from = &mut self.exact_from[partition];
        *exact_from = compacted.state_from.max(*exact_from);
        match read {
            Ok(Read::Batches(batches)) => {
                let changes = self.changes(shared, partition, &batches, end).await;
                Ok(changes
                    .filter(|some| !some.is_empty())
                    .map(WatchEvent::Changes))
            }
            Ok(Read::Truncated { log_start_offset }) => {
                Ok(Some(self.truncated(partition, log_start_offset)))
            }
            // The view may know what was there.
            Ok(Read::Quarantined { .. }) => {
                self.start_over();
                Ok(None)
            }
            Err(ReadError::Deleted(_)) => Err(ViewError::Deleted),
            Err(error) => Err(error.into()),
        }
    }

    /// The changes in some batches below `end`, as many as go into a message; nothing if
    /// it has to begin anew.
    async fn changes(
        &mut self,
        shared: &Shared,
        partition: usize,
        batches: &[StoredBatch],
        end: Offset,
    ) -> Option<Vec<Change>> {
        let number = u32::try_from(partition).expect("bounded by limits");
        let from = self.sent[partition];
        let (mut changes, mut bytes) = (Vec::new(), 0);
        let mut read_to = end;
        for batch in batches {
            if bytes >= limits::WATCH_READ_BYTES {
                break;
            }
            read_to = batch.header.next_offset();
            let unpacked = shared.unpacker.unpack(batch).await;
            let filter = &self.filter;
            let read = unpacked.and_then(|unpacked| {
                each_record(&unpacked, from, &mut self.body, |record| {
                    if record.offset >= end || bytes >= limits::WATCH_READ_BYTES {
                        read_to = record.offset;
                        return Go::Stop;
                    }
                    if filter.matches(record.key) {
                        let change = record.to_change(number);
                        bytes += change.size();
                        changes.push(change);
                    }
                    Go::On
                })
            });
            if let Err(error) = read {
                let id = shared.partitions[partition].handle.id();
                tracing::error!("a batch of partition {id} is unreadable: {error}");
                self.start_over();
                return None;
            }
            if read_to < batch.header.next_offset() {
                break;
            }
        }
        self.sent[partition] = read_to.min(end).max(from);
        Some(changes)
    }
}

/// Refuses to begin with changes that aren't there any more, or not yet.
pub(super) async fn check_resume_point(
    shared: &Shared,
    partition: u32,
    asked: Offset,
) -> Result<(), ViewError> {
    let viewed = shared.viewed(partition);
    let range = viewed.handle.range();
    if asked > range.high_watermark {
        return Err(ViewError::ResumePointBeyondEnd {
            partition,
            asked: asked.0,
            end: range.high_watermark.0,
        });
    }
    let compacted = viewed.handle.compacted().await?;
    let earliest = range.log_start_offset.max(compacted.tombstones_removed_to);
    match asked < earliest {
        true => Err(ViewError::ResumePointCompacted {
            partition,
            asked: asked.0,
            earliest: earliest.0,
        }),
        false => Ok(()),
    }
}
