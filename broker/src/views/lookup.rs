//! What is true now: one key, or a page of them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Bound;
use std::sync::RwLockReadGuard;

use bytes::{Bytes, BytesMut};

use super::ViewError;
use super::decode::{Change, Go, each_record};
use super::locate::Located;
use super::topic_view::TopicView;
use crate::model::Offset;
use crate::state::{Entry, LeaseId, PartitionView};

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its latest record; none when there is no such key.
    pub record: Option<Change>,
    /// One past the last record of the partition that this reflects.
    pub next_offset: Offset,
}

/// A page of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The latest record of each, in the order of the keys.
    pub records: Vec<Change>,
    /// The key, and the partition, that the next page begins behind.
    pub next: Option<(Bytes, u32)>,
    /// One past the last record that this reflects, by the numbers of the partitions.
    pub next_offsets: Vec<Offset>,
}

/// What a page is to hold.
#[derive(Debug, Clone)]
pub struct PageRequest {
    /// Only keys that begin with this.
    pub prefix: Bytes,
    /// Only keys behind this one, and this one in later partitions.
    pub after: Option<(Bytes, u32)>,
    /// The most records.
    pub count: usize,
    /// The most bytes of records, but at least one record.
    pub bytes: usize,
}

/// How many keys that end with a lease are wanted, of how many bytes together; but at
/// least one.
#[derive(Debug, Clone, Copy)]
pub struct LeasedBound {
    /// The most keys.
    pub keys: usize,
    /// The most bytes of keys.
    pub bytes: usize,
}

/// Keys of a partition that end with a lease.
#[derive(Debug, Clone)]
pub struct LeasedKeys {
    /// Each with its version.
    pub keys: Vec<(Bytes, Offset)>,
    /// There are no others.
    pub are_all: bool,
}

/// An entry of a view: with its record, or without, when that is to be read.
pub(super) enum Seen {
    Kept(Change),
    /// To be found in the log.
    Elsewhere {
        key: Bytes,
        offset: Offset,
    },
}

impl Seen {
    pub(super) fn of(partition: u32, key: &[u8], entry: &Entry) -> Seen {
        let key = Bytes::copy_from_slice(key);
        match &entry.kept {
            Some(body) => Seen::Kept(Change {
                partition,
                offset: entry.offset,
                key,
                body: Bytes::copy_from_slice(body),
                is_tombstone: false,
            }),
            None => Seen::Elsewhere {
                key,
                offset: entry.offset,
            },
        }
    }

    /// As [`Seen::of`], with its bytes in a buffer that is shared with others, as those
    /// have it that are sent together.
    pub(super) fn in_buffer(
        partition: u32,
        key: &[u8],
        entry: &Entry,
        buffer: &mut BytesMut,
    ) -> Seen {
        let mut put = |bytes: &[u8]| {
            buffer.extend_from_slice(bytes);
            buffer.split().freeze()
        };
        let key = put(key);
        match &entry.kept {
            Some(body) => Seen::Kept(Change {
                partition,
                offset: entry.offset,
                key,
                body: put(body),
                is_tombstone: false,
            }),
            None => Seen::Elsewhere {
                key,
                offset: entry.offset,
            },
        }
    }

    pub(super) fn size(&self) -> usize {
        match self {
            Seen::Kept(change) => change.size(),
            // Nobody knows; it is read alone.
            Seen::Elsewhere { key, .. } => size_of::<Change>() + key.len(),
        }
    }
}

