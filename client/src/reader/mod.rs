//! Reads a topic: one server stream after the other, from where the last one
//! ended.

mod batch;
mod builder;
mod cursors;
mod start;

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_util::Stream;
use statecast_proto::reason::Reason;
use statecast_proto::v1::fetch_response::Event as WireEvent;
use statecast_proto::v1::log_client::LogClient;
use statecast_proto::v1::{FetchRequest, FetchResponse, FetchedBatch};
use tonic::Streaming;
use tonic::transport::Channel;

pub use self::batch::{Batch, Record, RecordView, RecordViews, Records};
pub use self::builder::ReaderBuilder;
pub use self::start::Start;

use self::cursors::Cursors;
use crate::client::Client;
use crate::clock;
use crate::connection::MAX_MESSAGE;
use crate::error::Error;

#[derive(Debug, Clone)]
struct ReaderSettings {
    topic: String,
    partitions: Vec<(u32, Option<Start>)>,
    start: Start,
    until_end: bool,
    max_bytes: Option<u32>,
    reconnect_for: Option<Duration>,
}

/// Reads records of a topic: those of a partition in their order, none twice
/// and none left out, also over lost connections. When all partitions are read,
/// and not only to their end, those that are added to the topic are read too.
///
/// A topic that is deleted and created again while there is no connection is
/// another one: positions in the old one say nothing about it.
///
/// As a [`Stream`] it yields records; [`Reader::next_batch`] yields batches,
/// which is faster for small records. Each checks the checksum that the
/// producer gave.
///
/// [`Error::Truncated`], [`Error::Quarantined`] and [`Error::DamagedBatch`]
/// say once that records are missing, and the records behind them follow. After
/// any other error the reader has ended.
///
/// It reads ahead no more than the stream's window, 4 MiB, and a message; it runs
/// no task of its own: what isn't asked for isn't fetched.
///
/// ```
/// # statecast_example_broker::run(async |url| {
/// use statecast_client::{Client, Start};
/// use tokio_stream::StreamExt;
///
/// let client = Client::connect(&url).await?;
/// let mut reader = client.reader("orders").start(Start::Earliest).until_end().open().await?;
/// # let mut read = 0;
/// while let Some(record) = reader.next().await {
///     let record = record?;
///     println!("{}/{}: {:?}", record.partition, record.offset, record.value);
/// #   read += 1;
/// }
/// # assert_eq!(read, 3);
/// # Ok(()) });
/// ```
pub struct Reader {
    client: Client,
    channel: Channel,
    topic: Arc<str>,
    settings: ReaderSettings,
    cursors: Cursors,
    link: Link,
    /// Batches that arrived together and weren't handed out yet.
    arrived: VecDeque<FetchedBatch>,
    /// The batch whose records the stream is yielding.
    records: Option<Records>,
    caught_up: bool,
    /// The broker has said where reading begins, in this connection.
    opened: bool,
    /// It has been so once, in this connection or one before.
    was_open: bool,
    /// Failures since the broker last said something besides where it begins.
    failures: u32,
    /// When to give up, since the first of them.
    give_up_at: Option<Instant>,
}

enum Link {
    Opening(Pin<Box<dyn Future<Output = Result<Streaming<FetchResponse>, Error>> + Send>>),
    Open(Box<Streaming<FetchResponse>>),
    Ended,
}

/// What a reader came upon.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// Records.
    Batch(Batch),
    /// Every partition was read up to its end. Comes each time the reader
    /// catches up, also when there was nothing to read at the start.
    CaughtUp,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("topic", &self.topic)
            .field("cursors", &self.cursors)
            .field("caught_up", &self.caught_up)
            .finish_non_exhaustive()
    }
}

impl Reader {
    fn new(client: Client, settings: ReaderSettings) -> Self {
        let cursors = Cursors::new(&settings.partitions, settings.start, settings.until_end);
        let mut reader = Self {
            channel: client.next_fetch_channel(),
            topic: settings.topic.as_str().into(),
            give_up_at: Some(clock::after(client.settings().retry_for)),
            client,
            settings,
            cursors,
            link: Link::Ended,
            arrived: VecDeque::new(),
            records: None,
            caught_up: false,
            opened: false,
            was_open: false,
            failures: 0,
        };
        reader.connect(Duration::ZERO);
        reader
    }

