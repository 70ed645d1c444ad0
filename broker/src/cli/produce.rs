//! `statecast produce`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use statecast_client::{Compression, Delivery, Producer, RecordRef};

use super::common::{Common, Output};
use super::escapes::unescape;
use super::failure::Failure;
use super::lines::Lines;
use super::session::block_on;
use super::signals::stop_requested;
use super::units;
use crate::clock;

/// Records on their way; beyond that, the oldest is awaited.
const WINDOW: usize = 16 * 1024;

/// Send a record for each line of standard input.
///
/// Ends with exit code 0 only when every record was acknowledged. It stops at
/// the first record that the broker refuses, at the first line without the
/// delimiter, and when it is interrupted; what was sent before stays.
#[derive(Debug, Args)]
pub(super) struct Produce {
    /// The topic.
    topic: String,
    /// The partition [default: by key]
    #[arg(short, long, value_name = "N")]
    partition: Option<u32>,
    /// What divides key and value of each line, such as ':' or '\t'.
    #[arg(short, long, value_name = "TEXT", value_parser = delimiter)]
    key_delimiter: Option<Delimiter>,
    /// A key with nothing behind its delimiter becomes a tombstone instead of an
    /// empty value.
    #[arg(long, requires = "key_delimiter")]
    empty_value_is_tombstone: bool,
    /// How batches are compressed.
    #[arg(short, long, value_enum, default_value_t = Codec::None)]
    compression: Codec,
    /// At most so many records a second.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Read this file instead of standard input.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// How long a record may take to be acknowledged.
    #[arg(long, value_name = "TIME", value_parser = units::timeout, default_value = "30s")]
    timeout: Duration,
}

/// How batches are compressed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Codec {
    /// Not at all.
    None,
    /// Fast.
    Lz4,
    /// Small.
    Zstd,
}

impl From<Codec> for Compression {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::None => Compression::None,
            Codec::Lz4 => Compression::Lz4,
            Codec::Zstd => Compression::Zstd,
        }
    }
}

#[derive(Debug, Clone)]
struct Delimiter(Vec<u8>);

fn delimiter(text: &str) -> Result<Delimiter, String> {
    match unescape(text)? {
        bytes if bytes.is_empty() => Err("a delimiter has at least one character".to_owned()),
        bytes => Ok(Delimiter(bytes)),
    }
}

/// Why sending ended without a failure.
enum Ended {
    AllSent,
    Interrupted,
}

impl Produce {
    pub(super) fn run(self, common: &Common) -> Result<(), Failure> {
        block_on(async {
            let client = common.connect().await?;
            // Without a line to send, nobody else would ask for the topic.
            client.admin().describe_topic(&self.topic).await?;
            let (input, progress) = self.open(common)?;
            let producer = client
                .producer_builder()
                .compression(self.compression.into())
                .delivery_timeout(self.timeout)
                .build();
            let mut sending = Sending::new(&self, producer, progress);
            let stop = stop_requested()?;
            let sent = tokio::select! {
                sent = sending.send_all(Lines::read(input)) => sent.map(|()| Ended::AllSent),
                () = stop => Ok(Ended::Interrupted),
            };
            // What was sent before a failure is still accounted for.
            let acked = sending.finish().await;
            sending.summarize(common);
            match (sent?, acked?) {
                (Ended::AllSent, ()) => Ok(()),
                (Ended::Interrupted, ()) => {
                    Err(Failure::failed("interrupted before the end of the input"))
                }
            }
        })
    }

    fn open(&self, common: &Common) -> Result<(Box<dyn Read + Send>, ProgressBar), Failure> {
        let Some(path) = &self.file else {
            let bar = progress(common, "{spinner} {bytes}, {bytes_per_sec}", None);
            return Ok((Box::new(io::stdin()), bar));
        };
        let file = File::open(path).map_err(|error| self.unreadable(&error))?;
        let metadata = file.metadata().map_err(|error| self.unreadable(&error))?;
        let template = "{wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
        Ok((
            Box::new(file),
            progress(common, template, Some(metadata.len())),
        ))
    }

    fn unreadable(&self, error: &io::Error) -> Failure {
        let name = match &self.file {
            Some(path) => path.display().to_string(),
            None => String::from("standard input"),
        };
        Failure::failed(format_args!("can't read {name}: {error}"))
    }

    fn record<'a>(&self, number: u64, line: &'a [u8]) -> Result<RecordRef<'a>, Failure> {
        let Some(Delimiter(delimiter)) = &self.key_delimiter else {
            return Ok(RecordRef::of_value(line));
        };
        let Some(at) = find(line, delimiter) else {
            return Err(Failure::failed(format_args!(
                "line {number} has no delimiter {:?}; the lines before it were sent",
                String::from_utf8_lossy(delimiter)
            )));
        };
        let (key, value) = (&line[..at], &line[at + delimiter.len()..]);
        if value.is_empty() && self.empty_value_is_tombstone {
            return Ok(RecordRef::tombstone(key));
        }
        Ok(RecordRef::new(key, value))
    }
}

struct Sending<'a> {
    verb: &'a Produce,
    producer: Producer,
    progress: ProgressBar,
    on_their_way: VecDeque<Delivery>,
    started: Instant,
    sent: u64,
    acked: u64,
    bytes: u64,
}

