//! What is proven durable and then destroyed: all else must read as before, and
//! what is lost must be named, now and after any restart.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::model::{batch, read_whole};
use super::stamps::{GIVEN_BELOW, Stamped};
use super::world::{FILE_BYTES, Gentle, SEGMENT_BYTES, World, options};
use crate::model::{Offset, PartitionId};
use crate::storage::dir::sim::SimDir;
use crate::storage::dir::{self, Dir};
use crate::storage::{Claim, JournalAppend, OpenError, Storage, segment};

const PAGE: u64 = dir::PAGE as u64;

impl World {
    /// Destroys something that is proven durable, then restarts: all else must
    /// read as before, and what is lost must be named.
    pub(super) fn damage_and_crash(&mut self) {
        self.append_some();
        self.flush();
        self.append_some();
        self.flush();
        if self.random.one_in(2) {
            self.prove();
        }
        let seed = self.random.next();
        self.close();
        self.dir = self.dir.crash(seed);
        self.damage_somewhere();
        self.reopen_damaged();
    }

    /// Restarts once more: what was made of the damage must stay.
    pub(super) fn restart_after_damage(&mut self) {
        self.close();
        self.dir = self.dir.crash(self.random.next());
        self.reopen_damaged();
    }

    fn reopen_damaged(&mut self) {
        let salt = u128::from(self.random.next()) << 64;
        let mut storage = self.open_unless_identity_is_damaged(salt);
        if storage.is_none() {
            self.restore_identity();
        }
        let looks_sound = self.inspect().is_empty();
        storage = storage.or_else(|| self.open_unless_identity_is_damaged(salt));
        self.storage = Some(storage.expect("nothing else keeps it shut"));
        self.storage().resume_producers(1_000_000, GIVEN_BELOW);
        self.storage()
            .delete_partitions(&self.deleted.clone())
            .expect("no fault is set");
        let ids: Vec<PartitionId> = self.model.partitions.keys().copied().collect();
        for id in ids {
            self.storage().partition(id).lock().segment_bytes = SEGMENT_BYTES;
            self.check_damaged(id, looks_sound);
        }
    }

    fn open_unless_identity_is_damaged(&self, salt: u128) -> Option<Storage> {
        match Storage::open(Arc::new(self.dir.clone()), options(), salt) {
            Ok((storage, _)) => Some(storage),
            Err(OpenError::Identity(_)) => None,
            Err(error) => panic!("damage does not keep it shut: {error}"),
        }
    }

    /// What people do who have a copy: it never changes.
    fn restore_identity(&mut self) {
        let path = Path::new("FORMAT");
        let file = self.dir.open(path).expect("it opens");
        file.set_len(0).expect("no fault is set");
        file.write_all_at(&self.identity, 0)
            .expect("no fault is set");
        file.sync_data().expect("no fault is set");
    }

    /// Every acknowledged batch is there, or lies within what is reported.
    /// An inspection that found nothing wrong must be right.
    fn check_damaged(&mut self, id: PartitionId, looked_sound: bool) {
        let found = read_whole(self.storage(), id, 900);
        let model = self
            .model
            .partitions
            .get_mut(&id)
            .expect("the model knows it");
        assert!(
            found.high_watermark >= model.acked_end(),
            "{id}: offsets would be given out again"
        );
        for batch in &model.batches {
            let end = batch.base + batch.count;
            let is_there =
                found
                    .batches
                    .contains(&(batch.base, batch.count, batch.payload.clone()));
            let is_reported = found
                .quarantined
                .iter()
                .any(|&(from, to)| from <= batch.base && end <= to);
            assert!(
                is_there || !looked_sound,
                "{id}: an inspection missed that {} is lost",
                batch.base
            );
            assert!(
                is_there || is_reported,
                "{id}: the batch at {} vanished: {found:?}",
                batch.base
            );
        }
        // Without the checkpoint nobody knows what retention had removed.
        let known = |found: &(u64, u64, Bytes)| {
            let mut placed = model.batches.iter().chain(&model.removed);
            placed.any(|batch| (batch.base, &batch.payload) == (found.0, &found.2))
        };
        assert!(
            found.batches.iter().all(known),
            "{id}: records out of nowhere"
        );
        // What survived is there to stay.
        model.skipped_to = found.high_watermark;
        model.batches.retain(|batch| {
            let lives = |found: &(u64, u64, Bytes)| found.0 == batch.base;
            found.batches.iter().any(lives)
        });
        for batch in &mut model.batches {
            batch.acked = true;
        }
        let survives = |stamped: &Stamped| {
            let mut batches = found.batches.iter();
            stamped.base < found.log_start || batches.any(|batch| batch.0 == stamped.base)
        };
        model.history.retain(survives);
        model.history.is_partial |= !looked_sound;
    }

