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
    /// Its first record has this offset, now or since an earlier copy came; that of
    /// an earlier copy the broker may not know any more.
    Appended(Option<u64>),
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
                    Some(_) => Self::Appended(Some(base)),
                    None => Self::Failed(Error::protocol("an offset out of bounds")),
                };
            }
            Some(Outcome::Error(error)) => Error::from_batch_error(error),
            None => return Self::Failed(Error::protocol("a result without an outcome")),
        };
        let numbered = batch.number.is_some();
        match error.reason() {
            Some(Reason::ProducerFenced) => Self::Fenced(error),
            // A failure would have it sent once more, as another record.
            Some(Reason::SequenceTooOld) if numbered => Self::Appended(None),
            // Another number, or the same one behind what is missing, will do.
            Some(Reason::SequenceGap | Reason::ProducerExpired) if numbered => Self::Again(error),
            Some(Reason::ChecksumMismatch) if batch.damaged >= MAX_DAMAGED => Self::Failed(error),
            _ if error.is_retryable() => Self::Again(error),
            _ => Self::Failed(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use statecast_proto::v1::{Appended, BatchError};

    use super::super::batch::test_batch;
    use super::super::sequences::{Identity, Number, Slot};
    use super::*;

    fn batch(numbered: bool) -> CutBatch {
        let identity = Identity {
            producer_id: 7,
            epoch: 0,
        };
        let number = Number {
            identity,
            base: 0,
            lost: false,
        };
        CutBatch {
            number: numbered.then_some(number),
            ..test_batch(Slot::test(0), 2)
        }
    }

    fn refused(reason: Reason) -> BatchResult {
        let error = BatchError {
            code: reason.code(),
            reason: reason.as_str().to_owned(),
            ..BatchError::default()
        };
        BatchResult {
            outcome: Some(Outcome::Error(error)),
        }
    }

    fn appended(base_offset: u64) -> BatchResult {
        BatchResult {
            outcome: Some(Outcome::Appended(Appended {
                base_offset,
                duplicate: true,
            })),
        }
    }

    #[test]
    fn refused_numbers_are_no_failure_of_a_batch_that_has_one() {
        for reason in [Reason::SequenceGap, Reason::ProducerExpired] {
            let verdict = Verdict::of(&batch(true), refused(reason));
            assert!(matches!(verdict, Verdict::Again(_)), "{verdict:?}");
            let verdict = Verdict::of(&batch(false), refused(reason));
            assert!(matches!(verdict, Verdict::Failed(_)), "{verdict:?}");
        }
        let verdict = Verdict::of(&batch(true), refused(Reason::ProducerFenced));
        assert!(matches!(verdict, Verdict::Fenced(_)), "{verdict:?}");
    }

    #[test]
    fn batch_that_arrives_damaged_is_sent_again_a_few_times() {
        let mut batch = batch(true);
        let verdict = Verdict::of(&batch, refused(Reason::ChecksumMismatch));
        assert!(matches!(verdict, Verdict::Again(_)), "{verdict:?}");
        batch.damaged = MAX_DAMAGED;
        let verdict = Verdict::of(&batch, refused(Reason::ChecksumMismatch));
        assert!(matches!(verdict, Verdict::Failed(_)), "{verdict:?}");
    }

    #[test]
    fn batch_that_the_broker_had_before_is_delivered_though_nobody_knows_where() {
        let verdict = Verdict::of(&batch(true), refused(Reason::SequenceTooOld));
        assert!(matches!(verdict, Verdict::Appended(None)), "{verdict:?}");
        // Without a number it makes no sense.
        let verdict = Verdict::of(&batch(false), refused(Reason::SequenceTooOld));
        assert!(matches!(verdict, Verdict::Failed(_)), "{verdict:?}");
    }

    #[test]
    fn duplicate_is_as_good_as_new_and_an_offset_without_end_is_none() {
        let verdict = Verdict::of(&batch(true), appended(40));
        assert!(
            matches!(verdict, Verdict::Appended(Some(40))),
            "{verdict:?}"
        );
        let verdict = Verdict::of(&batch(true), appended(u64::MAX));
        assert!(matches!(verdict, Verdict::Failed(_)), "{verdict:?}");
        let nothing = BatchResult { outcome: None };
        let verdict = Verdict::of(&batch(true), nothing);
        assert!(matches!(verdict, Verdict::Failed(_)), "{verdict:?}");
    }
}
