//! What a reader hands out: batches, and the records in them.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use statecast_proto::batch::{self, Header};
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

/// Consecutive records of one partition, as their producer sent them.
#[derive(Debug, Clone)]
pub struct Batch {
    topic: Arc<str>,
    /// The offsets that are to be handed out.
    offsets: Range<u64>,
    wire: v1::FetchedBatch,
}

impl Batch {
    pub(super) fn new(topic: Arc<str>, offsets: Range<u64>, wire: v1::FetchedBatch) -> Self {
        Self {
            topic,
            offsets,
            wire,
        }
    }

    /// Name of the topic.
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// The partition it lies in.
    pub fn partition(&self) -> u32 {
        self.wire.partition
    }

    /// The offsets that it covers, half-open. Not each needs to hold a record.
    pub fn offsets(&self) -> Range<u64> {
        self.offsets.clone()
    }

    /// One past the last readable offset of the partition when the batch was
    /// read: how far behind the reader is.
    pub fn high_watermark(&self) -> u64 {
        self.wire.high_watermark
    }

    /// When the broker appended it: milliseconds since the Unix epoch.
    pub fn append_time_ms(&self) -> i64 {
        self.wire.append_time_ms
    }

    /// The encoded `RecordBatch`. It may begin with records that lie before
    /// [`Batch::offsets`].
    pub fn payload(&self) -> &Bytes {
        &self.wire.batch
    }

    /// Decodes the records.
    pub fn records(&self) -> Records {
        let (decoder, problem) = match batch::decode(self.wire.batch.clone()) {
            Ok(decoder) => (Some(decoder), None),
            Err(problem) => (None, Some(problem)),
        };
        Records {
            decoder,
            problem,
            topic: Arc::clone(&self.topic),
            partition: self.wire.partition,
            append_time_ms: self.wire.append_time_ms,
            next_offset: self.wire.base_offset,
            skip: self.wire.skip_records,
            offsets: self.offsets.clone(),
        }
    }

    pub(super) fn damaged(&self, problem: impl std::fmt::Display) -> Error {
        Error::DamagedBatch {
            partition: self.wire.partition,
            offset: self.wire.base_offset,
            problem: problem.to_string().into(),
        }
    }

    pub(super) fn is_intact(&self) -> bool {
        statecast_proto::checksum(&self.wire.batch) == self.wire.checksum
    }
}

/// The records of a [`Batch`]. After an error there are no more.
#[derive(Debug)]
pub struct Records {
    decoder: Option<batch::Records>,
    problem: Option<batch::BatchError>,
    topic: Arc<str>,
    partition: u32,
    append_time_ms: i64,
    /// The offset of the next record, but for its gap.
    next_offset: u64,
    /// Records at the front that weren't asked for.
    skip: u32,
    offsets: Range<u64>,
}

impl Iterator for Records {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(decoder) = &mut self.decoder {
            let record = match decoder.next()? {
                Ok(record) => record,
                Err(problem) => {
                    self.problem = Some(problem);
                    break;
                }
            };
            let offset = self.next_offset + u64::from(record.offset_gap);
            self.next_offset = offset + 1;
            if self.skip > 0 {
                self.skip -= 1;
                continue;
            }
            if offset < self.offsets.start {
                continue;
            }
            if offset >= self.offsets.end {
                self.decoder = None;
                return None;
            }
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
        self.fail()
    }
}

impl Records {
    fn fail(&mut self) -> Option<Result<Record, Error>> {
        self.decoder = None;
        let problem = self.problem.take()?;
        Some(Err(Error::DamagedBatch {
            partition: self.partition,
            offset: self.next_offset,
            problem: problem.to_string().into(),
        }))
    }
}
