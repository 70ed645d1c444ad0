//! What becomes of a partition's numbers when the broker refuses the first of its
//! batches that aren't settled. No I/O.
//!
//! Everything that was sent is answered, and later batches can't be there without
//! the first; so none of them was appended.
//!
//! | the first was refused with | every copy was answered | a copy may be on its way |
//! |---|---|---|
//! | `SEQUENCE_GAP`: what came before it was refused for good, given up, or lost by a broker whose topic isn't flushed each time | they go on from the number that the broker expects | they begin under another identity, since numbers mustn't be used twice |
//! | `PRODUCER_EXPIRED`: the broker has forgotten the producer, or the topic is another one of the same name | they begin again from 0; under another identity if 0 was refused | those with such copies fail: nobody can tell whether they were appended. The others begin under another identity |
//! | anything else | its number is fine | its number is fine |

use std::collections::HashMap;

use statecast_proto::reason::Reason;

use super::batch::CutBatch;
use super::sequences::{Sequences, Slot};
use crate::error::Error;

/// Names the number that the broker expects, in the metadata of a gap.
const EXPECTED: &str = "expected_sequence";

/// What is known of the partitions with batches that aren't settled.
#[derive(Debug, Default)]
pub(super) struct Findings {
    partitions: HashMap<Slot, Finding>,
}

#[derive(Debug)]
struct Finding {
    /// The number of the first, and why the broker refused it.
    refused: Option<(u32, Error)>,
    /// Of any of its batches, a copy may be on its way.
    lost: bool,
}

/// The partitions whose batches are numbered anew, with what fails those that may
/// have been appended, if they are to fail.
#[derive(Debug, Default)]
pub(super) struct Renumbered {
    partitions: HashMap<Slot, Option<Error>>,
}

/// What is to be done with a batch.
pub(super) enum Fate {
    Keep,
    Drop,
    Fail(Error),
}

#[derive(Debug, PartialEq, Eq)]
enum Remedy {
    None,
    /// Go on from this number.
    Restart(u32),
    /// Begin under an identity that the partition didn't have before.
    Leave,
}

impl Findings {
    /// Looks at a batch; those of a partition come in their order.
    pub(super) fn add(&mut self, batch: &CutBatch, refused: Option<&Error>) {
        let finding = self.partitions.entry(batch.slot).or_insert_with(|| {
            let number = batch.number.map(|number| number.base);
            Finding {
                refused: number.zip(refused.cloned()),
                lost: false,
            }
        });
        finding.lost |= batch.is_lost();
    }

    /// Tells the numbers what the broker wants.
    pub(super) fn settle(self, sequences: &mut Sequences) -> Renumbered {
        let mut renumbered = Renumbered::default();
        for (slot, finding) in self.partitions {
            let Some((base, error)) = finding.refused else {
                continue;
            };
            let in_doubt = finding.lost || sequences.is_doubtful(slot);
            match remedy(base, &error, in_doubt) {
                Remedy::None => continue,
                Remedy::Restart(next) => sequences.restart(slot, next),
                Remedy::Leave => sequences.leave(slot),
            }
            let expired = error.reason() == Some(Reason::ProducerExpired);
            let fails = expired.then_some(error);
            renumbered.partitions.insert(slot, fails);
        }
        renumbered
    }
}

impl Renumbered {
    pub(super) fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }

    /// Takes its number from a batch that is to get another one.
    pub(super) fn treat(&self, batch: &mut CutBatch) -> Fate {
        let Some(fails) = self.partitions.get(&batch.slot) else {
            return Fate::Keep;
        };
        match fails {
            // Nothing depends on it any more.
            _ if batch.given_up => Fate::Drop,
            Some(error) if batch.is_lost() => Fate::Fail(error.clone()),
            _ => {
                batch.number = None;
                Fate::Keep
            }
        }
    }
}

fn remedy(base: u32, error: &Error, in_doubt: bool) -> Remedy {
    match error.reason() {
        Some(Reason::SequenceGap) => {
            let expected = error.refusal().and_then(|refusal| refusal.number(EXPECTED));
            let expected = expected.and_then(|expected| u32::try_from(expected).ok());
            match expected {
                Some(expected) if !in_doubt => Remedy::Restart(expected),
                _ => Remedy::Leave,
            }
        }
        Some(Reason::ProducerExpired) if in_doubt || base == 0 => Remedy::Leave,
        Some(Reason::ProducerExpired) => Remedy::Restart(0),
        _ => Remedy::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(reason: Reason, metadata: &[(&str, &str)]) -> Error {
        let metadata = metadata.iter();
        let metadata = metadata.map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Error::refused_here(reason, String::new(), metadata.collect())
    }

    #[test]
    fn gap_goes_on_from_what_is_expected_unless_a_number_would_be_used_twice() {
        let gap = refused(Reason::SequenceGap, &[(EXPECTED, "5")]);
        assert_eq!(remedy(9, &gap, false), Remedy::Restart(5));
        assert_eq!(remedy(9, &gap, true), Remedy::Leave);
        for absurd in [&[][..], &[(EXPECTED, "-1")], &[(EXPECTED, "4294967296")]] {
            let gap = refused(Reason::SequenceGap, absurd);
            assert_eq!(remedy(9, &gap, false), Remedy::Leave);
        }
    }

    #[test]
    fn expired_producer_begins_again_and_under_another_identity_if_that_fails() {
        let expired = refused(Reason::ProducerExpired, &[]);
        assert_eq!(remedy(9, &expired, false), Remedy::Restart(0));
        assert_eq!(remedy(0, &expired, false), Remedy::Leave);
        assert_eq!(remedy(9, &expired, true), Remedy::Leave);
    }

    #[test]
    fn other_refusals_leave_the_numbers_alone() {
        let full = refused(Reason::DiskFull, &[]);
        assert_eq!(remedy(9, &full, true), Remedy::None);
        assert_eq!(remedy(9, &Error::Closed, false), Remedy::None);
    }
}
