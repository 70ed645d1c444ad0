//! `statecast inspect` on what a broker left behind.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::support::{Binary, Verb};

/// No broker is there to talk to.
fn inspect(path: &Path, more: &[&str]) -> Verb {
    let path = path.to_str().unwrap();
    Verb::new("http://127.0.0.1:1", &[&["inspect", path], more].concat())
}

/// A data directory with 500 records, after a kill -9.
fn data_dir() -> tempfile::TempDir {
    let data = tempfile::tempdir().unwrap();
    let broker = Binary::serve(data.path());
    let lines = (0..100)
        .map(|number| number.to_string() + "\n")
        .collect::<String>();
    let endpoint = broker.endpoint();
    Verb::new(&endpoint, &["topic", "create", "t"]).succeeds();
    // One after the other: what follows proves that those before it were durable.
    for _ in 0..5 {
        let produce = Verb::new(&endpoint, &["produce", "t"]);
        produce.with_input(&lines).succeeds();
    }
    let refused = inspect(data.path(), &[]).run();
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("in use"), "{}", refused.stderr);
    drop(broker);
    data
}

/// The file with the most records, and where the first batch of them begins.
/// Whether that is a segment depends on how far the archiver came. There are four
/// files at most, so it holds records of two calls; in a journal file, those of
/// the second prove that those of the first were durable.
fn fullest_file(data: &Path) -> (PathBuf, u64) {
    let found = inspect(data, &["-o", "json"]).succeeds().json();
    let files = found["files"].as_array().unwrap();
    let fullest = files.iter().max_by_key(|file| file["records"].as_u64());
    let fullest = fullest.unwrap();
    let first = match fullest["kind"].as_str().unwrap() {
        "active segment" => 64,
        _ => 4096,
    };
    (data.join(fullest["path"].as_str().unwrap()), first)
}

#[test]
fn what_a_killed_broker_left_is_sound_and_counted() {
    let data = data_dir();
    let json = inspect(data.path(), &["-o", "json"]).succeeds().json();
    assert_eq!(json["sound"], true);
    let files = json["files"].as_array().unwrap();
    let records = files.iter().filter_map(|file| file["records"].as_u64());
    assert!(records.sum::<u64>() >= 500, "{json}");
    let table = inspect(data.path(), &[]).succeeds().stdout;
    assert!(table.contains("checkpoint"), "{table}");
    let (file, _) = fullest_file(data.path());
    inspect(&file, &[]).succeeds();
}

#[test]
fn damage_is_named_and_ends_with_exit_code_1() {
    let data = data_dir();
    let (path, first) = fullest_file(data.path());
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0xff; 100], first).unwrap();
    let before = fs::read(&path).unwrap();
    let found = inspect(data.path(), &[]).run();
    assert_eq!(found.code, 1, "{}", found.stdout);
    assert!(found.stdout.contains("damaged: "), "{}", found.stdout);
    assert!(found.stderr.contains("damaged"), "{}", found.stderr);
    let alone = inspect(&path, &["-o", "json"]).run();
    assert_eq!(alone.code, 1);
    assert_eq!(alone.json()["sound"], false);
    assert!(fs::read(&path).unwrap() == before, "nothing is mended");
}

#[test]
fn file_of_something_else_is_called_unknown() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("big.txt");
    fs::write(&path, "nothing of ours\n").unwrap();
    let found = inspect(&path, &[]).run();
    assert_eq!(found.code, 1);
    assert!(found.stdout.contains("unknown file"), "{}", found.stdout);
}

#[test]
fn path_that_is_not_there_is_not_made() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("none");
    assert_eq!(inspect(&path, &[]).run().code, 1);
    assert!(!path.exists());
}
