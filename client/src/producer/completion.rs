//! What became of a batch, shared by the deliveries of its records.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::error::Error;

/// Where a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordPosition {
    /// The partition that took it.
    pub partition: u32,
    /// Its offset there. `None` in a rare case: the record is in the log, once, but
    /// the answer was lost, and when the record was sent again, the broker, which
    /// remembers only so much of all its producers, knew no longer where it put it.
    pub offset: Option<u64>,
}

impl fmt::Display for RecordPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.offset {
            Some(offset) => write!(f, "partition {}, offset {offset}", self.partition),
            None => write!(f, "partition {}, offset unknown", self.partition),
        }
    }
}

/// A record on its way: resolves to where it lies once the broker has
/// acknowledged it at the flush level of its topic.
///
/// Dropping it doesn't take the record back; it only leaves its fate unknown.
/// It costs no allocation: all records of a batch share one.
#[derive(Debug)]
#[must_use = "a record that isn't awaited may be lost without notice; `flush` also tells"]
pub struct Delivery {
    batch: Arc<Completion>,
    index: u32,
    /// Which of the batch's places is this delivery's, once it was polled.
    place: Option<usize>,
}

impl Future for Delivery {
    type Output = Result<RecordPosition, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let place = self.place;
        match self.batch.poll(place, cx.waker()) {
            Ok(outcome) => Poll::Ready(self.position(outcome)),
            Err(place) => {
                self.place = Some(place);
                Poll::Pending
            }
        }
    }
}

impl Delivery {
    /// What is known now: `None` while the record is on its way.
    pub fn now(&self) -> Option<Result<RecordPosition, Error>> {
        self.batch.outcome().map(|outcome| self.position(outcome))
    }

    fn position(&self, outcome: &Outcome) -> Result<RecordPosition, Error> {
        let base_offset = match outcome {
            Ok(base_offset) => *base_offset,
            Err(error) => {
                self.batch.told.store(true, Ordering::Relaxed);
                return Err(error.clone());
            }
        };
        Ok(RecordPosition {
            partition: self.batch.partition,
            // What would overflow was never taken for a success.
            offset: base_offset.map(|base| base.saturating_add(self.index.into())),
        })
    }
}

/// What became of a batch: its base offset, if that is known, or why it failed.
pub(super) type Outcome = Result<Option<u64>, Error>;

/// The fate of one batch. Settled once.
#[derive(Debug)]
pub(super) struct Completion {
    partition: u32,
    outcome: OnceLock<Outcome>,
    /// Somebody was told that it failed.
    told: AtomicBool,
    /// One list for the batch: a task that awaits many records of it in turn is
    /// woken once. No longer than there are deliveries, as each place serves one at
    /// least. Never locked together with the queue.
    places: Mutex<Vec<Place>>,
}

/// Whom to wake.
#[derive(Debug)]
struct Place {
    waker: Waker,
    /// How many deliveries it serves: at least one.
    deliveries: usize,
}

impl Place {
    fn new(waker: &Waker) -> Self {
        Self {
            waker: waker.clone(),
            deliveries: 1,
        }
    }
}

impl Completion {
    pub(super) fn new(partition: u32) -> Arc<Self> {
        Arc::new(Self {
            partition,
            outcome: OnceLock::new(),
            told: AtomicBool::new(false),
            places: Mutex::new(Vec::new()),
        })
    }

    /// The delivery of the record with this index in the batch.
    pub(super) fn delivery(self: &Arc<Self>, index: u32) -> Delivery {
        Delivery {
            batch: Arc::clone(self),
            index,
            place: None,
        }
    }

    pub(super) fn settle(&self, outcome: Outcome) {
        let first = self.outcome.set(outcome).is_ok();
        assert!(first, "a batch is settled once");
        self.wake();
    }

    /// Settles it if nobody did: the one who would is gone.
    pub(super) fn abandon(&self, error: Error) {
        if self.outcome.set(Err(error)).is_ok() {
            self.wake();
        }
    }

    /// Whether somebody was told that it failed.
    pub(super) fn is_told(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }

    fn wake(&self) {
        let places = std::mem::take(&mut *self.lock());
        for place in places {
            place.waker.wake();
        }
    }

    fn outcome(&self) -> Option<&Outcome> {
        self.outcome.get()
    }

