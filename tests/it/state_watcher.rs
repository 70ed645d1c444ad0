//! A watcher of the built binary that is killed again and again while a repository's
//! changes are loaded, and a broker that is killed once.
//!
//! What is expected is folded from the changes themselves: as they lie in the file, each
//! in the partition of its key, and each once.
//!
//! `STATECAST_REPO_DATA` names a directory with `repo-changes.tsv` and `repo-tree.tsv`, to
//! be taken instead of the first 300 changes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::thread::JoinHandle;

use serde_json::Value;
use statecast_proto::partition_for_key;

use crate::support::{Binary, Verb, statecast};

const PARTITIONS: u32 = 4;

/// Pieces in which the changes are loaded.
const CHUNKS: usize = 8;

/// The value of each key.
type Map = BTreeMap<String, String>;

fn data(name: &str) -> String {
    let path = match std::env::var_os("STATECAST_REPO_DATA") {
        Some(dir) => Path::new(&dir).join(format!("repo-{name}.tsv")),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("tests/it/fixtures/repo")
            .join(format!("{name}.tsv")),
    };
    std::fs::read_to_string(path).unwrap()
}

/// The changes, by their partitions and offsets. An empty value is a removal.
struct History<'a>(Vec<Vec<(&'a str, &'a str)>>);

impl<'a> History<'a> {
    fn of(changes: &'a str) -> History<'a> {
        let mut history = vec![Vec::new(); PARTITIONS as usize];
        for line in changes.lines() {
            let (key, value) = line.split_once('\t').unwrap();
            let partition = partition_for_key(key.as_bytes(), PARTITIONS);
            history[partition as usize].push((key, value));
        }
        History(history)
    }

    fn ends(&self) -> Vec<u64> {
        let ends = self.0.iter().map(|records| records.len() as u64);
        ends.collect()
    }

    fn fold(&self, next: &[u64]) -> Map {
        let mut fold = Map::new();
        for (records, &next) in self.0.iter().zip(next) {
            for &(key, value) in &records[..usize::try_from(next).unwrap()] {
                match value {
                    "" => drop(fold.remove(key)),
                    value => drop(fold.insert(key.to_owned(), value.to_owned())),
                }
            }
        }
        fold
    }
}

/// What somebody has who reads what a watcher prints.
#[derive(Default)]
struct Receiver {
    map: Map,
    /// The next offset of each partition; none before it was synced.
    next: Vec<u64>,
    /// The watcher that it hears has told that it was.
    is_synced: bool,
    /// What it had whenever it was synced.
    seen: Vec<(Vec<u64>, Map)>,
}

impl Receiver {
    fn hear(&mut self, line: &str) {
        let told: Value = serde_json::from_str(line).unwrap();
        let key = || told["key"].as_str().unwrap().to_owned();
        match told["change"].as_str().unwrap() {
            "put" => {
                self.advance(&told);
                let value = told["value"].as_str().unwrap();
                self.map.insert(key(), value.to_owned());
            }
            "removed" => {
                self.advance(&told);
                self.map.remove(&key());
            }
            "synced" => {
                let next = told["next_offsets"].as_array().unwrap();
                let next: Vec<u64> = next.iter().map(|next| next.as_u64().unwrap()).collect();
                assert!(self.next.iter().zip(&next).all(|(a, b)| a <= b), "{line}");
                self.seen.push((next.clone(), self.map.clone()));
                self.next = next;
                self.is_synced = true;
            }
            _ => panic!("{line}"),
        }
    }

    /// No change comes twice, and none is older than what was told before.
    fn advance(&mut self, told: &Value) {
        let partition = usize::try_from(told["partition"].as_u64().unwrap()).unwrap();
        let offset = told["offset"].as_u64().unwrap();
        // Before it is synced, it hears of what there is.
        if let Some(next) = self.next.get_mut(partition) {
            assert!(offset >= *next, "{told}");
            *next = offset + 1;
        }
    }

    fn records(&self) -> u64 {
        self.next.iter().sum()
    }
}

/// A watcher that runs.
struct Watcher {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Watcher {
    /// Goes on where the receiver is.
    fn start(broker: &Binary, receiver: &mut Receiver) -> Watcher {
        receiver.is_synced = false;
        let mut command = statecast();
        command.args(["state", "watch", "repo", "-o", "json"]);
        if receiver.next.is_empty() {
            // Of a snapshot that it has only a part of it can't go on.
            receiver.map.clear();
        } else {
            let places = (0..).zip(&receiver.next);
            let places = places.map(|(partition, next): (u32, _)| format!("{partition}:{next}"));
            let places: Vec<String> = places.collect();
            command.args(["--from", &places.join(",")]);
        }
        let mut child = command
            .env("STATECAST_ENDPOINT", broker.endpoint())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Watcher { child, stdout }
    }

