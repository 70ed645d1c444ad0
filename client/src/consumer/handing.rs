//! What a consumer hands out, and what that says of what it handed out before.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use tokio::task::coop;

use super::Consumer;
use super::credit::Cost;
use super::event::GroupEvent;
use super::inbox::{Arrived, Item, Missing};
use super::member::Taken;
use super::shares::ShareId;
use crate::error::Error;
use crate::reader::{Batch, Record, Records};

/// A batch as it is handed out.
pub(super) struct Opened {
    pub(super) share: ShareId,
    pub(super) batch: Batch,
    pub(super) cost: Cost,
}

pub(super) enum Current {
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

impl Consumer {
    pub(super) fn poll_event(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<GroupEvent, Error>>> {
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
    pub(super) fn settle(&mut self) {
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
    pub(super) fn take_rest(&mut self) -> Option<Opened> {
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
    pub(super) fn open(&mut self, arrived: Arrived) -> Result<Opened, Missing> {
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

    pub(super) async fn taken(&mut self) -> Taken {
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

    fn poll_record(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Record, Error>>> {
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

/// Yields the records of one batch after the other.
impl Stream for Consumer {
    type Item = Result<Record, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // Records at hand are always ready: the session, which may share the
        // thread, gets its turn all the same.
        let turn = ready!(coop::poll_proceed(cx));
        let record = ready!(self.poll_record(cx));
        turn.made_progress();
        Poll::Ready(record)
    }
}
