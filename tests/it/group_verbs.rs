//! `consume --group`, `group` and `bench group` of the built binary.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Binary, Done, Verb, statecast};

struct Shell {
    broker: Binary,
    _data: TempDir,
}

impl Shell {
    /// A broker with the topic `t` of two partitions, and ten records in each.
    fn start() -> Shell {
        let data = tempfile::tempdir().unwrap();
        let shell = Shell {
            broker: Binary::serve(data.path()),
            _data: data,
        };
        shell.says(&["topic", "create", "t", "--partitions", "2"]);
        for partition in ["0", "1"] {
            let lines: Vec<_> = (0..10).map(|n| format!("{partition}-{n}\n")).collect();
            let produce = shell.verb(&["produce", "t", "--partition", partition]);
            produce.with_input(&lines.concat()).succeeds();
        }
        shell
    }

    fn verb(&self, args: &[&str]) -> Verb {
        Verb::new(&self.broker.endpoint(), args)
    }

    fn says(&self, args: &[&str]) -> Done {
        self.verb(args).succeeds()
    }

    /// A consumer of the group `g` that runs until it is made to end.
    fn consume(&self, args: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
        let mut child = statecast()
            .args(["consume", "t", "--group", "g", "-f", "%p %o\\n"])
            .args(args)
            .env("STATECAST_ENDPOINT", self.broker.endpoint())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        (child, stdout)
    }

    fn describe(&self) -> Value {
        self.says(&["group", "describe", "g", "-o", "json"]).json()
    }

    /// The names of the members that have the partitions, once so many members
    /// are connected and each partition is at one.
    fn owners(&self, connected: usize) -> Vec<String> {
        loop {
            let described = self.verb(&["group", "describe", "g", "-o", "json"]).run();
            if described.code != 0 {
                // Nobody has joined yet.
                continue;
            }
            let described = described.json();
            let members = described["member_states"].as_array().unwrap();
            let is_connected = |member: &&Value| member["address"] != "";
            let name = |id: &Value| {
                let member = members.iter().find(|member| &member["id"] == id)?;
                member["name"].as_str().map(str::to_owned)
            };
            let partitions = described["partition_states"].as_array().unwrap();
            let owners: Option<Vec<_>> = partitions.iter().map(|p| name(&p["member"])).collect();
            if members.iter().filter(is_connected).count() == connected
                && described["state"] == "stable"
                && let Some(owners) = owners
            {
                return owners;
            }
        }
    }

    /// What is committed, by partition.
    fn committed(&self) -> Vec<Value> {
        let described = self.describe();
        let partitions = described["partition_states"].as_array().unwrap();
        partitions
            .iter()
            .map(|partition| partition["committed_offset"].clone())
            .collect()
    }
}

fn send(signal: Signal, child: &Child) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

