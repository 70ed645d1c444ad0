//! What happens to a batch before the log takes it: where does it go, and is it
//! sound? Nothing is looked at twice, and nothing is decoded but to spread
//! records by key.

use bytes::{Bytes, BytesMut};
use statecast_proto::batch::{self, BatchLimits};
use statecast_proto::{checksum, partition_for_key};

use super::producers::Claims;
use super::recent_topics::RecentTopics;
use super::{Broker, ProduceError, SequenceClaim, Topic};
use crate::limits;
use crate::model::{CheckedBatch, KeyHasher, Offset, Stamp};
use crate::partition::Append;
use crate::views::LEASE_HEADER;

/// Of a header's attributes: 0 when the batch is not compressed.
const CODEC_BITS: u16 = 0b111;

/// Who made a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// A client. It may not write the headers that are the broker's.
    Client,
    /// The broker, of what a client puts.
    Put,
    /// The broker alone. What the topic takes of clients doesn't bind it.
    Broker,
}

/// A batch as it came in.
#[derive(Debug)]
pub struct IncomingBatch<'a> {
    /// Who made it.
    pub author: Author,
    /// Name of its topic.
    pub topic: &'a str,
    /// Number of its partition.
    pub partition: u32,
    /// The encoded `RecordBatch`.
    pub payload: Bytes,
    /// CRC-32 of the payload, as the sender computed it.
    pub checksum: Option<u32>,
    /// Which batch of which producer it claims to be.
    pub sequence: Option<SequenceClaim>,
}

/// A batch whose records go each to the partition of its key.
#[derive(Debug)]
pub struct KeyedBatch<'a> {
    /// Name of the topic.
    pub topic: &'a str,
    /// The encoded `RecordBatch`.
    pub payload: Bytes,
    /// CRC-32 of the payload, as the sender computed it.
    pub checksum: Option<u32>,
    /// A number that chooses the partition for records without a key. By default
    /// partitions take turns.
    pub choice: Option<u32>,
}

/// Checks the batches of one sender.
#[derive(Debug)]
pub struct BatchChecker {
    broker: Broker,
    topics: RecentTopics,
    payloads: PayloadChecker,
    claims: Claims,
}

impl BatchChecker {
    /// For one sender.
    pub fn new(broker: Broker) -> BatchChecker {
        BatchChecker {
            payloads: PayloadChecker {
                limits: BatchLimits::default(),
                keys: broker.key_hasher(),
                scratch: Vec::new(),
            },
            broker,
            topics: RecentTopics::default(),
            claims: Claims::default(),
        }
    }

    /// Brings the partitions that batches will go to into the processor's cache. Of thousands
    /// of partitions none is there, and to wait for many together takes little longer
    /// than to wait for one.
    pub fn fetch_ahead<'a>(&mut self, places: impl Iterator<Item = (&'a str, u32)>) {
        for (topic, partition) in places {
            let topic = self.topics.get(&self.broker, topic);
            if let Ok(partition) = topic.and_then(|topic| topic.partition(partition)) {
                partition.fetch();
            }
        }
    }

    /// The append of a batch, if it may be appended.
    pub fn check(&mut self, incoming: IncomingBatch<'_>) -> Result<Append, ProduceError> {
        let topic = self.topics.get(&self.broker, incoming.topic)?;
        let partition = topic.partition(incoming.partition)?;
        let IncomingBatch {
            author,
            payload,
            checksum,
            ..
        } = incoming;
        if author != Author::Broker {
            check_size(topic, payload.len())?;
        }
        let needs_keys = topic.needs_keys();
        let mut batch = self.payloads.check(payload, checksum, needs_keys, author)?;
        if let Some(claim) = incoming.sequence {
            let stamp = self.claims.stamp(&self.broker.shared.producers, claim)?;
            batch.stamp = Some(Stamp::Producer(stamp));
        }
        Ok(Append::new(partition, batch))
    }

    /// The appends of a batch whose records go each to the partition of its key.
    /// Records without a key go to one partition together.
    pub fn spread_by_key(&mut self, batch: KeyedBatch<'_>) -> Result<ByKey, ProduceError> {
        let topic = self.topics.get(&self.broker, batch.topic)?;
        check_size(topic, batch.payload.len())?;
        if batch::stated_uncompressed_len(&batch.payload) > 0 {
            // It need not be unpacked to say so.
            return Err(ProduceError::CompressedWithoutPartition);
        }
        let (needs_keys, author) = (topic.needs_keys(), Author::Client);
        let (payload, checksum) = (batch.payload, batch.checksum);
        let whole = self.payloads.check(payload, checksum, needs_keys, author)?;
        if whole.attributes & CODEC_BITS != 0 {
            return Err(ProduceError::CompressedWithoutPartition);
        }
        let keyless = match batch.choice {
            Some(choice) => choice % topic.partition_count(),
            None => topic.take_turn(),
        };
        let mut of_record = Vec::with_capacity(whole.record_count as usize);
        for record in batch::split(&whole.payload) {
            let key = record?.key;
            let by_key = |key| partition_for_key(key, topic.partition_count());
            of_record.push(key.map_or(keyless, by_key));
        }
        let mut partitions = of_record.clone();
        partitions.sort_unstable();
        partitions.dedup();
        let placement = Placement {
            partitions,
            of_record,
        };
        let appends = match placement.partitions[..] {
            [only] => vec![Append::new(topic.partition(only)?, whole)],
            _ => self.payloads.cut(topic, &whole.payload, &placement)?,
        };
        Ok(ByKey { appends, placement })
    }
}

