//! Processes records of different keys side by side.

use std::future::Future;
use std::iter::Peekable;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::Consumer;
use super::handing::Opened;
use super::inbox::{Item, Missing};
use super::lanes::{Begun, Lanes, Ticket};
use super::member::{Member, Taken};
use super::shared::Shared;
use super::shares::ShareId;
use crate::error::Error;
use crate::reader::{Record, Records};

/// Records that may wait for others of their key. While there are as many,
/// nothing more is looked at.
const MAX_WAITING: usize = 10_000;

impl Consumer {
    /// Processes each record with `f`, up to `limit` at a time: those of one key
    /// of a partition strictly one after the other, in their order, and those
    /// without a key in any. Runs until the consumer ends, is
    /// [stopped](super::ConsumerHandle::stop), or something fails.
    ///
    /// What is committed of a partition, every
    /// [`commit_interval`](super::ConsumerBuilder::commit_interval), is what lies before its oldest record
    /// that isn't processed, whatever the settings say of auto-commit; what was
    /// handed out before this call counts as processed. When a
    /// partition is revoked, what is being processed of it is finished and
    /// committed, and nothing more of it begins.
    ///
    /// When `f` fails, nothing more begins; what is being processed is finished,
    /// everything before the record that failed is committed, and the error is
    /// returned. The consumer then hands out nothing more: close or drop it, and
    /// open another one, which gets that record again. The same holds after this
    /// future was dropped before its end.
    ///
    /// Records that can't be had ([`Error::Truncated`], [`Error::Quarantined`],
    /// [`Error::DamagedBatch`]) are an error as well, after everything before
    /// them was processed; call it again to go on behind them.
    ///
    /// The futures run side by side within the task that awaits this one. For
    /// more than one core, spawn within `f`. Up to the consumer's capacity of records is held, which bounds
    /// how many can be processed at a time, too.
    ///
    /// ```
    /// # statecast_example_broker::run(async |url| {
    /// use statecast_client::{Client, Error};
    ///
    /// let client = Client::connect(&url).await?;
    /// let mut consumer = client.consumer("billing").topic("orders").open().await?;
    /// # use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    /// # let (charged, handle) = (AtomicUsize::new(0), consumer.handle());
    /// # let charge = async |key: &[u8]| -> Result<(), Error> {
    /// #     assert!(key.starts_with(b"order-"));
    /// #     if charged.fetch_add(1, Relaxed) == 2 { handle.stop() }
    /// #     Ok(())
    /// # };
    /// # let charge = &charge;
    /// consumer
    ///     .for_each_concurrent_by_key(64, |record| async move {
    ///         charge(record.key.as_deref().unwrap_or_default()).await
    ///     })
    ///     .await
    /// # });
    /// ```
    pub async fn for_each_concurrent_by_key<F, Fut, E>(
        &mut self,
        limit: usize,
        mut f: F,
    ) -> Result<(), E>
    where
        F: FnMut(Record) -> Fut,
        Fut: Future<Output = Result<(), E>>,
        E: From<Error>,
    {
        self.settle();
        let shared = Arc::clone(&self.shared);
        let mut stop = StopUnlessDone(Some(&shared));
        let mut work = Work {
            intake: None,
            rest: self.take_rest(),
            consumer: self,
            lanes: Lanes::default(),
            ending: None,
        };
        let mut running = FuturesUnordered::new();
        let mut failed = None;
        let mut start = |begun: Begun| {
            let done = f(begun.record);
            async move { (begun.ticket, done.await) }
        };
        loop {
            let room = running.len() < limit.max(1) && work.lanes.waiting() < MAX_WAITING;
            let begun = tokio::select! {
                biased;
                Some((ticket, outcome)) = running.next(), if !running.is_empty() => {
                    let failure: Option<E> = work.done(&ticket, outcome).err();
                    failed = failed.or(failure);
                    work.next(ticket)
                }
                begun = work.take(), if room && work.ending.is_none() && failed.is_none() => begun,
                else => break,
            };
            running.extend(begun.map(&mut start));
        }
        drop(running);
        let ending = work.ending.unwrap_or(Ok(()));
        let committed = shared.commit_processed().await;
        if failed.is_none() {
            stop.0 = None;
        }
        match failed {
            Some(error) => Err(error),
            None => ending.and(committed).map_err(E::from),
        }
    }
}

/// Records that were dropped before they were processed must not be passed by
/// a commit: nothing more is handed out.
struct StopUnlessDone<'a>(Option<&'a Shared>);

