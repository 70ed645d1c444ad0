//! The one error of this library, and how the broker's answers map to it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use statecast_proto::batch::BatchError;
use statecast_proto::reason::{ERROR_DOMAIN, Reason};
use statecast_proto::v1;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::state::Version;

/// How prost begins when a message can't be decoded; tonic passes on nothing but
/// the text.
const UNDECODABLE: &str = "failed to decode Protobuf message";

/// Why an operation failed. Cheap to clone: one failed batch is the error of
/// each of its records.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The broker refused, or would have: what breaks its limits, as a record
    /// that is too large, isn't even sent. [`Refusal::reason`] says why.
    #[error("{0}")]
    Refused(Arc<Refusal>),
    /// A key isn't in the version that was expected: somebody else was faster.
    /// Nothing was changed.
    #[error("{refusal}")]
    VersionMismatch {
        /// The version that it is in; `None` when there is no such key.
        current: Option<Version>,
        /// What the broker said.
        refusal: Arc<Refusal>,
    },
    /// The log doesn't hold any more what was true then.
    #[error("{refusal}")]
    StateCompacted {
        /// The oldest offset of the partition as of which it is known.
        earliest_offset: Option<u64>,
        /// What the broker said.
        refusal: Arc<Refusal>,
    },
    /// The broker can't be reached, or the connection was lost.
    #[error("{0}")]
    Connection(Arc<str>),
    /// No answer within the time allowed. Whether the broker carried it out is
    /// unknown.
    #[error("no answer within {}: {last}", humanly(*waited))]
    Timeout {
        /// How long was waited.
        waited: Duration,
        /// What went wrong last, or what was waited for.
        last: Arc<str>,
    },
    /// The producer, consumer or view was closed.
    #[error("the producer, consumer or view is closed")]
    Closed,
    /// What was asked for makes no sense: an address that is none, a batch with
    /// a wrong checksum. Nothing was sent.
    #[error("{0}")]
    InvalidInput(Arc<str>),
    /// Retention overtook this reader: these records were removed before it
    /// read them. Reading goes on behind them.
    #[error(
        "offsets {from}..{to} of {topic}/{partition} were removed by retention before they were read"
    )]
    Truncated {
        /// Name of the topic.
        topic: Arc<str>,
        /// The partition.
        partition: u32,
        /// Where the reader was.
        from: u64,
        /// The oldest offset that is kept, where it goes on.
        to: u64,
    },
    /// These records were damaged on the broker's disk. Reading goes on behind
    /// them.
    #[error("offsets {from}..{to} of {topic}/{partition} are damaged on the broker's disk")]
    Quarantined {
        /// Name of the topic.
        topic: Arc<str>,
        /// The partition.
        partition: u32,
        /// The first offset lost.
        from: u64,
        /// One past the last offset lost, where reading goes on.
        to: u64,
    },
    /// A batch arrived that isn't what its producer sent: its checksum or its
    /// form is wrong. Reading goes on behind it.
    #[error("the batch at offset {offset} of {topic}/{partition} is damaged: {problem}")]
    DamagedBatch {
        /// Name of the topic.
        topic: Arc<str>,
        /// The partition.
        partition: u32,
        /// Offset of its first record.
        offset: u64,
        /// What is wrong with it.
        problem: Arc<str>,
    },
    /// The broker's answer makes no sense to this version of the library.
    #[error("unexpected answer from the broker: {0}")]
    Protocol(Arc<str>),
}

/// What the broker said when it refused.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// Why; `None` when this library is older than the reason.
    pub reason: Option<Reason>,
    /// The gRPC status code, for reasons that this library doesn't know.
    pub code: i32,
    /// The name of the reason, such as `TOPIC_NOT_FOUND`.
    pub name: String,
    /// For people.
    pub message: String,
    /// Names what the reason is about: `topic`, `partition`, `offset`,
    /// `log_start_offset`, `high_watermark`, `limit`, …
    pub metadata: BTreeMap<String, String>,
    /// How long to wait before a retry, when one may help.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// Whether the same request may succeed later. Of a reason that this library
    /// doesn't know, the status code tells.
    pub fn is_retryable(&self) -> bool {
        let unavailable = self.code == Code::Unavailable as i32;
        self.retry_after.is_some() || self.reason.map_or(unavailable, Reason::retryable)
    }

    /// A number of the metadata.
    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        self.metadata.get(key)?.parse().ok()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() {
            f.write_str(&self.name)
        } else {
            f.write_str(&self.message)
        }
    }
}

