//! Sends records: batched per partition, pipelined, in order.
//!
//! A record is encoded once, straight into the batch of its partition
//! (`shared`, `batch`). The transport takes requests from the `outbox` when it
//! has room, as the rules of the `queue` and its `flights` allow; there a batch
//! gets its number (`sequences`, `renumbering`), under the `identity` that the
//! broker gave. The `session` reads the answers (`verdict`) and settles each batch's
//! `completion`, which all its deliveries share; the `expiry` settles what isn't
//! delivered in time.

mod batch;
mod builder;
mod completion;
mod expiry;
mod failures;
mod flights;
mod identity;
#[cfg(test)]
#[path = "tests/model.rs"]
mod model_tests;
mod outbox;
mod queue;
mod renumbering;
mod sequences;
mod session;
mod shared;
mod topics;
mod verdict;

use std::sync::{Arc, Weak};
use std::time::Duration;

use statecast_proto::batch::{EncodedBatch, RecordRef, count};
use tokio::sync::SemaphorePermit;

pub use self::builder::ProducerBuilder;
pub use self::completion::{Delivery, RecordPosition};

use self::builder::ProducerSettings;
use self::shared::{Refused, Shared, Target, wake};
use self::topics::KnownTopic;
#[cfg(doc)]
use crate::Reason;
use crate::client::Client;
use crate::clock;
use crate::error::Error;

/// Encoded size of a record beyond its key, value and headers, at most: tags
/// and lengths, the timestamp.
const RECORD_OVERHEAD: usize = 32;
const HEADER_OVERHEAD: usize = 16;
/// No topic has more; the broker takes as many in all.
const MAX_PARTITIONS: u32 = 100_000;
/// How often the broker is asked whether the topics have more partitions.
const REFRESH_INTERVAL: Duration = Duration::from_secs(60);

/// Sends records to topics. Cheap to clone; clones share the connection, the
/// batches and the order.
///
/// - Each record is appended *exactly once*, and records of one partition in the
///   order in which they were sent, several requests at a time: over lost answers,
///   lost connections and crashes of the broker. What wasn't acknowledged is sent
///   again, and the broker recognises by its number what it has already.
/// - A batch that the broker refuses for now, as when its disk is full, is sent
///   again before anything else. One that it refuses for good fails, and those
///   behind it go on without it.
/// - Every batch carries a checksum that the broker verifies before it
///   appends, and hands to consumers.
///
/// What remains for the caller:
///
/// - A record that fails with [`Error::Timeout`] or [`Error::Connection`] may have
///   been appended, once, and a timeout doesn't keep one from being appended that is
///   on its way. The same is true of [`Reason::ProducerExpired`], when the broker
///   was away for so long that it has forgotten this producer meanwhile (after a
///   day, by default).
/// - Who sends such a record again, or after a restart, sends another one: the
///   numbers are those of one `Producer`, while it lives.
/// - A producer with a name ends those that had it before; they fail with
///   [`Reason::ProducerFenced`], for good. See [`ProducerBuilder::producer_name`].
/// - With [`ProducerBuilder::idempotent`] off, and with a broker that is too old,
///   delivery is *at least once*: a record whose acknowledgement was lost with the
///   connection is appended twice. A batch that was refused for now then fails when
///   a later one of its partition, which was on its way already, is acknowledged
///   first; if that acknowledgement is lost too, both are sent again, and the later
///   records lie before and behind those of the refused batch.
///
/// When the last clone is dropped, what was sent is still delivered in the
/// background while the runtime lives; [`Producer::close`] waits for it.
///
/// ```
/// # statecast_example_broker::run(async |url| {
/// use statecast_client::{Client, RecordRef};
///
/// let client = Client::connect(&url).await?;
/// let producer = client.producer();
/// let delivery = producer.send("orders", &RecordRef::new(b"order-1", b"shipped")).await?;
/// let position = delivery.await?; // durable from here on
/// println!("{position}"); // partition 0, offset 0
/// producer.close().await?;
/// # let orders = client.admin().describe_topic("orders").await?;
/// # let ends = orders.partitions.iter().map(|partition| partition.high_watermark);
/// # assert_eq!(ends.sum::<u64>(), 4);
/// # Ok(()) });
/// ```
#[derive(Debug, Clone)]
pub struct Producer {
    handle: Arc<Handle>,
}

/// Closes the producer with the last clone.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let waker = self.shared.lock().queue.close();
        wake(waker);
    }
}

impl Producer {
    fn start(client: Client, settings: ProducerSettings) -> Self {
        let shared = Arc::new(Shared::new(client, settings));
        tokio::spawn(session::run(session::Task(Arc::clone(&shared))));
        tokio::spawn(refresh(Arc::downgrade(&shared)));
        Self {
            handle: Arc::new(Handle { shared }),
        }
    }

    /// Sends a record to the partition of its key; records without a key share
    /// a partition that changes from batch to batch.
    ///
    /// Returns when the record is queued, which waits only for room in the
    /// buffer, and for the broker to describe the topic the first time. The
    /// [`Delivery`] tells when it is acknowledged. Dropping this future before
    /// it is ready leaves the record unsent.
    pub async fn send(&self, topic: &str, record: &RecordRef<'_>) -> Result<Delivery, Error> {
        self.send_target(topic, Target::Any, record).await
    }

