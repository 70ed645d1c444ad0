//! Passes that end before they are done.

use std::sync::OnceLock;

use super::Fixture;
use crate::storage::dir::sim::{Fault, SimDir};
use crate::storage::{Pace, Storage};

/// Lets the journal fail in the midst of a pass; notes what was written by then.
struct Fails<'a> {
    fixture: (&'a SimDir, &'a Storage),
    changes: OnceLock<u64>,
}

impl Pace for Fails<'_> {
    fn is_gentle(&self) -> bool {
        true
    }

    fn pause(&self) {
        let (dir, storage) = self.fixture;
        self.changes.get_or_init(|| {
            dir.fail_after(0, Fault::FlushError);
            storage.flush(storage.written()).unwrap_err();
            dir.changes()
        });
    }
}

#[test]
fn nothing_is_written_once_the_journal_has_failed() {
    let mut fixture = Fixture::new();
    let large = "x".repeat(1500);
    for key in ["a", "b", "c"] {
        fixture.put(&[(key, Some(&large))]);
        fixture.archive();
    }
    // Not flushed yet.
    fixture.append(1, &[("d", Some("1"))], 0);
    let (dir, storage) = (fixture.dir.clone(), fixture.storage.clone());
    let fails = Fails {
        fixture: (&dir, &storage),
        changes: OnceLock::new(),
    };
    assert!(fixture.compact_with(&fails).unwrap().is_none());
    assert_eq!(fails.changes.get(), Some(&dir.changes()));
    let reopened = fixture.crash_and_reopen();
    assert!(reopened.keys_left().starts_with("0a 1b 2c"));
}

/// Notes that it was asked to pause.
#[derive(Default)]
struct Stops(OnceLock<()>);

impl Pace for Stops {
    fn is_gentle(&self) -> bool {
        false
    }

    fn pause(&self) {
        let _ = self.0.set(());
    }

    fn is_over(&self) -> bool {
        self.0.get().is_some()
    }
}

#[test]
fn pass_ends_when_the_broker_stops() {
    let mut fixture = Fixture::new();
    let large = "x".repeat(1500);
    for key in ["a", "b", "c"] {
        fixture.put(&[(key, Some(&large))]);
        fixture.archive();
    }
    let files = fixture.files();
    assert!(fixture.compact_with(&Stops::default()).unwrap().is_none());
    assert_eq!(fixture.files(), files);
    fixture.compact();
}
