//! Topics and their configuration between the protocol and the broker.

use std::time::Duration;

use statecast_proto::reason::Reason;
use statecast_proto::v1::{self, flush_level::Level};

use super::error::Refusal;
use crate::broker::{Topic, TopicConfigChange};
use crate::model::{Cleanup, FlushLevel};

/// What a request says about a configuration; absent fields change nothing.
pub(super) fn change(config: Option<&v1::TopicConfig>) -> Result<TopicConfigChange, Refusal> {
    let Some(config) = config else {
        return Ok(TopicConfigChange::default());
    };
    let or_never = |bound: u64| (bound != 0).then_some(bound);
    Ok(TopicConfigChange {
        retention_ms: config.retention_ms.map(or_never),
        retention_bytes: config.retention_bytes.map(or_never),
        cleanup: cleanup(config.cleanup)?,
        tombstone_grace_ms: config.tombstone_grace_ms,
        flush: config.flush.map(flush).transpose()?,
        segment_bytes: config.segment_bytes,
        max_batch_bytes: config.max_batch_bytes,
    })
}

fn cleanup(cleanup: i32) -> Result<Option<Cleanup>, Refusal> {
    match v1::Cleanup::try_from(cleanup) {
        Ok(v1::Cleanup::Unspecified) => Ok(None),
        Ok(v1::Cleanup::Delete) => Ok(Some(Cleanup::Delete)),
        Ok(v1::Cleanup::Compact) => Ok(Some(Cleanup::Compact)),
        Ok(v1::Cleanup::CompactDelete) => Ok(Some(Cleanup::CompactDelete)),
        Err(_) => Err(invalid(
            "cleanup",
            "this broker doesn't know that cleanup",
            "delete; compact; compact,delete",
        )),
    }
}

fn flush(flush: v1::FlushLevel) -> Result<FlushLevel, Refusal> {
    match flush.level {
        Some(Level::Always(_)) => Ok(FlushLevel::Always),
        Some(Level::IntervalMs(ms)) => Ok(FlushLevel::Interval(Duration::from_millis(ms.into()))),
        Some(Level::Os(_)) => Ok(FlushLevel::Os),
        None => Err(invalid(
            "flush",
            "this broker doesn't know that flush level",
            "always, interval_ms, os",
        )),
    }
}

fn invalid(setting: &str, message: &str, allowed: &str) -> Refusal {
    Refusal::new(Reason::InvalidConfig, message)
        .with("setting", setting)
        .with("allowed", allowed)
}

/// A topic as responses show it.
pub(super) fn describe(topic: &Topic) -> v1::Topic {
    let meta = topic.meta();
    let config = &meta.config;
    let level = match config.flush {
        FlushLevel::Always => Level::Always(v1::FlushAlways {}),
        FlushLevel::Interval(every) => {
            Level::IntervalMs(u32::try_from(every.as_millis()).unwrap_or(u32::MAX))
        }
        FlushLevel::Os => Level::Os(v1::FlushOs {}),
    };
    let cleanup = match config.cleanup {
        Cleanup::Delete => v1::Cleanup::Delete,
        Cleanup::Compact => v1::Cleanup::Compact,
        Cleanup::CompactDelete => v1::Cleanup::CompactDelete,
    };
    v1::Topic {
        name: meta.name.to_string(),
        partitions: topic.partition_count(),
        config: Some(v1::TopicConfig {
            retention_ms: Some(config.retention_ms.unwrap_or(0)),
            retention_bytes: Some(config.retention_bytes.unwrap_or(0)),
            cleanup: cleanup.into(),
            flush: Some(v1::FlushLevel { level: Some(level) }),
            segment_bytes: Some(config.segment_bytes),
            max_batch_bytes: Some(config.max_batch_bytes),
            tombstone_grace_ms: config.tombstone_grace_ms,
        }),
        created_ms: meta.created_ms,
    }
}
