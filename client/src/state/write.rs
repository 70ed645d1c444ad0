//! Changes of keys, on the condition that they still are what they were.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use statecast_proto::batch::Header;
use statecast_proto::v1;
use statecast_proto::v1::expected_version::Expected;

use super::entry::{LeaseId, Version, Written};
use super::{State, request_id, service};
use crate::error::Error;

/// For so long the broker knows a request again: a retry after that might change
/// something twice.
const REMEMBERED: Duration = Duration::from_secs(10 * 60);

/// What is expected of a key that is to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Expect {
    /// Nothing.
    #[default]
    Any,
    /// That it isn't there.
    Absent,
    /// That it is there, in this version.
    Version(Version),
}

impl Expect {
    fn into_wire(self) -> Option<v1::ExpectedVersion> {
        let expected = match self {
            Self::Any => return None,
            Self::Absent => Expected::Absent(v1::Absent {}),
            Self::Version(version) => Expected::Version(version.number()),
        };
        Some(v1::ExpectedVersion {
            expected: Some(expected),
        })
    }
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    key: Bytes,
    value: Option<Bytes>,
    headers: Vec<Header>,
    expect: Expect,
    lease: Option<LeaseId>,
}

impl Write {
    /// The key gets this value.
    pub fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        Self::new(key.as_ref(), Some(Bytes::copy_from_slice(value.as_ref())))
    }

    /// The key is removed.
    pub fn delete(key: impl AsRef<[u8]>) -> Self {
        Self::new(key.as_ref(), None)
    }

    fn new(key: &[u8], value: Option<Bytes>) -> Self {
        Self {
            key: Bytes::copy_from_slice(key),
            value,
            headers: Vec::new(),
            expect: Expect::Any,
            lease: None,
        }
    }

    /// Only if the key is as expected. Default: [`Expect::Any`].
    pub fn expect(mut self, expect: Expect) -> Self {
        self.expect = expect;
        self
    }

    /// Only if the key is in this version.
    pub fn expect_version(self, version: Version) -> Self {
        self.expect(Expect::Version(version))
    }

    /// Only if there is no such key.
    pub fn expect_absent(self) -> Self {
        self.expect(Expect::Absent)
    }

    /// Adds a header.
    pub fn header(mut self, name: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        self.headers.push(Header {
            name: name.into(),
            value: Some(Bytes::copy_from_slice(value.as_ref())),
        });
        self
    }

    /// Adds headers.
    pub fn headers(mut self, headers: impl IntoIterator<Item = Header>) -> Self {
        self.headers.extend(headers);
        self
    }

    /// The key is removed when this lease ends. Default: with none; the one that it
    /// had before doesn't count any more.
    pub fn lease(mut self, lease: impl Into<LeaseId>) -> Self {
        self.lease = Some(lease.into());
        self
    }

    fn into_wire(self) -> v1::Write {
        let header = |header: Header| v1::Header {
            name: header.name,
            value: header.value,
        };
        v1::Write {
            key: self.key,
            change: Some(match self.value {
                Some(value) => v1::write::Change::Value(value),
                None => v1::write::Change::Remove(v1::Removal {}),
            }),
            headers: self.headers.into_iter().map(header).collect(),
            expected: self.expect.into_wire(),
            lease_id: self.lease.map(LeaseId::number),
        }
    }
}

/// Gives a key a value when it is awaited; from [`State::put`].
///
/// Fails with [`Error::VersionMismatch`] when the key isn't as expected.
#[derive(Debug, Clone)]
#[must_use = "nothing is changed until it is awaited"]
pub struct Put {
    all: PutAll,
    write: Write,
}

impl Put {
    pub(super) fn new(state: State, write: Write) -> Self {
        Self {
            all: PutAll::new(state, Vec::new()),
            write,
        }
    }

    /// Only if the key is as expected. Default: [`Expect::Any`].
    pub fn expect(mut self, expect: Expect) -> Self {
        self.write = self.write.expect(expect);
        self
    }

    /// Only if the key is in this version.
    pub fn expect_version(self, version: Version) -> Self {
        self.expect(Expect::Version(version))
    }

    /// Only if there is no such key.
    pub fn expect_absent(self) -> Self {
        self.expect(Expect::Absent)
    }

    /// Adds a header.
    pub fn header(mut self, name: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        self.write = self.write.header(name, value);
        self
    }

