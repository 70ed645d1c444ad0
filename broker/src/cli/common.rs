//! Options that every verb takes.

use clap::{Args, ValueEnum};

/// Names the broker where no flag does.
pub(super) const ENDPOINT_VARIABLE: &str = "STATECAST_ENDPOINT";

/// Options that every verb takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Common options")]
pub(super) struct Common {
    /// The broker to talk to.
    #[arg(
        long,
        global = true,
        env = ENDPOINT_VARIABLE,
        value_name = "URL",
        default_value = "http://127.0.0.1:7420"
    )]
    pub(super) endpoint: String,
    /// The form of what is printed.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub(super) output: Output,
    /// Print only data and errors.
    #[arg(short, long, global = true)]
    pub(super) quiet: bool,
}

/// The form of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people.
    Table,
    /// For programs; errors too.
    Json,
}
