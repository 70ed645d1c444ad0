//! Consumer groups over what the broker has: their log is an internal partition,
//! and they hear which topics there are.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::StartError;
use super::internal_log::InternalLog;
use super::registry::Registry;
use crate::clock::Clock;
use crate::coordinator::{
    Coordinator, Durable, Fold, GroupLog, KnownTopics, LogError, LogFuture, Recovered,
};
use crate::group;
use crate::limits;
use crate::metadata::GROUPS_PARTITION;
use crate::model::NewRecord;
use crate::partition::{AppendError, Engine};

/// The consumer groups of a broker.
#[derive(Debug)]
pub(super) struct Groups {
    coordinator: Coordinator,
    /// Tells groups which topics there are, until it is cancelled.
    watch: TaskTracker,
    unwatched: CancellationToken,
}

impl Drop for Groups {
    fn drop(&mut self) {
        self.unwatched.cancel();
    }
}

impl Groups {
    /// Reads what is known of groups, and goes on with them.
    pub(super) async fn start(
        engine: &Engine,
        registry: &Arc<Registry>,
        topics_damaged: bool,
        clock: Clock,
    ) -> Result<Groups, StartError> {
        let log = InternalLog::open(engine.clone(), GROUPS_PARTITION);
        let (fold, damaged) = fold(&log).await?;
        let recovered = Recovered {
            fold,
            damaged,
            topics_damaged,
            next_partition: registry.next_partition(),
        };
        let (known, topics) = watch::channel(known_topics(registry));
        let coordinator = Coordinator::start(recovered, Arc::new(log), topics, clock);
        let unwatched = CancellationToken::new();
        let watch = TaskTracker::new();
        let watching = watch_topics(registry.clone(), known);
        watch.spawn(unwatched.clone().run_until_cancelled_owned(watching));
        Ok(Groups {
            coordinator,
            watch,
            unwatched,
        })
    }

    /// Ends the groups as they are.
    pub(super) async fn stop(&self) {
        self.coordinator.stop().await;
        self.unwatched.cancel();
        self.watch.close();
        self.watch.wait().await;
    }

    pub(super) fn coordinator(&self) -> &Coordinator {
        &self.coordinator
    }
}

/// Tells which topics there are whenever that changes.
async fn watch_topics(registry: Arc<Registry>, known: watch::Sender<KnownTopics>) {
    loop {
        registry.changed().await;
        known.send_replace(known_topics(&registry));
        // Many topics that are made one after the other are told together.
        tokio::time::sleep(limits::TOPICS_QUIET).await;
    }
}

fn known_topics(registry: &Registry) -> KnownTopics {
    let topic = |topic: Arc<super::Topic>| group::Topic {
        id: topic.meta().id,
        name: topic.meta().name.clone(),
        partitions: topic.partition_count(),
    };
    KnownTopics::new(registry.all().into_iter().map(topic).collect())
}

/// What the records of groups fold to, and whether some are lost.
async fn fold(log: &InternalLog) -> Result<(Fold, bool), StartError> {
    let mut fold = Fold::default();
    let mut damaged = log.is_damaged();
    let (mut next, end) = log.range();
    while next < end {
        let found = log.read(next).await?;
        damaged |= found.damaged;
        next = found.next;
        for record in &found.records {
            fold.apply(record)?;
        }
    }
    if damaged {
        tracing::error!(
            "records of consumer groups are damaged on disk: some may begin anew, or go on where they were before"
        );
    }
    Ok((fold, damaged))
}

impl GroupLog for InternalLog {
    fn submit(&self, records: Vec<NewRecord>) -> LogFuture<Result<Durable, LogError>> {
        let submitted = InternalLog::submit(self, &records);
        Box::pin(async move {
            let durable = submitted.await.map_err(log_error)?;
            let durable: Durable = Box::pin(async { durable.await.map_err(log_error) });
            Ok(durable)
        })
    }
}

fn log_error(error: AppendError) -> LogError {
    match error {
        AppendError::DiskFull => LogError::DiskFull,
        AppendError::ReadOnly(why) => LogError::ReadOnly(why),
        AppendError::Stopping => LogError::Stopping,
        AppendError::Deleted(_)
        | AppendError::Sequence(_)
        | AppendError::Conflict(_)
        | AppendError::UnitTooLarge => {
            unreachable!("internal partitions are never deleted, and no producer numbers this")
        }
    }
}
