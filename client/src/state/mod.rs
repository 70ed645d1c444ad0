//! What is true now in a compacted topic: a map from keys to values.

mod changes;
mod entry;
mod get;
mod request_id;
mod scan;
mod update;
mod write;

use std::fmt;
use std::sync::Arc;

use statecast_proto::v1::state_client::StateClient;
use tonic::transport::Channel;

pub use self::changes::{Changes, KeyEvent};
pub use self::entry::{AsOf, Entry, LeaseId, Version, Written};
pub use self::get::Get;
pub use self::scan::{Entries, Scan};
pub use self::update::Update;
pub use self::write::{Delete, Expect, Put, PutAll, Write};

pub(crate) use self::entry::headers;

use crate::client::Client;
use crate::connection::MAX_MESSAGE;
use crate::error::Error;

/// A compacted topic as a map from keys to values, from [`Client::state`]. Cheap
/// to clone.
///
/// Each operation is set up and then awaited: what isn't awaited isn't done. All of
/// them are retried while the broker can't be reached, for as long as the client's
/// `retry_for` says. A write that is retried is carried out once all the same: it
/// has a name of its own, by which the broker knows it again.
///
/// After [`Error::Connection`] or [`Error::Timeout`] a write may have been carried
/// out, once, or not.
///
/// ```
/// # statecast_example_broker::run(async |url| {
/// use statecast_client::{Cleanup, Client, TopicConfig};
///
/// let client = Client::connect(&url).await?;
/// let config = TopicConfig::new().cleanup(Cleanup::Compact);
/// client.admin().create_topic("stock", Some(4), config).await?;
///
/// let stock = client.state("stock");
/// let written = stock.put("apples", "7").await?;
/// let apples = stock.get("apples").await?.expect("it was put there");
/// assert_eq!((&apples.value[..], apples.version), (&b"7"[..], written.version));
///
/// // Only if nobody was faster.
/// stock.put("apples", "6").expect_version(apples.version).await?;
/// let late = stock.put("apples", "5").expect_version(apples.version).await;
/// assert!(late.is_err());
/// assert_eq!(stock.scan("").await?.len(), 1);
/// # Ok(()) });
/// ```
#[derive(Clone)]
pub struct State {
    client: Client,
    topic: Arc<str>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = &mut f.debug_struct("State");
        state.field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl State {
    pub(crate) fn new(client: Client, topic: Arc<str>) -> Self {
        Self { client, topic }
    }

    /// Name of the topic.
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// The value of a key, or none. It reflects everything that was acknowledged
    /// before.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Get {
        Get::new(self.clone(), key.as_ref())
    }

    /// The keys that begin with a prefix and their values, in the order of the keys.
    pub fn scan(&self, prefix: impl AsRef<[u8]>) -> Scan {
        Scan::new(self.clone(), prefix.as_ref())
    }

    /// Gives a key a value.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Put {
        Put::new(self.clone(), Write::put(key, value))
    }

    /// Removes a key, by a tombstone. One that isn't there is removed all the same,
    /// unless a version is expected.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Delete {
        Delete::new(self.clone(), key.as_ref())
    }

    /// Changes up to 1,000 different keys: all of them become durable, or none. Keys
    /// of different partitions may be seen to change one after the other.
    pub fn put_all(&self, writes: impl IntoIterator<Item = Write>) -> PutAll {
        PutAll::new(self.clone(), writes.into_iter().collect())
    }

    /// Changes a key according to what it is, however many others do so at the same
    /// time: `change` is given the entry, and says what becomes of it. When somebody
    /// was faster, it is asked again with what is then.
    ///
    /// Returns what was written; `None` when `change` said [`Update::keep`].
    ///
    /// ```
    /// # statecast_example_broker::run(async |url| {
    /// # use statecast_client::{Cleanup, Client, TopicConfig};
    /// # let client = Client::connect(&url).await?;
    /// # let config = TopicConfig::new().cleanup(Cleanup::Compact);
    /// # client.admin().create_topic("visits", Some(4), config).await?;
    /// use statecast_client::Update;
    ///
    /// let visits = client.state("visits");
    /// for _ in 0..3 {
    ///     let count = |visits: &[u8]| str::from_utf8(visits).ok()?.parse::<u64>().ok();
    ///     let one_more = visits.update("home", |entry| {
    ///         let before = entry.and_then(|entry| count(&entry.value)).unwrap_or(0);
    ///         Update::put((before + 1).to_string())
    ///     });
    ///     one_more.await?;
    /// }
    /// assert_eq!(visits.get("home").await?.unwrap().value, "3");
    /// # Ok(()) });
    /// ```
    pub async fn update(
        &self,
        key: impl AsRef<[u8]>,
        change: impl FnMut(Option<&Entry>) -> Update,
    ) -> Result<Option<Written>, Error> {
        update::run(self, key.as_ref(), change).await
    }
}

/// The service, over a connection.
pub(crate) fn service(channel: Channel) -> StateClient<Channel> {
    StateClient::new(channel).max_decoding_message_size(MAX_MESSAGE)
}
