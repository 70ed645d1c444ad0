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
//! - `synced` names offsets up to which everything was sent, and nothing from there on.
//!   They are taken under the gate, where nothing can come in between, and no record
//!   below that compaction dropped was superseded by one that is still to come.
//! - Before `synced`, it was told of everything that retention removed.
//! - However fast others write, `synced` comes, and each partition has its turn: where
//!   the watcher has to get to is fixed before it goes there. One that is told adds a
//!   mark to its outbox, and is synced when it takes that out again; one that reads is
//!   when it has read all that there was when it was registered.

use std::sync::Arc;

use bytes::BytesMut;

use super::ViewError;
use super::behind::{InBatch, check_resume_point};
use super::decode::Change;
use super::outbox::{News, Taken};
use super::snapshot::Snapshot;
use super::topic_view::{Place, Registration, Shared, TopicView};
use crate::limits;
use crate::model::Offset;
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
    pub(super) view: TopicView,
    pub(super) filter: Filter,
    /// While it is told.
    pub(super) registration: Option<Registration>,
    pub(super) sent: Vec<Offset>,
    /// What lies below was removed by retention, and it was told so.
    pub(super) starts: Vec<Offset>,
    /// What it read of the log itself is all that there was from here on.
    pub(super) exact_from: Vec<Offset>,
    pub(super) phase: Phase,
    pub(super) is_synced: bool,
    /// Its outbox holds [`News::Reached`]: it is synced when it comes to that.
    is_marked: bool,
    /// Nothing has come for [`limits::WATCH_HEARTBEAT`].
    is_quiet: bool,
    /// What keeps it from being synced: a view that isn't exact yet.
    awaits: Option<(u32, Offset)>,
    /// Where it reads.
    pub(super) place: InBatch,
    pub(super) body: BytesMut,
}

#[derive(Debug)]
pub(super) enum Phase {
    Begin {
        start: WatchStart,
        /// How far the views have to be.
        wanted: Vec<Offset>,
    },
    Snapshot(Snapshot),
    /// Reads the log.
    Behind(Reading),
    Told,
}

/// What is still to be read of the log.
#[derive(Debug)]
pub(super) struct Reading {
    /// Number of the partition that it is at.
    pub(super) partition: usize,
    /// Up to where each is read, by the numbers of the partitions.
    pub(super) ends: Vec<Offset>,
}

impl Watch {
    /// Begins a watch of the keys that match a filter. Offsets to resume from are one
    /// for each partition.
    pub async fn open(
        view: TopicView,
        filter: Filter,
        start: WatchStart,
    ) -> Result<Watch, ViewError> {
        let wanted = view.catch_up_all().await?;
        if let WatchStart::From(offsets) = &start {
            for (partition, &asked) in (0..).zip(offsets) {
                check_resume_point(&view.shared, partition, asked).await?;
            }
        }
        Ok(Watch {
            filter,
            registration: None,
            sent: Vec::new(),
            starts: Vec::new(),
            exact_from: vec![Offset::ZERO; view.shared.partitions.len()],
            phase: Phase::Begin { start, wanted },
            is_synced: false,
            is_marked: false,
            is_quiet: false,
            awaits: None,
            place: InBatch::default(),
            body: BytesMut::new(),
            view,
        })
    }

    /// What it is told next. Not to be given up.
    pub async fn next(&mut self) -> Result<WatchEvent, ViewError> {
        loop {
            self.ready().await?;
            if let Some(event) = self.advance().await? {
                return Ok(event);
            }
        }
    }

    /// Waits until there may be something to be told: so long it needs no memory. May be
    /// given up.
    pub async fn ready(&mut self) -> Result<(), ViewError> {
        match &mut self.phase {
            Phase::Begin { start, wanted } => {
                if !matches!(start, WatchStart::From(_)) {
                    *wanted = self.view.catch_up_all().await?;
                }
            }
            Phase::Snapshot(_) | Phase::Behind(_) => {}
            Phase::Told => {
                let Some(registration) = &self.registration else {
                    return Ok(());
                };
                let filled = registration.outbox.filled();
                match self.awaits.take() {
                    _ if self.is_synced => {
                        let waited = tokio::time::timeout(limits::WATCH_HEARTBEAT, filled).await;
                        self.is_quiet = waited.is_err();
                    }
                    Some((partition, exact_from)) => tokio::select! {
                        () = filled => {}
                        reached = self.view.wait_for(partition, exact_from) => match reached {
                            // It is looked at again.
                            Ok(()) | Err(ViewError::Behind { .. }) => {}
                            Err(why) => return Err(why),
                        },
                    },
                    None => {}
                }
            }
        }
        Ok(())
    }

    /// Makes a step: what it is told then, if anything. Not to be given up.
    pub async fn advance(&mut self) -> Result<Option<WatchEvent>, ViewError> {
        match &mut self.phase {
            Phase::Begin { .. } => Ok(self.begin()),
            Phase::Snapshot(snapshot) => {
                let entries = snapshot.next(&self.view.shared, &self.filter).await?;
                if entries.is_none() {
                    self.phase = Phase::Told;
                }
                Ok(entries.map(WatchEvent::Entries))
            }
            Phase::Behind(reading) => {
                let partition = reading.partition;
                match reading.ends.get(partition).copied() {
                    Some(end) => self.read(partition, end).await,
                    None => Ok(self.end_reading()),
                }
            }
            Phase::Told => self.hear(),
        }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.view.shared
    }

