//! Each of `client/examples/`, run as a user runs it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::TestBroker;

/// The examples that a test below runs.
const RUN_HERE: [&str; 7] = [
    "compare_and_set",
    "consume",
    "consume_group",
    "fast_batches",
    "produce",
    "service_discovery",
    "state_view",
];

/// What the example `produce` sends.
const READINGS: u32 = 100;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Builds the examples once; tells where each lies.
fn built() -> &'static BTreeMap<String, PathBuf> {
    static BUILT: OnceLock<BTreeMap<String, PathBuf>> = OnceLock::new();
    BUILT.get_or_init(|| {
        let build = Command::new(env!("CARGO"))
            .args(["build", "--workspace", "--examples"])
            .arg("--message-format=json")
            .current_dir(root())
            .stderr(Stdio::inherit())
            .output()
            .expect("cargo runs");
        assert!(build.status.success(), "the examples build");
        let messages = String::from_utf8(build.stdout).unwrap();
        let example = |line: &str| {
            let message: serde_json::Value = serde_json::from_str(line).ok()?;
            let name = message["target"]["name"].as_str()?.to_owned();
            Some((name, PathBuf::from(message["executable"].as_str()?)))
        };
        messages.lines().filter_map(example).collect()
    })
}

/// A running example; killed when dropped.
struct Example {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Example {
    fn start(name: &str, broker: &TestBroker) -> Example {
        let mut child = Command::new(&built()[name])
            .env("STATECAST_ENDPOINT", format!("http://{}", broker.address()))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the example runs");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Example { child, stdout }
    }

    /// The next line; empty at the end.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Ctrl-C, once it is listened for.
    fn interrupt(&self) {
        while !self.listens_for_interrupts() {
            std::thread::yield_now();
        }
        let pid = i32::try_from(self.child.id()).expect("process ids are small");
        let pid = Pid::from_raw(pid).expect("it runs");
        kill_process(pid, Signal::INT).expect("it is ours");
    }

    fn listens_for_interrupts(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = u64::from_str_radix(caught.unwrap().trim(), 16).unwrap();
        // Bit 0 stands for signal 1; SIGINT is 2.
        caught & 0b10 != 0
    }

    /// The rest of its lines, once it has ended well.
    fn end(mut self) -> Vec<String> {
        let rest = self.stdout.by_ref().lines().map(Result::unwrap).collect();
        assert!(self.child.wait().unwrap().success());
        rest
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs an example to its end, off the runtime that serves the broker.
async fn run(name: &'static str, broker: &TestBroker) -> Vec<String> {
    let example = Example::start(name, broker);
    tokio::task::spawn_blocking(|| example.end()).await.unwrap()
}

/// The partition and offset that a line of the example `produce` names.
fn position_produced(line: &str) -> Option<(u32, u64)> {
    let (_, place) = line.split_once(": partition ")?;
    let (partition, offset) = place.split_once(", offset ")?;
    Some((partition.parse().ok()?, offset.parse().ok()?))
}

/// The partition and offset at the head of a line of the example `consume` or
/// `consume_group`.
fn position_consumed(line: &str) -> Option<(u32, u64)> {
    let (partition, offset) = line.split_once(' ')?.0.split_once('/')?;
    Some((partition.parse().ok()?, offset.parse().ok()?))
}

#[test]
fn each_example_is_run_here() {
    let files = std::fs::read_dir(root().join("client/examples")).unwrap();
    let stem = |file: std::io::Result<std::fs::DirEntry>| {
        let path = file.unwrap().path();
        path.file_stem().unwrap().to_str().unwrap().to_owned()
    };
    let files: BTreeSet<String> = files.map(stem).collect();
    assert_eq!(files, RUN_HERE.map(str::to_owned).into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn produce_says_where_records_went_and_consume_finds_them_there() {
    let broker = TestBroker::start().await;
    let lines = run("produce", &broker).await;
    assert_eq!(lines[0], "created readings");
    let produced: BTreeSet<_> = lines.iter().filter_map(|l| position_produced(l)).collect();
    assert_eq!(produced.len(), READINGS as usize, "{lines:?}");

    let mut consume = Example::start("consume", &broker);
    let consumed = tokio::task::spawn_blocking(move || {
        let lines = (0..READINGS).map(|_| consume.line());
        let positions: Option<BTreeSet<_>> = lines.map(|l| position_consumed(&l)).collect();
        positions
    });
    // It follows the topic, so it has no end: it is killed.
    assert_eq!(consumed.await.unwrap().as_ref(), Some(&produced));

    // A second time, onto a topic that is there.
    let lines = run("produce", &broker).await;
    let again: BTreeSet<_> = lines.iter().filter_map(|l| position_produced(l)).collect();
    assert_eq!(again.len(), READINGS as usize, "{lines:?}");
    assert!(again.is_disjoint(&produced));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consume_group_gets_every_record_once_and_commits_when_interrupted() {
    let broker = TestBroker::start().await;
    run("produce", &broker).await;
    let mut member = Example::start("consume_group", &broker);
    let consumed = tokio::task::spawn_blocking(move || {
        let mut consumed = BTreeSet::new();
        while consumed.len() < READINGS as usize {
            let line = member.line();
            assert!(
                !line.is_empty(),
                "it ended after {} records",
                consumed.len()
            );
            if let Some(position) = position_consumed(&line) {
                assert!(consumed.insert(position), "twice: {line}");
            }
        }
        member.interrupt();
        let rest = member.end();
        assert_eq!(rest.iter().find_map(|l| position_consumed(l)), None);
        consumed
    });
    assert_eq!(consumed.await.unwrap().len(), READINGS as usize);
    let group = broker.describe_group("example").await;
    let committed: u64 = group
        .partitions
        .iter()
        .filter_map(|partition| partition.committed_offset)
        .sum();
    assert_eq!(committed, u64::from(READINGS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fast_batches_reads_back_all_that_it_sent() {
    let broker = TestBroker::start().await;
    let lines = run("fast_batches", &broker).await;
    let sum: u64 = 1000 * (0..1000).sum::<u64>();
    assert_eq!(lines, [format!("sum of all records: {sum}")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compare_and_set_loses_no_step() {
    let broker = TestBroker::start().await;
    let (one, two) = tokio::join!(
        run("compare_and_set", &broker),
        run("compare_and_set", &broker),
    );
    let steps = |lines: &[String]| {
        let (steps, _) = lines[0].split_once(' ').unwrap();
        steps.parse::<u32>().unwrap()
    };
    assert_eq!(steps(&one).max(steps(&two)), 200);
    let first = "this is the first to check".to_owned();
    assert_ne!(one.contains(&first), two.contains(&first));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_view_sees_services_come_and_go() {
    let broker = TestBroker::start().await;
    let mut view = Example::start("state_view", &broker);
    let mut service = Example::start("service_discovery", &broker);
    let seen = tokio::task::spawn_blocking(move || {
        let name = service.line();
        let name = name.strip_suffix(" is there").unwrap().to_owned();
        // It may have been there when the view began, and otherwise came.
        let mut until = |text: &str| {
            let mut line = view.line();
            while line != text {
                assert!(!line.is_empty(), "it ended before {text}");
                line = view.line();
            }
        };
        until(&format!("{name} is at 10.0.0.1:80"));
        until("calls go to 10.0.0.1:80");
        service.interrupt();
        until(&format!("{name} is gone"));
        assert_eq!(service.end(), [format!("{name} is gone")]);
    });
    seen.await.unwrap();
}
