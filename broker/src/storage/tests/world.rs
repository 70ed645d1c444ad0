//! A storage on a simulated disk, its model, and the steps that both take.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::group::Group;
use super::guards::{Guarded, Held, KnownKeys, some_keys};
use super::model::{Model, ModelBatch, ModelPartition, batch, read_whole};
use super::random::Random;
use super::stamps::{Epochs, Expected, Stamped};
use crate::model::{CheckedBatch, KeyHash, Offset, PartitionId, StoredStamp};
use crate::storage::dir::Dir;
use crate::storage::dir::sim::{Fault, SimDir};
use crate::storage::{
    AppendFailure, ArchiveError, Claim, Damage, JournalAppend, JournalOptions, JournalSize,
    KeyGuard, Lsn, Pace, PartitionRetention, Placed, Storage, StorageOptions, inspect_dir,
};

pub(super) const FILE_BYTES: u32 = 16 << 10;
pub(super) const SEGMENT_BYTES: u64 = 6 << 10;

pub(super) fn options() -> StorageOptions {
    StorageOptions {
        journal: JournalOptions {
            size: JournalSize {
                file_bytes: FILE_BYTES,
                max_files: 6,
                spares: 2,
            },
            max_frames_per_file: 64,
            tail_bytes: 4 << 10,
        },
        open_segments: 3,
        growing_segments: 3,
    }
}

/// A pace for a disk that is never slow.
pub(in crate::storage) struct Gentle(pub(in crate::storage) bool);

impl Pace for Gentle {
    fn is_gentle(&self) -> bool {
        self.0
    }

    fn pause(&self) {}
}

pub(super) struct World {
    pub(super) random: Random,
    pub(super) dir: SimDir,
    /// What `FORMAT` holds.
    pub(super) identity: Vec<u8>,
    /// `None` only while it is replaced.
    pub(super) storage: Option<Storage>,
    pub(super) model: Model,
    next_partition: u32,
    /// Deleted, as the metadata would say: recovery is told again.
    pub(super) deleted: Vec<PartitionId>,
    unique: u64,
    pub(super) now_ms: i64,
    /// The last append or proof said so: everything before this is proven durable.
    pub(super) proven: Lsn,
    /// Every payload that was ever placed durably, by partition and offset.
    pub(super) durable: BTreeMap<(PartitionId, u64), Bytes>,
    /// The disk is full for a while: what is refused for that is no error.
    pub(super) full: bool,
    /// What goes wrong in this step, if its time comes.
    pub(super) fault: Option<Fault>,
    /// Is added to the ids of producers.
    pub(super) id_offset: u64,
    pub(super) epochs: Epochs,
    /// The keys that partitions remember.
    pub(super) known_keys: KnownKeys,
    /// Guards that were made, and not used yet.
    pub(super) held: Vec<Held>,
}

/// An append, as the model sees it.
pub(super) struct Fact {
    pub(super) id: PartitionId,
    pub(super) payload: Bytes,
    pub(super) count: u64,
    pub(super) unit: u64,
    pub(super) time_ms: i64,
    pub(super) stamp: Option<StoredStamp>,
    pub(super) keys: Vec<KeyHash>,
    pub(super) expected: Expected,
}

/// The latest time of a record: one that carries none has that of the append.
fn latest_time(batch: &CheckedBatch, now_ms: i64) -> i64 {
    let given = batch.max_timestamp_ms.unwrap_or(now_ms);
    match batch.all_timed {
        true => given,
        false => given.max(now_ms),
    }
}

impl World {
    pub(super) fn new(seed: u64) -> World {
        let dir = SimDir::new();
        let (storage, _) = Storage::open(Arc::new(dir.clone()), options(), u128::from(seed) << 64)
            .expect("a new one opens");
        let identity = storage.identity().render().into_bytes();
        let mut world = World {
            random: Random::new(seed),
            dir,
            identity,
            storage: Some(storage),
            model: Model::default(),
            next_partition: 0,
            deleted: Vec::new(),
            unique: 0,
            now_ms: 1_000_000,
            proven: Lsn::ZERO,
            durable: BTreeMap::new(),
            full: false,
            fault: None,
            id_offset: 0,
            epochs: Epochs::default(),
            known_keys: KnownKeys::default(),
            held: Vec::new(),
        };
        for _ in 0..world.random.between(1, 6) {
            world.create_partition();
        }
        world
    }

    pub(super) fn storage(&self) -> &Storage {
        self.storage.as_ref().expect("it is open")
    }

