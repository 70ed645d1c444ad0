//! What keeps a batch that is sent again from being appended again.
//!
//! Each partition knows the last batches of its producers, and the last requests
//! with names. What a batch is, new or not, is decided where offsets are given out
//! (`journal::place`): that is the one place with an order, so two that come at the
//! same time can't both be new. Whoever never says who they are costs nothing: the
//! table of a partition is made with the first stamp.
//!
//! What is known is a function of the log, so it is never written on the way of an
//! append: frames carry the stamps. It survives a restart in two parts, cut where
//! the checkpoint cuts the journal:
//! - what was archived, from the snapshot that was written before the checkpoint;
//! - the rest, from the frames that recovery replays.
//!
//! Memory is bounded for each partition and for all of them. Whatever has to be
//! forgotten before its time is remembered in one number (`Forgotten`), so that a
//! batch of before is refused rather than appended again.

mod admission;
mod packed;
mod replay;
mod requests;
mod snapshot;
mod table;
#[cfg(test)]
mod tests;
mod window;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

pub(super) use admission::{Admitted, Incoming, Undo, admit};
pub(super) use replay::ProducerReplay;
pub(super) use snapshot::{FILE, Loaded, Noted, Snapshot, SnapshotWriter};
pub(super) use table::ProducerTable;

use crate::limits;

/// Why a batch is not appended, by what it says of who sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    /// One before it is missing, or it holds records that were appended and others
    /// that were not.
    #[error("batches of this producer are missing before this one, number {expected} comes next")]
    Gap {
        /// The number that comes next.
        expected: u32,
    },
    /// It was appended, so long ago that its offset is not known any more.
    #[error("the batch was appended before, where is not known any more")]
    TooOld,
    /// A later producer with the same name has begun.
    #[error("another producer with this name has begun, its epoch is {epoch}")]
    Fenced {
        /// The one that counts.
        epoch: u16,
    },
    /// What the partition knew of the producer, if anything, was forgotten.
    #[error("the partition doesn't know this producer any more")]
    Expired,
    /// Another request had the same name.
    #[error("a request with this id was made before, with {records} records for the partition")]
    OtherRequest {
        /// How many records the other one had for the partition.
        records: u32,
    },
    /// Of batches that are appended all or none, some were appended before.
    #[error("only some of these batches were appended before")]
    SplitUnit,
}

/// What all partitions together know: for the bounds that they share.
#[derive(Debug, Default)]
pub struct Tally {
    /// Memory of what is known of producers: bytes.
    producer_bytes: AtomicUsize,
    /// Requests that are remembered.
    requests: AtomicUsize,
    /// Some partition may have forgotten a producer with a lower id before its time.
    forgotten_below: AtomicU64,
}

impl Tally {
    /// A producer with a lower id may have been forgotten before its time, by some
    /// partition.
    pub fn forgotten_below(&self) -> u64 {
        self.forgotten_below.load(Ordering::Acquire)
    }

    fn add_producer_bytes(&self, bytes: usize) {
        self.producer_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn remove_producer_bytes(&self, bytes: usize) {
        self.producer_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn add_requests(&self, count: usize) {
        self.requests.fetch_add(count, Ordering::Relaxed);
    }

    fn remove_requests(&self, count: usize) {
        self.requests.fetch_sub(count, Ordering::Relaxed);
    }

    fn note_forgotten(&self, below: u64) {
        self.forgotten_below.fetch_max(below, Ordering::AcqRel);
    }

    fn has_room_for_producers(&self) -> bool {
        self.producer_bytes.load(Ordering::Relaxed) < limits::PRODUCERS_BYTES
    }

    fn has_room_for_requests(&self) -> bool {
        self.requests.load(Ordering::Relaxed) < limits::REQUESTS
    }
}