    /// Name of the topic.
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// The next batch; `None` at the end, when the reader has one. Safe to
    /// cancel.
    pub async fn next_batch(&mut self) -> Option<Result<Batch, Error>> {
        loop {
            match self.next_event().await? {
                Ok(Event::Batch(batch)) => return Some(Ok(batch)),
                Ok(Event::CaughtUp) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// As [`Reader::next_batch`], and also tells when the reader has caught up.
    pub async fn next_event(&mut self) -> Option<Result<Event, Error>> {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    /// Whether everything was handed out that the broker had when it was last
    /// heard of.
    pub fn is_caught_up(&self) -> bool {
        self.caught_up && self.arrived.is_empty() && self.records.is_none()
    }

    /// The next offset that each partition will yield, by partition; behind the
    /// batch whose records are being yielded.
    pub fn positions(&self) -> Vec<(u32, u64)> {
        self.cursors.positions().collect()
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, Error>>> {
        loop {
            if let Some(batch) = self.arrived.pop_front() {
                if let Some(item) = self.hand_out(batch) {
                    return Poll::Ready(Some(item.map(Event::Batch)));
                }
                continue;
            }
            if matches!(self.link, Link::Ended) {
                return Poll::Ready(None);
            }
            if self.cursors.is_finished() {
                return Poll::Ready(Some(Ok(self.caught_up())));
            }
            if let Some(item) = ready!(self.poll_link(cx)) {
                return Poll::Ready(Some(item));
            }
        }
    }

    /// Ready when the broker has said where reading begins.
    fn poll_opened(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while !self.opened {
            if let Some(Err(error)) = ready!(self.poll_link(cx)) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// One step of the connection; `None` when it yielded nothing to tell.
    fn poll_link(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, Error>>> {
        let item = match &mut self.link {
            Link::Ended => None,
            Link::Opening(opening) => match ready!(opening.as_mut().poll(cx)) {
                Ok(stream) => {
                    self.link = Link::Open(Box::new(stream));
                    None
                }
                Err(error) => self.lost(error),
            },
            Link::Open(stream) => match ready!(Pin::new(stream).poll_next(cx)) {
                Some(Ok(response)) => self.take(response),
                Some(Err(status)) => self.lost(Error::from_status(&status)),
                None => self.lost(Error::Connection("the broker ended the stream".into())),
            },
        };
        Poll::Ready(item)
    }

    fn take(&mut self, response: FetchResponse) -> Option<Result<Event, Error>> {
        let event = response.event?;
        if let WireEvent::Opened(opened) = event {
            self.cursors.opened(&opened.positions);
            self.opened = true;
            if !std::mem::replace(&mut self.was_open, true) {
                self.has_progressed();
            }
            return None;
        }
        if !self.opened {
            return Some(Err(self.end("a fetch began without its positions")));
        }
        self.has_progressed();
        match event {
            WireEvent::Batches(batches) => {
                self.caught_up = false;
                self.arrived.extend(batches.batches);
                None
            }
            WireEvent::CaughtUp(_) => Some(Ok(self.caught_up())),
            WireEvent::Truncated(gap) => {
                Some(self.missing(gap.partition, gap.from_offset, gap.log_start_offset, true))
            }
            WireEvent::Quarantined(gap) => {
                Some(self.missing(gap.partition, gap.from_offset, gap.to_offset, false))
            }
            WireEvent::Opened(_) | WireEvent::Heartbeat(_) => None,
        }
    }

    /// To open again and fail again, after the first time, is no progress.
    fn has_progressed(&mut self) {
        self.failures = 0;
        self.give_up_at = None;
    }

    /// The broker makes no sense.
    fn end(&mut self, why: &str) -> Error {
        self.link = Link::Ended;
        Error::Protocol(why.into())
    }

    fn caught_up(&mut self) -> Event {
        self.caught_up = true;
        if self.settings.until_end {
            self.link = Link::Ended;
        }
        Event::CaughtUp
    }

    /// Checks a batch; `None` when all of it was handed out before.
    fn hand_out(&mut self, wire: FetchedBatch) -> Option<Result<Batch, Error>> {
        if wire.next_offset <= wire.base_offset {
            self.arrived.clear();
            return Some(Err(self.end("a batch ends before it begins")));
        }
        let offsets = self
            .cursors
            .take(wire.partition, wire.base_offset, wire.next_offset);
        if offsets.is_empty() {
            return None;
        }
        let (partition, offset) = (wire.partition, wire.base_offset);
        let batch = Batch::new(Arc::clone(&self.topic), offsets, wire);
        Some(batch.map_err(|problem| Error::DamagedBatch {
            topic: Arc::clone(&self.topic),
            partition,
            offset,
            problem: problem.into(),
        }))
    }

    /// Records that can't be read; reading goes on behind them.
    fn missing(
        &mut self,
        partition: u32,
        from: u64,
        to: u64,
        removed: bool,
    ) -> Result<Event, Error> {
        self.cursors.skip_to(partition, to);
        let topic = Arc::clone(&self.topic);
        Err(if removed {
            Error::Truncated {
                topic,
                partition,
                from,
                to,
            }
        } else {
            Error::Quarantined {
                topic,
                partition,
                from,
                to,
            }
        })
    }

    /// The connection failed: opens another, or ends with the error.
    fn lost(&mut self, error: Error) -> Option<Result<Event, Error>> {
        self.opened = false;
        if let Some((partition, from, to)) = self.overtaken(&error) {
            let missing = self.missing(partition, from, to, true);
            self.connect(Duration::ZERO);
            return Some(missing);
        }
        let now = clock::now();
        let give_up_at = self
            .give_up_at
            .or_else(|| Some(clock::after(self.settings.reconnect_for?)));
        let delay = self.client.settings().backoff.delay(self.failures);
        let too_late = give_up_at.is_some_and(|time| now + delay > time);
        if !error.is_retryable() || too_late {
            self.link = Link::Ended;
            return Some(Err(error));
        }
        tracing::debug!(topic = %self.topic, %error, "fetch stream lost, opening another");
        self.give_up_at = give_up_at;
        self.failures = self.failures.saturating_add(1);
        self.connect(delay);
        None
    }

    /// While there was no connection, retention removed what comes next: the
    /// partition, where the reader is, and where it can go on.
    fn overtaken(&self, error: &Error) -> Option<(u32, u64, u64)> {
        let refusal = error.refusal()?;
        if refusal.reason != Some(Reason::OffsetOutOfRange) {
            return None;
        }
        let partition = u32::try_from(refusal.number("partition")?).ok()?;
        let start = refusal.number("log_start_offset")?;
        let position = self.cursors.position(partition)?;
        (position < start).then_some((partition, position, start))
    }

    fn connect(&mut self, delay: Duration) {
        let request = self.cursors.request(&self.topic, self.settings.max_bytes);
        let limit = self.client.settings().request_timeout;
        let opening = open(self.channel.clone(), request, delay, limit);
        self.link = Link::Opening(Box::pin(opening));
    }
}

/// Yields the records of one batch after the other.
impl Stream for Reader {
    type Item = Result<Record, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(records) = &mut self.records {
                match records.next() {
                    Some(record) => return Poll::Ready(Some(record)),
                    None => self.records = None,
                }
            }
            match ready!(self.poll_event(cx)) {
                Some(Ok(Event::Batch(batch))) => self.records = Some(batch.records()),
                Some(Ok(Event::CaughtUp)) => {}
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

async fn open(
    channel: Channel,
    request: FetchRequest,
    delay: Duration,
    limit: Duration,
) -> Result<Streaming<FetchResponse>, Error> {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let mut client = LogClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    match tokio::time::timeout(limit, client.fetch(request)).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Error::from_status(&status)),
        Err(_) => Err(Error::Timeout {
            waited: limit,
            last: "the broker didn't answer".into(),
        }),
    }
}
