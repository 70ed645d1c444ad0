//! From the first request of a stream to a member.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use statecast_proto::reason::Reason;
use statecast_proto::v1::{self, consume_request::Request, group_start::Position};
use tokio_stream::StreamExt;
use tonic::{Status, Streaming};

use super::start::{GroupStart, expect_commits};
use crate::coordinator::{EndReason, Identity, JoinError, Member};
use crate::group::{ExpelReason, GroupName, JoinRequest, MemberName, Subscription};
use crate::limits;
use crate::server::Context;
use crate::server::error::Refusal;
use crate::server::reading::Allowance;

/// What a member asked for, as far as its stream has to know it.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    pub(super) group: GroupName,
    pub(super) capacity: Allowance,
    pub(super) start: GroupStart,
    pub(super) session_timeout_ms: u32,
    pub(super) max_processing_time: Duration,
    /// Of a response.
    pub(super) max_bytes: usize,
}

/// Waits for the first request, and makes whoever sent it a member. `None` when
/// there is nobody to tell anything any more.
pub(super) async fn join(
    context: &Context,
    incoming: &mut Streaming<v1::ConsumeRequest>,
    address: String,
) -> Option<Result<(Member, Terms), Status>> {
    let first = tokio::select! {
        first = incoming.next() => first,
        () = tokio::time::sleep(limits::GREETING) => {
            let late = Refusal::invalid("the first request, a join, didn't come in time");
            return Some(Err(late.into()));
        }
        () = context.draining.cancelled() => return Some(Err(Refusal::stopping().into())),
    };
    let request = match first? {
        Ok(v1::ConsumeRequest { request }) => request,
        // The message is none of ours; or nobody is there to be told so.
        Err(status) => return Some(Err(status)),
    };
    let Some(Request::Join(join)) = request else {
        let refusal = Refusal::invalid("the first request has to be a join");
        return Some(Err(refusal.into()));
    };
    let joined = async {
        let (terms, request) = terms(&join)?;
        let client = join.client;
        let identity = Identity { client, address };
        let broker = &context.broker;
        if terms.start == GroupStart::Fail {
            expect_commits(broker, &terms.group, &request.subscription).await?;
        }
        let groups = broker.groups();
        let member = groups.join(&terms.group, request, identity, broker.next_partition());
        let member = member.await?;
        Ok((member, terms))
    };
    Some(joined.await.map_err(|refusal: Refusal| refusal.into()))
}

/// What a join asks for, if it makes sense.
fn terms(join: &v1::Join) -> Result<(Terms, JoinRequest), Refusal> {
    let group = GroupName::try_from(&*join.group)
        .map_err(|error| invalid("group", format_args!("the name of a group {error}")))?;
    let name = join.member_name.as_deref().map(MemberName::try_from);
    let name = name
        .transpose()
        .map_err(|error| invalid("member_name", format_args!("the name of a member {error}")))?;
    let subscription = Subscription::new(join.topics.iter().map(String::as_str))
        .map_err(|error| invalid("topics", error))?;
    if join.client.len() > limits::CLIENT_BYTES {
        return Err(invalid("client", "what a client calls itself is too long")
            .beyond(join.client.len(), limits::CLIENT_BYTES));
    }
    let session_timeout_ms = within(
        "session_timeout_ms",
        join.session_timeout_ms,
        limits::DEFAULT_SESSION_TIMEOUT_MS,
        limits::SESSION_TIMEOUT_MS,
    )?;
    let revoke_timeout_ms = within(
        "revoke_timeout_ms",
        join.revoke_timeout_ms,
        limits::DEFAULT_REVOKE_TIMEOUT_MS,
        limits::REVOKE_TIMEOUT_MS,
    )?;
    let max_processing_time_ms = within(
        "max_processing_time_ms",
        join.max_processing_time_ms,
        limits::DEFAULT_MAX_PROCESSING_TIME_MS,
        limits::MAX_PROCESSING_TIME_MS,
    )?;
    let max_bytes = within(
        "max_bytes",
        join.max_bytes,
        limits::DEFAULT_FETCH_BYTES,
        limits::FETCH_BYTES,
    )?;
    let terms = Terms {
        group,
        capacity: join.capacity.map_or(Allowance::UNLIMITED, capacity),
        start: start(join.start)?,
        session_timeout_ms,
        max_processing_time: Duration::from_millis(max_processing_time_ms.into()),
        max_bytes: max_bytes as usize,
    };
    let request = JoinRequest {
        name,
        subscription,
        session_timeout_ms,
        revoke_timeout_ms,
    };
    Ok((terms, request))
}

