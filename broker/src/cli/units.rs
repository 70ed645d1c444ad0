//! The units that people write: `7d`, `10GiB`, `forever`, `100ms`.

use std::time::Duration;

use bytesize::ByteSize;
use statecast_client::{FlushLevel, Retention};

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

/// A duration or `forever`.
pub(super) fn retention(text: &str) -> Result<Retention<Duration>, String> {
    match text {
        "forever" => Ok(Retention::Forever),
        text => duration(text).map(Retention::Limit),
    }
}

/// A size or `forever`.
pub(super) fn retention_bytes(text: &str) -> Result<Retention<u64>, String> {
    match text {
        "forever" => Ok(Retention::Forever),
        text => size(text).map(Retention::Limit),
    }
}

/// `always`, `os`, or how often.
pub(super) fn flush_level(text: &str) -> Result<FlushLevel, String> {
    match text {
        "always" => Ok(FlushLevel::Always),
        "os" => Ok(FlushLevel::Os),
        text => match humantime::parse_duration(text) {
            Ok(interval) => Ok(FlushLevel::Interval(interval)),
            Err(_) => Err(format!(
                "{text:?} is none of always, os, or a time such as 100ms"
            )),
        },
    }
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
    fn flush_levels_read_as_they_are_shown() {
        for text in ["always", "os", "100ms", "5s"] {
            assert_eq!(show_flush(flush_level(text).unwrap()), text);
        }
        assert!(flush_level("sometimes").is_err());
    }
}
