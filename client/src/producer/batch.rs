//! A batch of the producer: open while records are added, then cut, then sent
//! as often as it takes.

use std::sync::Arc;
use std::time::Instant;

use statecast_proto::batch::{BatchBuilder, BatchLimits, EncodedBatch, stated_uncompressed_len};
use statecast_proto::v1::{PartitionBatch, ProduceStreamRequest, ProducerSequence};

use super::completion::Completion;
use super::sequences::{Number, Slot};

/// A batch holds no more records.
const MAX_RECORDS: u32 = BatchLimits::DEFAULT.max_records;

/// A batch that waits to be sent.
#[derive(Debug)]
pub(super) struct WaitingBatch {
    pub(super) topic: Arc<str>,
    pub(super) partition: u32,
    pub(super) slot: Slot,
    pub(super) content: Content,
    pub(super) completion: Arc<Completion>,
    /// Permits of the producer's buffer that it holds.
    pub(super) cost: usize,
    /// When its first record came.
    pub(super) since: Instant,
}

#[derive(Debug)]
pub(super) enum Content {
    /// Takes records until it is cut.
    Open(BatchBuilder),
    /// Came encoded.
    Encoded(EncodedBatch),
}

impl WaitingBatch {
    /// Its size on the wire, before compression: bytes.
    pub(super) fn len(&self) -> usize {
        match &self.content {
            Content::Open(builder) => builder.encoded_len(),
            // The broker bounds what a request unpacks to.
            Content::Encoded(encoded) => {
                let payload = &encoded.payload;
                payload.len().max(stated_uncompressed_len(payload))
            }
        }
    }

    /// Whether a record of at most `bytes` can be added, so that the batch stays
    /// within `limit`.
    pub(super) fn has_room(&self, bytes: usize, limit: usize) -> bool {
        match &self.content {
            Content::Open(builder) => {
                builder.record_count() < MAX_RECORDS && builder.encoded_len() + bytes <= limit
            }
            Content::Encoded(_) => false,
        }
    }

    /// Encodes it for good, and gives the builder back for the next one.
    pub(super) fn cut(self) -> (CutBatch, Option<BatchBuilder>) {
        let (encoded, builder) = match self.content {
            Content::Open(mut builder) => (builder.finish(), Some(builder)),
            Content::Encoded(encoded) => (encoded, None),
        };
        let batch = CutBatch {
            topic: self.topic,
            partition: self.partition,
            slot: self.slot,
            encoded,
            number: None,
            completion: self.completion,
            cost: self.cost,
            since: self.since,
            damaged: 0,
            given_up: false,
        };
        (batch, builder)
    }
}

/// A batch whose bytes are final; a retry sends the same ones.
#[derive(Debug, Clone)]
pub(super) struct CutBatch {
    pub(super) topic: Arc<str>,
    pub(super) partition: u32,
    pub(super) slot: Slot,
    pub(super) encoded: EncodedBatch,
    /// Got when it is first sent, and kept; `None` without idempotence.
    pub(super) number: Option<Number>,
    pub(super) completion: Arc<Completion>,
    pub(super) cost: usize,
    pub(super) since: Instant,
    /// How often the broker said that it arrived with other bytes.
    pub(super) damaged: u8,
    /// Its records were told that it failed. It is still sent, because later ones
    /// depend on whether it was appended.
    pub(super) given_up: bool,
}

impl CutBatch {
    /// Whether a copy may have been appended, or may yet be, for all that is
    /// known; never without a number.
    pub(super) fn is_lost(&self) -> bool {
        self.number.is_some_and(|number| number.lost)
    }

    /// Gives it up, unless it is already. Returns it as it was, to be failed.
    pub(super) fn give_up(&mut self) -> Option<Self> {
        if self.given_up {
            return None;
        }
        let before = self.clone();
        self.given_up = true;
        self.cost = 0;
        Some(before)
    }

    /// The connection over which it was sent is gone.
    pub(super) fn lose(&mut self) {
        if let Some(number) = &mut self.number {
            number.lost = true;
        }
    }
}

/// The batches of one request, answered together.
pub(super) type Request = Vec<CutBatch>;

/// The request as it goes over the wire; the payloads are shared, not copied.
pub(super) fn message(request: &Request) -> ProduceStreamRequest {
    let batches = request.iter().map(|batch| PartitionBatch {
        topic: batch.topic.as_ref().into(),
        partition: batch.partition,
        batch: batch.encoded.payload.clone(),
        checksum: Some(batch.encoded.checksum),
        sequence: batch.number.map(|number| ProducerSequence {
            producer_id: number.identity.producer_id,
            epoch: number.identity.epoch,
            base_sequence: number.base,
        }),
    });
    ProduceStreamRequest {
        batches: batches.collect(),
    }
}

/// A batch for tests of the rules.
#[cfg(test)]
pub(super) fn test_batch(slot: Slot, record_count: u32) -> CutBatch {
    CutBatch {
        topic: "t".into(),
        partition: 0,
        slot,
        encoded: EncodedBatch {
            payload: bytes::Bytes::new(),
            record_count,
            checksum: 0,
        },
        number: None,
        completion: Completion::new(0),
        cost: 1,
        since: crate::clock::now(),
        damaged: 0,
        given_up: false,
    }
}
