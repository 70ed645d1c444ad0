//! The memory that clients can make the broker hold, of all connections together.
//!
//! HTTP/2 windows bound what lies unread in the transport. What was read of
//! messages that are not whole yet, and what is on its way to readers, is bounded
//! here, by a [`Budget`] each:
//!
//! - Whoever wants to hold something takes all of it first, so that what was
//!   begun can be finished. Something larger than the budget takes all of it.
//! - Nobody is passed over: who waits gets room in the order of asking.
//! - While somebody waits, and nothing is given back for [`limits::STALLED`], the
//!   connections of those who have held something all the while are closed: a
//!   client that stops in the middle of a message, or doesn't read what it asked
//!   for, must not take the room of all others for ever.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;

use super::ServerOptions;
use super::connection::Connection;
use crate::limits;

/// The budgets of a server.
#[derive(Debug)]
pub(super) struct Memory {
    /// For messages that are being received, and for those of unary calls until
    /// they are answered.
    pub(super) receiving: Arc<Budget>,
    /// For responses of readers: from before they are read to when they were sent.
    pub(super) sending: Arc<Budget>,
    /// For answers of streams that the log or the client keeps waiting.
    pub(super) answering: Arc<Budget>,
    /// For connections.
    pub(super) connections: Places,
    /// For calls.
    pub(super) calls: Places,
    /// For partitions that readers have open, of all calls together.
    pub(super) cursors: Places,
}

impl Memory {
    pub(super) fn new(options: &ServerOptions) -> Memory {
        let budget = |bytes| Arc::new(Budget::new(bytes, options.stalled));
        let connections = options.max_connections;
        Memory {
            receiving: budget(options.receiving_bytes),
            sending: budget(options.sending_bytes),
            answering: budget(options.answering_bytes),
            connections: Places::new(connections),
            calls: Places::new(connections * limits::CALLS_PER_CONNECTION),
            cursors: Places::new(limits::CURSORS),
        }
    }
}

/// How many of something there may be.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) count: usize,
    free: Arc<Semaphore>,
}

impl Places {
    pub(super) fn new(count: usize) -> Places {
        Places {
            count,
            free: Arc::new(Semaphore::new(count)),
        }
    }

    /// So many of them, if they are free.
    pub(super) fn take(&self, count: usize) -> Option<OwnedSemaphorePermit> {
        let count = u32::try_from(count).ok()?;
        self.free.clone().try_acquire_many_owned(count).ok()
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> usize {
        self.count - self.free.available_permits()
    }
}

/// Bytes that may be held at a time.
#[derive(Debug)]
pub(super) struct Budget {
    bytes: u32,
    room: Arc<Semaphore>,
    stalled: Duration,
    holders: Mutex<Holders>,
    /// How often something was given back.
    given_back: AtomicU64,
}

/// Who holds something. Numbers grow, so that they tell who has held for longer.
#[derive(Debug, Default)]
struct Holders {
    next: u64,
    connections: BTreeMap<u64, Arc<Connection>>,
}

/// Room that was taken; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    budget: Arc<Budget>,
    permit: OwnedSemaphorePermit,
    /// Its number among the holders, if a client can keep it.
    holder: Option<u64>,
}

/// Room that will be there.
#[derive(Debug)]
pub(super) struct Waiting(AbortOnDropHandle<Held>);

impl Budget {
    fn new(bytes: usize, stalled: Duration) -> Budget {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Budget {
            bytes,
            room: Arc::new(Semaphore::new(bytes as usize)),
            stalled,
            holders: Mutex::default(),
            given_back: AtomicU64::new(0),
        }
    }

    /// Bytes that are held now.
    pub(super) fn used(&self) -> usize {
        self.bytes as usize - self.room.available_permits()
    }

    /// Whether there is so much room that some may be used ahead of need.
    pub(super) fn is_plentiful(&self) -> bool {
        self.room.available_permits() >= self.bytes as usize / 2
    }

    /// Takes room for so many bytes, if there is and nobody waits.
    pub(super) fn try_take(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        let room = self.room.clone();
        let permit = room.try_acquire_many_owned(self.clamped(bytes)).ok()?;
        Some(self.held(permit))
    }

    /// Takes room for so many bytes in its turn, for a client that then has to get
    /// on with it. It waits in a task of its own: whoever asks may not be polled
    /// while its client doesn't read, and would hold up everybody behind.
    pub(super) fn wait(self: &Arc<Self>, bytes: usize, connection: &Arc<Connection>) -> Waiting {
        let (budget, connection) = (self.clone(), connection.clone());
        let waiting = async move {
            let room = budget.room.clone();
            let turn = room.acquire_many_owned(budget.clamped(bytes));
            let permit = tokio::select! {
                permit = turn => permit.expect("the semaphore is never closed"),
                never = budget.close_stalled() => match never {},
            };
            budget.held(permit).by(&connection)
        };
        Waiting(AbortOnDropHandle::new(tokio::spawn(waiting)))
    }

