//! What a reader hands out: batches, and the records in them.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use statecast_proto::batch::{self, BatchError, Header, HeaderViews};
use statecast_proto::v1;

use crate::error::Error;

/// A record that was read. Key, value and headers are slices of the batch that
/// they came in: no copies, but a small record that is kept keeps the memory of
/// its neighbours. Copy what is to live long.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// The partition it lies in.
    pub partition: u32,
    /// Its offset there.
    pub offset: u64,
    /// The producer's time if it gave one, else when the broker appended the
    /// record: milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// The key. Absent and empty are different.
    pub key: Option<Bytes>,
    /// The value. A record with a key and no value is a tombstone.
    pub value: Option<Bytes>,
    /// The headers, in the producer's order.
    pub headers: Vec<Header>,
}

/// A record that borrows from its [`Batch`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RecordView<'a> {
    /// Its offset in the partition.
    pub offset: u64,
    /// As in [`Record::timestamp_ms`].
    pub timestamp_ms: i64,
    /// The key. Absent and empty are different.
    pub key: Option<&'a [u8]>,
    /// The value. A record with a key and no value is a tombstone.
    pub value: Option<&'a [u8]>,
    /// The headers, in the producer's order; decoded as they are asked for.
    pub headers: HeaderViews<'a>,
}

/// Consecutive records of one partition, as their producer sent them.
#[derive(Debug, Clone)]
pub struct Batch {
    topic: Arc<str>,
    partition: u32,
    append_time_ms: i64,
    high_watermark: u64,
    /// The records, decompressed.
    records: Bytes,
    place: Place,
}

impl Batch {
    /// Decompresses the batch and checks its checksum; the error is for people.
    pub(crate) fn new(
        topic: Arc<str>,
        offsets: Range<u64>,
        wire: v1::FetchedBatch,
    ) -> Result<Self, String> {
        if statecast_proto::checksum(&wire.batch) != wire.checksum {
            return Err("its checksum doesn't match".to_owned());
        }
        let records = batch::uncompressed(wire.batch).map_err(|error| error.to_string())?;
        Ok(Self {
            topic,
            partition: wire.partition,
            append_time_ms: wire.append_time_ms,
            high_watermark: wire.high_watermark,
            records,
            place: Place {
                next_offset: wire.base_offset,
                skip: wire.skip_records,
                offsets,
            },
        })
    }

    /// Name of the topic.
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// The partition it lies in.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// The offsets that it covers, half-open. Not each needs to hold a record.
    pub fn offsets(&self) -> Range<u64> {
        self.place.offsets.clone()
    }

    /// One past the last readable offset of the partition when the batch was
    /// read: how far behind the reader is.
    pub fn high_watermark(&self) -> u64 {
        self.high_watermark
    }

    /// When the broker appended it: milliseconds since the Unix epoch.
    pub fn append_time_ms(&self) -> i64 {
        self.append_time_ms
    }

    /// The part of it from an offset on.
    pub(crate) fn starting_at(mut self, offset: u64) -> Self {
        let offsets = &mut self.place.offsets;
        offsets.start = offsets.start.max(offset);
        self
    }

    /// The records, borrowed from the batch: the fastest way to look at them.
    pub fn views(&self) -> RecordViews<'_> {
        RecordViews {
            views: batch::decode_ref(&self.records),
            topic: &self.topic,
            partition: self.partition,
            append_time_ms: self.append_time_ms,
            place: self.place.clone(),
        }
    }

    /// The records, each to be kept or passed on.
    pub fn records(&self) -> Records {
        Records {
            decoded: Some(batch::decode(self.records.clone())),
            topic: Arc::clone(&self.topic),
            partition: self.partition,
            append_time_ms: self.append_time_ms,
            place: self.place.clone(),
        }
    }
}

/// Which offset the next record of a batch has.
#[derive(Debug, Clone)]
struct Place {
    /// The offset of the next record, but for its gap.
    next_offset: u64,
    /// Records at the front that weren't asked for.
    skip: u32,
    /// The offsets that are to be handed out.
    offsets: Range<u64>,
}

impl Place {
    /// The offset of the next record; `None` when it isn't to be handed out.
    fn advance(&mut self, gap: u32) -> Option<u64> {
        let offset = self.next_offset.saturating_add(gap.into());
        self.next_offset = offset.saturating_add(1);
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.offsets.contains(&offset).then_some(offset)
    }

    fn damaged(&self, topic: &Arc<str>, partition: u32, problem: &BatchError) -> Error {
        Error::DamagedBatch {
            topic: Arc::clone(topic),
            partition,
            offset: self.next_offset,
            problem: problem.to_string().into(),
        }
    }
}

/// The records of a [`Batch`], borrowed from it. After an error there are no
/// more.
#[derive(Debug)]
pub struct RecordViews<'a> {
    views: batch::RecordViews<'a>,
    topic: &'a Arc<str>,
    partition: u32,
    append_time_ms: i64,
    place: Place,
}

impl<'a> Iterator for RecordViews<'a> {
    type Item = Result<RecordView<'a>, Error>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let view = match self.views.next()? {
                Ok(view) => view,
                Err(problem) => {
                    let (topic, partition) = (self.topic, self.partition);
                    return Some(Err(self.place.damaged(topic, partition, &problem)));
                }
            };
            if let Some(offset) = self.place.advance(view.offset_gap) {
                return Some(Ok(RecordView {
                    offset,
                    timestamp_ms: view.timestamp_ms.unwrap_or(self.append_time_ms),
                    key: view.key,
                    value: view.value,
                    headers: view.headers(),
                }));
            }
        }
    }
}

/// The records of a [`Batch`]. After an error there are no more.
#[derive(Debug)]
pub struct Records {
    /// `None` after an error.
    decoded: Option<Result<batch::Records, BatchError>>,
    topic: Arc<str>,
    partition: u32,
    append_time_ms: i64,
    place: Place,
}

impl Iterator for Records {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let record = match self.next_decoded()? {
                Ok(record) => record,
                Err(problem) => {
                    let (topic, partition) = (&self.topic, self.partition);
                    return Some(Err(self.place.damaged(topic, partition, &problem)));
                }
            };
            if let Some(offset) = self.place.advance(record.offset_gap) {
                return Some(Ok(Record {
                    topic: Arc::clone(&self.topic),
                    partition: self.partition,
                    offset,
                    timestamp_ms: record.timestamp_ms.unwrap_or(self.append_time_ms),
                    key: record.key,
                    value: record.value,
                    headers: record.headers,
                }));
            }
        }
    }
}

impl Records {
    fn next_decoded(&mut self) -> Option<Result<batch::Record, BatchError>> {
        let next = match self.decoded.as_mut()? {
            Ok(records) => records.next()?,
            Err(problem) => Err(problem.clone()),
        };
        if next.is_err() {
            self.decoded = None;
        }
        Some(next)
    }
}
