//! `Put` and `Delete`: what is to be written, and the conditions that go with it.

use std::collections::HashSet;

use bytes::Bytes;
use statecast_proto::v1;
use statecast_proto::v1::write::Change;

use super::{check_key, encode};
use crate::broker::{Broker, Condition, Expected, KeyWrite, LeasedPut, TopicState, WriteError};
use crate::limits;
use crate::model::{Offset, RequestStamp};
use crate::server::error::Refusal;
use crate::server::produce::check_request_id;
use crate::views::LEASE_HEADER;

pub(super) async fn put(
    broker: &Broker,
    request: v1::PutRequest,
) -> Result<v1::PutResponse, Refusal> {
    let topic = request.topic;
    let state = broker.state(&topic)?;
    let about = |refusal: Refusal| refusal.with("topic", &topic);
    check_count(request.writes.len()).map_err(about)?;
    let mut writing = Writing {
        state: &state,
        keys: HashSet::with_capacity(request.writes.len()),
        writes: Vec::with_capacity(request.writes.len()),
        conditions: Vec::new(),
        leases: Vec::new(),
    };
    for write in request.writes {
        writing
            .add(broker, write, request.partition)
            .map_err(about)?;
    }
    let written = writing
        .carry_out(broker, &topic, request.request_id.as_deref())
        .await?;
    Ok(v1::PutResponse {
        written: written.into_iter().map(encode_written).collect(),
    })
}

pub(super) async fn delete(
    broker: &Broker,
    request: v1::DeleteRequest,
) -> Result<v1::DeleteResponse, Refusal> {
    let write = v1::Write {
        key: request.key,
        change: Some(Change::Remove(v1::Removal {})),
        expected: request.expected,
        ..v1::Write::default()
    };
    let request = v1::PutRequest {
        topic: request.topic,
        writes: vec![write],
        partition: request.partition,
        request_id: request.request_id,
    };
    let written = put(broker, request).await?.written.pop();
    Ok(v1::DeleteResponse { written })
}

fn check_count(count: usize) -> Result<(), Refusal> {
    let limit = limits::KEYS_PER_CALL;
    match count {
        0 => Err(Refusal::invalid("there is nothing to write")),
        count if count > limit => {
            let message = format_args!("one call writes {limit} keys at most, not {count}");
            Err(Refusal::invalid(message).beyond(count, limit))
        }
        _ => Ok(()),
    }
}

fn encode_written((partition, offset): (u32, Offset)) -> v1::Written {
    v1::Written {
        partition,
        offset: offset.0,
        version: encode::version(offset),
    }
}

/// What a call writes.
struct Writing<'a> {
    state: &'a TopicState,
    keys: HashSet<(u32, Bytes)>,
    writes: Vec<KeyWrite>,
    conditions: Vec<Condition>,
    /// What keeps the leases of the keys from being over before they are written.
    leases: Vec<LeasedPut>,
}

impl Writing<'_> {
    fn add(
        &mut self,
        broker: &Broker,
        write: v1::Write,
        partition: Option<u32>,
    ) -> Result<(), Refusal> {
        check_key(&write.key)?;
        let partition = self.state.partition_of(&write.key, partition)?;
        if !self.keys.insert((partition, write.key.clone())) {
            return Err(Refusal::invalid("a key is written twice in one call"));
        }
        if write
            .headers
            .iter()
            .any(|header| header.name == LEASE_HEADER)
        {
            let message = format_args!("the header {LEASE_HEADER} is the broker's own");
            return Err(Refusal::invalid(message));
        }
        let value = match write.change {
            Some(Change::Value(value)) => Some(value),
            Some(Change::Remove(_)) => None,
            None => return Err(Refusal::invalid("a write has a value, or removes its key")),
        };
        let lease = match (write.lease_id, &value) {
            (None, _) => None,
            (Some(_), None) => {
                return Err(Refusal::invalid("a key that is removed ends with no lease"));
            }
            (Some(id), Some(_)) => {
                let lease = broker.begin_leased_put(id)?;
                let id = lease.id();
                self.leases.push(lease);
                Some(id)
            }
        };
        if let Some(expected) = write.expected.and_then(|expected| expected.expected) {
            self.conditions.push(Condition {
                partition,
                key: write.key.clone(),
                expected: expectation(&expected),
            });
        }
        let headers = write
            .headers
            .into_iter()
            .map(|header| (header.name, header.value));
        self.writes.push(KeyWrite {
            partition,
            key: write.key,
            value,
            headers: headers.collect(),
            lease,
        });
        Ok(())
    }

    async fn carry_out(
        self,
        broker: &Broker,
        topic: &str,
        request_id: Option<&str>,
    ) -> Result<Vec<(u32, Offset)>, Refusal> {
        check_request_id(request_id)?;
        let request = request_id.map(|id| RequestStamp::of(id.as_bytes()));
        let written = self
            .state
            .write(broker, &self.writes, &self.conditions, request)
            .await;
        drop(self.leases);
        written.map_err(|error| refusal(error, topic, &self.conditions))
    }
}

/// What a client expects of a key.
fn expectation(expected: &v1::expected_version::Expected) -> Expected {
    match expected {
        v1::expected_version::Expected::Absent(_) => Expected::Absent,
        v1::expected_version::Expected::Version(version) => Expected::Version(Offset(*version)),
    }
}

/// Names the key that a condition was about.
pub(in crate::server) fn refusal(
    error: WriteError,
    topic: &str,
    conditions: &[Condition],
) -> Refusal {
    let index = match error {
        WriteError::Mismatch { index, .. } | WriteError::UnknownVersion { index, .. } => {
            Some(index)
        }
        WriteError::View(_) | WriteError::Produce(_) => None,
    };
    let refusal = Refusal::from(error);
    match index.and_then(|index| Some((index, conditions.get(index)?))) {
        Some((index, condition)) => refusal
            .about(topic, condition.partition)
            .with("key", String::from_utf8_lossy(&condition.key))
            .with("index", index),
        None => refusal.with("topic", topic),
    }
}
