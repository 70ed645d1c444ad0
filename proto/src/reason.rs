//! The stable reasons of errors: one table, for broker, clients and documents.

use std::fmt;
use std::str::FromStr;

/// The `domain` of every `google.rpc.ErrorInfo`.
pub const ERROR_DOMAIN: &str = "statecast";

/// Status codes of gRPC, by their numbers.
mod code {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const ALREADY_EXISTS: i32 = 6;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const ABORTED: i32 = 10;
    pub(super) const OUT_OF_RANGE: i32 = 11;
    pub(super) const INTERNAL: i32 = 13;
    pub(super) const UNAVAILABLE: i32 = 14;
    pub(super) const DATA_LOSS: i32 = 15;
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = ($name:literal, $code:ident, $retry:literal);)+) => {
        /// Why a call, or a batch of it, was refused. The names never change.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Reason {
            /// All of them, in the order of the table.
            pub const ALL: &[Reason] = &[$(Reason::$variant,)+];

            /// Its stable name, as it goes over the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$variant => $name,)+ }
            }

            /// The gRPC status code that goes with it.
            pub fn code(self) -> i32 {
                match self { $(Reason::$variant => code::$code,)+ }
            }

            /// Whether the same request may succeed later.
            pub fn retryable(self) -> bool {
                match self { $(Reason::$variant => $retry,)+ }
            }

            /// What it means, in a sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Reason::$variant => concat!($($doc),+).trim_ascii_start(),)+ }
            }
        }
    };
}

