//! Passes that would cost much for what they do wait for more files, but not for ever.

use super::*;

/// So many that a pass over one file with a little of each isn't worth it.
const PARTITIONS: u32 = 100;

struct Fixture {
    dir: SimDir,
    engine: Engine,
    partitions: Vec<PartitionHandle>,
}

impl Fixture {
    /// Its archiver is the test.
    fn new() -> Fixture {
        let dir = SimDir::new();
        let mut options = options();
        options.journal.size.max_files = 16;
        let (storage, _) = Storage::open(Arc::new(dir.clone()), options, 1 << 96).unwrap();
        let clock = Clock::of(|| 1_000);
        let engine = Engine::start(storage, EngineOptions::default(), clock).unwrap();
        let create = |id| engine.create_partition(PartitionId(id), config(FlushLevel::Os));
        let partitions = (1..=PARTITIONS).map(create).collect();
        Fixture {
            dir,
            engine,
            partitions,
        }
    }

    async fn close_file(&self) {
        for partition in &self.partitions {
            append(&self.engine, partition, b"little").await.unwrap();
        }
        assert!(self.engine.shared.storage.close_journal_file());
    }

    /// Closes a file that the archiver leaves until there are more.
    async fn let_one_file_wait(&self) {
        self.close_file().await;
        assert_eq!(self.archive(), Archived::All);
        assert_eq!(self.engine.archiver_lag(), 1);
    }

    fn archive(&self) -> Archived {
        let later = crate::clock::instant() + Duration::from_secs(600);
        self.engine.shared.archive_until(later)
    }
}

#[tokio::test]
async fn little_of_many_partitions_waits_for_more_files() {
    let fixture = Fixture::new();
    for files in 1..=6 {
        fixture.close_file().await;
        assert_eq!(fixture.archive(), Archived::All);
        assert_eq!(fixture.engine.archiver_lag(), files);
    }
    fixture.close_file().await;
    assert_eq!(fixture.archive(), Archived::All);
    assert_eq!(fixture.engine.archiver_lag(), 0);
    for partition in &fixture.partitions {
        assert_eq!(values(partition).await, [&b"little"[..]; 7]);
    }
    fixture.engine.stop().await;
}

#[tokio::test]
async fn what_waited_until_a_sweep_is_archived() {
    let fixture = Fixture::new();
    for _ in 0..2 {
        fixture.let_one_file_wait().await;
        fixture.engine.shared.sweep(&mut FileAge::default());
        fixture.archive();
        assert_eq!(fixture.engine.archiver_lag(), 0);
    }
    fixture.engine.stop().await;
}

#[tokio::test]
async fn a_producer_that_finds_the_journal_full_waits_for_no_other_files() {
    let fixture = Fixture::new();
    for _ in 0..2 {
        fixture.let_one_file_wait().await;
        assert!(fixture.engine.shared.upkeep.wait_for_archiver());
        fixture.archive();
        assert_eq!(fixture.engine.archiver_lag(), 0);
    }
    fixture.engine.stop().await;
}

#[tokio::test]
async fn a_pass_that_found_no_room_is_tried_again_with_what_there_is() {
    let fixture = Fixture::new();
    fixture.close_file().await;
    fixture.dir.set_capacity(Some(0));
    assert!(fixture.engine.shared.upkeep.wait_for_archiver());
    assert_eq!(fixture.archive(), Archived::Stuck);
    fixture.dir.set_capacity(None);
    assert_eq!(fixture.archive(), Archived::All);
    assert_eq!(fixture.engine.archiver_lag(), 0);
    fixture.engine.stop().await;
}

#[tokio::test]
async fn what_waits_is_archived_when_the_disk_has_no_room_for_a_record_or_for_more_journal_files() {
    let fixture = Fixture::new();
    let engine = &fixture.engine;
    // No file is prepared, so each is made as it is needed.
    fixture.let_one_file_wait().await;
    fixture.dir.fill_up_to(0);
    let refused = append(engine, &fixture.partitions[0], b"x").await;
    assert_eq!(refused, Err(AppendError::DiskFull));
    fixture.dir.set_capacity(None);
    assert_eq!(fixture.archive(), Archived::All);
    assert_eq!(engine.archiver_lag(), 0);

    fixture.let_one_file_wait().await;
    fixture.dir.fill_up_to(1 << 20);
    assert_eq!(
        engine.shared.storage.prepare_spare().unwrap(),
        Prepared::NoRoom
    );
    let preparer = engine.clone();
    let preparer = std::thread::spawn(move || preparer.shared.run_preparer());
    while engine.shared.upkeep.may_gather() {
        std::thread::yield_now();
    }
    fixture.archive();
    assert_eq!(engine.archiver_lag(), 0);
    engine.stop().await;
    preparer.join().unwrap();
}
