//! Prints keys and values, and what becomes of them.

use serde_json::{Value, json};
use statecast_client::{Change, Entry, Header, KeyEvent, Tombstone};

use crate::cli::common::{Common, Output};
use crate::cli::format::{Format, Headers, Row};
use crate::cli::output::{self, BUFFER, Stop, bytes_json, push_json};

/// How changes are printed when nothing else is asked for.
const PUT: &str = "%c %k\\t%v\\n";
const REMOVED: &str = "%c %k\\n";

/// Gathers what is printed.
pub(super) struct Printer {
    topic: String,
    /// None is JSON.
    formats: Option<Formats>,
    buffer: Vec<u8>,
}

struct Formats {
    put: Format,
    removed: Format,
}

impl Printer {
    /// Prints entries, or changes in a format that was asked for.
    pub(super) fn new(topic: &str, format: &Format, common: &Common) -> Self {
        let formats = || Formats {
            put: format.clone(),
            removed: format.clone(),
        };
        Self::with(topic, common, formats)
    }

    /// Prints changes, so that those who read them tell removals at a glance.
    pub(super) fn of_changes(topic: &str, format: Option<&Format>, common: &Common) -> Self {
        let default = |text| Format::parse_state(text).expect("it is tested");
        let formats = || Formats {
            put: format.cloned().unwrap_or_else(|| default(PUT)),
            removed: format.cloned().unwrap_or_else(|| default(REMOVED)),
        };
        Self::with(topic, common, formats)
    }

    fn with(topic: &str, common: &Common, formats: impl FnOnce() -> Formats) -> Self {
        Self {
            topic: topic.to_owned(),
            formats: (common.output == Output::Table).then(formats),
            buffer: Vec::new(),
        }
    }

    pub(super) fn print(&mut self, entry: &Entry) -> Result<(), Stop> {
        match &self.formats {
            Some(formats) => {
                let row = Row::of_entry(&self.topic, entry);
                formats.put.write(&row, &mut self.buffer);
            }
            None => push_json(&entry_json(&self.topic, entry), &mut self.buffer),
        }
        self.flush_if_full()
    }

    pub(super) fn print_change(&mut self, change: &Change) -> Result<(), Stop> {
        match &self.formats {
            Some(formats) => {
                let row = row(&self.topic, change);
                let format = match change.entry() {
                    Some(_) => &formats.put,
                    None => &formats.removed,
                };
                format.write(&row, &mut self.buffer);
            }
            None => push_json(&change_json(&self.topic, change), &mut self.buffer),
        }
        self.flush_if_full()
    }

    /// Prints one of the changes from some offsets on; what isn't one, only for programs.
    pub(super) fn print_event(&mut self, event: &KeyEvent) -> Result<(), Stop> {
        match event {
            KeyEvent::Put(entry) => match &self.formats {
                Some(_) => self.print(entry),
                None => {
                    let mut json = entry_json(&self.topic, entry);
                    json["change"] = "put".into();
                    push_json(&json, &mut self.buffer);
                    self.flush_if_full()
                }
            },
            KeyEvent::Removed {
                partition,
                key,
                tombstone,
            } => {
                let row = removed(&self.topic, *partition, key, Some(tombstone));
                match &self.formats {
                    Some(formats) => formats.removed.write(&row, &mut self.buffer),
                    None => push_json(&removed_json(&row), &mut self.buffer),
                }
                self.flush_if_full()
            }
            KeyEvent::Synced(next_offsets) => {
                self.print_synced(next_offsets);
                Ok(())
            }
            KeyEvent::RemovedBelow { partition, offset } => {
                self.tell(&json!({
                    "change": "removed_below",
                    "topic": self.topic,
                    "partition": partition,
                    "offset": offset,
                }));
                Ok(())
            }
            KeyEvent::Snapshot => {
                self.tell(&json!({ "change": "snapshot", "topic": self.topic }));
                Ok(())
            }
            // This binary holds the library of its own version.
            _ => unreachable!("there are no other events"),
        }
    }

    /// Tells programs that all there was has been printed.
    pub(super) fn print_synced(&mut self, next_offsets: &[u64]) {
        self.tell(&json!({
            "change": "synced",
            "topic": self.topic,
            "next_offsets": next_offsets,
        }));
    }

    /// For programs: people are told in other ways, or see for themselves.
    fn tell(&mut self, json: &Value) {
        if self.formats.is_none() {
            push_json(json, &mut self.buffer);
        }
    }

    fn flush_if_full(&mut self) -> Result<(), Stop> {
        match self.buffer.len() >= BUFFER {
            true => self.flush(),
            false => Ok(()),
        }
    }

    pub(super) fn flush(&mut self) -> Result<(), Stop> {
        output::flush(&mut self.buffer)
    }
}

fn row<'a>(topic: &'a str, change: &'a Change) -> Row<'a> {
    match change {
        Change::Put { entry, .. } => Row::of_entry(topic, entry),
        Change::Removed {
            previous,
            tombstone,
        } => removed(topic, previous.partition, &previous.key, tombstone.as_ref()),
        // This binary holds the library of its own version.
        _ => unreachable!("there are no other changes"),
    }
}

fn removed<'a>(
    topic: &'a str,
    partition: u32,
    key: &'a [u8],
    tombstone: Option<&'a Tombstone>,
) -> Row<'a> {
    Row {
        topic,
        partition,
        offset: tombstone.map(|by| by.offset),
        timestamp_ms: tombstone.map(|by| by.timestamp_ms),
        key,
        value: &[],
        headers: Headers::Owned(tombstone.map_or(&[], |by| &by.headers)),
        version: None,
        change: "removed",
    }
}

fn removed_json(row: &Row<'_>) -> Value {
    json!({
        "change": row.change,
        "topic": row.topic,
        "partition": row.partition,
        "offset": row.offset,
        "timestamp_ms": row.timestamp_ms,
        "key": bytes_json(Some(row.key)),
    })
}

pub(super) fn entry_json(topic: &str, entry: &Entry) -> Value {
    json!({
        "topic": topic,
        "partition": entry.partition,
        "offset": entry.offset,
        "version": entry.version.number(),
        "timestamp_ms": entry.timestamp_ms,
        "key": bytes_json(Some(&entry.key)),
        "value": bytes_json(Some(&entry.value)),
        "headers": headers_json(&entry.headers),
        "lease": entry.lease.map(statecast_client::LeaseId::number),
    })
}

fn change_json(topic: &str, change: &Change) -> Value {
    let row = row(topic, change);
    match change.entry() {
        Some(entry) => {
            let mut json = entry_json(topic, entry);
            json["change"] = row.change.into();
            json
        }
        None => removed_json(&row),
    }
}

fn headers_json(headers: &[Header]) -> Value {
    let header = |header: &Header| json!({ "name": header.name, "value": bytes_json(header.value.as_deref()) });
    headers.iter().map(header).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_formats_are_ones() {
        for text in [PUT, REMOVED] {
            assert!(Format::parse_state(text).is_ok(), "{text}");
        }
    }
}
