//! `statecast state`.

mod points;
mod printer;
mod watch;

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use serde_json::json;
use statecast_client::{Expect, LeaseId, State, Version, Written};
use tokio_stream::StreamExt;

use self::points::{Place, Point, Points};
use self::printer::{Printer, entry_json};
use super::common::{Common, Output};
use super::failure::Failure;
use super::format::Format;
use super::output::Stop;
use super::session::{block_on, print, print_json};
use crate::clock::Clock;

/// Ask for, watch and change what is true in compacted topics.
#[derive(Debug, Args)]
pub(super) struct StateCommand {
    #[command(subcommand)]
    verb: StateVerb,
}

#[derive(Debug, Subcommand)]
enum StateVerb {
    Get(Get),
    Scan(Scan),
    Watch(Watch),
    Put(Put),
    Delete(Delete),
}

impl StateCommand {
    pub(super) fn run(self, common: &Common) -> Result<(), Failure> {
        match self.verb {
            StateVerb::Get(verb) => block_on(verb.run(common)),
            StateVerb::Scan(verb) => block_on(verb.run(common)),
            StateVerb::Watch(verb) => block_on(watch::watch(verb, common)),
            StateVerb::Put(verb) => block_on(verb.run(common)),
            StateVerb::Delete(verb) => block_on(verb.run(common)),
        }
    }
}

/// Print the value of a key; a failure when there is none.
#[derive(Debug, Args)]
struct Get {
    /// The topic.
    topic: String,
    /// The key.
    key: String,
    /// The value as it was: below an offset of the key's partition, or at a time:
    /// @MILLISECONDS since 1970, a time before now such as -1h, or RFC 3339.
    #[arg(
        long,
        value_name = "OFFSET|TIME",
        value_parser = Point::parse,
        allow_hyphen_values = true
    )]
    as_of: Option<Point>,
    /// Wait until the record with this offset counts, such as one that `put` named.
    #[arg(long, value_name = "OFFSET", conflicts_with = "as_of")]
    at_least: Option<u64>,
    /// Look in this partition [default: that of the key]
    #[arg(short, long, value_name = "N")]
    partition: Option<u32>,
    /// How to print it: as for `scan`.
    #[arg(
        short,
        long,
        value_name = "FORMAT",
        value_parser = Format::parse_state,
        default_value = "%v\\n"
    )]
    format: Format,
}

impl Get {
    async fn run(self, common: &Common) -> Result<(), Failure> {
        let state = common.connect().await?.state(self.topic.as_str());
        let mut get = state.get(&self.key);
        if let Some(offset) = self.at_least {
            get = get.at_least(offset);
        }
        if let Some(point) = self.as_of {
            get = get.as_of(point.resolve(now_ms()));
        }
        if let Some(partition) = self.partition {
            get = get.partition(partition);
        }
        let Some(entry) = get.await? else {
            let metadata = [("topic", &self.topic), ("key", &self.key)];
            let metadata = metadata.map(|(name, value)| (name.to_owned(), value.clone()));
            return Err(Failure::Refused {
                name: "KEY_NOT_FOUND".to_owned(),
                message: format!("topic {} has no key {:?}", self.topic, self.key),
                metadata: metadata.into(),
            });
        };
        if common.output == Output::Json {
            return print_json(&entry_json(&self.topic, &entry));
        }
        let mut printer = Printer::new(&self.topic, &self.format, common);
        in_order(printer.print(&entry).and_then(|()| printer.flush()))
    }
}

/// Print keys and their values, in the order of the keys.
#[derive(Debug, Args)]
struct Scan {
    /// The topic.
    topic: String,
    /// Only keys that begin so.
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,
    /// What they were: below offsets, PARTITION:OFFSET with commas between several, or
    /// at a time: @MILLISECONDS since 1970, a time before now such as -1h, or RFC 3339.
    #[arg(
        long,
        value_name = "OFFSETS|TIME",
        value_parser = Points::parse,
        allow_hyphen_values = true
    )]
    as_of: Option<Points>,
    /// Wait until the record with this offset counts: PARTITION:OFFSET; may be given
    /// for several partitions.
    #[arg(long, value_name = "PLACE", value_parser = Place::parse)]
    at_least: Vec<Place>,
    /// How to print a key: %T topic, %p partition, %o offset, %V version, %t timestamp
    /// in ms, %k key, %v value, %h headers; \t \n \\ %%.
    #[arg(
        short,
        long,
        value_name = "FORMAT",
        value_parser = Format::parse_state,
        default_value = "%k\\t%v\\n"
    )]
    format: Format,
}

impl Scan {
    async fn run(self, common: &Common) -> Result<(), Failure> {
        let state = common.connect().await?.state(self.topic.as_str());
        let mut scan = state.scan(&self.prefix);
        for place in &self.at_least {
            scan = scan.at_least(place.partition, place.offset);
        }
        if let Some(points) = &self.as_of {
            scan = points.set(scan, now_ms());
        }
        let mut printer = Printer::new(&self.topic, &self.format, common);
        let mut entries = scan.stream();
        while let Some(entry) = entries.next().await {
            match entry {
                Ok(entry) => {
                    if let Err(stop) = printer.print(&entry) {
                        return in_order(Err(stop));
                    }
                }
                Err(error) => {
                    in_order(printer.flush())?;
                    return Err(error.into());
                }
            }
        }
        in_order(printer.flush())
    }
}