impl TopicView {
    /// The latest record of a key. Reflects everything that can be read when it is
    /// asked for, and at least everything below `at_least`.
    pub async fn get(
        &self,
        partition: u32,
        key: &[u8],
        at_least: Option<Offset>,
    ) -> Result<Found, ViewError> {
        let viewed = self.shared.viewed(partition);
        loop {
            let look = |view: &PartitionView| {
                let seen = view.get(key).map(|entry| Seen::of(partition, key, entry));
                (seen, view.applied())
            };
            let (seen, next_offset) = self.see(partition, at_least, look).await?;
            let record = match seen {
                None => None,
                Some(Seen::Kept(change)) => Some(change),
                Some(Seen::Elsewhere { key, offset }) => {
                    match self.read_record(partition, &key, offset).await? {
                        Some(change) => Some(change),
                        // Removed by retention, and nothing came behind it.
                        None if viewed.handle.range().log_start_offset > offset => None,
                        // Superseded and compacted away meanwhile, or removed.
                        None => {
                            self.wait_for(partition, next_offset.advanced(1)).await?;
                            continue;
                        }
                    }
                }
            };
            return Ok(Found {
                record,
                next_offset,
            });
        }
    }

    /// Keys that end with a lease, and their versions, of everything that can be read
    /// when it is asked for.
    pub async fn leased(
        &self,
        partition: u32,
        lease: LeaseId,
        most: LeasedBound,
    ) -> Result<LeasedKeys, ViewError> {
        let look = |view: &PartitionView| {
            let (mut keys, mut bytes) = (Vec::new(), 0);
            for key in view.leased(lease) {
                bytes += key.len();
                if keys.len() == most.keys || (bytes > most.bytes && !keys.is_empty()) {
                    return LeasedKeys {
                        keys,
                        are_all: false,
                    };
                }
                let entry = view.get(key);
                keys.extend(entry.map(|entry| (Bytes::copy_from_slice(key), entry.offset)));
            }
            LeasedKeys {
                keys,
                are_all: true,
            }
        };
        self.see(partition, None, look).await
    }

    /// The partitions in which keys may end with a lease, as far as that is known without
    /// waiting.
    pub fn partitions_with(&self, lease: LeaseId) -> Vec<u32> {
        let with = (0..).zip(&self.shared.partitions).filter(|(_, viewed)| {
            let end = viewed.handle.high_watermark();
            let view = viewed.read();
            view.applied() < end || view.leased(lease).next().is_some()
        });
        with.map(|(partition, _)| partition).collect()
    }

    /// Some leases that keys of a partition end with, as far as the view is: those behind
    /// one, in their order.
    pub fn leases_behind(
        &self,
        partition: u32,
        after: Option<LeaseId>,
        most: usize,
    ) -> Vec<LeaseId> {
        let view = self.shared.viewed(partition).read();
        view.leases_behind(after).take(most).collect()
    }

    /// Where the latest record of a key lies, of everything that can be read when it is
    /// asked for; and what `see` makes of how far the view has seen, while it sees no
    /// more.
    pub async fn look<T>(
        &self,
        partition: u32,
        key: &[u8],
        see: impl FnOnce(Offset) -> T,
    ) -> Result<(Option<Offset>, T), ViewError> {
        let look = |view: &PartitionView| {
            let found = view.get(key).map(|entry| entry.offset);
            (found, see(view.applied()))
        };
        self.see(partition, None, look).await
    }

