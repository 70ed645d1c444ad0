//! The time that groups go by: that of the runtime, which doesn't go back, and
//! which tests can stop.

use std::time::Duration;

use tokio::time::Instant;

/// Counts milliseconds from its start on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticker {
    start: Instant,
}

impl Ticker {
    pub(super) fn start() -> Ticker {
        Ticker {
            start: Instant::now(),
        }
    }

    /// When it began to count.
    pub(super) fn started(self) -> Instant {
        self.start
    }

    pub(super) fn now_ms(self) -> u64 {
        let since = Instant::now().saturating_duration_since(self.start);
        u64::try_from(since.as_millis()).expect("milliseconds fit in 64 bits")
    }

    /// The moment when it shows `ms`.
    pub(super) fn at(self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }
}
