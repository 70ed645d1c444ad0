//! Reads partitions in turn and says what happens on the way.

use std::collections::VecDeque;
use std::sync::Arc;

use statecast_proto::reason::Reason;
use statecast_proto::v1::{self, fetch_response::Event};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::ahead::{Made, Source};
use super::follow::{Change, Follow};
use super::start::Opened;
use crate::limits;
use crate::model::Offset;
use crate::partition::{Doorbell, PartitionHandle, Read, ReadError, StoredBatch};
use crate::server::call::Call;
use crate::server::error::Refusal;
use crate::server::fetched::fetched;
use crate::server::memory::Held;
use crate::server::read_room::ReadRoom;

/// The state of one call. Each slot is one partition: its index is in `busy`
/// while there may be something to read, else the partition rings `bell`, or the
/// slot is done.
pub(in crate::server) struct Reader {
    topic: String,
    slots: Vec<Slot>,
    /// Slots to be read, in their turn.
    busy: VecDeque<usize>,
    bell: Arc<Doorbell>,
    /// Slots that were read since the last time that everything was.
    read: Vec<usize>,
    max_bytes: usize,
    until_end: bool,
    phase: Phase,
    /// Read already, but too much for the response before.
    held: Vec<v1::FetchedBatch>,
    /// For what is read and held.
    room: ReadRoom,
    /// The room that the response takes which was made last.
    sending: Option<Held>,
    /// Bytes that are read for one response, at most: one batch may be over its
    /// size.
    round_bytes: usize,
    call: Arc<Call>,
    /// A permit for each slot.
    cursors: OwnedSemaphorePermit,
    /// To be said before anything else is read.
    events: VecDeque<Event>,
    draining: CancellationToken,
    /// Where partitions may be added; `None` when the reader doesn't want them.
    follow: Option<Follow>,
}

/// What a call asks for.
pub(super) struct ReaderOptions {
    pub(super) topic: String,
    pub(super) opened: Vec<Opened>,
    pub(super) until_end: bool,
    /// Of a response.
    pub(super) max_bytes: usize,
    /// Of a batch.
    pub(super) max_batch_bytes: usize,
    pub(super) draining: CancellationToken,
    pub(super) follow: Option<Follow>,
    pub(super) call: Arc<Call>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing was said yet.
    Opening,
    /// Something was sent since the last time that everything was read.
    Behind,
    /// Everything was read, and that was said.
    CaughtUp,
    /// The last response was given out.
    Ended,
}

struct Slot {
    number: u32,
    partition: PartitionHandle,
    /// The next offset that the reader gets.
    position: Offset,
    /// Where it ends, if it does.
    until: Offset,
    /// It is among [`Reader::read`].
    was_read: bool,
}

/// Stands for "no end".
const FOR_EVER: Offset = Offset(u64::MAX);

impl Reader {
    pub(super) fn new(options: ReaderOptions) -> Result<Reader, Refusal> {
        let ReaderOptions {
            topic,
            opened,
            until_end,
            max_bytes,
            max_batch_bytes,
            draining,
            follow,
            call,
        } = options;
        let cursors = take_cursors(&call, opened.len())?;
        let slots = opened
            .into_iter()
            .map(|opened| Slot::new(opened, until_end));
        let slots: Vec<Slot> = slots.collect();
        Ok(Reader {
            topic,
            busy: (0..slots.len()).collect(),
            slots,
            bell: Arc::default(),
            read: Vec::new(),
            max_bytes,
            until_end,
            phase: Phase::Opening,
            held: Vec::new(),
            room: ReadRoom::new(call.clone()),
            sending: None,
            round_bytes: max_bytes + max_batch_bytes,
            call,
            cursors,
            events: VecDeque::new(),
            draining,
            follow,
        })
    }