impl Drop for StopUnlessDone<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.0 {
            shared.tell(Member::stop);
        }
    }
}

/// The batch whose records are being looked at.
struct Intake {
    share: ShareId,
    /// Behind its last record.
    end: u64,
    records: Peekable<Records>,
}

struct Work<'a> {
    consumer: &'a mut Consumer,
    lanes: Lanes,
    intake: Option<Intake>,
    /// What the stream had begun to yield.
    rest: Option<Opened>,
    /// Nothing more is taken, and why.
    ending: Option<Result<(), Error>>,
}

impl Work<'_> {
    /// The next record that can begin; `None` when something else happened.
    async fn take(&mut self) -> Option<Begun> {
        // The session gets its turn, too, while records are at hand.
        tokio::task::consume_budget().await;
        if self.intake.is_some() {
            return self.look_at_next();
        }
        let opened = match self.rest.take() {
            Some(rest) => rest,
            None => match self.consumer.taken().await {
                Taken::Item(Item::Batch(arrived)) => match self.consumer.open(arrived) {
                    Ok(opened) => opened,
                    Err(missing) => return self.miss(missing),
                },
                Taken::Item(Item::Missing(missing)) => return self.miss(missing),
                Taken::Item(Item::Event(_)) | Taken::Nothing => return None,
                Taken::End(error) => {
                    self.ending = Some(error.map_or(Ok(()), Err));
                    self.lanes.drop_all_waiting();
                    return None;
                }
            },
        };
        self.lanes.open_batch(opened.cost);
        let mut records = opened.batch.records().peekable();
        let (share, end) = (opened.share, opened.batch.offsets().end);
        if records.peek().is_none() {
            self.end_batch(share, end);
        } else {
            self.intake = Some(Intake {
                share,
                end,
                records,
            });
        }
        None
    }

    fn look_at_next(&mut self) -> Option<Begun> {
        let Intake {
            share,
            end,
            records,
        } = self.intake.as_mut()?;
        let (share, end) = (*share, *end);
        let record = match records.next()? {
            Ok(record) => record,
            Err(error) => {
                self.intake = None;
                self.lanes.leave_rest();
                return self.miss(Missing {
                    share,
                    to: end,
                    error,
                });
            }
        };
        let is_last = records.peek().is_none();
        let behind = record.offset.saturating_add(1);
        let shared = &self.consumer.shared;
        if !shared.with(|member| member.hand(share, behind)) {
            self.intake = None;
            self.lanes.leave_rest();
            self.finish_batches();
            return None;
        }
        let begun = self.lanes.add(share, record);
        if is_last {
            self.intake = None;
            self.end_batch(share, end);
        }
        begun
    }

    fn end_batch(&mut self, share: ShareId, end: u64) {
        let position = self.lanes.end_batch(share, end);
        self.process(share, position);
        self.finish_batches();
    }

    /// Records can't be had: what was begun is finished, and then that is told.
    fn miss(&mut self, missing: Missing) -> Option<Begun> {
        let position = self.lanes.pass(missing.share, missing.to);
        self.process(missing.share, position);
        self.finish_batches();
        self.ending = Some(Err(missing.error));
        None
    }

    /// A record was processed, or `f` failed.
    fn done<E>(&mut self, ticket: &Ticket, outcome: Result<(), E>) -> Result<(), E> {
        if outcome.is_err() {
            self.lanes.drop_all_waiting();
        } else if let Some(position) = self.lanes.processed(ticket) {
            self.process(ticket.share(), position);
        }
        outcome
    }

    /// The next record of the same key.
    fn next(&mut self, ticket: Ticket) -> Option<Begun> {
        let share = ticket.share();
        let kept = self.consumer.shared.lock().shares.is_kept(share);
        if !kept {
            self.lanes.drop_waiting(share);
        }
        let begun = self.lanes.next(ticket);
        if !kept && !self.lanes.is_running(share) {
            let shared = &self.consumer.shared;
            shared.with(|member| member.shares.release(share));
        }
        self.finish_batches();
        begun
    }

    fn process(&self, share: ShareId, position: u64) {
        let shared = &self.consumer.shared;
        shared.with(|member| member.shares.process(share, position));
    }

    fn finish_batches(&mut self) {
        for cost in self.lanes.finished_batches() {
            self.consumer.shared.with(|member| member.finish(cost));
        }
    }
}
