//! `statecast consume`.

mod group;
mod printer;

use clap::Args;
use statecast_client::{Error, Event, Reader};

use self::printer::Printer;
use super::common::Common;
use super::failure::Failure;
use super::format::Format;
use super::output::{Ending, Stop};
use super::pipe::readers_gone;
use super::session::block_on;
use super::signals::stop_requested;
use super::start::From;
use crate::clock::Clock;

/// Print the records of a topic.
///
/// Waits for new records, unless --until-end or --count says when to stop: to be
/// interrupted before that is a failure. With --group the members of the group
/// share the topics' partitions, and what is printed is committed.
#[derive(Debug, Args)]
pub(super) struct Consume {
    /// The topic; with --group several, or patterns such as 'orders.*'.
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// Read as a member of this group, and commit what is printed.
    #[arg(short, long, value_name = "GROUP")]
    group: Option<String>,
    /// Get the partitions back that the member of this name had, when it comes
    /// again within 10 seconds.
    #[arg(long, value_name = "NAME", requires = "group")]
    member_name: Option<String>,
    /// Where to start: earliest, latest, an offset, @MILLISECONDS since 1970, a
    /// time before now such as -1h, or an RFC 3339 time. A group starts there
    /// where it has committed nothing; `fail` lets it start nowhere else, and
    /// an offset isn't for groups.
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
    #[arg(short, long, value_name = "N", conflicts_with = "group")]
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
        match &self.group {
            Some(group) => {
                let start = self.from.group_start(now_ms()).map_err(Failure::usage)?;
                block_on(group::consume(&self, common, group, start))
            }
            None => block_on(self.read(common)),
        }
    }

    async fn read(&self, common: &Common) -> Result<(), Failure> {
        let [topic] = &self.topics[..] else {
            return Err(Failure::usage("several topics are read with --group only"));
        };
        let start = self.from.resolve(now_ms()).map_err(Failure::usage)?;
        let client = common.connect().await?;
        let mut reader = client.reader(topic).start(start);
        for partition in &self.partition {
            reader = reader.partition(*partition);
        }
        if self.until_end {
            reader = reader.until_end();
        }
        let mut reader = reader.open().await?;
        let mut printer = Printer::new(self, common);
        let stop = stop_requested()?;
        let outcome = tokio::select! {
            outcome = print_all(&mut reader, &mut printer) => outcome,
            () = stop => Err(Stop::Interrupted),
            () = readers_gone() => Err(Stop::BrokenPipe),
        };
        match outcome.in_order(|| printer.flush()) {
            Err(Stop::BrokenPipe) | Ok(()) => printer.verdict(),
            Err(Stop::Interrupted) => printer.verdict().and(self.interrupted()),
            Err(Stop::Failure(failure)) => Err(failure),
        }
    }

    /// What an interruption means. Without an end, whoever stops it has seen
    /// enough. A script that asked for an end must not take a part for the whole.
    fn interrupted(&self) -> Result<(), Failure> {
        let end = match self.count {
            Some(count) => format!("{count} records"),
            None if self.until_end => "the end".to_owned(),
            None => return Ok(()),
        };
        Err(Failure::Failed(format!("interrupted before {end}")))
    }
}

async fn print_all(reader: &mut Reader, printer: &mut Printer<'_>) -> Result<(), Stop> {
    // The reader is open even so: what doesn't exist was refused.
    while !printer.is_done() {
        match reader.next_event().await {
            None => return Ok(()),
            Some(Ok(Event::Batch(batch))) => drop(printer.print_batch(&batch)?),
            Some(Ok(_)) => printer.flush()?,
            Some(Err(error)) if is_gap(&error) => printer.missed(&error),
            Some(Err(error)) => {
                printer.flush()?;
                return Err(error.into());
            }
        }
    }
    Ok(())
}

/// Whether an error says that records are missing, and the others follow.
fn is_gap(error: &Error) -> bool {
    matches!(
        error,
        Error::Truncated { .. } | Error::Quarantined { .. } | Error::DamagedBatch { .. }
    )
}

fn now_ms() -> i64 {
    Clock::system().now_ms()
}
