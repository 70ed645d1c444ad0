//! Writes to keys, on conditions: compare and set.
//!
//! A condition is looked at in the view, which is caught up first; so it is true or not
//! of everything that was acknowledged before. That it is still true when the write gets
//! its place in the log, a guard sees to: no record with the key may lie behind what the
//! view had seen. If one does, the view is awaited and the condition looked at again. So
//! each try that is in vain means that somebody else's write was placed.

use bytes::Bytes;
use statecast_proto::batch::{BatchBuilder, BatchError, Compression, HeaderRef, RecordRef};

use super::produce::{Author, BatchChecker, IncomingBatch};
use super::{Broker, LookupError, ProduceError, TopicState};
use crate::model::{Offset, RequestStamp, Stamp};
use crate::partition::{Append, AppendError, KeyConflict, KeyGuard, Unit};
use crate::views::{LEASE_HEADER, LeaseId, ViewError};

/// What has to be true of a key before something is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// There is no such key.
    Absent,
    /// Its latest record lies there.
    Version(Offset),
}

/// A condition on a key.
#[derive(Debug, Clone)]
pub struct Condition {
    /// Its place in what a client asked for, from 0: that of the write that it goes with,
    /// or among preconditions.
    pub place: usize,
    /// Number of the partition.
    pub partition: u32,
    /// The key.
    pub key: Bytes,
    /// What has to be true of it.
    pub expected: Expected,
}

