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
    /// The latest record of each key is kept, older ones are removed.
    Compact,
    /// As [`Cleanup::Compact`], and records are removed by age and size as well.
    CompactDelete,
}

impl Cleanup {
    /// Whether only the latest record of each key is kept: every record then has a key.
    pub fn compacts(self) -> bool {
        match self {
            Cleanup::Delete => false,
            Cleanup::Compact | Cleanup::CompactDelete => true,
        }
    }

    /// Whether records are removed by age and size.
    pub fn deletes(self) -> bool {
        match self {
            Cleanup::Compact => false,
            Cleanup::Delete | Cleanup::CompactDelete => true,
        }
    }
}

impl fmt::Display for Cleanup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cleanup::Delete => "delete",
            Cleanup::Compact => "compact",
            Cleanup::CompactDelete => "compact,delete",
        })
    }
}

/// How a topic behaves. Once checked, each field lies within the bounds of [`limits`]
/// and goes with `cleanup`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicConfig {
    /// Records older than this may go: milliseconds. `None` keeps them. Only where
    /// records are deleted.
    pub retention_ms: Option<u64>,
    /// Oldest segments go while a partition is larger: bytes. Only where records are
    /// deleted.
    pub retention_bytes: Option<u64>,
    /// What happens to old records.
    pub cleanup: Cleanup,
    /// How long a tombstone stays after what it removed is gone: milliseconds. There
    /// where the topic is compacted, and only there.
    pub tombstone_grace_ms: Option<u64>,
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
            tombstone_grace_ms: None,
            flush: FlushLevel::Always,
            segment_bytes: limits::DEFAULT_SEGMENT_BYTES,
            max_batch_bytes: limits::DEFAULT_MAX_BATCH_BYTES,
        }
    }
}

/// Why a configuration is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicConfigError {
    /// A field is out of bounds.
    #[error("{setting} is {given}; it must lie within {allowed}")]
    OutOfBounds {
        /// The field's name in the protocol.
        setting: &'static str,
        /// What was asked for.
        given: u64,
        /// What is possible, for people.
        allowed: String,
    },
    /// A field that says nothing about a topic with this cleanup.
    #[error("{setting} can't be set in a topic with cleanup {cleanup}")]
    NotWithCleanup {
        /// The field's name in the protocol.
        setting: &'static str,
        /// What is to happen to old records.
        cleanup: Cleanup,
    },
    /// It would be compacted, or not any more: what is in it isn't made for that.
    #[error("a topic with cleanup {now} can't become one with cleanup {asked}")]
    OtherCleanup {
        /// What happens to old records now.
        now: Cleanup,
        /// What was asked for.
        asked: Cleanup,
    },
}

impl TopicConfigError {
    /// The field's name in the protocol.
    pub fn setting(&self) -> &'static str {
        match self {
            TopicConfigError::OutOfBounds { setting, .. }
            | TopicConfigError::NotWithCleanup { setting, .. } => setting,
            TopicConfigError::OtherCleanup { .. } => "cleanup",
        }
    }

    /// What the field could be, for people.
    pub fn allowed(&self) -> &str {
        match self {
            TopicConfigError::OutOfBounds { allowed, .. } => allowed,
            TopicConfigError::NotWithCleanup { .. } => "none",
            TopicConfigError::OtherCleanup { now, .. } if now.compacts() => {
                "compact; compact,delete"
            }
            TopicConfigError::OtherCleanup { .. } => "delete",
        }
    }
}

impl TopicConfig {
    /// The configuration itself with all that goes with it, if each field lies within
    /// its bounds and none contradicts another.
    pub fn checked(mut self) -> Result<TopicConfig, TopicConfigError> {
        self.check_bounds()?;
        let not_with_cleanup = |setting| {
            let cleanup = self.cleanup;
            Err(TopicConfigError::NotWithCleanup { setting, cleanup })
        };
        if !self.cleanup.deletes() && self.retention_ms.is_some() {
            return not_with_cleanup("retention_ms");
        }
        if !self.cleanup.deletes() && self.retention_bytes.is_some() {
            return not_with_cleanup("retention_bytes");
        }
        if self.cleanup.compacts() {
            self.tombstone_grace_ms
                .get_or_insert(limits::DEFAULT_TOMBSTONE_GRACE_MS);
        } else if self.tombstone_grace_ms.is_some() {
            return not_with_cleanup("tombstone_grace_ms");
        }
        Ok(self)
    }

    /// Whether a topic that is like this can become one like `asked`: records without
    /// a key, or with the same key in several partitions, don't go away by compacting
    /// it, and those who rely on a key's latest record would lose it by no longer doing so.
    pub fn check_change(&self, asked: &TopicConfig) -> Result<(), TopicConfigError> {
        let (now, asked) = (self.cleanup, asked.cleanup);
        if now.compacts() == asked.compacts() {
            return Ok(());
        }
        Err(TopicConfigError::OtherCleanup { now, asked })
    }

    fn check_bounds(&self) -> Result<(), TopicConfigError> {
        let within = |setting, given: u64, low: u64, high: u64| {
            if (low..=high).contains(&given) {
                return Ok(());
            }
            let allowed = format!("{low} to {high}");
            Err(TopicConfigError::OutOfBounds {
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
        Ok(())
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
        assert_eq!(error.setting(), "segment_bytes");
        assert_eq!(
            error.to_string(),
            "segment_bytes is 1; it must lie within 1048576 to 1073741824"
        );
        let flush = FlushLevel::Interval(Duration::ZERO);
        let config = TopicConfig {
            flush,
            ..TopicConfig::default()
        };
        assert_eq!(config.checked().unwrap_err().setting(), "flush.interval_ms");
    }

    #[test]
    fn settings_go_with_the_cleanup() {
        use Cleanup::{Compact, CompactDelete, Delete};
        let like = |cleanup, retention_ms, retention_bytes, tombstone_grace_ms| TopicConfig {
            retention_ms,
            retention_bytes,
            cleanup,
            tombstone_grace_ms,
            ..TopicConfig::default()
        };
        let day = Some(86_400_000);
        for (config, grace) in [
            (like(Delete, Some(1), Some(1), None), None),
            (like(Compact, None, None, None), day),
            (like(Compact, None, None, Some(0)), Some(0)),
            (like(CompactDelete, Some(1), Some(1), None), day),
            (like(CompactDelete, None, None, Some(7)), Some(7)),
        ] {
            assert_eq!(config.checked().unwrap().tombstone_grace_ms, grace);
        }
        for (config, setting) in [
            (like(Compact, Some(1), None, None), "retention_ms"),
            (like(Compact, None, Some(1), None), "retention_bytes"),
            (like(Delete, None, None, Some(1)), "tombstone_grace_ms"),
        ] {
            assert_eq!(config.checked().unwrap_err().setting(), setting);
        }
    }

    #[test]
    fn a_topic_stays_compacted_or_not() {
        use Cleanup::{Compact, CompactDelete, Delete};
        let change = |now, asked| {
            let with = |cleanup| TopicConfig {
                cleanup,
                ..TopicConfig::default()
            };
            with(now).check_change(&with(asked))
        };
        assert_eq!(change(Delete, Delete), Ok(()));
        assert_eq!(change(Compact, CompactDelete), Ok(()));
        assert_eq!(change(CompactDelete, Compact), Ok(()));
        for (now, asked) in [(Delete, Compact), (CompactDelete, Delete)] {
            let error = TopicConfigError::OtherCleanup { now, asked };
            assert_eq!(change(now, asked), Err(error));
        }
    }
}
