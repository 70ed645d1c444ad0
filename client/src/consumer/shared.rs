//! What a consumer, its handles and its session share.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::{Notify, oneshot};
use tonic::transport::Channel;

use super::builder::ConsumerSettings;
use super::event::{CommitPosition, TopicPartition};
use super::member::{Goodbye, Member};
use crate::client::Client;
use crate::error::Error;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) channel: Channel,
    pub(super) settings: ConsumerSettings,
    /// A plain lock: it is held to note or to take something, never across an
    /// await, and never together with another.
    member: Mutex<Member>,
    /// The session has something to say.
    speak: Notify,
}

impl Shared {
    pub(super) fn new(client: Client, settings: ConsumerSettings) -> Self {
        Self {
            channel: client.next_fetch_channel(),
            client,
            member: Mutex::new(Member::new(settings.capacity)),
            settings,
            speak: Notify::new(),
        }
    }

    /// For the session: whoever waits for the member isn't woken.
    pub(super) fn lock(&self) -> MutexGuard<'_, Member> {
        self.member.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the user's side: wakes the session when there is something to say.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Member) -> T) -> T {
        let (result, speaks) = {
            let mut member = self.lock();
            let result = act(&mut member);
            (result, member.has_request() || member.is_leaving())
        };
        if speaks {
            self.speak.notify_one();
        }
        result
    }

    /// For the session: wakes whoever waits for the member.
    pub(super) fn tell<T>(&self, act: impl FnOnce(&mut Member) -> T) -> T {
        let (result, reader, closers) = {
            let mut member = self.lock();
            let result = act(&mut member);
            let closers = match member.has_ended() {
                Some(_) => std::mem::take(&mut member.closers),
                None => Vec::new(),
            };
            (result, member.reader.take(), closers)
        };
        for waker in reader.into_iter().chain(closers) {
            waker.wake();
        }
        result
    }

    /// Ready when there may be something to say.
    pub(super) async fn speaks(&self) {
        self.speak.notified().await;
    }

    /// Commits, and waits until that is durable.
    pub(super) async fn commit(&self, positions: Vec<CommitPosition>) -> Result<(), Error> {
        let waits = self.with(|member| {
            let commit = |position| {
                let (waiter, told) = oneshot::channel();
                member.commit(position, waiter).map(|()| told)
            };
            let waits: Vec<_> = positions.iter().map(commit).collect();
            waits
        });
        // All are carried out; the first failure is told.
        let mut result = Ok(());
        for wait in waits {
            let outcome = match wait {
                Ok(told) => told.await.unwrap_or(Err(Error::Closed)),
                Err(error) => Err(error),
            };
            result = result.and(outcome);
        }
        result
    }

    /// Commits all that was processed, and waits until that is durable.
    pub(super) async fn commit_processed(&self) -> Result<(), Error> {
        let uncommitted = self.lock().shares.uncommitted();
        self.commit(uncommitted).await
    }

    /// Fails when something was processed that wasn't committed before a connection
    /// was lost, and nobody has it again. What others have the broker knows.
    pub(super) async fn look_for_unsettled(&self) -> Result<(), Error> {
        let (mut unsettled, id) = {
            let member = self.lock();
            let id = member.joined().map(|joined| joined.member_id.clone());
            (member.unsettled().clone(), id)
        };
        if let Some(id) = id
            && !unsettled.is_empty()
            && let Ok(group) = self
                .client
                .admin()
                .describe_group(&self.settings.group)
                .await
        {
            let mut there = BTreeSet::new();
            for partition in group.partitions {
                let place = TopicPartition {
                    topic: partition.topic.into(),
                    partition: partition.partition,
                };
                unsettled.settle(&place, partition.committed_offset.unwrap_or(0));
                if partition.member_id.is_some_and(|owner| owner != id) {
                    unsettled.goes_on(&place);
                }
                there.insert(place);
            }
            // The group names all that its members read, as far as there are topics.
            unsettled.keep(&there);
        }
        unsettled.outcome()
    }

    /// How the member goes unless told otherwise.
    pub(super) fn goodbye(&self) -> Goodbye {
        match self.settings.member_name {
            Some(_) => Goodbye::Pause,
            None => Goodbye::Leave,
        }
    }

    pub(super) fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let mut member = self.lock();
        match member.has_ended() {
            Some(outcome) => Poll::Ready(outcome.clone()),
            None => {
                if !member.closers.iter().any(|w| w.will_wake(cx.waker())) {
                    member.closers.push(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// Ready when the member has joined.
    pub(super) fn poll_joined(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let mut member = self.lock();
        match (member.joined(), member.has_ended()) {
            (_, Some(outcome)) => Poll::Ready(outcome.clone()),
            (Some(_), None) => Poll::Ready(Ok(())),
            (None, None) => {
                member.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Something that outlives the consumer: commits from other tasks, and stops
/// it. Cheap to clone; from [`Consumer::handle`](super::Consumer::handle).
#[derive(Debug, Clone)]
pub struct ConsumerHandle {
    pub(super) shared: Arc<Shared>,
}

impl ConsumerHandle {
    /// As [`Consumer::commit`](super::Consumer::commit).
    pub async fn commit(&self, position: impl Into<CommitPosition>) -> Result<(), Error> {
        self.shared.commit(vec![position.into()]).await
    }

    /// As [`Consumer::commit_all`](super::Consumer::commit_all).
    pub async fn commit_all(
        &self,
        positions: impl IntoIterator<Item = CommitPosition>,
    ) -> Result<(), Error> {
        self.shared.commit(positions.into_iter().collect()).await
    }

    /// As [`Consumer::commit_processed`](super::Consumer::commit_processed).
    pub async fn commit_processed(&self) -> Result<(), Error> {
        self.shared.commit_processed().await
    }

    /// As [`Consumer::mark_processed`](super::Consumer::mark_processed).
    pub fn mark_processed(&self, position: impl Into<CommitPosition>) -> Result<(), Error> {
        let position = position.into();
        self.shared.with(|member| member.shares.mark(&position))?;
        Ok(())
    }

    /// As [`Consumer::give_back`](super::Consumer::give_back).
    pub fn give_back(&self, partition: &TopicPartition) {
        self.shared
            .with(|member| member.shares.drop_rest(partition));
    }

    /// Hands out nothing more: the consumer's stream ends, and
    /// [`for_each_concurrent_by_key`](super::Consumer::for_each_concurrent_by_key)
    /// once what it has begun is finished. The consumer keeps its partitions
    /// until it is closed or dropped.
    pub fn stop(&self) {
        self.shared.tell(Member::stop);
    }
}
