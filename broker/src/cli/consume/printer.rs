//! Prints the records that `consume` reads.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use statecast_client::{Batch, Error, RecordView};

use super::Consume;
use crate::cli::common::{Common, Output};
use crate::cli::failure::Failure;
use crate::cli::format::Format;
use crate::cli::session::unwritable;

/// Printed bytes that are gathered while more records are at hand.
const BUFFER: usize = 256 * 1024;

/// Why printing ended early.
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

pub(super) struct Printer<'a> {
    format: Option<&'a Format>,
    /// Records still to print.
    left: u64,
    buffer: Vec<u8>,
    printed: u64,
    /// Times that records were reported missing.
    missing: u64,
    progress: ProgressBar,
}

impl<'a> Printer<'a> {
    pub(super) fn new(consume: &'a Consume, common: &Common) -> Self {
        let to_terminal = io::IsTerminal::is_terminal(&io::stdout());
        let progress = if common.shows_progress() && !to_terminal {
            ProgressBar::new_spinner().with_style(style())
        } else {
            ProgressBar::hidden()
        };
        Self {
            format: (common.output == Output::Table).then_some(&consume.format),
            left: consume.count.unwrap_or(u64::MAX),
            buffer: Vec::with_capacity(BUFFER + BUFFER / 4),
            printed: 0,
            missing: 0,
            progress,
        }
    }

    /// Whether as many records are printed as were asked for.
    pub(super) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// Prints the records of a batch, as many as are still asked for. Returns
    /// the offset behind the last one.
    pub(super) fn print_batch(&mut self, batch: &Batch) -> Result<u64, Stop> {
        for record in batch.views() {
            match record {
                Ok(record) => {
                    self.print(batch, &record)?;
                    if self.is_done() {
                        return Ok(record.offset + 1);
                    }
                }
                Err(error) => self.missed(&error),
            }
        }
        self.progress.set_position(self.printed);
        Ok(batch.offsets().end)
    }

    /// Whether enough is gathered to be written.
    pub(super) fn is_full(&self) -> bool {
        self.buffer.len() >= BUFFER
    }

    fn print(&mut self, batch: &Batch, record: &RecordView<'_>) -> Result<(), Stop> {
        if let Some(format) = self.format {
            format.write(batch, record, &mut self.buffer);
        } else {
            serde_json::to_writer(&mut self.buffer, &record_json(batch, record))
                .expect("a Vec takes everything");
            self.buffer.push(b'\n');
        }
        self.printed += 1;
        self.left -= 1;
        if self.is_full() {
            self.flush()?;
        }
        Ok(())
    }

    pub(super) fn missed(&mut self, error: &Error) {
        self.missing += 1;
        self.warn(error);
    }

    pub(super) fn warn(&self, what: &dyn Display) {
        self.progress
            .suspend(|| anstream::eprintln!("warning: {what}"));
    }

    /// What was printed but may be incomplete isn't a success.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        self.progress.finish_and_clear();
        match self.missing {
            0 => Ok(()),
            times => Err(Failure::failed(format_args!(
                "records are missing, in {times} places; see the warnings above"
            ))),
        }
    }

    pub(super) fn flush(&mut self) -> Result<(), Stop> {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(&self.buffer).and_then(|()| stdout.flush());
        self.buffer.clear();
        written.map_err(|error| match error.kind() {
            ErrorKind::BrokenPipe => Stop::BrokenPipe,
            _ => Stop::Failure(unwritable(&error)),
        })
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {human_pos} records, {per_sec}")
        .expect("a template that is tested")
}

fn record_json(batch: &Batch, record: &RecordView<'_>) -> Value {
    let headers = record.headers.clone();
    let headers = headers.map(|h| json!({ "name": h.name, "value": bytes_json(h.value) }));
    json!({
        "topic": &**batch.topic(),
        "partition": batch.partition(),
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
        "key": bytes_json(record.key),
        "value": bytes_json(record.value),
        "headers": headers.collect::<Vec<_>>(),
    })
}

/// A string; `{"hex": …}` for what isn't UTF-8; null for what isn't there.
fn bytes_json(bytes: Option<&[u8]>) -> Value {
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
    fn progress_template_is_valid() {
        let _ = style();
    }

    #[test]
    fn absent_empty_and_binary_values_differ_in_json() {
        assert_eq!(bytes_json(None), Value::Null);
        assert_eq!(bytes_json(Some(b"")), json!(""));
        assert_eq!(bytes_json(Some(b"\xff\x00")), json!({ "hex": "ff00" }));
    }
}
