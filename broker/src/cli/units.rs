//! The units that people write: `7d`, `10GiB`, `forever`, `100ms`.

use std::time::Duration;

use bytesize::ByteSize;
use statecast_client::{FlushLevel, Retention};

use crate::limits::FLUSH_INTERVAL_MS;

/// A size in bytes, such as `10GiB`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let size: ByteSize = text
        .parse()
        .map_err(|_| format!("{text:?} is no size; write it as 64MiB or 10GB"))?;
    Ok(size.as_u64())
}

/// A size that fits a batch.
pub(super) fn batch_size(text: &str) -> Result<u32, String> {
    u32::try_from(size(text)?).map_err(|_| format!("{text:?} is too large"))
}

/// A duration, such as `7d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{text:?} is no duration ({error}); write it as 7d or 90m"))
}

/// How long is waited: a duration, but not none.
pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err(format!("{text:?} leaves no time; write it as 30s")),
        timeout => Ok(timeout),
    }
}

/// A duration of whole milliseconds.
pub(super) fn whole_milliseconds(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    match whole_ms(time) {
        Some(_) => Ok(time),
        None => Err(format!("{text:?} is no number of milliseconds that fits")),
    }
}

/// A duration of whole milliseconds, or `forever`.
pub(super) fn retention(text: &str) -> Result<Retention<Duration>, String> {
    if text == "forever" {
        return Ok(Retention::Forever);
    }
    let time = duration(text)?;
    match whole_ms(time) {
        Some(0) => Err(format!(
            "{text:?} keeps nothing; without a bound is `forever`"
        )),
        Some(_) => Ok(Retention::Limit(time)),
        None => Err(format!("{text:?} is no number of milliseconds that fits")),
    }
}

/// A size or `unlimited`, for which `forever` is taken as well.
pub(super) fn retention_bytes(text: &str) -> Result<Retention<u64>, String> {
    if ["unlimited", "forever"].contains(&text) {
        return Ok(Retention::Forever);
    }
    match size(text)? {
        0 => Err(format!(
            "{text:?} keeps nothing; without a bound is `unlimited`"
        )),
        bytes => Ok(Retention::Limit(bytes)),
    }
}

/// `always`, `os`, or how often.
pub(super) fn flush_level(text: &str) -> Result<FlushLevel, String> {
    match text {
        "always" => Ok(FlushLevel::Always),
        "os" => Ok(FlushLevel::Os),
        text => flush_interval(text).ok_or_else(|| {
            format!(
                "{text:?} is none of always, os, or a time such as 100ms: \
                 whole milliseconds, from 1ms to 1h"
            )
        }),
    }
}

fn flush_interval(text: &str) -> Option<FlushLevel> {
    let interval = humantime::parse_duration(text).ok()?;
    let ms = u32::try_from(whole_ms(interval)?).ok()?;
    FLUSH_INTERVAL_MS
        .contains(&ms)
        .then_some(FlushLevel::Interval(interval))
}

/// The milliseconds of a duration that is a whole number of them.
fn whole_ms(duration: Duration) -> Option<u64> {
    let is_whole = duration.subsec_nanos().is_multiple_of(1_000_000);
    let ms = u64::try_from(duration.as_millis()).ok()?;
    is_whole.then_some(ms)
}

/// As it was written.
pub(super) fn show_flush(level: FlushLevel) -> String {
    match level {
        FlushLevel::Always => "always".to_owned(),
        FlushLevel::Os => "os".to_owned(),
        FlushLevel::Interval(interval) => show_duration(interval),
    }
}

/// As `7days 2h`, without the spaces.
pub(super) fn show_duration(duration: Duration) -> String {
    humantime::format_duration(duration)
        .to_string()
        .replace(' ', "")
}

/// With its two largest units, as `3h20m`: what is smaller says little.
pub(super) fn show_age(age: Duration) -> String {
    let unit_ms = match age.as_secs() {
        0 => 1,
        1..3600 => 1000,
        3600..86_400 => 60_000,
        _ => 3_600_000,
    };
    let ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    match ms - ms % unit_ms {
        0 => "0s".to_owned(),
        ms => show_duration(Duration::from_millis(ms)),
    }
}

/// As `10.0 GiB`.
pub(super) fn show_size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_is_a_time_or_forever() {
        let week = Duration::from_secs(7 * 24 * 3600);
        assert_eq!(retention("7d"), Ok(Retention::Limit(week)));
        assert_eq!(retention("forever"), Ok(Retention::Forever));
        assert!(retention("a week").unwrap_err().contains("7d"));
        for refused in ["1500us", "1000000000000y"] {
            assert!(retention(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn no_retention_is_refused_with_the_word_for_no_bound() {
        assert!(retention("0s").unwrap_err().contains("forever"));
        assert!(retention_bytes("0").unwrap_err().contains("unlimited"));
        for word in ["unlimited", "forever"] {
            assert_eq!(retention_bytes(word), Ok(Retention::Forever));
        }
    }

    #[test]
    fn timeout_leaves_time() {
        assert_eq!(timeout("1ms"), Ok(Duration::from_millis(1)));
        assert!(timeout("0s").is_err());
    }

    #[test]
    fn sizes_are_binary_or_decimal() {
        assert_eq!(size("10GiB"), Ok(10 << 30));
        assert_eq!(size("1MB"), Ok(1_000_000));
        assert_eq!(size("4096"), Ok(4096));
        assert!(size("big").is_err());
        assert!(batch_size("5GiB").is_err());
    }

    #[test]
    fn ages_are_shown_with_their_largest_units() {
        for (ms, text) in [
            (0, "0s"),
            (250, "250ms"),
            (1_250, "1s"),
            (65_999, "1m5s"),
            (3_661_000, "1h1m"),
            (90_061_000, "1day1h"),
        ] {
            assert_eq!(show_age(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn flush_levels_read_as_they_are_shown() {
        for text in ["always", "os", "100ms", "5s"] {
            assert_eq!(show_flush(flush_level(text).unwrap()), text);
        }
        for refused in ["sometimes", "0s", "1500us", "61m"] {
            assert!(flush_level(refused).is_err(), "{refused}");
        }
    }
}
