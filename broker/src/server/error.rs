//! What callers are told when something is refused: the one place where the
//! broker's errors become gRPC's. The reasons themselves, with their codes, are
//! a table of the protocol crate.

use std::collections::HashMap;
use std::fmt::Display;

use statecast_proto::reason::{ERROR_DOMAIN, Reason};
use statecast_proto::{batch, v1};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::broker::{
    AdminError, ClaimError, GrantError, LookupError, ProduceError, RegisterError, StateError,
    WriteError,
};
use crate::limits;
use crate::metadata::CatalogError;
use crate::model::{ProducerNameError, TopicConfigError, TopicNameError};
use crate::partition::{AppendError, ReadError, SequenceError};
use crate::state::LeaseError;
use crate::views::ViewError;

/// Why something is refused, and what about.
#[derive(Debug)]
pub(super) struct Refusal {
    reason: Reason,
    message: String,
    metadata: HashMap<String, String>,
}

impl Refusal {
    pub(super) fn new(reason: Reason, message: impl Display) -> Refusal {
        Refusal {
            reason,
            message: shortened(&message.to_string()),
            metadata: HashMap::new(),
        }
    }

    /// The caller's request makes no sense.
    pub(super) fn invalid(message: impl Display) -> Refusal {
        Refusal::new(Reason::InvalidRequest, message)
    }

    /// The broker is stopping; another try may reach the next one.
    pub(super) fn stopping() -> Refusal {
        Refusal::new(Reason::Stopping, "the broker is stopping")
    }

    /// Something of ours went wrong.
    pub(super) fn fault(what: &str) -> Refusal {
        Refusal::new(Reason::Internal, what)
    }

    /// The topic was there when the call began. Its partitions have ids of their
    /// own, which nobody outside knows.
    fn deleted() -> Refusal {
        Refusal::new(Reason::TopicNotFound, "the topic was deleted")
    }

    /// Names something that it is about.
    pub(super) fn with(mut self, key: &str, value: impl Display) -> Refusal {
        let value = shortened(&value.to_string());
        self.metadata.insert(key.to_owned(), value);
        self
    }

    /// A size or count, and the bound that it breaks.
    pub(super) fn beyond(self, size: impl Display, limit: impl Display) -> Refusal {
        self.with("size", size).with("limit", limit)
    }

    /// Names the partition that it is about.
    pub(super) fn about(self, topic: &str, partition: u32) -> Refusal {
        self.with("topic", topic).with("partition", partition)
    }

