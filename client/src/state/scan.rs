//! The keys that begin with a prefix, page by page.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use statecast_proto::v1;

use super::entry::Entry;
use super::{State, service};
use crate::error::Error;

/// Asks for keys and values, in the order of the keys; from [`State::scan`].
///
/// Awaited, it gathers all of them; [`Scan::stream`] yields them as they come, page
/// by page. Each page reflects what was acknowledged before it was asked for: keys
/// may change between pages.
#[derive(Debug, Clone)]
#[must_use = "nothing is asked until it is awaited or streamed"]
pub struct Scan {
    state: State,
    request: v1::ScanRequest,
}

impl Scan {
    pub(super) fn new(state: State, prefix: &[u8]) -> Self {
        let request = v1::ScanRequest {
            topic: state.topic.as_ref().to_owned(),
            prefix: Bytes::copy_from_slice(prefix),
            ..v1::ScanRequest::default()
        };
        Self { state, request }
    }

    /// The most entries that come in one answer, 1 to 10,000. Default: 1,000.
    pub fn page_size(mut self, entries: u32) -> Self {
        self.request.page_size = Some(entries);
        self
    }

    /// Waits until this record counts; may be given for several partitions. Default:
    /// whatever was acknowledged before.
    pub fn at_least(mut self, partition: u32, offset: u64) -> Self {
        let position = v1::RecordPosition { partition, offset };
        self.request.at_least.push(position);
        self
    }

    /// As the records of a partition below an offset made it. Partitions for which it
    /// isn't given yield nothing then. Fails with [`Error::StateCompacted`] when the log
    /// doesn't hold that any more. Default: now.
    pub fn as_of_offset(mut self, partition: u32, offset: u64) -> Self {
        let position = v1::RecordPosition { partition, offset };
        self.request.as_of_offsets.push(position);
        self
    }

    /// As the records before the first one of each partition that is younger than this
    /// made it: milliseconds since the Unix epoch. Not with offsets. Fails with
    /// [`Error::StateCompacted`] when the log doesn't hold that any more. Default: now.
    pub fn as_of_time(mut self, timestamp_ms: i64) -> Self {
        self.request.as_of_timestamp_ms = Some(timestamp_ms);
        self
    }

    /// Yields the entries; asks for each page when the one before is used up.
    pub fn stream(self) -> Entries {
        Entries {
            page: Page::Next(self.request),
            state: self.state,
            arrived: VecDeque::new(),
        }
    }
}

impl IntoFuture for Scan {
    type Output = Result<Vec<Entry>, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.stream().try_collect())
    }
}

type Asked = Pin<Box<dyn Future<Output = Result<Answer, Error>> + Send>>;

/// A page, and the request that it answers.
struct Answer {
    page: v1::ScanResponse,
    request: v1::ScanRequest,
}

/// Yields keys and values in the order of the keys; from [`Scan::stream`]. Ends
/// after the first error.
pub struct Entries {
    state: State,
    arrived: VecDeque<v1::Entry>,
    page: Page,
}

enum Page {
    Next(v1::ScanRequest),
    Asked(Asked),
    None,
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = &mut f.debug_struct("Entries");
        entries.field("state", &self.state).finish_non_exhaustive()
    }
}

impl Entries {
    fn ask(&self, request: v1::ScanRequest) -> Asked {
        let client = self.state.client.clone();
        Box::pin(async move {
            let call = |channel, request| async move { service(channel).scan(request).await };
            let page = client.repeatedly(request.clone(), call).await?;
            Ok(Answer { page, request })
        })
    }

    fn take(&mut self, answer: Answer) -> Result<(), Error> {
        let Answer { page, mut request } = answer;
        self.arrived.extend(page.entries);
        if page.next_page_token.is_empty() {
            return Ok(());
        }
        if page.next_page_token == request.page_token {
            return Err(Error::protocol("a page leads back to itself"));
        }
        request.page_token = page.next_page_token;
        self.page = Page::Next(request);
        Ok(())
    }
}

impl Stream for Entries {
    type Item = Result<Entry, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(entry) = self.arrived.pop_front() {
                return Poll::Ready(Some(Ok(Entry::from_wire(entry))));
            }
            match std::mem::replace(&mut self.page, Page::None) {
                Page::None => return Poll::Ready(None),
                Page::Next(request) => self.page = Page::Asked(self.ask(request)),
                Page::Asked(mut asked) => {
                    let Poll::Ready(answer) = asked.as_mut().poll(cx) else {
                        self.page = Page::Asked(asked);
                        return Poll::Pending;
                    };
                    if let Err(error) = answer.and_then(|answer| self.take(answer)) {
                        return Poll::Ready(Some(Err(error)));
                    }
                }
            }
        }
    }
}
