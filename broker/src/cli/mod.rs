//! The command line: `serve` and the client verbs. Data goes to standard
//! output, everything else to standard error.

mod bench;
mod common;
mod config;
mod consume;
mod demo;
mod escapes;
mod failure;
mod format;
mod group;
mod health;
mod inspect;
mod lease;
mod lines;
mod output;
mod pipe;
mod produce;
mod serve;
mod session;
mod shell;
mod signals;
mod start;
mod state;
mod topic;
mod units;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::builder::Resettable;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use common::{Common, Output};
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
    Demo(demo::Demo),
    Config(config::Config),
    Topic(topic::TopicCommand),
    Group(group::GroupCommand),
    State(state::StateCommand),
    Lease(lease::LeaseCommand),
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
            Verb::Demo(verb) => verb.run(common),
            Verb::Config(verb) => verb.run(common),
            Verb::Topic(verb) => verb.run(common),
            Verb::Group(verb) => verb.run(common),
            Verb::State(verb) => verb.run(common),
            Verb::Lease(verb) => verb.run(common),
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
        Err(failure) => failure.report(cli.common.output),
    }
}

/// Parses arguments; ends the process on a usage error.
fn parse(mut args: Vec<OsString>) -> Cli {
    let cli = parse_once(&args);
    if cli.verb.is_some() {
        return cli;
    }
    // `serve` takes its settings from the environment, so it has to be parsed.
    args.push("serve".into());
    parse_once(&args)
}

fn parse_once(args: &[OsString]) -> Cli {
    let matches = command().try_get_matches_from(args);
    let cli = matches.and_then(|matches| Cli::from_arg_matches(&matches));
    cli.unwrap_or_else(|error| end(&error, args))
}

/// Ends the process as clap does, but with an error in the form asked for.
fn end(error: &clap::Error, args: &[OsString]) -> ! {
    if !error.use_stderr() || !asks_for_json(args) {
        error.exit();
    }
    let text = error.to_string();
    // Behind the problem follow hints for people.
    let problem = text
        .strip_prefix("error: ")
        .and_then(|text| text.split("\n\n").next());
    Failure::usage(problem.unwrap_or(&text)).report(Output::Json);
    std::process::exit(error.exit_code())
}

/// Whether arguments that can't be parsed seem to ask for JSON.
fn asks_for_json(args: &[OsString]) -> bool {
    let in_two =
        |pair: &[OsString]| (pair[0] == "-o" || pair[0] == "--output") && pair[1] == "json";
    let in_one = ["-ojson", "-o=json", "--output=json"];
    args.windows(2).any(in_two) || args.iter().any(|arg| in_one.iter().any(|json| arg == json))
}

/// The whole command. A variable that is set to nothing counts as not set.
fn command() -> clap::Command {
    let endpoint = std::env::var_os(common::ENDPOINT_VARIABLE);
    let is_empty = endpoint.is_some_and(|value| value.is_empty());
    Cli::command().mut_arg("endpoint", |arg| match is_empty {
        true => arg.env(Resettable::Reset),
        false => arg,
    })
}
