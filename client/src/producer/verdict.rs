//! What an answer of the broker means for a batch. No I/O.

use statecast_proto::reason::Reason;
use statecast_proto::v1::BatchResult;
use statecast_proto::v1::batch_result::Outcome;

use super::batch::CutBatch;
use crate::error::Error;

/// How often a batch that arrives with other bytes is sent again: what damages
/// it every time won't stop.
const MAX_DAMAGED: u8 = 2;

#[derive(Debug)]
pub(super) enum Verdict {
    /// Its first record has this offset, now or since an earlier copy came.
    Appended(u64),
    /// It fails; a retry doesn't help, or nobody knows what became of it.
    Failed(Error),
    /// It wasn't appended, and is to be sent again, perhaps under another number.
    Again(Error),
    /// Another producer has this one's name; nothing more of it will be appended.
    Fenced(Error),
}

impl Verdict {
    pub(super) fn of(batch: &CutBatch, result: BatchResult) -> Self {
        let error = match result.outcome {
            Some(Outcome::Appended(appended)) => {
                let base = appended.base_offset;
                return match base.checked_add(batch.encoded.record_count.into()) {
                    Some(_) => Self::Appended(base),
                    None => Self::Failed(Error::protocol("an offset out of bounds")),
                };
            }
            Some(Outcome::Error(error)) => Error::from_batch_error(error),
            None => return Self::Failed(Error::protocol("a result without an outcome")),
        };
        let numbered = batch.number.is_some();
        match error.reason() {
            Some(Reason::ProducerFenced) => Self::Fenced(error),
            // Another number, or the same one behind what is missing, will do.
            Some(Reason::SequenceGap | Reason::ProducerExpired) if numbered => Self::Again(error),
            Some(Reason::ChecksumMismatch) if batch.damaged >= MAX_DAMAGED => Self::Failed(error),
            _ if error.is_retryable() => Self::Again(error),
            _ => Self::Failed(error),
        }
    }
}