    /// The outcome, or the place at which the waker of a delivery now is. `place` is
    /// where it was before.
    fn poll(&self, place: Option<usize>, waker: &Waker) -> Result<&Outcome, usize> {
        if let Some(outcome) = self.outcome() {
            return Ok(outcome);
        }
        let mut places = self.lock();
        // `settle` sets the outcome before it takes this lock.
        if let Some(outcome) = self.outcome() {
            return Ok(outcome);
        }
        match place {
            Some(at) if places[at].waker.will_wake(waker) => return Err(at),
            // The delivery moved to another task, and nobody stays behind.
            Some(at) if places[at].deliveries == 1 => {
                places[at] = Place::new(waker);
                return Err(at);
            }
            Some(at) => places[at].deliveries -= 1,
            None => {
                if let Some(last) = places.last_mut()
                    && last.waker.will_wake(waker)
                {
                    last.deliveries += 1;
                    return Err(places.len() - 1);
                }
            }
        }
        places.push(Place::new(waker));
        Err(places.len() - 1)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use super::*;

    struct Counter(std::sync::atomic::AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    fn counter() -> (Arc<Counter>, Waker) {
        let counter = Arc::new(Counter(0.into()));
        (Arc::clone(&counter), Waker::from(counter))
    }

    #[test]
    fn deliveries_resolve_to_consecutive_offsets() {
        let batch = Completion::new(3);
        let mut deliveries = [batch.delivery(0), batch.delivery(1)];
        let (woken, waker) = counter();
        let mut cx = Context::from_waker(&waker);
        for delivery in &mut deliveries {
            assert!(Pin::new(delivery).poll(&mut cx).is_pending());
        }
        batch.settle(Ok(Some(40)));
        // Both are awaited by one task, which is woken once.
        assert_eq!(woken.0.load(std::sync::atomic::Ordering::Relaxed), 1);
        for (delivery, offset) in deliveries.iter_mut().zip([40, 41]) {
            let position = RecordPosition {
                partition: 3,
                offset: Some(offset),
            };
            assert_eq!(delivery.now().unwrap().unwrap(), position);
            let Poll::Ready(Ok(polled)) = Pin::new(delivery).poll(&mut cx) else {
                panic!("settled");
            };
            assert_eq!(polled, position);
        }
    }

    #[test]
    fn a_delivery_that_moves_to_another_task_leaves_the_others_their_waker() {
        let batch = Completion::new(0);
        let (mut moving, mut staying) = (batch.delivery(0), batch.delivery(1));
        let (first, waker) = counter();
        let mut cx = Context::from_waker(&waker);
        assert!(Pin::new(&mut moving).poll(&mut cx).is_pending());
        assert!(Pin::new(&mut staying).poll(&mut cx).is_pending());
        let (second, waker) = counter();
        assert!(
            Pin::new(&mut moving)
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        batch.settle(Err(Error::Closed));
        assert_eq!(first.0.load(std::sync::atomic::Ordering::Relaxed), 1);
        assert_eq!(second.0.load(std::sync::atomic::Ordering::Relaxed), 1);
        assert!(matches!(moving.now(), Some(Err(Error::Closed))));
    }

    #[test]
    fn deliveries_that_are_polled_from_ever_other_tasks_leave_no_wakers_behind() {
        let batch = Completion::new(0);
        let mut deliveries = [batch.delivery(0), batch.delivery(1), batch.delivery(2)];
        // One task awaits all of them first, so that they share a place.
        let (_, waker) = counter();
        let mut cx = Context::from_waker(&waker);
        for delivery in &mut deliveries {
            assert!(Pin::new(delivery).poll(&mut cx).is_pending());
        }
        assert_eq!(batch.lock().len(), 1);
        let mut last = Vec::new();
        for _ in 0..100 {
            last.clear();
            for delivery in &mut deliveries {
                let (woken, waker) = counter();
                let mut cx = Context::from_waker(&waker);
                assert!(Pin::new(delivery).poll(&mut cx).is_pending());
                last.push(woken);
            }
            assert_eq!(batch.lock().len(), deliveries.len());
        }
        batch.settle(Ok(Some(0)));
        for woken in last {
            assert_eq!(woken.0.load(std::sync::atomic::Ordering::Relaxed), 1);
        }
    }

    #[test]
    fn a_delivery_that_is_polled_from_two_tasks_in_turn_has_one_place() {
        let batch = Completion::new(0);
        let (mut moving, mut staying) = (batch.delivery(0), batch.delivery(1));
        let (first, first_waker) = counter();
        let mut in_first = Context::from_waker(&first_waker);
        assert!(Pin::new(&mut staying).poll(&mut in_first).is_pending());
        let (second, second_waker) = counter();
        let mut in_second = Context::from_waker(&second_waker);
        for _ in 0..100 {
            assert!(Pin::new(&mut moving).poll(&mut in_first).is_pending());
            assert!(Pin::new(&mut moving).poll(&mut in_second).is_pending());
        }
        assert_eq!(batch.lock().len(), 2);
        batch.settle(Ok(Some(0)));
        assert_eq!(first.0.load(std::sync::atomic::Ordering::Relaxed), 1);
        assert_eq!(second.0.load(std::sync::atomic::Ordering::Relaxed), 1);
    }
}
