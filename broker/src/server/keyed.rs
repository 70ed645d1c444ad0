//! What `Produce` and `State` ask alike of keys, of conditions and of the names of
//! requests.

use statecast_proto::reason::Reason;

use super::error::Refusal;
use crate::broker::{Condition, WriteError};
use crate::limits;

/// Refuses the name of a request that is too short or too long.
pub(super) fn check_request_id(id: Option<&str>) -> Result<(), Refusal> {
    match id {
        Some(id) if !limits::REQUEST_ID_BYTES.contains(&id.len()) => {
            let (len, most) = (id.len(), limits::REQUEST_ID_BYTES.end());
            let message = format_args!("request_id has {len} bytes; it has 1 to {most}");
            Err(Refusal::invalid(message).beyond(len, most))
        }
        _ => Ok(()),
    }
}

/// Refuses a key that is too long to be one.
pub(super) fn check_key(key: &[u8]) -> Result<(), Refusal> {
    let limit = limits::KEY_BYTES;
    match key.len() {
        0 => Err(Refusal::new(
            Reason::KeyRequired,
            "a key has at least one byte",
        )),
        len if len > limit => {
            let message = format_args!("the key has {len} bytes, {limit} are the most");
            Err(Refusal::new(Reason::KeyTooLarge, message).beyond(len, limit))
        }
        _ => Ok(()),
    }
}

/// Refuses a prefix that is too long for any key to begin with.
pub(super) fn check_prefix(prefix: &[u8]) -> Result<(), Refusal> {
    let (len, limit) = (prefix.len(), limits::KEY_BYTES);
    if len <= limit {
        return Ok(());
    }
    let message = format_args!("the prefix has {len} bytes, {limit} are the most");
    Err(Refusal::new(Reason::KeyTooLarge, message).beyond(len, limit))
}

/// Names the key that a condition was about.
pub(super) fn refusal(error: WriteError, topic: &str, conditions: &[Condition]) -> Refusal {
    let index = match error {
        WriteError::Mismatch { index, .. } | WriteError::UnknownVersion { index, .. } => {
            Some(index)
        }
        WriteError::View(_) | WriteError::Produce(_) => None,
    };
    let refusal = Refusal::from(error);
    match index.and_then(|index| conditions.get(index)) {
        Some(condition) => refusal
            .about(topic, condition.partition)
            .with("key", String::from_utf8_lossy(&condition.key))
            .with("index", condition.place),
        None => refusal.with("topic", topic),
    }
}
