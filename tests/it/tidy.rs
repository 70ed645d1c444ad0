//! The rules of the code base, proved by reading its sources: which layer may
//! know which, and how large files and functions may grow.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file, not counting its inline tests.
const FILE_LINES: usize = 450;

/// Lines of a file of tests, or of what only tests use.
const TEST_FILE_LINES: usize = 600;

/// Lines of a function, from its signature to its last brace. Some 70 are the
/// rule; what is longer by a few reads no better in two.
const FUNCTION_LINES: usize = 85;

/// The layers of the broker, lowest first. Those of one rank are siblings and
/// don't know each other.
const LAYERS: [(&str, u32); 11] = [
    ("model", 0),
    ("storage", 1),
    ("metadata", 1),
    ("group", 1),
    ("state", 1),
    ("partition", 2),
    ("coordinator", 2),
    ("views", 3),
    ("broker", 4),
    ("server", 5),
    ("cli", 6),
];

/// Where in the broker these crates may be named; everything else may not.
const CONFINED: [(&str, &[&str]); 9] = [
    ("sled", &["metadata/index.rs"]),
    ("tonic", &["server/"]),
    ("tonic_types", &["server/"]),
    ("tonic_health", &["server/"]),
    ("tonic_reflection", &["server/"]),
    ("axum", &["server/"]),
    ("clap", &["cli/"]),
    (
        "tokio",
        &[
            "partition/",
            "coordinator/",
            "views/",
            "broker/",
            "server/",
            "cli/",
        ],
    ),
    ("statecast_proto", &["views/", "broker/", "server/", "cli/"]),
];

struct Source {
    /// Relative to the `src` that it lies in, with `/`.
    path: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dir: &str) -> Vec<Source> {
    let base = root().join(dir);
    let mut files = Vec::new();
    collect(&base, &mut files);
    assert!(!files.is_empty(), "{dir} has sources");
    files.sort();
    let source = |path: PathBuf| Source {
        path: path
            .strip_prefix(&base)
            .unwrap()
            .to_str()
            .unwrap()
            .replace('\\', "/"),
        text: fs::read_to_string(&path).unwrap(),
    };
    files.into_iter().map(source).collect()
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The code of a file: no inline tests, no comments.
fn code(source: &Source) -> Vec<&str> {
    without_tests(&source.text)
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect()
}

fn without_tests(text: &str) -> impl Iterator<Item = &str> {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..end].lines()
}

fn is_test(source: &Source) -> bool {
    let parts = ["tests", "tests.rs", "sim.rs"];
    source.path.split('/').any(|part| parts.contains(&part))
}

/// The names that follow `prefix` in a line, such as modules behind `crate::`.
fn names_behind<'a>(line: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    line.match_indices(prefix).map(move |(at, _)| {
        let rest = &line[at + prefix.len()..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        &rest[..end.unwrap_or(rest.len())]
    })
}

/// Whether a line names a crate, as a path or in a `use`.
fn names_crate(line: &str, name: &str) -> bool {
    line.match_indices(&format!("{name}::")).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
    })
}

fn assert_none(offences: &str) {
    assert!(offences.is_empty(), "\n{offences}");
}

#[test]
fn arrows_between_layers_point_down() {
    let rank_of = |name: &str| {
        LAYERS
            .iter()
            .find(|(layer, _)| *layer == name)
            .map(|(_, rank)| *rank)
    };
    let mut offences = String::new();
    for source in sources("broker/src") {
        let layer = source.path.split(['/', '.']).next().unwrap();
        let Some(rank) = rank_of(layer) else { continue };
        for line in code(&source) {
            for known in names_behind(line, "crate::") {
                let too_high = rank_of(known).is_some_and(|other| other >= rank);
                if too_high && known != layer {
                    writeln!(offences, "{}: {layer} knows {known}: {line}", source.path).unwrap();
                }
            }
        }
    }
    assert_none(&offences);
}

#[test]
fn crates_are_known_where_they_belong() {
    let mut offences = String::new();
    for source in sources("broker/src")
        .iter()
        .filter(|source| !is_test(source))
    {
        for (name, places) in CONFINED {
            if places.iter().any(|place| source.path.starts_with(place)) {
                continue;
            }
            for line in code(source).iter().filter(|line| names_crate(line, name)) {
                writeln!(offences, "{} knows {name}: {line}", source.path).unwrap();
            }
        }
    }
    assert_none(&offences);
}

