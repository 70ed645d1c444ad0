//! What becomes of a partition's numbers when batches were given up, or when the
//! broker refuses the first of those that aren't settled. No I/O.
//!
//! Nothing is on its way over this connection, and later batches can't be there
//! without the first; so when the first was refused, none was appended. But of a
//! connection that was lost, copies may yet arrive, each where it fits. The cases,
//! for a partition:
//!
//! 1. All batches with such copies were given up: they are dropped, and the others
//!    begin under another identity. They know nothing of the numbers before them.
//! 2. The first was refused with `SEQUENCE_GAP`: what came before it was refused for
//!    good, or too old to be sent, or lost by a broker that doesn't flush the topic
//!    each time. They go on from the number that the broker expects; under another
//!    identity if there are copies, for numbers mustn't be used twice.
//! 3. The first was refused with `PRODUCER_EXPIRED`: the broker has forgotten the
//!    producer, or it is another topic of the same name. Those with copies fail, for
//!    nobody can tell whether they were appended. The others begin again from 0;
//!    under another identity if there were copies, or if 0 was refused.
//! 4. Else, the numbers are fine.
//!
//! With a name, another identity ends the one before, in all partitions. So it waits
//! while other partitions have batches that may have been appended under that one:
//! everything is sent again as it is, until those are settled. Then all partitions
//! begin under the other identity.

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
    /// There are batches of which copies may yet arrive.
    lost: bool,
    /// There are such batches that weren't given up.
    awaited: bool,
}

/// The partitions whose batches are numbered anew.
#[derive(Debug, Default)]
pub(super) struct Renumbered {
    /// With what fails those that may have been appended, if they are to fail.
    partitions: HashMap<Slot, Option<Error>>,
    /// All others are, too.
    all: bool,
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
                awaited: false,
            }
        });
        finding.lost |= batch.is_lost();
        finding.awaited |= batch.is_lost() && !batch.given_up;
    }

    /// Tells the numbers what becomes of them.
    pub(super) fn settle(self, sequences: &mut Sequences) -> Renumbered {
        let decided = self.partitions.into_iter().map(|(slot, finding)| {
            let remedy = finding.remedy(sequences.is_doubtful(slot));
            (slot, finding, remedy)
        });
        let (leaving, others): (Vec<_>, Vec<_>) =
            decided.partition(|(.., remedy)| *remedy == Remedy::Leave);
        let all = sequences.is_exclusive() && !leaving.is_empty();
        let postponed = all && others.iter().any(|(_, finding, _)| finding.awaited);
        let mut renumbered = Renumbered::default();
        renumbered.apply(others, sequences);
        if !postponed {
            renumbered.apply(leaving, sequences);
            renumbered.all = all;
        }
        if renumbered.all {
            sequences.leave_all();
        }
        renumbered
    }
}

impl Finding {
    fn remedy(&self, doubtful: bool) -> Remedy {
        if self.lost && !self.awaited {
            return Remedy::Leave;
        }
        let Some((base, error)) = &self.refused else {
            return Remedy::None;
        };
        let copies = self.lost || doubtful;
        match error.reason() {
            Some(Reason::SequenceGap) => {
                let expected = error.refusal().and_then(|refusal| refusal.number(EXPECTED));
                let expected = expected.and_then(|expected| u32::try_from(expected).ok());
                match expected {
                    Some(expected) if !copies => Remedy::Restart(expected),
                    _ => Remedy::Leave,
                }
            }
            Some(Reason::ProducerExpired) if copies || *base == 0 => Remedy::Leave,
            Some(Reason::ProducerExpired) => Remedy::Restart(0),
            _ => Remedy::None,
        }
    }
}

impl Renumbered {
    fn apply(&mut self, decided: Vec<(Slot, Finding, Remedy)>, sequences: &mut Sequences) {
        for (slot, finding, remedy) in decided {
            match remedy {
                Remedy::None => continue,
                Remedy::Restart(next) => sequences.restart(slot, next),
                Remedy::Leave => sequences.leave(slot),
            }
            let refused = finding.refused.map(|(_, error)| error);
            let fails = refused.filter(|error| error.reason() == Some(Reason::ProducerExpired));
            self.partitions.insert(slot, fails);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.partitions.is_empty() && !self.all
    }

    /// Takes its number from a batch that is to get another one.
    pub(super) fn treat(&self, batch: &mut CutBatch) -> Fate {
        let fails = match self.partitions.get(&batch.slot) {
            Some(fails) => fails.as_ref(),
            None if self.all => None,
            None => return Fate::Keep,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(reason: Reason, metadata: &[(&str, &str)]) -> Error {
        let metadata = metadata.iter();
        let metadata = metadata.map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Error::refused_here(reason, String::new(), metadata.collect())
    }

    fn remedy(base: u32, error: &Error, lost: bool) -> Remedy {
        let finding = Finding {
            refused: Some((base, error.clone())),
            lost,
            awaited: lost,
        };
        finding.remedy(false)
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

    #[test]
    fn numbers_are_left_once_nothing_that_may_arrive_is_awaited() {
        let finding = |lost, awaited| Finding {
            refused: None,
            lost,
            awaited,
        };
        assert_eq!(finding(true, true).remedy(false), Remedy::None);
        assert_eq!(finding(true, false).remedy(false), Remedy::Leave);
        assert_eq!(finding(false, false).remedy(true), Remedy::None);
    }
}
