//! The keys there are, for a watcher that begins: a piece at a time, while they
//! change.
//!
//! A record at or behind the offset from which the watcher is told is left out: it
//! will be told of that one, or of a later one of its key. So of each key at most one
//! record is sent here, and it is older than all that come.

use std::collections::VecDeque;
use std::ops::Bound;

use bytes::{Bytes, BytesMut};

use super::ViewError;
use super::decode::{Change, Go, KeyRecord, each_record};
use super::locate::Located;
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
    /// All keys of the partition were looked at.
    has_looked: bool,
    /// Records of the partition that are to be read, in the order of the log.
    unread: VecDeque<(Offset, Bytes)>,
}

impl Snapshot {
    pub(super) fn new(told_from: Vec<Offset>) -> Snapshot {
        Snapshot {
            told_from,
            partition: 0,
            after: None,
            has_looked: false,
            unread: VecDeque::new(),
        }
    }

    /// Some more records, as many as go into a message; nothing at the end.
    pub(super) async fn next(
        &mut self,
        shared: &Shared,
        filter: &Filter,
    ) -> Result<Option<Vec<Change>>, ViewError> {
        while let Some(viewed) = shared.partitions.get(self.partition) {
            let number = u32::try_from(self.partition).expect("bounded by limits");
            let changes = if !self.unread.is_empty() {
                self.read(shared, viewed, number).await?
            } else if !self.has_looked {
                self.look(viewed, number, filter)
            } else {
                self.partition += 1;
                self.after = None;
                self.has_looked = false;
                continue;
            };
            if !changes.is_empty() {
                return Ok(Some(changes));
            }
        }
        Ok(None)
    }

    /// Looks at some entries behind the last key. Those that aren't kept are to be read.
    fn look(&mut self, viewed: &Viewed, number: u32, filter: &Filter) -> Vec<Change> {
        let told_from = self.told_from[self.partition];
        let after = self.after.take();
        let after = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut looked = Looked::default();
        let mut buffer = BytesMut::with_capacity(limits::WATCH_MESSAGE_BYTES);
        let view = viewed.read();
        let mut look = |key: &[u8], entry: Option<&Entry>| {
            if let Some(entry) = entry.filter(|entry| entry.offset < told_from) {
                looked.add(Seen::in_buffer(number, key, entry, &mut buffer));
            }
            looked.count += 1;
            let is_full = looked.bytes >= limits::WATCH_MESSAGE_BYTES
                || looked.count >= limits::SNAPSHOT_KEYS_PER_LOOK;
            is_full.then(|| Bytes::copy_from_slice(key))
        };
        let last = match filter {
            Filter::Prefix(prefix) => {
                let mut entries = view.range(prefix, after);
                entries.find_map(|(key, entry)| look(key, Some(entry)))
            }
            Filter::Keys(keys) => {
                let mut keys = keys.range::<[u8], _>((after, Bound::Unbounded));
                keys.find_map(|key| look(key, view.get(key)))
            }
        };
        drop(view);
        self.has_looked = last.is_none();
        self.after = last;
        looked.elsewhere.sort_unstable();
        self.unread = looked.elsewhere.into();
        looked.kept
    }

    /// Reads some of the records. One that has gone was superseded, or removed: the
    /// watcher is told of that. What is damaged on disk is left out, as it is of a view
    /// that is made anew: the rest of the topic goes on.
    async fn read(
        &mut self,
        shared: &Shared,
        viewed: &Viewed,
        number: u32,
    ) -> Result<Vec<Change>, ViewError> {
        let _turn = shared.reading.watchers.acquire().await;
        let (mut changes, mut bytes) = (Vec::new(), 0);
        let mut body = BytesMut::new();
        while let Some(&(offset, _)) = self.unread.front()
            && bytes < limits::WATCH_MESSAGE_BYTES
        {
            let batch = match shared.locate(viewed, offset).await? {
                Located::Batch(batch) => batch,
                Located::RemovedTo(to) => {
                    self.leave_out_below(to);
                    continue;
                }
                Located::DamagedTo(to) => {
                    let id = viewed.handle.id();
                    tracing::error!(
                        "a snapshot of partition {id} lacks what is damaged at offset {offset}"
                    );
                    self.leave_out_below(to);
                    continue;
                }
            };
            let unread = &mut self.unread;
            let each = |record: KeyRecord<'_>| {
                while unread
                    .front()
                    .is_some_and(|(wanted, _)| *wanted < record.offset)
                {
                    unread.pop_front();
                }
                if bytes >= limits::WATCH_MESSAGE_BYTES {
                    return Go::Stop;
                }
                match unread.front() {
                    None => Go::Stop,
                    Some((wanted, key)) if *wanted == record.offset && key == record.key => {
                        let change = record.to_change(number);
                        bytes += change.size();
                        changes.push(change);
                        unread.pop_front();
                        Go::On
                    }
                    Some(_) => Go::On,
                }
            };
            let read = each_record(&batch, offset, &mut body, each);
            if let Err(error) = &read {
                let id = viewed.handle.id();
                tracing::error!("a batch of partition {id} is unreadable: {error}");
            }
            if bytes < limits::WATCH_MESSAGE_BYTES || read.is_err() {
                self.leave_out_below(batch.header.next_offset());
            }
        }
        Ok(changes)
    }

    /// What lies below isn't there, or can't be read.
    fn leave_out_below(&mut self, end: Offset) {
        while self.unread.front().is_some_and(|(wanted, _)| *wanted < end) {
            self.unread.pop_front();
        }
    }
}

/// What a look found.
#[derive(Default)]
struct Looked {
    kept: Vec<Change>,
    elsewhere: Vec<(Offset, Bytes)>,
    /// Of what is kept.
    bytes: usize,
    /// Keys.
    count: usize,
}

impl Looked {
    fn add(&mut self, seen: Seen) {
        self.bytes += seen.size();
        match seen {
            Seen::Kept(change) => self.kept.push(change),
            Seen::Elsewhere { key, offset } => self.elsewhere.push((offset, key)),
        }
    }
}
