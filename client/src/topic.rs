//! What a topic is: its configuration, its partitions and their ranges.

use std::ops::Range;
use std::time::Duration;

use statecast_proto::v1;

use crate::error::Error;

/// When an append to a topic is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FlushLevel {
    /// When fdatasync has returned: it survives a power cut.
    #[default]
    Always,
    /// When it is written; it becomes durable at least this often, in whole
    /// milliseconds from 1 ms to 1 h. A power cut loses at most that much.
    Interval(Duration),
    /// When it is written; the operating system makes it durable when it
    /// likes. It survives the end of the broker, not of the machine.
    Os,
}

/// How long, or how much, is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention<T> {
    /// Without a bound.
    Forever,
    /// Up to this.
    Limit(T),
}

/// What happens to old records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Cleanup {
    /// They are removed by age and size, as the retention says.
    #[default]
    Delete,
    /// The latest record of each key is kept; older ones are removed in the
    /// background, and tombstones a while later. Every record needs a key.
    Compact,
    /// As [`Cleanup::Compact`], and records are removed by age and size as well.
    CompactDelete,
}

/// The configuration of a topic, as far as it is to be set. What is `None` has
/// the broker's default in a new topic, and stays as it is in an altered one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TopicConfig {
    /// Records older than this may be removed. Not with [`Cleanup::Compact`].
    /// Broker's default: 7 days.
    pub retention: Option<Retention<Duration>>,
    /// The oldest segments go while a partition is larger: bytes. Not with
    /// [`Cleanup::Compact`]. Broker's default: no bound.
    pub retention_bytes: Option<Retention<u64>>,
    /// What happens to old records. A topic stays compacted, or not, for good.
    /// Broker's default: they are deleted.
    pub cleanup: Option<Cleanup>,
    /// How long a tombstone stays after what it removed is gone, in whole
    /// milliseconds, for readers that had read that. Only in compacted topics.
    /// Broker's default: 1 day.
    pub tombstone_grace: Option<Duration>,
    /// When an append is acknowledged. Broker's default: always.
    pub flush: Option<FlushLevel>,
    /// Size at which a segment is sealed: bytes, 1 MiB to 1 GiB. Broker's
    /// default: 128 MiB.
    pub segment_bytes: Option<u64>,
    /// The largest batch that is taken: bytes, 1 KiB to 8 MiB. Broker's
    /// default: 4 MiB.
    pub max_batch_bytes: Option<u32>,
}

impl TopicConfig {
    /// Nothing set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how long records are kept.
    pub fn retention(mut self, retention: Retention<Duration>) -> Self {
        self.retention = Some(retention);
        self
    }

    /// Sets how many bytes of a partition are kept.
    pub fn retention_bytes(mut self, retention: Retention<u64>) -> Self {
        self.retention_bytes = Some(retention);
        self
    }

    /// Sets what happens to old records.
    pub fn cleanup(mut self, cleanup: Cleanup) -> Self {
        self.cleanup = Some(cleanup);
        self
    }

    /// Sets how long a tombstone stays after what it removed is gone.
    pub fn tombstone_grace(mut self, grace: Duration) -> Self {
        self.tombstone_grace = Some(grace);
        self
    }

    /// Sets when an append is acknowledged.
    pub fn flush(mut self, level: FlushLevel) -> Self {
        self.flush = Some(level);
        self
    }

    /// Sets the size of a segment: bytes.
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = Some(bytes);
        self
    }

    /// Sets the size of the largest batch: bytes.
    pub fn max_batch_bytes(mut self, bytes: u32) -> Self {
        self.max_batch_bytes = Some(bytes);
        self
    }

    pub(crate) fn into_wire(self) -> Result<v1::TopicConfig, Error> {
        Ok(v1::TopicConfig {
            retention_ms: self.retention.map(retention_ms).transpose()?,
            retention_bytes: self.retention_bytes.map(|bytes| match bytes {
                Retention::Forever => 0,
                Retention::Limit(bytes) => bytes,
            }),
            cleanup: match self.cleanup {
                None => v1::Cleanup::Unspecified,
                Some(Cleanup::Delete) => v1::Cleanup::Delete,
                Some(Cleanup::Compact) => v1::Cleanup::Compact,
                Some(Cleanup::CompactDelete) => v1::Cleanup::CompactDelete,
            }
            .into(),
            tombstone_grace_ms: self.tombstone_grace.map(tombstone_grace_ms).transpose()?,
            flush: self.flush.map(flush_level).transpose()?,
            segment_bytes: self.segment_bytes,
            max_batch_bytes: self.max_batch_bytes,
        })
    }

    fn from_wire(config: &v1::TopicConfig) -> Self {
        Self {
            retention: config.retention_ms.map(|ms| match ms {
                0 => Retention::Forever,
                ms => Retention::Limit(Duration::from_millis(ms)),
            }),
            retention_bytes: config.retention_bytes.map(|bytes| match bytes {
                0 => Retention::Forever,
                bytes => Retention::Limit(bytes),
            }),
            cleanup: match config.cleanup() {
                v1::Cleanup::Unspecified => None,
                v1::Cleanup::Delete => Some(Cleanup::Delete),
                v1::Cleanup::Compact => Some(Cleanup::Compact),
                v1::Cleanup::CompactDelete => Some(Cleanup::CompactDelete),
            },
            tombstone_grace: config.tombstone_grace_ms.map(Duration::from_millis),
            flush: config
                .flush
                .as_ref()
                .and_then(|f| f.level)
                .map(|level| match level {
                    v1::flush_level::Level::Always(_) => FlushLevel::Always,
                    v1::flush_level::Level::IntervalMs(ms) => {
                        FlushLevel::Interval(Duration::from_millis(ms.into()))
                    }
                    v1::flush_level::Level::Os(_) => FlushLevel::Os,
                }),
            segment_bytes: config.segment_bytes,
            max_batch_bytes: config.max_batch_bytes,
        }
    }
}

