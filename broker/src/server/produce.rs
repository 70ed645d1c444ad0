//! `Produce`: one batch, structured records, for any language.

use bytes::Bytes;
use statecast_proto::batch::stated_uncompressed_len;
use statecast_proto::v1;

use super::error::Refusal;
use super::keyed::{self, check_key, check_request_id};
use crate::broker::{Author, BatchChecker, Broker, Condition, Expected, IncomingBatch, KeyedBatch};
use crate::limits;
use crate::model::{Offset, RequestStamp, Stamp};
use crate::partition::{Append, Appended};

/// What the parts of a request that go to different partitions have in common.
struct Call<'a> {
    broker: &'a Broker,
    topic: &'a str,
    checksum: Option<u32>,
    /// Names the request.
    id: Option<&'a str>,
    preconditions: &'a [v1::Precondition],
}

pub(super) async fn produce(
    broker: &Broker,
    request: v1::ProduceRequest,
) -> Result<v1::ProduceResponse, Refusal> {
    let call = Call {
        broker,
        topic: &request.topic,
        checksum: request.checksum,
        id: request.request_id.as_deref(),
        preconditions: &request.preconditions,
    };
    check_request_id(call.id)?;
    let positions = match request.partition {
        Some(partition) => call.to_partition(partition, request.batch).await,
        None => call.by_key(request.batch).await,
    };
    let position = |(partition, Offset(offset))| v1::RecordPosition { partition, offset };
    Ok(v1::ProduceResponse {
        positions: positions?.into_iter().map(position).collect(),
    })
}

impl Call<'_> {
    /// Appends all records to one partition.
    async fn to_partition(
        &self,
        partition: u32,
        payload: Bytes,
    ) -> Result<Vec<(u32, Offset)>, Refusal> {
        let refused = |refusal: Refusal| refusal.about(self.topic, partition);
        let large = stated_uncompressed_len(&payload) > limits::CHECKED_IN_PLACE_BYTES;
        let (topic, checksum) = (self.topic.to_owned(), self.checksum);
        let mut checker = BatchChecker::new(self.broker.clone());
        let check = move || {
            checker.check(IncomingBatch {
                author: Author::Client,
                topic: &topic,
                partition,
                payload,
                checksum,
                sequence: None,
            })
        };
        let append = match large {
            true => self.broker.check_off_runtime(check).await,
            false => Some(check()),
        };
        let append = append.ok_or_else(|| refused(Refusal::fault("a check ended")))?;
        let append = append.map_err(|error| refused(error.into()))?;
        let count = u64::from(append.batch.record_count);
        let bases = self.append(vec![append]).await;
        let bases = bases.map_err(|(_, refusal)| refused(refusal))?;
        let position = |nth| (partition, bases[0].advanced(nth));
        Ok((0..count).map(position).collect())
    }

    /// Appends each record to the partition of its key.
    async fn by_key(&self, payload: Bytes) -> Result<Vec<(u32, Offset)>, Refusal> {
        let batch = KeyedBatch {
            topic: self.topic,
            payload,
            checksum: self.checksum,
            // Made again, it has to choose the same.
            choice: self.id.map(|id| RequestStamp::choice(id.as_bytes())),
        };
        let spread = BatchChecker::new(self.broker.clone()).spread_by_key(batch);
        let spread = spread.map_err(|error| Refusal::from(error).with("topic", self.topic))?;
        let partitions = spread.placement.partitions();
        let bases = self.append(spread.appends).await;
        let bases =
            bases.map_err(|(index, refusal)| refusal.about(self.topic, partitions[index]))?;
        Ok(spread.placement.positions(&bases))
    }

    /// The offset of the first record of each append; or which one failed first,
    /// and why.
    async fn append(&self, mut appends: Vec<Append>) -> Result<Vec<Offset>, (usize, Refusal)> {
        if let Some(id) = self.id {
            let stamp = Stamp::Request(RequestStamp::of(id.as_bytes()));
            for append in &mut appends {
                append.batch.stamp = Some(stamp.clone());
            }
        }
        if !self.preconditions.is_empty() {
            let appended = self.append_if(appends).await;
            return appended.map_err(|refusal| (0, refusal));
        }
        let results = self.broker.engine().append(appends).await.into_iter();
        let base = |(index, result): (usize, Result<Appended, _>)| match result {
            Ok(appended) => Ok(appended.base_offset),
            Err(error) => Err((index, Refusal::from(error))),
        };
        results.enumerate().map(base).collect()
    }

    /// As [`Call::append`], if the preconditions hold: all of it or nothing.
    async fn append_if(&self, appends: Vec<Append>) -> Result<Vec<Offset>, Refusal> {
        let (count, limit) = (self.preconditions.len(), limits::KEYS_PER_CALL);
        if count > limit {
            let message = format_args!("one call has {limit} preconditions at most, not {count}");
            return Err(Refusal::invalid(message).beyond(count, limit));
        }
        let state = self.broker.state(self.topic)?;
        let mut conditions = Vec::with_capacity(count);
        for (place, precondition) in self.preconditions.iter().enumerate() {
            let of_it = |refusal: Refusal| refusal.with("index", place);
            check_key(&precondition.key).map_err(of_it)?;
            let partition = state.partition_of(&precondition.key, precondition.partition);
            conditions.push(Condition {
                place,
                partition: partition.map_err(|error| of_it(error.into()))?,
                key: precondition.key.clone(),
                expected: match precondition.version {
                    Some(version) => Expected::Version(Offset(version)),
                    None => Expected::Absent,
                },
            });
        }
        let request = self.id.map(|id| RequestStamp::of(id.as_bytes()));
        let appended = state.append_if(self.broker, appends, &conditions, request);
        let appended = appended.await;
        appended.map_err(|error| keyed::refusal(error, self.topic, &conditions))
    }
}
