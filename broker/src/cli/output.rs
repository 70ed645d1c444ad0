//! What verbs that print many things share: how they end, and how bytes look.

use std::io::{self, ErrorKind, Write};

use serde_json::{Value, json};
use statecast_client::Error;

use super::failure::Failure;
use super::session::unwritable;

/// Printed bytes that are gathered while more is at hand.
pub(super) const BUFFER: usize = 256 * 1024;

/// Why printing ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// By a signal.
    Interrupted,
    /// Whoever read our output has seen enough, as `head` does.
    BrokenPipe,
    Failure(Failure),
}

/// How printing ended.
pub(super) trait Ending {
    /// Writes what is there, also when it was interrupted; and fails if that does.
    fn in_order(self, write: impl FnOnce() -> Result<(), Stop>) -> Result<(), Stop>;
}

impl Ending for Result<(), Stop> {
    fn in_order(self, write: impl FnOnce() -> Result<(), Stop>) -> Result<(), Stop> {
        match self {
            Ok(()) => write(),
            Err(Stop::Interrupted) => write().and(Err(Stop::Interrupted)),
            failed => failed,
        }
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failure(error.into())
    }
}

/// Writes what was gathered to standard output.
pub(super) fn flush(buffer: &mut Vec<u8>) -> Result<(), Stop> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(buffer).and_then(|()| stdout.flush());
    buffer.clear();
    written.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Stop::BrokenPipe,
        _ => Stop::Failure(unwritable(&error)),
    })
}

/// Adds a line of JSON.
pub(super) fn push_json(value: &Value, buffer: &mut Vec<u8>) {
    serde_json::to_writer(&mut *buffer, value).expect("a Vec takes everything");
    buffer.push(b'\n');
}

/// A string; `{"hex": …}` for what isn't UTF-8; null for what isn't there.
pub(super) fn bytes_json(bytes: Option<&[u8]>) -> Value {
    let Some(bytes) = bytes else {
        return Value::Null;
    };
    if let Ok(text) = std::str::from_utf8(bytes) {
        return json!(text);
    }
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).expect("a nibble");
    let hex: String = bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect();
    json!({ "hex": hex })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_empty_and_binary_values_differ_in_json() {
        assert_eq!(bytes_json(None), Value::Null);
        assert_eq!(bytes_json(Some(b"")), json!(""));
        assert_eq!(bytes_json(Some(b"\xff\x00")), json!({ "hex": "ff00" }));
    }
}
