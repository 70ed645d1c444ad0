//! The task that keeps the view of a topic up to date.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;
use statecast_proto::batch::BatchError;
use tokio::time::Instant;

use super::ViewError;
use super::decode::{Go, each_record};
use super::store::fingerprint;
use super::topic_view::{Shared, Viewed};
use super::unpack::Unpacked;
use crate::limits;
use crate::model::Offset;
use crate::partition::{Compacted, Doorbell, PartitionHandle, Read, ReadError, StoredBatch};
use crate::state::ViewFull;

/// Follows a topic until it is deleted. While its keys don't fit into memory, there is no
/// view; now and then it is tried again.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut follower = Follower {
        bell: Arc::default(),
        line: Line::of_all(shared.partitions.len()),
        unread: VecDeque::new(),
        missing_to: vec![None; shared.partitions.len()],
        body: BytesMut::new(),
        shared,
    };
    let mut why = match follower.restore().await {
        Ok(()) => follower.follow().await,
        Err(why) => why,
    };
    loop {
        follower.end(&why);
        if !matches!(why, ViewError::TooLarge { .. }) {
            return;
        }
        why = follower.regain().await;
    }
}

struct Follower {
    shared: Arc<Shared>,
    bell: Arc<Doorbell>,
    /// Partitions that may have something to be applied.
    line: Line,
    /// Partitions that the disk failed to read, and when to try again.
    unread: VecDeque<(Instant, usize)>,
    /// Up to where tombstones were missing when a view was begun. Those were never part
    /// of it; if more go before they were read, keys that they removed may be left in it.
    missing_to: Vec<Option<Offset>>,
    body: BytesMut,
}

/// Partitions that wait for their turn, each once, however often it is put in.
struct Line {
    slots: VecDeque<usize>,
    /// Whether each partition is among them.
    waits: Vec<bool>,
}

impl Line {
    fn of_all(partitions: usize) -> Line {
        Line {
            slots: (0..partitions).collect(),
            waits: vec![true; partitions],
        }
    }

    fn push(&mut self, slot: usize) {
        if !std::mem::replace(&mut self.waits[slot], true) {
            self.slots.push_back(slot);
        }
    }

    fn pop(&mut self) -> Option<usize> {
        let slot = self.slots.pop_front()?;
        self.waits[slot] = false;
        Some(slot)
    }
}

impl Follower {
    /// Keeps the views up to date until that can't be; says why.
    async fn follow(&mut self) -> ViewError {
        loop {
            if let Err(why) = self.step().await {
                return why;
            }
        }
    }

    /// Gives a partition its turn, or waits for one.
    async fn step(&mut self) -> Result<(), ViewError> {
        let Some(slot) = self.line.pop() else {
            let rung = match self.unread.front() {
                None => self.bell.rung().await,
                Some(&(time, _)) => tokio::select! {
                    rung = self.bell.rung() => rung,
                    () = tokio::time::sleep_until(time) => Vec::new(),
                },
            };
            for slot in rung {
                self.line.push(slot);
            }
            self.retry();
            return Ok(());
        };
        match self.turn(slot).await {
            Ok(()) => {}
            Err(why @ ViewError::Read(ReadError::Io(_))) => {
                tracing::warn!("a view can't be kept up to date: {why}; trying again");
                self.unread
                    .push_back((Instant::now() + limits::VIEW_RETRY, slot));
            }
            Err(why) => return Err(why),
        }
        tokio::task::consume_budget().await;
        self.retry();
        Ok(())
    }

    /// Tries to make the views anew, until all of their keys fit; then keeps them up to
    /// date. Says why that can't be any more.
    async fn regain(&mut self) -> ViewError {
        let mut pause = limits::VIEW_REGAIN_AFTER;
        loop {
            tokio::time::sleep(pause).await;
            let reading = self.shared.reading.clone();
            let turn = reading.regaining.acquire().await;
            let begun = Instant::now();
            let ends: Vec<Offset> = self.ends();
            self.begin_anew().await;
            let caught_up = self.catch_up(&ends).await;
            drop(turn);
            match caught_up {
                Ok(true) => {
                    self.resume();
                    return self.follow().await;
                }
                Ok(false) | Err(ViewError::TooLarge { .. }) => self.empty(),
                Err(why) => return why,
            }
            let share = limits::VIEW_REGAIN_SHARE;
            pause = limits::VIEW_REGAIN_AFTER.max(begun.elapsed() * share);
        }
    }

