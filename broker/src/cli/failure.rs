//! How a verb ends when it doesn't succeed.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::process::ExitCode;

use super::common::Output;

/// What the client says of a server that knows HTTP but no gRPC.
const NO_GRPC: &str = "grpc-status header missing";

/// Why a verb didn't do what it was asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It was asked for something that makes no sense: exit code 2.
    Usage(String),
    /// It tried and failed: exit code 1.
    Failed(String),
    /// The broker refused, or wasn't there: exit code 1.
    Refused {
        /// A stable name, such as `TOPIC_NOT_FOUND`.
        name: String,
        /// For people.
        message: String,
        /// What the name is about.
        metadata: BTreeMap<String, String>,
    },
}

impl From<statecast_client::Error> for Failure {
    fn from(error: statecast_client::Error) -> Self {
        let mut message = error.to_string();
        if message.contains(NO_GRPC) {
            message += "; is this the port of gRPC (7420 by default), not that of HTTP?";
        }
        Failure::Refused {
            name: error.name().to_owned(),
            message,
            metadata: error
                .refusal()
                .map(|refusal| refusal.metadata.clone())
                .unwrap_or_default(),
        }
    }
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

    /// The same failure, of one thing among several.
    pub(super) fn of(mut self, what: &str) -> Failure {
        let (Failure::Usage(message) | Failure::Failed(message) | Failure::Refused { message, .. }) =
            &mut self;
        *message = format!("{what}: {message}");
        self
    }

    /// The same failure, with what to do about it.
    pub(super) fn with_hint(mut self, hint: &str) -> Failure {
        let (Failure::Usage(message) | Failure::Failed(message) | Failure::Refused { message, .. }) =
            &mut self;
        *message = format!("{message}; {hint}");
        self
    }

    /// Prints the failure on standard error; returns the exit code.
    pub(super) fn report(self, output: Output) -> ExitCode {
        let code = match self {
            Failure::Usage(_) => 2,
            Failure::Failed(_) | Failure::Refused { .. } => 1,
        };
        match output {
            Output::Table => anstream::eprintln!("error: {}", self.message()),
            Output::Json => anstream::eprintln!("{}", self.json()),
        }
        ExitCode::from(code)
    }

    fn message(&self) -> &str {
        match self {
            Failure::Usage(message)
            | Failure::Failed(message)
            | Failure::Refused { message, .. } => message,
        }
    }

    fn json(&self) -> serde_json::Value {
        let mut json = serde_json::json!({ "error": self.message() });
        if let Failure::Refused { name, metadata, .. } = self {
            json["reason"] = name.as_str().into();
            json["metadata"] = metadata
                .iter()
                .map(|(k, v)| (k.clone(), v.as_str()))
                .collect();
        }
        json
    }
}
