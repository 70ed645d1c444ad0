//! Partitions that are read in turn, for one who gets their records.
//!
//! Each slot is one partition: it is in line while there may be something to read,
//! else the partition rings the bell. What was read and not handed out yet stays
//! here, so that reading can be given up at any moment and nothing is lost.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;

use statecast_proto::v1;

use super::call::Call;
use super::error::Refusal;
use super::fetched::fetched;
use super::memory::Held;
use super::read_room::ReadRoom;
use crate::limits;
use crate::model::{Offset, TopicName};
use crate::partition::{Doorbell, PartitionHandle, Read, ReadError, StoredBatch};

/// Names a partition that is read; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SlotId(usize);

/// A partition, and where in it to begin.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) topic: TopicName,
    pub(super) number: u32,
    pub(super) partition: PartitionHandle,
    pub(super) position: Offset,
}

/// What came out of a partition.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) slot: SlotId,
    pub(super) batch: v1::FetchedBatch,
    /// How many records it has.
    pub(super) records: u32,
    /// Where its partition was before.
    from: Offset,
}

/// What else a reader has to know of a partition.
#[derive(Debug)]
pub(super) enum Gap {
    Truncated(v1::Truncated),
    Quarantined(v1::Quarantined),
}

/// How much is wanted at once. While either is used up, nothing is handed out; a
/// batch that is larger than what is left still is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowance {
    pub(super) bytes: u64,
    /// Counted as offsets that a batch covers.
    pub(super) records: u64,
}

/// What comes next.
#[derive(Debug)]
pub(super) enum Next {
    /// At least one batch, and the room that they take.
    Batches(Vec<Taken>, Option<Held>),
    Gap(SlotId, Gap),
    /// There may be something to read now.
    News,
}

/// Reading failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) slot: SlotId,
    pub(super) error: ReadError,
}

/// The partitions that somebody reads.
pub(super) struct Reading {
    slots: HashMap<SlotId, Slot>,
    next_id: usize,
    /// To be read, in their turn.
    line: VecDeque<SlotId>,
    bell: Arc<Doorbell>,
    /// A read that was begun.
    pending: Option<Pending>,
    /// Read, and not handed out yet, with the size of it: bytes.
    gathered: VecDeque<Taken>,
    gathered_bytes: usize,
    /// For what is read and gathered.
    room: ReadRoom,
    /// Comes behind what was gathered, and before anything else is read.
    gap: Option<(SlotId, Gap)>,
    /// Those that were read since the last time that everything was.
    touched: Vec<SlotId>,
}

struct Slot {
    opened: Opened,
    /// It is among [`Reading::line`], or being read.
    in_line: bool,
    /// It is among [`Reading::touched`].
    was_touched: bool,
}

struct Pending {
    slot: SlotId,
    read: Pin<Box<dyn Future<Output = Result<Read, ReadError>> + Send>>,
}

/// What a batch takes in a response besides its records: bytes, at most.
const BATCH_OVERHEAD: usize = 80;

/// Stands for "no end".
const FOR_EVER: Offset = Offset(u64::MAX);

impl Reading {
    pub(super) fn new(call: Arc<Call>) -> Reading {
        Reading {
            slots: HashMap::new(),
            next_id: 0,
            line: VecDeque::new(),
            bell: Arc::default(),
            pending: None,
            gathered: VecDeque::new(),
            gathered_bytes: 0,
            room: ReadRoom::new(call),
            gap: None,
            touched: Vec::new(),
        }
    }

    /// Reads one more partition.
    pub(super) fn add(&mut self, opened: Opened) -> SlotId {
        let id = SlotId(self.next_id);
        self.next_id += 1;
        let slot = Slot {
            opened,
            in_line: true,
            was_touched: false,
        };
        self.slots.insert(id, slot);
        self.line.push_back(id);
        id
    }

