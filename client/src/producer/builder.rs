//! How a producer is set up.

use std::sync::Arc;
use std::time::Duration;

use statecast_proto::batch::Compression;

use super::Producer;
use super::queue::Pace;
use super::sequences::MAX_UNANSWERED;
use crate::client::Client;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
/// A request holds no more; the broker's limit of 8 MiB leaves room for one
/// batch on top.
const MAX_BATCH_BYTES: usize = 4 * MIB;

#[derive(Debug, Clone)]
pub(super) struct ProducerSettings {
    pub(super) pace: Pace,
    pub(super) buffer_bytes: usize,
    pub(super) compression: Compression,
    pub(super) delivery_timeout: Duration,
    pub(super) naming: Naming,
}

/// How the broker knows the producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Naming {
    /// Not at all: it isn't idempotent.
    Off,
    /// By a number that the broker gives.
    Anonymous,
    /// By a name that others may have had before.
    Named(Arc<str>),
}

impl Naming {
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::Named(name) => Some(name),
            Self::Off | Self::Anonymous => None,
        }
    }
}

/// Makes a [`Producer`].
#[derive(Debug, Clone)]
pub struct ProducerBuilder {
    client: Client,
    settings: ProducerSettings,
}

impl ProducerBuilder {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            settings: ProducerSettings {
                pace: Pace {
                    batch_bytes: 256 * KIB,
                    max_in_flight: 8,
                    linger: Duration::ZERO,
                },
                buffer_bytes: 32 * MIB,
                compression: Compression::None,
                delivery_timeout: Duration::from_secs(120),
                naming: Naming::Anonymous,
            },
        }
    }

    /// How long a record may wait for others to share its batch. Without it,
    /// batches still grow under load: records gather while four requests are on
    /// their way. It pays when fewer, larger batches matter more than latency,
    /// as with compression. At most half of the delivery timeout, so that time is
    /// left to deliver. Default: 0.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.settings.pace.linger = linger;
        self
    }

    /// Size at which a batch, and a request, is sent even while others are on
    /// their way: bytes before compression, 1 KiB to 4 MiB. Default: 256 KiB.
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.settings.pace.batch_bytes = bytes.clamp(KIB, MAX_BATCH_BYTES);
        self
    }

    /// Requests on their way at most: 1 to 32. Default: 8.
    pub fn max_in_flight(mut self, requests: usize) -> Self {
        self.settings.pace.max_in_flight = requests.clamp(1, MAX_UNANSWERED);
        self
    }

    /// Bytes of records that may wait for their acknowledgement;
    /// [`Producer::send`] waits while there are more. Default: 32 MiB.
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.settings.buffer_bytes = bytes.clamp(KIB, u32::MAX as usize);
        self
    }

    /// How batches are compressed. Default: not at all.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.settings.compression = compression;
        self
    }

    /// Whether the broker recognises what is sent again, so that each record is
    /// appended once. Without it, a record whose acknowledgement was lost with the
    /// connection is appended twice. A producer with a name always is. Default:
    /// true.
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        let naming = &mut self.settings.naming;
        *naming = match (std::mem::replace(naming, Naming::Off), idempotent) {
            (Naming::Off, true) => Naming::Anonymous,
            (Naming::Anonymous, false) => Naming::Off,
            (same, _) => same,
        };
        self
    }

    /// The name by which the broker knows the producer: 1 to 200 of
    /// `A–Z a–z 0–9 . _ -`. A producer that begins ends all earlier ones of its name,
    /// wherever they are: none of their records is appended any more, and what they
    /// send fails with [`Reason::ProducerFenced`](crate::Reason::ProducerFenced),
    /// for good. It begins when its first record is sent. Default: none; it ends no
    /// other and is ended by none.
    pub fn producer_name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.settings.naming = Naming::Named(name.into());
        self
    }

    /// How long a record is tried to be delivered before it fails with
    /// [`Error::Timeout`](crate::Error::Timeout); it is noticed up to a second
    /// later. [`Duration::MAX`] is for ever. Default: 2 minutes.
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.settings.delivery_timeout = timeout;
        self
    }

    #[cfg(test)]
    pub(super) fn settings(&self) -> ProducerSettings {
        self.settings.clone()
    }

    /// Starts the producer's task; panics outside of a Tokio runtime. It connects
    /// when the first record is sent.
    pub fn build(mut self) -> Producer {
        let pace = &mut self.settings.pace;
        pace.linger = pace.linger.min(self.settings.delivery_timeout / 2);
        Producer::start(self.client, self.settings)
    }
}