impl Error {
    /// Why the broker refused; `None` when it didn't refuse.
    pub fn reason(&self) -> Option<Reason> {
        self.refusal().and_then(|refusal| refusal.reason)
    }

    /// What the broker said, when it refused.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal)
            | Self::VersionMismatch { refusal, .. }
            | Self::StateCompacted { refusal, .. } => Some(refusal),
            _ => None,
        }
    }

    /// Whether the same operation may succeed later. After a lost connection or
    /// a timeout it may have been carried out already, or may yet be.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.is_retryable(),
            Self::Connection(_) | Self::Timeout { .. } => true,
            _ => false,
        }
    }

    /// A stable name in upper case, as the broker's reasons have.
    pub fn name(&self) -> &str {
        match self {
            Self::Refused(refusal)
            | Self::VersionMismatch { refusal, .. }
            | Self::StateCompacted { refusal, .. } => &refusal.name,
            Self::Connection(_) => "CONNECTION",
            Self::Timeout { .. } => "TIMEOUT",
            Self::Closed => "CLOSED",
            Self::InvalidInput(_) => "INVALID_INPUT",
            Self::Truncated { .. } => "TRUNCATED",
            Self::Quarantined { .. } => "QUARANTINED",
            Self::DamagedBatch { .. } => "DAMAGED_BATCH",
            Self::Protocol(_) => "PROTOCOL",
        }
    }

    pub(crate) fn invalid(problem: impl fmt::Display) -> Self {
        Self::InvalidInput(problem.to_string().into())
    }

    pub(crate) fn protocol(problem: impl fmt::Display) -> Self {
        Self::Protocol(problem.to_string().into())
    }

    /// What the broker would refuse, noticed before it was asked.
    pub(crate) fn refused_here(
        reason: Reason,
        message: String,
        metadata: BTreeMap<String, String>,
    ) -> Self {
        Self::Refused(Arc::new(Refusal {
            reason: Some(reason),
            code: reason.code(),
            name: reason.as_str().to_owned(),
            message,
            metadata,
            retry_after: None,
        }))
    }

    /// A call that failed.
    pub(crate) fn from_status(status: &Status) -> Self {
        if let Some(info) = status.get_details_error_info()
            && info.domain == ERROR_DOMAIN
        {
            let retry_after = status.get_details_retry_info().and_then(|r| r.retry_delay);
            return Self::refused(Refusal {
                reason: Reason::from_str(&info.reason).ok(),
                code: status.code() as i32,
                name: info.reason,
                message: status.message().to_owned(),
                metadata: info.metadata.into_iter().collect(),
                retry_after,
            });
        }
        match status.code() {
            // The same bytes would come again. Of a message that is too large
            // tonic says `OutOfRange`.
            Code::Internal if status.message().starts_with(UNDECODABLE) => {
                Self::protocol(status.message())
            }
            // What tonic makes of a connection that failed or went away, and a
            // proxy of overload; a broker of ours always adds its reason.
            Code::Unavailable
            | Code::Unknown
            | Code::Cancelled
            | Code::Internal
            | Code::Aborted
            | Code::ResourceExhausted => Self::Connection(describe(status).into()),
            Code::DeadlineExceeded => Self::Timeout {
                waited: Duration::ZERO,
                last: describe(status).into(),
            },
            code => Self::protocol(format_args!("{code:?}: {}", status.message())),
        }
    }

    /// What the broker refused, as the variant of its reason where it has one.
    fn refused(refusal: Refusal) -> Self {
        let refusal = Arc::new(refusal);
        match refusal.reason {
            Some(Reason::VersionMismatch) => Self::VersionMismatch {
                current: refusal.number("current_version").map(Version::from_number),
                refusal,
            },
            Some(Reason::StateCompacted) => Self::StateCompacted {
                earliest_offset: refusal.number("earliest_offset"),
                refusal,
            },
            _ => Self::Refused(refusal),
        }
    }

    /// Something that was refused within a stream.
    pub(crate) fn from_batch_error(error: v1::BatchError) -> Self {
        Self::refused(Refusal {
            reason: Reason::from_str(&error.reason).ok(),
            code: error.code,
            name: error.reason,
            message: error.message,
            metadata: error.metadata.into_iter().collect(),
            retry_after: error
                .retry_after_ms
                .map(|ms| Duration::from_millis(ms.into())),
        })
    }
}

/// A batch or record that the broker would refuse, or that isn't one.
impl From<BatchError> for Error {
    fn from(error: BatchError) -> Self {
        let limit = error
            .limit()
            .map(|limit| ("limit".to_owned(), limit.to_string()));
        let metadata = limit.into_iter().collect();
        Self::refused_here(error.reason(), error.to_string(), metadata)
    }
}