    /// Nothing, when the view was begun anew and is to be waited for once more.
    fn begin(&mut self) -> Option<WatchEvent> {
        let begun = std::mem::replace(&mut self.phase, Phase::Told);
        let Phase::Begin { start, wanted } = begun else {
            unreachable!("it is called in this phase");
        };
        self.is_synced = false;
        let snapshot = matches!(start, WatchStart::Snapshot);
        match start {
            WatchStart::From(offsets) => {
                // Of what retention has removed meanwhile it knows nothing.
                self.starts = vec![Offset::ZERO; offsets.len()];
                self.sent = offsets;
                self.fall_behind();
            }
            WatchStart::Snapshot | WatchStart::Latest => {
                let mut registration = self.shared().register(&self.filter);
                let mut places = registration.from.iter().zip(&wanted);
                if places.any(|(place, wanted)| place.applied < *wanted) {
                    self.phase = Phase::Begin { start, wanted };
                    return None;
                }
                let places = std::mem::take(&mut registration.from).into_iter();
                (self.starts, self.sent) = places.map(|it| (it.start, it.applied)).unzip();
                self.registration = Some(registration);
                if snapshot {
                    self.phase = Phase::Snapshot(Snapshot::new(self.sent.clone()));
                }
            }
        }
        Some(WatchEvent::Opened { snapshot })
    }

    /// Reads what there is in the log now.
    fn fall_behind(&mut self) {
        self.registration = None;
        self.is_marked = false;
        let partitions = self.shared().partitions.iter();
        let ends = partitions.map(|viewed| viewed.handle.high_watermark());
        self.phase = Phase::Behind(Reading {
            partition: 0,
            ends: ends.collect(),
        });
    }

    /// Begins anew: something that it has to hear isn't there any more.
    pub(super) fn start_over(&mut self) {
        self.registration = None;
        self.is_marked = false;
        self.phase = Phase::Begin {
            start: WatchStart::Snapshot,
            wanted: Vec::new(),
        };
    }

    /// Takes what it is told.
    fn hear(&mut self) -> Result<Option<WatchEvent>, ViewError> {
        let is_quiet = std::mem::take(&mut self.is_quiet);
        if !self.is_synced && !self.is_marked {
            self.mark();
        }
        let Some(registration) = &self.registration else {
            self.fall_behind();
            return Ok(None);
        };
        if !(self.is_synced && is_quiet) {
            let taken = registration.outbox.take();
            return self.receive(taken);
        }
        // What is in the outbox, and how far the views are, at one moment.
        let (taken, places) = {
            let gate = self.shared().gate();
            (registration.outbox.take(), self.shared().places(&gate))
        };
        match taken {
            Taken::News(news) if news.is_empty() => {
                let is_exact = self.missing(&places).is_none();
                let reached = places.iter().map(|place| place.applied);
                Ok(is_exact.then(|| WatchEvent::Progress(self.reach(reached))))
            }
            taken => self.receive(taken),
        }
    }

    /// Marks where it will be synced: behind all that it was to be told until now. If the
    /// views aren't exact there, that is to be waited for.
    fn mark(&mut self) {
        let Some(registration) = &self.registration else {
            return;
        };
        let shared = self.shared().clone();
        let gate = shared.gate();
        let places = shared.places(&gate);
        self.awaits = self.missing(&places);
        if self.awaits.is_none() {
            let reached = places.iter().map(|place| place.applied);
            registration.outbox.push(News::Reached(reached.collect()));
            drop(gate);
            self.is_marked = true;
        }
    }

    /// A partition where records may be missing without those that superseded them, if
    /// the views are in these places; and up to where.
    pub(super) fn missing(&self, places: &[Place]) -> Option<(u32, Offset)> {
        let sent = self.sent.iter().zip(&self.exact_from);
        let mut places = (0..).zip(places.iter().zip(sent));
        places.find_map(|(partition, (place, (&sent, &read_exact_from)))| {
            let exact_from = place.exact_from.max(read_exact_from);
            let is_missing = place.applied.max(sent) < exact_from;
            is_missing.then_some((partition, exact_from))
        })
    }

    /// Everything below these offsets was sent.
    fn reach(&mut self, reached: impl Iterator<Item = Offset>) -> Vec<Offset> {
        for (sent, reached) in self.sent.iter_mut().zip(reached) {
            *sent = reached.max(*sent);
        }
        self.sent.clone()
    }

    fn receive(&mut self, taken: Taken) -> Result<Option<WatchEvent>, ViewError> {
        let news = match taken {
            Taken::News(news) => news,
            Taken::Overflowed => {
                self.fall_behind();
                return Ok(None);
            }
            Taken::Ended(why) => return Err(why),
        };
        let mut changes = Vec::new();
        for one in news {
            match one {
                News::Change(change) => {
                    let sent = &mut self.sent[change.partition as usize];
                    if change.offset >= *sent {
                        *sent = change.offset.advanced(1);
                        changes.push(change);
                    }
                }
                // It comes alone.
                News::Truncated { partition, start } => {
                    let partition = partition as usize;
                    let is_new = start > self.starts[partition];
                    return Ok(is_new.then(|| self.truncated(partition, start)));
                }
                // It comes alone.
                News::Reached(offsets) => {
                    self.is_synced = true;
                    return Ok(Some(WatchEvent::Synced(self.reach(offsets.into_iter()))));
                }
            }
        }
        Ok((!changes.is_empty()).then_some(WatchEvent::Changes(changes)))
    }
}
