//! How readers wait for records without asking again and again.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Notify;

use crate::model::Offset;

/// Wakes one reader of several partitions, and says which of them have news.
#[derive(Debug, Default)]
pub struct Doorbell {
    rung: Mutex<Vec<usize>>,
    notify: Notify,
}

impl Doorbell {
    /// Waits until a partition rang; returns the slots of those that did since
    /// the last call.
    pub async fn rung(&self) -> Vec<usize> {
        loop {
            let rung = self.take_rung();
            if !rung.is_empty() {
                return rung;
            }
            self.notify.notified().await;
        }
    }

    /// As [`Doorbell::rung`], and doesn't wait.
    pub fn take_rung(&self) -> Vec<usize> {
        std::mem::take(&mut *self.rung.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn ring(&self, slot: usize) {
        self.rung
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(slot);
        self.notify.notify_one();
    }
}

/// Somebody who waits for records of one partition.
#[derive(Debug)]
struct Waiter {
    /// Wakes up when the high watermark lies beyond.
    offset: Offset,
    bell: Weak<Doorbell>,
    slot: usize,
}

/// Those who wait for one partition.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    waiting: Mutex<Vec<Waiter>>,
    /// Dead ones are swept out when there are so many.
    sweep_at: std::sync::atomic::AtomicUsize,
}

impl Waiters {
    /// Has somebody wait for something beyond `offset`, or rings at once when it is
    /// there already. The others that wait are not looked at: with many readers
    /// each of them comes here after each publication.
    pub(super) fn add(
        &self,
        offset: Offset,
        bell: &Arc<Doorbell>,
        slot: usize,
        high_watermark: impl FnOnce() -> Offset,
    ) {
        use std::sync::atomic::Ordering::Relaxed;
        let mut waiting = self.lock();
        // Whoever moves it does so before they take the lock to ring.
        if high_watermark() > offset {
            drop(waiting);
            bell.ring(slot);
            return;
        }
        if waiting.len() >= self.sweep_at.load(Relaxed).max(16) {
            waiting.retain(|waiter| waiter.bell.strong_count() > 0);
            self.sweep_at.store(waiting.len() * 2, Relaxed);
        }
        waiting.push(Waiter {
            offset,
            bell: Arc::downgrade(bell),
            slot,
        });
    }

    /// Nobody waits with this slot of the bell any more.
    pub(super) fn remove(&self, bell: &Arc<Doorbell>, slot: usize) {
        let bell = Arc::as_ptr(bell);
        self.lock()
            .retain(|waiter| waiter.bell.as_ptr() != bell || waiter.slot != slot);
    }

    /// Rings everyone who waits for something below `high_watermark`.
    pub(super) fn ring_below(&self, high_watermark: Offset) {
        let rung: Vec<Waiter> = {
            let mut waiting = self.lock();
            if waiting.is_empty() {
                return;
            }
            waiting
                .extract_if(.., |waiter| waiter.offset < high_watermark)
                .collect()
        };
        for waiter in rung {
            if let Some(bell) = waiter.bell.upgrade() {
                bell.ring(waiter.slot);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Waiter>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bell_tells_who_rang_once() {
        let bell = Arc::new(Doorbell::default());
        let waiters = Waiters::default();
        waiters.add(Offset(5), &bell, 1, || Offset(5));
        waiters.add(Offset(9), &bell, 2, || Offset(5));
        waiters.ring_below(Offset(6));
        assert_eq!(bell.rung().await, [1]);
        waiters.ring_below(Offset(10));
        waiters.ring_below(Offset(11));
        assert_eq!(bell.rung().await, [2]);
        assert!(waiters.lock().is_empty());
    }

    #[tokio::test]
    async fn who_waits_no_more_is_not_rung() {
        let (bell, other) = (Arc::new(Doorbell::default()), Arc::new(Doorbell::default()));
        let waiters = Waiters::default();
        for (bell, slot) in [(&bell, 1), (&bell, 2), (&other, 1)] {
            waiters.add(Offset(5), bell, slot, || Offset(5));
        }
        waiters.remove(&bell, 1);
        waiters.ring_below(Offset(6));
        assert_eq!(bell.rung().await, [2]);
        assert_eq!(other.rung().await, [1]);
    }

    #[tokio::test]
    async fn who_comes_late_is_rung_at_once_and_nobody_else_is_looked_at() {
        let (waiting, late) = (Arc::new(Doorbell::default()), Arc::new(Doorbell::default()));
        let waiters = Waiters::default();
        waiters.add(Offset(5), &waiting, 1, || Offset(5));
        waiters.add(Offset(5), &late, 2, || Offset(6));
        assert_eq!(late.rung().await, [2]);
        assert_eq!(
            waiters.lock().len(),
            1,
            "the first one waits for its publisher"
        );
        waiters.ring_below(Offset(6));
        assert_eq!(waiting.rung().await, [1]);
    }

    #[test]
    fn readers_that_went_away_do_not_pile_up() {
        let waiters = Waiters::default();
        for _ in 0..1000 {
            let bell = Arc::new(Doorbell::default());
            waiters.add(Offset(0), &bell, 0, || Offset(0));
        }
        assert!(waiters.lock().len() <= 32);
    }
}
