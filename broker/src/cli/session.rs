//! What the client verbs share: a runtime and a connection.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{ErrorKind, IsTerminal, Write};
use std::time::Duration;

use statecast_client::{Client, ClientBuilder, Error};

use super::common::{Common, Output};
use super::failure::Failure;

/// A person waits: an unreachable broker is said soon.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs a client verb to its end.
pub(super) fn block_on<T>(verb: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::failed)?;
    let result = runtime.block_on(verb);
    // Nobody waits for a connection to say goodbye.
    runtime.shutdown_background();
    result
}

impl Common {
    pub(super) fn client_builder(&self) -> ClientBuilder {
        Client::builder(&self.endpoint).connect_timeout(CONNECT_TIMEOUT)
    }

    /// Connects to the broker.
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        self.reach(self.client_builder().connect().await)
    }

    /// Says which broker it was that couldn't be reached.
    pub(super) fn reach<T>(&self, result: Result<T, Error>) -> Result<T, Failure> {
        result.map_err(|error| match error {
            Error::Connection(_) | Error::Timeout { .. } => Failure::Refused {
                name: error.name().to_owned(),
                message: format!("can't reach the broker at {}: {error}", self.endpoint),
                metadata: BTreeMap::new(),
            },
            error => error.into(),
        })
    }

    /// Prints a line for people on standard error, unless they want quiet.
    pub(super) fn note(&self, line: std::fmt::Arguments<'_>) {
        if self.shows_notes() {
            anstream::eprintln!("{line}");
        }
    }

    /// Whether lines for people are wanted.
    pub(super) fn shows_notes(&self) -> bool {
        !self.quiet && self.output == Output::Table
    }

    /// Whether a progress bar on standard error would be seen and wanted.
    pub(super) fn shows_progress(&self) -> bool {
        !self.quiet && self.output == Output::Table && std::io::stderr().is_terminal()
    }
}

/// Prints data; a reader that went away has seen enough.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(unwritable(&error)),
        _ => Ok(()),
    }
}

/// The failure to print data.
pub(super) fn unwritable(error: &std::io::Error) -> Failure {
    Failure::failed(format_args!("can't write: {error}"))
}

/// Prints data as a line of JSON.
pub(super) fn print_json(value: &serde_json::Value) -> Result<(), Failure> {
    print(&format!("{value}\n"))
}
