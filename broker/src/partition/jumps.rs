//! When the clock of the machine was set forward, or the machine slept.
//!
//! What is known of producers is forgotten after a time in which the broker ran. That
//! time is told by the stamps of their batches, which are the machine's clock. So when
//! it goes further than time does, all that is known moves along: else a whole day
//! could pass at once, every producer would be forgotten, and a first batch that is
//! sent again would be appended again. A clock that is set back only makes memory
//! last longer.

use std::sync::{Mutex, PoisonError};

use crate::clock::Clock;

/// By less than this a clock is set all the time: milliseconds.
const JUMP_MS: i64 = 1000;

/// Where the clocks were when they were read last.
#[derive(Debug, Clone, Copy)]
struct Reading {
    wall_ms: i64,
    steady_ms: i64,
}

impl Reading {
    fn take(clock: &Clock) -> Reading {
        Reading {
            wall_ms: clock.now_ms(),
            steady_ms: clock.steady_ms(),
        }
    }
}

/// Notices jumps.
#[derive(Debug)]
pub(super) struct Jumps(Mutex<Reading>);

impl Jumps {
    pub(super) fn start(clock: &Clock) -> Jumps {
        Jumps(Mutex::new(Reading::take(clock)))
    }

    /// The time, in milliseconds since the Unix epoch. If it has jumped by so many,
    /// `follow` is told both, before anybody gets to know a time behind the jump.
    pub(super) fn now_ms(&self, clock: &Clock, follow: impl FnOnce(i64, i64)) -> i64 {
        let mut before = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Reading::take(clock);
        let passed_ms = now.steady_ms.saturating_sub(before.steady_ms);
        let told_ms = now.wall_ms.saturating_sub(before.wall_ms);
        let jump_ms = told_ms.saturating_sub(passed_ms);
        if jump_ms >= JUMP_MS {
            follow(jump_ms, now.wall_ms);
        }
        *before = now;
        now.wall_ms
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    #[test]
    fn only_what_the_clock_goes_further_than_time_is_a_jump() {
        let times = Arc::new((AtomicI64::new(1_000_000), AtomicI64::new(5)));
        let (wall, steady) = (times.clone(), times.clone());
        let clock = Clock::of_both(
            move || wall.0.load(Ordering::Relaxed),
            move || steady.1.load(Ordering::Relaxed),
        );
        let jumps = Jumps::start(&clock);
        let jump = |told_ms, passed_ms| {
            times.0.fetch_add(told_ms, Ordering::Relaxed);
            times.1.fetch_add(passed_ms, Ordering::Relaxed);
            let mut jumped = None;
            let now_ms = jumps.now_ms(&clock, |by_ms, now_ms| jumped = Some((by_ms, now_ms)));
            assert_eq!(now_ms, times.0.load(Ordering::Relaxed));
            jumped.map(|(by_ms, at_ms)| {
                assert_eq!(at_ms, now_ms);
                by_ms
            })
        };
        assert_eq!(jump(100_000, 100_000), None);
        assert_eq!(jump(100_999, 100_000), None);
        assert_eq!(jump(105_000, 100_000), Some(5_000));
        assert_eq!(jump(0, 0), None, "each is told once");
        assert_eq!(jump(-500_000, 10), None);
        assert_eq!(jump(500_000, 0), Some(500_000));
    }
}