    fn ends(&self) -> Vec<Offset> {
        let partitions = self.shared.partitions.iter();
        partitions.map(|it| it.handle.high_watermark()).collect()
    }

    /// Begins all views anew, which leave some memory to those of others.
    async fn begin_anew(&mut self) {
        // What is being saved must not be of before and of afterwards.
        drop(self.shared.saving.turn().await);
        self.empty();
        let spare = self.shared.memory.keys_limit() / limits::VIEW_SPARE_SHARE;
        for viewed in &self.shared.partitions {
            viewed.write().leave(spare);
        }
        // Nobody rings for what was waited for before.
        self.bell = Arc::default();
        self.line = Line::of_all(self.shared.partitions.len());
        self.unread.clear();
        self.missing_to.fill(None);
    }

    /// Keeps the views up to date until each has everything below its end; false when the
    /// disk fails to read that.
    async fn catch_up(&mut self, ends: &[Offset]) -> Result<bool, ViewError> {
        let is_there = |(viewed, end): (&Viewed, &Offset)| viewed.read().lacks(*end).is_none();
        loop {
            let shared = self.shared.clone();
            if shared.partitions.iter().zip(ends).all(is_there) {
                return Ok(true);
            }
            self.step().await?;
            if !self.unread.is_empty() {
                return Ok(false);
            }
        }
    }

    /// There are views again.
    fn resume(&self) {
        tracing::info!("a view that was given up is there again: its keys fit");
        self.shared.gate().resume();
        for viewed in &self.shared.partitions {
            viewed.write().leave(0);
            viewed.resume();
        }
    }

    /// Forgets all keys.
    fn empty(&self) {
        for viewed in &self.shared.partitions {
            let start = viewed.handle.range().log_start_offset;
            viewed.publish_start(start);
            viewed.write().start_over(start);
        }
    }

    /// Puts those in line that the disk failed to read a while ago.
    fn retry(&mut self) {
        while let Some(&(time, slot)) = self.unread.front()
            && time <= Instant::now()
        {
            self.unread.pop_front();
            self.line.push(slot);
        }
    }

    /// Begins with what was saved.
    async fn restore(&mut self) -> Result<(), ViewError> {
        let Shared { saving, memory, .. } = self.shared.as_ref();
        for (viewed, missing_to) in self.shared.partitions.iter().zip(&mut self.missing_to) {
            let Some(restored) = saving.restore(viewed, memory).await else {
                continue;
            };
            let limit = memory.keys_limit();
            let restored = restored.map_err(|ViewFull| ViewError::TooLarge { limit })?;
            // Nobody has seen it before: those who register hear of what comes behind.
            let gate = self.shared.gate();
            // None is missing that lies behind.
            *missing_to = Some(Offset::ZERO);
            *viewed.write() = restored;
            drop(gate);
            viewed.publish();
        }
        Ok(())
    }

    /// Applies some records of a partition, or has it ring when there are more.
    async fn turn(&mut self, slot: usize) -> Result<(), ViewError> {
        let handle = self.shared.partitions[slot].handle.clone();
        if self.missing_to[slot].is_none() {
            // Before anything is read.
            self.missing_to[slot] = Some(compacted(&handle).await?.tombstones_removed_to);
        }
        let start = handle.range().log_start_offset;
        if start > self.shared.partitions[slot].read().start() {
            self.truncate(slot, start);
        }
        let applied = self.shared.partitions[slot].read().applied();
        let end = Offset(u64::MAX);
        let read = handle.read(applied, end, limits::VIEW_READ_BYTES).await;
        // Asked after it was read: records go only once this says so.
        let compacted = compacted(&handle).await?;
        let removed_to = compacted.tombstones_removed_to;
        if Some(removed_to) > self.missing_to[slot] && removed_to > applied {
            self.start_over(slot).await;
            self.line.push(slot);
            return Ok(());
        }
        let superseded_to = compacted.state_from;
        match read {
            // At the end, too, it is read, which tells when the partition was deleted.
            Ok(Read::Batches(batches)) if batches.is_empty() => {
                handle.ring_beyond(applied, &self.bell, slot);
                // Retention may have rung before.
                if handle.range().log_start_offset > start {
                    self.line.push(slot);
                }
                return Ok(());
            }
            Ok(Read::Batches(batches)) => {
                self.apply(slot, &batches, superseded_to).await?;
                self.shared.saving.save_when_due(&self.shared, slot);
            }
            Ok(Read::Truncated { log_start_offset }) => self.truncate(slot, log_start_offset),
            Ok(Read::Quarantined { to }) => {
                // The archiver may be ahead of what can be read.
                self.skip(slot, to.min(handle.high_watermark()), superseded_to);
            }
            Err(ReadError::Deleted(_)) => return Err(ViewError::Deleted),
            Err(error) => return Err(error.into()),
        }
        self.line.push(slot);
        Ok(())
    }

