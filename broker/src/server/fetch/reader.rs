//! Reads the partitions of a call and says what happens on the way.

use statecast_proto::v1::{self, fetch_response::Event};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::ahead::{Made, Source};
use super::follow::{Change, Follow};
use crate::limits;
use crate::server::call::Call;
use crate::server::connection::PlaceAmongReaders;
use crate::server::error::Refusal;
use crate::server::memory::Held;
use crate::server::reading::{Allowance, Failed, Gap, Next, Opened, Reading, SlotId};

/// The state of one call.
pub(in crate::server) struct Reader {
    reading: Reading,
    /// Slots that the reader has not been told of.
    untold: Vec<SlotId>,
    max_bytes: usize,
    place: PlaceAmongReaders,
    until_end: bool,
    phase: Phase,
    draining: CancellationToken,
    /// Where partitions may be added; `None` when the reader doesn't want them.
    follow: Option<Follow>,
}

/// What a call asks for.
pub(super) struct ReaderOptions<'a> {
    pub(super) opened: Vec<Opened>,
    pub(super) until_end: bool,
    /// Of a response.
    pub(super) max_bytes: usize,
    pub(super) draining: CancellationToken,
    pub(super) follow: Option<Follow>,
    pub(super) call: &'a Call,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Something was sent since the last time that everything was read, or nothing
    /// yet.
    Behind,
    /// Everything was read, and that was said.
    CaughtUp,
    /// The last response was given out.
    Ended,
}

/// An event, and the room that it takes until it was sent.
type Told = (Event, Option<Held>);

impl Reader {
    pub(super) fn new(options: ReaderOptions<'_>) -> Result<Reader, Refusal> {
        let ReaderOptions {
            opened,
            until_end,
            max_bytes,
            draining,
            follow,
            call,
        } = options;
        let mut reading = Reading::new(call.memory.clone(), call.connection.clone());
        let slots = opened.into_iter().map(|opened| reading.add(opened));
        Ok(Reader {
            untold: slots.collect::<Result<_, _>>()?,
            reading,
            max_bytes,
            place: call.connection.add_reader(),
            until_end,
            phase: Phase::Behind,
            draining,
            follow,
        })
    }

    /// What is told next; nothing at the end.
    async fn next_event(&mut self) -> Result<Option<Told>, Refusal> {
        loop {
            self.look_for_more()?;
            if let Some(event) = self.tell_opened() {
                return Ok(Some((event, None)));
            }
            if self.draining.is_cancelled() {
                return Err(Refusal::stopping());
            }
            if self.phase == Phase::Ended {
                return Ok(None);
            }
            if self.phase == Phase::Behind && self.reading.is_caught_up() {
                self.phase = match self.until_end {
                    true => Phase::Ended,
                    false => Phase::CaughtUp,
                };
                let touched = self.reading.take_touched();
                let positions = self.describe(&touched);
                return Ok(Some((Event::CaughtUp(v1::CaughtUp { positions }), None)));
            }
            if let Some(told) = self.read().await? {
                return Ok(Some(told));
            }
        }
    }

    /// Partitions that the reader has not been told of.
    fn tell_opened(&mut self) -> Option<Event> {
        let untold = std::mem::take(&mut self.untold);
        if untold.is_empty() {
            return None;
        }
        self.phase = Phase::Behind;
        let positions = self.describe(&untold);
        Some(Event::Opened(v1::FetchOpened { positions }))
    }

    fn describe(&self, slots: &[SlotId]) -> Vec<v1::PartitionPosition> {
        let opened = slots.iter().filter_map(|slot| self.reading.get(*slot));
        opened.map(Opened::describe).collect()
    }

    /// Opens partitions that were added.
    fn look_for_more(&mut self) -> Result<(), Refusal> {
        match self.follow.as_mut().and_then(Follow::take_change) {
            None | Some(Change::Altered) => {}
            Some(Change::Deleted) => self.follow = None,
            Some(Change::Grown(opened)) => {
                for opened in opened {
                    self.untold.push(self.reading.add(opened)?);
                }
            }
        }
        Ok(())
    }

    /// Waits for records, or for news; a heartbeat when there are none for long.
    async fn read(&mut self) -> Result<Option<Told>, Refusal> {
        let changed = async {
            match &self.follow {
                Some(follow) => follow.changed().await,
                None => std::future::pending().await,
            }
        };
        let max_bytes = self.place.response_bytes(self.max_bytes);
        let next = tokio::select! {
            biased;
            next = self.reading.next(max_bytes, Allowance::UNLIMITED) => next,
            () = self.draining.cancelled() => return Err(Refusal::stopping()),
            () = changed => return Ok(None),
            () = tokio::time::sleep(limits::HEARTBEAT) => {
                return Ok(Some((Event::Heartbeat(v1::Heartbeat {}), None)));
            }
        };
        let told = match next {
            Ok(Next::News) => return Ok(None),
            Ok(Next::Batches(taken, room)) => {
                let batches = taken.into_iter().map(|taken| taken.batch).collect();
                (Event::Batches(v1::FetchedBatches { batches }), room)
            }
            Ok(Next::Gap(_, Gap::Truncated(gap))) => (Event::Truncated(gap), None),
            Ok(Next::Gap(_, Gap::Quarantined(gap))) => (Event::Quarantined(gap), None),
            Err(Failed { slot, error }) => {
                let opened = self.reading.get(slot).expect("it was read");
                return Err(opened.refusal(error));
            }
        };
        self.phase = Phase::Behind;
        Ok(Some(told))
    }
}

impl Source for Reader {
    async fn next(mut self) -> Option<(Made, Option<Reader>)> {
        let (item, room) = match self.next_event().await {
            Ok(Some((event, room))) => {
                let event = Some(event);
                (Ok(v1::FetchResponse { event }), room)
            }
            Ok(None) => return None,
            Err(refusal) => (Err(Status::from(refusal)), None),
        };
        let goes_on = item.is_ok().then_some(self);
        Some((Made { item, room }, goes_on))
    }
}
