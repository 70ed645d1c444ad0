//! What a watcher is told: what is, and then every change.
//!
//! A watcher is *told* by the follower of the topic, through its outbox, or, when it
//! is too slow for that or resumes, it is *behind* and reads the log by itself, until
//! it can be told again.
//!
//! Invariants:
//! - For each partition, `sent` only rises: everything that matches the filter and
//!   lies below was sent, or is in the part of the snapshot that is still to come.
//! - No change below `sent` is sent. So no key goes back in time.
//! - `synced` names offsets up to which everything was sent. They are taken under the
//!   gate, where nothing can come in between.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;

use super::ViewError;
use super::decode::{Change, Go, each_record};
use super::outbox::{News, Taken};
use super::snapshot::Snapshot;
use super::topic_view::{Registration, Shared, TopicView};
use crate::limits;
use crate::model::Offset;
use crate::partition::{Read, ReadError};
use crate::state::Filter;

/// Where a watch begins.
#[derive(Debug, Clone)]
pub enum WatchStart {
    /// With what is.
    Snapshot,
    /// With the changes from these offsets on, by the numbers of the partitions.
    From(Vec<Offset>),
    /// With the changes from now on.
    Latest,
}

/// What a watcher is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// It begins; with a snapshot, what was sent before counts no more.
    Opened {
        /// A snapshot follows.
        snapshot: bool,
    },
    /// What is.
    Entries(Vec<Change>),
    /// Everything below these offsets has been sent, by the numbers of the partitions.
    Synced(Vec<Offset>),
    /// What has changed.
    Changes(Vec<Change>),
    /// As `Synced`, after some time without a change.
    Progress(Vec<Offset>),
    /// Retention removed what lies below.
    Truncated {
        /// Number of the partition.
        partition: u32,
        /// Keys whose latest record lies below are gone.
        start: Offset,
    },
}

/// A watch that is under way.
pub struct Watch {
    view: TopicView,
    filter: Filter,
    /// While it is told.
    registration: Option<Registration>,
    sent: Vec<Offset>,
    phase: Phase,
    is_synced: bool,
    /// News that were taken and not sent yet.
    news: VecDeque<News>,
    body: BytesMut,
}

#[derive(Debug)]
enum Phase {
    Begin(WatchStart),
    Snapshot(Snapshot),
    /// Reads the log, the next partition first.
    Behind(usize),
    Told,
}

impl Watch {
    /// Begins a watch of the keys that match a filter. Offsets to resume from are one
    /// for each partition.
    pub async fn open(
        view: TopicView,
        filter: Filter,
        start: WatchStart,
    ) -> Result<Watch, ViewError> {
        for partition in 0..view.partition_count() {
            view.catch_up(partition).await?;
        }
        if let WatchStart::From(offsets) = &start {
            for (partition, &asked) in (0..).zip(offsets) {
                check_resume_point(&view.shared, partition, asked).await?;
            }
        }
        Ok(Watch {
            view,
            filter,
            registration: None,
            sent: Vec::new(),
            phase: Phase::Begin(start),
            is_synced: false,
            news: VecDeque::new(),
            body: BytesMut::new(),
        })
    }

