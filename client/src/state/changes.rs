//! The changes of keys from some offsets on, for who keeps what was before.

use std::collections::VecDeque;

use bytes::Bytes;
use statecast_proto::v1;
use statecast_proto::v1::watch_request::Start;
use statecast_proto::v1::watch_response::Event;
use tonic::Streaming;

use super::entry::Entry;
use super::{State, service};
use crate::error::Error;
use crate::state_view::{Tombstone, positions};

/// What has happened, as [`Changes`] tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyEvent {
    /// The key has this value now.
    Put(Entry),
    /// The key is gone.
    Removed {
        /// Number of the partition, from 0.
        partition: u32,
        /// The key.
        key: Bytes,
        /// What removed it.
        tombstone: Tombstone,
    },
    /// Retention removed the keys of a partition whose latest record lies below an offset.
    RemovedBelow {
        /// Number of the partition, from 0.
        partition: u32,
        /// Keys that were set below are gone.
        offset: u64,
    },
    /// Everything below these offsets was told, by the numbers of the partitions: what
    /// the receiver has is exactly what those records make. A place to go on from.
    Synced(Vec<u64>),
    /// The broker can't tell all changes any more: what comes until [`KeyEvent::Synced`]
    /// is all that there is, and takes the place of what the receiver has.
    Snapshot,
}

/// The changes of a topic's keys from some offsets on; made by [`State::changes`].
#[derive(Debug)]
pub struct Changes {
    responses: Streaming<v1::WatchResponse>,
    told: VecDeque<KeyEvent>,
}

impl State {
    /// The changes from these offsets on, one for each partition, for who has kept what
    /// was before: as [`KeyEvent::Synced`] or [`StateView::next_offsets`] names them, or
    /// one past the last change of a partition that was told.
    ///
    /// Fails with the reason `RESUME_POINT_COMPACTED` when the log doesn't hold all of
    /// them any more. A map that is kept current by itself is a [`StateView`].
    ///
    /// [`StateView`]: crate::StateView
    /// [`StateView::next_offsets`]: crate::StateView::next_offsets
    ///
    /// ```
    /// # statecast_example_broker::run(async |url| {
    /// # use statecast_client::{Cleanup, Client, TopicConfig};
    /// # let client = Client::connect(&url).await?;
    /// # let config = TopicConfig::new().cleanup(Cleanup::Compact);
    /// # client.admin().create_topic("prices", Some(1), config).await?;
    /// use statecast_client::KeyEvent;
    ///
    /// let prices = client.state("prices");
    /// prices.put("apples", "3").await?;
    /// let next = prices.put("pears", "4").await?.offset;
    /// let mut changes = prices.changes("", &[next]).await?;
    /// assert!(matches!(changes.next().await?, KeyEvent::Put(entry) if entry.key == "pears"));
    /// assert_eq!(changes.next().await?, KeyEvent::Synced(vec![next + 1]));
    /// # Ok(()) });
    /// ```
    pub async fn changes(
        &self,
        prefix: impl AsRef<[u8]>,
        next_offsets: &[u64],
    ) -> Result<Changes, Error> {
        let next_offsets = (0..).zip(next_offsets);
        let positions =
            next_offsets.map(|(partition, &offset)| v1::RecordPosition { partition, offset });
        let request = v1::WatchRequest {
            topic: self.topic.as_ref().to_owned(),
            prefix: Bytes::copy_from_slice(prefix.as_ref()),
            start: Some(Start::From(v1::WatchFrom {
                next_offsets: positions.collect(),
            })),
            ..v1::WatchRequest::default()
        };
        let call = |channel, request| async move { service(channel).watch(request).await };
        let responses = self.client.repeatedly(request, call).await?;
        Ok(Changes {
            responses,
            told: VecDeque::new(),
        })
    }
}

impl Changes {
    /// What has happened next. Fails when the connection is lost; then go on with another
    /// call. Safe to cancel.
    pub async fn next(&mut self) -> Result<KeyEvent, Error> {
        loop {
            if let Some(event) = self.told.pop_front() {
                return Ok(event);
            }
            let response = self.responses.message().await;
            let response = response.map_err(|status| Error::from_status(&status))?;
            let response =
                response.ok_or_else(|| Error::Connection("the broker ended the watch".into()))?;
            // Else something newer than this library.
            if let Some(event) = response.event {
                self.hear(event)?;
            }
        }
    }

    /// Whether something has come that [`Changes::next`] returns at once.
    #[must_use]
    pub fn has_more(&self) -> bool {
        !self.told.is_empty()
    }

    fn hear(&mut self, event: Event) -> Result<(), Error> {
        let told = &mut self.told;
        match event {
            Event::Opened(opened) => told.extend(opened.snapshot.then_some(KeyEvent::Snapshot)),
            Event::Entries(entries) => {
                let entries = entries.entries.into_iter().map(Entry::from_wire);
                told.extend(entries.map(KeyEvent::Put));
            }
            Event::Changes(changes) => {
                for change in changes.changes {
                    told.push_back(key_event(change)?);
                }
            }
            Event::Synced(synced) | Event::Progress(synced) => {
                told.push_back(KeyEvent::Synced(positions(synced)?));
            }
            Event::Truncated(truncated) => told.push_back(KeyEvent::RemovedBelow {
                partition: truncated.partition,
                offset: truncated.log_start_offset,
            }),
        }
        Ok(())
    }
}

fn key_event(change: v1::Change) -> Result<KeyEvent, Error> {
    match change.change {
        Some(v1::change::Change::Put(entry)) => Ok(KeyEvent::Put(Entry::from_wire(entry))),
        Some(v1::change::Change::Removed(removed)) => Ok(KeyEvent::Removed {
            partition: removed.partition,
            key: removed.key.clone(),
            tombstone: Tombstone::from_wire(removed),
        }),
        None => Err(Error::protocol("a change that this library doesn't know")),
    }
}