reasons! {
    /// There is no topic of this name.
    TopicNotFound = ("TOPIC_NOT_FOUND", NOT_FOUND, false);
    /// There is a topic of this name already.
    TopicExists = ("TOPIC_EXISTS", ALREADY_EXISTS, false);
    /// The topic has no partition of this number.
    PartitionNotFound = ("PARTITION_NOT_FOUND", NOT_FOUND, false);
    /// The offset lies outside of the readable range, which is named.
    OffsetOutOfRange = ("OFFSET_OUT_OF_RANGE", OUT_OF_RANGE, false);
    /// The name of a topic breaks the rules.
    InvalidTopicName = ("INVALID_TOPIC_NAME", INVALID_ARGUMENT, false);
    /// The number of partitions is out of bounds, or would shrink.
    InvalidPartitionCount = ("INVALID_PARTITION_COUNT", INVALID_ARGUMENT, false);
    /// A setting of a topic is out of bounds.
    InvalidConfig = ("INVALID_CONFIG", INVALID_ARGUMENT, false);
    /// The request contradicts itself, lacks something, or has a number out of bounds.
    InvalidRequest = ("INVALID_REQUEST", INVALID_ARGUMENT, false);
    /// The bytes are not a record batch.
    BatchMalformed = ("BATCH_MALFORMED", INVALID_ARGUMENT, false);
    /// The batch has no record.
    BatchEmpty = ("BATCH_EMPTY", INVALID_ARGUMENT, false);
    /// The batch arrived with other bytes than were sent.
    ChecksumMismatch = ("CHECKSUM_MISMATCH", DATA_LOSS, true);
    /// The batch is larger than the topic takes, or all of a request together than the limit.
    BatchTooLarge = ("BATCH_TOO_LARGE", INVALID_ARGUMENT, false);
    /// A record is larger than the limit.
    RecordTooLarge = ("RECORD_TOO_LARGE", INVALID_ARGUMENT, false);
    /// The batch has more records than the limit.
    TooManyRecords = ("TOO_MANY_RECORDS", INVALID_ARGUMENT, false);
    /// A record has more headers than the limit.
    TooManyHeaders = ("TOO_MANY_HEADERS", INVALID_ARGUMENT, false);
    /// A key is longer than the limit.
    KeyTooLarge = ("KEY_TOO_LARGE", INVALID_ARGUMENT, false);
    /// The name of a header is empty, too long or not UTF-8.
    HeaderInvalid = ("HEADER_INVALID", INVALID_ARGUMENT, false);
    /// Only the broker writes the header of this name, to records of compacted topics.
    HeaderReserved = ("HEADER_RESERVED", INVALID_ARGUMENT, false);
    /// The request has more batches than the limit.
    TooManyBatches = ("TOO_MANY_BATCHES", INVALID_ARGUMENT, false);
    /// There are more partitions or topics than the broker takes.
    TooManyPartitions = ("TOO_MANY_PARTITIONS", RESOURCE_EXHAUSTED, false);
    /// A batch of this producer is missing before this one; the number that is expected is named.
    SequenceGap = ("SEQUENCE_GAP", FAILED_PRECONDITION, false);
    /// The batch was appended before, so long ago that its offset is not known any more.
    SequenceTooOld = ("SEQUENCE_TOO_OLD", ALREADY_EXISTS, false);
    /// Another producer with this name began later.
    ProducerFenced = ("PRODUCER_FENCED", FAILED_PRECONDITION, false);
    /// The broker doesn't know this producer id, or has forgotten what the partition got from it.
    ProducerExpired = ("PRODUCER_EXPIRED", FAILED_PRECONDITION, false);
    /// There is no consumer group of this name.
    GroupNotFound = ("GROUP_NOT_FOUND", NOT_FOUND, false);
    /// The group has members: what was asked for would harm them.
    GroupActive = ("GROUP_ACTIVE", FAILED_PRECONDITION, false);
    /// There are more groups than the broker takes.
    TooManyGroups = ("TOO_MANY_GROUPS", RESOURCE_EXHAUSTED, false);
    /// There are more members of a group, or different lists of topics among them, than the broker takes.
    TooManyMembers = ("TOO_MANY_MEMBERS", RESOURCE_EXHAUSTED, false);
    /// The partition is not assigned to this member.
    NotAssigned = ("NOT_ASSIGNED", FAILED_PRECONDITION, false);
    /// The partition went on to another member, or was given back and assigned anew.
    StaleGeneration = ("STALE_GENERATION", ABORTED, false);
    /// The group has committed nothing for the partition, and the member wants to start nowhere else.
    NoCommittedOffset = ("NO_COMMITTED_OFFSET", FAILED_PRECONDITION, false);
    /// The member was not heard of within its session timeout.
    MemberExpired = ("MEMBER_EXPIRED", ABORTED, true);
    /// The member didn't read what it was told.
    MemberNotReading = ("MEMBER_NOT_READING", ABORTED, true);
    /// Another member joined with the same name.
    MemberReplaced = ("MEMBER_REPLACED", ABORTED, false);
    /// The topic isn't compacted: it has no state.
    TopicNotCompacted = ("TOPIC_NOT_COMPACTED", FAILED_PRECONDITION, false);
    /// A record for a compacted topic has no key.
    KeyRequired = ("KEY_REQUIRED", INVALID_ARGUMENT, false);
    /// The key is in another version than was expected, which is named.
    VersionMismatch = ("VERSION_MISMATCH", ABORTED, false);
    /// The key was never in the version that was expected: the partition has no such record yet.
    VersionUnknown = ("VERSION_UNKNOWN", OUT_OF_RANGE, false);
    /// What was changed since the resume point isn't all there any more: a snapshot is needed.
    ResumePointCompacted = ("RESUME_POINT_COMPACTED", OUT_OF_RANGE, false);
    /// The log doesn't hold any more what was true then.
    StateCompacted = ("STATE_COMPACTED", OUT_OF_RANGE, false);
    /// The view doesn't hold the record that was asked for yet, or is being rebuilt.
    ViewBehind = ("VIEW_BEHIND", UNAVAILABLE, true);
    /// The keys of all compacted topics take more memory than the broker gives them. Passes once they fit, looked at every minute.
    ViewTooLarge = ("VIEW_TOO_LARGE", RESOURCE_EXHAUSTED, false);
    /// There never was a lease of this id.
    LeaseNotFound = ("LEASE_NOT_FOUND", NOT_FOUND, false);
    /// The lease is over.
    LeaseExpired = ("LEASE_EXPIRED", FAILED_PRECONDITION, false);
    /// There are more leases than the broker takes.
    TooManyLeases = ("TOO_MANY_LEASES", RESOURCE_EXHAUSTED, false);
    /// The broker holds as much of its clients' data, or as many calls, as it may.
    Overloaded = ("OVERLOADED", RESOURCE_EXHAUSTED, true);
    /// The disk is full; nothing was appended, and reads go on.
    DiskFull = ("DISK_FULL", RESOURCE_EXHAUSTED, true);
    /// A write failed: the log takes no appends until the broker is restarted.
    LogReadOnly = ("LOG_READ_ONLY", FAILED_PRECONDITION, false);
    /// Reading the log failed.
    ReadFailed = ("READ_FAILED", INTERNAL, true);
    /// The broker is stopping.
    Stopping = ("STOPPING", UNAVAILABLE, true);
    /// A fault of the broker; its log says more.
    Internal = ("INTERNAL", INTERNAL, false);
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Not a reason that this version knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown reason `{0}`")]
pub struct UnknownReason(pub String);

impl FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(name: &str) -> Result<Reason, UnknownReason> {
        let found = Reason::ALL.iter().find(|reason| reason.as_str() == name);
        found.copied().ok_or_else(|| UnknownReason(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_lead_back() {
        for &reason in Reason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(reason));
            assert!(!reason.meaning().is_empty() && !reason.meaning().starts_with(' '));
        }
    }
}
