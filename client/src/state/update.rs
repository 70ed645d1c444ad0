//! Compare and set, until nobody else was faster.

use std::time::Duration;

use bytes::Bytes;
use statecast_proto::batch::Header;

use super::State;
use super::entry::{Entry, LeaseId, Written};
use super::write::{Expect, Write};
use crate::backoff::Backoff;
use crate::error::Error;

/// Those who change the same key make room for each other, for a little longer each
/// time; a flush takes about as long as the first wait.
const COLLISION: Backoff = Backoff {
    first: Duration::from_millis(1),
    max: Duration::from_millis(100),
};

/// What becomes of a key that [`State::update`] changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    change: Option<Change>,
    headers: Vec<Header>,
    lease: Option<LeaseId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Put(Bytes),
    Delete,
}

impl Update {
    /// It gets this value.
    pub fn put(value: impl AsRef<[u8]>) -> Self {
        Self::new(Some(Change::Put(Bytes::copy_from_slice(value.as_ref()))))
    }

    /// It is removed.
    pub fn delete() -> Self {
        Self::new(Some(Change::Delete))
    }

    /// It stays as it is.
    pub fn keep() -> Self {
        Self::new(None)
    }

    fn new(change: Option<Change>) -> Self {
        Self {
            change,
            headers: Vec::new(),
            lease: None,
        }
    }

    /// Adds a header. Those that the key had before don't stay.
    pub fn header(mut self, name: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        self.headers.push(Header {
            name: name.into(),
            value: Some(Bytes::copy_from_slice(value.as_ref())),
        });
        self
    }

    /// The key is removed when this lease ends. The one that it had before doesn't
    /// count any more.
    pub fn lease(mut self, lease: impl Into<LeaseId>) -> Self {
        self.lease = Some(lease.into());
        self
    }

    /// As a write of the key that is as expected; nothing when it stays as it is.
    fn into_write(self, key: &[u8], expect: Expect) -> Option<Write> {
        let write = match self.change? {
            Change::Put(value) => Write::put(key, value),
            Change::Delete => Write::delete(key),
        };
        let write = write.expect(expect).headers(self.headers);
        Some(match self.lease {
            Some(lease) => write.lease(lease),
            None => write,
        })
    }
}

pub(super) async fn run(
    state: &State,
    key: &[u8],
    mut change: impl FnMut(Option<&Entry>) -> Update,
) -> Result<Option<Written>, Error> {
    let mut collisions = 0_u32;
    loop {
        let entry = state.get(key).await?;
        let expect = match &entry {
            Some(entry) => Expect::Version(entry.version),
            None => Expect::Absent,
        };
        let Some(write) = change(entry.as_ref()).into_write(key, expect) else {
            return Ok(None);
        };
        match state.put_all([write]).await {
            Ok(written) => return Ok(written.first().copied()),
            Err(Error::VersionMismatch { .. }) => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(COLLISION.delay(collisions)).await;
        collisions = collisions.saturating_add(1);
    }
}