    async fn next_event(&mut self) -> Result<Option<Event>, Refusal> {
        if self.phase == Phase::Opening {
            self.phase = Phase::Behind;
            let positions = self.slots.iter().map(Slot::describe).collect();
            return Ok(Some(Event::Opened(v1::FetchOpened { positions })));
        }
        loop {
            self.look_for_more()?;
            if let Some(event) = self.events.pop_front() {
                self.phase = Phase::Behind;
                return Ok(Some(event));
            }
            if self.draining.is_cancelled() {
                return Err(Refusal::stopping());
            }
            let batches = self.read_round().await?;
            if !batches.is_empty() {
                self.phase = Phase::Behind;
                return Ok(Some(Event::Batches(v1::FetchedBatches { batches })));
            }
            if !self.events.is_empty() || !self.busy.is_empty() {
                continue;
            }
            match self.phase {
                Phase::Opening | Phase::Behind => {
                    self.phase = if self.until_end {
                        Phase::Ended
                    } else {
                        Phase::CaughtUp
                    };
                    let positions = self.take_read();
                    return Ok(Some(Event::CaughtUp(v1::CaughtUp { positions })));
                }
                Phase::Ended => return Ok(None),
                Phase::CaughtUp => {
                    if let Some(event) = self.wait().await? {
                        return Ok(Some(event));
                    }
                }
            }
        }
    }

    /// Opens partitions that were added.
    fn look_for_more(&mut self) -> Result<(), Refusal> {
        match self.follow.as_mut().and_then(Follow::take_change) {
            None | Some(Change::Altered) => {}
            Some(Change::Deleted) => self.follow = None,
            Some(Change::Grown(opened)) => {
                self.cursors.merge(take_cursors(&self.call, opened.len())?);
                let known = self.slots.len();
                let slots = opened.into_iter().map(|opened| Slot::new(opened, false));
                self.slots.extend(slots);
                self.busy.extend(known..self.slots.len());
                let positions = self.slots[known..].iter().map(Slot::describe).collect();
                let event = Event::Opened(v1::FetchOpened { positions });
                self.events.push_back(event);
            }
        }
        Ok(())
    }

