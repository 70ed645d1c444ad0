//! What was true at another time: the fold of the log up to there, as far as the log
//! still has all of it.
//!
//! Compaction takes away what was superseded by a record below the offset up to which
//! it has compacted. So the state at an offset below that may be lost, and is refused;
//! from there on it is exact.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use super::ViewError;
use super::decode::{Change, Go, KeyRecord, each_record};
use super::lookup::{Found, Page, PageRequest};
use super::topic_view::{Shared, TopicView, Viewed};
use crate::limits;
use crate::model::Offset;
use crate::partition::{Compacted, Read, ReadError};

impl TopicView {
    /// The record of a key, of those below `end`.
    pub async fn get_as_of(
        &self,
        partition: u32,
        key: &[u8],
        end: Offset,
    ) -> Result<Found, ViewError> {
        let _turn = self.shared.reading.histories.acquire().await;
        let viewed = self.shared.viewed(partition);
        loop {
            let taken = check_end(viewed, partition, end).await?;
            let mut latest = None;
            fold(&self.shared, partition, end, |record| {
                if record.key == key {
                    latest = (!record.is_tombstone).then(|| record.to_change(partition));
                }
            })
            .await?;
            if check_end(viewed, partition, end).await? == taken {
                return Ok(Found {
                    record: latest,
                    next_offset: end,
                });
            }
        }
    }

    /// A page of keys, as the records below `ends` made them, by the numbers of the
    /// partitions. Reads all of the log up to there for each page.
    pub async fn scan_as_of(
        &self,
        request: &PageRequest,
        ends: &[Offset],
    ) -> Result<Page, ViewError> {
        let _turn = self.shared.reading.histories.acquire().await;
        loop {
            let mut kept = Kept::new(request);
            let taken = self.check_ends(ends).await?;
            for (partition, &end) in (0..).zip(ends) {
                fold(&self.shared, partition, end, |record| {
                    kept.apply(partition, record);
                })
                .await?;
            }
            if self.check_ends(ends).await? == taken {
                return Ok(kept.into_page(ends.to_vec()));
            }
        }
    }

    /// As [`check_end`], for all partitions.
    async fn check_ends(&self, ends: &[Offset]) -> Result<Vec<Compacted>, ViewError> {
        let mut taken = Vec::with_capacity(ends.len());
        for (partition, &end) in (0..).zip(ends) {
            taken.push(check_end(self.shared.viewed(partition), partition, end).await?);
        }
        Ok(taken)
    }
}

/// The smallest keys of a page, while records are folded: no more of them than
/// the page holds.
struct Kept<'a> {
    request: &'a PageRequest,
    records: BTreeMap<(Bytes, u32), Change>,
    bytes: usize,
    /// The smallest key that was left out: what lies behind it isn't known.
    left_out: Option<(Bytes, u32)>,
}

