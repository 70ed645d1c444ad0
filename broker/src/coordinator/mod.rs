//! Consumer groups as they run: a task for each group drives the pure state machine
//! of `group`, keeps what the group committed, and tells its members. What groups
//! are and how far they have come is what the records of an internal partition fold
//! to; in memory lies the fold.
//!
//! Knows no partition and no stream: the log is reached through [`GroupLog`], and
//! members are told events that the layers above turn into records and responses.

mod absence;
mod beginnings;
mod counters;
mod error;
mod fold;
mod hearing;
mod log;
mod member;
mod message;
mod offsets;
mod outboxes;
mod record;
mod registry;
mod rounds;
mod task;
#[cfg(test)]
mod tests;
mod ticker;
mod topics;
mod view;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::group::{GroupName, JoinRequest, MemberId, TopicPartition};
use crate::limits;
use crate::model::{Offset, PartitionId, TopicId};

pub use error::{GroupError, JoinError};
pub use fold::{Fold, FoldError};
pub use log::{Durable, GroupLog, LogError, LogFuture};
pub use member::{Member, Starter};
pub use message::{
    Assignment, Commit, CommitAnswer, CommitError, CommitPosition, CommitRoom, EndReason, Identity,
    MemberEvent,
};
pub use offsets::Committed;
pub use topics::KnownTopics;
pub use view::{
    GroupCounts, GroupDescription, GroupSummary, MemberDescription, PartitionDescription,
};

use fold::LoadedGroup;
use log::LogWriter;
use message::Message;
use offsets::OffsetsRoom;
use record::StoredGroup;
use registry::Registry;
use task::{GroupTask, Shared};
use ticker::Ticker;

/// All consumer groups.
#[derive(Debug)]
pub struct Coordinator {
    registry: Arc<Registry>,
    shared: Shared,
    /// Of the member that joined last; ids of an earlier run of the broker are lower.
    last_member: AtomicU64,
    /// Of the group that was created last: milliseconds since the Unix epoch.
    last_created_ms: AtomicI64,
    tasks: TaskTracker,
}

/// What is known of the groups when the broker starts.
#[derive(Debug)]
pub struct Recovered {
    /// What the log says.
    pub fold: Fold,
    /// Whether records of the log are lost: then nothing is known to be gone.
    pub damaged: bool,
    /// Whether records of topics are lost: then none is known to be gone.
    pub topics_damaged: bool,
    /// No topic has a partition with this id or a higher one.
    pub next_partition: PartitionId,
}

impl Coordinator {
    /// Goes on with the groups that there were. `topics` are those that there are,
    /// as they change.
    pub fn start(
        recovered: Recovered,
        log: Arc<dyn GroupLog>,
        topics: watch::Receiver<KnownTopics>,
        clock: Clock,
    ) -> Coordinator {
        let known = topics.borrow().clone();
        let (groups, leftovers) = recovered.fold.finish(recovered.damaged, |topic| {
            recovered.topics_damaged || known.contains(topic)
        });
        let writer = LogWriter::start(log);
        if !leftovers.is_empty() {
            tracing::info!(
                "forgetting {} offsets of groups and topics that are gone",
                leftovers.len()
            );
            // If it fails, the next start tries again.
            drop(writer.write(leftovers));
        }
        let now_ms = clock.now_ms();
        let created = groups.iter().map(|group| group.stored.created_ms);
        let coordinator = Coordinator {
            registry: Arc::default(),
            last_member: AtomicU64::new(first_member(now_ms)),
            last_created_ms: AtomicI64::new(created.max().unwrap_or(i64::MIN)),
            shared: Shared {
                writer,
                clock,
                ticker: Ticker::start(),
                counters: Arc::default(),
                room: OffsetsRoom::default(),
                topics,
                stopping: CancellationToken::new(),
            },
            tasks: TaskTracker::new(),
        };
        for mut group in groups {
            // Absent when an older version, or damage, lost it.
            let next_partition = &mut group.stored.next_partition;
            next_partition.get_or_insert(recovered.next_partition.0);
            let name = group.name.clone();
            let begun = coordinator
                .registry
                .get_or_begin(&name, |id| coordinator.begin(group, true, id));
            if begun.is_err() {
                tracing::error!(group = %name, "more groups than there may be: left out");
            }
        }
        coordinator
    }

    /// Starts the task of a group.
    fn begin(&self, group: LoadedGroup, is_recorded: bool, id: u64) -> mpsc::Sender<Message> {
        let (mailbox, messages) = mpsc::channel(limits::GROUP_MAILBOX);
        let task = GroupTask::new(group, is_recorded, messages, self.shared.clone());
        let registry = Arc::downgrade(&self.registry);
        self.tasks.spawn(task.run(registry, id));
        mailbox
    }