    /// The key is removed when this lease ends. Default: with none; the one that it
    /// had before doesn't count any more.
    pub fn lease(mut self, lease: impl Into<LeaseId>) -> Self {
        self.write = self.write.lease(lease);
        self
    }

    /// Puts it into this partition. Default: that of the key.
    pub fn partition(mut self, partition: u32) -> Self {
        self.all = self.all.partition(partition);
        self
    }

    /// Names the request: one of the same name that was made in the last 10 minutes
    /// isn't carried out again, by whoever it was. Up to 64 bytes. Default: a name that
    /// no other has.
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.all = self.all.request_id(id);
        self
    }

    async fn send(mut self) -> Result<Written, Error> {
        self.all.writes.push(self.write);
        let written = self.all.send().await?;
        match written[..] {
            [written] => Ok(written),
            _ => Err(Error::protocol("one write was asked for")),
        }
    }
}

impl IntoFuture for Put {
    type Output = Result<Written, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

/// Changes several keys when it is awaited, all or none; from [`State::put_all`].
/// Yields what was written, in the order of the writes.
///
/// Fails with [`Error::VersionMismatch`] when a key isn't as expected.
#[derive(Debug, Clone)]
#[must_use = "nothing is changed until it is awaited"]
pub struct PutAll {
    state: State,
    writes: Vec<Write>,
    partition: Option<u32>,
    request_id: Option<String>,
}

impl PutAll {
    pub(super) fn new(state: State, writes: Vec<Write>) -> Self {
        Self {
            state,
            writes,
            partition: None,
            request_id: None,
        }
    }

    /// Puts them into this partition. Default: each into that of its key.
    pub fn partition(mut self, partition: u32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// As [`Put::request_id`].
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.request_id = Some(id.into());
        self
    }

    async fn send(self) -> Result<Vec<Written>, Error> {
        let asked = self.writes.len();
        let request = v1::PutRequest {
            topic: self.state.topic.as_ref().to_owned(),
            writes: self.writes.into_iter().map(Write::into_wire).collect(),
            partition: self.partition,
            request_id: Some(self.request_id.unwrap_or_else(request_id::fresh)),
        };
        let call = |channel, request| async move { service(channel).put(request).await };
        let client = &self.state.client;
        let answer = client.repeatedly_for(REMEMBERED, request, call).await?;
        let written = answer.written.into_iter();
        let written = written.map(|written| Written::from_wire(Some(written)));
        let written = written.collect::<Result<Vec<_>, _>>()?;
        match written.len() {
            count if count == asked => Ok(written),
            count => Err(Error::protocol(format_args!(
                "{count} keys were written, not {asked}"
            ))),
        }
    }
}

impl IntoFuture for PutAll {
    type Output = Result<Vec<Written>, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

/// Removes a key when it is awaited; from [`State::delete`].
///
/// Fails with [`Error::VersionMismatch`] when the key isn't as expected.
#[derive(Debug, Clone)]
#[must_use = "nothing is changed until it is awaited"]
pub struct Delete {
    state: State,
    request: v1::DeleteRequest,
}

impl Delete {
    pub(super) fn new(state: State, key: &[u8]) -> Self {
        let request = v1::DeleteRequest {
            topic: state.topic.as_ref().to_owned(),
            key: Bytes::copy_from_slice(key),
            ..v1::DeleteRequest::default()
        };
        Self { state, request }
    }

    /// Only if the key is as expected. Default: [`Expect::Any`].
    pub fn expect(mut self, expect: Expect) -> Self {
        self.request.expected = expect.into_wire();
        self
    }

    /// Only if the key is in this version.
    pub fn expect_version(self, version: Version) -> Self {
        self.expect(Expect::Version(version))
    }

    /// In this partition. Default: that of the key.
    pub fn partition(mut self, partition: u32) -> Self {
        self.request.partition = Some(partition);
        self
    }

    /// As [`Put::request_id`].
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.request.request_id = Some(id.into());
        self
    }

    async fn send(mut self) -> Result<Written, Error> {
        let id = &mut self.request.request_id;
        id.get_or_insert_with(request_id::fresh);
        let call = |channel, request| async move { service(channel).delete(request).await };
        let client = &self.state.client;
        let answer = client.repeatedly_for(REMEMBERED, self.request, call);
        Written::from_wire(answer.await?.written)
    }
}

impl IntoFuture for Delete {
    type Output = Result<Written, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}