    /// Closes the connections that keep others waiting, again and again.
    async fn close_stalled(&self) -> Infallible {
        loop {
            let newest = self.lock().next;
            let given_back = self.given_back.load(Ordering::Relaxed);
            tokio::time::sleep(self.stalled).await;
            if self.given_back.load(Ordering::Relaxed) != given_back {
                continue;
            }
            let holders = self.lock();
            let stalled: Vec<_> = holders.connections.range(..newest).collect();
            for (_, connection) in stalled {
                connection.close(self.stalled);
            }
        }
    }

    fn held(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Held {
        Held {
            budget: self.clone(),
            permit,
            holder: None,
        }
    }

    /// So many bytes, or as many as there are.
    pub(super) fn most(&self, bytes: usize) -> usize {
        bytes.min(self.bytes as usize)
    }

    fn clamped(&self, bytes: usize) -> u32 {
        u32::try_from(bytes).map_or(self.bytes, |bytes| bytes.min(self.bytes))
    }

    fn lock(&self) -> MutexGuard<'_, Holders> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// From now on it is this client that has to get on with it.
    pub(super) fn by(mut self, connection: &Arc<Connection>) -> Held {
        if self.holder.is_some() {
            return self;
        }
        let mut holders = self.budget.lock();
        let number = holders.next;
        holders.next += 1;
        holders.connections.insert(number, connection.clone());
        drop(holders);
        self.holder = Some(number);
        self
    }

    /// Bytes of it.
    pub(super) fn bytes(&self) -> usize {
        self.permit.num_permits()
    }

    /// Gives back all but so many bytes.
    pub(super) fn shrink(&mut self, bytes: usize) {
        let rest = self.bytes().saturating_sub(bytes);
        drop(self.split(rest));
    }

    /// Takes so many bytes out of it, or all.
    pub(super) fn split(&mut self, bytes: usize) -> Held {
        let permit = self.permit.split(bytes.min(self.bytes()));
        self.budget
            .held(permit.expect("it is no more than there is"))
    }

    /// Puts together what is of the same budget.
    pub(super) fn merge(&mut self, mut other: Held) {
        let all = other.bytes();
        let permit = other.permit.split(all);
        self.permit.merge(permit.expect("it is all there is"));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.bytes() > 0 {
            self.budget.given_back.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(number) = self.holder {
            self.budget.lock().connections.remove(&number);
        }
    }
}

impl Future for Waiting {
    type Output = Held;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Held> {
        match self.0.poll_unpin(cx) {
            Poll::Ready(Ok(held)) => Poll::Ready(held),
            // The runtime ends, and with it whoever waits.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: Duration = Duration::from_secs(3600);

    fn connection() -> Arc<Connection> {
        Arc::new(Connection::new(([127, 0, 0, 1], 1).into(), 1))
    }

    fn budget(stalled: Duration) -> Arc<Budget> {
        Arc::new(Budget::new(100, stalled))
    }

    #[tokio::test]
    async fn nobody_is_passed_over() {
        let budget = budget(NEVER);
        let connection = connection();
        let mut first = budget.try_take(60).unwrap();
        let mut large = budget.wait(80, &connection);
        while budget.try_take(1).is_some() {
            tokio::task::yield_now().await;
        }
        let mut small = budget.wait(10, &connection);
        first.shrink(30);
        assert!(
            budget.try_take(1).is_none(),
            "all of it is for the large one"
        );
        assert!((&mut large).now_or_never().is_none() && (&mut small).now_or_never().is_none());
        drop(first);
        assert_eq!(large.await.bytes(), 80);
        assert_eq!(small.await.bytes(), 10);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn who_waits_no_longer_takes_nothing() {
        let budget = budget(NEVER);
        let held = budget.try_take(100).unwrap();
        let waiting = budget.wait(100, &connection());
        tokio::task::yield_now().await;
        drop(waiting);
        drop(held);
        while budget.used() > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn what_is_larger_than_the_budget_takes_all_of_it() {
        let budget = budget(NEVER);
        let mut all = budget.try_take(1000).unwrap();
        assert_eq!((all.bytes(), budget.used()), (100, 100));
        let part = all.split(30);
        assert_eq!((all.bytes(), part.bytes()), (70, 30));
        all.merge(part);
        assert_eq!((all.bytes(), budget.used()), (100, 100));
        all.shrink(1);
        assert_eq!(budget.used(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_held_all_the_while_and_gave_nothing_back_is_closed() {
        let budget = budget(Duration::from_secs(10));
        let stuck = connection();
        let still = budget.try_take(60).unwrap().by(&stuck);
        let mut moving = budget.try_take(40).unwrap();
        let waiting = budget.wait(50, &connection());
        for left in (10..40).rev() {
            tokio::time::sleep(Duration::from_secs(9)).await;
            moving.shrink(left);
            assert!(!stuck.is_closing(), "something is given back");
        }
        tokio::time::sleep(Duration::from_secs(25)).await;
        assert!(stuck.is_closing());
        // In the test nothing happens by that alone.
        drop(still);
        assert_eq!(waiting.await.bytes(), 50);
        drop(moving);
    }
}
