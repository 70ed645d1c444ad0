//! The one place of this crate that reads clocks.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Now, on the clock that only goes forward.
#[allow(clippy::disallowed_methods)] // This is the client's own clock.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// As good as never: [`Duration::MAX`] is no time that a clock shows.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// So long from now.
pub(crate) fn after(time: Duration) -> Instant {
    now() + time.min(FAR)
}

/// The wall clock: milliseconds since the Unix epoch.
#[allow(clippy::disallowed_methods)] // This is the client's own clock.
pub(crate) fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}
