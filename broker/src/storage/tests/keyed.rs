//! Compaction while everything else goes on, and crashes at every step.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use statecast_proto::batch::{self, BatchBuilder, BatchLimits, Compression, RecordRef};

use super::keyed_model::{KeyedPartition, KeyedRecord, check_compacted, read_records};
use super::random::Random;
use super::world::{Gentle, options};
use super::{ProtobufRecords, for_all_seeds};
use crate::model::{CheckedBatch, PartitionId};
use crate::storage::dir::Dir;
use crate::storage::dir::sim::{Fault, SimDir};
use crate::storage::{
    AppendFailure, ArchiveError, Claim, CompactionConfig, CompactionError, Compactor, Damage,
    JournalAppend, Lsn, Pace, PartitionCompaction, PartitionRetention, Storage, inspect_dir,
};

/// Small, so that many are sealed.
const SEGMENT_BYTES: u64 = 2 << 10;

/// A storage with compacted partitions.
struct KeyedWorld {
    storage: Arc<Storage>,
    compactor: Compactor,
    facts: Facts,
}

/// All but the storage: what goes on while a pass is under way.
struct Facts {
    random: Random,
    dir: SimDir,
    partitions: BTreeMap<PartitionId, KeyedPartition>,
    next_partition: u32,
    deleted: Vec<PartitionId>,
    unique: u64,
    now_ms: i64,
    /// The disk is full for a while.
    full: bool,
    config: CompactionConfig,
}

/// Does something else each time that a pass pauses.
struct Meddling<'a> {
    storage: &'a Storage,
    facts: RefCell<&'a mut Facts>,
}

impl Pace for Meddling<'_> {
    fn is_gentle(&self) -> bool {
        self.facts.borrow_mut().random.one_in(2)
    }

    fn pause(&self) {
        let mut facts = self.facts.borrow_mut();
        if facts.random.one_in(3) && !facts.dir.has_crashed() {
            facts.step(self.storage);
        }
    }

    fn is_over(&self) -> bool {
        self.facts.borrow_mut().random.one_in(20)
    }
}

impl KeyedWorld {
    fn new(seed: u64) -> KeyedWorld {
        let dir = SimDir::new();
        let (storage, _) = Storage::open(Arc::new(dir.clone()), options(), u128::from(seed) << 64)
            .expect("a new one opens");
        let mut random = Random::new(seed);
        let graces = [0, 0, 5_000, 50_000];
        let config = CompactionConfig {
            tombstone_grace_ms: graces[usize::try_from(random.between(0, 4)).unwrap()],
            min_dirty_percent: u8::try_from(random.between(0, 60)).unwrap(),
            max_dirty_bytes: 3 * SEGMENT_BYTES,
        };
        let compactor = compactor(&mut random);
        let mut facts = Facts {
            random,
            dir,
            partitions: BTreeMap::new(),
            next_partition: 0,
            deleted: Vec::new(),
            unique: 0,
            now_ms: 1_000_000,
            full: false,
            config,
        };
        for _ in 0..facts.random.between(1, 3) {
            facts.create_partition(&storage);
        }
        KeyedWorld {
            storage: Arc::new(storage),
            compactor,
            facts,
        }
    }

    /// One random step, in which the machine may crash.
    fn step(&mut self) {
        if self.facts.random.one_in(10) {
            let after = self.facts.random.between(0, 60);
            self.facts.dir.fail_after(after, Fault::Crash);
        }
        if self.facts.random.one_in(3) {
            self.compact();
        } else {
            self.facts.step(&self.storage);
        }
        if self.facts.dir.has_crashed() {
            self.reopen();
        }
    }

