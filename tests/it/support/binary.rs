//! The built binary, as a user runs it.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::OnceLock;

use rustix::process::{Pid, Signal, kill_process};

/// Builds the binary once; returns where it lies.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let build = Command::new(env!("CARGO"))
            .args(["build", "--bin", "statecast", "--message-format=json"])
            .current_dir(root)
            .stderr(Stdio::inherit())
            .output()
            .expect("cargo runs");
        assert!(build.status.success(), "the binary builds");
        // Cargo tells where it put it, wherever target directories may lie.
        let messages = String::from_utf8(build.stdout).unwrap();
        let mut executables = messages.lines().filter_map(|line| {
            let message: serde_json::Value = serde_json::from_str(line).ok()?;
            message["executable"].as_str().map(PathBuf::from)
        });
        executables.next_back().expect("cargo names the executable")
    })
}

/// The binary with no environment of ours, to be given arguments.
pub fn statecast() -> Command {
    let mut command = Command::new(built());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("STATECAST_") {
            command.env_remove(name);
        }
    }
    command
}

/// Waits until a process that was sent SIGSTOP does nothing any more.
pub fn until_stopped(pid: u32) {
    // The signal is delivered to each thread when it is next scheduled: until all
    // have stopped, one of them may still do something.
    while !has_stopped(pid) {
        std::thread::yield_now();
    }
}

/// Whether each thread of a process is stopped.
fn has_stopped(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks.flatten().all(|task| {
        // "pid (name) state …"; the name may have spaces.
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('T'))
    })
}

/// `statecast serve` on a port of its own. Killed when dropped.
pub struct Binary {
    child: Child,
    stdout: BufReader<ChildStdout>,
    ready: String,
}

impl Binary {
    /// Starts it over a data directory and waits until it is ready.
    pub fn serve(data_dir: &Path) -> Binary {
        Binary::try_serve(data_dir).expect("it gets ready")
    }

    /// As [`Binary::serve`], where another one was before.
    pub fn serve_at(data_dir: &Path, address: &str) -> Binary {
        Binary::try_serve_at(data_dir, address).expect("it gets ready")
    }

    /// As [`Binary::serve`]; what it wrote when it ends instead.
    pub fn try_serve(data_dir: &Path) -> Result<Binary, Output> {
        Binary::try_serve_at(data_dir, "127.0.0.1:0")
    }

    fn try_serve_at(data_dir: &Path, address: &str) -> Result<Binary, Output> {
        let mut child = statecast()
            .args(["serve", "--listen", address])
            .args(["--http-listen", "127.0.0.1:0"])
            .arg("--data-dir")
            .arg(data_dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut ready = String::new();
        stdout.read_line(&mut ready).expect("its output is text");
        if ready.is_empty() {
            return Err(child.wait_with_output().expect("it can be waited for"));
        }
        Ok(Binary {
            child,
            stdout,
            ready,
        })
    }

    /// The line that it wrote when it was ready.
    pub fn ready_line(&self) -> &str {
        self.ready.trim_end()
    }

    /// Where gRPC is served.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.word_after("gRPC "))
    }

    /// Where HTTP is served.
    pub fn http(&self) -> &str {
        self.word_after("HTTP ")
    }

    fn word_after(&self, before: &str) -> &str {
        let (_, rest) = self
            .ready
            .split_once(before)
            .expect("the ready line names it");
        rest.split(',').next().expect("a word follows")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Makes it hang: its connections stay, but nothing is answered.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        until_stopped(self.child.id());
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("process ids are small");
        let pid = Pid::from_raw(pid).expect("it runs");
        kill_process(pid, signal).expect("it is ours");
    }

    /// Kills it as a crash does.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Waits until it ends by itself.
    pub fn wait(mut self) -> Output {
        let mut stdout = Vec::new();
        self.stdout
            .read_to_end(&mut stdout)
            .expect("it can be read");
        let mut stderr = Vec::new();
        let mut pipe = self.child.stderr.take().expect("piped");
        pipe.read_to_end(&mut stderr).expect("it can be read");
        let status = self.child.wait().expect("it can be waited for");
        Output {
            status,
            stdout,
            stderr,
        }
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
