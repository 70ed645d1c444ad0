//! What one partition knows of its producers and requests.
//!
//! The snapshot says what was known where the checkpoint cuts the journal, which
//! is between two of its files. Runs tell it, as they can be cut anywhere, unless
//! all that are kept lie behind the cut. So a run that is forgotten before its file is
//! archived leaves a mark, if it was the producer's first one there.

use std::collections::HashMap;
use std::sync::Arc;

use super::Tally;
use super::requests::Requests;
use super::window::Window;
use crate::limits;
use crate::model::Offset;
use crate::storage::lsn::Generation;

/// Producers that a partition may know even when all together know too much.
const FEW_PRODUCERS: usize = 16;

/// Where there is no room, one in so many producers goes at a time.
const SHARE: usize = 8;

/// A producer that has been silent for so long leaves no trace when it has to make
/// room: milliseconds. Nobody sends a batch again after an hour.
const SILENT_MS: i64 = 60 * 60 * 1000;

/// A producer as the partition knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Producer {
    pub(super) id: u64,
    /// When it sent something last: milliseconds since the Unix epoch.
    pub(super) last_ms: i64,
    pub(super) window: Window,
    /// The newest journal file that has a batch of it.
    pub(super) newest: Generation,
    pub(super) epoch: u16,
}

/// The first batch of a producer in a journal file, of which no run tells any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) id: u64,
    pub(super) base_offset: Offset,
    pub(super) base_sequence: u32,
    pub(super) epoch: u16,
}

/// What is left of producers that were forgotten before their time: their ids rise
/// in the order in which they are given out, so one number is enough. A batch that
/// claims to be the first of a producer with a lower id, which the partition
/// doesn't know, may have been appended before: it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Forgotten {
    pub(super) below: u64,
    /// When: milliseconds since the Unix epoch. It counts no longer than what is
    /// known of a producer.
    pub(super) at_ms: i64,
}

impl Forgotten {
    /// All that have an id by now, of which nobody has said yet which those are.
    pub(super) const ALL_SO_FAR: Forgotten = Forgotten {
        below: u64::MAX,
        at_ms: 0,
    };
}

/// One partition's producers and requests.
#[derive(Debug)]
pub struct ProducerTable {
    /// In the order of their ids. There are few, or new ones have the highest ids:
    /// so a sorted list is smaller than a map, and as fast.
    pub(super) producers: Vec<Producer>,
    /// Mostly the id of the first one: where a search may begin, and nothing else.
    first_id: u64,
    pub(super) requests: Option<Box<Requests>>,
    pub(super) forgotten: Option<Forgotten>,
    /// For each producer in the order of offsets; none of them is archived for good.
    pub(super) marks: Vec<Mark>,
    /// What lies below is archived for good.
    pub(super) archived_end: Offset,
    pub(super) tally: Arc<Tally>,
}

impl ProducerTable {
    pub(super) fn new(tally: Arc<Tally>) -> ProducerTable {
        ProducerTable {
            producers: Vec::new(),
            first_id: 0,
            requests: None,
            forgotten: None,
            marks: Vec::new(),
            archived_end: Offset::ZERO,
            tally,
        }
    }

    /// A table whose producers, in the order of their ids, are known.
    pub(super) fn of(
        tally: Arc<Tally>,
        producers: Vec<Producer>,
        requests: Requests,
        forgotten: Option<Forgotten>,
    ) -> ProducerTable {
        tally.add_producer_bytes(producers.iter().map(Producer::bytes).sum());
        tally.add_requests(requests.len());
        if let Some(forgotten) = forgotten.filter(|&of| of != Forgotten::ALL_SO_FAR) {
            tally.note_forgotten(forgotten.below);
        }
        ProducerTable {
            first_id: producers.first().map_or(0, |first| first.id),
            producers,
            requests: (requests.len() > 0).then(|| Box::new(requests)),
            forgotten,
            marks: Vec::new(),
            archived_end: Offset::ZERO,
            tally,
        }
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty() && self.requests.is_none() && self.forgotten.is_none()
    }

    /// Forgets what has been silent for its time. Says whether anything is left.
    pub fn expire(&mut self, now_ms: i64) -> bool {
        let mut freed = 0;
        self.producers.retain(|producer| {
            let stays = !is_over(producer.last_ms, now_ms);
            freed += if stays { 0 } else { producer.bytes() };
            stays
        });
        self.note_first();
        self.tally.remove_producer_bytes(freed);
        if self.producers.capacity() > 4 * self.producers.len() {
            self.producers.shrink_to_fit();
        }
        if let Some(requests) = &mut self.requests {
            let before = requests.len();
            requests.expire(now_ms);
            self.tally.remove_requests(before - requests.len());
        }
        self.requests.take_if(|requests| requests.len() == 0);
        let over = |of: &mut Forgotten| of.below < u64::MAX && is_over(of.at_ms, now_ms);
        self.forgotten.take_if(over);
        !self.is_empty()
    }

    /// The last time that it knows of: milliseconds since the Unix epoch.
    pub fn last_ms(&self) -> Option<i64> {
        let of_producers = self.producers.iter().map(|producer| producer.last_ms);
        let requests = self.requests.iter().flat_map(|requests| requests.iter());
        let of_requests = requests.map(|request| request.time_ms);
        of_producers.chain(of_requests).max()
    }