    /// What it is told next. Not to be given up.
    pub async fn next(&mut self) -> Result<WatchEvent, ViewError> {
        loop {
            let event = match &mut self.phase {
                Phase::Begin(_) => Some(self.begin()),
                Phase::Snapshot(snapshot) => {
                    match snapshot.next(&self.view.shared, &self.filter).await? {
                        Some(entries) => Some(WatchEvent::Entries(entries)),
                        None => {
                            self.phase = Phase::Told;
                            None
                        }
                    }
                }
                Phase::Behind(partition) => {
                    let partition = *partition;
                    self.read(partition).await?
                }
                Phase::Told => self.hear().await?,
            };
            if let Some(event) = event {
                return Ok(event);
            }
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.view.shared
    }

    fn begin(&mut self) -> WatchEvent {
        let begun = std::mem::replace(&mut self.phase, Phase::Told);
        let Phase::Begin(start) = begun else {
            unreachable!("it is called in this phase");
        };
        self.is_synced = false;
        self.news.clear();
        let snapshot = matches!(start, WatchStart::Snapshot);
        match start {
            WatchStart::From(offsets) => {
                self.sent = offsets;
                self.fall_behind();
            }
            WatchStart::Snapshot | WatchStart::Latest => {
                let registration = self.shared().register(&self.filter);
                self.sent.clone_from(&registration.from);
                self.registration = Some(registration);
                if snapshot {
                    self.phase = Phase::Snapshot(Snapshot::new(self.sent.clone()));
                }
            }
        }
        WatchEvent::Opened { snapshot }
    }

    /// Reads the log from now on.
    fn fall_behind(&mut self) {
        self.registration = None;
        self.phase = Phase::Behind(0);
    }

    /// Begins anew: something that it has to hear isn't there any more.
    fn start_over(&mut self) {
        self.registration = None;
        self.phase = Phase::Begin(WatchStart::Snapshot);
    }

    /// Reads some of a partition that it is behind in.
    async fn read(&mut self, partition: usize) -> Result<Option<WatchEvent>, ViewError> {
        let Some(viewed) = self.view.shared.partitions.get(partition) else {
            // It has come to the end of each. Once it is told, it reads what came in
            // between, and then hears the rest.
            self.phase = match self.registration {
                Some(_) => Phase::Told,
                None => {
                    self.registration = Some(self.shared().register(&self.filter));
                    Phase::Behind(0)
                }
            };
            return Ok(None);
        };
        let from = self.sent[partition];
        let end = match &self.registration {
            Some(registration) => registration.from[partition],
            None => viewed.handle.high_watermark(),
        };
        if from >= end {
            self.phase = Phase::Behind(partition + 1);
            return Ok(None);
        }
        let number = u32::try_from(partition).expect("bounded by limits");
        let read = viewed
            .handle
            .read(from, end, limits::WATCH_READ_BYTES)
            .await;
        // Looked at after it was read: tombstones go only once this says so.
        let compacted = viewed.handle.compacted().await?;
        if compacted.tombstones_removed_to > from {
            self.start_over();
            return Ok(None);
        }
        match read {
            Ok(Read::Batches(batches)) => {
                let mut changes = Vec::new();
                for batch in &batches {
                    let filter = &self.filter;
                    let read = each_record(batch, from, &mut self.body, |record| {
                        if record.offset >= end {
                            return Go::Stop;
                        }
                        if filter.matches(record.key) {
                            changes.push(record.to_change(number));
                        }
                        Go::On
                    });
                    if let Err(error) = read {
                        let id = viewed.handle.id();
                        tracing::error!("a batch of partition {id} is unreadable: {error}");
                    }
                }
                let read_to = batches
                    .last()
                    .map_or(end, |batch| batch.header.next_offset());
                self.sent[partition] = read_to.min(end).max(from);
                Ok((!changes.is_empty()).then_some(WatchEvent::Changes(changes)))
            }
            Ok(Read::Truncated { log_start_offset }) => {
                self.sent[partition] = log_start_offset;
                Ok(Some(WatchEvent::Truncated {
                    partition: number,
                    start: log_start_offset,
                }))
            }
            Ok(Read::Quarantined { to }) => {
                self.sent[partition] = to.min(end);
                Ok(None)
            }
            Err(ReadError::Deleted(_)) => Err(ViewError::Deleted),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes what it is told; waits if there is nothing.
    async fn hear(&mut self) -> Result<Option<WatchEvent>, ViewError> {
        if !self.news.is_empty() {
            return Ok(self.take_news());
        }
        let Some(registration) = &self.registration else {
            self.fall_behind();
            return Ok(None);
        };
        if !self.is_synced {
            return self.sync();
        }
        let waited = tokio::time::timeout(limits::HEARTBEAT, registration.outbox.filled()).await;
        if waited.is_err() {
            let event = self.sync()?;
            return Ok(event.map(|event| match event {
                WatchEvent::Synced(offsets) => WatchEvent::Progress(offsets),
                other => other,
            }));
        }
        let taken = registration.outbox.take();
        self.receive(taken)?;
        Ok(None)
    }

    /// Takes what is in the outbox and looks how far the view is, at one moment. If
    /// there is nothing to be sent first, it is synced.
    fn sync(&mut self) -> Result<Option<WatchEvent>, ViewError> {
        let (taken, positions) = {
            let registration = self.registration.as_ref().expect("it is told");
            let gate = self.shared().gate();
            (registration.outbox.take(), self.shared().positions(&gate))
        };
        let is_told = matches!(taken, Taken::News(_));
        self.receive(taken)?;
        if !is_told || !self.news.is_empty() {
            return Ok(None);
        }
        for (sent, position) in self.sent.iter_mut().zip(positions) {
            *sent = position.max(*sent);
        }
        self.is_synced = true;
        Ok(Some(WatchEvent::Synced(self.sent.clone())))
    }

    fn receive(&mut self, taken: Taken) -> Result<(), ViewError> {
        match taken {
            Taken::News(news) => self.news = news,
            Taken::Overflowed => self.fall_behind(),
            Taken::Ended(why) => return Err(why),
        }
        Ok(())
    }

    /// Some of the news, as much as goes into a message.
    fn take_news(&mut self) -> Option<WatchEvent> {
        let mut changes = Vec::new();
        let mut bytes = 0;
        while let Some(news) = self.news.front() {
            match news {
                News::Change(change) => {
                    let sent = &mut self.sent[change.partition as usize];
                    if change.offset >= *sent {
                        *sent = change.offset.advanced(1);
                        bytes += change.size();
                        changes.push(change.clone());
                    }
                }
                &News::Truncated { partition, start } => {
                    if changes.is_empty() {
                        self.news.pop_front();
                        return Some(WatchEvent::Truncated { partition, start });
                    }
                    break;
                }
            }
            self.news.pop_front();
            if bytes >= limits::WATCH_MESSAGE_BYTES {
                break;
            }
        }
        (!changes.is_empty()).then_some(WatchEvent::Changes(changes))
    }
}

async fn check_resume_point(
    shared: &Shared,
    partition: u32,
    asked: Offset,
) -> Result<(), ViewError> {
    let viewed = shared.viewed(partition);
    let range = viewed.handle.range();
    if asked > range.high_watermark {
        return Err(ViewError::ResumePointBeyondEnd {
            partition,
            asked: asked.0,
            end: range.high_watermark.0,
        });
    }
    let compacted = viewed.handle.compacted().await?;
    let earliest = range.log_start_offset.max(compacted.tombstones_removed_to);
    match asked < earliest {
        true => Err(ViewError::ResumePointCompacted {
            partition,
            asked: asked.0,
            earliest: earliest.0,
        }),
        false => Ok(()),
    }
}
