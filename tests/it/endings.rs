//! How client verbs end: by a signal, without a reader, on a full disk.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Binary, Verb, statecast};

/// A broker with the topic `t`.
fn broker() -> (Binary, TempDir) {
    let data = tempfile::tempdir().unwrap();
    let broker = Binary::serve(data.path());
    Verb::new(&broker.endpoint(), &["topic", "create", "t"]).succeeds();
    (broker, data)
}

fn produce(broker: &Binary, input: &str) {
    let produce = Verb::new(&broker.endpoint(), &["produce", "t"]);
    produce.with_input(input).succeeds();
}

/// A verb that runs until it is made to end.
fn start(broker: &Binary, args: &[&str]) -> Child {
    let mut command = statecast();
    command
        .args(args)
        .env("STATECAST_ENDPOINT", broker.endpoint());
    piped(&mut command).spawn().unwrap()
}

fn piped(command: &mut Command) -> &mut Command {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
}

fn send(signal: Signal, child: &Child) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

#[test]
fn consume_ends_quietly_when_its_reader_goes_away() {
    let (broker, _data) = broker();
    produce(&broker, "first\nsecond\n");
    let mut child = start(&broker, &["consume", "t"]);
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    assert_eq!(
        line, "first\n",
        "what is there is printed without waiting for more"
    );
    drop(stdout);
    // No record comes that a write could fail with.
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn consume_ends_well_when_it_is_told_to() {
    let (broker, _data) = broker();
    produce(&broker, "first\n");
    for signal in [Signal::INT, Signal::TERM] {
        let mut child = start(&broker, &["consume", "t"]);
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        // It heeds signals before it prints.
        stdout.read_line(&mut line).unwrap();
        send(signal, &child);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{signal:?}");
    }
}

#[test]
fn consume_that_is_interrupted_before_the_end_it_was_asked_for_fails() {
    let (broker, _data) = broker();
    produce(&broker, "first\n");
    for signal in [Signal::INT, Signal::TERM] {
        let mut child = start(&broker, &["consume", "t", "-n", "2"]);
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "first\n");
        send(signal, &child);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{signal:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(stderr, "error: interrupted before 2 records\n");
    }
}

#[test]
fn consume_succeeds_only_with_all_that_it_was_asked_for() {
    let (broker, _data) = broker();
    let lines = 200_000;
    produce(&broker, &"a line\n".repeat(lines));
    let mut child = start(&broker, &["consume", "t", "--until-end"]);
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    stdout.read_line(&mut first).unwrap();
    // It has not printed all of it yet: nobody reads on. Whether it heeds the
    // signal before it has is its own affair.
    send(Signal::INT, &child);
    let printed = 1 + stdout.lines().map_while(Result::ok).count();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.success(), printed == lines, "{printed} lines");
}

#[test]
fn produce_that_is_interrupted_tells_what_it_sent_and_fails() {
    let (broker, _data) = broker();
    for (number, signal) in [Signal::INT, Signal::TERM].into_iter().enumerate() {
        let mut child = start(&broker, &["produce", "t", "-o", "json"]);
        let stdin = child.stdin.as_mut().unwrap();
        stdin.write_all(b"whole\npart").unwrap();
        // When the line has arrived, the verb waits for the next one.
        let from = number.to_string();
        let consume = ["consume", "t", "--from", &from, "-n", "1"];
        let consumed = Verb::new(&broker.endpoint(), &consume).succeeds();
        assert_eq!(consumed.stdout, "whole\n");
        send(signal, &child);
        // Its standard input stays open: it isn't the end of that which ends it.
        let stdin = child.stdin.take();
        let output = child.wait_with_output().unwrap();
        drop(stdin);
        assert_eq!(output.status.code(), Some(1), "{signal:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        let lines: Vec<Value> = stderr
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines[0]["sent"], 1, "{stderr}");
        assert_eq!(lines[0]["acknowledged"], 1, "{stderr}");
        assert_eq!(lines[1]["error"], "interrupted before the end of the input");
    }
}

#[test]
fn verb_that_cannot_print_says_so() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    for args in [
        &["config", "show"][..],
        &["config", "show", "-o", "json"],
        &["completions", "bash"],
        &["man"],
    ] {
        let stdout = full.try_clone().unwrap();
        let output = statecast().args(args).stdout(stdout).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("can't write"), "{args:?}: {stderr}");
    }
}
