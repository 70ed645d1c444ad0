//! The one place where time is read. Everything else is given it.

use std::fmt;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A wall clock in milliseconds since the Unix epoch, and a steady one beside it.
/// Cheap to clone.
#[derive(Clone)]
pub struct Clock {
    wall_ms: Arc<dyn Fn() -> i64 + Send + Sync>,
    steady_ms: Arc<dyn Fn() -> i64 + Send + Sync>,
}

impl Clock {
    /// The clock of the machine.
    pub fn system() -> Clock {
        let start = instant();
        Clock::of_both(system_ms, move || {
            i64::try_from(start.elapsed().as_millis()).unwrap_or(i64::MAX)
        })
    }

    /// A clock that tells what `now_ms` returns, and that nobody sets.
    pub fn of(now_ms: impl Fn() -> i64 + Send + Sync + 'static) -> Clock {
        let now_ms = Arc::new(now_ms);
        Clock {
            wall_ms: now_ms.clone(),
            steady_ms: now_ms,
        }
    }

    /// A clock that is set while `steady_ms` goes on as time does.
    pub fn of_both(
        wall_ms: impl Fn() -> i64 + Send + Sync + 'static,
        steady_ms: impl Fn() -> i64 + Send + Sync + 'static,
    ) -> Clock {
        Clock {
            wall_ms: Arc::new(wall_ms),
            steady_ms: Arc::new(steady_ms),
        }
    }

    /// Milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> i64 {
        (self.wall_ms)()
    }

    /// Milliseconds since some moment, of a clock that nobody sets. It may stand while
    /// the machine sleeps.
    pub fn steady_ms(&self) -> i64 {
        (self.steady_ms)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the place")]
fn system_ms() -> i64 {
    // Before 1970 the clock is wrong; records then carry time 0.
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The monotonic clock, for deadlines.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub fn instant() -> Instant {
    Instant::now()
}
