//! How a consumer is set up.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use statecast_proto::v1;
use statecast_proto::v1::group_start::Position;

use super::credit::Cost;
use super::shared::Shared;
use super::{Consumer, session};
use crate::client::Client;
use crate::error::Error;

/// How often what was processed is committed, at the least: more often would
/// be a commit for each record.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

/// Where a group begins in a partition for which it has committed nothing; one that
/// was created after the group began it reads from the beginning, whatever this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum GroupStart {
    /// The oldest record that is kept.
    #[default]
    Earliest,
    /// Only what is appended from now on.
    Latest,
    /// The first record at or after this time: milliseconds since the Unix
    /// epoch.
    Time(i64),
    /// Nowhere: it can't be opened, and fails with
    /// [`Reason::NoCommittedOffset`](crate::Reason::NoCommittedOffset).
    Fail,
}

impl GroupStart {
    fn into_wire(self) -> v1::GroupStart {
        let position = match self {
            Self::Earliest => Position::Earliest(v1::Earliest {}),
            Self::Latest => Position::Latest(v1::Latest {}),
            Self::Time(ms) => Position::TimestampMs(ms),
            Self::Fail => Position::Fail(v1::GroupStartFail {}),
        };
        v1::GroupStart {
            position: Some(position),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct ConsumerSettings {
    pub(super) group: String,
    pub(super) topics: Vec<String>,
    pub(super) member_name: Option<String>,
    pub(super) client_name: String,
    pub(super) start: GroupStart,
    pub(super) session_timeout: Option<Duration>,
    pub(super) max_processing_time: Option<Duration>,
    pub(super) revoke_timeout: Option<Duration>,
    pub(super) capacity: Cost,
    pub(super) max_bytes: Option<u32>,
    pub(super) auto_commit: bool,
    pub(super) commit_interval: Duration,
    pub(super) reconnect_for: Option<Duration>,
}

impl ConsumerSettings {
    /// What the member joins with.
    pub(super) fn join(&self, capacity: v1::Credit) -> v1::Join {
        v1::Join {
            group: self.group.clone(),
            topics: self.topics.clone(),
            member_name: self.member_name.clone(),
            capacity: Some(capacity),
            start: Some(self.start.into_wire()),
            session_timeout_ms: self.session_timeout.map(millis),
            max_processing_time_ms: self.max_processing_time.map(millis),
            max_bytes: self.max_bytes,
            revoke_timeout_ms: self.revoke_timeout.map(millis),
            client: self.client_name.clone(),
        }
    }
}

/// What is out of bounds, the broker tells.
fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// Opens a [`Consumer`]; made by [`Client::consumer`].
#[derive(Debug, Clone)]
pub struct ConsumerBuilder {
    client: Client,
    settings: ConsumerSettings,
}

impl ConsumerBuilder {
    pub(crate) fn new(client: Client, group: String) -> Self {
        Self {
            client,
            settings: ConsumerSettings {
                group,
                topics: Vec::new(),
                member_name: None,
                client_name: concat!("statecast-client ", env!("CARGO_PKG_VERSION")).to_owned(),
                start: GroupStart::Earliest,
                session_timeout: None,
                max_processing_time: None,
                revoke_timeout: None,
                capacity: Cost {
                    bytes: 8 << 20,
                    records: 100_000,
                },
                max_bytes: None,
                auto_commit: true,
                commit_interval: Duration::from_secs(1),
                reconnect_for: None,
            },
        }
    }

    /// Reads these topics, besides those named before: 1 to 100 names, or
    /// patterns in which `*` stands for any characters, as `audit.*`. Topics that
    /// are made later are read once they fit.
    pub fn topics<T: Into<String>>(mut self, topics: impl IntoIterator<Item = T>) -> Self {
        self.settings
            .topics
            .extend(topics.into_iter().map(Into::into));
        self
    }

    /// Reads this topic, or those that fit this pattern, besides those named
    /// before.
    pub fn topic(self, topic: impl Into<String>) -> Self {
        self.topics([topic])
    }

    /// Names the member, so that it gets the partitions that it had when it
    /// comes again within the session timeout, after a restart of its process.
    /// One that joins under the name of a member that is there replaces it.
    /// Default: no name.
    pub fn member_name(mut self, name: impl Into<String>) -> Self {
        self.settings.member_name = Some(name.into());
        self
    }

    /// Shown to those who look at the group; up to 200 bytes. Default: this
    /// library and its version.
    pub fn client_name(mut self, name: impl Into<String>) -> Self {
        self.settings.client_name = name.into();
        self
    }

    /// Where partitions are begun for which the group has committed nothing.
    /// Default: [`GroupStart::Earliest`].
    pub fn start(mut self, start: GroupStart) -> Self {
        self.settings.start = start;
        self
    }

    /// After how long without a sign of life the member is gone: 1 s to 10 min,
    /// in whole milliseconds. A slow handler is no lack of life: the consumer's
    /// task gives the signs. Default: the broker's, 10 s.
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.settings.session_timeout = Some(timeout);
        self
    }

    /// How long records may be held before any of them is committed or more are
    /// asked for; then the partitions go to others until that happens. Who waits for
    /// more holds nothing, whatever is committed. 1 s to 24 h, in whole
    /// milliseconds. Default: the broker's, 5 min.
    pub fn max_processing_time(mut self, time: Duration) -> Self {
        self.settings.max_processing_time = Some(time);
        self
    }

    /// How long what was handed out of a partition may still be finished and
    /// committed when others are to have it: up to 5 min, in whole milliseconds.
    /// Default: the broker's, 10 s.
    pub fn revoke_timeout(mut self, timeout: Duration) -> Self {
        self.settings.revoke_timeout = Some(timeout);
        self
    }

    /// What is fetched ahead of what is finished, at the most: bytes of batches
    /// as they are stored, and records; at least one of each. A single batch that is larger is
    /// fetched all the same. Default: 8 MiB and 100,000 records.
    pub fn capacity(mut self, bytes: u64, records: u64) -> Self {
        self.settings.capacity = Cost {
            bytes: bytes.max(1),
            records: records.max(1),
        };
        self
    }

    /// The most bytes of batches in one response, 1 KiB to 8 MiB. Default: what
    /// the broker finds best.
    pub fn max_bytes(mut self, bytes: u32) -> Self {
        self.settings.max_bytes = Some(bytes);
        self
    }

    /// Whether a record counts as processed once the next one is asked for.
    /// Without it only what is [marked](Consumer::mark_processed) or
    /// [committed](Consumer::commit) does; the other records come again when their
    /// partition goes on, here or elsewhere. So a partition that is revoked waits for
    /// them until its deadline, unless [`Consumer::give_back`] says that it needn't.
    /// Default: true.
    pub fn auto_commit(mut self, auto_commit: bool) -> Self {
        self.settings.auto_commit = auto_commit;
        self
    }

    /// How often what was processed is committed. What is given back, and what
    /// the consumer has when it is closed, is committed at once. Default: 1 s.
    pub fn commit_interval(mut self, interval: Duration) -> Self {
        self.settings.commit_interval = interval.max(SHORTEST_INTERVAL);
        self
    }

    /// How long to try to reach the broker again after the connection was lost,
    /// before the consumer yields the error and ends. Default: for ever.
    pub fn reconnect_for(mut self, duration: Duration) -> Self {
        self.settings.reconnect_for = Some(duration);
        self
    }

    /// Joins the group: fails when the broker refuses, or can't be reached
    /// within the client's `retry_for`. Panics outside of a Tokio runtime,
    /// since it starts a task.
    pub async fn open(self) -> Result<Consumer, Error> {
        let shared = Arc::new(Shared::new(self.client, self.settings));
        tokio::spawn(session::run(session::Task(Arc::clone(&shared))));
        let consumer = Consumer::new(shared);
        poll_fn(|cx| consumer.shared.poll_joined(cx)).await?;
        Ok(consumer)
    }
}
