//! Who got what, and when.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use statecast_client::{Batch, Error};
use tokio::sync::watch;

use crate::clock;

/// A batch that reached a member.
#[derive(Debug, Clone, Copy)]
struct Delivery {
    at: Instant,
    member: usize,
}

/// What all members together got of numbered records.
#[derive(Debug)]
pub(super) struct Monitor {
    /// By partition, in the order of their times.
    deliveries: Vec<Mutex<Vec<Delivery>>>,
    /// A bit for each record.
    seen: Vec<AtomicU64>,
    repeated: AtomicU64,
    /// How many different ones were seen.
    count: watch::Sender<u64>,
}

/// What happened to delivery around a change.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pauses {
    /// Partitions that went to another member.
    pub(super) moved: usize,
    /// The longest time without a delivery, of those that didn't.
    pub(super) untouched: Duration,
    /// From the change to the first delivery to the new member, at most.
    pub(super) takeover: Duration,
}

impl Monitor {
    pub(super) fn new(partitions: u32, records: u64) -> Self {
        let words = usize::try_from(records.div_ceil(64)).unwrap_or(usize::MAX);
        Self {
            deliveries: (0..partitions).map(|_| Mutex::default()).collect(),
            seen: (0..words).map(|_| AtomicU64::new(0)).collect(),
            repeated: AtomicU64::new(0),
            count: watch::channel(0).0,
        }
    }

    /// A member got a batch of records whose values begin with their numbers.
    pub(super) fn deliver(&self, member: usize, batch: &Batch) -> Result<(), Error> {
        let delivery = Delivery {
            at: clock::instant(),
            member,
        };
        if let Some(mut partition) = self.partition(batch.partition()) {
            partition.push(delivery);
        }
        let mut new = 0;
        let mut all = 0;
        for record in batch.views() {
            all += 1;
            let value = record?.value.unwrap_or_default();
            let number = value
                .first_chunk()
                .map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes));
            new += u64::from(self.is_new(number));
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
            self.untouched = self.untouched.max(delivery.at - last);
            last = delivery.at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_those_of_untouched_partitions() {
        let start = clock::instant();
        let ms = Duration::from_millis;
        let delivery = |at, member| Delivery {
            at: start + ms(at),
            member,
        };
        let time = start + ms(100)..start + ms(200);
        let mut pauses = Pauses::default();
        let untouched = [(50, 1), (90, 1), (130, 1), (150, 1), (290, 1)];
        pauses.add(&untouched.map(|(at, member)| delivery(at, member)), &time);
        assert_eq!((pauses.moved, pauses.untouched), (0, ms(40)));
        let moved = [(90, 1), (120, 1), (170, 2), (180, 2)];
        pauses.add(&moved.map(|(at, member)| delivery(at, member)), &time);
        pauses.add(&[delivery(150, 1)], &time);
        let expected = Pauses {
            moved: 1,
            untouched: ms(40),
            takeover: ms(70),
        };
        assert_eq!(pauses, expected);
    }

    #[test]
    fn record_is_new_once() {
        let monitor = Monitor::new(1, 100);
        assert!(monitor.is_new(99));
        assert!(!monitor.is_new(99));
        assert!(monitor.is_new(0));
        assert!(!monitor.is_new(u64::MAX), "no number of ours");
    }
}