    /// Compacts a partition while other things happen.
    fn compact(&mut self) {
        let Some(id) = self.facts.some_partition() else {
            return;
        };
        let partition = PartitionCompaction {
            log: self.storage.partition(id),
            config: self.facts.config,
        };
        let now_ms = self.facts.now_ms;
        let meddling = Meddling {
            storage: &self.storage,
            facts: RefCell::new(&mut self.facts),
        };
        let done = self
            .storage
            .compact(&mut self.compactor, &partition, &|| now_ms, &meddling);
        match done {
            Ok(_) => {}
            Err(CompactionError::Write(ArchiveError::NoSpace(_))) if self.facts.full => {}
            Err(error) => assert!(self.facts.dir.has_crashed(), "compaction failed: {error}"),
        }
        if !self.facts.dir.has_crashed() {
            self.facts.check(&self.storage, id);
        }
    }

    fn crash_now(&mut self) {
        self.facts.dir.fail_after(0, Fault::Crash);
        let _ = self.facts.dir.sync_all();
        self.reopen();
    }

    /// Restarts after a crash, perhaps several times.
    fn reopen(&mut self) {
        let facts = &mut self.facts;
        loop {
            let seed = facts.random.next();
            facts.dir = facts.dir.crash(seed);
            facts.dir.set_capacity(None);
            assert_eq!(facts.inspect(), [], "a crash damages nothing");
            if facts.random.one_in(4) {
                let after = facts.random.between(0, 30);
                facts.dir.fail_after(after, Fault::Crash);
            }
            let salt = u128::from(facts.random.next()) << 64;
            match Storage::open(Arc::new(facts.dir.clone()), options(), salt) {
                Ok((storage, _)) => {
                    self.storage = Arc::new(storage);
                    facts.dir.clear_fault();
                    break;
                }
                Err(error) => assert!(facts.dir.has_crashed(), "recovery failed: {error}"),
            }
        }
        self.compactor = compactor(&mut facts.random);
        self.storage
            .delete_partitions(&facts.deleted.clone())
            .expect("no fault is set");
        facts.reconcile(&self.storage);
    }
}

/// One with little memory for keys, at times.
fn compactor(random: &mut Random) -> Compactor {
    let bytes = [200, 2000, 1 << 20][usize::try_from(random.between(0, 3)).unwrap()];
    let seed = u128::from(random.next());
    Compactor::with_key_bytes(Arc::new(ProtobufRecords), seed, bytes)
}

impl Facts {
    fn create_partition(&mut self, storage: &Storage) {
        let id = PartitionId(self.next_partition);
        self.next_partition += 1;
        storage.create_partition(id).lock().segment_bytes = SEGMENT_BYTES;
        self.partitions.insert(id, KeyedPartition::default());
    }

    fn some_partition(&mut self) -> Option<PartitionId> {
        let count = self.partitions.len() as u64;
        let nth = self.random.next().checked_rem(count)?;
        self.partitions
            .keys()
            .nth(usize::try_from(nth).unwrap())
            .copied()
    }

    fn step(&mut self, storage: &Storage) {
        self.now_ms += 1000;
        match self.random.between(0, 30) {
            0..12 => self.append_some(storage),
            12..16 => self.flush(storage),
            16..18 => self.archive(storage),
            18..22 => {
                let _ = storage.close_journal_file();
                self.archive(storage);
            }
            22 => drop(storage.prepare_spare()),
            23 if self.random.one_in(6) => self.delete_partition(storage),
            23 if self.partitions.len() < 4 => self.create_partition(storage),
            24 => self.expire_some(storage),
            25 if !self.full => self.fill_the_disk(storage),
            26 if !self.dir.fault_pending() => assert_eq!(self.inspect(), []),
            _ => self.check_all(storage),
        }
    }

    fn append_some(&mut self, storage: &Storage) {
        for _ in 0..self.random.between(1, 6) {
            let Some(id) = self.some_partition() else {
                return;
            };
            let (batch, records) = self.some_batch();
            let append = JournalAppend {
                log: storage.partition(id),
                batch,
                unit_remaining: 0,
                guards: Vec::new(),
                claim: Claim::User,
            };
            if !self.append(storage, id, &append, records) {
                return;
            }
        }
    }