    /// A page of keys. Reflects everything that can be read when it is asked for.
    pub async fn scan(&self, request: &PageRequest) -> Result<Page, ViewError> {
        let look = |views: &[RwLockReadGuard<'_, PartitionView>]| look_at_page(request, views);
        let (seen, mut next, next_offsets) = self.see_all(look).await?;
        let mut records: Vec<Change> = Vec::with_capacity(seen.len());
        let (mut bytes, mut last) = (0, None);
        for (partition, seen) in seen {
            if bytes >= request.bytes {
                // What had to be read was larger than anybody knew.
                next = last;
                break;
            }
            let record = match seen {
                Seen::Kept(change) => {
                    last = Some((change.key.clone(), partition));
                    Some(change)
                }
                Seen::Elsewhere { key, offset } => {
                    last = Some((key.clone(), partition));
                    self.read_of_page(partition, &key, offset).await?
                }
            };
            bytes += record.as_ref().map_or(0, Change::size);
            records.extend(record);
        }
        Ok(Page {
            records,
            next,
            next_offsets,
        })
    }
}

/// The entries of a page, merged from all partitions.
#[expect(
    clippy::type_complexity,
    reason = "the parts of a page, for one caller"
)]
fn look_at_page(
    request: &PageRequest,
    views: &[RwLockReadGuard<'_, PartitionView>],
) -> (Vec<(u32, Seen)>, Option<(Bytes, u32)>, Vec<Offset>) {
    let next_offsets = views.iter().map(|view| view.applied()).collect();
    let mut ranges: Vec<_> = (0..)
        .zip(views)
        .map(|(partition, view)| view.range(&request.prefix, from(request, partition)))
        .collect();
    let mut heads = BinaryHeap::new();
    for (partition, range) in (0_u32..).zip(&mut ranges) {
        let head = range.next();
        heads.extend(head.map(|(key, entry)| Reverse((key, partition, Pointer(entry)))));
    }
    let mut seen: Vec<(u32, Seen)> = Vec::new();
    let mut bytes = 0;
    let mut last = None;
    while let Some(Reverse((key, partition, Pointer(entry)))) = heads.pop() {
        let one = Seen::of(partition, key, entry);
        if seen.len() == request.count || (bytes + one.size() > request.bytes && bytes > 0) {
            return (seen, last, next_offsets);
        }
        bytes += one.size();
        seen.push((partition, one));
        last = Some((Bytes::copy_from_slice(key), partition));
        let head = ranges[partition as usize].next();
        heads.extend(head.map(|(key, entry)| Reverse((key, partition, Pointer(entry)))));
    }
    (seen, None, next_offsets)
}

/// Where the keys of a partition begin in a page: partitions behind that of the last key
/// may have the same one.
fn from(request: &PageRequest, partition: u32) -> Bound<&[u8]> {
    match &request.after {
        None => Bound::Unbounded,
        Some((key, of)) if partition <= *of => Bound::Excluded(key),
        Some((key, _)) => Bound::Included(key),
    }
}

/// An entry that has no part in the order.
struct Pointer<'a>(&'a Entry);

impl PartialEq for Pointer<'_> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Pointer<'_> {}

impl PartialOrd for Pointer<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pointer<'_> {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl TopicView {
    /// The record of a key that a page is to hold. What is damaged on disk is left out, as
    /// in a snapshot: nobody could come to the keys behind it.
    async fn read_of_page(
        &self,
        partition: u32,
        key: &[u8],
        offset: Offset,
    ) -> Result<Option<Change>, ViewError> {
        let found = match self.read_record(partition, key, offset).await {
            Ok(None) => self
                .get(partition, key, None)
                .await
                .map(|found| found.record),
            found => found,
        };
        match found {
            Err(ViewError::Damaged { offset, .. }) => {
                let id = self.shared.viewed(partition).handle.id();
                tracing::error!(
                    "a scan of partition {id} lacks what is damaged at offset {offset}"
                );
                Ok(None)
            }
            found => found,
        }
    }

    /// Reads the record of a key from the log; nothing when it isn't there any more.
    async fn read_record(
        &self,
        partition: u32,
        key: &[u8],
        offset: Offset,
    ) -> Result<Option<Change>, ViewError> {
        let _turn = self.shared.reading.lookups.acquire().await;
        let damaged = || ViewError::Damaged {
            partition,
            offset: offset.0,
        };
        let viewed = self.shared.viewed(partition);
        let batch = match self.shared.locate(viewed, offset).await? {
            Located::Batch(batch) => batch,
            Located::RemovedTo(_) => return Ok(None),
            Located::DamagedTo(_) => return Err(damaged()),
        };
        let mut found = None;
        let read = each_record(&batch, offset, &mut BytesMut::new(), |record| {
            if record.offset == offset && record.key == key {
                found = Some(record.to_change(partition));
            }
            Go::Stop
        });
        read.map(|()| found).map_err(|_| damaged())
    }
}
