//! What a member is still to be told, and in which order: what the group has to say
//! comes before records.

use std::collections::VecDeque;

use statecast_proto::v1::{self, consume_response::Event};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::group::{Generation, RevokeReason};
use crate::limits;

/// Something that the group has to say.
#[derive(Debug)]
pub(super) enum Said {
    Event(Event),
    Assigned(Generation, VecDeque<v1::AssignedPartition>),
    Revoke {
        generation: Generation,
        partitions: VecDeque<v1::TopicPartition>,
        /// Commits are taken until then.
        deadline: Instant,
        reason: RevokeReason,
    },
    Lost {
        generation: Generation,
        partitions: VecDeque<v1::TopicPartition>,
        reason: RevokeReason,
    },
    Committed {
        result: v1::CommitResult,
        /// How many positions the commit had.
        positions: usize,
        /// Room that is free once this is sent.
        _room: Option<OwnedSemaphorePermit>,
    },
}

/// What waits for the transport.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    said: VecDeque<Said>,
    /// Partitions that are named in what waits, but for commits.
    partitions: usize,
}

impl Outgoing {
    pub(super) fn is_empty(&self) -> bool {
        self.said.is_empty()
    }

    /// Whether the member may say more that it has to be answered.
    pub(super) fn has_room(&self) -> bool {
        self.said.len() < limits::COMMITS_IN_FLIGHT
    }

    /// Whether the member takes so little of what it is told that it has to go.
    pub(super) fn is_overflowing(&self) -> bool {
        self.partitions > limits::PARTITIONS_UNTOLD
    }

    pub(super) fn push(&mut self, said: Said) {
        self.partitions += said.weight();
        self.said.push_back(said);
    }

    /// What is told next; and of a commit, how many positions it had.
    pub(super) fn pop(&mut self) -> Option<(Event, Option<usize>)> {
        let next = self.said.front_mut()?;
        let before = next.weight();
        let event = next.take_part();
        let rest = next.weight();
        if rest > 1 {
            self.partitions -= before - rest;
            return Some((event, None));
        }
        self.partitions -= before;
        match self.said.pop_front() {
            Some(Said::Committed { positions, .. }) => Some((event, Some(positions))),
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

fn part<T>(partitions: &mut VecDeque<T>) -> Vec<T> {
    let count = partitions.len().min(limits::PARTITIONS_PER_EVENT);
    partitions.drain(..count).collect()
}

fn reason_number(reason: RevokeReason) -> i32 {
    let reason = match reason {
        RevokeReason::Rebalance => v1::RevokeReason::Rebalance,
        RevokeReason::MaxProcessingTime => v1::RevokeReason::MaxProcessingTime,
        RevokeReason::TopicDeleted => v1::RevokeReason::TopicDeleted,
    };
    reason.into()
}
