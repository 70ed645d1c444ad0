//! What the services of the demo note, for whoever shows it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use statecast_client::{Change, Entry};

use crate::clock;

/// The header that says when a change was sent: microseconds since the demo began.
pub(super) const SENT: &str = "sent-us";
/// Longer ones count as this: microseconds.
const MAX_LAG_US: u64 = 60_000_000;
/// Changes that are shown.
const RECENT: usize = 24;

/// Shared by the services and the screen.
#[derive(Debug, Clone)]
pub(super) struct Board {
    started: Instant,
    notes: Arc<Mutex<Notes>>,
}

/// What has happened so far.
#[derive(Debug)]
pub(super) struct Notes {
    /// What the owner has written: commits, changes, and the last commit.
    pub(super) commits: usize,
    pub(super) written: u64,
    pub(super) last_commit: Option<(&'static str, i64)>,
    /// What the view was told: changes, how many files of each directory there are, and
    /// when it changed last.
    pub(super) told: u64,
    pub(super) directories: BTreeMap<String, Directory>,
    pub(super) recent: VecDeque<(Mark, String)>,
    /// From before a change was sent until the view had it: microseconds.
    pub(super) lags: Histogram<u64>,
    pub(super) latecomer: Option<Latecomer>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Directory {
    pub(super) files: usize,
    pub(super) changed_at: Option<Instant>,
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Added,
    Changed,
    Removed,
}

/// A view that began in the middle of it all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Latecomer {
    /// Changes that had been written.
    pub(super) at: u64,
    /// What it was given at once, and how long that took.
    pub(super) keys: usize,
    pub(super) took: Duration,
}

impl Board {
    pub(super) fn new() -> Self {
        let notes = Notes {
            commits: 0,
            written: 0,
            last_commit: None,
            told: 0,
            directories: BTreeMap::new(),
            recent: VecDeque::with_capacity(RECENT),
            lags: Histogram::new_with_bounds(1, MAX_LAG_US, 3).expect("the bounds are in order"),
            latecomer: None,
        };
        Self {
            started: clock::instant(),
            notes: Arc::new(Mutex::new(notes)),
        }
    }

    pub(super) fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// What goes into a header of what is sent now.
    pub(super) fn stamp(&self) -> String {
        self.elapsed().as_micros().to_string()
    }

    /// The view was told of a change.
    pub(super) fn told(&self, change: &Change) {
        let now = self.elapsed();
        let mut notes = self.notes();
        notes.told += 1;
        let path = String::from_utf8_lossy(change.key()).into_owned();
        let directory = notes.directories.entry(directory(&path)).or_default();
        directory.changed_at = Some(self.started + now);
        let (mark, headers) = match change {
            Change::Put { entry, previous } => {
                let mark = match previous {
                    Some(_) => Mark::Changed,
                    None => Mark::Added,
                };
                (mark, &entry.headers[..])
            }
            Change::Removed { tombstone, .. } => {
                let headers = tombstone.as_ref().map(|by| &by.headers[..]);
                (Mark::Removed, headers.unwrap_or_default())
            }
            // This binary holds the library of its own version.
            _ => unreachable!("there are no other changes"),
        };
        match mark {
            Mark::Added => directory.files += 1,
            Mark::Removed => directory.files -= 1,
            Mark::Changed => {}
        }
        let sent = headers.iter().find(|header| header.name == SENT);
        let sent = sent.and_then(|header| str::from_utf8(header.value.as_deref()?).ok());
        if let Some(sent) = sent.and_then(|sent| sent.parse().ok()) {
            let lag = now.saturating_sub(Duration::from_micros(sent));
            let lag = u64::try_from(lag.as_micros()).unwrap_or(u64::MAX);
            notes.lags.saturating_record(lag);
        }
        if notes.recent.len() == RECENT {
            notes.recent.pop_back();
        }
        notes.recent.push_front((mark, path));
    }
}

impl Notes {
    /// Files that the view has, as it was told.
    pub(super) fn files(&self) -> usize {
        self.directories.values().map(|one| one.files).sum()
    }

    /// A quantile of the lags.
    pub(super) fn lag(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.lags.value_at_quantile(quantile))
    }
}

/// The part of a path before the first slash.
fn directory(path: &str) -> String {
    match path.split_once('/') {
        Some((directory, _)) => format!("{directory}/"),
        None => "./".to_owned(),
    }
}

/// What of an entry is compared with the fold of the log.
pub(super) fn content(entry: &Entry) -> (Vec<u8>, Vec<u8>) {
    (entry.key.to_vec(), entry.value.to_vec())
}
