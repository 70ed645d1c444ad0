//! `Put` and `Delete`: what is to be written, and the conditions that go with it.
//!
//! What is put with a lease is written to the end, even if the client has gone: on its
//! way into the log it can't be called back, and its lease must not be over before.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use statecast_proto::batch::BatchLimits;
use statecast_proto::reason::Reason;
use statecast_proto::v1;
use statecast_proto::v1::write::Change;

use super::encode;
use crate::broker::{Author, Broker, Condition, Expected, KeyWrite, LeasedPut, TopicState};
use crate::limits;
use crate::model::{Offset, RequestStamp};
use crate::server::call::Call;
use crate::server::error::Refusal;
use crate::server::keyed::{check_key, check_request_id, refusal};
use crate::views::LEASE_HEADER;

pub(super) async fn put(
    broker: &Broker,
    call: Arc<Call>,
    request: v1::PutRequest,
) -> Result<v1::PutResponse, Refusal> {
    let topic = request.topic;
    let state = broker.state(&topic)?;
    let about = |refusal: Refusal| refusal.with("topic", &topic);
    check_count(request.writes.len()).map_err(about)?;
    check_request_id(request.request_id.as_deref()).map_err(about)?;
    let mut writing = Writing {
        broker: broker.clone(),
        state,
        keys: HashSet::with_capacity(request.writes.len()),
        writes: Vec::with_capacity(request.writes.len()),
        conditions: Vec::new(),
        leases: Vec::new(),
    };
    for (place, write) in request.writes.into_iter().enumerate() {
        let added = writing.add(place, write, request.partition);
        added.map_err(|refusal| about(refusal).with("index", place))?;
    }
    let stamp = request.request_id.map(|id| RequestStamp::of(id.as_bytes()));
    let written = match writing.leases.is_empty() {
        true => writing.carry_out(&topic, stamp).await,
        false => {
            let to_the_end = async move {
                let written = writing.carry_out(&topic, stamp).await;
                // What the call holds is held for as long as this goes on.
                drop(call);
                written
            };
            let written = tokio::spawn(to_the_end).await;
            written.map_err(|_| Refusal::fault("a write ended"))?
        }
    }?;
    Ok(v1::PutResponse {
        written: written.into_iter().map(encode_written).collect(),
    })
}

pub(super) async fn delete(
    broker: &Broker,
    call: Arc<Call>,
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
    let written = put(broker, call, request).await?.written.pop();
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

/// Refuses headers that the broker writes, and so many that its own has no room.
fn check_headers(write: &v1::Write) -> Result<(), Refusal> {
    let mut headers = write.headers.iter();
    if headers.any(|header| header.name == LEASE_HEADER) {
        let message = format_args!(
            "only the broker writes the header {LEASE_HEADER}; lease_id names the lease of a key"
        );
        return Err(Refusal::new(Reason::HeaderReserved, message).with("header", LEASE_HEADER));
    }
    let (count, limit) = (
        write.headers.len(),
        BatchLimits::DEFAULT.max_headers as usize,
    );
    if write.lease_id.is_some() && count == limit {
        let limit = limit - 1;
        let message = format_args!("with a lease, a record has at most {limit} headers");
        return Err(Refusal::new(Reason::TooManyHeaders, message).beyond(count, limit));
    }
    Ok(())
}

fn encode_written((partition, offset): (u32, Offset)) -> v1::Written {
    v1::Written {
        partition,
        offset: offset.0,
        version: encode::version(offset),
    }
}

/// What a call writes.
struct Writing {
    broker: Broker,
    state: TopicState,
    keys: HashSet<(u32, Bytes)>,
    writes: Vec<KeyWrite>,
    conditions: Vec<Condition>,
    /// What keeps the leases of the keys from being over before they are written.
    leases: Vec<LeasedPut>,
}

impl Writing {
    /// Adds the write at a place of the request, from 0.
    fn add(
        &mut self,
        place: usize,
        write: v1::Write,
        partition: Option<u32>,
    ) -> Result<(), Refusal> {
        check_key(&write.key)?;
        check_headers(&write)?;
        let partition = self.state.partition_of(&write.key, partition)?;
        if !self.keys.insert((partition, write.key.clone())) {
            return Err(Refusal::invalid("a key is written twice in one call"));
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
                let lease = self.broker.begin_leased_put(id)?;
                let id = lease.id();
                self.leases.push(lease);
                Some(id)
            }
        };
        if let Some(expected) = write.expected.and_then(|expected| expected.expected) {
            self.conditions.push(Condition {
                place,
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
        topic: &str,
        request: Option<RequestStamp>,
    ) -> Result<Vec<(u32, Offset)>, Refusal> {
        let written = self
            .state
            .write(
                &self.broker,
                Author::Put,
                &self.writes,
                &self.conditions,
                request,
            )
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

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;
    use crate::broker::BrokerOptions;
    use crate::model::{Cleanup, TopicConfig, TopicName};
    use crate::server::ServerOptions;
    use crate::server::connection::Connection;
    use crate::server::memory::Memory;
    use crate::storage::dir::sim::SimDir;

    fn call() -> Arc<Call> {
        let memory = Arc::new(Memory::new(&ServerOptions::default()));
        let connection = Arc::new(Connection::new(([127, 0, 0, 1], 1).into(), 1));
        Call::of_nobody(memory, connection)
    }

    fn request(key: &str, lease_id: u64) -> v1::PutRequest {
        let write = v1::Write {
            key: Bytes::copy_from_slice(key.as_bytes()),
            change: Some(Change::Value(Bytes::from_static(b"here"))),
            lease_id: Some(lease_id),
            ..v1::Write::default()
        };
        v1::PutRequest {
            topic: "services".to_owned(),
            writes: vec![write],
            ..v1::PutRequest::default()
        }
    }

    #[tokio::test]
    async fn a_key_goes_with_its_lease_though_its_client_went_away_while_it_was_put() {
        let index = tempfile::tempdir().unwrap();
        let options = BrokerOptions::new(index.path().into());
        let disk = Arc::new(SimDir::new());
        let broker = Broker::open(disk, options).await.unwrap();
        let config = TopicConfig {
            cleanup: Cleanup::Compact,
            retention_ms: None,
            ..TopicConfig::default()
        };
        let name = TopicName::try_from("services").unwrap();
        broker.create_topic(name, 1, config).await.unwrap();
        let state = broker.state("services").unwrap();
        // What is lost is so by a race.
        for round in 0..50 {
            let lease = broker.grant_lease(60_000).await.unwrap();
            let key = format!("{round}");
            let mut put = Box::pin(put(&broker, call(), request(&key, lease.0.get())));
            assert!(poll!(&mut put).is_pending());
            drop(put);
            let removed = broker.revoke_lease(lease.0.get()).await.unwrap();
            assert_eq!(removed, Some(1), "round {round}");
            let found = state.view().get(0, key.as_bytes(), None).await.unwrap();
            assert_eq!(found.record, None);
        }
        broker.stop().await;
    }
}