fn ends_well(child: Child) {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn lines(mut stdout: impl BufRead, count: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for _ in 0..count {
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        lines.push(line);
    }
    lines
}

#[test]
fn what_is_printed_is_committed_and_not_printed_again() {
    let shell = Shell::start();
    let consume = ["consume", "t", "-g", "g", "--until-end"];
    assert_eq!(shell.says(&consume).stdout.lines().count(), 20);
    assert_eq!(shell.says(&consume).stdout, "");
    assert_eq!(shell.committed(), [10, 10]);
    let some = ["consume", "t", "-g", "other", "-n", "7"];
    assert_eq!(shell.says(&some).stdout.lines().count(), 7);
    let rest = ["consume", "t", "-g", "other", "--until-end"];
    assert_eq!(shell.says(&rest).stdout.lines().count(), 13);
}

#[test]
fn consumer_that_is_told_to_end_commits_and_leaves() {
    let shell = Shell::start();
    for (round, signal) in [Signal::TERM, Signal::INT].into_iter().enumerate() {
        shell
            .verb(&["produce", "t", "--partition", "0"])
            .with_input("more\n")
            .succeeds();
        let (child, stdout) = shell.consume(&[]);
        let expected = if round == 0 { 21 } else { 1 };
        lines(stdout, expected);
        send(signal, &child);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let described = shell.describe();
        assert_eq!(described["members"], 0);
        assert_eq!(described["lag"], 0);
    }
}

#[test]
fn reader_that_goes_away_ends_the_consumer_quietly() {
    let shell = Shell::start();
    let (child, stdout) = shell.consume(&[]);
    lines(stdout, 20);
    // The pipe is closed, and no record comes that a write could fail with.
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert_eq!(shell.committed(), [10, 10]);
}

#[test]
fn groups_are_listed_described_reset_and_deleted() {
    let shell = Shell::start();
    let (child, mut stdout) = shell.consume(&["--member-name", "a"]);
    lines(&mut stdout, 20);
    let listed = shell.says(&["groups", "ls", "-o", "json"]).json();
    assert_eq!(listed[0]["name"], "g");
    assert_eq!(listed[0]["members"], 1);
    let described = shell.describe();
    assert_eq!(described["member_states"][0]["name"], "a");
    assert_eq!(described["member_states"][0]["topics"], json!(["t"]));
    let id = &described["member_states"][0]["id"];
    assert_eq!(&described["partition_states"][1]["member"], id);
    assert_eq!(described["partition_states"][1]["high_watermark"], 10);
    let text = shell.says(&["group", "describe", "g"]).stdout;
    assert!(
        text.contains("PARTITION") && text.contains("active"),
        "{text}"
    );

    for (verb, hint) in [
        (
            &["reset", "g", "-t", "t", "--to", "earliest"][..],
            "--force",
        ),
        (&["delete", "g"], "stop them first"),
    ] {
        let refused = shell
            .verb(&[&["group"], verb, &["-o", "json"]].concat())
            .run();
        assert_eq!(refused.code, 1);
        let error: Value = serde_json::from_str(&refused.stderr).unwrap();
        assert_eq!(error["reason"], "GROUP_ACTIVE");
        let told = error["error"].as_str().unwrap();
        assert!(told.contains(hint), "{told}");
        assert!(told.contains("session timeout"), "who is away: {told}");
    }
    // By force, its member begins again.
    let forced = [
        "group", "reset", "g", "-t", "t", "--to", "8", "-p", "1", "--force",
    ];
    shell.says(&forced);
    assert_eq!(lines(&mut stdout, 2), ["1 8\n", "1 9\n"]);
    send(Signal::TERM, &child);
    ends_well(child);
}

#[test]
fn named_member_that_pauses_finds_its_partitions_again() {
    let shell = Shell::start();
    let (a, _a) = shell.consume(&["--member-name", "a"]);
    let (b, _b) = shell.consume(&["--member-name", "b"]);
    let owners = shell.owners(2);
    assert_ne!(owners[0], owners[1]);
    send(Signal::TERM, &a);
    ends_well(a);
    // Its time to come again is long: the broker's default, 10 seconds.
    assert_eq!(shell.owners(1), owners);
    let (a, _a) = shell.consume(&["--member-name", "a"]);
    assert_eq!(shell.owners(2), owners);
    for child in [a, b] {
        send(Signal::TERM, &child);
        ends_well(child);
    }
}

#[test]
fn who_gets_no_partition_does_not_wait_for_an_end() {
    let shell = Shell::start();
    let (a, _a) = shell.consume(&["--member-name", "a"]);
    let (b, _b) = shell.consume(&["--member-name", "b"]);
    shell.owners(2);
    let third = ["consume", "t", "-g", "g", "--until-end"];
    let done = shell.says(&third);
    assert_eq!(done.stdout, "");
    let note = "the others of group g have all partitions";
    assert!(done.stderr.contains(note), "{}", done.stderr);
    let pattern = ["consume", "none.*", "-g", "other", "--until-end"];
    let done = shell.says(&pattern);
    let note = "there is no topic to read";
    assert!(done.stderr.contains(note), "{}", done.stderr);
    for child in [a, b] {
        send(Signal::TERM, &child);
        ends_well(child);
    }
}

#[test]
fn group_without_members_goes_on_where_it_is_reset_to() {
    let shell = Shell::start();
    shell.says(&["consume", "t", "-g", "g", "--until-end"]);
    let reset = [
        "group", "reset", "g", "--topic", "t", "--to", "3", "-p", "1", "-o", "json",
    ];
    let partitions = shell.says(&reset).json();
    assert_eq!(partitions.as_array().unwrap().len(), 1);
    assert_eq!(partitions[0]["committed_offset"], 3);
    assert_eq!(partitions[0]["lag"], 7);
    let described = shell.describe();
    assert_eq!(
        (&described["state"], &described["lag"]),
        (&json!("empty"), &json!(7))
    );
    let again = ["consume", "t", "-g", "g", "--until-end"];
    assert_eq!(shell.says(&again).stdout.lines().next(), Some("1-3"));
    shell.says(&["group", "rm", "g"]);
    let gone = shell.verb(&["group", "describe", "g", "-o", "json"]).run();
    assert_eq!(gone.code, 1);
    let error: Value = serde_json::from_str(&gone.stderr).unwrap();
    assert_eq!(error["reason"], "GROUP_NOT_FOUND");
}

#[test]
fn what_a_group_left_behind_is_no_lag_and_can_be_forgotten() {
    let shell = Shell::start();
    shell.says(&["topic", "create", "u"]);
    shell.says(&["consume", "t", "-g", "g", "-n", "5"]);
    let lag = || shell.describe()["lag"].clone();
    assert!(lag().as_u64().unwrap() > 0, "nobody reads it just now");
    let mut child = statecast()
        .args(["consume", "u", "-g", "g", "--member-name", "a"])
        .env("STATECAST_ENDPOINT", shell.broker.endpoint())
        .spawn()
        .unwrap();
    while shell.describe()["members"] != 1 || shell.describe()["state"] != "stable" {}
    assert_eq!(lag(), 0);
    let text = shell.says(&["group", "describe", "g"]).stdout;
    assert!(text.contains("left behind"), "{text}");
    shell.says(&["group", "delete", "g", "--topic", "t"]);
    let text = shell.says(&["group", "describe", "g"]).stdout;
    assert!(!text.contains("left behind"), "{text}");
    send(Signal::TERM, &child);
    assert!(child.wait().unwrap().success());
}

#[test]
fn group_that_may_start_nowhere_says_so() {
    let shell = Shell::start();
    let fail = ["consume", "t", "-g", "g", "--from", "fail", "-o", "json"];
    let failed = shell.verb(&fail).run();
    assert_eq!((failed.code, &*failed.stdout), (1, ""));
    let error: Value = serde_json::from_str(&failed.stderr).unwrap();
    assert_eq!(error["reason"], "NO_COMMITTED_OFFSET");
    let latest = ["consume", "t", "-g", "g", "--from", "latest", "--until-end"];
    assert_eq!(shell.says(&latest).stdout, "");
}

#[test]
fn what_groups_cannot_mean_is_a_usage_error() {
    for args in [
        &["consume", "t", "u"][..],
        &["consume", "t", "--group", "g", "--partition", "1"],
        &["consume", "t", "--group", "g", "--from", "7"],
        &["consume", "t", "--from", "fail"],
        &["consume", "t", "--member-name", "a"],
        &["group", "reset", "g", "--topic", "t"],
        &["group", "reset", "g", "--topic", "t", "--to", "fail"],
        &["group", "delete"],
        &["bench", "group", "commits", "--members", "0"],
    ] {
        // Nobody is asked.
        let usage = Verb::new("http://127.0.0.1:1", args).run();
        assert_eq!(usage.code, 2, "{args:?}: {}", usage.stderr);
    }
}

#[test]
fn topic_that_is_not_there_is_said_and_no_end_is_waited_for() {
    let shell = Shell::start();
    let mistyped = ["consume", "nope", "-g", "g", "--until-end", "-o", "json"];
    let refused = shell.verb(&mistyped).run();
    assert_eq!(refused.code, 1);
    let error: Value = serde_json::from_str(&refused.stderr).unwrap();
    assert_eq!(error["reason"], "TOPIC_NOT_FOUND");
}

#[test]
fn benches_of_groups_report_figures() {
    let shell = Shell::start();
    for (bench, args, figure) in [
        (
            "rebalance",
            &["--records", "20000", "--record-size", "64", "--batch", "20"][..],
            "records_per_s",
        ),
        (
            "commits",
            &["--members", "3", "--commits", "300"],
            "commits_per_s",
        ),
        (
            "join",
            &["--members", "20", "--leave", "5", "--partitions", "30"],
            "stable_s",
        ),
    ] {
        let args = [&["bench", "group", bench, "-o", "json"], args].concat();
        let report = shell.says(&args).json();
        assert_eq!(report["workload"], format!("group-{bench}"));
        assert!(report["median"][figure].as_f64().unwrap() > 0.0, "{report}");
    }
    let left = shell.says(&["topic", "list", "bench", "-o", "json"]).json();
    assert_eq!(left, json!([]), "benches delete their topics");
}