impl<'a> Kept<'a> {
    fn new(request: &'a PageRequest) -> Kept<'a> {
        Kept {
            request,
            records: BTreeMap::new(),
            bytes: 0,
            left_out: None,
        }
    }

    fn apply(&mut self, partition: u32, record: &KeyRecord<'_>) {
        if !record.key.starts_with(&self.request.prefix) {
            return;
        }
        let place = (Bytes::copy_from_slice(record.key), partition);
        let is_before = self
            .request
            .after
            .as_ref()
            .is_some_and(|after| place <= *after);
        let is_beyond = self
            .left_out
            .as_ref()
            .is_some_and(|left_out| place >= *left_out);
        if is_before || is_beyond {
            return;
        }
        if let Some(before) = self.records.remove(&place) {
            self.bytes -= before.size();
        }
        if record.is_tombstone {
            return;
        }
        let change = record.to_change(partition);
        self.bytes += change.size();
        self.records.insert(place, change);
        while self.records.len() > self.request.count
            || (self.bytes > self.request.bytes && self.records.len() > 1)
        {
            let Some((place, change)) = self.records.pop_last() else {
                break;
            };
            self.bytes -= change.size();
            self.left_out = Some(place);
        }
    }

    fn into_page(self, next_offsets: Vec<Offset>) -> Page {
        // The next page begins behind the last key of this one; when all of its keys
        // were removed later, just before the first one that was left out.
        let next = self.left_out.map(|left_out| {
            let last = self.records.last_key_value();
            last.map_or_else(|| before(left_out), |(place, _)| place.clone())
        });
        Page {
            records: self.records.into_values().collect(),
            next,
            next_offsets,
        }
    }
}

/// The last place before this one that a key may have. It is not the first one.
fn before((key, partition): (Bytes, u32)) -> (Bytes, u32) {
    if let Some(before) = partition.checked_sub(1) {
        return (key, before);
    }
    let mut before = key.to_vec();
    if let Some(last @ 1..) = before.pop() {
        before.push(last - 1);
        before.resize(limits::KEY_BYTES, u8::MAX);
    }
    (before.into(), u32::MAX)
}

/// What compaction has taken, if the state at `end` is known all the same. When that
/// changes while records are read, a key may have been read whose tombstone then went:
/// they are to be read again.
async fn check_end(viewed: &Viewed, partition: u32, end: Offset) -> Result<Compacted, ViewError> {
    let range = viewed.handle.range();
    if end > range.high_watermark {
        return Err(ReadError::BeyondEnd {
            offset: end,
            high_watermark: range.high_watermark,
        }
        .into());
    }
    let taken = viewed.handle.compacted().await?;
    let earliest = range.log_start_offset.max(taken.state_from);
    match end < earliest {
        true => Err(ViewError::StateCompacted {
            partition,
            asked: end.0,
            earliest: earliest.0,
        }),
        false => Ok(taken),
    }
}

/// Gives all records below `end` to `each`, in order.
async fn fold(
    shared: &Shared,
    partition: u32,
    end: Offset,
    mut each: impl FnMut(&KeyRecord<'_>),
) -> Result<(), ViewError> {
    let viewed = shared.viewed(partition);
    let mut next = viewed.handle.range().log_start_offset;
    let mut body = BytesMut::new();
    while next < end {
        match viewed
            .handle
            .read(next, end, limits::HISTORY_READ_BYTES)
            .await
        {
            Ok(Read::Batches(batches)) => {
                for batch in &batches {
                    let damaged = |_| ViewError::Damaged {
                        partition,
                        offset: batch.header.base_offset.0,
                    };
                    let unpacked = shared
                        .reading
                        .unpacker
                        .unpack(batch)
                        .await
                        .map_err(damaged)?;
                    let read = each_record(&unpacked, next, &mut body, |record| {
                        if record.offset >= end {
                            return Go::Stop;
                        }
                        each(&record);
                        Go::On
                    });
                    read.map_err(damaged)?;
                    next = batch.header.next_offset();
                }
            }
            Ok(Read::Truncated { .. }) => {
                // Retention has just removed some of it.
                return Err(ViewError::StateCompacted {
                    partition,
                    asked: end.0,
                    earliest: viewed.handle.range().log_start_offset.0,
                });
            }
            Ok(Read::Quarantined { .. }) => {
                return Err(ViewError::Damaged {
                    partition,
                    offset: next.0,
                });
            }
            Err(error) => return Err(error.into()),
        }
        tokio::task::consume_budget().await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_a_place_and_the_one_before_it_no_key_fits() {
        let place = |key: &[u8], partition| (Bytes::copy_from_slice(key), partition);
        assert_eq!(before(place(b"b", 3)), place(b"b", 2));
        assert_eq!(before(place(b"b\0", 0)), place(b"b", u32::MAX));
        let (key, partition) = before(place(b"b", 0));
        assert_eq!((key.len(), partition), (limits::KEY_BYTES, u32::MAX));
        assert!(key < b"b"[..] && key > vec![b'a'; limits::KEY_BYTES] && key.ends_with(b"\xff"));
    }
}
