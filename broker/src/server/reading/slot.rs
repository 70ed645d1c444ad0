//! A partition that is read.

use statecast_proto::v1;
use tokio::sync::OwnedSemaphorePermit;

use crate::broker::Topic;
use crate::model::{Offset, TopicName};
use crate::partition::{PartitionHandle, ReadError, StoredBatch};
use crate::server::error::Refusal;
use crate::server::fetched::fetched;

/// Names a partition that is read; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::server) struct SlotId(pub(super) usize);

/// A partition, and where in it to begin, or to go on.
#[derive(Debug)]
pub(in crate::server) struct Opened {
    pub(in crate::server) topic: TopicName,
    pub(in crate::server) number: u32,
    pub(in crate::server) partition: PartitionHandle,
    /// The next offset that the reader gets.
    pub(in crate::server) position: Offset,
    /// Where it ends.
    pub(in crate::server) until: Offset,
    /// The largest batch that its topic takes now: bytes.
    pub(in crate::server) max_batch_bytes: u32,
}

/// Stands for "no end".
const FOR_EVER: Offset = Offset(u64::MAX);

/// What came out of a partition.
#[derive(Debug)]
pub(in crate::server) struct Taken {
    pub(in crate::server) slot: SlotId,
    pub(in crate::server) batch: v1::FetchedBatch,
    /// How many records it has.
    pub(in crate::server) records: u32,
    /// Where its partition was before.
    pub(super) from: Offset,
}

/// A place in line.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) opened: Opened,
    pub(super) state: SlotState,
    /// It was read since the last time that everything was.
    pub(super) was_touched: bool,
    /// One of those that all readers together have.
    pub(super) _cursor: OwnedSemaphorePermit,
}

/// Where a slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SlotState {
    /// In line to be read, or being read.
    InLine,
    /// At the high watermark: its partition rings when there is more.
    Waiting,
    /// At its end.
    Done,
}

impl Opened {
    /// A partition of a topic from `position` on, without an end.
    pub(in crate::server) fn new(
        topic: &Topic,
        number: u32,
        partition: &PartitionHandle,
        position: Offset,
    ) -> Opened {
        Opened {
            topic: topic.meta().name.clone(),
            number,
            partition: partition.clone(),
            position,
            until: FOR_EVER,
            max_batch_bytes: topic.max_batch_bytes(),
        }
    }

    /// Ends at what is readable now.
    pub(in crate::server) fn until_end(mut self) -> Opened {
        self.until = self.partition.high_watermark();
        self
    }

    /// Its readable range, and how far it was read.
    pub(in crate::server) fn describe(&self) -> v1::PartitionPosition {
        let range = self.partition.range();
        v1::PartitionPosition {
            partition: self.number,
            offset: self.position.0,
            log_start_offset: range.log_start_offset.0,
            high_watermark: range.high_watermark.0,
        }
    }

    /// What is told when it can't be read.
    pub(in crate::server) fn refusal(&self, error: ReadError) -> Refusal {
        Refusal::from(error).about(self.topic.as_str(), self.number)
    }
}

impl Slot {
    /// Moves behind a batch, and makes it what the reader gets, if it gets anything.
    pub(super) fn take(
        &mut self,
        id: SlotId,
        batch: StoredBatch,
        high_watermark: Offset,
    ) -> Option<Taken> {
        let records = batch.header.record_count;
        let next = batch.header.next_offset();
        let position = std::mem::replace(&mut self.opened.position, next);
        let batch = fetched(self.opened.number, position, batch, high_watermark)?;
        Some(Taken {
            slot: id,
            batch,
            records,
            from: position,
        })
    }
}

/// What a batch takes in a response besides its records: bytes, at most.
const BATCH_OVERHEAD: usize = 80;

impl Taken {
    /// What it takes in a response: bytes, at most.
    pub(in crate::server) fn size(&self) -> usize {
        BATCH_OVERHEAD + self.batch.batch.len()
    }
}
