//! The member that a consumer is: what the broker's responses do to it, and
//! what it has to say. Pure; the session carries it out.

mod hears;
mod says;

use std::collections::VecDeque;
use std::task::Waker;

use statecast_proto::v1;

use super::credit::{Cost, Credit};
use super::event::{CommitPosition, RevokeReason, TopicPartition};
use super::inbox::{Inbox, Item};
use super::shares::{SentCommit, ShareId, Shares, Waiter};
use super::unsettled::Unsettled;
use crate::error::Error;

/// How the member ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goodbye {
    /// It goes for good.
    Leave,
    /// It may come again under its name, and keeps its partitions until then.
    Pause,
}

#[derive(Debug, Clone, Copy)]
enum Stay {
    Stays,
    /// Once all that was processed is committed.
    Goes(Goodbye),
    /// Everything was said that there was to say.
    Gone(Goodbye),
}

/// What somebody who asks for more gets.
#[derive(Debug)]
pub(super) enum Taken {
    Item(Item),
    /// Nothing yet.
    Nothing,
    /// Nothing ever; the error is told once.
    End(Option<Error>),
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) shares: Shares,
    inbox: Inbox,
    credit: Credit,
    /// The oldest first, as they are answered.
    in_flight: VecDeque<(u64, Vec<SentCommit>)>,
    last_commit_id: u64,
    /// Of the stream; `None` while there is none.
    joined: Option<v1::Joined>,
    /// What is processed is to be committed now, and free credit to be given.
    flush: bool,
    /// Nothing was said for long.
    silent: bool,
    stay: Stay,
    /// What was refused since the member goes.
    unfinished: Option<Error>,
    unsettled: Unsettled,
    /// Nothing more is handed out.
    stopped: bool,
    ended: Option<Result<(), Error>>,
    /// Who waits for something to be handed out.
    pub(super) reader: Option<Waker>,
    /// Who waits for the member to end.
    pub(super) closers: Vec<Waker>,
}

impl Member {
    pub(super) fn new(capacity: Cost) -> Self {
        Self {
            shares: Shares::default(),
            inbox: Inbox::default(),
            credit: Credit::new(capacity),
            in_flight: VecDeque::new(),
            last_commit_id: 0,
            joined: None,
            flush: false,
            silent: false,
            stay: Stay::Stays,
            unfinished: None,
            unsettled: Unsettled::default(),
            stopped: false,
            ended: None,
            reader: None,
            closers: Vec::new(),
        }
    }

    /// A stream begins. What the member takes first.
    pub(super) fn join(&mut self) -> v1::Credit {
        self.credit.begin()
    }

    pub(super) fn joined(&self) -> Option<&v1::Joined> {
        self.joined.as_ref()
    }

    /// The stream is gone, and with it everything that the member had.
    pub(super) fn disconnected(&mut self, error: &Error) {
        self.joined = None;
        if let Stay::Gone(goodbye) = self.stay {
            self.stay = Stay::Goes(goodbye);
        }
        self.silent = false;
        for commit in std::mem::take(&mut self.in_flight)
            .into_iter()
            .flat_map(|c| c.1)
        {
            for waiter in commit.waiters {
                let _ = waiter.send(Err(error.clone()));
            }
        }
        let ids = self.shares.ids();
        let gone: Vec<_> = ids
            .into_iter()
            .filter_map(|share| Some((share, self.shares.place(share)?)))
            .collect();
        for position in self.shares.uncommitted() {
            let CommitPosition {
                topic,
                partition,
                offset,
            } = position;
            self.unsettled
                .add(TopicPartition { topic, partition }, offset);
        }
        self.shares.clear(error);
        // The next stream gives the member what it takes anew.
        let _ = self.inbox.lost(&gone, RevokeReason::Disconnected);
    }

    /// The member is gone for good.
    pub(super) fn end_with(&mut self, outcome: Result<(), Error>) {
        if self.ended.is_some() {
            return;
        }
        self.disconnected(outcome.as_ref().err().unwrap_or(&Error::Closed));
        let outcome = outcome.and(self.unfinished.take().map_or(Ok(()), Err));
        self.ended = Some(outcome);
    }

    pub(super) fn has_ended(&self) -> Option<&Result<(), Error>> {
        self.ended.as_ref()
    }

    /// Somebody asks for more.
    pub(super) fn take(&mut self) -> Taken {
        self.credit.ask();
        if self.stopped {
            return Taken::End(None);
        }
        if let Some(item) = self.inbox.pop() {
            if let Item::Batch(batch) = &item {
                self.credit.take(batch.cost);
            }
            return Taken::Item(item);
        }
        match &mut self.ended {
            None => {
                self.shares.let_go();
                Taken::Nothing
            }
            Some(outcome) => {
                self.stopped = true;
                Taken::End(std::mem::replace(outcome, Ok(())).err())
            }
        }
    }

    /// What lies before `to` is handed out. False when it isn't to be.
    pub(super) fn hand(&mut self, share: ShareId, to: u64) -> bool {
        let handed = !self.stopped && self.shares.hand(share, to);
        if handed
            && !self.unsettled.is_empty()
            && let Some(place) = self.shares.place(share)
        {
            self.unsettled.settle(&place, to);
        }
        handed
    }

    /// What was processed and not committed when a connection was lost.
    pub(super) fn unsettled(&self) -> &Unsettled {
        &self.unsettled
    }

    /// The user is done with a batch.
    pub(super) fn finish(&mut self, cost: Cost) {
        self.credit.finish(cost);
    }

    /// Nothing more is handed out.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }

    /// Everything before a position was processed, and somebody waits until
    /// that is committed.
    pub(super) fn commit(
        &mut self,
        position: &CommitPosition,
        waiter: Waiter,
    ) -> Result<(), Error> {
        if self.ended.is_some() {
            return Err(Error::Closed);
        }
        let Some((share, waiter)) = self.shares.want(position, waiter)? else {
            return Ok(());
        };
        let mut commits = self.in_flight.iter_mut().flat_map(|commit| &mut commit.1);
        let commit = commits.find(|c| c.share == share && c.offset >= position.offset);
        commit.expect("it is on its way").waiters.push(waiter);
        Ok(())
    }

    /// A commit interval is over.
    pub(super) fn flush(&mut self) {
        self.flush = true;
    }

    /// Something has to be said, lest the member be taken for gone.
    pub(super) fn break_silence(&mut self) {
        self.silent = true;
    }

    /// Commits what was processed, and goes.
    pub(super) fn say_goodbye(&mut self, goodbye: Goodbye) {
        self.stopped = true;
        self.flush = true;
        if let Stay::Stays = self.stay {
            self.stay = Stay::Goes(goodbye);
        }
    }

    pub(super) fn is_leaving(&self) -> bool {
        !matches!(self.stay, Stay::Stays)
    }

    /// Whether everything was said that there was to say.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.stay, Stay::Gone(_))
    }

    /// What the end of the stream means.
    pub(super) fn farewell(&self) -> Result<(), Error> {
        match self.is_done() {
            true => Ok(()),
            false => Err(Error::Connection("the broker ended the stream".into())),
        }
    }
}