    /// Flips a bit or destroys a sector in some file. In the journal only below
    /// what is proven durable: above, nobody can tell damage from a torn tail.
    ///
    /// The last sector of a segment is among them, though the archiver goes on in it.
    /// What can't be read of it is lost by that: a disk that lets a part of such a
    /// sector be written has zeros in the rest (a file system may refuse to, which is
    /// a failed write). Were the old bytes there again, a batch that was quarantined
    /// would come back with the next start.
    fn damage_somewhere(&mut self) {
        let mut files: Vec<PathBuf> = vec!["FORMAT".into(), "checkpoint".into()];
        for name in self.dir.list(Path::new("partitions")).expect("it lists") {
            let dir = Path::new("partitions").join(name);
            let names = self.dir.list(&dir).expect("it lists");
            files.extend(names.into_iter().map(|name| dir.join(name)));
        }
        let journals = self.dir.list(Path::new("journal")).expect("it lists");
        files.extend(
            journals
                .into_iter()
                .map(|name| Path::new("journal").join(name)),
        );
        let snapshot = PathBuf::from("producers");
        if self.dir.open(&snapshot).is_ok() {
            if self.random.one_in(10) {
                self.dir.remove(&snapshot).expect("it goes");
                return;
            }
            files.extend(std::iter::repeat_n(snapshot, 2));
        }
        let nth = usize::try_from(self.random.between(0, files.len() as u64)).unwrap();
        let path = &files[nth];
        let len = self
            .dir
            .open(path)
            .expect("it opens")
            .len()
            .expect("it has a length");
        let (bound, sectors) = match path.starts_with("journal") {
            true => (self.proven_bytes(path), self.proven_bytes(path) / 512),
            false => (len, len.div_ceil(512)),
        };
        if bound == 0 {
            return;
        }
        let sector = self.random.between(0, sectors);
        let is_whole = |sector: u64| (sector * 512 / PAGE + 1) * PAGE <= bound;
        match self.random.between(0, 4) {
            0 => self.dir.flip_bit(path, self.random.between(0, bound * 8)),
            1 => self.dir.corrupt_sector(path, sector),
            // All of it, unless what proves the rest lies there, too.
            2 if is_whole(sector) => self.dir.break_page(path, sector),
            _ => self.dir.break_sector(path, sector),
        }
    }

    /// How much at the front of a journal file is proven durable.
    fn proven_bytes(&self, path: &Path) -> u64 {
        let mut header = [0; 4096];
        let file = self.dir.open(path).expect("it opens");
        file.read_at(&mut header, 0).expect("it reads");
        let Some(header) = crate::storage::journal::FileHeader::decode(&header) else {
            return 0;
        };
        match header.generation.cmp(&self.proven.generation()) {
            std::cmp::Ordering::Less => u64::from(FILE_BYTES),
            std::cmp::Ordering::Equal => u64::from(self.proven.position()),
            std::cmp::Ordering::Greater => 0,
        }
    }

    pub(super) fn check_no_offset_was_reused(&self) {
        for &id in self.model.partitions.keys() {
            for (base, _, payload) in read_whole(self.storage(), id, 900).batches {
                if let Some(earlier) = self.durable.get(&(id, base)) {
                    assert_eq!(earlier, &payload, "{id}: offset {base} was given out twice");
                }
            }
        }
    }
}

#[test]
fn batch_that_was_quarantined_stays_so_when_the_archiver_goes_on_in_its_sector() {
    let id = PartitionId(16);
    let archive = |storage: &Storage| {
        for nth in 0..2 {
            let append = JournalAppend {
                log: storage.partition(id),
                batch: batch(nth, 1, 100),
                unit_remaining: 0,
                guards: Vec::new(),
                claim: Claim::User,
            };
            storage.append(&[append], 1_000).unwrap();
        }
        storage.flush(storage.written()).unwrap();
        let log = storage.partition(id);
        let end = log.lock().next_offset;
        log.publish(end);
        storage.close_journal_file();
        storage.archive_oldest(1_000, &Gentle(false)).unwrap();
    };
    let destroy: [fn(&SimDir, &Path); 2] = [
        |dir, path| dir.break_sector(path, 1),
        |dir, path| dir.corrupt_sector(path, 1),
    ];
    for (destroy, run) in destroy.into_iter().zip(1..) {
        let mut dir = SimDir::new();
        let open = |dir: &SimDir| Storage::open(Arc::new(dir.clone()), options(), run << 96);
        let (storage, _) = open(&dir).unwrap();
        archive(&storage);
        archive(&storage);
        drop(storage);
        dir = dir.crash(1);
        // Four batches of 180 bytes: the third one ends, and the last one lies, in the
        // second sector.
        let path = segment::log_path(id, Offset::ZERO);
        let len = dir.open(&path).unwrap().len().unwrap();
        assert_eq!(len, 64 + 4 * 180, "it is not full");
        destroy(&dir, &path);
        for restart in 0..3 {
            let (storage, report) = open(&dir).unwrap();
            assert_eq!(report.damage, [], "the journal is as it was");
            let whole = read_whole(&storage, id, 900);
            assert_eq!(whole.quarantined, [(2, 3), (3, 4)], "restart {restart}");
            assert_eq!(whole.high_watermark, 4 + 2 * restart);
            archive(&storage);
            let whole = read_whole(&storage, id, 900);
            assert_eq!(whole.quarantined, [(2, 3), (3, 4)], "restart {restart}");
            let read: Vec<u64> = whole.batches.iter().map(|batch| batch.0).collect();
            let expected = (0..6 + 2 * restart).filter(|base| !(2..4).contains(base));
            assert_eq!(read, expected.collect::<Vec<u64>>());
            drop(storage);
            dir = dir.crash(2);
        }
    }
}
