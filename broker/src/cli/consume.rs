//! `statecast consume`.

use std::io::{self, ErrorKind, Write};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use statecast_client::{Batch, Error, Event, Reader, RecordView};

use super::common::{Common, Output};
use super::failure::Failure;
use super::format::Format;
use super::pipe::readers_gone;
use super::session::{block_on, unwritable};
use super::signals::stop_requested;
use super::start::From;
use crate::clock::Clock;

/// Printed bytes that are gathered while more records are at hand.
const BUFFER: usize = 256 * 1024;

/// Print the records of a topic.
///
/// Waits for new records, unless --until-end or --count says when to stop.
#[derive(Debug, Args)]
pub(super) struct Consume {
    /// The topic.
    topic: String,
    /// Where to start: earliest, latest, an offset, @MILLISECONDS since 1970, a
    /// time before now such as -1h, or an RFC 3339 time.
    #[arg(
        long,
        value_name = "START",
        value_parser = From::parse,
        default_value = "earliest",
        allow_hyphen_values = true
    )]
    from: From,
    /// Stop after the records that are there now.
    #[arg(long)]
    until_end: bool,
    /// Stop after this many records.
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,
    /// Only this partition; may be given several times [default: all]
    #[arg(short, long, value_name = "N")]
    partition: Vec<u32>,
    /// How to print a record: %T topic, %p partition, %o offset, %t timestamp in
    /// ms, %k key, %v value, %h headers; \t \n \\ %%.
    #[arg(
        short,
        long,
        value_name = "FORMAT",
        value_parser = Format::parse,
        default_value = "%v\\n"
    )]
    format: Format,
}

impl Consume {
    pub(super) fn run(self, common: &Common) -> Result<(), Failure> {
        block_on(async {
            let client = common.connect().await?;
            let mut reader = client
                .reader(&self.topic)
                .start(self.from.resolve(now_ms()));
            for partition in &self.partition {
                reader = reader.partition(*partition);
            }
            if self.until_end {
                reader = reader.until_end();
            }
            let mut reader = reader.open().await?;
            let mut printer = Printer::new(&self, common);
            let stop = stop_requested()?;
            let outcome = tokio::select! {
                outcome = printer.print_all(&mut reader) => outcome,
                // Whoever stops it has seen enough; what is there is printed.
                () = stop => Ok(()),
                () = readers_gone() => Err(Stop::BrokenPipe),
            };
            match outcome.and_then(|()| printer.flush()) {
                Err(Stop::BrokenPipe) | Ok(()) => printer.verdict(),
                Err(Stop::Failure(failure)) => Err(failure),
            }
        })
    }
}

/// Why printing ended early.
enum Stop {
    /// Whoever read our output has seen enough, as `head` does.
    BrokenPipe,
    Failure(Failure),
}

struct Printer<'a> {
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
    fn new(consume: &'a Consume, common: &Common) -> Self {
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

    async fn print_all(&mut self, reader: &mut Reader) -> Result<(), Stop> {
        // The reader is open even so: what doesn't exist was refused.
        if self.left == 0 {
            return Ok(());
        }
        while let Some(event) = reader.next_event().await {
            match event {
                Ok(Event::Batch(batch)) => {
                    for record in batch.views() {
                        match record {
                            Ok(record) => self.print(&batch, &record)?,
                            Err(error) => self.missed(&error),
                        }
                        if self.left == 0 {
                            return Ok(());
                        }
                    }
                    self.progress.set_position(self.printed);
                }
                Ok(_) => self.flush()?,
                Err(
                    error @ (Error::Truncated { .. }
                    | Error::Quarantined { .. }
                    | Error::DamagedBatch { .. }),
                ) => self.missed(&error),
                Err(error) => {
                    self.flush()?;
                    return Err(Stop::Failure(error.into()));
                }
            }
        }
        Ok(())
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
        if self.buffer.len() >= BUFFER {
            self.flush()?;
        }
        Ok(())
    }

    fn missed(&mut self, error: &Error) {
        self.missing += 1;
        self.progress
            .suspend(|| anstream::eprintln!("warning: {error}"));
    }

    /// What was printed but may be incomplete isn't a success.
    fn verdict(&self) -> Result<(), Failure> {
        self.progress.finish_and_clear();
        match self.missing {
            0 => Ok(()),
            times => Err(Failure::failed(format_args!(
                "records are missing, in {times} places; see the warnings above"
            ))),
        }
    }

    fn flush(&mut self) -> Result<(), Stop> {
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

fn now_ms() -> i64 {
    Clock::system().now_ms()
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
