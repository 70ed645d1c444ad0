//! A client verb of the built binary, run to its end.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::statecast;

/// A verb that doesn't end by itself within this has failed.
const LONGEST: Duration = Duration::from_secs(120);

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
        let pid = Pid::from_child(&child);
        let (ended, end) = mpsc::sync_channel::<()>(0);
        let watch = thread::spawn(move || {
            if end.recv_timeout(LONGEST) == Err(mpsc::RecvTimeoutError::Timeout) {
                // It isn't waited for to the end while this runs, so it is the same one.
                let _ = kill_process(pid, Signal::KILL);
            }
        });
        let output = child.wait_with_output().expect("it can be waited for");
        drop(ended);
        watch.join().expect("it only waits");
        Done {
            code: output
                .status
                .code()
                .expect("it ends by itself, and in time"),
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
