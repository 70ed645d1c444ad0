//! What a view tells of a change.

use std::sync::Arc;

use bytes::Bytes;
use statecast_proto::batch::Header;
use statecast_proto::v1;

use crate::state::{Entry, headers};

/// A change of a key, as a [`StateView`](crate::StateView) tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// The key has a value that it hadn't before.
    Put {
        /// What it is now.
        entry: Arc<Entry>,
        /// What it was, if it was there.
        previous: Option<Arc<Entry>>,
    },
    /// The key, which was there, is gone.
    Removed {
        /// What it was.
        previous: Arc<Entry>,
        /// What removed it. `None` when that isn't known: it was removed while the view
        /// had no connection, or by retention.
        tombstone: Option<Tombstone>,
    },
}

impl Change {
    /// The key.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { entry, .. } => &entry.key,
            Self::Removed { previous, .. } => &previous.key,
        }
    }

    /// What the key is now; `None` when it is gone.
    pub fn entry(&self) -> Option<&Arc<Entry>> {
        match self {
            Self::Put { entry, .. } => Some(entry),
            Self::Removed { .. } => None,
        }
    }
}

/// A record that removed a key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tombstone {
    /// Its offset in the partition of the key.
    pub offset: u64,
    /// When the key was removed, as the producer or else the broker says:
    /// milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// Its headers, in the producer's order.
    pub headers: Vec<Header>,
}

impl Tombstone {
    pub(crate) fn from_wire(removed: v1::Removed) -> Self {
        Self {
            offset: removed.offset,
            timestamp_ms: removed.timestamp_ms,
            headers: headers(removed.headers),
        }
    }
}

/// An entry as it came, with memory of its own: a view keeps it for long, and
/// slices would keep the whole message that they came in.
pub(super) fn detached(entry: v1::Entry) -> Entry {
    let mut entry = Entry::from_wire(entry);
    // One allocation for both.
    let mut both = Vec::with_capacity(entry.key.len() + entry.value.len());
    both.extend_from_slice(&entry.key);
    both.extend_from_slice(&entry.value);
    let mut key = Bytes::from(both);
    entry.value = key.split_off(entry.key.len());
    entry.key = key;
    for header in &mut entry.headers {
        header.value = header.value.as_deref().map(Bytes::copy_from_slice);
    }
    entry
}
