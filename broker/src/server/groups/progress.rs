//! Whether a member makes progress with what it holds.
//!
//! A member that holds records, and for a time neither commits any of them nor
//! takes more, has stalled: others should have them. That it is alive is no
//! progress. Once it commits or takes more again, or says that it works on nothing
//! of what it had, it is taken for one that works.
//!
//! What a member holds is what it was sent, hasn't committed, and hasn't given its
//! credit back for: either says that it is done with it. So one that commits now and
//! then, and waits for more in between, holds nothing; nor does one that keeps its
//! offsets elsewhere. One that set no bound need give no credit, and then can't say
//! so. It is taken to wait once it has everything that there is, and has committed or
//! taken more since it was sent something last.

use std::time::Duration;

use tokio::time::Instant;

use super::join::Terms;
use crate::model::Offset;
use crate::server::reading::Allowance;

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
    /// It says how much it takes, and so how much it is done with.
    is_bounded: bool,
    /// Partitions of which the member holds something, as far as it committed.
    held: usize,
    /// Of what it was sent, that for which it hasn't given credit since. Credit
    /// beyond that counts for nothing that is sent later: the member takes more now.
    unpaid: Allowance,
    /// When it made progress last, or began to hold something.
    since: Instant,
    /// It has made progress since it was sent something last.
    is_up_to_date: bool,
    stalled: bool,
}

impl Progress {
    pub(super) fn new(terms: &Terms) -> Progress {
        Progress {
            max_processing_time: terms.max_processing_time,
            is_bounded: terms.capacity != Allowance::UNLIMITED,
            held: 0,
            unpaid: Allowance {
                bytes: 0,
                records: 0,
            },
            since: Instant::now(),
            is_up_to_date: false,
            stalled: false,
        }
    }

    /// Whether the member holds anything. It may count its credit in bytes or in
    /// records only.
    fn holds(&self) -> bool {
        self.held > 0 && self.unpaid.bytes > 0 && self.unpaid.records > 0
    }

    /// Records of a partition up to `end` are sent, in a batch of this size.
    pub(super) fn send(&mut self, holding: &mut Holding, end: Offset, size: Allowance) {
        let held = self.holds();
        let was_something = holding.is_something();
        holding.sent = holding.sent.max(end);
        self.held += usize::from(holding.is_something() && !was_something);
        self.unpaid.bytes = self.unpaid.bytes.saturating_add(size.bytes);
        self.unpaid.records = self.unpaid.records.saturating_add(size.records);
        // One that was up to date may have waited for this for long.
        let waited = std::mem::take(&mut self.is_up_to_date) && !self.is_bounded;
        if waited || (self.holds() && !held) {
            self.since = Instant::now();
        }
    }

