//! The async shell over `state`: keeps the view of each compacted topic up to date
//! with its log, answers what is true now, and tells watchers of every change.
//!
//! One task follows each topic (`follower`). What it reads it applies to the view and
//! hands to those who watch, under one lock (`gate`): so a watcher that registers
//! knows from which offset on it is told, and an offset is either in the view or
//! will be told, never both and never neither.

mod behind;
mod decode;
mod follower;
mod gate;
mod history;
mod locate;
mod lookup;
mod outbox;
mod saving;
mod snapshot;
mod store;
mod topic_view;
mod unpack;
mod watch;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::limits;
use crate::partition::{PartitionHandle, ReadError};
use crate::state::ViewMemory;

pub use crate::state::{Filter, LeaseId};
pub use decode::{Change, LEASE_HEADER, lease_of_header};
pub use lookup::{Found, LeasedBound, LeasedKeys, Page, PageRequest};
pub use store::ViewStore;
pub use topic_view::TopicView;
pub use watch::{Watch, WatchEvent, WatchStart};

use outbox::OutboxMemory;
use saving::Saving;
use topic_view::{Reading, Shared};

/// What the views of all topics have in common.
#[derive(Debug, Clone)]
pub struct Views {
    memory: Arc<ViewMemory>,
    outboxes: Arc<OutboxMemory>,
    saving: Saving,
    reading: Reading,
    /// What is followed, as far as it is still there.
    followed: Arc<Mutex<Vec<Weak<Shared>>>>,
    followers: TaskTracker,
    stopping: CancellationToken,
}

impl Views {
    /// With the bounds of [`limits`], saved in `store`.
    pub fn new(store: ViewStore) -> Views {
        Views::with_memory(store, limits::VIEW_KEY_BYTES, limits::VIEW_RECORD_BYTES)
    }

    /// As [`Views::new`], with so many bytes for keys, and for records beside them.
    pub fn with_memory(store: ViewStore, keys: usize, records: usize) -> Views {
        Views {
            memory: Arc::new(ViewMemory::new(keys, records)),
            outboxes: Arc::new(OutboxMemory::new(limits::WATCH_OUTBOXES_BYTES)),
            saving: Saving::new(store),
            reading: Reading::new(),
            followed: Arc::default(),
            followers: TaskTracker::new(),
            stopping: CancellationToken::new(),
        }
    }

    /// Follows the partitions of a topic for as long as somebody has the view.
    pub fn follow(&self, partitions: &[PartitionHandle]) -> TopicView {
        let memory = self.memory.clone();
        let (saving, outboxes) = (self.saving.clone(), self.outboxes.clone());
        let reading = self.reading.clone();
        let shared = Shared::new(partitions, memory, saving, outboxes, reading);
        let shared = Arc::new(shared);
        let mut followed = self.followed();
        followed.retain(|shared| shared.strong_count() > 0);
        followed.push(Arc::downgrade(&shared));
        drop(followed);
        let follow = follower::run(shared.clone());
        let follow = self.stopping.clone().run_until_cancelled_owned(follow);
        let task = self.followers.spawn(async {
            follow.await;
        });
        TopicView::new(shared, AbortOnDropHandle::new(task))
    }

    /// Follows nothing any more, and saves what there is.
    pub async fn stop(&self) {
        self.stopping.cancel();
        self.followers.close();
        self.followers.wait().await;
        let followed: Vec<_> = self.followed().iter().filter_map(Weak::upgrade).collect();
        // Two would write the same file.
        let _turn = self.saving.turn().await;
        let saving = self.saving.clone();
        let save = move || followed.iter().for_each(|shared| saving.save_all(shared));
        // What a panic leaves unsaved is folded again.
        let _ = tokio::task::spawn_blocking(save).await;
    }

    fn followed(&self) -> MutexGuard<'_, Vec<Weak<Shared>>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that the keys of all views take now, and the records kept beside them.
    pub fn memory_used(&self) -> (usize, usize) {
        self.memory.used()
    }
}

/// Why a view doesn't answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// It hasn't got as far as was asked for, within [`limits::VIEW_WAIT`].
    #[error("the view of partition {partition} is at offset {applied}, not yet at {wanted}")]
    Behind {
        /// Number of the partition.
        partition: u32,
        /// One past the last record that it reflects.
        applied: u64,
        /// What it should have reached.
        wanted: u64,
    },
    /// The keys of all topics take more memory than they may.
    #[error("the keys of all compacted topics take more than {limit} bytes")]
    TooLarge {
        /// Bytes that they may take.
        limit: usize,
    },
    /// The topic was deleted.
    #[error("the topic was deleted")]
    Deleted,
    /// A record that the view knows of can't be read: it is damaged on disk.
    #[error("the record at offset {offset} of partition {partition} is damaged on disk")]
    Damaged {
        /// Number of the partition.
        partition: u32,
        /// Where it lies.
        offset: u64,
    },
    /// The log doesn't hold what was true then any more.
    #[error(
        "partition {partition} doesn't hold the state at offset {asked} any more, only from {earliest} on"
    )]
    StateCompacted {
        /// Number of the partition.
        partition: u32,
        /// What was asked for.
        asked: u64,
        /// From here on it is known.
        earliest: u64,
    },
    /// Changes behind the resume point are missing.
    #[error(
        "partition {partition} doesn't hold all changes from offset {asked} on any more, only from {earliest} on"
    )]
    ResumePointCompacted {
        /// Number of the partition.
        partition: u32,
        /// Where the receiver wanted to go on.
        asked: u64,
        /// From here on nothing is missing.
        earliest: u64,
    },
    /// The resume point lies beyond the end.
    #[error("offset {asked} lies beyond the end {end} of partition {partition}")]
    ResumePointBeyondEnd {
        /// Number of the partition.
        partition: u32,
        /// Where the receiver wanted to go on.
        asked: u64,
        /// One past its last record.
        end: u64,
    },
    /// Reading the log failed.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl fmt::Debug for TopicView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicView").finish_non_exhaustive()
    }
}