    /// Hears one more line; false at the end. What was cut off counts for nothing.
    fn hear(&mut self, receiver: &mut Receiver) -> bool {
        let mut line = Vec::new();
        self.stdout.read_until(b'\n', &mut line).unwrap();
        let is_whole = line.ends_with(b"\n");
        if is_whole {
            receiver.hear(str::from_utf8(&line).unwrap());
        }
        is_whole
    }

    fn hear_until(&mut self, receiver: &mut Receiver, is_enough: impl Fn(&Receiver) -> bool) {
        while !is_enough(receiver) {
            assert!(self.hear(receiver), "it ended");
        }
    }

    /// Kills it, and hears what it had said.
    fn kill(mut self, receiver: &mut Receiver) {
        self.child.kill().unwrap();
        self.end(receiver);
    }

    /// Hears what it says before it ends.
    fn end(&mut self, receiver: &mut Receiver) {
        while self.hear(receiver) {}
        self.child.wait().unwrap();
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn load(broker: &Binary, changes: String) -> JoinHandle<()> {
    let endpoint = broker.endpoint();
    std::thread::spawn(move || {
        let produce = [
            "produce",
            "repo",
            "--key-delimiter",
            "\\t",
            "--empty-value-is-tombstone",
        ];
        Verb::new(&endpoint, &produce)
            .with_input(&changes)
            .succeeds();
    })
}

/// What `state scan` prints, as a map.
fn scanned(broker: &Binary) -> Map {
    let scan = Verb::new(&broker.endpoint(), &["state", "scan", "repo"]).succeeds();
    let pair = |line: &str| {
        let (key, value) = line.split_once('\t').unwrap();
        (key.to_owned(), value.to_owned())
    };
    scan.stdout.lines().map(pair).collect()
}

#[test]
fn a_watcher_that_is_killed_again_and_again_has_what_the_changes_fold_to() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Binary::serve(dir.path());
    let address = broker.endpoint().replace("http://", "");
    let create = "topic create repo --partitions 4 --cleanup compact";
    let create: Vec<&str> = create.split(' ').collect();
    Verb::new(&broker.endpoint(), &create).succeeds();

    let changes = data("changes");
    let lines: Vec<&str> = changes.lines().collect();
    let chunks: Vec<&[&str]> = lines.chunks(lines.len().div_ceil(CHUNKS)).collect();
    let mut receiver = Receiver::default();
    let mut watcher = None;
    let mut loaded = 0;
    for (number, chunk) in chunks.iter().enumerate() {
        let text: String = chunk.iter().flat_map(|line| [*line, "\n"]).collect();
        let loading = load(&broker, text);
        let half = (loaded + chunk.len() / 2) as u64;
        if number >= 2 {
            let mut now = watcher
                .take()
                .unwrap_or_else(|| Watcher::start(&broker, &mut receiver));
            now.hear_until(&mut receiver, |receiver| {
                receiver.is_synced && receiver.records() >= half
            });
            match number {
                2 | 3 | 5 => now.kill(&mut receiver),
                4 => {
                    broker.kill();
                    // It has lost its connection.
                    now.end(&mut receiver);
                    broker = Binary::serve_at(dir.path(), &address);
                }
                _ => watcher = Some(now),
            }
        }
        loading.join().unwrap();
        loaded += chunk.len();
    }

    let history = History::of(&changes);
    let ends = history.ends();
    let is_all = |receiver: &Receiver| receiver.next == ends;
    watcher.unwrap().hear_until(&mut receiver, is_all);
    let all = history.fold(&ends);
    assert_eq!(receiver.map, all);
    assert_eq!(scanned(&broker), all);
    let blob = |(key, value): (&String, &String)| {
        let value: Value = serde_json::from_str(value).unwrap();
        format!("{key}\t{}\n", value["blob"].as_str().unwrap())
    };
    assert_eq!(all.iter().map(blob).collect::<String>(), data("tree"));
    // At the beginning, and whenever it came again.
    assert!(receiver.seen.len() >= 5, "{}", receiver.seen.len());
    for (next, map) in receiver.seen {
        assert_eq!(map, history.fold(&next), "{next:?}");
    }
}