/// The message of a status with what caused it: tonic's own message is often no
/// more than "transport error".
fn describe(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&part);
        }
        cause = error.source();
    }
    if text.is_empty() {
        text.push_str("the connection was lost");
    }
    text
}

fn humanly(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;

    #[test]
    fn refusal_keeps_reason_metadata_and_retry_delay() {
        let mut details = ErrorDetails::with_error_info(
            Reason::OffsetOutOfRange.as_str(),
            ERROR_DOMAIN,
            [("high_watermark".to_owned(), "7".to_owned())],
        );
        details.set_retry_info(Some(Duration::from_millis(250)));
        let status = Status::with_error_details(Code::OutOfRange, "offset 9 …", details);
        let error = Error::from_status(&status);
        assert_eq!(error.reason(), Some(Reason::OffsetOutOfRange));
        let refusal = error.refusal().unwrap();
        assert_eq!(refusal.number("high_watermark"), Some(7));
        assert_eq!(refusal.retry_after, Some(Duration::from_millis(250)));
        assert!(error.is_retryable());
        assert_eq!(error.to_string(), "offset 9 …");
    }

    #[test]
    fn mismatch_tells_the_version_that_the_key_is_in() {
        let mismatch = |metadata: &[(&str, &str)]| {
            let owned = |&(k, v): &(&str, &str)| (k.to_owned(), v.to_owned());
            let details = ErrorDetails::with_error_info(
                Reason::VersionMismatch.as_str(),
                ERROR_DOMAIN,
                metadata.iter().map(owned).collect::<HashMap<_, _>>(),
            );
            Error::from_status(&Status::with_error_details(Code::Aborted, "no", details))
        };
        let there = mismatch(&[("current_version", "7")]);
        assert_eq!(there.reason(), Some(Reason::VersionMismatch));
        assert!(!there.is_retryable(), "the same request fails again");
        let current = |error| match error {
            Error::VersionMismatch { current, .. } => current,
            other => panic!("{other:?}"),
        };
        assert_eq!(current(there), Some(Version::from_number(7)));
        assert_eq!(current(mismatch(&[])), None);
    }

    #[test]
    fn reason_of_a_newer_broker_is_kept_by_name() {
        let details = ErrorDetails::with_error_info("FROM_THE_FUTURE", ERROR_DOMAIN, []);
        let status = Status::with_error_details(Code::Aborted, "later", details);
        let error = Error::from_status(&status);
        assert_eq!((error.reason(), error.name()), (None, "FROM_THE_FUTURE"));
        assert!(!error.is_retryable());
    }

    #[test]
    fn unknown_reason_goes_by_the_status_code() {
        let refused = |code: Code| {
            Error::from_batch_error(v1::BatchError {
                code: code as i32,
                reason: "FROM_THE_FUTURE".to_owned(),
                ..v1::BatchError::default()
            })
        };
        assert!(refused(Code::Unavailable).is_retryable());
        assert!(!refused(Code::InvalidArgument).is_retryable());
        let details = ErrorDetails::with_error_info("FROM_THE_FUTURE", ERROR_DOMAIN, []);
        let status = Status::with_error_details(Code::Unavailable, "later", details);
        assert!(Error::from_status(&status).is_retryable());
    }

    #[test]
    fn overload_on_the_way_is_retryable_and_what_cannot_be_decoded_is_not() {
        let calm = Error::from_status(&Status::resource_exhausted("calm down"));
        assert!(matches!(calm, Error::Connection(_)) && calm.is_retryable());
        let large = Error::from_status(&Status::out_of_range("message length too large"));
        assert!(matches!(large, Error::Protocol(_)) && !large.is_retryable());
        let undecodable = <v1::Topic as prost::Message>::decode(&[0xFF_u8][..]).unwrap_err();
        let undecodable = Error::from_status(&Status::internal(undecodable.to_string()));
        assert!(matches!(undecodable, Error::Protocol(_)), "{undecodable:?}");
    }

    #[test]
    fn lost_connection_is_retryable_and_no_refusal() {
        let error = Error::from_status(&Status::unavailable("tcp connect error"));
        assert!(matches!(error, Error::Connection(_)) && error.is_retryable());
        assert_eq!(error.reason(), None);
    }

    #[test]
    fn foreign_status_is_a_protocol_error() {
        let error = Error::from_status(&Status::unimplemented("no such method"));
        assert!(matches!(error, Error::Protocol(_)) && !error.is_retryable());
    }
}
