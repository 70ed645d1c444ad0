//! A local map that is kept current.
//!
//! What is told is folded into the map by rules that are pure (`fold`); the `session`
//! is the task that hears it, over lost connections, and carries it out on the `map`,
//! which it shares with those who read (`shared`).

mod builder;
mod change;
mod fold;
mod map;
#[cfg(test)]
#[path = "tests/model.rs"]
mod model_tests;
mod session;
mod shared;

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

pub use self::builder::StateViewBuilder;
pub use self::change::{Change, Tombstone};
pub(crate) use self::fold::positions;

use self::shared::Handle;
#[cfg(doc)]
use crate::client::Client;
use crate::error::Error;
use crate::state::{Entry, Written};

/// What is true in a compacted topic, as a map in this process that is kept current:
/// reading it asks nobody. From [`Client::state_view`].
///
/// - Once it was synced, it holds at each moment exactly what the records of each
///   partition up to some offset make, and goes only forward.
/// - After a lost connection it goes on where it was. If the broker can't tell any more
///   what changed meanwhile, it takes all that is and looks for itself; until that is
///   complete it stays as it was, and then changes at one moment.
/// - Readers never wait for the network, and hold up nobody for longer than it takes to
///   look something up.
///
/// A topic that is deleted and created again while there is no connection is another
/// one: where the view was in the old one says nothing about it.
///
/// Cheap to clone; clones share the map, which is kept current until the last one is
/// dropped.
///
/// ```
/// # statecast_example_broker::run(async |url| {
/// # use statecast_client::{Cleanup, RecordRef, TopicConfig};
/// # let client = statecast_client::Client::connect(&url).await?;
/// # let config = TopicConfig::new().cleanup(Cleanup::Compact);
/// # client.admin().create_topic("prices", Some(4), config).await?;
/// # client.state("prices").put("apples", "3").await?;
/// use statecast_client::Client;
///
/// let client = Client::connect(&url).await?;
/// let prices = client.state_view("prices").open().await?;
/// prices.wait_synced().await?;
/// let apples = prices.get("apples").expect("they have a price");
/// assert_eq!(apples.value, "3");
/// # Ok(()) });
/// ```
#[derive(Clone)]
pub struct StateView {
    topic: Arc<str>,
    handle: Arc<Handle>,
    changes: watch::Receiver<u64>,
    /// How many changes [`StateView::changed`] has told of.
    seen: u64,
}

impl fmt::Debug for StateView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateView")
            .field("topic", &self.topic)
            .field("status", &*self.handle.shared.status.borrow())
            .finish_non_exhaustive()
    }
}

impl StateView {
    fn new(topic: Arc<str>, handle: Handle) -> Self {
        Self {
            topic,
            changes: handle.shared.changes.subscribe(),
            seen: 0,
            handle: Arc::new(handle),
        }
    }

    /// Name of the topic.
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// Waits until the view was whole once: it has been all that there was, and has
    /// changed with it since. Fails when the view has ended before.
    pub async fn wait_synced(&self) -> Result<(), Error> {
        let shared = &self.handle.shared;
        shared.until(|status| status.was_synced).await
    }

    /// Waits until the view reflects a change, such as one that this process made of a
    /// key that is watched. Fails when the view ends before.
    pub async fn wait_for(&self, written: &Written) -> Result<(), Error> {
        let (partition, offset) = (written.partition as usize, written.offset);
        let shared = &self.handle.shared;
        let is_so_far = shared.until(|status| {
            let next = status.next.get(partition);
            next.is_some_and(|next| *next > offset)
        });
        is_so_far.await
    }

    /// Waits until the map has changed since this clone of the view was last told so,
    /// or was opened. Changes that come at once are told once. Fails when the view has
    /// ended: then the map stays as it is. Safe to cancel.
    ///
    /// ```
    /// # statecast_example_broker::run(async |url| {
    /// # use statecast_client::{Cleanup, Client, TopicConfig};
    /// # let client = Client::connect(&url).await?;
    /// # let config = TopicConfig::new().cleanup(Cleanup::Compact);
    /// # client.admin().create_topic("prices", Some(4), config).await?;
    /// let mut prices = client.state_view("prices").open().await?;
    /// client.state("prices").put("pears", "4").await?;
    /// while prices.get("pears").is_none() {
    ///     prices.changed().await?;
    /// }
    /// # Ok(()) });
    /// ```
    pub async fn changed(&mut self) -> Result<(), Error> {
        loop {
            let count = *self.changes.borrow_and_update();
            if count != self.seen {
                self.seen = count;
                return Ok(());
            }
            if let Some(error) = self.handle.shared.ended() {
                return Err(error);
            }
            self.changes.changed().await.map_err(|_| Error::Closed)?;
        }
    }

    /// The value of a key, or none.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<Arc<Entry>> {
        self.handle.shared.map().get(key.as_ref()).cloned()
    }

    /// All entries of one moment, in the order of the keys. Takes time and memory for
    /// each, as do all that are gathered; [`StateView::get`] doesn't.
    pub fn iter(&self) -> impl Iterator<Item = Arc<Entry>> + use<> {
        let entries: Vec<_> = self.handle.shared.map().all().cloned().collect();
        entries.into_iter()
    }

    /// As [`StateView::iter`], of the keys that begin with a prefix.
    pub fn prefixed(&self, prefix: impl AsRef<[u8]>) -> Vec<Arc<Entry>> {
        let map = self.handle.shared.map();
        map.prefixed(prefix.as_ref()).cloned().collect()
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.handle.shared.map().len()
    }

    /// Whether there are none; so it is until the view is synced.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many changes there were, those of the first snapshot included.
    pub fn change_count(&self) -> u64 {
        *self.handle.shared.changes.borrow()
    }

    /// Whether the view is connected and has all that there was when it was connected.
    /// While it isn't, the map stays as it was or catches up.
    pub fn is_synced(&self) -> bool {
        self.handle.shared.status.borrow().is_synced
    }

    /// Up to where it has everything, by the numbers of the partitions. Empty before it
    /// is synced.
    pub fn next_offsets(&self) -> Vec<u64> {
        self.handle.shared.status.borrow().next.clone()
    }
}