    /// The member gives credit for what it is done with.
    pub(super) fn take_back(&mut self, credit: Allowance) {
        self.unpaid.bytes = self.unpaid.bytes.saturating_sub(credit.bytes);
        self.unpaid.records = self.unpaid.records.saturating_sub(credit.records);
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

    /// The member takes more, or tries to commit, or has nothing any more. Says
    /// whether it had stalled.
    pub(super) fn show_life(&mut self) -> bool {
        self.since = Instant::now();
        self.is_up_to_date = true;
        std::mem::take(&mut self.stalled)
    }

    /// When it will have stalled; `has_everything` that there is to be sent.
    pub(super) fn stalls_at(&self, has_everything: bool) -> Option<Instant> {
        let waits = !self.is_bounded && self.is_up_to_date && has_everything;
        let may_stall = self.holds() && !waits && !self.stalled;
        may_stall.then(|| self.since + self.max_processing_time)
    }

    pub(super) fn set_stalled(&mut self) {
        self.stalled = true;
    }

    pub(super) fn has_stalled(&self) -> bool {
        self.stalled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::GroupName;
    use crate::server::groups::start::GroupStart;

    const LIMIT: Duration = Duration::from_secs(60);

    /// A batch.
    const SIZE: Allowance = Allowance {
        bytes: 100,
        records: 10,
    };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn progress(capacity: Allowance) -> Progress {
        Progress::new(&Terms {
            group: GroupName::try_from("g").unwrap(),
            capacity,
            start: GroupStart::Earliest,
            session_timeout_ms: 10_000,
            max_processing_time: LIMIT,
            max_bytes: 1024,
        })
    }

    fn unbounded() -> Progress {
        progress(Allowance::UNLIMITED)
    }

    fn bounded() -> Progress {
        progress(Allowance {
            bytes: 1000,
            records: 1000,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn who_holds_nothing_never_stalls() {
        let mut progress = unbounded();
        let mut holding = Holding::from(Offset(5));
        assert_eq!(progress.stalls_at(true), None);
        progress.send(&mut holding, Offset(8), SIZE);
        assert!(progress.stalls_at(true).is_some());
        progress.commit(&mut holding, Offset(8));
        assert_eq!(progress.stalls_at(true), None);
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_moves_forward_is_progress() {
        let start = Instant::now();
        let mut progress = unbounded();
        let mut holding = Holding::from(Offset(0));
        progress.send(&mut holding, Offset(10), SIZE);
        assert_eq!(progress.stalls_at(true), Some(start + LIMIT));
        tokio::time::advance(at(10)).await;
        progress.send(&mut holding, Offset(20), SIZE);
        assert_eq!(progress.stalls_at(true), Some(start + LIMIT), "more to do");
        progress.commit(&mut holding, Offset(5));
        assert_eq!(progress.stalls_at(true), Some(start + at(10) + LIMIT));
        tokio::time::advance(at(10)).await;
        progress.commit(&mut holding, Offset(5));
        assert_eq!(progress.stalls_at(true), Some(start + at(10) + LIMIT));
        progress.commit(&mut holding, Offset(2));
        assert_eq!(progress.stalls_at(true), Some(start + at(10) + LIMIT));
    }

    #[tokio::test(start_paused = true)]
    async fn one_partition_that_moves_is_progress_of_all() {
        let start = Instant::now();
        let mut progress = unbounded();
        let (mut one, mut other) = (Holding::from(Offset(0)), Holding::from(Offset(0)));
        progress.send(&mut one, Offset(10), SIZE);
        progress.send(&mut other, Offset(10), SIZE);
        tokio::time::advance(at(30)).await;
        progress.commit(&mut one, Offset(10));
        assert_eq!(progress.stalls_at(true), Some(start + at(30) + LIMIT));
        progress.release(other);
        assert_eq!(progress.stalls_at(true), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_stalled_does_so_once_and_may_come_back() {
        let mut progress = bounded();
        let mut holding = Holding::from(Offset(0));
        progress.send(&mut holding, Offset(10), SIZE);
        progress.set_stalled();
        assert_eq!(progress.stalls_at(true), None);
        assert!(progress.show_life());
        assert!(!progress.show_life());
        assert_eq!(progress.stalls_at(true), Some(Instant::now() + LIMIT));
    }

    #[tokio::test(start_paused = true)]
    async fn who_gave_back_all_its_credit_holds_nothing_though_it_committed_nothing() {
        for unit in [
            Allowance { bytes: 0, ..SIZE },
            Allowance { records: 0, ..SIZE },
        ] {
            let mut progress = bounded();
            let mut holding = Holding::from(Offset(0));
            progress.send(&mut holding, Offset(10), SIZE);
            progress.send(&mut holding, Offset(20), SIZE);
            progress.take_back(unit);
            progress.show_life();
            assert!(progress.stalls_at(true).is_some(), "one of two batches");
            progress.take_back(unit);
            assert_eq!(progress.stalls_at(true), None);

            // Its time begins with the next batch, not with the last progress.
            tokio::time::advance(LIMIT * 2).await;
            progress.send(&mut holding, Offset(30), SIZE);
            assert_eq!(progress.stalls_at(true), Some(Instant::now() + LIMIT));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_more_than_it_was_sent_can_stall_on_what_comes_later() {
        let mut progress = bounded();
        let mut holding = Holding::from(Offset(0));
        progress.take_back(Allowance {
            bytes: 10_000,
            records: 10_000,
        });
        progress.send(&mut holding, Offset(10), SIZE);
        assert!(progress.stalls_at(true).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_set_no_bound_waits_once_it_has_everything_and_said_something() {
        let mut progress = unbounded();
        let mut holding = Holding::from(Offset(0));
        progress.send(&mut holding, Offset(10), SIZE);
        progress.show_life();
        progress.commit(&mut holding, Offset(5));
        assert_eq!(progress.stalls_at(true), None, "it waits for more");
        let more_to_be_sent = progress.stalls_at(false);
        assert_eq!(more_to_be_sent, Some(Instant::now() + LIMIT));

        tokio::time::advance(LIMIT * 2).await;
        progress.send(&mut holding, Offset(20), SIZE);
        assert_eq!(progress.stalls_at(true), Some(Instant::now() + LIMIT));
    }

    #[tokio::test(start_paused = true)]
    async fn who_set_a_bound_and_keeps_its_credit_is_stuck_though_it_has_everything() {
        let mut progress = bounded();
        let mut holding = Holding::from(Offset(0));
        progress.send(&mut holding, Offset(10), SIZE);
        progress.show_life();
        progress.commit(&mut holding, Offset(5));
        assert_eq!(progress.stalls_at(true), Some(Instant::now() + LIMIT));
    }
}
