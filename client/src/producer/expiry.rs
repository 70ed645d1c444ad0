//! Fails what couldn't be delivered in time, whatever else goes on: a
//! connection is opened, answers come, refused batches wait.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{Interval, MissedTickBehavior};

use super::queue::Expired;
use super::shared::{Shared, wake};
use crate::clock;
use crate::error::Error;

/// How often is looked for what is too old: at least, and at most.
const CHECK_INTERVALS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

pub(super) struct Expiry<'a> {
    shared: &'a Shared,
    ticks: Interval,
    /// What went wrong since the last answer, for the error.
    last: Option<Arc<str>>,
}

impl<'a> Expiry<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        let (shortest, longest) = CHECK_INTERVALS;
        let interval = (shared.settings.delivery_timeout / 8).clamp(shortest, longest);
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            shared,
            ticks,
            last: None,
        }
    }

    /// Names the reason, should something expire.
    pub(super) fn blame(&mut self, error: &Error) {
        self.last = Some(error.to_string().into());
    }

    /// The broker answers again.
    pub(super) fn forgive(&mut self) {
        self.last = None;
    }

    /// Why something is late, as far as is known.
    pub(super) fn cause(&self) -> Arc<str> {
        let last = self.last.clone();
        last.unwrap_or_else(|| "the broker didn't acknowledge in time".into())
    }

    /// The next time to look.
    pub(super) async fn tick(&mut self) {
        self.ticks.tick().await;
    }

    /// The future's output; meanwhile what gets too old fails.
    pub(super) async fn during<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        loop {
            tokio::select! {
                biased;
                output = &mut future => return output,
                () = self.tick() => self.expire(),
            }
        }
    }

    /// Fails what is too old and not on its way.
    pub(super) fn expire(&self) {
        if let Some(before) = self.too_old() {
            self.fail(before, |refused| self.timeout(refused));
        }
    }

    /// Fails whatever isn't on its way.
    pub(super) fn fail_all(&self, error: &Error) {
        self.fail(clock::after(Duration::MAX), |_| error.clone());
    }

    /// Fails what came before this time and isn't on its way; with which error,
    /// depends on why it was refused last, if it was.
    fn fail(&self, before: Instant, error: impl Fn(Option<&Error>) -> Error) {
        let Expired {
            cut,
            waiting,
            waker,
        } = self.shared.take_expired(before);
        wake(waker);
        let mut settled = 0;
        for (batch, refused) in cut {
            let error = error(refused.as_ref());
            self.shared.fail(&batch.topic, &batch.completion, error);
            settled += batch.cost;
        }
        for batch in waiting {
            let error = error(None);
            self.shared.fail(&batch.topic, &batch.completion, error);
            settled += batch.cost;
        }
        self.shared.buffer.add_permits(settled);
    }

    /// Whether an answer is awaited for too long.
    pub(super) fn is_overdue(&self) -> bool {
        let before = self.too_old();
        before.is_some_and(|before| self.shared.lock().queue.is_overdue(before))
    }

    /// What came before this time waits for too long; nothing does when the
    /// timeout reaches back further than the clock.
    fn too_old(&self) -> Option<Instant> {
        clock::now().checked_sub(self.shared.settings.delivery_timeout)
    }

    fn timeout(&self, refused: Option<&Error>) -> Error {
        Error::Timeout {
            waited: self.shared.settings.delivery_timeout,
            last: refused.map_or_else(|| self.cause(), |error| error.to_string().into()),
        }
    }
}
