//! Decides about batches with stamps, one after the other, and takes note of those
//! that are appended. What an append that fails has changed is taken back, the last
//! one first, and leaves no trace.

use std::sync::Arc;

use super::requests::Request;
use super::table::{Mark, Producer, ProducerTable};
use super::window::{Change, KnownRun, Place, SequenceRun, Window};
use super::{SequenceError, Tally};
use crate::limits;
use crate::model::{Offset, ProducerStamp, RequestStamp, Stamp, StoredStamp};
use crate::storage::lsn::Generation;

/// Runs of a producer that are kept when all partitions together know too much.
const FEW_RUNS: usize = 4;

/// Requests that a partition may remember even then.
const FEW_REQUESTS: usize = 64;

/// A batch that is about to be appended.
#[derive(Debug, Clone, Copy)]
pub struct Incoming {
    /// The offset that it gets.
    pub base_offset: Offset,
    /// How many records it has.
    pub count: u32,
    /// The journal file that it goes to.
    pub generation: Generation,
    /// Milliseconds since the Unix epoch.
    pub now_ms: i64,
}

/// What to do with a batch that has a stamp.
#[derive(Debug, PartialEq, Eq)]
pub enum Admitted {
    /// Append it; take it back with this, should the append fail.
    New(Undo),
    /// It lies there already.
    Duplicate(Offset),
}

/// What takes a batch back.
#[derive(Debug, PartialEq, Eq)]
pub struct Undo(Before);

/// How it was before a batch.
#[derive(Debug, PartialEq, Eq)]
enum Before {
    /// The producer was not known.
    Unknown { id: u64 },
    /// The producer had another epoch.
    Other(Box<Producer>),
    /// The producer's last batches were others.
    Changed {
        id: u64,
        last_ms: i64,
        newest: Generation,
        change: Change,
    },
    /// The last request was another one.
    Request,
}

/// Decides about a batch with a stamp, and takes it as appended if it is new.
/// `table` is that of the partition, made when it is needed.
pub fn admit(
    table: &mut Option<ProducerTable>,
    tally: &Arc<Tally>,
    stamp: &Stamp,
    batch: Incoming,
) -> Result<Admitted, SequenceError> {
    if let Stamp::Producer(stamp) = stamp {
        if let Some(fence) = &stamp.fence {
            let epoch = fence.epoch().ok_or(SequenceError::Expired)?;
            if epoch > stamp.epoch {
                return Err(SequenceError::Fenced { epoch });
            }
        }
        if table.is_none() && stamp.base_sequence != 0 {
            return Err(SequenceError::Expired);
        }
    }
    let table = table.get_or_insert_with(|| ProducerTable::new(tally.clone()));
    match stamp {
        Stamp::Producer(stamp) => table.admit_producer(stamp, batch),
        Stamp::Request(stamp) => table.admit_request(*stamp, batch),
    }
}

impl ProducerTable {
    fn admit_producer(
        &mut self,
        stamp: &ProducerStamp,
        batch: Incoming,
    ) -> Result<Admitted, SequenceError> {
        let Ok(at) = self.find(stamp.id) else {
            if stamp.base_sequence != 0 || self.may_have_forgotten(stamp.id, batch.now_ms) {
                return Err(SequenceError::Expired);
            }
            self.insert(stamp.id, stamp.epoch, 0, batch);
            return Ok(Admitted::New(Undo(Before::Unknown { id: stamp.id })));
        };
        let Producer { epoch, window, .. } = &self.producers[at];
        let epoch = *epoch;
        if stamp.epoch < epoch {
            return Err(SequenceError::Fenced { epoch });
        }
        if stamp.epoch > epoch {
            if stamp.base_sequence != 0 {
                return Err(SequenceError::Gap { expected: 0 });
            }
            let before = self.replace(at, stamp.epoch, 0, batch);
            return Ok(Admitted::New(Undo(Before::Other(Box::new(before)))));
        }
        match window.place(stamp.base_sequence, batch.count) {
            Place::Next => Ok(Admitted::New(self.extend(at, stamp.base_sequence, batch))),
            Place::Known(offset) => Ok(Admitted::Duplicate(offset)),
            Place::Past => Err(SequenceError::TooOld),
            Place::Gap => Err(SequenceError::Gap {
                expected: window.next_sequence(),
            }),
        }
    }

    fn admit_request(
        &mut self,
        stamp: RequestStamp,
        batch: Incoming,
    ) -> Result<Admitted, SequenceError> {
        let known = self.requests.as_ref();
        match known.and_then(|known| known.find(stamp, batch.now_ms)) {
            Some(known) if known.count == batch.count => Ok(Admitted::Duplicate(known.base_offset)),
            Some(known) => Err(SequenceError::OtherRequest {
                records: known.count,
            }),
            None => {
                self.remember(stamp, batch);
                Ok(Admitted::New(Undo(Before::Request)))
            }
        }
    }

    /// Where the first record of a request lies that was appended before.
    pub fn find_request(&self, stamp: RequestStamp, now_ms: i64) -> Option<Offset> {
        let known = self.requests.as_ref()?.find(stamp, now_ms);
        known.map(|request| request.base_offset)
    }