    /// Says whether the next one may follow.
    fn append(
        &mut self,
        storage: &Storage,
        id: PartitionId,
        append: &JournalAppend,
        mut records: Vec<KeyedRecord>,
    ) -> bool {
        let end = loop {
            match storage.append(std::slice::from_ref(append), self.now_ms) {
                Ok(written) => break written.end,
                Err(AppendFailure::JournalFull) => {
                    self.archive(storage);
                    if self.dir.has_crashed() || self.full {
                        return false;
                    }
                }
                Err(AppendFailure::NoSpace(_)) if self.full => return false,
                // It may be on the disk all the same.
                Err(error) => {
                    assert!(self.dir.has_crashed(), "append failed: {error}");
                    break Lsn(u64::MAX);
                }
            }
        };
        let partition = self.partitions.get_mut(&id).expect("it is there");
        for record in &mut records {
            record.offset += partition.next;
        }
        partition.next += records.len() as u64;
        partition.unacked.push((partition.next, end));
        partition.history.extend(records.iter().cloned());
        partition.records.extend(records);
        !self.dir.has_crashed()
    }

    /// A batch of few keys, and its records with offsets from 0 on.
    fn some_batch(&mut self) -> (CheckedBatch, Vec<KeyedRecord>) {
        // The slowest one is rare.
        let codec = match self.random.between(0, 20) {
            0 => Compression::Zstd,
            1..5 => Compression::Lz4,
            _ => Compression::None,
        };
        let mut builder = BatchBuilder::new(codec);
        let mut records = Vec::new();
        for offset in 0..self.random.between(1, 8) {
            self.unique += 1;
            let filler = match self.random.between(0, 12) {
                0 => self.random.between(400, 900),
                _ => self.random.between(0, 80),
            };
            let mut value = self.unique.to_le_bytes().to_vec();
            value.resize(8 + usize::try_from(filler).unwrap(), 7);
            let key = self.random.between(0, 20).to_le_bytes();
            let key = (!self.random.one_in(40)).then_some(&key[..]);
            let value = (!self.random.one_in(4)).then_some(&value[..]);
            let time = self.random.one_in(3).then_some(self.now_ms - 17);
            builder
                .push(&RecordRef {
                    key,
                    value,
                    timestamp_ms: time,
                    ..RecordRef::default()
                })
                .expect("it is small");
            records.push(KeyedRecord {
                offset,
                key: key.map(Bytes::copy_from_slice),
                value: value.map(Bytes::copy_from_slice),
                time_ms: time.unwrap_or(self.now_ms),
            });
        }
        let payload = builder.finish().payload;
        let summary = batch::check(&payload, &BatchLimits::DEFAULT, &mut Vec::new()).unwrap();
        let batch = CheckedBatch {
            payload_crc: crc32fast::hash(&payload),
            payload,
            record_count: summary.record_count,
            max_timestamp_ms: summary.max_timestamp_ms,
            all_timed: summary.all_timed,
            uncompressed_len: summary.uncompressed_len,
            attributes: summary.compression.number().into(),
            stamp: None,
            key_hashes: Vec::new(),
        };
        (batch, records)
    }

    fn flush(&mut self, storage: &Storage) {
        match storage.flush(storage.written()) {
            Ok(flushed) => self.publish(storage, flushed),
            Err(error) => assert!(self.dir.has_crashed(), "flush failed: {error}"),
        }
    }

    fn publish(&mut self, storage: &Storage, flushed: Lsn) {
        for (&id, partition) in &mut self.partitions {
            let is_done = |&(_, end): &(u64, Lsn)| end <= flushed;
            let done = partition.unacked.partition_point(is_done);
            if let Some((end, _)) = partition.unacked.drain(..done).next_back() {
                partition.acked_end = end;
            }
            storage
                .partition(id)
                .publish(crate::model::Offset(partition.acked_end));
        }
    }

    fn archive(&mut self, storage: &Storage) {
        let pace = Gentle(self.random.one_in(2));
        match storage.archive_oldest(self.now_ms, &pace) {
            Ok(_) => {}
            Err(error) => assert!(self.dir.has_crashed() || self.full, "failed: {error}"),
        }
    }

