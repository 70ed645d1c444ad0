//! A member of a consumer group.
//!
//! The `session` is the task that keeps the stream to the broker; what it hears
//! and says is decided by the `member`, which is pure: its `shares` are the
//! partitions it has and how far they are, its `inbox` what arrived, its `credit`
//! what it takes. The consumer takes from the inbox what the user asks for;
//! `by_key` does so for many records at a time, in `lanes` by key.

mod builder;
mod by_key;
mod credit;
mod event;
mod inbox;
mod lanes;
mod member;
mod prefix;
mod session;
mod shared;
mod shares;

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::Stream;

pub use self::builder::{ConsumerBuilder, GroupStart};
pub use self::event::{
    AssignedPartition, CommitPosition, GroupEvent, RevokeReason, TopicPartition,
};
pub use self::shared::ConsumerHandle;

use self::credit::Cost;
use self::inbox::{Arrived, Item, Missing};
use self::member::{Goodbye, Taken};
use self::shared::Shared;
use self::shares::ShareId;
use crate::error::Error;
use crate::reader::{Batch, Record, Records};

/// A member of a consumer group: the members of a group share the partitions of
/// their topics, each partition at one member at a time. The broker says who has
/// what, and remembers how far each partition is processed.
///
/// As a [`Stream`] it yields records; [`Consumer::next_batch`] yields batches,
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
/// ```no_run
/// # async fn example() -> Result<(), statecast_client::Error> {
/// use statecast_client::Client;
/// use tokio_stream::StreamExt;
///
/// let client = Client::connect("http://127.0.0.1:7420").await?;
/// let mut consumer = client
///     .consumer("billing")
///     .topics(["orders", "refunds.*"])
///     .open()
///     .await?;
/// while let Some(record) = consumer.next().await {
///     let record = record?;
///     println!("{}/{}: {:?}", record.topic, record.partition, record.value);
/// }
/// consumer.close().await
/// # }
/// ```
pub struct Consumer {
    shared: Arc<Shared>,
    /// What was handed out last.
    current: Option<Current>,
}

/// A batch as it is handed out.
struct Opened {
    share: ShareId,
    batch: Batch,
    cost: Cost,
}

enum Current {
    /// A batch as a whole.
    Batch(Opened),
    /// The records of a batch, one by one.
    Records {
        opened: Opened,
        records: Records,
        /// Behind the last record that was yielded.
        behind: u64,
    },
    /// Records that can't be had.
    Missing { share: ShareId, to: u64 },
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
    /// when the partition isn't the consumer's any more, or came back since;
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

    /// Commits what is processed, and leaves. A consumer with a member name only
    /// pauses: it keeps its partitions for the session timeout, and gets them
    /// when it comes again.
    ///
    /// Fails when something that was processed couldn't be committed. The record
    /// that was handed out last doesn't count as processed unless it was marked.
    pub async fn close(self) -> Result<(), Error> {
        let goodbye = self.shared.goodbye();
        self.end(goodbye).await
    }

    /// As [`Consumer::close`], for good: others get the partitions at once.
    pub async fn leave(self) -> Result<(), Error> {
        self.end(Goodbye::Leave).await
    }

