//! The command line: `serve` and the client verbs. Data goes to standard
//! output, everything else to standard error.

mod bench;
mod common;
mod config;
mod consume;
mod escapes;
mod failure;
mod format;
mod health;
mod inspect;
mod lines;
mod pipe;
mod produce;
mod serve;
mod session;
mod shell;
mod signals;
mod start;
mod topic;
mod units;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use common::Common;
use failure::Failure;

/// A lightweight message broker and event streaming server.
#[derive(Debug, Parser)]
#[command(name = "statecast", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    common: Common,
    /// Without a verb: `serve`.
    #[command(subcommand)]
    verb: Option<Verb>,
}

/// What to do. Each verb lives in a file of its own, with its arguments and a
/// `run(self, &Common) -> Result<(), Failure>`.
#[derive(Debug, Subcommand)]
enum Verb {
    Serve(serve::Serve),
    Config(config::Config),
    Topic(topic::TopicCommand),
    Produce(produce::Produce),
    Consume(consume::Consume),
    Bench(bench::Bench),
    Inspect(inspect::Inspect),
    Health(health::Health),
    Completions(shell::Completions),
    Man(shell::Man),
}

impl Verb {
    fn run(self, common: &Common) -> Result<(), Failure> {
        match self {
            Verb::Serve(verb) => verb.run(common),
            Verb::Config(verb) => verb.run(common),
            Verb::Topic(verb) => verb.run(common),
            Verb::Produce(verb) => verb.run(common),
            Verb::Consume(verb) => verb.run(common),
            Verb::Bench(verb) => verb.run(common),
            Verb::Inspect(verb) => verb.run(common),
            Verb::Health(verb) => verb.run(common),
            Verb::Completions(verb) => verb.run(),
            Verb::Man(verb) => verb.run(),
        }
    }
}

/// Runs what the arguments of this process say. Exit codes: 0 done, 1 failed,
/// 2 usage.
pub fn run() -> ExitCode {
    let cli = parse(std::env::args_os().collect());
    let verb = cli.verb.expect("parse() fills in the verb");
    match verb.run(&cli.common) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(&cli.common),
    }
}

/// Parses arguments; ends the process on a usage error, as clap does.
fn parse(mut args: Vec<OsString>) -> Cli {
    let cli = Cli::parse_from(&args);
    if cli.verb.is_some() {
        return cli;
    }
    // `serve` takes its settings from the environment, so it has to be parsed.
    args.push("serve".into());
    Cli::parse_from(args)
}

/// The whole command, for completions and man pages.
fn command() -> clap::Command {
    Cli::command()
}
