//! What a topic is called and how it behaves.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::name::{NameError, check_name};
use crate::limits;

/// The name of a topic: 1 to 200 of `A–Z a–z 0–9 . _ -`, not beginning with a
/// dot or with two underscores. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

/// Why a name is not one that a topic can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicNameError {
    /// Empty or too long.
    #[error("a topic's name has 1 to {} characters", limits::TOPIC_NAME_BYTES.end())]
    Length,
    /// Something else than letters, digits and `. _ -`.
    #[error("a topic's name has only the characters A-Z a-z 0-9 . _ -")]
    Character,
    /// It begins with a dot or with `__`, which are the broker's own.
    #[error("a topic's name begins neither with a dot nor with two underscores")]
    Reserved,
}

impl TopicName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for TopicName {
    type Error = TopicNameError;

    fn try_from(name: &str) -> Result<TopicName, TopicNameError> {
        match check_name(name, &limits::TOPIC_NAME_BYTES, b"") {
            Ok(()) => Ok(TopicName(name.into())),
            Err(NameError::Length) => Err(TopicNameError::Length),
            Err(NameError::Character) => Err(TopicNameError::Character),
            Err(NameError::Reserved) => Err(TopicNameError::Reserved),
        }
    }
}

impl Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// When an append is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushLevel {
    /// When it is durable. The default.
    Always,
    /// When it is written; made durable at least this often.
    Interval(Duration),
    /// When it is written; the operating system makes it durable.
    Os,
}

/// What happens to old records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleanup {
    /// They are removed by age and size.
    Delete,
}

/// How a topic behaves. Each field lies within the bounds of [`limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicConfig {
    /// Records older than this may go: milliseconds. `None` keeps them.
    pub retention_ms: Option<u64>,
    /// Oldest segments go while a partition is larger: bytes.
    pub retention_bytes: Option<u64>,
    /// What happens to old records.
    pub cleanup: Cleanup,
    /// When an append is acknowledged.
    pub flush: FlushLevel,
    /// Size at which a segment is sealed: bytes.
    pub segment_bytes: u64,
    /// The largest batch that is taken: bytes.
    pub max_batch_bytes: u32,
}

impl Default for TopicConfig {
    fn default() -> TopicConfig {
        TopicConfig {
            retention_ms: Some(limits::DEFAULT_RETENTION_MS),
            retention_bytes: None,
            cleanup: Cleanup::Delete,
            flush: FlushLevel::Always,
            segment_bytes: limits::DEFAULT_SEGMENT_BYTES,
            max_batch_bytes: limits::DEFAULT_MAX_BATCH_BYTES,
        }
    }
}

/// Why a configuration is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is {given}; it must lie within {allowed}")]
pub struct TopicConfigError {
    /// The field's name in the protocol.
    pub setting: &'static str,
    /// What was asked for.
    pub given: u64,
    /// What is possible, for people.
    pub allowed: String,
}

impl TopicConfig {
    /// The configuration itself, if each field lies within its bounds.
    pub fn checked(self) -> Result<TopicConfig, TopicConfigError> {
        let within = |setting, given: u64, low: u64, high: u64| {
            if (low..=high).contains(&given) {
                return Ok(());
            }
            let allowed = format!("{low} to {high}");
            Err(TopicConfigError {
                setting,
                given,
                allowed,
            })
        };
        let bytes = limits::SEGMENT_BYTES;
        within(
            "segment_bytes",
            self.segment_bytes,
            *bytes.start(),
            *bytes.end(),
        )?;
        let bytes = limits::MAX_BATCH_BYTES;
        let (low, high) = (u64::from(*bytes.start()), u64::from(*bytes.end()));
        within(
            "max_batch_bytes",
            u64::from(self.max_batch_bytes),
            low,
            high,
        )?;
        if let FlushLevel::Interval(interval) = self.flush {
            let given = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
            let ms = limits::FLUSH_INTERVAL_MS;
            within(
                "flush.interval_ms",
                given,
                u64::from(*ms.start()),
                u64::from(*ms.end()),
            )?;
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_held_to_the_rules() {
        use TopicNameError::{Character, Length, Reserved};
        let longest = "x".repeat(200);
        for good in ["a", "A-z_0.9", "_one", "a..b", "-", &longest] {
            assert_eq!(
                TopicName::try_from(good).map(|n| n.to_string()).as_deref(),
                Ok(good)
            );
        }
        let too_long = "x".repeat(201);
        let bad = [
            ("", Length),
            (&too_long, Length),
            ("a b", Character),
            ("ä", Character),
            ("a/b", Character),
            ("a\0", Character),
            (".a", Reserved),
            ("..", Reserved),
            ("__groups", Reserved),
        ];
        for (name, error) in bad {
            assert_eq!(TopicName::try_from(name), Err(error), "{name:?}");
        }
    }

    #[test]
    fn a_setting_out_of_bounds_is_named() {
        let config = TopicConfig {
            segment_bytes: 1,
            ..TopicConfig::default()
        };
        let error = config.checked().unwrap_err();
        assert_eq!(error.setting, "segment_bytes");
        assert_eq!(
            error.to_string(),
            "segment_bytes is 1; it must lie within 1048576 to 1073741824"
        );
        let flush = FlushLevel::Interval(Duration::ZERO);
        let config = TopicConfig {
            flush,
            ..TopicConfig::default()
        };
        assert_eq!(config.checked().unwrap_err().setting, "flush.interval_ms");
    }
}