    /// As the outcome of one batch.
    pub(super) fn into_batch_error(self) -> v1::BatchError {
        let retry_after = self.reason.retryable().then_some(limits::RETRY_AFTER);
        v1::BatchError {
            code: self.reason.code(),
            reason: self.reason.as_str().to_owned(),
            message: self.message,
            metadata: self.metadata,
            retry_after_ms: retry_after.and_then(|after| u32::try_from(after.as_millis()).ok()),
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        let reason = refusal.reason;
        let mut details =
            ErrorDetails::with_error_info(reason.as_str(), ERROR_DOMAIN, refusal.metadata);
        if reason.retryable() {
            details.set_retry_info(Some(limits::RETRY_AFTER));
        }
        Status::with_error_details(Code::from_i32(reason.code()), refusal.message, details)
    }
}

/// So much of what a caller sent is told back: characters.
const ECHOED: usize = 256;

fn shortened(text: &str) -> String {
    match text.char_indices().nth(ECHOED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl From<LookupError> for Refusal {
    fn from(error: LookupError) -> Refusal {
        match &error {
            LookupError::TopicNotFound { topic } => {
                Refusal::new(Reason::TopicNotFound, &error).with("topic", topic)
            }
            LookupError::PartitionNotFound {
                topic,
                partition,
                partitions,
            } => Refusal::new(Reason::PartitionNotFound, &error)
                .about(topic.as_str(), *partition)
                .with("partitions", partitions),
        }
    }
}

impl From<ProduceError> for Refusal {
    fn from(error: ProduceError) -> Refusal {
        match error {
            ProduceError::Lookup(error) => error.into(),
            ProduceError::Append(error) => error.into(),
            ProduceError::Batch(error) => error.into(),
            ProduceError::BatchTooLarge { bytes, limit, .. } => {
                Refusal::new(Reason::BatchTooLarge, &error).beyond(bytes, limit)
            }
            ProduceError::ChecksumMismatch { expected, actual } => {
                Refusal::new(Reason::ChecksumMismatch, &error)
                    .with("expected", expected)
                    .with("actual", actual)
            }
            ProduceError::CompressedWithoutPartition
            | ProduceError::Claim(ClaimError::OutOfBounds) => Refusal::invalid(&error),
            ProduceError::Claim(ClaimError::Unknown) => {
                Refusal::new(Reason::ProducerExpired, &error)
            }
        }
    }
}

impl From<batch::BatchError> for Refusal {
    fn from(error: batch::BatchError) -> Refusal {
        let mut refusal = Refusal::new(error.reason(), &error);
        for (key, value) in [("size", error.size()), ("limit", error.limit())] {
            if let Some(value) = value {
                refusal = refusal.with(key, value);
            }
        }
        if let Some(record) = error.record() {
            refusal = refusal.with("record", record);
        }
        if let batch::BatchError::HeaderReserved { name, .. } = error {
            refusal = refusal.with("header", name);
        }
        refusal
    }
}

impl From<AppendError> for Refusal {
    fn from(error: AppendError) -> Refusal {
        let reason = match &error {
            AppendError::DiskFull => Reason::DiskFull,
            AppendError::ReadOnly(_) => Reason::LogReadOnly,
            // Whoever deletes a topic while others write to it.
            AppendError::Deleted(_) => return Refusal::deleted(),
            AppendError::Sequence(error) => return Refusal::from(*error),
            // Whoever makes guards waits and tries again; this is for who gave up.
            AppendError::Conflict(_) => Reason::ViewBehind,
            AppendError::UnitTooLarge => Reason::BatchTooLarge,
            AppendError::Stopping => Reason::Stopping,
        };
        Refusal::new(reason, &error)
    }
}

impl From<SequenceError> for Refusal {
    fn from(error: SequenceError) -> Refusal {
        match error {
            SequenceError::Gap { expected } => {
                Refusal::new(Reason::SequenceGap, error).with("expected_sequence", expected)
            }
            SequenceError::TooOld => Refusal::new(Reason::SequenceTooOld, error),
            SequenceError::Fenced { epoch } => {
                Refusal::new(Reason::ProducerFenced, error).with("epoch", epoch)
            }
            SequenceError::Expired => Refusal::new(Reason::ProducerExpired, error),
            SequenceError::OtherRequest { .. } | SequenceError::SplitUnit => {
                Refusal::invalid(error)
            }
        }
    }
}

impl From<RegisterError> for Refusal {
    fn from(error: RegisterError) -> Refusal {
        match error {
            RegisterError::Append(error) => error.into(),
            RegisterError::Fenced(_) => Refusal::new(Reason::ProducerFenced, &error),
        }
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Refusal {
        match &error {
            ReadError::BeyondEnd {
                offset,
                high_watermark,
            } => Refusal::new(Reason::OffsetOutOfRange, &error)
                .with("offset", offset)
                .with("high_watermark", high_watermark),
            ReadError::Deleted(_) => Refusal::deleted(),
            ReadError::Io(_) => Refusal::new(Reason::ReadFailed, &error),
        }
    }
}

impl From<StateError> for Refusal {
    fn from(error: StateError) -> Refusal {
        match &error {
            StateError::Lookup(_) => match error {
                StateError::Lookup(error) => error.into(),
                StateError::NotCompacted { .. } => unreachable!("it is a lookup's"),
            },
            StateError::NotCompacted { topic } => {
                Refusal::new(Reason::TopicNotCompacted, &error).with("topic", topic)
            }
        }
    }
}

impl From<LeaseError> for Refusal {
    fn from(error: LeaseError) -> Refusal {
        let (reason, id) = match error {
            LeaseError::NotFound(id) => (Reason::LeaseNotFound, id),
            LeaseError::Expired(id) => (Reason::LeaseExpired, id),
        };
        Refusal::new(reason, error).with("lease_id", id)
    }
}

impl From<GrantError> for Refusal {
    fn from(error: GrantError) -> Refusal {
        match error {
            GrantError::TooMany { limit } => {
                Refusal::new(Reason::TooManyLeases, &error).with("limit", limit)
            }
            GrantError::Append(error) => error.into(),
        }
    }
}

impl From<WriteError> for Refusal {
    fn from(error: WriteError) -> Refusal {
        match error {
            WriteError::Mismatch { current, .. } => {
                let refusal = Refusal::new(Reason::VersionMismatch, &error);
                match current {
                    Some(current) => refusal.with("current_version", current),
                    None => refusal,
                }
            }
            WriteError::UnknownVersion { end, .. } => {
                Refusal::new(Reason::VersionUnknown, &error).with("high_watermark", end)
            }
            WriteError::View(error) => error.into(),
            WriteError::Produce(error) => error.into(),
        }
    }
}

impl From<ViewError> for Refusal {
    fn from(error: ViewError) -> Refusal {
        match &error {
            ViewError::Behind {
                partition, applied, ..
            } => Refusal::new(Reason::ViewBehind, &error)
                .with("partition", partition)
                .with("next_offset", applied),
            ViewError::TooLarge { limit } => {
                Refusal::new(Reason::ViewTooLarge, &error).with("limit", limit)
            }
            ViewError::Deleted => Refusal::deleted(),
            ViewError::Damaged { partition, offset } => Refusal::new(Reason::ReadFailed, &error)
                .with("partition", partition)
                .with("offset", offset),
            ViewError::StateCompacted {
                partition,
                asked,
                earliest,
            } => Refusal::new(Reason::StateCompacted, &error)
                .with("partition", partition)
                .with("offset", asked)
                .with("earliest_offset", earliest),
            ViewError::ResumePointCompacted {
                partition,
                asked,
                earliest,
            } => Refusal::new(Reason::ResumePointCompacted, &error)
                .with("partition", partition)
                .with("offset", asked)
                .with("earliest_offset", earliest),
            ViewError::ResumePointBeyondEnd {
                partition,
                asked,
                end,
            } => Refusal::new(Reason::OffsetOutOfRange, &error)
                .with("partition", partition)
                .with("offset", asked)
                .with("high_watermark", end),
            ViewError::Read(_) => match error {
                ViewError::Read(error) => error.into(),
                _ => unreachable!("it is a read's"),
            },
        }
    }
}

impl From<AdminError> for Refusal {
    fn from(error: AdminError) -> Refusal {
        match error {
            AdminError::Catalog(error) => error.into(),
            AdminError::Config(error) => error.into(),
            AdminError::Append(error) => error.into(),
        }
    }
}

impl From<CatalogError> for Refusal {
    fn from(error: CatalogError) -> Refusal {
        match &error {
            CatalogError::Exists(topic) => {
                Refusal::new(Reason::TopicExists, &error).with("topic", topic)
            }
            CatalogError::NotFound(topic) => {
                Refusal::new(Reason::TopicNotFound, &error).with("topic", topic)
            }
            CatalogError::PartitionCount { asked } => {
                Refusal::new(Reason::InvalidPartitionCount, &error)
                    .beyond(asked, limits::PARTITIONS_PER_TOPIC.end())
            }
            CatalogError::Fewer { now, asked } | CatalogError::Compacted { now, asked } => {
                Refusal::new(Reason::InvalidPartitionCount, &error)
                    .with("partitions", now)
                    .with("size", asked)
            }
            CatalogError::BrokerFull { asked, .. } => {
                Refusal::new(Reason::TooManyPartitions, &error).beyond(asked, limits::PARTITIONS)
            }
        }
    }
}

impl From<TopicConfigError> for Refusal {
    fn from(error: TopicConfigError) -> Refusal {
        Refusal::new(Reason::InvalidConfig, &error)
            .with("setting", error.setting())
            .with("allowed", error.allowed())
    }
}

impl From<ProducerNameError> for Refusal {
    fn from(error: ProducerNameError) -> Refusal {
        Refusal::invalid(error)
    }
}

impl From<TopicNameError> for Refusal {
    fn from(error: TopicNameError) -> Refusal {
        Refusal::new(Reason::InvalidTopicName, error)
    }
}
