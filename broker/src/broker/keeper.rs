//! The one task that changes topics: appends the record of the change, and once
//! that is durable applies it. A call that is given up leaves no change half
//! done, since the task goes on.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::AdminError;
use super::internal_log::InternalLog;
use super::registry::{Registry, Topic};
use crate::metadata::{CatalogError, Metadata};
use crate::model::{Cleanup, FlushLevel, NewRecord, TopicConfig, TopicName};
use crate::partition::{AppendError, Engine};
use crate::views::Views;

/// What is to be different in a topic's configuration; the rest stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TopicConfigChange {
    /// As [`TopicConfig::retention_ms`].
    pub retention_ms: Option<Option<u64>>,
    /// As [`TopicConfig::retention_bytes`].
    pub retention_bytes: Option<Option<u64>>,
    /// As [`TopicConfig::cleanup`].
    pub cleanup: Option<Cleanup>,
    /// As [`TopicConfig::tombstone_grace_ms`].
    pub tombstone_grace_ms: Option<u64>,
    /// As [`TopicConfig::flush`].
    pub flush: Option<FlushLevel>,
    /// As [`TopicConfig::segment_bytes`].
    pub segment_bytes: Option<u64>,
    /// As [`TopicConfig::max_batch_bytes`].
    pub max_batch_bytes: Option<u32>,
}

impl TopicConfigChange {
    /// `config` with the change. Where nothing is deleted any more, the retention
    /// that there was is gone.
    pub fn applied_to(self, config: &TopicConfig) -> TopicConfig {
        let cleanup = self.cleanup.unwrap_or(config.cleanup);
        let kept = |retention: Option<u64>| retention.filter(|_| cleanup.deletes());
        TopicConfig {
            retention_ms: self.retention_ms.unwrap_or(kept(config.retention_ms)),
            retention_bytes: self.retention_bytes.unwrap_or(kept(config.retention_bytes)),
            cleanup,
            tombstone_grace_ms: self.tombstone_grace_ms.or(config.tombstone_grace_ms),
            flush: self.flush.unwrap_or(config.flush),
            segment_bytes: self.segment_bytes.unwrap_or(config.segment_bytes),
            max_batch_bytes: self.max_batch_bytes.unwrap_or(config.max_batch_bytes),
        }
    }
}

type Reply<T> = oneshot::Sender<Result<T, AdminError>>;

/// What the keeper is asked for.
#[derive(Debug)]
pub(super) enum Command {
    Create {
        name: TopicName,
        partitions: u32,
        config: TopicConfig,
        now_ms: i64,
        reply: Reply<Arc<Topic>>,
    },
    Alter {
        name: TopicName,
        partitions: Option<u32>,
        change: TopicConfigChange,
        reply: Reply<Arc<Topic>>,
    },
    Delete {
        name: TopicName,
        reply: Reply<()>,
    },
    /// No more changes.
    Stop {
        done: oneshot::Sender<()>,
    },
}

/// Owns the metadata.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) metadata: Metadata,
    pub(super) log: InternalLog,
    pub(super) registry: Arc<Registry>,
    pub(super) engine: Engine,
    pub(super) views: Views,
}

impl Keeper {
    /// Serves commands until it is stopped, or nobody can send any more. Whoever
    /// asked may have gone; the answers are for those who stayed.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(command) = commands.recv().await {
            match command {
                Command::Create {
                    name,
                    partitions,
                    config,
                    now_ms,
                    reply,
                } => {
                    let _ = reply.send(self.create(name, partitions, config, now_ms).await);
                }
                Command::Alter {
                    name,
                    partitions,
                    change,
                    reply,
                } => {
                    let _ = reply.send(self.alter(name, partitions, change).await);
                }
                Command::Delete { name, reply } => {
                    let _ = reply.send(self.delete(name).await);
                }
                Command::Stop { done } => {
                    // The index is closed before anybody hears of it.
                    drop(self);
                    let _ = done.send(());
                    return;
                }
            }
        }
    }

    async fn create(
        &mut self,
        name: TopicName,
        partitions: u32,
        config: TopicConfig,
        now_ms: i64,
    ) -> Result<Arc<Topic>, AdminError> {
        let config = config.checked()?;
        let record = self
            .metadata
            .create(name.clone(), partitions, config, now_ms)?;
        self.append(record).await?;
        Ok(self.publish(&name))
    }

    async fn alter(
        &mut self,
        name: TopicName,
        partitions: Option<u32>,
        change: TopicConfigChange,
    ) -> Result<Arc<Topic>, AdminError> {
        let not_found = || CatalogError::NotFound(name.clone());
        let now = self.metadata.topic(&name).ok_or_else(not_found)?.config;
        let config = change.applied_to(&now);
        now.check_change(&config)?;
        let config = config.checked()?;
        if let Some(record) = self.metadata.alter(&name, partitions, config)? {
            self.append(record).await?;
        }
        Ok(self.publish(&name))
    }

    async fn delete(&mut self, name: TopicName) -> Result<(), AdminError> {
        let record = self.metadata.delete(&name)?;
        let meta = self.metadata.topic(&name).cloned();
        self.append(record).await?;
        self.registry.remove(&name);
        let ids = meta.iter().flat_map(|meta| meta.partition_ids()).collect();
        // The topic is gone with its record. Files that stay behind now are
        // removed by the next start.
        if let Err(error) = self.engine.delete(ids).await {
            tracing::warn!("files of the deleted topic {name} are left behind: {error}");
        }
        Ok(())
    }

    async fn append(&mut self, record: NewRecord) -> Result<(), AppendError> {
        let record = self.log.append(record).await?;
        self.metadata
            .apply(&record)
            .expect("we wrote the record, and after the last one");
        Ok(())
    }

    /// Lets everyone see the topic as the metadata has it.
    fn publish(&self, name: &TopicName) -> Arc<Topic> {
        let meta = self
            .metadata
            .topic(name)
            .expect("its record was just applied");
        let before = self.registry.get(name.as_str());
        let topic = Topic::open(meta.clone(), &self.engine, &self.views, before.as_deref());
        let topic = Arc::new(topic);
        self.registry.put(topic.clone());
        topic
    }
}
