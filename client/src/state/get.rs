//! Asks for the value of a key.

use std::future::{Future, IntoFuture};
use std::pin::Pin;

use bytes::Bytes;
use statecast_proto::v1;

use super::entry::{AsOf, Entry};
use super::{State, service};
use crate::error::Error;

/// Asks for the value of a key when it is awaited; from [`State::get`].
#[derive(Debug, Clone)]
#[must_use = "nothing is asked until it is awaited"]
pub struct Get {
    state: State,
    request: v1::GetRequest,
}

impl Get {
    pub(super) fn new(state: State, key: &[u8]) -> Self {
        let request = v1::GetRequest {
            topic: state.topic.as_ref().to_owned(),
            key: Bytes::copy_from_slice(key),
            ..v1::GetRequest::default()
        };
        Self { state, request }
    }

    /// Looks in this partition. Default: that of the key.
    pub fn partition(mut self, partition: u32) -> Self {
        self.request.partition = Some(partition);
        self
    }

    /// Waits until the record with this offset of the key's partition counts, such as
    /// one that another service wrote and told the offset of. Default: whatever was
    /// acknowledged before the call.
    pub fn at_least(mut self, offset: u64) -> Self {
        self.request.at_least_offset = Some(offset);
        self
    }

    /// The value as it was then. Fails with [`Error::StateCompacted`] when the log
    /// doesn't hold that any more. Default: now.
    pub fn as_of(mut self, point: AsOf) -> Self {
        use v1::get_request::AsOf::{AsOfOffset, AsOfTimestampMs};
        self.request.as_of = Some(match point {
            AsOf::Offset(offset) => AsOfOffset(offset),
            AsOf::Time(ms) => AsOfTimestampMs(ms),
        });
        self
    }

    async fn send(self) -> Result<Option<Entry>, Error> {
        let call = |channel, request| async move { service(channel).get(request).await };
        let answer = self.state.client.repeatedly(self.request, call).await?;
        Ok(answer.entry.map(Entry::from_wire))
    }
}

impl IntoFuture for Get {
    type Output = Result<Option<Entry>, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}
