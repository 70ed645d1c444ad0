//! From a data directory to a broker: open the log, catch up with the topics,
//! remove what deleted ones left behind, learn who produces, open the partitions.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use super::groups::Groups;
use super::internal_log::InternalLog;
use super::leases::LeaseRegistry;
use super::leftovers;
use super::producers::ProducerRegistry;
use super::record_codec::ProtobufRecords;
use super::registry::{Registry, Topic};
use super::{Broker, KEEPER_MAILBOX, Keeper, Shared, StartError};
use crate::clock::Clock;
use crate::limits;
use crate::metadata::{Metadata, PRODUCERS_PARTITION, ReplayError, TOPICS_PARTITION};
use crate::model::KeyHasher;
use crate::partition::{Engine, EngineOptions};
use crate::storage::dir::Dir;
use crate::storage::{RecoveryReport, Storage, StorageOptions};
use crate::views::{ViewStore, Views};

/// What can be chosen.
#[derive(Debug)]
pub struct BrokerOptions {
    /// Where the metadata index lies. It may be deleted whenever the broker
    /// doesn't run.
    pub index_dir: PathBuf,
    /// Bounds of the log on disk.
    pub storage: StorageOptions,
    /// Bounds of the log in memory.
    pub engine: EngineOptions,
    /// The time.
    pub clock: Clock,
}

impl BrokerOptions {
    /// The defaults, with the index in `index_dir` and the machine's clock.
    pub fn new(index_dir: PathBuf) -> BrokerOptions {
        BrokerOptions {
            index_dir,
            storage: StorageOptions::default(),
            engine: EngineOptions::default(),
            clock: Clock::system(),
        }
    }
}

impl Broker {
    /// Opens a data directory, or makes a new one, and starts a broker over it.
    pub async fn open(dir: Arc<dyn Dir>, options: BrokerOptions) -> Result<Broker, StartError> {
        let storage_options = options.storage;
        let open = move || Storage::open(dir, storage_options, random_seed());
        let opened = tokio::task::spawn_blocking(open)
            .await
            .expect("opening doesn't panic");
        let (storage, report) = opened?;
        log_recovery(&report);
        let engine = Engine::start(storage, options.engine, options.clock.clone())
            .map_err(StartError::Threads)?;
        let started = Broker::start(engine.clone(), options).await;
        if started.is_err() {
            // Its threads would live on, and hold the directory's lock.
            engine.stop().await;
        }
        started
    }

    /// Starts a broker over an open log.
    async fn start(engine: Engine, options: BrokerOptions) -> Result<Broker, StartError> {
        let log = InternalLog::open(engine.clone(), TOPICS_PARTITION);
        let mut metadata = Metadata::open(&options.index_dir, engine.cluster_id());
        let topics_damaged = catch_up(&mut metadata, &log).await?;
        leftovers::remove(&engine, &mut metadata, &log).await?;

        let of_producers = InternalLog::open(engine.clone(), PRODUCERS_PARTITION);
        let names = limits::PRODUCER_NAMES;
        let opened = ProducerRegistry::open(&engine, of_producers, names).await;
        let (producers, producer_keeper) = opened?;

        let registry = Arc::new(Registry::default());
        let store = ViewStore::new(&options.index_dir.join("views"), engine.cluster_id());
        let views = Views::new(store.clone());
        let mut viewed = HashSet::new();
        for meta in metadata.topics() {
            let topic = Topic::open(meta.clone(), &engine, &views, None);
            if topic.view().is_some() {
                viewed.extend(meta.partition_ids());
            }
            registry.put(Arc::new(topic));
        }
        if let Err(error) = store.retain(|id| viewed.contains(&id)) {
            tracing::warn!("views of topics that are gone can't be removed: {error}");
        }
        let groups = Groups::start(&engine, &registry, topics_damaged, options.clock.clone());
        let groups = groups.await?;
        engine.begin_upkeep().map_err(StartError::Threads)?;
        engine
            .begin_compaction(Arc::new(ProtobufRecords), random_seed())
            .map_err(StartError::Threads)?;
        let leases = Arc::new(LeaseRegistry::open(&engine).await?);
        let (keeper, commands) = mpsc::channel(KEEPER_MAILBOX);
        let registry_of_keeper = registry.clone();
        let engine_of_keeper = engine.clone();
        let views_of_keeper = views.clone();
        tokio::spawn(async move {
            let engine = engine_of_keeper;
            let keeper = Keeper {
                metadata,
                log,
                registry: registry_of_keeper,
                engine,
                views: views_of_keeper,
            };
            keeper.run(commands).await;
        });
        tokio::spawn(producer_keeper.run());
        let started_ms = options.clock.now_ms();
        let shared = Shared {
            engine,
            clock: options.clock,
            registry,
            groups,
            views,
            leases,
            keeper,
            producers,
            key_hasher: KeyHasher::new(random_seed()),
            checks: Arc::new(Semaphore::new(limits::CHECKS_OFF_RUNTIME)),
            started_ms,
        };
        let shared = Arc::new(shared);
        shared.leases.watch(Arc::downgrade(&shared));
        Ok(Broker { shared })
    }
}

/// What the id of a new data directory is made of, and hashes are keyed with.
fn random_seed() -> u128 {
    // The standard library's hashers are keyed at random.
    let half = || u128::from(RandomState::new().hash_one(std::process::id()));
    half() << 64 | half()
}

fn log_recovery(report: &RecoveryReport) {
    if report.rebuilt_checkpoint {
        tracing::warn!("the checkpoint was lost and has been rebuilt from the segments");
    }
    if let Some(cut) = &report.cut {
        tracing::info!("cut a tail off the journal that was never acknowledged, at {cut:?}");
    }
    for generation in &report.rebuilt_headers {
        tracing::error!("the header of a journal file was damaged and made again: {generation:?}");
    }
    for damage in &report.damage {
        tracing::error!("the journal is damaged, the rest goes on: {damage:?}");
    }
    if report.lost_producers > 0 {
        tracing::error!(
            "what {} partitions knew of their producers was lost with the file `producers`: those that had begun are refused there, and have to begin anew",
            report.lost_producers
        );
    }
    tracing::debug!("replayed {} batches of the journal", report.replayed);
}

/// Applies the records that the index has not seen; all of them when the index
/// turns out not to belong to this log. Returns whether records are lost.
async fn catch_up(metadata: &mut Metadata, log: &InternalLog) -> Result<bool, StartError> {
    let (start, end) = log.range();
    let mut next = metadata.resume_at(start, end);
    let mut damaged = log.is_damaged();
    while next < end {
        let found = log.read(next).await?;
        damaged |= found.damaged;
        next = found.next;
        for record in &found.records {
            match metadata.apply(record) {
                Ok(()) => {}
                Err(error @ ReplayError::Diverged(_)) => {
                    tracing::warn!("{error}: rebuilding the index");
                    metadata.reset();
                    next = start;
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    if damaged {
        tracing::error!(
            "records of topics are damaged on disk: topics may be missing or look as they did before"
        );
    }
    Ok(damaged)
}
