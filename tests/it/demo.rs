//! `statecast demo`, where there is no terminal.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::statecast;

/// The demo, with temporary directories in here.
fn demo(temporary: &Path, args: &[&str]) -> Command {
    let mut command = statecast();
    command.arg("demo").args(args).env("TMPDIR", temporary);
    command
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).unwrap().next().is_none()
}

#[test]
fn demo_shows_that_views_equal_the_fold_and_leaves_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let output = demo(temporary.path(), &["--rate", "1000000"])
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    assert!(
        stdout.contains("views equal the log's fold: yes"),
        "{stdout}"
    );
    assert!(
        stdout.contains("1600 in 595 commits, 135 files in the end"),
        "{stdout}"
    );
    assert!(stdout.contains("statecast state watch lamps"), "{stdout}");
    assert!(
        stderr.contains("1600 of 1600 changes: 135 files"),
        "{stderr}"
    );
    assert!(stderr.contains("another view began at change "), "{stderr}");
    assert!(!stdout.contains('\x1b') && !stderr.contains('\x1b'));
    assert!(is_empty(temporary.path()));
}

#[test]
fn demo_tells_programs_how_it_went() {
    let temporary = tempfile::tempdir().unwrap();
    let args = ["--rate", "1000000", "-o", "json"];
    let output = demo(temporary.path(), &args).output().unwrap();
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["view_equals_fold"], true);
    assert_eq!(
        (&told["changes"], &told["files"]),
        (&1600.into(), &135.into())
    );
    assert!(told["median_lag_us"].as_u64().unwrap() > 1);
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn demo_that_is_interrupted_leaves_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let mut child = demo(temporary.path(), &[])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.starts_with("a broker serves on 127.0.0.1:"), "{line}");
    assert!(!is_empty(temporary.path()));
    let pid = i32::try_from(child.id()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::INT).unwrap();
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(
        rest.ends_with("error: interrupted before the end\n"),
        "{rest}"
    );
    assert!(is_empty(temporary.path()));
}