#[test]
fn only_the_server_knows_generated_types() {
    let mut offences = String::new();
    for source in sources("broker/src")
        .iter()
        .filter(|source| !is_test(source))
    {
        if source.path.starts_with("server/") {
            continue;
        }
        for line in code(source) {
            if line.contains("statecast_proto::v1") {
                writeln!(offences, "{}: {line}", source.path).unwrap();
            }
        }
    }
    assert_none(&offences);
}

#[test]
fn the_client_does_not_depend_on_the_broker() {
    let manifest = fs::read_to_string(root().join("client/Cargo.toml")).unwrap();
    let dependencies = manifest.split("[dev-dependencies]").next().unwrap();
    assert!(!dependencies.contains("statecast-broker"));
}

#[test]
fn the_client_shows_no_tonic_type() {
    let mut offences = String::new();
    for source in sources("client/src") {
        for line in code(&source) {
            let shown = line.trim_start().starts_with("pub ");
            if shown && names_crate(line, "tonic") {
                writeln!(offences, "{}: {line}", source.path).unwrap();
            }
        }
    }
    assert_none(&offences);
}

#[test]
fn examples_in_the_client_run() {
    let mut offences = String::new();
    for source in sources("client/src") {
        for line in source.text.lines() {
            let fence = line.split_once("```").map_or("", |(_, fence)| fence);
            if fence.contains("no_run") || fence.contains("ignore") {
                writeln!(offences, "{}: {line}", source.path).unwrap();
            }
        }
    }
    assert_none(&offences);
}

#[test]
fn files_stay_small() {
    let mut offences = String::new();
    for dir in ["broker/src", "client/src", "proto/src", "tests/it"] {
        for source in sources(dir) {
            let lines = without_tests(&source.text).count();
            let bound = if is_test(&source) {
                TEST_FILE_LINES
            } else {
                FILE_LINES
            };
            if lines > bound {
                writeln!(offences, "{dir}/{} has {lines} lines", source.path).unwrap();
            }
        }
    }
    assert_none(&offences);
}

#[test]
fn functions_stay_small() {
    let mut offences = String::new();
    for dir in ["broker/src", "client/src", "proto/src", "tests/it"] {
        for source in sources(dir) {
            for (name, lines) in functions(&source.text) {
                if lines > FUNCTION_LINES {
                    writeln!(offences, "{dir}/{}: {name} has {lines} lines", source.path).unwrap();
                }
            }
        }
    }
    assert_none(&offences);
}

/// Functions with their lengths in lines. Relies on rustfmt: the last brace is
/// indented as the signature is.
fn functions(text: &str) -> Vec<(&str, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let signature = line.trim_start();
        let is_function = signature.starts_with("fn ")
            || (signature.starts_with("pub") || signature.starts_with("async "))
                && signature.contains("fn ");
        if !is_function || signature.ends_with(';') {
            continue;
        }
        let ends = |line: &&str| indent(line) == indent(lines[start]) && line.trim() == "}";
        if let Some(length) = lines[start..].iter().position(ends) {
            found.push((signature, length + 1));
        }
    }
    found
}

#[test]
fn exceptions_to_lints_say_why() {
    let mut offences = String::new();
    for dir in ["broker/src", "client/src", "proto/src"] {
        for source in sources(dir) {
            let lines: Vec<&str> = source.text.lines().collect();
            for (at, line) in lines.iter().enumerate() {
                let attribute = line.trim_start();
                if !attribute.starts_with("#[allow(") && !attribute.starts_with("#[expect(") {
                    continue;
                }
                let explained = lines[..at]
                    .iter()
                    .rev()
                    .take(6)
                    .any(|before| before.contains("//"))
                    || lines[at..]
                        .iter()
                        .take(4)
                        .any(|part| part.contains("reason ="));
                if !explained {
                    writeln!(offences, "{dir}/{}:{}: {line}", source.path, at + 1).unwrap();
                }
            }
        }
    }
    assert_none(&offences);
}
