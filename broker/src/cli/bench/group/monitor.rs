//! Who got what, and when.
//!
//! A partition is quiet from one delivery to the next. It *pauses* only while there
//! is something to deliver: from when the next batch was acknowledged to its
//! producer, if that was later. So a producer that is slow, or a log that is full,
//! is no pause of those who deliver.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use statecast_client::{Batch, Error};
use tokio::sync::watch;

use crate::clock;

/// A batch that reached a member.
#[derive(Debug, Clone, Copy)]
struct Delivery {
    at: Instant,
    member: usize,
    /// When its producer knew that it is durable; absent if that was later.
    acknowledged: Option<Instant>,
}

/// What all members together got of numbered records.
#[derive(Debug)]
pub(super) struct Monitor {
    /// By partition, in the order of their times.
    deliveries: Vec<Mutex<Vec<Delivery>>>,
    /// A bit for each record.
    seen: Vec<AtomicU64>,
    /// When each batch was acknowledged.
    acknowledged: Vec<OnceLock<Instant>>,
    /// Records in a batch.
    batch: u64,
    repeated: AtomicU64,
    /// How many different ones were seen.
    count: watch::Sender<u64>,
}

/// What happened to delivery around a change.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pauses {
    /// Partitions that went to another member.
    pub(super) moved: usize,
    /// The longest pause of those that didn't.
    pub(super) pause: Duration,
    /// The longest time without a delivery, of those that didn't.
    pub(super) quiet: Duration,
    /// From the change to the first delivery to the new member, at most.
    pub(super) takeover: Duration,
}

impl Monitor {
    /// For so many records, which are sent in batches of so many.
    pub(super) fn new(partitions: u32, records: u64, batch: u32) -> Self {
        let batch = u64::from(batch);
        let words = usize::try_from(records.div_ceil(64)).unwrap_or(usize::MAX);
        let batches = usize::try_from(records.div_ceil(batch)).unwrap_or(usize::MAX);
        Self {
            deliveries: (0..partitions).map(|_| Mutex::default()).collect(),
            seen: (0..words).map(|_| AtomicU64::new(0)).collect(),
            acknowledged: (0..batches).map(|_| OnceLock::new()).collect(),
            batch,
            repeated: AtomicU64::new(0),
            count: watch::channel(0).0,
        }
    }

    /// The batch that begins with this number was acknowledged.
    pub(super) fn acknowledge(&self, number: u64) {
        if let Some(acknowledged) = self.acknowledgement(number) {
            // It is acknowledged once.
            let _ = acknowledged.set(clock::instant());
        }
    }

    fn acknowledgement(&self, number: u64) -> Option<&OnceLock<Instant>> {
        let batch = usize::try_from(number / self.batch).unwrap_or(usize::MAX);
        self.acknowledged.get(batch)
    }

    /// A member got a batch of records whose values begin with their numbers.
    pub(super) fn deliver(&self, member: usize, batch: &Batch) -> Result<(), Error> {
        let at = clock::instant();
        let mut first = None;
        let mut new = 0;
        let mut all = 0;
        for record in batch.views() {
            all += 1;
            let value = record?.value.unwrap_or_default();
            let number = value
                .first_chunk()
                .map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes));
            first.get_or_insert(number);
            new += u64::from(self.is_new(number));
        }
        let acknowledged = first.and_then(|number| self.acknowledgement(number)?.get().copied());
        if let Some(mut partition) = self.partition(batch.partition()) {
            partition.push(Delivery {
                at,
                member,
                acknowledged,
            });
        }
        self.repeated.fetch_add(all - new, Ordering::Relaxed);
        self.count.send_modify(|count| *count += new);
        Ok(())
    }

    fn is_new(&self, number: u64) -> bool {
        let word = usize::try_from(number / 64).unwrap_or(usize::MAX);
        let bit = 1 << (number % 64);
        let word = self.seen.get(word);
        word.is_some_and(|word| word.fetch_or(bit, Ordering::Relaxed) & bit == 0)
    }

    fn partition(&self, partition: u32) -> Option<MutexGuard<'_, Vec<Delivery>>> {
        let deliveries = self.deliveries.get(partition as usize)?;
        Some(deliveries.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until so many different records were delivered.
    pub(super) async fn until(&self, records: u64) {
        let mut count = self.count.subscribe();
        // It only ends with the monitor.
        let _ = count.wait_for(|count| *count >= records).await;
    }

    /// Records that were delivered more than once.
    pub(super) fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }

    /// What happened to delivery within a time that a change began.
    pub(super) fn pauses(&self, time: Range<Instant>) -> Pauses {
        let mut pauses = Pauses::default();
        for partition in 0..self.deliveries.len() {
            let partition = u32::try_from(partition).unwrap_or(u32::MAX);
            if let Some(deliveries) = self.partition(partition) {
                pauses.add(&deliveries, &time);
            }
        }
        pauses
    }
}

impl Pauses {
    fn add(&mut self, deliveries: &[Delivery], time: &Range<Instant>) {
        let begin = deliveries.partition_point(|delivery| delivery.at < time.start);
        let end = deliveries.partition_point(|delivery| delivery.at < time.end);
        let (before, within) = (&deliveries[..begin], &deliveries[begin..end]);
        let Some(owner) = before.last() else {
            return;
        };
        let other = within
            .iter()
            .find(|delivery| delivery.member != owner.member);
        if let Some(other) = other {
            self.moved += 1;
            self.takeover = self.takeover.max(other.at - time.start);
            return;
        }
        let mut last = owner.at;
        for delivery in within {
            let since = delivery.acknowledged.unwrap_or(delivery.at).max(last);
            let pause = delivery.at.saturating_duration_since(since);
            self.pause = self.pause.max(pause);
            self.quiet = self.quiet.max(delivery.at - last);
            last = delivery.at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_those_of_untouched_partitions_that_have_something() {
        let start = clock::instant();
        let ms = Duration::from_millis;
        let delivery = |at, member, acknowledged: Option<u64>| Delivery {
            at: start + ms(at),
            member,
            acknowledged: acknowledged.map(|at| start + ms(at)),
        };
        let time = start + ms(100)..start + ms(200);
        let mut pauses = Pauses::default();
        let untouched = [
            delivery(90, 1, Some(50)),
            // Its producer was slow for most of the time.
            delivery(130, 1, Some(125)),
            // Behind the one before in its partition.
            delivery(140, 1, Some(128)),
            // The consumer was faster than the acknowledgement.
            delivery(160, 1, None),
            delivery(290, 1, None),
        ];
        pauses.add(&untouched, &time);
        assert_eq!(pauses.moved, 0);
        assert_eq!((pauses.pause, pauses.quiet), (ms(10), ms(40)));
        let moved = [(90, 1), (120, 1), (170, 2), (180, 2)];
        let moved = moved.map(|(at, member)| delivery(at, member, Some(at - 1)));
        pauses.add(&moved, &time);
        pauses.add(&[delivery(150, 1, None)], &time);
        let expected = Pauses {
            moved: 1,
            pause: ms(10),
            quiet: ms(40),
            takeover: ms(70),
        };
        assert_eq!(pauses, expected);
    }

    #[test]
    fn record_is_new_once() {
        let monitor = Monitor::new(1, 100, 10);
        assert!(monitor.is_new(99));
        assert!(!monitor.is_new(99));
        assert!(monitor.is_new(0));
        assert!(!monitor.is_new(u64::MAX), "no number of ours");
    }
}
