//! A member, as its stream has it.

use std::collections::HashSet;

use tokio::sync::{mpsc, oneshot};

use super::log::LogError;
use super::message::{Commit, CommitError, MemberEvent, Message};
use crate::group::{Generation, MemberId, TopicPartition};
use crate::limits;
use crate::model::{Offset, PartitionId};

/// A member of a group, from its join on. Dropped without a word, it is found out
/// to be gone when its group tells it something, or doesn't hear of it in time.
#[derive(Debug)]
pub struct Member {
    id: MemberId,
    /// When the group began, no partition had this id or a higher one.
    next_partition: PartitionId,
    group: mpsc::Sender<Message>,
    events: mpsc::Receiver<MemberEvent>,
}

impl Member {
    pub(super) fn new(
        id: MemberId,
        next_partition: PartitionId,
        group: mpsc::Sender<Message>,
        events: mpsc::Receiver<MemberEvent>,
    ) -> Member {
        Member {
            id,
            next_partition,
            group,
            events,
        }
    }

    /// Which one.
    pub fn id(&self) -> MemberId {
        self.id
    }

    /// What it is told next. `None` when it is told nothing more: it didn't take
    /// what it was told, or the broker is stopping. May be given up at any time.
    pub async fn event(&mut self) -> Option<MemberEvent> {
        self.events.recv().await
    }

    /// It is alive.
    pub async fn heartbeat(&self) {
        self.tell(Message::Heartbeat(self.id)).await;
    }

    /// It has processed records; [`MemberEvent::Committed`] answers.
    pub async fn commit(&self, commit: Commit) {
        self.tell(Message::Commit(self.id, commit)).await;
    }

    /// Says where partitions begin, while other things are said.
    pub fn starter(&self) -> Starter {
        Starter {
            id: self.id,
            next_partition: self.next_partition,
            group: self.group.clone(),
        }
    }

    /// It no longer works on these; each with the generation of the
    /// [`MemberEvent::Revoke`] that this answers.
    pub async fn revoked(&self, partitions: Vec<(TopicPartition, Generation)>) {
        self.tell(Message::Revoked(self.id, partitions)).await;
    }

    /// It holds records for too long.
    pub async fn stalled(&self) {
        self.tell(Message::Stalled(self.id)).await;
    }

    /// It makes progress again.
    pub async fn resumed(&self) {
        self.tell(Message::Resumed(self.id)).await;
    }

    /// It goes for good. The answers to its commits still come.
    pub async fn leave(&self) {
        self.tell(Message::Leave(self.id)).await;
    }

    /// Its stream is gone, without its leaving.
    pub async fn disconnected(&self) {
        self.tell(Message::Disconnected(self.id)).await;
    }

    async fn tell(&self, message: Message) {
        // A group that has ended needs no telling; its end is told by `event`.
        let _ = self.group.send(message).await;
    }
}

/// Says for a member where partitions begin.
#[derive(Debug)]
pub struct Starter {
    id: MemberId,
    next_partition: PartitionId,
    group: mpsc::Sender<Message>,
}

impl Starter {
    /// Whether a partition was created after the group began: then all of it is the
    /// group's to read.
    pub fn is_new(&self, partition: PartitionId) -> bool {
        partition >= self.next_partition
    }

    /// The member is about to begin with partitions of an assignment for which nothing
    /// was committed: that is committed for it. Returns those that are its still, once
    /// it is durable; fails for all of them. While the disk is full it goes on trying:
    /// nothing is lost by waiting, and nothing else can change hands meanwhile either.
    pub async fn begin(
        &self,
        generation: Generation,
        starts: Vec<(TopicPartition, Offset)>,
    ) -> Result<HashSet<TopicPartition>, CommitError> {
        loop {
            let begun = self.try_begin(generation, starts.clone()).await;
            if begun != Err(CommitError::Log(LogError::DiskFull)) {
                return begun;
            }
            tokio::time::sleep(limits::RETRY_AFTER).await;
        }
    }

    async fn try_begin(
        &self,
        generation: Generation,
        starts: Vec<(TopicPartition, Offset)>,
    ) -> Result<HashSet<TopicPartition>, CommitError> {
        let (reply, answer) = oneshot::channel();
        let begin = Message::Begin {
            member: self.id,
            generation,
            starts,
            reply,
        };
        let is_there = self.group.send(begin).await.is_ok();
        let answer = if is_there { answer.await.ok() } else { None };
        answer.unwrap_or(Err(CommitError::Log(LogError::Stopping)))
    }
}
