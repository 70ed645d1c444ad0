//! Consumers under load.

use std::sync::Arc;

use statecast_client::{Client, Error, Reader};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::load;
use super::report::Figures;
use super::workload::{Topics, Workload};
use crate::clock;

/// Produces everything, then reads it with each consumer.
pub(super) async fn consume(
    client: Client,
    workload: Workload,
    topics: Arc<Topics>,
) -> Result<Figures, Error> {
    load::produce(&client, &workload, &topics).await?;
    let before = super::broker(&client).await?;
    let started = clock::instant();
    let mut consumers = JoinSet::new();
    for _ in 0..workload.consumers {
        for topic in topics.names() {
            let reader = workload.reader(&client, topic).until_end();
            let (_, no_target) = watch::channel(u64::MAX);
            consumers.spawn(async move { read(reader.open().await?, no_target).await });
        }
    }
    let records = sum(consumers).await?;
    let figures = Figures::new(records, workload.record_size, started.elapsed());
    Ok(figures.with_broker(&before, &super::broker(&client).await?))
}

/// Produces while each consumer reads what is produced.
pub(super) async fn produce_and_consume(
    client: Client,
    workload: Workload,
    topics: Arc<Topics>,
) -> Result<Figures, Error> {
    let before = super::broker(&client).await?;
    let started = clock::instant();
    let mut consumers = JoinSet::new();
    let mut targets = Vec::new();
    for topic in topics.names() {
        let (target, known) = watch::channel(u64::MAX);
        targets.push(target);
        for _ in 0..workload.consumers {
            let reader = workload.reader(&client, topic).open().await?;
            consumers.spawn(read(reader, known.clone()));
        }
    }
    let produced = load::produce(&client, &workload, &topics).await?;
    for (topic, target) in topics.names().iter().zip(targets) {
        let offsets = client.admin().list_offsets(topic, None).await?;
        target.send_replace(
            offsets
                .iter()
                .map(|partition| partition.high_watermark)
                .sum(),
        );
    }
    let records = produced.records + sum(consumers).await?;
    let mut figures = Figures::new(records, workload.record_size, started.elapsed());
    figures.latency = Some(produced.latency);
    Ok(figures.with_broker(&before, &super::broker(&client).await?))
}

/// Reads, and looks at, records up to the target, once that is known, or to
/// the reader's end. Returns how many.
async fn read(mut reader: Reader, mut target: watch::Receiver<u64>) -> Result<u64, Error> {
    let mut records = 0;
    let mut bytes = 0;
    while records < *target.borrow_and_update() {
        let batch = tokio::select! {
            batch = reader.next_batch() => batch,
            Ok(()) = target.changed() => continue,
        };
        let Some(batch) = batch else {
            break;
        };
        for record in batch?.views() {
            records += 1;
            bytes += record?.value.map_or(0, <[u8]>::len);
        }
    }
    tracing::trace!(records, bytes, "consumer is done");
    Ok(records)
}

async fn sum(mut consumers: JoinSet<Result<u64, Error>>) -> Result<u64, Error> {
    let mut records = 0;
    while let Some(read) = consumers.join_next().await {
        records += read.expect("a consumer of the bench doesn't panic")?;
    }
    Ok(records)
}
