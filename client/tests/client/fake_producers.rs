//! What a broker knows of producers and their numbers.

use std::collections::{HashMap, VecDeque};

use statecast_client::Reason;
use statecast_proto::v1::batch_result::Outcome;
use statecast_proto::v1::{self, PartitionBatch};
use tonic::Status;

use super::fake_broker::status;

/// Batches of a producer that a partition knows the places of.
const KNOWN_BATCHES: usize = 32;

#[derive(Debug, Default)]
pub(crate) struct Producers {
    last_id: u64,
    /// The epoch that counts, by id.
    epochs: HashMap<u64, u32>,
    ids_by_name: HashMap<String, u64>,
    /// By partition and id.
    sequences: HashMap<(u32, u64), Sequence>,
    /// It is of a version that knows nothing of all this.
    too_old: bool,
    /// Identities that it gives without anybody hearing of it.
    lost_answers: usize,
    requests: Vec<v1::InitProducerRequest>,
    /// How often each reason was given.
    refusals: HashMap<Reason, usize>,
}

#[derive(Debug, Default)]
struct Sequence {
    epoch: u32,
    next: u32,
    /// Number, count of records, and offset.
    known: VecDeque<(u32, u32, u64)>,
}

impl Producers {
    pub(crate) fn set_too_old(&mut self, too_old: bool) {
        self.too_old = too_old;
    }

    pub(crate) fn lose_answers(&mut self, count: usize) {
        self.lost_answers = count;
    }

    /// What it was asked for identities.
    pub(crate) fn requests(&self) -> &[v1::InitProducerRequest] {
        &self.requests
    }

    pub(crate) fn refusals(&self, reason: Reason) -> usize {
        self.refusals.get(&reason).copied().unwrap_or_default()
    }

    /// Nothing is known any more of what partitions got.
    pub(crate) fn forget_sequences(&mut self) {
        self.sequences.clear();
    }

    /// Which numbers come next is known, but not where those before were put.
    pub(crate) fn forget_places(&mut self) {
        for sequence in self.sequences.values_mut() {
            sequence.known.clear();
        }
    }

    /// No producer is known any more.
    pub(crate) fn forget_all(&mut self) {
        self.sequences.clear();
        self.epochs.clear();
        self.ids_by_name.clear();
    }

    pub(crate) fn begin(
        &mut self,
        request: &v1::InitProducerRequest,
    ) -> Result<v1::InitProducerResponse, Status> {
        if self.too_old {
            return Err(Status::unimplemented("what is a producer?"));
        }
        self.requests.push(request.clone());
        let producer_id = match &request.producer_name {
            Some(name) if name.contains(' ') => {
                return Err(status(Reason::InvalidRequest, Vec::new()));
            }
            Some(name) => *self.ids_by_name.entry(name.clone()).or_insert_with(|| {
                self.last_id += 1;
                self.last_id
            }),
            None => {
                self.last_id += 1;
                self.last_id
            }
        };
        let before = self.epochs.get(&producer_id).copied();
        if let (Some(_), Some(current), Some(before)) =
            (&request.producer_name, &request.current, before)
            && (current.producer_id, current.epoch) != (producer_id, before)
        {
            return Err(status(Reason::ProducerFenced, Vec::new()));
        }
        let epoch = before.map_or(0, |before| before + 1);
        self.epochs.insert(producer_id, epoch);
        if self.lost_answers > 0 {
            self.lost_answers -= 1;
            return Err(Status::unavailable("the answer is lost"));
        }
        Ok(v1::InitProducerResponse { producer_id, epoch })
    }

    /// Whether a batch, whose offset would be this, is appended; counts it if so.
    pub(crate) fn judge(&mut self, batch: &PartitionBatch, records: u32, offset: u64) -> Outcome {
        let appended = |base_offset, duplicate| {
            Outcome::Appended(v1::Appended {
                base_offset,
                duplicate,
            })
        };
        let sequence = match &batch.sequence {
            Some(sequence) if !self.too_old => sequence,
            _ => return appended(offset, false),
        };
        let Some(epoch) = self.epochs.get(&sequence.producer_id) else {
            return self.refuse(Reason::ProducerExpired, None);
        };
        if sequence.epoch < *epoch {
            return self.refuse(Reason::ProducerFenced, None);
        }
        let base = sequence.base_sequence;
        let place = (batch.partition, sequence.producer_id);
        let known = match self.sequences.get_mut(&place) {
            Some(known) if known.epoch == sequence.epoch => known,
            None if base != 0 => return self.refuse(Reason::ProducerExpired, None),
            Some(_) if base != 0 => return self.refuse(Reason::SequenceGap, Some(0)),
            _ => {
                let begun = Sequence {
                    epoch: sequence.epoch,
                    ..Sequence::default()
                };
                self.sequences.entry(place).insert_entry(begun).into_mut()
            }
        };
        let earlier = known.known.iter().find(|(number, _, _)| *number == base);
        if let Some((_, count, offset)) = earlier {
            assert_eq!(*count, records, "a number stands for one batch");
            return appended(*offset, true);
        }
        let next = known.next;
        if base != next {
            // Half of all numbers lie ahead.
            let is_ahead = base.wrapping_sub(next) < 1 << 31;
            return if is_ahead {
                self.refuse(Reason::SequenceGap, Some(next))
            } else {
                self.refuse(Reason::SequenceTooOld, None)
            };
        }
        known.next = next.wrapping_add(records);
        known.known.push_back((base, records, offset));
        if known.known.len() > KNOWN_BATCHES {
            known.known.pop_front();
        }
        appended(offset, false)
    }

    fn refuse(&mut self, reason: Reason, expected: Option<u32>) -> Outcome {
        *self.refusals.entry(reason).or_default() += 1;
        let expected = expected.map(|next| ("expected_sequence".to_owned(), next.to_string()));
        Outcome::Error(v1::BatchError {
            code: reason.code(),
            reason: reason.as_str().to_owned(),
            message: "by the rules of producers".to_owned(),
            metadata: expected.into_iter().collect(),
            retry_after_ms: None,
        })
    }
}