impl<'a> Sending<'a> {
    fn new(verb: &'a Produce, producer: Producer, progress: ProgressBar) -> Self {
        Self {
            verb,
            producer,
            progress,
            on_their_way: VecDeque::with_capacity(WINDOW + 1),
            started: clock::instant(),
            sent: 0,
            acked: 0,
            bytes: 0,
        }
    }

    async fn send_all(&mut self, mut lines: Lines) -> Result<(), Failure> {
        let verb = self.verb;
        let unreadable = |error| verb.unreadable(&error);
        while let Some(line) = lines.next().await.map_err(unreadable)? {
            self.keep_pace().await;
            self.send(&line).await?;
            if self.on_their_way.len() > WINDOW {
                self.await_oldest().await?;
            }
        }
        Ok(())
    }

    async fn send(&mut self, line: &Bytes) -> Result<(), Failure> {
        let record = self.verb.record(self.sent + 1, line)?;
        let topic = &self.verb.topic;
        let sent = match self.verb.partition {
            Some(partition) => self.producer.send_to(topic, partition, &record).await,
            None => self.producer.send(topic, &record).await,
        };
        self.on_their_way.push_back(sent?);
        self.sent += 1;
        self.bytes += line.len() as u64;
        if self.sent.is_multiple_of(1024) {
            self.progress.set_position(self.bytes);
        }
        Ok(())
    }

    /// Waits until the next record is due.
    async fn keep_pace(&self) {
        if let Some(rate) = self.verb.rate {
            let due = Duration::from_secs_f64(self.sent as f64 / f64::from(rate));
            tokio::time::sleep_until((self.started + due).into()).await;
        }
    }

    async fn await_oldest(&mut self) -> Result<(), Failure> {
        // It is counted when it is settled, also when sending is interrupted here.
        if let Some(delivery) = self.on_their_way.front_mut() {
            let settled = delivery.await;
            self.on_their_way.pop_front();
            settled?;
            self.acked += 1;
        }
        Ok(())
    }

    /// Waits for all that is on its way; fails with the first failure.
    async fn finish(&mut self) -> Result<(), Failure> {
        let flushed = self.producer.close().await;
        let mut first = Ok(());
        while !self.on_their_way.is_empty() {
            let acked = self.await_oldest().await;
            first = first.and(acked);
        }
        self.progress.finish_and_clear();
        first.and(flushed.map_err(Failure::from))
    }

    fn summarize(&self, common: &Common) {
        let seconds = self.started.elapsed().as_secs_f64().max(1e-6);
        let Self {
            sent, acked, bytes, ..
        } = self;
        if common.output == Output::Json && !common.quiet {
            let summary = json!({
                "sent": sent, "acknowledged": acked, "bytes": bytes, "seconds": seconds,
            });
            anstream::eprintln!("{summary}");
        }
        common.note(format_args!(
            "{acked} of {sent} records acknowledged, {} in {seconds:.2} s ({:.0} records/s)",
            units::show_size(*bytes),
            *acked as f64 / seconds,
        ));
    }
}

fn progress(common: &Common, template: &str, length: Option<u64>) -> ProgressBar {
    if !common.shows_progress() {
        return ProgressBar::hidden();
    }
    let bar = length.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    bar.with_style(ProgressStyle::with_template(template).expect("a template of ours"))
}

fn find(line: &[u8], delimiter: &[u8]) -> Option<usize> {
    match delimiter {
        [byte] => line.iter().position(|b| b == byte),
        _ => line
            .windows(delimiter.len())
            .position(|window| window == delimiter),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        produce: Produce,
    }

    fn verb(args: &[&str]) -> Produce {
        let args = ["produce", "t"].iter().chain(args);
        Command::try_parse_from(args).unwrap().produce
    }

    #[test]
    fn line_divides_at_the_first_delimiter() {
        let verb = verb(&["--key-delimiter", "\\t"]);
        let record = verb.record(1, b"k\tv\tw").unwrap();
        assert_eq!(
            (record.key, record.value),
            (Some(&b"k"[..]), Some(&b"v\tw"[..]))
        );
    }

    #[test]
    fn empty_value_is_a_tombstone_only_when_asked() {
        let args = ["--key-delimiter", "::"];
        assert_eq!(verb(&args).record(1, b"k::").unwrap().value, Some(&b""[..]));
        let verb = verb(&[&args[..], &["--empty-value-is-tombstone"]].concat());
        assert_eq!(verb.record(1, b"k::").unwrap().value, None);
        assert_eq!(verb.record(1, b"k::v").unwrap().value, Some(&b"v"[..]));
    }

    #[test]
    fn line_without_delimiter_is_named_by_number() {
        let verb = verb(&["--key-delimiter", ":"]);
        let failure = verb.record(7, b"nothing").unwrap_err();
        assert!(format!("{failure:?}").contains("line 7"));
    }

    #[test]
    fn tombstones_need_a_delimiter() {
        let args = ["produce", "t", "--empty-value-is-tombstone"];
        assert!(Command::try_parse_from(args).is_err());
    }
}
