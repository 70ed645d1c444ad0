//! Whether a member makes progress with what it holds.
//!
//! A member that holds records, and for a time neither commits any of them nor
//! takes more, has stalled: others should have them. That it is alive is no
//! progress. Once it commits or takes more again, it is taken for one that works.

use std::time::Duration;

use tokio::time::Instant;

use crate::model::Offset;

/// Records of one partition that a member has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holding {
    /// Where the member goes on, as far as it said.
    committed: Offset,
    /// It was sent records at least up to here.
    sent: Offset,
}

impl Holding {
    pub(super) fn from(start: Offset) -> Holding {
        Holding {
            committed: start,
            sent: start,
        }
    }

    fn is_something(self) -> bool {
        self.committed < self.sent
    }
}

/// Of all partitions of a member.
#[derive(Debug)]
pub(super) struct Progress {
    max_processing_time: Duration,
    /// Partitions of which the member holds something.
    held: usize,
    /// When it made progress last, or began to hold something.
    since: Instant,
    stalled: bool,
}

impl Progress {
    pub(super) fn new(max_processing_time: Duration) -> Progress {
        Progress {
            max_processing_time,
            held: 0,
            since: Instant::now(),
            stalled: false,
        }
    }

    /// Records of a partition up to `end` are sent.
    pub(super) fn send(&mut self, holding: &mut Holding, end: Offset) {
        let was_something = holding.is_something();
        holding.sent = holding.sent.max(end);
        if holding.is_something() && !was_something {
            if self.held == 0 {
                self.since = Instant::now();
            }
            self.held += 1;
        }
    }

    /// An offset of a partition was committed.
    pub(super) fn commit(&mut self, holding: &mut Holding, offset: Offset) {
        let was_something = holding.is_something();
        if offset > holding.committed {
            self.since = Instant::now();
        }
        holding.committed = offset;
        self.held += usize::from(holding.is_something());
        self.held -= usize::from(was_something);
    }

    /// A partition is to be given back, or is gone.
    pub(super) fn release(&mut self, holding: Holding) {
        self.held -= usize::from(holding.is_something());
    }

    /// The member takes more, or tries to commit. Says whether it had stalled.
    pub(super) fn show_life(&mut self) -> bool {
        self.since = Instant::now();
        std::mem::take(&mut self.stalled)
    }

    /// When it will have stalled.
    pub(super) fn stalls_at(&self) -> Option<Instant> {
        (self.held > 0 && !self.stalled).then(|| self.since + self.max_processing_time)
    }

    pub(super) fn set_stalled(&mut self) {
        self.stalled = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn who_holds_nothing_never_stalls() {
        let mut progress = Progress::new(LIMIT);
        let mut holding = Holding::from(Offset(5));
        assert_eq!(progress.stalls_at(), None);
        progress.send(&mut holding, Offset(8));
        assert!(progress.stalls_at().is_some());
        progress.commit(&mut holding, Offset(8));
        assert_eq!(progress.stalls_at(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_moves_forward_is_progress() {
        let start = Instant::now();
        let mut progress = Progress::new(LIMIT);
        let mut holding = Holding::from(Offset(0));
        progress.send(&mut holding, Offset(10));
        assert_eq!(progress.stalls_at(), Some(start + LIMIT));
        tokio::time::advance(at(10)).await;
        progress.send(&mut holding, Offset(20));
        assert_eq!(progress.stalls_at(), Some(start + LIMIT), "more to do");
        progress.commit(&mut holding, Offset(5));
        assert_eq!(progress.stalls_at(), Some(start + at(10) + LIMIT));
        tokio::time::advance(at(10)).await;
        progress.commit(&mut holding, Offset(5));
        assert_eq!(progress.stalls_at(), Some(start + at(10) + LIMIT));
        progress.commit(&mut holding, Offset(2));
        assert_eq!(progress.stalls_at(), Some(start + at(10) + LIMIT));
    }

    #[tokio::test(start_paused = true)]
    async fn one_partition_that_moves_is_progress_of_all() {
        let start = Instant::now();
        let mut progress = Progress::new(LIMIT);
        let (mut one, mut other) = (Holding::from(Offset(0)), Holding::from(Offset(0)));
        progress.send(&mut one, Offset(10));
        progress.send(&mut other, Offset(10));
        tokio::time::advance(at(30)).await;
        progress.commit(&mut one, Offset(10));
        assert_eq!(progress.stalls_at(), Some(start + at(30) + LIMIT));
        progress.release(other);
        assert_eq!(progress.stalls_at(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_stalled_does_so_once_and_may_come_back() {
        let mut progress = Progress::new(LIMIT);
        let mut holding = Holding::from(Offset(0));
        progress.send(&mut holding, Offset(10));
        progress.set_stalled();
        assert_eq!(progress.stalls_at(), None);
        assert!(progress.show_life());
        assert!(!progress.show_life());
        assert_eq!(progress.stalls_at(), Some(Instant::now() + LIMIT));
    }
}