    /// As [`Producer::send`], to a partition of the caller's choice.
    pub async fn send_to(
        &self,
        topic: &str,
        partition: u32,
        record: &RecordRef<'_>,
    ) -> Result<Delivery, Error> {
        self.send_target(topic, Target::Partition(partition), record)
            .await
    }

    /// Sends a batch that the caller encoded; goes out as it is. The delivery
    /// is that of its first record, the others follow without gaps.
    ///
    /// It goes without lingering, and so does everything that was sent before
    /// it. Fails with [`Error::InvalidInput`] when its checksum or its count of
    /// records isn't that of its payload.
    pub async fn send_batch(
        &self,
        topic: &str,
        partition: u32,
        batch: EncodedBatch,
    ) -> Result<Delivery, Error> {
        if statecast_proto::checksum(&batch.payload) != batch.checksum {
            return Err(Error::invalid("the batch has a wrong checksum"));
        }
        // By the count the next batch is numbered. What can't be read at all, the
        // broker refuses.
        if count(&batch.payload).is_ok_and(|count| count != batch.record_count.into()) {
            return Err(Error::invalid("the batch has a wrong count of records"));
        }
        let shared = &self.handle.shared;
        loop {
            let (cost, permit) = self.admit(batch.payload.len()).await?;
            match shared.push_batch(topic, partition, batch.clone(), cost) {
                Ok(delivery) => {
                    permit.forget();
                    return Ok(delivery);
                }
                // Others need the room while the broker is asked.
                Err(Refused::UnknownTopic) => drop(permit),
                Err(Refused::Error(error)) => return Err(error),
            }
            self.learn(topic).await?;
        }
    }

    /// Waits until everything that was sent before is settled, and sends it
    /// without lingering.
    ///
    /// Fails with the first failure among it, or with an earlier one that nobody
    /// was told of yet: no [`Delivery`] of its batch was awaited or asked, and
    /// no flush told. So whoever drops deliveries learns here that records were
    /// lost; which ones, only the deliveries tell.
    pub async fn flush(&self) -> Result<(), Error> {
        let mut result = Ok(());
        for completion in self.handle.shared.flush() {
            let outcome = completion.delivery(0).await.map(drop);
            result = result.and(outcome);
        }
        result
    }

    /// Takes no more records, from any clone, and waits as [`Producer::flush`].
    pub async fn close(&self) -> Result<(), Error> {
        let waker = self.handle.shared.lock().queue.close();
        wake(waker);
        self.flush().await
    }

    async fn send_target(
        &self,
        topic: &str,
        target: Target,
        record: &RecordRef<'_>,
    ) -> Result<Delivery, Error> {
        let shared = &self.handle.shared;
        loop {
            let (cost, permit) = self.admit(encoded_bound(record)).await?;
            match shared.push(topic, target, record, cost) {
                Ok(delivery) => {
                    permit.forget();
                    return Ok(delivery);
                }
                // Others need the room while the broker is asked.
                Err(Refused::UnknownTopic) => drop(permit),
                Err(Refused::Error(error)) => return Err(error),
            }
            self.learn(topic).await?;
        }
    }

    /// Waits for room in the buffer. What is larger than the whole buffer waits
    /// until it is empty.
    async fn admit(&self, bytes: usize) -> Result<(usize, SemaphorePermit<'_>), Error> {
        let shared = &self.handle.shared;
        let cost = bytes.min(shared.settings.buffer_bytes);
        let permits = u32::try_from(cost).expect("the buffer is smaller than 4 GiB");
        if let Ok(permit) = shared.buffer.try_acquire_many(permits) {
            return Ok((cost, permit));
        }
        let permit = shared.buffer.acquire_many(permits).await;
        Ok((cost, permit.map_err(|_| shared.closed())?))
    }

    #[cold]
    async fn learn(&self, topic: &str) -> Result<(), Error> {
        learn(&self.handle.shared, topic).await
    }
}

/// Asks the broker about a topic.
async fn learn(shared: &Shared, name: &str) -> Result<(), Error> {
    let topic = shared.client.admin().describe_topic(name).await?.topic;
    if topic.partitions > MAX_PARTITIONS {
        return Err(Error::protocol(format_args!(
            "topic {name} is said to have {} partitions",
            topic.partitions
        )));
    }
    let max = topic
        .config
        .max_batch_bytes
        .map_or(usize::MAX, |max| max as usize);
    let batch_bytes = shared.settings.pace.batch_bytes.min(max);
    let seed = u32::try_from(clock::unix_ms() & 0xFFFF).unwrap_or_default();
    let known = KnownTopic::new(name, topic.partitions, batch_bytes, seed);
    shared.lock().topics.learn(known);
    Ok(())
}

/// Keeps the numbers of partitions up to date while the producer lives.
async fn refresh(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(REFRESH_INTERVAL).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let names = shared.lock().topics.names();
        for name in names {
            if let Err(error) = learn(&shared, &name).await {
                tracing::debug!(%error, topic = %name, "topic wasn't described");
            }
        }
    }
}

/// No record is encoded to more than this: bytes.
fn encoded_bound(record: &RecordRef<'_>) -> usize {
    let headers = record.headers.iter();
    let headers = headers.map(|h| HEADER_OVERHEAD + h.name.len() + h.value.map_or(0, <[u8]>::len));
    let key = record.key.map_or(0, <[u8]>::len);
    let value = record.value.map_or(0, <[u8]>::len);
    RECORD_OVERHEAD + key + value + headers.sum::<usize>()
}
