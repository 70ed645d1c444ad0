//! `statecast state` and `statecast lease`: what they print and how they end.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Binary, Done, Verb, statecast};

/// A broker with a compacted topic `t`, and a way to say verbs to it.
struct Shell {
    broker: Binary,
    _data: TempDir,
}

impl Shell {
    fn start(partitions: u32) -> Shell {
        let data = tempfile::tempdir().unwrap();
        let shell = Shell {
            broker: Binary::serve(data.path()),
            _data: data,
        };
        let partitions = partitions.to_string();
        shell.says(&[
            "topic",
            "create",
            "t",
            "--cleanup",
            "compact",
            "-p",
            &partitions,
        ]);
        shell
    }

    fn verb(&self, args: &[&str]) -> Verb {
        Verb::new(&self.broker.endpoint(), args)
    }

    fn says(&self, args: &[&str]) -> Done {
        self.verb(args).succeeds()
    }

    /// What a verb prints that succeeds.
    fn printed(&self, args: &[&str]) -> String {
        self.says(args).stdout
    }

    /// Starts a verb that doesn't end by itself.
    fn begin(&self, args: &[&str]) -> Running {
        let mut child = statecast()
            .args(args)
            .env("STATECAST_ENDPOINT", self.broker.endpoint())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Running { child, stdout }
    }
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// A verb that runs.
struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Running {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end_matches('\n').to_owned()
    }