/// Print the keys there are, and then every change.
///
/// Goes on where it was after a lost connection; ends with Ctrl-C. When all there is
/// was printed, a line on standard error says so, with the next offset of each
/// partition.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("watched").args(["prefix", "keys"]))]
struct Watch {
    /// The topic.
    topic: String,
    /// Only keys that begin so.
    #[arg(long)]
    prefix: Option<String>,
    /// Only this key; may be given several times.
    #[arg(short, long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// Print what there is, and stop.
    #[arg(long)]
    until_synced: bool,
    /// Print the changes from these offsets on instead of what there is, for who has kept
    /// what was before: PARTITION:OFFSET for each partition, with commas between, such as
    /// the last `synced` named, or one past the last change. Ends when the connection is
    /// lost.
    #[arg(long, value_name = "OFFSETS", value_parser = next_offsets, conflicts_with = "keys")]
    from: Option<NextOffsets>,
    /// How to print a change: %c what it is, put or removed, and all that `scan` knows;
    /// of what is removed there is no value or version [default: '%c %k\t%v\n', without
    /// a value for what is removed]
    #[arg(short, long, value_name = "FORMAT", value_parser = Format::parse_state)]
    format: Option<Format>,
}

/// What a key has to be before it is changed.
#[derive(Debug, Args)]
struct ExpectArgs {
    /// Only if the key is in this version.
    #[arg(long, value_name = "N")]
    expect_version: Option<u64>,
}

impl ExpectArgs {
    fn expect(&self) -> Expect {
        self.expect_version.map_or(Expect::Any, |number| {
            Expect::Version(Version::from_number(number))
        })
    }
}

/// Give a key a value; prints its version.
#[derive(Debug, Args)]
struct Put {
    /// The topic, which is compacted.
    topic: String,
    /// The key.
    key: String,
    /// The value.
    #[arg(required_unless_present = "file")]
    value: Option<String>,
    /// Take the value from this file; `-` is standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "value")]
    file: Option<PathBuf>,
    #[command(flatten)]
    expect: ExpectArgs,
    /// Only if there is no such key.
    #[arg(long, conflicts_with = "expect_version")]
    expect_absent: bool,
    /// Remove the key when this lease ends.
    #[arg(long, value_name = "ID")]
    lease: Option<LeaseId>,
    /// Add a header; may be given several times.
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Put it into this partition [default: that of the key]
    #[arg(short, long, value_name = "N")]
    partition: Option<u32>,
}

impl Put {
    async fn run(self, common: &Common) -> Result<(), Failure> {
        let value = match (&self.value, &self.file) {
            (Some(value), _) => value.clone().into_bytes(),
            (None, Some(file)) => read(file)?,
            (None, None) => unreachable!("one of them is required"),
        };
        let state = common.connect().await?.state(self.topic.as_str());
        let mut put = state.put(&self.key, value).expect(self.expect.expect());
        if self.expect_absent {
            put = put.expect_absent();
        }
        if let Some(lease) = self.lease {
            put = put.lease(lease);
        }
        if let Some(partition) = self.partition {
            put = put.partition(partition);
        }
        for (name, value) in self.headers {
            put = put.header(name, value);
        }
        report(common, &state, "put", &self.key, put.await?)
    }
}

/// Remove a key; prints the version of its tombstone.
#[derive(Debug, Args)]
#[command(visible_alias = "rm")]
struct Delete {
    /// The topic, which is compacted.
    topic: String,
    /// The key.
    key: String,
    #[command(flatten)]
    expect: ExpectArgs,
    /// In this partition [default: that of the key]
    #[arg(short, long, value_name = "N")]
    partition: Option<u32>,
}

impl Delete {
    async fn run(self, common: &Common) -> Result<(), Failure> {
        let state = common.connect().await?.state(self.topic.as_str());
        let mut delete = state.delete(&self.key).expect(self.expect.expect());
        if let Some(partition) = self.partition {
            delete = delete.partition(partition);
        }
        report(common, &state, "removed", &self.key, delete.await?)
    }
}

/// The version is data, so that a script can go on with it.
fn report(
    common: &Common,
    state: &State,
    done: &str,
    key: &str,
    written: Written,
) -> Result<(), Failure> {
    let (partition, offset) = (written.partition, written.offset);
    common.note(format_args!(
        "{done} {key} in {}/{partition} at offset {offset}",
        state.topic()
    ));
    match common.output {
        Output::Table => print(&format!("{}\n", written.version)),
        Output::Json => print_json(&json!({
            "topic": &**state.topic(),
            "partition": partition,
            "offset": offset,
            "version": written.version.number(),
        })),
    }
}

/// Reads a header; the error is for people.
fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is no NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

/// The next offset of each partition, by their numbers.
#[derive(Debug, Clone)]
struct NextOffsets(Vec<u64>);

/// Reads the next offsets; the error is for people.
fn next_offsets(text: &str) -> Result<NextOffsets, String> {
    let mut places = text
        .split(',')
        .map(Place::parse)
        .collect::<Result<Vec<_>, _>>()?;
    places.sort_unstable_by_key(|place| place.partition);
    let is_whole = (0..)
        .zip(&places)
        .all(|(number, at)| at.partition == number);
    match is_whole {
        true => Ok(NextOffsets(
            places.into_iter().map(|at| at.offset).collect(),
        )),
        false => Err("each partition of the topic is to be named once".to_owned()),
    }
}

fn read(file: &PathBuf) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = match file.as_os_str() == "-" {
        true => std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut bytes).map(|_| bytes),
        false => std::fs::read(file),
    };
    read.map_err(|error| Failure::failed(format_args!("can't read {}: {error}", file.display())))
}

/// Whoever has seen enough doesn't make it a failure.
fn in_order(printed: Result<(), Stop>) -> Result<(), Failure> {
    match printed {
        Ok(()) | Err(Stop::BrokenPipe | Stop::Interrupted) => Ok(()),
        Err(Stop::Failure(failure)) => Err(failure),
    }
}

fn now_ms() -> i64 {
    Clock::system().now_ms()
}
