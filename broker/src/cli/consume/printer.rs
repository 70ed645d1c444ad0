//! Prints the records that `consume` reads.

use std::fmt::Display;
use std::io;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use statecast_client::{Batch, Error, RecordView};

use super::Consume;
use crate::cli::common::{Common, Output};
use crate::cli::failure::Failure;
use crate::cli::format::{Format, Row};
use crate::cli::output::{self, BUFFER, Stop, bytes_json, push_json};

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
            format.write(&Row::of_record(batch, record), &mut self.buffer);
        } else {
            push_json(&record_json(batch, record), &mut self.buffer);
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
        output::flush(&mut self.buffer)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_template_is_valid() {
        let _ = style();
    }
}
