//! The commits of a member, from the request to the answer.
//!
//! Which topic a name stands for, and whether an offset can be right, is found out
//! here; whether the member may commit it is the group's to say. Answers are made in
//! the order of the requests.
//!
//! Before anything becomes of a commit there is room for it. While one waits for
//! that, no other is taken.

use std::collections::VecDeque;
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;

use statecast_proto::reason::Reason;
use statecast_proto::v1;

use super::commit_room::{MemberRoom, Room, room_for};
use super::outgoing::Said;
use crate::broker::Broker;
use crate::coordinator::{Commit, CommitAnswer, CommitError, CommitPosition, LogError};
use crate::group::{CommitRefusal, Generation, GroupName, TopicPartition};
use crate::limits;
use crate::model::Offset;
use crate::server::call::Call;
use crate::server::error::Refusal;
use crate::server::memory::Held;

/// The commits that a member has not been told about.
pub(super) struct Commits {
    group: GroupName,
    room: MemberRoom,
    /// One for which there is no room yet, and what brings it.
    waiting: Option<(Admitted, More)>,
    /// In the order of the requests.
    unanswered: VecDeque<Unanswered>,
    /// Those whose answers were not sent yet, and all their positions.
    count: usize,
    positions: usize,
}

/// Brings room.
type More = Pin<Box<dyn Future<Output = Held> + Send>>;

/// A commit that there is room for.
#[derive(Debug)]
pub(super) struct Admitted {
    request: v1::Commit,
    room: Arc<Room>,
}

#[derive(Debug)]
struct Unanswered {
    id: u64,
    room: Arc<Room>,
    /// What was asked for, in its order.
    places: Vec<Place>,
    /// What was refused before the group saw it.
    refused: Vec<(usize, Refusal)>,
}

#[derive(Debug)]
struct Place {
    topic: String,
    partition: u32,
    /// Which partition that is, and the offset; absent when it was refused.
    asked: Option<(TopicPartition, Offset)>,
}

/// A commit was answered.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) said: Said,
    /// What is committed now.
    pub(super) accepted: Vec<(TopicPartition, Offset)>,
}

impl Commits {
    pub(super) fn new(group: GroupName, call: Arc<Call>) -> Commits {
        Commits {
            group,
            room: MemberRoom::new(call),
            waiting: None,
            unanswered: VecDeque::new(),
            count: 0,
            positions: 0,
        }
    }

    /// Whether one more commit may come.
    pub(super) fn has_room(&self) -> bool {
        self.count < limits::COMMITS_IN_FLIGHT
            && self.positions < limits::COMMIT_POSITIONS_IN_FLIGHT
            && !self.is_waiting()
    }

    /// Whether one waits for memory of the broker.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// The one that waited, once there is room for it. May be given up at any time.
    pub(super) async fn admitted(&mut self) -> Admitted {
        let Some((_, more)) = &mut self.waiting else {
            return pending().await;
        };
        let more = more.await;
        let (admitted, _) = self.waiting.take().expect("it was just looked at");
        self.room.grow(more);
        admitted
    }

    /// Nothing becomes of the one that waits.
    pub(super) fn forget_waiting(&mut self) {
        self.waiting = None;
    }

    /// Whether all that were heard were answered by the group.
    pub(super) fn are_settled(&self) -> bool {
        self.unanswered.is_empty() && !self.is_waiting()
    }

    /// Whether it is the broker's doing that no other is heard: there is no memory, or
    /// the group hasn't answered. A member that doesn't take its answers keeps itself
    /// waiting.
    pub(super) fn keep_waiting(&self) -> bool {
        !self.has_room() && !self.are_settled()
    }

    /// Takes a request, at once if there is room for it.
    pub(super) fn take(&mut self, request: v1::Commit) -> Result<Option<Admitted>, Refusal> {
        let count = request.positions.len();
        if !limits::POSITIONS_PER_COMMIT.contains(&count) {
            let limit = limits::POSITIONS_PER_COMMIT.end();
            let message = format_args!("a commit has 1 to {limit} positions, not {count}");
            return Err(Refusal::invalid(message)
                .beyond(count, limit)
                .with("commit_id", request.commit_id));
        }
        let (room, missing) = self.room.take(room_for(&request, &self.group));
        let room = Arc::new(room);
        let admitted = Admitted { request, room };
        match missing {
            None => Ok(Some(admitted)),
            Some(more) => {
                self.waiting = Some((admitted, Box::pin(more)));
                Ok(None)
            }
        }
    }

    /// Begins with one that there is room for; returns what the group has to see.
    pub(super) fn begin(&mut self, broker: &Broker, admitted: Admitted) -> Commit {
        let Admitted { request, room } = admitted;
        let count = request.positions.len();
        let mut unanswered = Unanswered {
            id: request.commit_id,
            room: room.clone(),
            places: Vec::with_capacity(count),
            refused: Vec::new(),
        };
        let mut positions = Vec::with_capacity(count);
        for (place, position) in request.positions.into_iter().enumerate() {
            let mut asked = None;
            match check(broker, &position) {
                Ok(partition) => {
                    let offset = Offset(position.offset);
                    asked = Some((partition, offset));
                    positions.push(CommitPosition {
                        place,
                        partition,
                        offset,
                        generation: position.generation.map(Generation),
                    });
                }
                Err(refusal) => unanswered.refused.push((place, refusal)),
            }
            unanswered.places.push(Place {
                topic: position.topic,
                partition: position.partition,
                asked,
            });
        }
        self.count += 1;
        self.positions += count;
        self.unanswered.push_back(unanswered);
        Commit {
            id: request.commit_id,
            positions,
            room,
        }
    }

