//! How a view is set up.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use statecast_proto::v1;
use statecast_proto::v1::watch_request::Start;

use super::StateView;
use super::change::Change;
use super::session::{self, Task};
use super::shared::{Handle, Shared};
use crate::client::Client;
use crate::error::Error;

/// What a view watches.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    pub(super) topic: Arc<str>,
    prefix: Bytes,
    keys: Vec<Bytes>,
    pub(super) reconnect_for: Option<Duration>,
}

impl Watched {
    pub(super) fn request(&self, start: Start) -> v1::WatchRequest {
        v1::WatchRequest {
            topic: self.topic.as_ref().to_owned(),
            prefix: self.prefix.clone(),
            keys: self.keys.clone(),
            start: Some(start),
        }
    }
}

type OnChange = Box<dyn FnMut(&Change) + Send>;
type OnSynced = Box<dyn FnMut(&[u64]) + Send>;

/// Whom the task tells.
#[derive(Default)]
pub(super) struct Callbacks {
    on_change: Vec<OnChange>,
    on_synced: Vec<OnSynced>,
}

impl Callbacks {
    pub(super) fn tell_change(&mut self, change: &Change) {
        for callback in &mut self.on_change {
            callback(change);
        }
    }

    pub(super) fn tell_synced(&mut self, next_offsets: &[u64]) {
        for callback in &mut self.on_synced {
            callback(next_offsets);
        }
    }
}

/// Opens a [`StateView`]; made by [`Client::state_view`].
#[must_use = "nothing is watched until it is opened"]
pub struct StateViewBuilder {
    client: Client,
    watched: Watched,
    callbacks: Callbacks,
}

impl fmt::Debug for StateViewBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let builder = &mut f.debug_struct("StateViewBuilder");
        builder
            .field("watched", &self.watched)
            .finish_non_exhaustive()
    }
}

impl StateViewBuilder {
    pub(crate) fn new(client: Client, topic: Arc<str>) -> Self {
        Self {
            client,
            watched: Watched {
                topic,
                prefix: Bytes::new(),
                keys: Vec::new(),
                reconnect_for: None,
            },
            callbacks: Callbacks::default(),
        }
    }

    /// Only keys that begin with this. Default: all.
    pub fn prefix(mut self, prefix: impl AsRef<[u8]>) -> Self {
        self.watched.prefix = Bytes::copy_from_slice(prefix.as_ref());
        self
    }

    /// Only these keys, up to 1,000; not with a prefix. Default: all.
    pub fn keys<K: AsRef<[u8]>>(mut self, keys: impl IntoIterator<Item = K>) -> Self {
        let keys = keys.into_iter();
        let keys = keys.map(|key| Bytes::copy_from_slice(key.as_ref()));
        self.watched.keys.extend(keys);
        self
    }

    /// Calls this with each change, after the view has it: those of a key in their
    /// order, and none twice. First come the keys that are there when the view is first
    /// synced, in their order. While it runs, the view stands still.
    ///
    /// A view that had no connection for so long that the broker can't tell the changes
    /// any more tells how what is now differs from what was before.
    pub fn on_change(mut self, callback: impl FnMut(&Change) + Send + 'static) -> Self {
        self.callbacks.on_change.push(Box::new(callback));
        self
    }

    /// Calls this whenever the view has come to have all that there was: at the
    /// beginning, and after each lost connection. It is given the offsets up to which
    /// that is, by the numbers of the partitions. While it runs, the view stands still.
    pub fn on_synced(mut self, callback: impl FnMut(&[u64]) + Send + 'static) -> Self {
        self.callbacks.on_synced.push(Box::new(callback));
        self
    }

    /// How long to try to reach the broker again after the connection was lost, before
    /// the view ends. Default: for ever.
    pub fn reconnect_for(mut self, duration: Duration) -> Self {
        self.watched.reconnect_for = Some(duration);
        self
    }

    /// Opens the view, which is empty until it is synced: fails when the topic doesn't
    /// exist or isn't compacted, or the broker can't be reached within the client's
    /// `retry_for`. Panics outside of a Tokio runtime, since it starts a task.
    pub async fn open(self) -> Result<StateView, Error> {
        let shared = Arc::new(Shared::new());
        let topic = Arc::clone(&self.watched.topic);
        let task = tokio::spawn(session::run(Task {
            channel: self.client.next_fetch_channel(),
            client: self.client,
            watched: self.watched,
            callbacks: self.callbacks,
            shared: Arc::clone(&shared),
        }));
        // From here on: also when this is given up while it waits.
        let handle = Handle {
            task: task.abort_handle(),
            shared,
        };
        handle.shared.until(|status| status.was_opened).await?;
        Ok(StateView::new(topic, handle))
    }
}