/// On the wire 0 stands for ever, so a limit of 0 can't be said.
fn retention_ms(retention: Retention<Duration>) -> Result<u64, Error> {
    match retention {
        Retention::Forever => Ok(0),
        Retention::Limit(time) => match u64::try_from(time.as_millis()) {
            Ok(0) => Err(Error::invalid("a retention must be at least 1 ms")),
            Ok(ms) => Ok(ms),
            Err(_) => Err(Error::invalid("the retention is too long")),
        },
    }
}

fn tombstone_grace_ms(grace: Duration) -> Result<u64, Error> {
    u64::try_from(grace.as_millis()).map_err(|_| Error::invalid("the tombstone grace is too long"))
}

fn flush_level(level: FlushLevel) -> Result<v1::FlushLevel, Error> {
    let level = match level {
        FlushLevel::Always => v1::flush_level::Level::Always(v1::FlushAlways {}),
        FlushLevel::Os => v1::flush_level::Level::Os(v1::FlushOs {}),
        FlushLevel::Interval(interval) => match u32::try_from(interval.as_millis()) {
            Ok(ms @ 1..) => v1::flush_level::Level::IntervalMs(ms),
            _ => return Err(Error::invalid("a flush interval lies between 1 ms and 1 h")),
        },
    };
    Ok(v1::FlushLevel { level: Some(level) })
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Number of partitions.
    pub partitions: u32,
    /// Its configuration; every field is set, but those that don't go with its cleanup.
    pub config: TopicConfig,
    /// When it was created: milliseconds since the Unix epoch.
    pub created_ms: i64,
}

impl Topic {
    pub(crate) fn from_wire(topic: Option<v1::Topic>) -> Result<Self, Error> {
        let topic = topic.ok_or_else(|| Error::protocol("the answer holds no topic"))?;
        Ok(Self {
            config: TopicConfig::from_wire(&topic.config.unwrap_or_default()),
            name: topic.name,
            partitions: topic.partitions,
            created_ms: topic.created_ms,
        })
    }
}

/// A topic with the state of its partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicDescription {
    /// The topic.
    pub topic: Topic,
    /// Its partitions, in the order of their numbers.
    pub partitions: Vec<PartitionDescription>,
}

/// The state of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionDescription {
    /// Its number, from 0.
    pub partition: u32,
    /// Offset of the oldest record that is kept.
    pub log_start_offset: u64,
    /// One past the last record that is readable.
    pub high_watermark: u64,
    /// Bytes in segments; what is still only in the journal is not counted.
    pub segment_bytes: u64,
    /// Offsets that were found damaged on disk, as far as known.
    pub quarantined: Vec<Range<u64>>,
}

impl PartitionDescription {
    pub(crate) fn from_wire(partition: &v1::PartitionDescription) -> Self {
        let ranges = partition.quarantined.iter();
        Self {
            partition: partition.partition,
            log_start_offset: partition.log_start_offset,
            high_watermark: partition.high_watermark,
            segment_bytes: partition.segment_bytes,
            quarantined: ranges.map(|r| r.from_offset..r.to_offset).collect(),
        }
    }
}

/// The offsets that a partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionOffsets {
    /// Its number, from 0.
    pub partition: u32,
    /// Offset of the oldest record that is kept.
    pub log_start_offset: u64,
    /// One past the last record that is readable.
    pub high_watermark: u64,
    /// Offset of the first record at or after the time that was asked for.
    /// `None` when no time was asked for, or no record is that young.
    pub offset_at_time: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_survives_the_wire() {
        let config = TopicConfig::new()
            .retention(Retention::Limit(Duration::from_secs(7)))
            .retention_bytes(Retention::Forever)
            .tombstone_grace(Duration::from_millis(1500))
            .flush(FlushLevel::Interval(Duration::from_millis(100)))
            .segment_bytes(1 << 20)
            .max_batch_bytes(1 << 16);
        for cleanup in [Cleanup::Delete, Cleanup::Compact, Cleanup::CompactDelete] {
            let config = config.clone().cleanup(cleanup);
            let wire = config.clone().into_wire().unwrap();
            assert_eq!(TopicConfig::from_wire(&wire), config);
        }
    }

    #[test]
    fn nothing_set_stays_nothing() {
        let wire = TopicConfig::new().into_wire().unwrap();
        assert_eq!(wire, v1::TopicConfig::default());
    }

    #[test]
    fn durations_that_have_no_wire_form_are_refused() {
        let zero = TopicConfig::new().retention(Retention::Limit(Duration::ZERO));
        assert!(matches!(zero.into_wire(), Err(Error::InvalidInput(_))));
        let tiny = TopicConfig::new().flush(FlushLevel::Interval(Duration::from_micros(10)));
        assert!(matches!(tiny.into_wire(), Err(Error::InvalidInput(_))));
    }
}