    /// Goes on after a time in which the broker didn't run, which counts for
    /// nobody: `by_ms` later, at `now_ms`. No id below `given_below` will be given
    /// to another producer.
    ///
    /// What the log tells of producers has the times of a clock that may have been set
    /// in between: so none is over before batches can't be sent again any more.
    pub fn resume(&mut self, by_ms: i64, now_ms: i64, given_below: u64) {
        self.shift(by_ms, now_ms);
        let idle_ms = i64::try_from(limits::PRODUCER_IDLE.as_millis()).expect("it is a day");
        let earliest_ms = now_ms.saturating_sub(idle_ms - SILENT_MS);
        for producer in &mut self.producers {
            producer.last_ms = producer.last_ms.max(earliest_ms);
        }
        if self.forgotten == Some(Forgotten::ALL_SO_FAR) {
            self.forgotten = Some(Forgotten {
                below: given_below,
                at_ms: now_ms,
            });
            self.tally.note_forgotten(given_below);
        }
    }

    /// Everything that is known comes `by_ms` later, but not later than `now_ms`
    /// unless it is so already.
    pub fn shift(&mut self, by_ms: i64, now_ms: i64) {
        let later = |ms: &mut i64| *ms = ms.saturating_add(by_ms).min(now_ms).max(*ms);
        for producer in &mut self.producers {
            later(&mut producer.last_ms);
        }
        if let Some(requests) = &mut self.requests {
            requests.times().for_each(later);
        }
        if let Some(forgotten) = &mut self.forgotten
            && *forgotten != Forgotten::ALL_SO_FAR
        {
            later(&mut forgotten.at_ms);
        }
    }

    /// Of producers, with their epochs, of which no run tells it: the number that
    /// came next when the log ended at `end`, where a journal file ends.
    pub(super) fn next_sequences(&self, end: Offset) -> HashMap<(u64, u16), u32> {
        let behind = self.marks.iter().filter(|mark| mark.base_offset >= end);
        let mut next = HashMap::new();
        for mark in behind {
            // The first one counts.
            next.entry((mark.id, mark.epoch))
                .or_insert(mark.base_sequence);
        }
        next
    }

    /// What lies below `end` is archived, for good.
    pub fn archived(&mut self, end: Offset) {
        self.archived_end = end;
        self.marks.retain(|mark| mark.base_offset >= end);
        if self.marks.is_empty() {
            self.marks = Vec::new();
        }
    }

    pub(super) fn find(&self, id: u64) -> Result<usize, usize> {
        // Producers that began together have ids of which every other one is used: the lowest
        // bit says something else. A search has to fetch one after the other what no cache
        // has of thousands of partitions.
        let guess = (id >> 1).wrapping_sub(self.first_id >> 1);
        let guess = usize::try_from(guess).unwrap_or(usize::MAX);
        if self
            .producers
            .get(guess)
            .is_some_and(|found| found.id == id)
        {
            return Ok(guess);
        }
        self.producers
            .binary_search_by_key(&id, |producer| producer.id)
    }

    /// The first producer may be another one.
    pub(super) fn note_first(&mut self) {
        self.first_id = self.producers.first().map_or(0, |first| first.id);
    }

    pub(super) fn may_have_forgotten(&self, id: u64, now_ms: i64) -> bool {
        self.forgotten.is_some_and(|forgotten| {
            let counts = forgotten.below == u64::MAX || !is_over(forgotten.at_ms, now_ms);
            id < forgotten.below && counts
        })
    }

    /// Makes room for a producer: the ones that have been silent for longest go.
    pub(super) fn make_room(&mut self, now_ms: i64) {
        let most = match self.tally.has_room_for_producers() {
            true => limits::PRODUCERS_PER_PARTITION,
            false => FEW_PRODUCERS,
        };
        let len = self.producers.len();
        if len < most {
            return;
        }
        let by_use = self.producers.iter().map(|p| (p.last_ms, p.id));
        let mut by_use: Vec<(i64, u64)> = by_use.collect();
        let (_, &mut last, _) = by_use.select_nth_unstable((len / SHARE).max(1) - 1);
        let (mut freed, mut below) = (0, 0);
        self.producers.retain(|producer| {
            let stays = (producer.last_ms, producer.id) > last;
            if !stays {
                freed += producer.bytes();
                if now_ms.saturating_sub(producer.last_ms) < SILENT_MS {
                    below = below.max(producer.id + 1);
                }
            }
            stays
        });
        self.tally.remove_producer_bytes(freed);
        if below > 0 {
            let before = self.forgotten.map_or(0, |forgotten| forgotten.below);
            self.forgotten = Some(Forgotten {
                below: below.max(before),
                at_ms: now_ms,
            });
            self.tally.note_forgotten(below);
        }
    }
}

impl Drop for ProducerTable {
    fn drop(&mut self) {
        let bytes = self.producers.iter().map(Producer::bytes).sum();
        self.tally.remove_producer_bytes(bytes);
        let requests = self.requests.as_ref();
        self.tally
            .remove_requests(requests.map_or(0, |requests| requests.len()));
    }
}

impl Producer {
    /// Memory that it takes: bytes.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Producer>() + self.window.older_bytes()
    }
}

/// Whether a producer that was heard of last at `last_ms` is forgotten.
fn is_over(last_ms: i64, now_ms: i64) -> bool {
    let silent = now_ms.saturating_sub(last_ms);
    u128::try_from(silent).is_ok_and(|silent| silent >= limits::PRODUCER_IDLE.as_millis())
}
