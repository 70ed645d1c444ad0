//! What a member is still to be told, and in which order: what the group has to say
//! comes before records.

use std::collections::VecDeque;
use std::sync::Arc;

use statecast_proto::reason::Reason;
use statecast_proto::v1::{self, consume_response::Event};
use tokio::time::Instant;

use super::commit_room::{PER_REFUSAL, Room};
use crate::group::{Generation, RevokeReason};
use crate::limits;
use crate::model::{Offset, TopicName};
use crate::server::error::Refusal;

/// A partition as the member knows it. A member that doesn't read may have to be told
/// of many, so they share their names until they are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) topic: TopicName,
    pub(super) partition: u32,
}

/// A partition that the member gets, and where it begins.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) place: Place,
    pub(super) offset: Offset,
    pub(super) committed: bool,
    pub(super) high_watermark: Offset,
}

impl From<Place> for v1::TopicPartition {
    fn from(place: Place) -> v1::TopicPartition {
        v1::TopicPartition {
            topic: place.topic.to_string(),
            partition: place.partition,
        }
    }
}

impl From<Begun> for v1::AssignedPartition {
    fn from(begun: Begun) -> v1::AssignedPartition {
        v1::AssignedPartition {
            topic: begun.place.topic.to_string(),
            partition: begun.place.partition,
            offset: begun.offset.0,
            committed: begun.committed,
            high_watermark: begun.high_watermark.0,
        }
    }
}

/// Something that the group has to say.
#[derive(Debug)]
pub(super) enum Said {
    Event(Event),
    Assigned(Generation, VecDeque<Begun>),
    Revoke {
        generation: Generation,
        partitions: VecDeque<Place>,
        /// Commits are taken until then.
        deadline: Instant,
        reason: RevokeReason,
    },
    Lost {
        generation: Generation,
        partitions: VecDeque<Place>,
        reason: RevokeReason,
    },
    Committed {
        result: v1::CommitResult,
        /// How many positions the commit had.
        positions: usize,
        /// That of the commit; the answer takes it with it.
        room: Arc<Room>,
    },
}

/// Why a member has to go that doesn't take what it is told.
pub(super) fn unread() -> Refusal {
    let message = "the member doesn't read what it is told";
    Refusal::new(Reason::MemberNotReading, message)
}

/// What waits for the transport.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    said: VecDeque<Said>,
    /// Partitions that are named in what waits, but for commits.
    partitions: usize,
    /// Refused requests among what waits, but for commits.
    refusals: usize,
}

impl Outgoing {
    pub(super) fn is_empty(&self) -> bool {
        self.said.is_empty()
    }

    /// Whether the member may say more that it has to be answered.
    pub(super) fn has_room(&self) -> bool {
        self.said.len() < limits::COMMITS_IN_FLIGHT && self.refusals < limits::REFUSALS_UNTOLD
    }

    /// Whether the member takes so little of what it is told that it has to go.
    pub(super) fn is_overflowing(&self) -> bool {
        self.partitions > limits::PARTITIONS_UNTOLD
    }

    pub(super) fn push(&mut self, said: Said) {
        self.partitions += said.weight();
        self.refusals += usize::from(said.is_refusal());
        self.said.push_back(said);
    }

    /// What is told next; and of a commit, how many positions it had.
    pub(super) fn pop(&mut self) -> Option<(Event, Option<usize>)> {
        let next = self.said.front_mut()?;
        self.refusals -= usize::from(next.is_refusal());
        let before = next.weight();
        let event = next.take_part();
        let rest = next.weight();
        if rest > 1 {
            self.partitions -= before - rest;
            return Some((event, None));
        }
        self.partitions -= before;
        match self.said.pop_front() {
            Some(Said::Committed {
                positions, room, ..
            }) => {
                if let Event::CommitResult(result) = &event {
                    room.hand_over(result.refused.len() * PER_REFUSAL);
                }
                Some((event, Some(positions)))
            }
            _ => Some((event, None)),
        }
    }
}

impl Said {
    /// What it counts for while it waits.
    fn weight(&self) -> usize {
        1 + match self {
            Said::Event(_) | Said::Committed { .. } => 0,
            Said::Assigned(_, partitions) => partitions.len(),
            Said::Revoke { partitions, .. } | Said::Lost { partitions, .. } => partitions.len(),
        }
    }

    fn is_refusal(&self) -> bool {
        matches!(self, Said::Event(Event::Refused(_)))
    }

