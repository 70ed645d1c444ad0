//! How a verb ends when it doesn't succeed.

use std::fmt::Display;
use std::process::ExitCode;

use super::common::{Common, Output};

/// Why a verb didn't do what it was asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It was asked for something that makes no sense: exit code 2.
    Usage(String),
    /// It tried and failed: exit code 1.
    Failed(String),
}

impl Failure {
    /// A failure with exit code 1.
    pub(super) fn failed(message: impl Display) -> Failure {
        Failure::Failed(message.to_string())
    }

    /// A failure with exit code 2.
    pub(super) fn usage(message: impl Display) -> Failure {
        Failure::Usage(message.to_string())
    }

    /// Prints the failure on standard error; returns the exit code.
    pub(super) fn report(self, common: &Common) -> ExitCode {
        let (message, code) = match self {
            Failure::Usage(message) => (message, 2),
            Failure::Failed(message) => (message, 1),
        };
        match common.output {
            Output::Table => anstream::eprintln!("error: {message}"),
            Output::Json => anstream::eprintln!("{}", serde_json::json!({ "error": message })),
        }
        ExitCode::from(code)
    }
}