/// A change of a key.
#[derive(Debug, Clone)]
pub struct KeyWrite {
    /// Number of the partition.
    pub partition: u32,
    /// The key.
    pub key: Bytes,
    /// Its value from now on; `None` removes it.
    pub value: Option<Bytes>,
    /// Names and values.
    pub headers: Vec<(String, Option<Bytes>)>,
    /// The lease that it ends with.
    pub lease: Option<LeaseId>,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The key is in another version.
    #[error("{}", mismatch(*.expected, *.current))]
    Mismatch {
        /// Which of the conditions is not true.
        index: usize,
        /// What was expected; none when no such key was.
        expected: Option<Offset>,
        /// What it is; none when there is no such key.
        current: Option<Offset>,
    },
    /// The key was never in that version.
    #[error("the key was never in version {expected}: its partition ends at {end}")]
    UnknownVersion {
        /// Which of the conditions can't be true.
        index: usize,
        /// What was expected.
        expected: Offset,
        /// One past the last record of the partition.
        end: Offset,
    },
    /// What is true isn't known.
    #[error(transparent)]
    View(#[from] ViewError),
    /// It can't be appended.
    #[error(transparent)]
    Produce(#[from] ProduceError),
}

fn mismatch(expected: Option<Offset>, current: Option<Offset>) -> String {
    match (expected, current) {
        (None, Some(current)) => format!("the key is there, in version {current}"),
        (Some(expected), Some(current)) => {
            format!("the key is in version {current}, not in version {expected}")
        }
        (Some(expected), None) => {
            format!("the key isn't there, and version {expected} was expected")
        }
        (None, None) => unreachable!("then it is as expected"),
    }
}

impl From<LookupError> for WriteError {
    fn from(error: LookupError) -> WriteError {
        ProduceError::from(error).into()
    }
}

impl From<BatchError> for WriteError {
    fn from(error: BatchError) -> WriteError {
        ProduceError::from(error).into()
    }
}

impl From<AppendError> for WriteError {
    fn from(error: AppendError) -> WriteError {
        ProduceError::from(error).into()
    }
}

/// What one look at a condition found.
enum Look {
    True(KeyGuard),
    False(WriteError),
}

impl TopicState {
    /// Changes keys, all of them or none, if all conditions are true. Returns where
    /// each record lies, in the order of the writes.
    pub async fn write(
        &self,
        broker: &Broker,
        author: Author,
        writes: &[KeyWrite],
        conditions: &[Condition],
        request: Option<RequestStamp>,
    ) -> Result<Vec<(u32, Offset)>, WriteError> {
        let mut partitions: Vec<u32> = writes.iter().map(|write| write.partition).collect();
        partitions.sort_unstable();
        partitions.dedup();
        let mut checker = BatchChecker::new(broker.clone());
        let mut appends = Vec::with_capacity(partitions.len());
        for &partition in &partitions {
            let of_partition = writes.iter().filter(|write| write.partition == partition);
            let payload = encode(of_partition)?;
            appends.push(checker.check(IncomingBatch {
                author,
                topic: self.topic().meta().name.as_str(),
                partition,
                payload,
                checksum: None,
                sequence: None,
            })?);
        }
        let bases = self.append_if(broker, appends, conditions, request).await?;
        let mut next = bases;
        let place = |write: &KeyWrite| {
            let part = partitions.binary_search(&write.partition);
            let next = &mut next[part.expect("every write has its partition")];
            let offset = *next;
            *next = offset.advanced(1);
            (write.partition, offset)
        };
        Ok(writes.iter().map(place).collect())
    }

    /// Appends batches, all of them or none, if all conditions are true. Returns the
    /// offset of the first record of each. When the request was carried out before, the
    /// answer is that of then.
    pub async fn append_if(
        &self,
        broker: &Broker,
        mut appends: Vec<Append>,
        conditions: &[Condition],
        request: Option<RequestStamp>,
    ) -> Result<Vec<Offset>, WriteError> {
        for append in &mut appends {
            append.batch.stamp = request.map(Stamp::Request);
        }
        loop {
            let guards = match self.guards(broker, conditions).await? {
                Ok(guards) => guards,
                Err(failed) => {
                    // Perhaps by this very request, whose answer was lost.
                    match self.guard_of_repeated(&appends, request.as_ref()) {
                        Some(guard) => vec![guard],
                        None => return Err(failed),
                    }
                }
            };
            let unit = Unit {
                appends: appends.clone(),
                guards,
            };
            let results = broker.engine().append_unit(unit).await;
            let bases: Result<Vec<Offset>, AppendError> = results
                .into_iter()
                .map(|result| result.map(|appended| appended.base_offset))
                .collect();
            match bases {
                Ok(bases) => return Ok(bases),
                Err(AppendError::Conflict(conflict)) => self.await_conflict(conflict).await?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Guards for all conditions, or the first one that isn't true.
    async fn guards(
        &self,
        broker: &Broker,
        conditions: &[Condition],
    ) -> Result<Result<Vec<KeyGuard>, WriteError>, WriteError> {
        let mut guards = Vec::with_capacity(conditions.len());
        for (index, condition) in conditions.iter().enumerate() {
            match self.look(broker, index, condition).await? {
                Look::True(guard) => guards.push(guard),
                Look::False(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(guards))
    }

    async fn look(
        &self,
        broker: &Broker,
        index: usize,
        condition: &Condition,
    ) -> Result<Look, WriteError> {
        let Condition {
            partition,
            ref key,
            expected,
            ..
        } = *condition;
        let handle = self.topic().partition(partition)?;
        let hash = broker.key_hasher().hash(key);
        let guard = |seen| handle.guard(hash, seen);
        // Made while the view stands still: what is placed behind it isn't forgotten yet.
        let (current, guard) = self.view().look(partition, key, guard).await?;
        let end = handle.high_watermark();
        Ok(match expected {
            Expected::Absent if current.is_none() => Look::True(guard),
            Expected::Version(version) if current == Some(version) => Look::True(guard),
            Expected::Version(version) if version >= end => {
                Look::False(WriteError::UnknownVersion {
                    index,
                    expected: version,
                    end,
                })
            }
            Expected::Absent => Look::False(WriteError::Mismatch {
                index,
                expected: None,
                current,
            }),
            Expected::Version(version) => Look::False(WriteError::Mismatch {
                index,
                expected: Some(version),
                current,
            }),
        })
    }

    /// If a request was carried out before: a guard that never holds, so that it is not
    /// carried out again even if it is forgotten at this moment.
    fn guard_of_repeated(
        &self,
        appends: &[Append],
        request: Option<&RequestStamp>,
    ) -> Option<KeyGuard> {
        let request = request?;
        let of_repeated = |append: &Append| {
            let id = append.partition_id();
            let mut partitions = self.topic().partitions().iter();
            let partition = partitions.find(|partition| partition.id() == id)?;
            partition.appended_before(*request)?;
            Some(partition.closed_guard())
        };
        appends.iter().find_map(of_repeated)
    }

    /// Waits until the view knows what got in between.
    async fn await_conflict(&self, conflict: KeyConflict) -> Result<(), WriteError> {
        let partitions = self.topic().partitions().iter();
        let found = (0..)
            .zip(partitions)
            .find(|(_, handle)| handle.id() == conflict.partition);
        let (number, _) = found.expect("conditions are on partitions of the topic");
        Ok(self.view().wait_for(number, conflict.wait_for).await?)
    }
}

/// The records of some writes as one batch.
fn encode<'a>(writes: impl Iterator<Item = &'a KeyWrite>) -> Result<Bytes, BatchError> {
    let mut builder = BatchBuilder::new(Compression::None);
    for write in writes {
        let lease = write.lease.map(|lease| lease.0.get().to_be_bytes());
        let own = write.headers.iter().map(|(name, value)| HeaderRef {
            name,
            value: value.as_deref(),
        });
        let of_lease = lease.as_ref().map(|lease| HeaderRef {
            name: LEASE_HEADER,
            value: Some(lease),
        });
        let headers: Vec<HeaderRef<'_>> = own.chain(of_lease).collect();
        builder.push(&RecordRef {
            key: Some(&write.key),
            value: write.value.as_deref(),
            headers: &headers,
            timestamp_ms: None,
        })?;
    }
    Ok(builder.finish().payload)
}