    fn expire_some(&mut self, storage: &Storage) {
        let Some(id) = self.some_partition() else {
            return;
        };
        self.publish(storage, storage.flushed());
        let by_age = self.random.one_in(2);
        let age = self.random.between(1, 200_000);
        let bytes = self.random.between(SEGMENT_BYTES, 6 * SEGMENT_BYTES);
        let retention = PartitionRetention {
            log: storage.partition(id),
            retention_ms: by_age.then_some(age),
            retention_bytes: (!by_age).then_some(bytes),
        };
        match storage.apply_retention([retention].into_iter(), self.now_ms) {
            Ok(_) => {
                let start = storage.partition(id).lock().log_start.0;
                let partition = self.partitions.get_mut(&id).expect("it is there");
                partition.forget_below(start);
            }
            Err(error) => assert!(self.dir.has_crashed() || self.full, "failed: {error}"),
        }
    }

    fn delete_partition(&mut self, storage: &Storage) {
        if let Some(id) = self.some_partition() {
            self.partitions.remove(&id);
            self.deleted.push(id);
            let _ = storage.delete_partitions(&[id]);
        }
    }

    fn fill_the_disk(&mut self, storage: &Storage) {
        self.full = true;
        self.dir.fill_up_to(self.random.between(0, 12 << 10));
        for _ in 0..self.random.between(1, 6) {
            if !self.dir.has_crashed() {
                self.step(storage);
            }
        }
        if self.random.one_in(2) {
            self.dir.set_capacity(None);
            self.full = false;
        }
    }

    fn check_all(&mut self, storage: &Storage) {
        if self.full {
            self.dir.set_capacity(None);
            self.full = false;
        }
        let ids: Vec<PartitionId> = self.partitions.keys().copied().collect();
        for id in ids {
            self.check(storage, id);
        }
    }

    fn check(&mut self, storage: &Storage, id: PartitionId) {
        if self.dir.has_crashed() {
            return;
        }
        let Some(partition) = self.partitions.get_mut(&id) else {
            return;
        };
        let max_bytes = usize::try_from(self.random.between(1, 3000)).unwrap();
        let found = read_records(storage, id, max_bytes);
        assert_eq!(
            found.high_watermark,
            partition.acked_end.max(found.log_start)
        );
        partition.check(
            id,
            &found,
            Some((self.config.tombstone_grace_ms, self.now_ms)),
        );
        let dropped = storage.dropped(&storage.partition(id));
        let dropped = dropped.expect("no fault is set");
        partition.check_dropped(id, &found, dropped, &mut self.random);
        self.check_time_lookup(storage, id);
    }

    /// A search by time comes upon the first batch that is as young.
    fn check_time_lookup(&mut self, storage: &Storage, id: PartitionId) {
        let partition = &self.partitions[&id];
        let time = self.now_ms - i64::try_from(self.random.between(0, 100_000)).unwrap();
        let found = storage.offset_at_time(&storage.partition(id), time);
        let found = found.expect("no fault is set").map(|offset| offset.0);
        let mut readable = partition.records.iter();
        let start = storage.partition(id).lock().log_start.0;
        let first = readable.find(|record| record.offset >= start && record.time_ms >= time);
        if let Some(first) = first.filter(|first| first.offset < partition.acked_end) {
            let found = found.expect("there is one");
            assert!(found <= first.offset, "{id}: {found} is behind {first:?}");
        }
    }

    /// Takes what recovery made of the partitions as the truth, once it is found
    /// to be what it may be.
    fn reconcile(&mut self, storage: &Storage) {
        for (&id, partition) in &mut self.partitions {
            storage.partition(id).lock().segment_bytes = SEGMENT_BYTES;
            let found = read_records(storage, id, 700);
            let end = found.high_watermark;
            assert!(
                end >= partition.acked_end,
                "{id}: acknowledged records are lost"
            );
            assert!(
                end <= partition.next.max(found.log_start),
                "{id}: out of nowhere"
            );
            partition.records.retain(|record| record.offset < end);
            partition.history.retain(|record| record.offset < end);
            partition.check(id, &found, None);
            let dropped = storage.dropped(&storage.partition(id));
            let dropped = dropped.expect("no fault is set");
            partition.check_dropped(id, &found, dropped, &mut self.random);
            partition.forget_below(found.log_start);
            partition.next = end;
            partition.acked_end = end;
            partition.unacked.clear();
        }
    }