    /// Reads a partition no more; nothing of it is handed out any more.
    pub(super) fn remove(&mut self, id: SlotId) {
        let Some(slot) = self.slots.remove(&id) else {
            return;
        };
        slot.opened.partition.stop_ringing(&self.bell, id.0);
        if slot.in_line {
            self.line.retain(|other| *other != id);
        }
        if slot.was_touched {
            self.touched.retain(|other| *other != id);
        }
        self.pending.take_if(|pending| pending.slot == id);
        self.gap.take_if(|(slot, _)| *slot == id);
        self.gathered.retain(|taken| taken.slot != id);
        self.gathered_bytes = self.gathered.iter().map(Taken::size).sum();
    }

    /// A partition, and how far it was read.
    pub(super) fn get(&self, id: SlotId) -> Option<&Opened> {
        self.slots.get(&id).map(|slot| &slot.opened)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether everything was read and handed out.
    pub(super) fn is_caught_up(&self) -> bool {
        self.line.is_empty()
            && self.pending.is_none()
            && self.gathered.is_empty()
            && self.gap.is_none()
    }

    /// Those that were read since the last call: who reads thousands of partitions
    /// should not hear of all of them each time that one moves.
    pub(super) fn take_touched(&mut self) -> Vec<SlotId> {
        let touched = std::mem::take(&mut self.touched);
        for id in &touched {
            if let Some(slot) = self.slots.get_mut(id) {
                slot.was_touched = false;
            }
        }
        touched
    }

    /// Waits for what comes next: at most `max_bytes` of batches, but at least one,
    /// if `allowance` isn't used up. May be given up at any time.
    pub(super) async fn next(
        &mut self,
        max_bytes: usize,
        allowance: Allowance,
    ) -> Result<Next, Failed> {
        if allowance.is_used_up() && self.gap.is_none() {
            // What could be read would only have to be kept.
            if !self.room.is_plentiful() {
                self.put_back();
            }
            return std::future::pending().await;
        }
        while self.gathered_bytes < max_bytes && self.gap.is_none() {
            if !self.make_room(max_bytes).await {
                break;
            }
            if self.pending.is_none() {
                let Some(id) = self.line.pop_front() else {
                    break;
                };
                self.begin(id, max_bytes - self.gathered_bytes);
            }
            self.finish().await?;
            // Much that is in memory is read without a wait.
            tokio::task::consume_budget().await;
        }
        let batches = self.take_gathered(max_bytes, allowance);
        let room = self.room.split(batches.iter().map(Taken::size).sum());
        self.room.keep(self.gathered_bytes);
        if !batches.is_empty() {
            return Ok(Next::Batches(batches, room));
        }
        if let Some((slot, gap)) = self.gap.take_if(|_| self.gathered.is_empty()) {
            return Ok(Next::Gap(slot, gap));
        }
        for rung in self.bell.rung().await {
            let id = SlotId(rung);
            if let Some(slot) = self.slots.get_mut(&id)
                && !std::mem::replace(&mut slot.in_line, true)
            {
                self.line.push_back(id);
            }
        }
        Ok(Next::News)
    }

    /// Sees to room for a read, if there is something to read. Says whether it may
    /// begin: what was gathered is handed out before it waits for room for more.
    async fn make_room(&mut self, max_bytes: usize) -> bool {
        if self.line.is_empty() && self.pending.is_none() {
            return false;
        }
        // A read returns one batch though it be over its size.
        let bytes = max_bytes + limits::DEFAULT_MAX_BATCH_BYTES as usize;
        if self.gathered.is_empty() {
            self.room.wait(bytes).await;
            return true;
        }
        self.room.grow(bytes)
    }

    /// Gives up what was gathered; it is read again when it is wanted.
    fn put_back(&mut self) {
        while let Some(taken) = self.gathered.pop_back() {
            let id = taken.slot;
            let slot = self.slots.get_mut(&id);
            let slot = slot.expect("what is not read any more is not gathered");
            slot.opened.position = taken.from;
            if !std::mem::replace(&mut slot.in_line, true) {
                self.line.push_back(id);
            }
            self.gap.take_if(|(slot, _)| *slot == id);
        }
        self.gathered_bytes = 0;
        self.room.keep(0);
    }

    fn begin(&mut self, id: SlotId, max_bytes: usize) {
        let slot = self.slots.get_mut(&id).expect("it is in line");
        if !std::mem::replace(&mut slot.was_touched, true) {
            self.touched.push(id);
        }
        let (partition, from) = (slot.opened.partition.clone(), slot.opened.position);
        let read = Box::pin(async move { partition.read(from, FOR_EVER, max_bytes).await });
        self.pending = Some(Pending { slot: id, read });
    }

    /// Waits for the read that was begun; puts its partition in line again, or has
    /// it ring.
    async fn finish(&mut self) -> Result<(), Failed> {
        let pending = self.pending.as_mut().expect("it was begun");
        let read = pending.read.as_mut().await;
        let id = pending.slot;
        self.pending = None;
        let slot = self.slots.get_mut(&id).expect("a read goes with its slot");
        match read.map_err(|error| Failed { slot: id, error })? {
            Read::Batches(read) => {
                let high_watermark = slot.opened.partition.high_watermark();
                for batch in read {
                    if let Some(taken) = slot.take(id, batch, high_watermark) {
                        self.gathered_bytes += taken.size();
                        self.gathered.push_back(taken);
                    }
                }
            }
            Read::Truncated { log_start_offset } => {
                let truncated = v1::Truncated {
                    partition: slot.opened.number,
                    from_offset: slot.opened.position.0,
                    log_start_offset: log_start_offset.0,
                };
                slot.opened.position = log_start_offset;
                self.gap = Some((id, Gap::Truncated(truncated)));
            }
            Read::Quarantined { to } => {
                let quarantined = v1::Quarantined {
                    partition: slot.opened.number,
                    from_offset: slot.opened.position.0,
                    to_offset: to.0,
                };
                slot.opened.position = to;
                self.gap = Some((id, Gap::Quarantined(quarantined)));
            }
        }
        let Opened {
            partition,
            position,
            ..
        } = &slot.opened;
        if partition.high_watermark() > *position {
            self.line.push_back(id);
        } else {
            slot.in_line = false;
            partition.ring_beyond(*position, &self.bell, id.0);
        }
        Ok(())
    }

    /// Takes what goes into one response.
    fn take_gathered(&mut self, max_bytes: usize, mut allowance: Allowance) -> Vec<Taken> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.gathered.front()
            && !allowance.is_used_up()
            && (taken.is_empty() || bytes + next.size() <= max_bytes)
        {
            let next = self.gathered.pop_front().expect("it was just looked at");
            bytes += next.size();
            allowance.spend(&next.batch);
            taken.push(next);
        }
        self.gathered_bytes -= bytes;
        taken
    }
}