    /// Makes somebody a member of a group, which begins with its first one.
    /// `next_partition` is higher than the id of every partition that there is.
    pub async fn join(
        &self,
        group: &GroupName,
        request: JoinRequest,
        identity: Identity,
        next_partition: PartitionId,
    ) -> Result<Member, JoinError> {
        let member = MemberId(self.last_member.fetch_add(1, Ordering::Relaxed) + 1);
        while !self.shared.stopping.is_cancelled() {
            let begin = |id| self.begin(self.new_group(group, next_partition), false, id);
            let mailbox = self
                .registry
                .get_or_begin(group, begin)
                .map_err(|_| JoinError::TooManyGroups)?;
            let (outbox, events) = mpsc::channel(limits::MEMBER_OUTBOX);
            let (reply, answer) = oneshot::channel();
            let join = Message::Join {
                member,
                request: request.clone(),
                identity: identity.clone(),
                outbox,
                reply,
            };
            // The group may be on its way out; then there will be another one.
            if mailbox.send(join).await.is_ok()
                && let Ok(joined) = answer.await
            {
                return Ok(Member::new(member, joined?, mailbox, events));
            }
        }
        Err(JoinError::Stopping)
    }

    fn new_group(&self, name: &GroupName, next_partition: PartitionId) -> LoadedGroup {
        // No two groups of a name have the same, even if the clock is set back.
        let now_ms = self.shared.clock.now_ms();
        let next = |last: i64| Some(now_ms.max(last.saturating_add(1)));
        let relaxed = Ordering::Relaxed;
        let before = self.last_created_ms.fetch_update(relaxed, relaxed, next);
        let before = before.unwrap_or_else(|same| same);
        LoadedGroup {
            name: name.clone(),
            stored: StoredGroup {
                created_ms: now_ms.max(before.saturating_add(1)),
                next_partition: Some(next_partition.0),
                ..StoredGroup::default()
            },
            offsets: HashMap::new(),
        }
    }

    /// Groups whose names begin with `prefix` and lie behind `after`, in the order
    /// of their names: at most `count`, and whether there are more.
    pub async fn list(&self, prefix: &str, after: &str, count: usize) -> (Vec<GroupSummary>, bool) {
        let (mailboxes, more) = self.registry.list(prefix, after, count);
        let mut groups = Vec::with_capacity(mailboxes.len());
        for mailbox in mailboxes {
            // One that has just ended is left out.
            if let Some(summary) = ask(&mailbox, Message::Summarize).await {
                groups.push(summary);
            }
        }
        (groups, more)
    }

    /// Everything about a group.
    pub async fn describe(&self, group: &str) -> Result<GroupDescription, GroupError> {
        let described = ask(&self.mailbox(group)?, Message::Describe).await;
        described.ok_or_else(|| self.unanswered(group))
    }

    /// Forgets a group that has no members, with what it committed.
    pub async fn delete(&self, group: &str) -> Result<(), GroupError> {
        let deleted = ask(&self.mailbox(group)?, Message::Delete).await;
        deleted.unwrap_or_else(|| Err(self.unanswered(group)))
    }

    /// Forgets what a group has committed for a topic that no member reads.
    pub async fn forget(&self, group: &str, topic: TopicId) -> Result<(), GroupError> {
        let forget = |reply| Message::Forget { topic, reply };
        let forgotten = ask(&self.mailbox(group)?, forget).await;
        forgotten.unwrap_or_else(|| Err(self.unanswered(group)))
    }

    /// Commits other offsets for a group: all of them, unless it fails. With `force`
    /// also while it has members, who lose these partitions and get them anew.
    pub async fn reset(
        &self,
        group: &str,
        positions: Vec<(TopicPartition, Offset)>,
        force: bool,
    ) -> Result<(), GroupError> {
        let reset = |reply| Message::Reset {
            positions,
            force,
            reply,
        };
        let reset = ask(&self.mailbox(group)?, reset).await;
        reset.unwrap_or_else(|| Err(self.unanswered(group)))
    }

    fn mailbox(&self, group: &str) -> Result<mpsc::Sender<Message>, GroupError> {
        let name = GroupName::try_from(group).ok();
        let mailbox = name.and_then(|name| self.registry.get(&name));
        mailbox.ok_or_else(|| self.unanswered(group))
    }

    /// Why nobody answers for a group: there is none, or its task has ended before it
    /// came to that.
    fn unanswered(&self, group: &str) -> GroupError {
        match self.shared.stopping.is_cancelled() {
            true => GroupError::Log(LogError::Stopping),
            false => GroupError::NotFound(group.to_owned()),
        }
    }

    /// Figures of all groups.
    pub fn counts(&self) -> GroupCounts {
        let counters = &self.shared.counters;
        GroupCounts {
            groups: self.registry.len(),
            members: counters.members(),
            commits: counters.commits(),
            rebalances: counters.rebalances(),
        }
    }

    /// Ends the groups as they are. What they wrote is with the log then, and nobody
    /// of here holds it any more. Members are told nothing further.
    pub async fn stop(&self) {
        self.shared.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.shared.writer.end().await;
    }
}

/// Ids of members begin with the time of the start, so that those of an earlier run
/// are lower: a million a second, for as long as the broker runs.
fn first_member(now_ms: i64) -> u64 {
    u64::try_from(now_ms)
        .unwrap_or_default()
        .saturating_mul(1000)
}

/// Asks a group's task; `None` when it ends.
async fn ask<T>(
    mailbox: &mpsc::Sender<Message>,
    message: impl FnOnce(oneshot::Sender<T>) -> Message,
) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    mailbox.send(message(reply)).await.ok()?;
    answer.await.ok()
}