    /// Interrupts it; its exit code, and what it wrote on standard error.
    fn interrupt(mut self) -> (Option<i32>, String) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::INT).unwrap();
        let mut stderr = String::new();
        let mut pipe = self.child.stderr.take().unwrap();
        pipe.read_to_string(&mut stderr).unwrap();
        (self.child.wait().unwrap().code(), stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn keys_are_put_read_and_removed() {
    let shell = Shell::start(4);
    let put = shell.verb(&words("state put t lamp on -H by=me --expect-absent"));
    let put = put.succeeds();
    let version = put.stdout.trim_end();
    assert!(put.stderr.starts_with("put lamp in t/"), "{}", put.stderr);
    assert_eq!(shell.printed(&words("state get t lamp")), "on\n");
    let format = ["state", "get", "t", "lamp", "--format", "%k=%v %V %h\\n"];
    assert_eq!(shell.printed(&format), format!("lamp=on {version} by=me\n"));
    let got = shell.says(&words("state get t lamp -o json")).json();
    assert_eq!((&got["key"], &got["value"]), (&json!("lamp"), &json!("on")));
    assert_eq!(
        (&got["lease"], got["version"].to_string()),
        (&Value::Null, version.to_owned())
    );

    let removed = shell.printed(&words("state delete t lamp"));
    let gone = shell.verb(&words("state get t lamp")).run();
    let told = "error: topic t has no key \"lamp\"\n";
    assert_eq!((gone.code, &*gone.stdout, &*gone.stderr), (1, "", told));
    let before = format!("state get t lamp --as-of {removed}");
    assert_eq!(shell.printed(&words(&before)), "on\n");
}

#[test]
fn key_is_changed_only_in_the_version_that_is_expected() {
    let shell = Shell::start(4);
    let version = shell.printed(&words("state put t lamp on"));
    let late = shell
        .verb(&words("state put t lamp off --expect-absent"))
        .run();
    assert_eq!((late.code, &*late.stdout), (1, ""));
    let refused = |verb: &str| {
        let done = shell.verb(&words(verb)).run();
        assert_eq!(done.code, 1);
        serde_json::from_str::<Value>(&done.stderr).unwrap()
    };
    let never = refused("state delete t lamp --expect-version 77 -o json");
    assert_eq!(never["reason"], "VERSION_UNKNOWN");

    let args = format!("state put t lamp off --expect-version {version} -o json");
    let put = shell.says(&words(&args)).json();
    assert_eq!(
        (&put["topic"], &put["version"]),
        (&json!("t"), &put["offset"])
    );
    let again = refused(&args);
    assert_eq!(again["reason"], "VERSION_MISMATCH");
    let (current, is) = (&again["metadata"]["current_version"], &put["version"]);
    assert_eq!(*current, is.to_string());
    shell.says(&words(&format!(
        "state delete t lamp --expect-version {is}"
    )));
}

#[test]
fn value_comes_from_a_file_or_standard_input_as_it_is() {
    let shell = Shell::start(1);
    let put = ["state", "put", "t", "key", "--file", "-"];
    shell.verb(&put).with_input("two\nlines\n").succeeds();
    let get = ["state", "get", "t", "key", "--format", "%v"];
    assert_eq!(shell.printed(&get), "two\nlines\n");
    let missing = shell
        .verb(&["state", "put", "t", "key", "--file", "/no/such"])
        .run();
    assert_eq!(missing.code, 1);
    assert!(missing.stderr.contains("/no/such"), "{}", missing.stderr);
}

#[test]
fn scan_prints_keys_in_their_order_and_as_they_were() {
    let shell = Shell::start(1);
    let keys = "b\t1\na/2\t1\na/1\t1\na/2\t2\n";
    let produce = ["produce", "t", "--key-delimiter", "\\t"];
    shell.verb(&produce).with_input(keys).succeeds();
    let scan = |args: &[&str]| shell.printed(&[&["state", "scan", "t"], args].concat());
    assert_eq!(scan(&[]), "a/1\t1\na/2\t2\nb\t1\n");
    assert_eq!(
        scan(&["--prefix", "a/", "--format", "%k %o\\n"]),
        "a/1 2\na/2 3\n"
    );
    assert_eq!(scan(&["--as-of", "0:3"]), "a/1\t1\na/2\t1\nb\t1\n");
    assert_eq!(scan(&["--at-least", "0:3", "--prefix", "c"]), "");
    let json: Vec<Value> = scan(&["-o", "json"])
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(json.len(), 3);
    assert_eq!(
        (&json[0]["key"], &json[0]["offset"]),
        (&json!("a/1"), &json!(2))
    );
    let lone = shell.verb(&["state", "scan", "t", "--as-of", "3"]).run();
    assert_eq!(lone.code, 2);
    assert!(lone.stderr.contains("PARTITION:3"), "{}", lone.stderr);
}

#[test]
fn watch_prints_what_there_is_and_then_every_change_until_it_is_interrupted() {
    let shell = Shell::start(1);
    shell.says(&["state", "put", "t", "b", "1"]);
    shell.says(&["state", "put", "t", "a", "1"]);
    let once = shell.says(&["state", "watch", "t", "--until-synced"]);
    assert_eq!(once.stdout, "put a\t1\nput b\t1\n");
    assert_eq!(once.stderr, "synced: 0:2\n");

    let mut watch = shell.begin(&["state", "watch", "t"]);
    assert_eq!([watch.line(), watch.line()], ["put a\t1", "put b\t1"]);
    let mut keys = shell.begin(&["state", "watch", "t", "-k", "a", "-f", "%c %o %k\\n"]);
    assert_eq!(keys.line(), "put 1 a");
    let mut json = shell.begin(&["state", "watch", "t", "--prefix", "a", "-o", "json"]);
    let mut next = || serde_json::from_str::<Value>(&json.line()).unwrap();
    assert_eq!(next()["change"], "put");
    let synced = next();
    assert_eq!(
        (&synced["change"], &synced["next_offsets"]),
        (&json!("synced"), &json!([2]))
    );
    shell.says(&["state", "put", "t", "b", "2"]);
    shell.says(&["state", "delete", "t", "a"]);
    assert_eq!([watch.line(), watch.line()], ["put b\t2", "removed a"]);
    assert_eq!(keys.line(), "removed 3 a");
    let removed = next();
    assert_eq!(
        (&removed["change"], &removed["offset"]),
        (&json!("removed"), &json!(3))
    );
    assert_eq!(watch.interrupt(), (Some(0), "synced: 0:2\n".to_owned()));
    assert_eq!(keys.interrupt().0, Some(0));
}

#[test]
fn watch_goes_on_from_the_offsets_that_it_is_told() {
    let shell = Shell::start(1);
    for (key, value) in [("a", "1"), ("b", "1"), ("a", "2")] {
        shell.says(&["state", "put", "t", key, value]);
    }
    shell.says(&["state", "delete", "t", "b"]);
    let from =
        |from: &str| ["state", "watch", "t", "--until-synced", "--from", from].map(str::to_owned);
    let says = |args: &[String]| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        shell.verb(&args).run()
    };
    let since = says(&from("0:2"));
    assert_eq!((since.code, &*since.stdout), (0, "put a\t2\nremoved b\n"));
    assert_eq!(since.stderr, "synced: 0:4\n");
    let json = says(&[&from("0:3")[..], &["-o".to_owned(), "json".to_owned()]].concat());
    let told: Vec<Value> = json
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        (&told[0]["change"], &told[0]["key"]),
        (&json!("removed"), &json!("b"))
    );
    assert_eq!(
        (&told[1]["change"], &told[1]["next_offsets"]),
        (&json!("synced"), &json!([4]))
    );
    assert_eq!(told.len(), 2);
    assert_eq!(says(&from("1:3")).code, 2, "one partition lacks");
    assert_eq!(says(&from("0:3,1:3")).code, 1, "there is no such partition");
    assert_eq!(says(&from("0:5")).code, 1, "it lies beyond the end");
}

