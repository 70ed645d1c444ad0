//! The way to the groups partition. One task writes for all groups: what comes
//! while it hands something to the log goes into the next batch together. It
//! doesn't wait until that is durable, so that one flush of the journal serves
//! whatever waits for it.
//!
//! While something is on its way, the flush that serves it is running or about to,
//! and what comes now waits for the next one. So the writer lets everybody speak
//! who is ready to, once, before it hands over what there is: else each commit
//! would be a batch of its own, as they trickle in one by one. When nothing is on
//! its way, a commit goes at once.
//!
//! What groups write lies in the log in the order in which they sent it here.

use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, yield_now};

use crate::limits;
use crate::model::NewRecord;

/// Why the log doesn't take something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// No space; a retry helps once there is.
    #[error("the disk is full")]
    DiskFull,
    /// A write or flush failed: nothing is taken until a restart.
    #[error("the log is read-only since a write failed: {0}")]
    ReadOnly(Arc<str>),
    /// The broker is stopping.
    #[error("the broker is stopping")]
    Stopping,
}

/// A future of the log's.
pub type LogFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What resolves once something is durable, or failed.
pub type Durable = LogFuture<Result<(), LogError>>;

/// The groups partition, as the layers above have it.
pub trait GroupLog: Send + Sync + 'static {
    /// Appends records in this order, behind those of the calls before. Resolves
    /// when the log has taken them, which may be long before they are durable.
    fn submit(&self, records: Vec<NewRecord>) -> LogFuture<Result<Durable, LogError>>;
}

/// Records of one group, and who waits for them. Without records it is the last:
/// the writer lets go of the log.
#[derive(Debug)]
struct Write {
    records: Vec<NewRecord>,
    reply: oneshot::Sender<Result<(), LogError>>,
}

/// Sends records to the writer.
#[derive(Debug, Clone)]
pub(super) struct LogWriter {
    queue: mpsc::Sender<Write>,
}

/// What was sent to the writer, to be durable some time.
pub(super) type Written = oneshot::Receiver<Result<(), LogError>>;

impl LogWriter {
    /// Starts the task that writes; it ends once all that was sent is with the log
    /// and nobody can send any more.
    pub(super) fn start(log: Arc<dyn GroupLog>) -> LogWriter {
        // Never full: each group has few on their way.
        let capacity = (limits::GROUPS + 1) * (limits::GROUP_WRITES_IN_FLIGHT + 2);
        let (queue, writes) = mpsc::channel(capacity);
        tokio::spawn(run(log, writes));
        LogWriter { queue }
    }

    /// Appends records in this order, behind those that were sent before.
    pub(super) fn write(&self, records: Vec<NewRecord>) -> Written {
        let (reply, written) = oneshot::channel();
        // When the writer is gone, dropping the reply says so.
        let _ = self.queue.try_send(Write { records, reply });
        written
    }

    /// Waits until all that was sent before is with the log, and ends the task.
    pub(super) async fn end(&self) {
        let _ = outcome(&mut self.write(Vec::new())).await;
    }
}

/// What became of a write.
pub(super) async fn outcome(written: &mut Written) -> Result<(), LogError> {
    written.await.unwrap_or(Err(LogError::Stopping))
}

async fn run(log: Arc<dyn GroupLog>, mut writes: mpsc::Receiver<Write>) {
    let mut last = None;
    let mut on_their_way = JoinSet::new();
    while last.is_none()
        && let Some(Write { mut records, reply }) = writes.recv().await
    {
        if records.is_empty() {
            last = Some(reply);
            break;
        }
        while on_their_way.try_join_next().is_some() {}
        if !on_their_way.is_empty() {
            yield_now().await;
        }
        let mut replies = vec![reply];
        while records.len() < limits::GROUP_RECORDS_AT_ONCE
            && let Ok(next) = writes.try_recv()
        {
            if next.records.is_empty() {
                last = Some(next.reply);
                break;
            }
            records.extend(next.records);
            replies.push(next.reply);
        }
        match log.submit(records).await {
            Ok(durable) => {
                on_their_way.spawn(async move { answer(replies, &durable.await) });
            }
            Err(error) => answer(replies, &Err(error)),
        }
    }
    drop(log);
    on_their_way.detach_all();
    answer(last.into_iter().collect(), &Ok(()));
}

/// A group that ended doesn't wait any more.
fn answer(replies: Vec<oneshot::Sender<Result<(), LogError>>>, outcome: &Result<(), LogError>) {
    for reply in replies {
        let _ = reply.send(outcome.clone());
    }
}