fn start(start: Option<v1::GroupStart>) -> Result<GroupStart, Refusal> {
    let Some(start) = start else {
        return Ok(GroupStart::Earliest);
    };
    match start.position {
        Some(Position::Earliest(_)) => Ok(GroupStart::Earliest),
        Some(Position::Latest(_)) => Ok(GroupStart::Latest),
        Some(Position::TimestampMs(timestamp_ms)) => Ok(GroupStart::Timestamp(timestamp_ms)),
        Some(Position::Fail(_)) => Ok(GroupStart::Fail),
        None => Err(invalid("start", "this broker doesn't know that start")),
    }
}

/// As much as a member says at first that it takes: what it doesn't name has no
/// bound. Else who names one thing would never be sent anything.
fn capacity(credit: v1::Credit) -> Allowance {
    Allowance {
        bytes: credit.bytes.unwrap_or(u64::MAX),
        records: credit.records.unwrap_or(u64::MAX),
    }
}

/// As much more as a member says that it takes.
pub(super) fn allowance(credit: v1::Credit) -> Allowance {
    Allowance {
        bytes: credit.bytes.unwrap_or(0),
        records: credit.records.unwrap_or(0),
    }
}

fn within(
    setting: &str,
    asked: Option<u32>,
    default: u32,
    bounds: RangeInclusive<u32>,
) -> Result<u32, Refusal> {
    let value = asked.unwrap_or(default);
    if bounds.contains(&value) {
        return Ok(value);
    }
    let (low, high) = bounds.into_inner();
    let message = format_args!("{setting} is {value}; it must lie within {low} to {high}");
    Err(invalid(setting, message).beyond(value, high))
}

fn invalid(setting: &str, message: impl Display) -> Refusal {
    Refusal::invalid(message).with("setting", setting)
}

impl From<JoinError> for Refusal {
    fn from(error: JoinError) -> Refusal {
        match error {
            JoinError::Refused(reason) => reason.into(),
            JoinError::TooManyGroups => {
                Refusal::new(Reason::TooManyGroups, &error).with("limit", limits::GROUPS)
            }
            JoinError::Stopping => Refusal::stopping(),
        }
    }
}

impl From<ExpelReason> for Refusal {
    fn from(reason: ExpelReason) -> Refusal {
        match reason {
            ExpelReason::MemberExpired => Refusal::new(Reason::MemberExpired, reason),
            ExpelReason::MemberReplaced => Refusal::new(Reason::MemberReplaced, reason),
            ExpelReason::TooManyMembers => Refusal::new(Reason::TooManyMembers, reason)
                .with("limit", limits::MEMBERS_PER_GROUP),
            ExpelReason::TooManySubscriptions => Refusal::new(Reason::TooManyMembers, reason)
                .with("limit", limits::SUBSCRIPTIONS_PER_GROUP),
        }
    }
}

impl From<EndReason> for Refusal {
    fn from(reason: EndReason) -> Refusal {
        match reason {
            EndReason::Expelled(reason) => reason.into(),
            EndReason::Log(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_groups_are_not_said_to_be_members() {
        let reason = |error: JoinError| Refusal::from(error).into_batch_error().reason;
        assert_eq!(reason(JoinError::TooManyGroups), "TOO_MANY_GROUPS");
        let crowded = JoinError::Refused(ExpelReason::TooManyMembers);
        assert_eq!(reason(crowded), "TOO_MANY_MEMBERS");
    }

    #[test]
    fn what_a_capacity_does_not_name_has_no_bound() {
        let records = v1::Credit {
            bytes: None,
            records: Some(1000),
        };
        let expected = Allowance {
            bytes: u64::MAX,
            records: 1000,
        };
        assert_eq!(capacity(records), expected);
        assert_eq!(capacity(v1::Credit::default()), Allowance::UNLIMITED);
        let more = Allowance {
            bytes: 0,
            records: 1000,
        };
        assert_eq!(allowance(records), more);
    }
}
