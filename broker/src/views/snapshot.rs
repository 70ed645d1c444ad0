//! The keys there are, for a watcher that begins: a piece at a time, while they
//! change.
//!
//! A record at or behind the offset from which the watcher is told is left out: it
//! will be told of that one, or of a later one of its key. So of each key at most one
//! record is sent here, and it is older than all that come.

use bytes::Bytes;

use super::ViewError;
use super::decode::Change;
use super::lookup::Seen;
use super::topic_view::{Shared, Viewed};
use crate::limits;
use crate::model::Offset;
use crate::state::{Entry, Filter};

/// How far a snapshot has got.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// From where on the watcher is told, by the numbers of the partitions.
    told_from: Vec<Offset>,
    partition: usize,
    /// The last key of the partition that was looked at.
    after: Option<Bytes>,
}

impl Snapshot {
    pub(super) fn new(told_from: Vec<Offset>) -> Snapshot {
        Snapshot {
            told_from,
            partition: 0,
            after: None,
        }
    }

    /// Some more records; nothing at the end.
    pub(super) async fn next(
        &mut self,
        shared: &Shared,
        filter: &Filter,
    ) -> Result<Option<Vec<Change>>, ViewError> {
        while let Some(viewed) = shared.partitions.get(self.partition) {
            let number = u32::try_from(self.partition).expect("bounded by limits");
            let told_from = self.told_from[self.partition];
            let (seen, last) = look(viewed, number, filter, self.after.as_deref(), told_from);
            match last {
                Some(last) => self.after = Some(last),
                None => {
                    self.partition += 1;
                    self.after = None;
                }
            }
            let changes = resolve(viewed, number, seen).await?;
            if !changes.is_empty() {
                return Ok(Some(changes));
            }
        }
        Ok(None)
    }
}

/// Some entries behind a key, and the last key that was looked at; none when there
/// are no more.
fn look(
    viewed: &Viewed,
    number: u32,
    filter: &Filter,
    after: Option<&[u8]>,
    told_from: Offset,
) -> (Vec<Seen>, Option<Bytes>) {
    let view = viewed.read();
    let mut seen = Vec::new();
    let mut bytes = 0;
    let is_old = |entry: &Entry| entry.offset < told_from;
    let prefix = match filter {
        Filter::Prefix(prefix) => prefix,
        Filter::Keys(keys) => {
            // So few that they are looked at in one go.
            let known = keys.iter().filter_map(|key| Some((key, view.get(key)?)));
            let known = known.filter(|(_, entry)| is_old(entry));
            let known = known.map(|(key, entry)| Seen::of(number, key, entry));
            return (known.collect(), None);
        }
    };
    for (looked_at, (key, entry)) in view.range(prefix, after).enumerate() {
        if is_old(entry) {
            let one = Seen::of(number, key, entry);
            bytes += one.size();
            seen.push(one);
        }
        if bytes >= limits::WATCH_MESSAGE_BYTES || looked_at + 1 >= limits::SNAPSHOT_KEYS_PER_LOOK {
            return (seen, Some(Bytes::copy_from_slice(key)));
        }
    }
    (seen, None)
}

/// The records of entries, those that aren't kept read in the order of the log.
async fn resolve(viewed: &Viewed, number: u32, seen: Vec<Seen>) -> Result<Vec<Change>, ViewError> {
    let mut changes = Vec::with_capacity(seen.len());
    let mut elsewhere = Vec::new();
    for one in seen {
        match one {
            Seen::Kept(change) => changes.push(change),
            Seen::Elsewhere { key, offset } => elsewhere.push((offset, key)),
        }
    }
    elsewhere.sort_unstable();
    for (offset, key) in elsewhere {
        // One that has gone was superseded, or removed: the watcher is told of that.
        changes.extend(viewed.read_record(number, &key, offset).await?);
    }
    Ok(changes)
}
