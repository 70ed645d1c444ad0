//! A client verb of the built binary, run to its end.

use std::io::Write;
use std::process::{Command, Stdio};

use super::statecast;

/// A verb with its arguments and its input.
pub struct Verb {
    command: Command,
    input: String,
}

/// What a verb did.
#[derive(Debug)]
pub struct Done {
    /// Its exit code.
    pub code: i32,
    /// What it wrote on standard output.
    pub stdout: String,
    /// What it wrote on standard error.
    pub stderr: String,
}

impl Verb {
    /// A verb that talks to this broker.
    pub fn new(endpoint: &str, args: &[&str]) -> Verb {
        let mut command = statecast();
        command.args(args).env("STATECAST_ENDPOINT", endpoint);
        Verb {
            command,
            input: String::new(),
        }
    }

    /// Gives it something to read.
    pub fn with_input(mut self, input: &str) -> Verb {
        input.clone_into(&mut self.input);
        self
    }

    /// Runs it.
    pub fn run(mut self) -> Done {
        let piped = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = piped.spawn().expect("the binary runs");
        let mut stdin = child.stdin.take().expect("piped");
        // A verb that fails early doesn't read it all.
        let _ = stdin.write_all(self.input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().expect("it can be waited for");
        Done {
            code: output.status.code().expect("it ends by itself"),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }

    /// Runs it; its exit code must be 0.
    pub fn succeeds(self) -> Done {
        let done = self.run();
        assert_eq!(done.code, 0, "{}", done.stderr);
        done
    }
}

impl Done {
    /// What it printed, as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).expect("one JSON value")
    }
}
