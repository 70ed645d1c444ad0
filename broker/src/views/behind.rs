//! What a watcher reads of the log that it wasn't told: it resumes, or was too slow.

use std::sync::{Arc, Weak};

use bytes::BytesMut;
use statecast_proto::batch::BatchError;

use super::ViewError;
use super::decode::{Change, Go, Mark, each_record_from};
use super::topic_view::{Shared, Viewed};
use super::unpack::Unpacked;
use super::watch::{Phase, Reading, Watch, WatchEvent};
use crate::limits;
use crate::model::{Offset, PartitionId};
use crate::partition::{Read, ReadError};
use crate::state::Filter;

impl Watch {
    /// It has come to where it wanted to. Once it is told, it reads what came in between;
    /// then it has all that there was when it was registered, and hears the rest.
    pub(super) fn end_reading(&mut self) -> Option<WatchEvent> {
        let Some(registration) = &mut self.registration else {
            let registration = self.shared().register(&self.filter);
            let ends = registration.from.iter().map(|place| place.applied);
            self.phase = Phase::Behind(Reading {
                partition: 0,
                ends: ends.collect(),
            });
            self.registration = Some(registration);
            return None;
        };
        let starts: Vec<Offset> = registration.from.iter().map(|it| it.start).collect();
        let mut untold = (0..).zip(starts).filter(|(partition, start)| {
            let told: &Offset = &self.starts[*partition];
            start > told
        });
        if let Some((partition, start)) = untold.next() {
            return Some(self.truncated(partition, start));
        }
        // Many, if there are many partitions, and needed no more.
        let from = std::mem::take(&mut registration.from);
        self.phase = Phase::Told;
        let is_synced = !self.is_synced && self.missing(&from).is_none();
        is_synced.then(|| {
            self.is_synced = true;
            WatchEvent::Synced(self.sent.clone())
        })
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
        partition: usize,
        end: Offset,
    ) -> Result<Option<WatchEvent>, ViewError> {
        let from = self.sent[partition];
        if from >= end {
            if let Phase::Behind(reading) = &mut self.phase {
                reading.partition += 1;
            }
            return Ok(None);
        }
        let shared = self.shared().clone();
        let viewed = &shared.partitions[partition];
        let turn = shared.reading.watchers.acquire().await;
        let mut piece = Piece {
            partition: u32::try_from(partition).expect("bounded by limits"),
            changes: Vec::new(),
            bytes: 0,
            read_to: from,
            end,
        };
        let outcome = self.gather(&shared, viewed, &mut piece).await?;
        drop(turn);
        // Looked at after it was read: records go only once this says so.
        let compacted = viewed.handle.compacted().await?;
        if compacted.tombstones_removed_to > from {
            self.start_over();
            return Ok(None);
        }
        let exact_from = &mut self.exact_from[partition];
        *exact_from = compacted.state_from.max(*exact_from);
        match outcome {
            Outcome::Read => {
                self.sent[partition] = piece.read_to.min(end).max(from);
                let changes = piece.changes;
                Ok((!changes.is_empty()).then_some(WatchEvent::Changes(changes)))
            }
            Outcome::RemovedTo(start) => Ok(Some(self.truncated(partition, start))),
            // The view may know what was there.
            Outcome::Damaged => {
                self.start_over();
                Ok(None)
            }
        }
    }

    /// Reads as many changes as go into a message: from a batch that is kept, or from the
    /// log.
    async fn gather(
        &mut self,
        shared: &Shared,
        viewed: &Viewed,
        piece: &mut Piece,
    ) -> Result<Outcome, ViewError> {
        let (id, from) = (viewed.handle.id(), piece.read_to);
        let unpacker = &shared.reading.unpacker;
        if let Some(batch) = unpacker.kept(id, from) {
            let mark = self.place.mark(&batch, from);
            let read = piece.take(&batch, mark, &self.filter, &mut self.body);
            // It may have been removed since it was read.
            let start = viewed.handle.range().log_start_offset;
            return Ok(match read {
                _ if start > from => Outcome::RemovedTo(start),
                Ok(stopped) => {
                    self.place = InBatch::of(&batch, stopped);
                    Outcome::Read
                }
                Err(error) => unreadable(id, &error),
            });
        }
        let max_bytes = limits::WATCH_READ_BYTES;
        let batches = match viewed.handle.read(from, piece.end, max_bytes).await {
            Ok(Read::Batches(batches)) => batches,
            Ok(Read::Truncated { log_start_offset }) => {
                return Ok(Outcome::RemovedTo(log_start_offset));
            }
            Ok(Read::Quarantined { .. }) => return Ok(Outcome::Damaged),
            Err(ReadError::Deleted(_)) => return Err(ViewError::Deleted),
            Err(error) => return Err(error.into()),
        };
        for batch in &batches {
            let opened = match unpacker.unpack(batch).await {
                Ok(opened) => opened,
                Err(error) => return Ok(unreadable(id, &error)),
            };
            let mark = Mark::first(&opened, from);
            match piece.take(&opened, mark, &self.filter, &mut self.body) {
                Ok(None) => {}
                Ok(stopped) => {
                    // Others may be where this one is.
                    let kept = unpacker.keep(id, opened);
                    self.place = InBatch::of(&kept, stopped);
                    break;
                }
                Err(error) => return Ok(unreadable(id, &error)),
            }
        }
        Ok(Outcome::Read)
    }
}

/// What a watcher found where it read.
enum Outcome {
    Read,
    /// Nothing, below this.
    RemovedTo(Offset),
    Damaged,
}

fn unreadable(id: PartitionId, error: &BatchError) -> Outcome {
    tracing::error!("a batch of partition {id} is unreadable: {error}");
    Outcome::Damaged
}

/// Where a watcher is in a batch that is too large for a message. The place is good for
/// this very batch, as long as it is kept.
#[derive(Debug, Default)]
pub(super) struct InBatch(Option<(Weak<Unpacked>, Mark)>);

impl InBatch {
    fn of(batch: &Arc<Unpacked>, mark: Option<Mark>) -> InBatch {
        InBatch(mark.map(|mark| (Arc::downgrade(batch), mark)))
    }

    /// Where an offset lies in a batch, as far as that is known.
    fn mark(&self, batch: &Arc<Unpacked>, offset: Offset) -> Mark {
        match &self.0 {
            Some((of, mark)) if of.as_ptr() == Arc::as_ptr(batch) && mark.offset == offset => *mark,
            _ => Mark::first(batch, offset),
        }
    }
}

/// The changes that go into a message.
struct Piece {
    partition: u32,
    changes: Vec<Change>,
    bytes: usize,
    /// Everything below is in it.
    read_to: Offset,
    /// Nothing from here on goes into it.
    end: Offset,
}

impl Piece {
    /// Takes the changes in a batch, from a record on. Returns the first one that wasn't
    /// taken.
    fn take(
        &mut self,
        batch: &Unpacked,
        mark: Mark,
        filter: &Filter,
        body: &mut BytesMut,
    ) -> Result<Option<Mark>, BatchError> {
        let stopped = each_record_from(batch, mark, body, |record| {
            if record.offset >= self.end || self.bytes >= limits::WATCH_READ_BYTES {
                return Go::Stop;
            }
            if filter.matches(record.key) {
                let change = record.to_change(self.partition);
                self.bytes += change.size();
                self.changes.push(change);
            }
            Go::On
        })?;
        self.read_to = stopped.map_or(batch.header.next_offset(), |mark| mark.offset);
        Ok(stopped)
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