    /// What an inspection calls damage, but for what deleted partitions lack.
    fn inspect(&self) -> Vec<Damage> {
        let dir: Arc<dyn Dir> = Arc::new(self.dir.clone());
        let found = inspect_dir(&dir).expect("no fault is set");
        let lives = |partition: PartitionId| !self.deleted.contains(&partition);
        let files = found.files.into_iter();
        let damage = files
            .filter(|file| file.partition.is_none_or(lives))
            .flat_map(|file| file.damage);
        let counts = |damage: &Damage| match damage {
            Damage::Offsets { partition, .. } => lives(*partition),
            _ => true,
        };
        damage.filter(counts).collect()
    }
}

#[test]
fn compaction_keeps_what_counts_whatever_goes_on_and_crashes() {
    for_all_seeds("compaction", |seed| {
        let mut world = KeyedWorld::new(seed);
        for _ in 0..world.facts.random.between(30, 110) {
            world.step();
        }
        world.crash_now();
        world.facts.append_some(&world.storage);
        world.facts.flush(&world.storage);
        world.facts.check_all(&world.storage);
    });
}

#[test]
fn compaction_neither_hides_damage_nor_adds_to_it() {
    for_all_seeds("compaction of damage", |seed| {
        let mut world = KeyedWorld::new(seed);
        world.facts.config.tombstone_grace_ms = 0;
        for _ in 0..world.facts.random.between(30, 80) {
            world.facts.step(&world.storage);
            if world.facts.random.one_in(10) {
                world.compact();
            }
        }
        world.facts.check_all(&world.storage);
        world.facts.flush(&world.storage);
        world.facts.dir = world.facts.dir.crash(seed);
        for _ in 0..world.facts.random.between(1, 4) {
            world.facts.damage_a_segment();
        }
        let dir = Arc::new(world.facts.dir.clone());
        world.storage = Arc::new(Storage::open(dir, options(), 1).expect("it opens").0);
        world.compactor = compactor(&mut world.facts.random);
        world.facts.config.min_dirty_percent = 0;
        let ids: Vec<PartitionId> = world.facts.partitions.keys().copied().collect();
        for id in ids {
            world.compact_damaged(id);
        }
    });
}

impl KeyedWorld {
    fn compact_damaged(&mut self, id: PartitionId) {
        let before = read_records(&self.storage, id, 900);
        let partition = PartitionCompaction {
            log: self.storage.partition(id),
            config: self.facts.config,
        };
        for _ in 0..3 {
            self.storage
                .compact(&mut self.compactor, &partition, &|| 0, &Gentle(false))
                .expect("damage is no failure");
        }
        let after = read_records(&self.storage, id, 900);
        assert_eq!(after.quarantined, before.quarantined, "{id}");
        check_compacted(id, &before.records, &after.records);
    }
}

impl Facts {
    fn damage_a_segment(&mut self) {
        let mut files = Vec::new();
        for name in self.dir.list(Path::new("partitions")).expect("it lists") {
            let dir = Path::new("partitions").join(name);
            let names = self.dir.list(&dir).expect("it lists");
            files.extend(names.into_iter().map(|name| dir.join(name)));
        }
        let Some(nth) = self.random.next().checked_rem(files.len() as u64) else {
            return;
        };
        let path = &files[usize::try_from(nth).unwrap()];
        let file = self.dir.open(path).expect("it opens");
        let len = file.len().expect("it has a length").max(1);
        match self.random.between(0, 4) {
            0 => self.dir.flip_bit(path, self.random.between(0, len * 8)),
            1 => self
                .dir
                .corrupt_sector(path, self.random.between(0, len.div_ceil(512))),
            2 => self
                .dir
                .break_sector(path, self.random.between(0, len.div_ceil(512))),
            _ => self.dir.remove(path).expect("it is there"),
        }
    }
}
