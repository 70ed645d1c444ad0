//! Partitions that are read in turn, for one who gets their records: a call of
//! `Fetch`, or a member of a group.
//!
//! Each slot is one partition: it is in line while there may be something to read,
//! else the partition rings the bell, or the slot is done. What was read and not
//! handed out yet stays here, so that reading can be given up at any moment and
//! nothing is lost; and slots may be added and removed whenever nobody waits.

mod allowance;
mod slot;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;

use statecast_proto::reason::Reason;
use statecast_proto::v1;

use super::connection::Connection;
use super::error::Refusal;
use super::memory::{Held, Memory};
use super::read_room::ReadRoom;
use crate::limits;
use crate::partition::{Doorbell, Read, ReadError};
use slot::{Slot, SlotState};

pub(super) use allowance::Allowance;
pub(super) use slot::{Opened, SlotId, Taken};

/// What else a reader has to know of a partition.
#[derive(Debug)]
pub(super) enum Gap {
    Truncated(v1::Truncated),
    Quarantined(v1::Quarantined),
}

/// What comes next.
#[derive(Debug)]
pub(super) enum Next {
    /// At least one batch, and the room that they take.
    Batches(Vec<Taken>, Option<Held>),
    Gap(SlotId, Gap),
    /// Everything may have been read, or there may be something to read again.
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
    memory: Arc<Memory>,
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

struct Pending {
    slot: SlotId,
    read: Pin<Box<dyn Future<Output = Result<Read, ReadError>> + Send>>,
}

impl Reading {
    /// For somebody at the other end of a connection.
    pub(super) fn new(memory: Arc<Memory>, connection: Arc<Connection>) -> Reading {
        Reading {
            room: ReadRoom::new(memory.clone(), connection),
            memory,
            slots: HashMap::new(),
            next_id: 0,
            line: VecDeque::new(),
            bell: Arc::default(),
            pending: None,
            gathered: VecDeque::new(),
            gathered_bytes: 0,
            gap: None,
            touched: Vec::new(),
        }
    }

    /// Reads one more partition; not if all readers together read too many.
    pub(super) fn add(&mut self, opened: Opened) -> Result<SlotId, Refusal> {
        let cursors = &self.memory.cursors;
        let cursor = cursors.take(1).ok_or_else(|| {
            let limit = cursors.count;
            let message = format_args!("all readers together read {limit} partitions at most");
            Refusal::new(Reason::Overloaded, message).with("limit", limit)
        })?;
        let id = SlotId(self.next_id);
        self.next_id += 1;
        let slot = Slot {
            opened,
            state: SlotState::InLine,
            was_touched: false,
            _cursor: cursor,
        };
        self.slots.insert(id, slot);
        self.line.push_back(id);
        Ok(id)
    }

    /// Reads a partition no more; nothing of it is handed out any more.
    pub(super) fn remove(&mut self, id: SlotId) {
        let Some(slot) = self.slots.remove(&id) else {
            return;
        };
        match slot.state {
            SlotState::InLine => self.line.retain(|other| *other != id),
            SlotState::Waiting => slot.opened.partition.stop_ringing(&self.bell, id.0),
            SlotState::Done => {}
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
            let slot = self.slots.get_mut(id);
            slot.expect("what is removed isn't touched").was_touched = false;
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
        let mut has_read = false;
        while self.gathered_bytes < max_bytes && self.gap.is_none() {
            if !self.make_room(max_bytes).await {
                break;
            }
            has_read = true;
            // Else one that is far behind would be read to its end first.
            let rung = self.bell.take_rung();
            self.line_up(rung);
            if self.begin(max_bytes - self.gathered_bytes) {
                self.finish().await?;
            }
            // Much that is in memory is read without a wait.
            tokio::task::consume_budget().await;
        }
        let batches = self.take_gathered(max_bytes, allowance);
        let bytes = batches.iter().map(Taken::size).sum();
        let room = self.room.hand_out(bytes, self.gathered_bytes);
        if !batches.is_empty() {
            return Ok(Next::Batches(batches, room));
        }
        if let Some((slot, gap)) = self.gap.take_if(|_| self.gathered.is_empty()) {
            return Ok(Next::Gap(slot, gap));
        }
        if !has_read {
            self.hear_bell().await;
        }
        Ok(Next::News)
    }

    /// Waits until partitions ring, and puts them in line.
    async fn hear_bell(&mut self) {
        let rung = self.bell.rung().await;
        self.line_up(rung);
    }

    fn line_up(&mut self, rung: Vec<usize>) {
        for rung in rung {
            let id = SlotId(rung);
            if let Some(slot) = self.slots.get_mut(&id)
                && slot.state == SlotState::Waiting
            {
                slot.state = SlotState::InLine;
                self.line.push_back(id);
            }
        }
    }

    /// Sees to room for a read, if there is something to read. Says whether it may
    /// begin: what was gathered is handed out before it waits for room for more.
    async fn make_room(&mut self, max_bytes: usize) -> bool {
        if self.pending.is_some() {
            // It was begun with room.
            return true;
        }
        let Some(id) = self.line.front() else {
            return false;
        };
        // A read returns one batch though it be over its size.
        let opened = &self.slots[id].opened;
        let bytes = max_bytes + opened.max_batch_bytes as usize;
        if self.gathered.is_empty() {
            self.room.wait(bytes).await;
            return true;
        }
        self.room.grow(bytes)
    }

    /// Begins a read, unless one was begun already. Says whether there is one.
    fn begin(&mut self, max_bytes: usize) -> bool {
        if self.pending.is_some() {
            return true;
        }
        let Some(id) = self.line.pop_front() else {
            return false;
        };
        let slot = self.slots.get_mut(&id).expect("it is in line");
        if !std::mem::replace(&mut slot.was_touched, true) {
            self.touched.push(id);
        }
        let Opened {
            partition,
            position,
            until,
            ..
        } = &slot.opened;
        if position >= until {
            slot.state = SlotState::Done;
            return false;
        }
        // A partition that is far behind isn't to keep the others waiting.
        let max_bytes = match self.line.is_empty() {
            true => max_bytes,
            false => max_bytes.min(limits::TURN_BYTES),
        };
        let (partition, from, until) = (partition.clone(), *position, *until);
        let read = Box::pin(async move { partition.read(from, until, max_bytes).await });
        self.pending = Some(Pending { slot: id, read });
        true
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
            until,
            ..
        } = &slot.opened;
        if position >= until {
            slot.state = SlotState::Done;
        } else if partition.high_watermark() > *position {
            self.line.push_back(id);
        } else {
            slot.state = SlotState::Waiting;
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

    /// Gives up what was gathered, and what is being read; it is read again when it
    /// is wanted.
    fn put_back(&mut self) {
        if let Some(pending) = self.pending.take() {
            self.line.push_front(pending.slot);
        }
        while let Some(taken) = self.gathered.pop_back() {
            let id = taken.slot;
            let slot = self.slots.get_mut(&id);
            let slot = slot.expect("what is not read any more is not gathered");
            slot.opened.position = taken.from;
            let state = std::mem::replace(&mut slot.state, SlotState::InLine);
            if state == SlotState::Waiting {
                slot.opened.partition.stop_ringing(&self.bell, id.0);
            }
            if state != SlotState::InLine {
                self.line.push_back(id);
            }
            // It is come upon again.
            self.gap.take_if(|(slot, _)| *slot == id);
        }
        self.gathered_bytes = 0;
        self.room.hand_out(0, 0);
    }
}