    pub(super) fn step_without_fault(&mut self) {
        self.now_ms += 1000;
        match self.random.between(0, 26) {
            0..9 => self.append_some(),
            9..12 => self.flush(),
            12..15 => self.archive(),
            15 => {
                let _ = self.storage().close_journal_file();
            }
            16 if self.random.one_in(3) => {
                let _ = self.storage().trim_spare();
            }
            16 => {
                let _ = self.storage().prepare_spare();
            }
            17 => self.read_somewhere(),
            18 if self.random.one_in(3) => self.delete_partition(),
            18 => self.create_partition(),
            19 => self.expire_some(),
            20 if self.random.one_in(2) => self.storage().expire_producers(self.now_ms),
            20 if !self.full => self.fill_the_disk(),
            21 => self.prove(),
            22 => self.publish_early(),
            23 => self.hold_a_guard(),
            24 => self.forget_some_keys(),
            _ => self.check_all(),
        }
    }

    fn create_partition(&mut self) {
        let id = PartitionId(self.next_partition);
        self.next_partition += 1;
        self.storage().create_partition(id).lock().segment_bytes = SEGMENT_BYTES;
        self.model.partitions.insert(id, ModelPartition::default());
    }

    pub(super) fn some_partition(&mut self) -> Option<PartitionId> {
        let count = self.model.partitions.len() as u64;
        if count == 0 {
            return None;
        }
        let nth = usize::try_from(self.random.between(0, count)).unwrap();
        self.model.partitions.keys().nth(nth).copied()
    }

    fn delete_partition(&mut self) {
        let Some(id) = self.some_partition() else {
            return;
        };
        // The metadata's record of it is durable before storage is told.
        self.model.partitions.remove(&id);
        self.known_keys.remove(id);
        self.deleted.push(id);
        let _ = self.storage().delete_partitions(&[id]);
    }

    pub(super) fn append_some(&mut self) {
        let Some(group) = self.some_group() else {
            return;
        };
        let Group {
            appends,
            facts,
            guards,
            ..
        } = group;
        self.append_group(&appends, &facts);
        drop(appends);
        for guarded in guards {
            self.known_keys.unpin(&guarded);
        }
    }

    fn append_group(&mut self, group: &[JournalAppend], facts: &[Fact]) {
        let mut done = 0;
        while done < group.len() {
            let flushed = self.storage().flushed();
            match self.storage().append(&group[done..], self.now_ms) {
                Ok(written) => {
                    let has_frame = |placed: &Placed| matches!(placed, Placed::At(_));
                    if written.placed.iter().any(has_frame) {
                        self.proven = flushed;
                    }
                    for (&placed, fact) in written.placed.iter().zip(&facts[done..]) {
                        fact.expected.check(placed);
                        if let Placed::At(base) = placed {
                            self.note_placed(base.0, fact, written.end);
                        }
                    }
                    done += written.placed.len();
                }
                Err(AppendFailure::JournalFull) => {
                    self.archive();
                    if self.dir.has_crashed() || self.full {
                        return;
                    }
                }
                Err(AppendFailure::NoSpace(error)) if !self.dir.has_crashed() => {
                    self.expect_shortage(&error);
                    return;
                }
                Err(error) => {
                    self.expect_failure(&error);
                    // Any part of it may be on the disk.
                    for fact in facts[done..].iter().filter(|f| f.expected == Expected::New) {
                        let next = self.model.partitions[&fact.id].next();
                        self.note_placed(next, fact, Lsn(u64::MAX));
                    }
                    return;
                }
            }
        }
    }

    /// `None` if there is no partition.
    fn some_group(&mut self) -> Option<Group> {
        if self.random.one_in(20) {
            self.begin_epoch();
        }
        // Internal ones may take what is kept for them on a full disk.
        let claim = match self.random.one_in(8) {
            true => Claim::Internal,
            false => Claim::User,
        };
        self.some_partition()?;
        let guards: Vec<Vec<Held>> = (0..self.random.between(1, 5))
            .map(|_| self.some_guards())
            .collect();
        let of = |(id, partition): (&PartitionId, &ModelPartition)| {
            let mut history = partition.history.clone();
            history.next_offset = partition.next();
            (*id, history)
        };
        let histories = self.model.partitions.iter().map(of).collect();
        let mut group = Group {
            appends: Vec::new(),
            facts: Vec::new(),
            guards: Vec::new(),
            claim,
            histories,
            known_keys: self.known_keys.clone(),
        };
        for guards in guards {
            self.add_unit(guards, &mut group);
        }
        Some(group)
    }