impl Allowance {
    /// As much as there is.
    pub(super) const UNLIMITED: Allowance = Allowance {
        bytes: u64::MAX,
        records: u64::MAX,
    };

    pub(super) fn is_used_up(self) -> bool {
        self.bytes == 0 || self.records == 0
    }

    /// A batch is handed out.
    pub(super) fn spend(&mut self, batch: &v1::FetchedBatch) {
        if *self != Allowance::UNLIMITED {
            self.bytes = self.bytes.saturating_sub(batch.batch.len() as u64);
            let records = batch.next_offset - batch.base_offset;
            self.records = self.records.saturating_sub(records);
        }
    }
}

impl Taken {
    /// What it takes in a response: bytes, at most.
    pub(super) fn size(&self) -> usize {
        BATCH_OVERHEAD + self.batch.batch.len()
    }
}

impl Slot {
    /// Moves behind a batch, and makes it what the reader gets, if it gets anything.
    fn take(&mut self, id: SlotId, batch: StoredBatch, high_watermark: Offset) -> Option<Taken> {
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

impl Opened {
    /// Its readable range, and how far it was read.
    pub(super) fn describe(&self) -> v1::PartitionPosition {
        let range = self.partition.range();
        v1::PartitionPosition {
            partition: self.number,
            offset: self.position.0,
            log_start_offset: range.log_start_offset.0,
            high_watermark: range.high_watermark.0,
        }
    }

    /// What is told when it can't be read.
    pub(super) fn refusal(&self, error: ReadError) -> Refusal {
        Refusal::from(error).about(self.topic.as_str(), self.number)
    }
}
