//! How a reader is set up.

use std::future::poll_fn;
use std::time::Duration;

use super::start::Start;
use super::{Reader, ReaderSettings};
use crate::client::Client;
use crate::error::Error;

/// Opens a [`Reader`]; made by [`Client::reader`].
#[derive(Debug, Clone)]
pub struct ReaderBuilder {
    client: Client,
    settings: ReaderSettings,
}

impl ReaderBuilder {
    pub(crate) fn new(client: Client, topic: String) -> Self {
        Self {
            client,
            settings: ReaderSettings {
                topic,
                partitions: Vec::new(),
                start: Start::Earliest,
                until_end: false,
                max_bytes: None,
                reconnect_for: None,
            },
        }
    }

    /// Where to start in partitions that have no start of their own. Default:
    /// [`Start::Earliest`].
    pub fn start(mut self, start: Start) -> Self {
        self.settings.start = start;
        self
    }

    /// Reads this partition, and others only when they are named too. Default:
    /// all of them.
    pub fn partition(mut self, partition: u32) -> Self {
        self.settings.partitions.push((partition, None));
        self
    }

    /// Reads this partition from a start of its own.
    pub fn partition_from(mut self, partition: u32, start: Start) -> Self {
        self.settings.partitions.push((partition, Some(start)));
        self
    }

    /// Ends after the records that are readable when the reader opens. Default:
    /// waits for new ones.
    pub fn until_end(mut self) -> Self {
        self.settings.until_end = true;
        self
    }

    /// The most bytes of batches in one response, 1 KiB to 8 MiB. Default: what
    /// the broker finds best.
    pub fn max_bytes(mut self, bytes: u32) -> Self {
        self.settings.max_bytes = Some(bytes);
        self
    }

    /// How long to try to reach the broker again after the connection was lost,
    /// before the reader yields the error and ends. Default: for ever.
    pub fn reconnect_for(mut self, duration: Duration) -> Self {
        self.settings.reconnect_for = Some(duration);
        self
    }

    /// Opens the reader: fails when the topic, a partition or an offset doesn't
    /// exist, or the broker can't be reached within the client's `retry_for`.
    pub async fn open(self) -> Result<Reader, Error> {
        let mut reader = Reader::new(self.client, self.settings);
        poll_fn(|cx| reader.poll_opened(cx)).await?;
        Ok(reader)
    }
}