    /// As much as fits into one event.
    fn take_part(&mut self) -> Event {
        match self {
            Said::Event(event) => std::mem::replace(event, Event::Heartbeat(v1::Heartbeat {})),
            Said::Committed { result, .. } => Event::CommitResult(std::mem::take(result)),
            Said::Assigned(generation, partitions) => Event::Assigned(v1::Assigned {
                generation: generation.0,
                partitions: part(partitions),
            }),
            Said::Revoke {
                generation,
                partitions,
                deadline,
                reason,
            } => {
                let left = deadline.saturating_duration_since(Instant::now());
                Event::Revoke(v1::Revoke {
                    generation: generation.0,
                    partitions: part(partitions),
                    deadline_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
                    reason: reason_number(*reason),
                })
            }
            Said::Lost {
                generation,
                partitions,
                reason,
            } => Event::Lost(v1::Lost {
                generation: generation.0,
                partitions: part(partitions),
                reason: reason_number(*reason),
            }),
        }
    }
}

fn part<T: Into<U>, U>(partitions: &mut VecDeque<T>) -> Vec<U> {
    let count = partitions.len().min(limits::PARTITIONS_PER_EVENT);
    partitions.drain(..count).map(T::into).collect()
}

fn reason_number(reason: RevokeReason) -> i32 {
    let reason = match reason {
        RevokeReason::Rebalance => v1::RevokeReason::Rebalance,
        RevokeReason::MaxProcessingTime => v1::RevokeReason::MaxProcessingTime,
        RevokeReason::TopicDeleted => v1::RevokeReason::TopicDeleted,
    };
    reason.into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn partitions(count: usize) -> VecDeque<Place> {
        let topic = TopicName::try_from("t").unwrap();
        let partition = |partition| Place {
            topic: topic.clone(),
            partition,
        };
        (0..u32::try_from(count).unwrap()).map(partition).collect()
    }

    fn lost(count: usize) -> Said {
        Said::Lost {
            generation: Generation(1),
            partitions: partitions(count),
            reason: RevokeReason::Rebalance,
        }
    }

    #[test]
    fn what_is_too_much_for_one_event_is_told_in_several() {
        let mut outgoing = Outgoing::default();
        let limit = limits::PARTITIONS_PER_EVENT;
        outgoing.push(lost(2 * limit + 1));
        outgoing.push(lost(limit));
        let mut told = Vec::new();
        while let Some((event, _)) = outgoing.pop() {
            let Event::Lost(lost) = event else {
                panic!("{event:?}");
            };
            assert_eq!(lost.generation, 1);
            told.push(lost.partitions.len());
        }
        assert_eq!(told, [limit, limit, 1, limit]);
        assert_eq!(outgoing.partitions, 0);
    }

    #[test]
    fn who_does_not_read_is_not_said_to_have_been_silent() {
        assert_eq!(unread().into_batch_error().reason, "MEMBER_NOT_READING");
    }

    #[test]
    fn what_is_kept_for_who_takes_nothing_is_as_much_as_the_limit_says() {
        let largest = size_of::<Begun>().max(size_of::<Place>());
        assert!(limits::PARTITIONS_UNTOLD * largest <= 12 << 20);
    }

    #[test]
    fn who_takes_nothing_overflows_by_what_it_was_to_be_told() {
        let mut outgoing = Outgoing::default();
        let mut pushed = 0;
        while !outgoing.is_overflowing() {
            outgoing.push(lost(1000));
            pushed += 1;
        }
        assert!((pushed - 1) * 1001 <= limits::PARTITIONS_UNTOLD);
        outgoing.pop();
        assert!(!outgoing.is_overflowing());
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_for_a_revoke_is_what_is_left_when_it_is_sent() {
        let mut outgoing = Outgoing::default();
        let deadline = Instant::now() + Duration::from_millis(500);
        for _ in 0..2 {
            outgoing.push(Said::Revoke {
                generation: Generation(1),
                partitions: partitions(1),
                deadline,
                reason: RevokeReason::Rebalance,
            });
        }
        for (wait, left) in [(200, 300), (400, 0)] {
            tokio::time::advance(Duration::from_millis(wait)).await;
            let Some((Event::Revoke(revoke), None)) = outgoing.pop() else {
                panic!("a revoke");
            };
            assert_eq!(revoke.deadline_ms, left);
        }
    }

    #[test]
    fn who_takes_no_refusals_is_not_heard_until_it_takes_one() {
        let mut outgoing = Outgoing::default();
        for _ in 0..limits::REFUSALS_UNTOLD {
            assert!(outgoing.has_room());
            let refused = Event::Refused(v1::BatchError::default());
            outgoing.push(Said::Event(refused));
        }
        assert!(!outgoing.has_room());
        outgoing.pop();
        assert!(outgoing.has_room());
    }
}