    /// The group answered the oldest commit.
    pub(super) fn answer(&mut self, answer: CommitAnswer) -> Answered {
        let unanswered = self.unanswered.pop_front();
        let Unanswered {
            id,
            room,
            mut places,
            mut refused,
        } = unanswered.expect("each commit is answered once");
        assert_eq!(id, answer.id, "commits are answered in their order");
        let by_group = answer.refused.into_iter();
        refused.extend(by_group.map(|(place, error)| (place, Refusal::from(error))));
        refused.sort_by_key(|(place, _)| *place);
        let positions = places.len();
        let refused = refused.into_iter().map(|(place, refusal)| {
            let place = &mut places[place];
            place.asked = None;
            let topic = std::mem::take(&mut place.topic);
            let refusal = refusal.about(&topic, place.partition);
            v1::RefusedCommit {
                topic,
                partition: place.partition,
                error: Some(refusal.into_batch_error()),
            }
        });
        let refused = refused.collect();
        Answered {
            said: Said::Committed {
                result: v1::CommitResult {
                    commit_id: id,
                    refused,
                },
                positions,
                room,
            },
            accepted: places.into_iter().filter_map(|place| place.asked).collect(),
        }
    }

    /// The answer to a commit of so many positions was sent.
    pub(super) fn sent(&mut self, positions: usize) {
        self.count -= 1;
        self.positions -= positions;
    }
}

/// Which partition is meant, if the offset can be one up to which the member has
/// processed records. One that lies below what is kept can: records may have been
/// removed while they were processed.
fn check(broker: &Broker, position: &v1::CommitPosition) -> Result<TopicPartition, Refusal> {
    let topic = broker.topic(&position.topic)?;
    let range = topic.partition(position.partition)?.range();
    if position.offset > range.high_watermark.0 {
        let message = format_args!(
            "offset {} lies beyond the high watermark {}",
            position.offset, range.high_watermark
        );
        return Err(Refusal::new(Reason::OffsetOutOfRange, message)
            .with("offset", position.offset)
            .with("log_start_offset", range.log_start_offset)
            .with("high_watermark", range.high_watermark));
    }
    Ok(TopicPartition {
        topic: topic.meta().id,
        partition: position.partition,
    })
}

impl From<CommitError> for Refusal {
    fn from(error: CommitError) -> Refusal {
        match error {
            CommitError::Refused(refusal) => {
                let reason = match refusal {
                    CommitRefusal::NotAssigned => Reason::NotAssigned,
                    CommitRefusal::StaleGeneration => Reason::StaleGeneration,
                };
                Refusal::new(reason, refusal)
            }
            CommitError::TooManyOffsets => Refusal::new(Reason::TooManyPartitions, &error)
                .with("limit", limits::COMMITTED_OFFSETS),
            CommitError::Log(error) => error.into(),
        }
    }
}

impl From<LogError> for Refusal {
    fn from(error: LogError) -> Refusal {
        let reason = match &error {
            LogError::DiskFull => Reason::DiskFull,
            LogError::ReadOnly(_) => Reason::LogReadOnly,
            LogError::Stopping => Reason::Stopping,
        };
        Refusal::new(reason, &error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::ServerOptions;
    use crate::server::connection::Connection;
    use crate::server::memory::Memory;

    fn commits() -> Commits {
        let memory = Arc::new(Memory::new(&ServerOptions::default()));
        let connection = Arc::new(Connection::new(([127, 0, 0, 1], 1).into(), 1));
        let call = Call::of_nobody(memory, connection);
        Commits::new(GroupName::try_from("g").unwrap(), call)
    }

    /// Takes a commit, which the group hears of.
    async fn begin(commits: &mut Commits, id: u64) {
        let request = v1::Commit {
            commit_id: id,
            positions: vec![v1::CommitPosition::default()],
        };
        let admitted = match commits.take(request).unwrap() {
            Some(admitted) => admitted,
            None => {
                assert!(commits.keep_waiting() && !commits.are_settled());
                commits.admitted().await
            }
        };
        commits.unanswered.push_back(Unanswered {
            id,
            room: admitted.room,
            places: vec![Place {
                topic: "t".to_owned(),
                partition: 0,
                asked: None,
            }],
            refused: Vec::new(),
        });
        commits.count += 1;
        commits.positions += 1;
    }

    #[tokio::test]
    async fn the_broker_keeps_a_member_waiting_until_all_is_answered_and_no_longer() {
        let mut commits = commits();
        let all = limits::COMMITS_IN_FLIGHT as u64;
        for id in 0..all {
            assert!(commits.has_room() && !commits.keep_waiting());
            begin(&mut commits, id).await;
        }
        for id in 0..all {
            assert!(!commits.has_room() && commits.keep_waiting());
            let answered = commits.answer(CommitAnswer {
                id,
                refused: Vec::new(),
                room: Arc::new(()),
            });
            drop(answered);
        }
        // It is the member that doesn't take its answers now.
        assert!(!commits.has_room() && !commits.keep_waiting());
        commits.sent(1);
        assert!(commits.has_room());
    }
}
