//! A member of a consumer group.
//!
//! The `session` is the task that keeps the stream to the broker; what it hears
//! and says is decided by the `member`, which is pure: its `shares` are the
//! partitions it has and how far they are, its `inbox` what arrived, its `credit`
//! what it takes. The consumer takes from the inbox what the user asks for;
//! `by_key` does so for many records at a time, in `lanes` by key.

mod builder;
mod by_key;
mod call;
mod credit;
mod event;
mod handing;
mod inbox;
mod lanes;
mod member;
mod prefix;
mod session;
mod share;
mod shared;
mod shares;
mod unsettled;

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;

pub use self::builder::{ConsumerBuilder, GroupStart};
pub use self::event::{
    AssignedPartition, CommitPosition, GroupEvent, RevokeReason, TopicPartition,
};
pub use self::shared::ConsumerHandle;

use self::handing::Current;
use self::member::Goodbye;
use self::shared::Shared;
use crate::error::Error;
use crate::reader::Batch;

/// A member of a consumer group: the members of a group share the partitions of
/// their topics, each partition at one member at a time. The broker says who has
/// what, and remembers how far each partition is processed.
///
/// As a [`Stream`](futures_util::Stream) it yields records; [`Consumer::next_batch`] yields batches,
/// which is faster for small records; [`Consumer::next_event`] also tells what
/// becomes of partitions. Records of a partition come in their order.
///
/// # What is committed
///
/// By default a record counts as processed once the next one is asked for, and
/// what is processed is committed every second. So a consumer that crashes leaves
/// to others what it had not processed, and what it had within the last second:
/// each record is processed *at least once*. A stream adaptor that asks for more
/// before it is done, as `buffered` does, needs
/// [`auto_commit(false)`](ConsumerBuilder::auto_commit), and
/// [`Consumer::mark_processed`] or [`Consumer::commit`] when a record is done. To
/// work on many records at a time, there is
/// [`Consumer::for_each_concurrent_by_key`].
///
/// # When a partition goes
///
/// When others are to have a partition, no more of its records are handed out.
/// Those that were can be finished, and committed, until a deadline; once they
/// are, the partition goes on at once. This happens in the background: it doesn't
/// matter how slow a handler is. A commit that comes too late fails with
/// [`Reason::StaleGeneration`](crate::Reason::StaleGeneration), and the consumer
/// goes on.
///
/// A lost connection is made again, and the group joined again; the consumer then
/// goes on from what the group has committed: what was handed out and not
/// committed may come again.
///
/// # How it ends
///
/// [`Error::Truncated`], [`Error::Quarantined`] and [`Error::DamagedBatch`] say
/// once that records are missing, and the records behind them follow. After any
/// other error the consumer has ended. [`Consumer::close`] commits what is
/// processed and leaves; a consumer that is dropped does so in the background,
/// while the runtime lives.
///
/// ```
/// # statecast_example_broker::run(async |url| {
/// use statecast_client::Client;
/// use tokio_stream::StreamExt;
///
/// let client = Client::connect(&url).await?;
/// let mut consumer = client
///     .consumer("billing")
///     .topics(["orders", "refunds.*"])
///     .open()
///     .await?;
/// # let mut read = 0;
/// while let Some(record) = consumer.next().await {
///     let record = record?; // processed once the next one is asked for
///     println!("{}/{}: {:?}", record.topic, record.partition, record.value);
/// #   read += 1;
/// #   if read == 3 { consumer.handle().stop() }
/// }
/// # assert_eq!(read, 3);
/// consumer.close().await
/// # });
/// ```
pub struct Consumer {
    shared: Arc<Shared>,
    /// What was handed out last.
    current: Option<Current>,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("group", &self.shared.settings.group)
            .field("topics", &self.shared.settings.topics)
            .finish_non_exhaustive()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let goodbye = self.shared.goodbye();
        self.shared.with(|member| member.say_goodbye(goodbye));
    }
}