    /// Begins the view of a partition anew. Who is told of it has missed something, too.
    async fn start_over(&mut self, slot: usize) {
        // What is being saved must not be of before and of afterwards.
        drop(self.shared.saving.turn().await);
        let viewed = &self.shared.partitions[slot];
        let id = viewed.handle.id();
        tracing::warn!("compaction overtook the view of partition {id}: it is made anew");
        self.missing_to[slot] = None;
        let start = viewed.handle.range().log_start_offset;
        // First, so that whoever finds it empty waits.
        viewed.publish_start(start);
        let gate = self.shared.gate();
        viewed.write().start_over(start);
        gate.overflow();
    }

    async fn apply(
        &mut self,
        slot: usize,
        batches: &[StoredBatch],
        superseded_to: Offset,
    ) -> Result<(), ViewError> {
        for batch in batches {
            // Before anything is locked.
            let unpacked = self.shared.reading.unpacker.unpack(batch).await;
            self.apply_batch(slot, batch, unpacked, superseded_to)?;
        }
        Ok(())
    }

    fn apply_batch(
        &mut self,
        slot: usize,
        batch: &StoredBatch,
        unpacked: Result<Unpacked, BatchError>,
        superseded_to: Offset,
    ) -> Result<(), ViewError> {
        let viewed = &self.shared.partitions[slot];
        let gate = self.shared.gate();
        let mut view = viewed.write();
        view.note_superseded(superseded_to);
        let from = view.applied();
        let mut is_full = false;
        let decoded = unpacked.and_then(|unpacked| {
            each_record(&unpacked, from, &mut self.body, |record| {
                if view.apply(record.update()) == Err(ViewFull) {
                    is_full = true;
                    return Go::Stop;
                }
                gate.tell(number(slot), &record);
                Go::On
            })
        });
        if is_full {
            let limit = self.shared.memory.keys_limit();
            return Err(ViewError::TooLarge { limit });
        }
        if let Err(error) = decoded {
            // It was checked before it was appended.
            let id = viewed.handle.id();
            tracing::error!("a batch of partition {id} is unreadable: {error}");
        }
        let applied = batch.header.next_offset();
        view.advance(applied, fingerprint(batch));
        drop(view);
        drop(gate);
        viewed.publish();
        viewed.handle.forget_keys_below(applied);
        Ok(())
    }

    /// Goes on behind what is damaged.
    fn skip(&self, slot: usize, to: Offset, superseded_to: Offset) {
        let viewed = &self.shared.partitions[slot];
        let gate = self.shared.gate();
        let mut view = viewed.write();
        view.note_superseded(superseded_to);
        view.skip(to);
        drop(view);
        drop(gate);
        viewed.publish();
        viewed.handle.forget_keys_below(to);
    }

    fn truncate(&self, slot: usize, start: Offset) {
        let viewed = &self.shared.partitions[slot];
        let gate = self.shared.gate();
        let mut view = viewed.write();
        view.truncate(start);
        gate.tell_truncated(number(slot), start);
        drop(view);
        drop(gate);
        viewed.publish();
    }

    fn end(&self, why: &ViewError) {
        if *why != ViewError::Deleted {
            tracing::error!("a view is given up: {why}");
        }
        self.shared.saving.forget(&self.shared.partitions);
        self.shared.gate().end(why);
        for viewed in &self.shared.partitions {
            // First, so that whoever finds it empty knows why.
            viewed.end(why);
        }
        self.empty();
    }
}

/// What compaction has taken.
async fn compacted(handle: &PartitionHandle) -> Result<Compacted, ViewError> {
    match handle.compacted().await {
        Ok(compacted) => Ok(compacted),
        Err(ReadError::Deleted(_)) => Err(ViewError::Deleted),
        Err(error) => Err(error.into()),
    }
}

fn number(slot: usize) -> u32 {
    u32::try_from(slot).expect("bounded by limits::PARTITIONS_PER_TOPIC")
}