    /// Adds a unit with these guards, and what is to become of it.
    fn add_unit(&mut self, guards: Vec<Held>, group: &mut Group) {
        let appends = if self.random.one_in(4) {
            self.random.between(2, 4)
        } else {
            1
        };
        self.unique += 1;
        let unit = self.unique;
        let first = group.facts.len();
        let (guarded, mut guards): (Vec<Guarded>, Vec<KeyGuard>) = guards
            .into_iter()
            .map(|held| (held.guarded, held.guard))
            .unzip();
        for remaining in (0..appends).rev() {
            let id = self.some_partition().expect("there is one");
            let mut batch = self.some_batch();
            if self.random.one_in(2) {
                let history = &group.histories[&id];
                let (stamp, count) = self.some_stamp(history, batch.record_count);
                batch.stamp = Some(stamp);
                batch.record_count = count;
            }
            batch.key_hashes = some_keys(&mut self.random, batch.record_count);
            group.facts.push(Fact {
                id,
                payload: batch.payload.clone(),
                count: u64::from(batch.record_count),
                unit,
                time_ms: latest_time(&batch, self.now_ms),
                stamp: batch.header(Offset::ZERO, 0).stamp(),
                keys: batch.key_hashes.clone(),
                expected: Expected::Open,
            });
            group.appends.push(JournalAppend {
                log: self.storage().partition(id),
                batch,
                unit_remaining: u16::try_from(remaining).unwrap(),
                guards: std::mem::take(&mut guards),
                claim: group.claim,
            });
        }
        group.expect_unit(first, &guarded, &self.epochs);
        group.guards.extend(guarded);
    }

    fn some_batch(&mut self) -> CheckedBatch {
        self.unique += 1;
        let filler = match self.random.between(0, 10) {
            0 => self.random.between(1000, 4000),
            1..4 => self.random.between(100, 600),
            _ => self.random.between(0, 60),
        };
        let records = u32::try_from(self.random.between(1, 5)).unwrap();
        let mut batch = batch(self.unique, records, usize::try_from(filler).unwrap());
        if self.random.one_in(2) {
            batch.max_timestamp_ms = Some(self.some_time());
            batch.all_timed = self.random.one_in(2);
        }
        batch
    }

    fn note_placed(&mut self, base: u64, fact: &Fact, end: Lsn) {
        let id = fact.id;
        let partition = self
            .model
            .partitions
            .get_mut(&id)
            .expect("the model knows it");
        assert_eq!(base, partition.next(), "{id}: offsets are dense");
        self.known_keys.note(id, base, &fact.keys);
        let count = fact.count;
        if let Some(stamp) = fact.stamp {
            let stamped = Stamped { stamp, base, count };
            partition.history.check_is_new(stamped);
            partition.history.push(stamped);
        }
        partition.batches.push(ModelBatch {
            base,
            count,
            payload: fact.payload.clone(),
            end,
            acked: false,
            time_ms: fact.time_ms,
            unit: fact.unit,
        });
    }

    pub(super) fn flush(&mut self) {
        let written = self.storage().written();
        match self.storage().flush(written) {
            Ok(flushed) => self.publish(flushed),
            Err(error) => self.expect_failure(&error),
        }
    }

    /// As a broker does that is idle, or stops.
    pub(super) fn prove(&mut self) {
        match self.storage().prove_flushed() {
            Ok(()) => self.proven = self.storage().flushed(),
            Err(error) => self.expect_failure(&error),
        }
    }

    /// As for a topic that doesn't wait for a flush.
    fn publish_early(&mut self) {
        let Some(id) = self.some_partition() else {
            return;
        };
        let model = self.model.partitions.get_mut(&id).expect("it is there");
        model.published = model.next();
        self.publish(Lsn::ZERO);
    }

    fn publish(&mut self, flushed: Lsn) {
        self.model.acknowledge(flushed);
        for (&id, partition) in &self.model.partitions {
            self.storage()
                .partition(id)
                .publish(self.model.high_watermark(id));
            for batch in partition.batches.iter().filter(|batch| batch.acked) {
                self.durable.insert((id, batch.base), batch.payload.clone());
            }
        }
    }

    pub(super) fn archive(&mut self) {
        let pace = Gentle(self.random.one_in(2));
        match self.storage().archive_oldest(self.now_ms, &pace) {
            Ok(_) => {}
            Err(error @ ArchiveError::NoSpace(_)) => self.expect_shortage(&error),
            Err(error) => self.expect_failure(&error),
        }
    }

    /// Retention of one partition.
    fn expire_some(&mut self) {
        let Some(id) = self.some_partition() else {
            return;
        };
        // Archived records may be removed: those who wait for them know by then.
        self.publish(self.storage().flushed());
        let log = self.storage().partition(id);
        let before = log.lock().log_start.0;
        let by_age = self.random.one_in(2);
        let age = self.random.between(1, 60_000);
        let bytes = self.random.between(0, 3 * SEGMENT_BYTES);
        let retention = PartitionRetention {
            log: log.clone(),
            retention_ms: by_age.then_some(age),
            retention_bytes: (!by_age).then_some(bytes),
        };
        match self
            .storage()
            .apply_retention([retention].into_iter(), self.now_ms)
        {
            Ok(_) => {
                let start = log.lock().log_start.0;
                let now_ms = self.now_ms;
                let model = self.model.partitions.get_mut(&id).expect("it is there");
                assert!(
                    start <= model.visible_end(),
                    "{id}: unpublished records went"
                );
                let is_young = |batch: &ModelBatch| batch.time_ms >= now_ms - age.cast_signed();
                let is_gone = |batch: &ModelBatch| (before..start).contains(&batch.base);
                let mut batches = model.batches.iter();
                let young_went = batches.any(|batch| is_gone(batch) && is_young(batch));
                assert!(!(by_age && young_went), "{id}: young records went");
                model.forget_below(start);
            }
            // A crash may bring back what seemed to be gone.
            Err(error) => self.expect_retention_failure(&error),
        }
    }