    async fn end(self, goodbye: Goodbye) -> Result<(), Error> {
        self.shared.with(|member| member.say_goodbye(goodbye));
        poll_fn(|cx| self.shared.poll_ended(cx)).await
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<GroupEvent, Error>>> {
        self.settle();
        if let Some(rest) = self.take_rest()
            && let Some(batch) = self.hand_out(rest)
        {
            return Poll::Ready(Some(Ok(GroupEvent::Batch(batch))));
        }
        loop {
            match ready!(self.poll_taken(cx)) {
                Taken::Item(Item::Batch(arrived)) => match self.open(arrived) {
                    Ok(opened) => {
                        if let Some(batch) = self.hand_out(opened) {
                            return Poll::Ready(Some(Ok(GroupEvent::Batch(batch))));
                        }
                    }
                    Err(missing) => return Poll::Ready(Some(Err(self.miss(missing)))),
                },
                Taken::Item(Item::Missing(missing)) => {
                    return Poll::Ready(Some(Err(self.miss(missing))));
                }
                Taken::Item(Item::Event(event)) => return Poll::Ready(Some(Ok(event))),
                Taken::Nothing => {}
                Taken::End(error) => return Poll::Ready(error.map(Err)),
            }
        }
    }

    /// More is asked for: what was handed out last is done, and counts as
    /// processed if it is to.
    fn settle(&mut self) {
        let auto = self.shared.settings.auto_commit;
        let (share, to, finished) = match &self.current {
            None => return,
            Some(Current::Batch(opened)) => {
                (opened.share, opened.batch.offsets().end, Some(opened.cost))
            }
            Some(Current::Records { opened, behind, .. }) => (opened.share, *behind, None),
            Some(Current::Missing { share, to }) => (*share, *to, None),
        };
        self.shared.with(|member| {
            if auto {
                member.shares.process(share, to);
            }
            if let Some(cost) = finished {
                member.finish(cost);
            }
        });
        if !matches!(self.current, Some(Current::Records { .. })) {
            self.current = None;
        }
    }

    /// The rest of the batch whose records were being yielded.
    fn take_rest(&mut self) -> Option<Opened> {
        let Some(Current::Records { .. }) = &self.current else {
            return None;
        };
        let Some(Current::Records { opened, behind, .. }) = self.current.take() else {
            return None;
        };
        if behind >= opened.batch.offsets().end {
            self.shared.with(|member| member.finish(opened.cost));
            return None;
        }
        Some(Opened {
            batch: opened.batch.starting_at(behind),
            ..opened
        })
    }

    /// A batch is handed out as a whole; `None` when it isn't to be any more.
    fn hand_out(&mut self, opened: Opened) -> Option<Batch> {
        let end = opened.batch.offsets().end;
        let (share, cost) = (opened.share, opened.cost);
        let handed = self.shared.with(|member| {
            let handed = member.hand(share, end);
            if !handed {
                member.finish(cost);
            }
            handed
        });
        handed.then(|| {
            let batch = opened.batch.clone();
            self.current = Some(Current::Batch(opened));
            batch
        })
    }

    /// Checks and decompresses a batch.
    fn open(&mut self, arrived: Arrived) -> Result<Opened, Missing> {
        let Arrived {
            share,
            topic,
            offsets,
            wire,
            cost,
        } = arrived;
        let (partition, offset, to) = (wire.partition, wire.base_offset, offsets.end);
        match Batch::new(Arc::clone(&topic), offsets, wire) {
            Ok(batch) => Ok(Opened { share, batch, cost }),
            Err(problem) => {
                self.shared.with(|member| member.finish(cost));
                let error = Error::DamagedBatch {
                    topic,
                    partition,
                    offset,
                    problem: problem.into(),
                };
                Err(Missing { share, to, error })
            }
        }
    }

    /// Records can't be had. They count as processed as any others do, once more
    /// is asked for.
    fn miss(&mut self, missing: Missing) -> Error {
        let Missing { share, to, error } = missing;
        self.current = Some(Current::Missing { share, to });
        error
    }

    async fn taken(&mut self) -> Taken {
        poll_fn(|cx| self.poll_taken(cx)).await
    }

    fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<Taken> {
        let taken = self.shared.with(|member| {
            let taken = member.take();
            if matches!(taken, Taken::Nothing) {
                member.reader = Some(cx.waker().clone());
            }
            taken
        });
        match taken {
            Taken::Nothing => Poll::Pending,
            taken => Poll::Ready(taken),
        }
    }

    /// The next record of the batch whose records are being yielded; `None`
    /// when there are no more, or they aren't to be handed out.
    fn next_of_current(&mut self) -> Option<Result<Record, Error>> {
        let auto = self.shared.settings.auto_commit;
        let Some(Current::Records {
            opened,
            records,
            behind,
        }) = &mut self.current
        else {
            return None;
        };
        let (share, cost) = (opened.share, opened.cost);
        let end = opened.batch.offsets().end;
        let next = records.next();
        let (processed, handed) = match &next {
            Some(Ok(record)) => (*behind, record.offset.saturating_add(1)),
            Some(Err(_)) => (*behind, *behind),
            // Behind the last record there may be offsets without one.
            None => (end, end),
        };
        let more = matches!(next, Some(Ok(_)));
        *behind = handed;
        let kept = self.shared.with(|member| {
            if auto {
                member.shares.process(share, processed);
            }
            let kept = !more || member.hand(share, handed);
            if !more || !kept {
                member.finish(cost);
            }
            kept
        });
        if !more || !kept {
            self.current = None;
        }
        match next? {
            Ok(record) => kept.then_some(Ok(record)),
            Err(error) => {
                self.current = Some(Current::Missing { share, to: end });
                Some(Err(error))
            }
        }
    }
}

/// Yields the records of one batch after the other.
impl Stream for Consumer {
    type Item = Result<Record, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(record) = self.next_of_current() {
                return Poll::Ready(Some(record));
            }
            self.settle();
            match ready!(self.poll_taken(cx)) {
                Taken::Item(Item::Batch(arrived)) => match self.open(arrived) {
                    Ok(opened) => {
                        let records = opened.batch.records();
                        self.current = Some(Current::Records {
                            behind: opened.batch.offsets().start,
                            records,
                            opened,
                        });
                    }
                    Err(missing) => return Poll::Ready(Some(Err(self.miss(missing)))),
                },
                Taken::Item(Item::Missing(missing)) => {
                    return Poll::Ready(Some(Err(self.miss(missing))));
                }
                Taken::Item(Item::Event(_)) | Taken::Nothing => {}
                Taken::End(error) => return Poll::Ready(error.map(Err)),
            }
        }
    }
}