/// Checks payloads, and cuts them.
#[derive(Debug)]
struct PayloadChecker {
    limits: BatchLimits,
    keys: KeyHasher,
    /// Where compressed batches are unpacked for the check.
    scratch: Vec<u8>,
}

impl PayloadChecker {
    /// Cuts a batch into one for each partition.
    fn cut(
        &mut self,
        topic: &Topic,
        payload: &[u8],
        placement: &Placement,
    ) -> Result<Vec<Append>, ProduceError> {
        let mut parts = vec![BytesMut::new(); placement.partitions.len()];
        for (record, &partition) in batch::split(payload).zip(&placement.of_record) {
            parts[placement.append_of(partition)].extend_from_slice(record?.bytes);
        }
        let mut appends = Vec::with_capacity(parts.len());
        for (&partition, part) in placement.partitions.iter().zip(parts) {
            let needs_keys = topic.needs_keys();
            let batch = self.check(part.freeze(), None, needs_keys, Author::Client)?;
            appends.push(Append::new(topic.partition(partition)?, batch));
        }
        Ok(appends)
    }

    fn check(
        &mut self,
        payload: Bytes,
        expected: Option<u32>,
        needs_keys: bool,
        author: Author,
    ) -> Result<CheckedBatch, ProduceError> {
        let keys = needs_keys.then(|| Keyed {
            hasher: self.keys,
            // In other topics it means nothing.
            reserved_header: (author == Author::Client).then_some(LEASE_HEADER),
        });
        let batch = checked(payload, expected, &self.limits, keys, &mut self.scratch);
        if self.scratch.capacity() > limits::KEPT_SCRATCH_BYTES {
            self.scratch = Vec::new();
        }
        batch
    }
}

/// The appends of a call that names no partition.
#[derive(Debug)]
pub struct ByKey {
    /// One for each partition that gets something.
    pub appends: Vec<Append>,
    /// Where the records go.
    pub placement: Placement,
}

/// Where the records of a call go, one by one.
#[derive(Debug)]
pub struct Placement {
    /// Numbers of the partitions that get something, in the order of the appends:
    /// ascending.
    partitions: Vec<u32>,
    /// For each record, the number of its partition.
    of_record: Vec<u32>,
}

impl Placement {
    /// Partition and offset of each record, given the offset of the first record
    /// of each append.
    pub fn positions(&self, bases: &[Offset]) -> Vec<(u32, Offset)> {
        let mut next = bases.to_vec();
        let position = |&partition: &u32| {
            let part = self.append_of(partition);
            let offset = next[part];
            next[part] = offset.advanced(1);
            (partition, offset)
        };
        self.of_record.iter().map(position).collect()
    }

    /// Numbers of the partitions that get something, in the order of the appends.
    pub fn partitions(&self) -> &[u32] {
        &self.partitions
    }

    fn append_of(&self, partition: u32) -> usize {
        self.partitions
            .binary_search(&partition)
            .expect("every record's partition is there")
    }
}

fn check_size(topic: &Topic, bytes: usize) -> Result<(), ProduceError> {
    let limit = topic.max_batch_bytes();
    if bytes > limit as usize {
        return Err(ProduceError::BatchTooLarge {
            topic: topic.meta().name.clone(),
            bytes,
            limit,
        });
    }
    Ok(())
}

/// What records have to be that need a key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keyed {
    pub(super) hasher: KeyHasher,
    /// None of them may have a header with this name.
    pub(super) reserved_header: Option<&'static str>,
}

impl From<KeyHasher> for Keyed {
    fn from(hasher: KeyHasher) -> Keyed {
        Keyed {
            hasher,
            reserved_header: None,
        }
    }
}

/// A sound batch out of a payload that came from somewhere. With a hasher, each record
/// needs a key.
pub(super) fn checked(
    payload: Bytes,
    expected: Option<u32>,
    limits: &BatchLimits,
    keys: Option<impl Into<Keyed>>,
    scratch: &mut Vec<u8>,
) -> Result<CheckedBatch, ProduceError> {
    let payload_crc = checksum(&payload);
    if let Some(expected) = expected
        && expected != payload_crc
    {
        return Err(ProduceError::ChecksumMismatch {
            expected,
            actual: payload_crc,
        });
    }
    let mut key_hashes = Vec::new();
    let summary = match keys.map(Into::into) {
        None => batch::check(&payload, limits, scratch),
        Some(Keyed {
            hasher,
            reserved_header,
        }) => batch::check_keyed(&payload, limits, scratch, reserved_header, |key| {
            key_hashes.push(hasher.hash(key));
        }),
    }?;
    Ok(CheckedBatch {
        payload,
        payload_crc,
        record_count: summary.record_count,
        max_timestamp_ms: summary.max_timestamp_ms,
        all_timed: summary.all_timed,
        uncompressed_len: summary.uncompressed_len,
        attributes: summary.compression.number().into(),
        stamp: None,
        key_hashes,
    })
}