    /// A few steps on a disk with little room.
    fn fill_the_disk(&mut self) {
        self.full = true;
        self.dir.fill_up_to(self.random.between(0, 24 << 10));
        for _ in 0..self.random.between(1, 6) {
            if !self.dir.has_crashed() && !self.has_failed() {
                self.step_without_fault();
            }
        }
        self.dir.set_capacity(None);
        self.full = false;
    }

    fn read_somewhere(&mut self) {
        if let Some(id) = self.some_partition() {
            self.check(id);
        }
    }

    /// Everything that was acknowledged reads as it was written, and nothing else.
    pub(super) fn check_all(&mut self) {
        if self.dir.has_crashed() {
            return;
        }
        let ids: Vec<PartitionId> = self.model.partitions.keys().copied().collect();
        for id in ids {
            self.check(id);
        }
    }

    fn check(&mut self, id: PartitionId) {
        if self.dir.has_crashed() {
            return;
        }
        self.read_with_fault(id);
        let max_bytes = usize::try_from(self.random.between(1, 3000)).unwrap();
        let time_ms = self.some_time();
        // Reads don't count as operations: none meets a crash set for later.
        let found = read_whole(self.storage(), id, max_bytes);
        let model = &self.model.partitions[&id];
        let expected: Vec<_> = model
            .batches
            .iter()
            .filter(|batch| batch.base >= found.log_start && batch.base < model.visible_end())
            .map(|batch| (batch.base, batch.count, batch.payload.clone()))
            .collect();
        assert!(found.log_start >= model.log_start, "{id}: log start");
        assert_eq!(
            found.high_watermark,
            model.visible_end(),
            "{id}: high watermark"
        );
        assert_eq!(found.quarantined, [], "{id}: nothing was damaged");
        assert_eq!(found.batches, expected, "{id}");
        let log = self.storage().partition(id);
        let at_time = self.storage().offset_at_time(&log, time_ms);
        assert_eq!(
            at_time.expect("reading works"),
            model.offset_at_time(found.log_start, time_ms),
            "{id}: {time_ms}"
        );
    }

    /// A time that records may have: mostly in the past.
    fn some_time(&mut self) -> i64 {
        self.now_ms + 10_000 - self.random.between(0, 100_000).cast_signed()
    }

    pub(super) fn reconcile(&mut self) {
        let mut before = self.model.clone();
        let ids: Vec<PartitionId> = self.model.partitions.keys().copied().collect();
        for id in ids {
            self.storage().partition(id).lock().segment_bytes = SEGMENT_BYTES;
            let found = read_whole(self.storage(), id, 700);
            self.model.reconcile(id, &found);
            let of_before = before.partitions.get_mut(&id).expect("it was there");
            of_before.forget_below(found.log_start);
        }
        self.check_units(&before);
        self.publish(Lsn::ZERO);
    }

    /// Each unit is there as a whole, or not at all.
    fn check_units(&self, before: &Model) {
        let count = |model: &Model| {
            let mut units: BTreeMap<u64, usize> = BTreeMap::new();
            let batches = model
                .partitions
                .values()
                .flat_map(|partition| &partition.batches);
            for batch in batches {
                *units.entry(batch.unit).or_default() += 1;
            }
            units
        };
        let before = count(before);
        for (unit, found) in count(&self.model) {
            assert_eq!(found, before[&unit], "unit {unit} is torn");
        }
    }

    /// What an inspection calls damage. What a deleted partition lacks is none.
    pub(super) fn inspect(&self) -> Vec<Damage> {
        let dir: Arc<dyn Dir> = Arc::new(self.dir.clone());
        let found = inspect_dir(&dir).expect("no fault is set");
        let of_deleted = |partition: PartitionId| self.deleted.contains(&partition);
        let files = found.files.into_iter();
        let files = files.filter(|file| !file.partition.is_some_and(of_deleted));
        let damage = files.flat_map(|file| file.damage);
        let counts = |damage: &Damage| match damage {
            Damage::Offsets { partition, .. } => !of_deleted(*partition),
            _ => true,
        };
        damage.filter(counts).collect()
    }
}