    /// Waits for news of a partition; a heartbeat when there is none for long.
    async fn wait(&mut self) -> Result<Option<Event>, Refusal> {
        let changed = async {
            match &self.follow {
                Some(follow) => follow.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            rung = self.bell.rung() => {
                self.busy.extend(rung);
                Ok(None)
            }
            () = self.draining.cancelled() => Err(Refusal::stopping()),
            () = changed => Ok(None),
            () = tokio::time::sleep(limits::HEARTBEAT) => {
                Ok(Some(Event::Heartbeat(v1::Heartbeat {})))
            }
        }
    }

    /// Waits until there is room for what is read for a response. What was read
    /// before is sent rather than have it wait for more.
    async fn make_room(&mut self) -> Result<bool, Refusal> {
        if !self.held.is_empty() {
            return Ok(self.room.grow(self.round_bytes));
        }
        tokio::select! {
            biased;
            () = self.room.wait(self.round_bytes) => Ok(true),
            () = self.draining.cancelled() => Err(Refusal::stopping()),
        }
    }

    /// Fills one response from the partitions that may have something, in turn.
    async fn read_round(&mut self) -> Result<Vec<v1::FetchedBatch>, Refusal> {
        if self.busy.is_empty() && self.held.is_empty() {
            return Ok(Vec::new());
        }
        let may_read = self.make_room().await?;
        let mut batches = std::mem::take(&mut self.held);
        let mut bytes = size_of(&batches);
        while may_read && bytes < self.max_bytes && self.events.is_empty() {
            let Some(index) = self.busy.pop_front() else {
                break;
            };
            let read = self
                .read_slot(index, self.max_bytes - bytes)
                .await
                .map_err(|error| {
                    Refusal::from(error).about(&self.topic, self.slots[index].number)
                })?;
            let read_bytes = size_of(&read);
            if bytes > 0 && bytes + read_bytes > self.max_bytes {
                self.held = read;
                break;
            }
            bytes += read_bytes;
            batches.extend(read);
            // Much that is in memory is read without a wait.
            tokio::task::consume_budget().await;
        }
        self.sending = self.room.split(bytes);
        self.room.keep(size_of(&self.held));
        Ok(batches)
    }

    /// Reads from one partition, and puts it in line again or has it ring.
    async fn read_slot(
        &mut self,
        index: usize,
        max_bytes: usize,
    ) -> Result<Vec<v1::FetchedBatch>, ReadError> {
        let slot = &mut self.slots[index];
        if !std::mem::replace(&mut slot.was_read, true) {
            self.read.push(index);
        }
        if slot.position >= slot.until {
            return Ok(Vec::new());
        }
        let mut batches = Vec::new();
        match slot
            .partition
            .read(slot.position, slot.until, max_bytes)
            .await?
        {
            Read::Batches(read) => {
                let high_watermark = slot.partition.high_watermark();
                batches = read
                    .into_iter()
                    .filter_map(|batch| slot.take(batch, high_watermark))
                    .collect();
            }
            Read::Truncated { log_start_offset } => {
                let event = v1::Truncated {
                    partition: slot.number,
                    from_offset: slot.position.0,
                    log_start_offset: log_start_offset.0,
                };
                slot.position = log_start_offset;
                self.events.push_back(Event::Truncated(event));
            }
            Read::Quarantined { to } => {
                let event = v1::Quarantined {
                    partition: slot.number,
                    from_offset: slot.position.0,
                    to_offset: to.0,
                };
                slot.position = to;
                self.events.push_back(Event::Quarantined(event));
            }
        }
        if slot.position < slot.until {
            if slot.partition.high_watermark() > slot.position {
                self.busy.push_back(index);
            } else {
                slot.partition.ring_beyond(slot.position, &self.bell, index);
            }
        }
        Ok(batches)
    }

    /// The positions of what was read since the last call: a reader of thousands
    /// of partitions should not hear of all of them each time that one moves.
    fn take_read(&mut self) -> Vec<v1::PartitionPosition> {
        let take = |index| {
            let slot: &mut Slot = &mut self.slots[index];
            slot.was_read = false;
            slot.describe()
        };
        self.read.drain(..).map(take).collect()
    }
}

/// A permit for each of so many partitions that a call reads.
fn take_cursors(call: &Call, count: usize) -> Result<OwnedSemaphorePermit, Refusal> {
    let cursors = &call.memory.cursors;
    cursors.take(count).ok_or_else(|| {
        let limit = cursors.count;
        let message = format_args!("all readers together read {limit} partitions at most");
        Refusal::new(Reason::Overloaded, message).with("limit", limit)
    })
}

/// What a batch takes in a response besides its records: bytes, at most.
const BATCH_OVERHEAD: usize = 80;

/// What batches take in a response: bytes, at most.
fn size_of(batches: &[v1::FetchedBatch]) -> usize {
    let size = |batch: &v1::FetchedBatch| BATCH_OVERHEAD + batch.batch.len();
    batches.iter().map(size).sum()
}

impl Slot {
    fn new(opened: Opened, until_end: bool) -> Slot {
        let Opened {
            number,
            partition,
            position,
        } = opened;
        let until = match until_end {
            true => partition.range().high_watermark,
            false => FOR_EVER,
        };
        Slot {
            number,
            partition,
            position,
            until,
            was_read: false,
        }
    }

    fn describe(&self) -> v1::PartitionPosition {
        let range = self.partition.range();
        v1::PartitionPosition {
            partition: self.number,
            offset: self.position.0,
            log_start_offset: range.log_start_offset.0,
            high_watermark: range.high_watermark.0,
        }
    }

    /// Moves behind a batch, and makes it what the reader gets, if it gets anything.
    fn take(&mut self, batch: StoredBatch, high_watermark: Offset) -> Option<v1::FetchedBatch> {
        let next = batch.header.next_offset();
        let position = std::mem::replace(&mut self.position, next);
        fetched(self.number, position, batch, high_watermark)
    }
}

impl Source for Reader {
    async fn next(mut self) -> Option<(Made, Option<Reader>)> {
        let item = match self.next_event().await {
            Ok(Some(event)) => Ok(v1::FetchResponse { event: Some(event) }),
            Ok(None) => return None,
            Err(refusal) => Err(Status::from(refusal)),
        };
        let room = self.sending.take();
        let goes_on = item.is_ok().then_some(self);
        Some((Made { item, room }, goes_on))
    }
}