#[test]
fn reader_that_goes_away_ends_a_watch_quietly() {
    let shell = Shell::start(1);
    shell.says(&["state", "put", "t", "a", "1"]);
    let mut watch = shell.begin(&["state", "watch", "t", "-q"]);
    assert_eq!(watch.line(), "put a\t1");
    let Running { child, stdout } = &mut watch;
    let pipe = std::mem::replace(stdout, BufReader::new(empty_pipe()));
    drop(pipe);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Something to hold in place of a pipe that was closed.
fn empty_pipe() -> ChildStdout {
    let mut child = statecast()
        .arg("--version")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = child.stdout.take().unwrap();
    child.wait().unwrap();
    stdout
}

#[test]
fn lease_takes_its_keys_with_it() {
    let shell = Shell::start(1);
    let id = shell.printed(&["lease", "grant", "--ttl", "1h"]);
    let id = id.trim_end();
    shell.says(&["state", "put", "t", "web/1", "here", "--lease", id]);
    let entry = shell
        .says(&["state", "get", "t", "web/1", "-o", "json"])
        .json();
    assert_eq!(entry["lease"].to_string(), id);
    assert_eq!(shell.printed(&["lease", "revoke", id]), "1\n");
    assert_eq!(shell.verb(&["state", "get", "t", "web/1"]).run().code, 1);
    let again = shell.verb(&["lease", "revoke", id, "-o", "json"]).run();
    let refused: Value = serde_json::from_str(&again.stderr).unwrap();
    assert_eq!(
        (again.code, &refused["reason"]),
        (1, &json!("LEASE_EXPIRED"))
    );

    let mut kept = shell.begin(&["lease", "grant", "--ttl", "1s", "--keep-alive"]);
    let id = kept.line();
    shell.says(&["state", "put", "t", "web/2", "here", "--lease", &id]);
    let (code, stderr) = kept.interrupt();
    assert_eq!(code, Some(0));
    assert!(stderr.contains("keys removed: 1"), "{stderr}");
    assert_eq!(shell.printed(&["state", "scan", "t"]), "");
}

#[test]
fn what_makes_no_sense_is_a_usage_error_and_what_has_no_state_is_refused() {
    let shell = Shell::start(1);
    for args in [
        &["state", "put", "t", "key"][..],
        &["state", "put", "t", "key", "value", "--file", "f"],
        &[
            "state",
            "put",
            "t",
            "key",
            "value",
            "--expect-absent",
            "--expect-version",
            "1",
        ],
        &["state", "get", "t", "key", "--as-of", "latest"],
        &["state", "get", "t", "key", "--format", "%c%"],
        &["state", "watch", "t", "--prefix", "a", "-k", "b"],
        &["lease", "grant", "--ttl", "0s"],
    ] {
        assert_eq!(shell.verb(args).run().code, 2, "{args:?}");
    }
    shell.says(&["topic", "create", "log"]);
    for args in [
        &["state", "get", "log", "key"][..],
        &["state", "scan", "log"],
        &["state", "watch", "log"],
        &["state", "put", "log", "key", "value"],
    ] {
        let refused = shell.verb(&[args, &["-o", "json"]].concat()).run();
        let told: Value = serde_json::from_str(&refused.stderr).unwrap();
        assert_eq!(
            (refused.code, &told["reason"]),
            (1, &json!("TOPIC_NOT_COMPACTED")),
            "{args:?}"
        );
    }
}