    /// Takes the batch back that was admitted last.
    pub fn take_back(&mut self, undo: Undo) {
        // A producer may be missing: it had to make room for another one since.
        match undo.0 {
            Before::Unknown { id } => {
                if let Ok(at) = self.find(id) {
                    let gone = self.producers.remove(at);
                    self.tally.remove_producer_bytes(gone.bytes());
                }
            }
            Before::Other(before) => {
                if let Ok(at) = self.find(before.id) {
                    self.put(at, *before);
                }
            }
            Before::Changed {
                id,
                last_ms,
                newest,
                change,
            } => {
                if let Ok(at) = self.find(id) {
                    let mut producer = self.producers[at].clone();
                    producer.last_ms = last_ms;
                    producer.newest = newest;
                    producer.window.take_back(change);
                    // What its runs tell again needs none.
                    let from = producer.window.base_offset();
                    self.marks
                        .retain(|mark| mark.id != id || mark.base_offset < from);
                    self.put(at, producer);
                }
            }
            Before::Request => {
                if let Some(requests) = &mut self.requests {
                    requests.take_back();
                    self.tally.remove_requests(1);
                }
                self.requests.take_if(|requests| requests.len() == 0);
            }
        }
    }

    /// Takes a batch that lies in the log, behind all that are known. What was
    /// between may have been lost.
    pub(super) fn replay(&mut self, stamp: StoredStamp, batch: Incoming) {
        let (id, epoch, base_sequence) = match stamp {
            StoredStamp::Request(stamp) => return self.remember(stamp, batch),
            StoredStamp::Producer {
                id,
                epoch,
                base_sequence,
            } => (id, epoch, base_sequence),
        };
        let Ok(at) = self.find(id) else {
            return self.insert(id, epoch, base_sequence, batch);
        };
        let Producer {
            epoch: known,
            window,
            ..
        } = &self.producers[at];
        if epoch > *known {
            self.replace(at, epoch, base_sequence, batch);
        } else if epoch == *known {
            match window.place(base_sequence, batch.count) {
                Place::Next | Place::Gap => drop(self.extend(at, base_sequence, batch)),
                Place::Known(_) | Place::Past => {}
            }
        }
    }

    fn insert(&mut self, id: u64, epoch: u16, base_sequence: u32, batch: Incoming) {
        self.make_room(batch.now_ms);
        let producer = Producer::new(id, epoch, base_sequence, batch);
        self.tally.add_producer_bytes(producer.bytes());
        let at = self.find(id).unwrap_or_else(|at| at);
        if self.producers.len() == self.producers.capacity() {
            // Doubling wastes much where thousands of partitions have a few.
            let more = (self.producers.len() / 4).max(1);
            self.producers.reserve_exact(more);
        }
        self.producers.insert(at, producer);
        self.note_first();
    }

    /// Begins a new epoch of a producer; returns what was known of the one before.
    fn replace(&mut self, at: usize, epoch: u16, base_sequence: u32, batch: Incoming) -> Producer {
        let id = self.producers[at].id;
        self.put(at, Producer::new(id, epoch, base_sequence, batch))
    }

    fn put(&mut self, at: usize, producer: Producer) -> Producer {
        self.tally.add_producer_bytes(producer.bytes());
        let before = std::mem::replace(&mut self.producers[at], producer);
        self.tally.remove_producer_bytes(before.bytes());
        before
    }

    /// Adds a batch to those of a producer.
    fn extend(&mut self, at: usize, base_sequence: u32, batch: Incoming) -> Undo {
        let keep = match self.tally.has_room_for_producers() {
            true => limits::RUNS_PER_PRODUCER,
            false => FEW_RUNS,
        };
        let producer = &mut self.producers[at];
        let (id, epoch) = (producer.id, producer.epoch);
        let newest = std::mem::replace(&mut producer.newest, batch.generation);
        let last_ms = std::mem::replace(&mut producer.last_ms, batch.now_ms);
        let begins_file = newest != batch.generation;
        let (marks, archived_end) = (&mut self.marks, self.archived_end);
        let shed = |KnownRun { run, begins_file }| {
            if begins_file && run.base_offset >= archived_end {
                marks.push(Mark {
                    id,
                    base_offset: run.base_offset,
                    base_sequence: run.base_sequence,
                    epoch,
                });
            }
        };
        let bytes_before = producer.window.older_bytes();
        let batch = run_of(base_sequence, batch);
        let change = producer.window.push(batch, begins_file, keep, shed);
        let bytes = producer.window.older_bytes();
        self.tally
            .add_producer_bytes(bytes.saturating_sub(bytes_before));
        self.tally
            .remove_producer_bytes(bytes_before.saturating_sub(bytes));
        Undo(Before::Changed {
            id,
            last_ms,
            newest,
            change,
        })
    }

    fn remember(&mut self, stamp: RequestStamp, batch: Incoming) {
        let most = match self.tally.has_room_for_requests() {
            true => limits::REQUESTS_PER_PARTITION,
            false => FEW_REQUESTS,
        };
        let requests = self.requests.get_or_insert_default();
        // One more than the bound, since it may be taken back.
        if requests.len() > most {
            requests.forget_oldest();
            self.tally.remove_requests(1);
        }
        self.tally.add_requests(1);
        requests.push(Request {
            stamp,
            count: batch.count,
            base_offset: batch.base_offset,
            time_ms: batch.now_ms,
        });
    }
}

impl Producer {
    /// A producer whose first batch is this one.
    fn new(id: u64, epoch: u16, base_sequence: u32, batch: Incoming) -> Producer {
        Producer {
            id,
            last_ms: batch.now_ms,
            window: Window::new(run_of(base_sequence, batch)),
            newest: batch.generation,
            epoch,
        }
    }
}

fn run_of(base_sequence: u32, batch: Incoming) -> SequenceRun {
    SequenceRun {
        base_offset: batch.base_offset,
        base_sequence,
        count: batch.count,
    }
}