impl Consumer {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            current: None,
        }
    }

    /// Name of the group.
    pub fn group(&self) -> &str {
        &self.shared.settings.group
    }

    /// What the broker calls the member; `None` while there is no connection.
    pub fn member_id(&self) -> Option<String> {
        let member = self.shared.lock();
        member.joined().map(|joined| joined.member_id.clone())
    }

    /// The partitions that the consumer has and isn't to give back, with how far
    /// each is processed.
    pub fn assignment(&self) -> Vec<CommitPosition> {
        self.shared.lock().shares.positions().collect()
    }

    /// Commits and stops from elsewhere.
    pub fn handle(&self) -> ConsumerHandle {
        ConsumerHandle {
            shared: Arc::clone(&self.shared),
        }
    }

    /// The next batch; `None` once the consumer was stopped. Safe to cancel.
    pub async fn next_batch(&mut self) -> Option<Result<Batch, Error>> {
        loop {
            match self.next_event().await? {
                Ok(GroupEvent::Batch(batch)) => return Some(Ok(batch)),
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// As [`Consumer::next_batch`], and also tells what becomes of partitions.
    pub async fn next_event(&mut self) -> Option<Result<GroupEvent, Error>> {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    /// Commits that everything up to and with a record, or a batch, of its
    /// partition is processed, and waits until that is durable. For a position
    /// that was committed before, that is at once.
    ///
    /// Fails with [`Reason::StaleGeneration`](crate::Reason::StaleGeneration)
    /// when the partition isn't the consumer's any more, or came back since, and
    /// for what wasn't handed out;
    /// after [`Error::Connection`] or [`Error::Timeout`] the commit may have been carried out. The consumer goes on in any case.
    pub async fn commit(&self, position: impl Into<CommitPosition>) -> Result<(), Error> {
        self.shared.commit(vec![position.into()]).await
    }

    /// As [`Consumer::commit`], for several partitions. All are tried; the first
    /// failure is returned.
    pub async fn commit_all(
        &self,
        positions: impl IntoIterator<Item = CommitPosition>,
    ) -> Result<(), Error> {
        self.shared.commit(positions.into_iter().collect()).await
    }

    /// Commits everything that counts as processed, and waits until that is
    /// durable.
    pub async fn commit_processed(&self) -> Result<(), Error> {
        self.shared.commit_processed().await
    }

    /// Everything up to and with a record, or a batch, of its partition is
    /// processed: it is committed with the next commits, and at once when the
    /// partition is to be given back. Fails as [`Consumer::commit`] does, where
    /// that is known without asking the broker.
    pub fn mark_processed(&self, position: impl Into<CommitPosition>) -> Result<(), Error> {
        self.handle().mark_processed(position)
    }

    /// Nothing of a partition that is to be given back is worked on any more: it goes on
    /// as soon as what counts as processed of it is committed. Without this, and with
    /// [`auto_commit(false)`](ConsumerBuilder::auto_commit), it goes on once everything
    /// that was handed out of it is marked or committed, or at the deadline, since
    /// nobody else can tell what is still worked on. Does nothing to other partitions.
    pub fn give_back(&self, partition: &TopicPartition) {
        self.handle().give_back(partition);
    }

    /// Commits what is processed, and leaves. A consumer with a member name only
    /// pauses: it keeps its partitions for the session timeout, and gets them
    /// when it comes again.
    ///
    /// Fails when something that was processed isn't committed: the broker refused
    /// it, or the connection was lost before, and the records have come again neither
    /// here nor at another member. The record that was handed out last doesn't count
    /// as processed unless it was marked.
    pub async fn close(self) -> Result<(), Error> {
        let goodbye = self.shared.goodbye();
        self.end(goodbye).await
    }

    /// As [`Consumer::close`], for good: others get the partitions at once.
    pub async fn leave(self) -> Result<(), Error> {
        self.end(Goodbye::Leave).await
    }

    async fn end(self, goodbye: Goodbye) -> Result<(), Error> {
        // Before others get what the member has.
        let settled = self.shared.look_for_unsettled().await;
        self.shared.with(|member| member.say_goodbye(goodbye));
        poll_fn(|cx| self.shared.poll_ended(cx)).await.and(settled)
    }
}
