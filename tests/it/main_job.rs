//! What Statecast is for, with the built binary: changes go in, the broker
//! crashes, and what comes out folds to the state they describe.
//!
//! The changes are the first 300 of a real repository's files, as lines of key
//! TAB value; an empty value is a deletion.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::support::{Binary, Verb};

fn fixture(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it/fixtures/repo")
        .join(name);
    std::fs::read_to_string(path).unwrap()
}

/// The last blob of each key that wasn't deleted, as lines of key TAB blob.
fn fold(changes: &str) -> String {
    let mut state = BTreeMap::new();
    for line in changes.lines() {
        let (key, value) = line.split_once('\t').unwrap();
        if value.is_empty() {
            state.remove(key);
        } else {
            let value: serde_json::Value = serde_json::from_str(value).unwrap();
            state.insert(key, value["blob"].as_str().unwrap().to_owned());
        }
    }
    let lines = state
        .into_iter()
        .map(|(key, blob)| key.to_owned() + "\t" + &blob + "\n");
    lines.collect()
}

/// The changes of each key, in order.
fn by_key(changes: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut keys = BTreeMap::<_, Vec<_>>::new();
    for line in changes.lines() {
        let (key, value) = line.split_once('\t').unwrap();
        keys.entry(key).or_default().push(value);
    }
    keys
}

#[test]
fn changes_survive_a_crash_and_fold_to_the_state() {
    let data = tempfile::tempdir().unwrap();
    let changes = fixture("changes.tsv");
    let broker = Binary::serve(data.path());
    let endpoint = broker.endpoint();
    Verb::new(&endpoint, &["topic", "create", "repo", "--partitions", "4"]).succeeds();
    let produce = [
        "produce",
        "repo",
        "--key-delimiter",
        "\\t",
        "--empty-value-is-tombstone",
    ];
    let produced = Verb::new(&endpoint, &produce)
        .with_input(&changes)
        .succeeds();
    assert!(
        produced.stderr.contains("300 of 300 records acknowledged"),
        "{}",
        produced.stderr
    );
    assert_eq!(produced.stdout, "");
    broker.kill();

    let broker = Binary::serve(data.path());
    let consume = ["consume", "repo", "--until-end", "--format", "%k\\t%v\\n"];
    let consumed = Verb::new(&broker.endpoint(), &consume).succeeds();
    assert_eq!(
        by_key(&consumed.stdout),
        by_key(&changes),
        "lost, twice, or out of order"
    );
    assert_eq!(fold(&consumed.stdout), fixture("tree.tsv"));
}
