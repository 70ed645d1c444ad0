//! What compaction costs: 256 MiB of records of 200 bytes, of which a tenth are the
//! latest of their key, on a real disk.
//!
//! `cargo bench -p statecast-tests --bench compact`

use std::fs;
use std::sync::Arc;
use std::time::Instant;

use statecast_broker::broker::ProtobufRecords;
use statecast_broker::model::{CheckedBatch, PartitionId};
use statecast_broker::storage::dir::RealDir;
use statecast_broker::storage::{
    Claim, CompactionConfig, Compactor, JournalAppend, Pace, PartitionCompaction, Storage,
    StorageOptions,
};
use statecast_proto::batch::{BatchBuilder, Compression, RecordRef};

const ID: PartitionId = PartitionId(16);
const BYTES: u64 = 256 << 20;
const SEGMENT_BYTES: u64 = 16 << 20;
const VALUE_BYTES: usize = 180;
const RECORDS_PER_BATCH: u64 = 100;

/// Waits for nobody.
struct Alone;

impl Pace for Alone {
    fn is_gentle(&self) -> bool {
        false
    }

    fn pause(&self) {}
}

/// The next batch; its records have keys all over.
fn batch(next: &mut u64, keys: u64) -> CheckedBatch {
    let mut builder = BatchBuilder::new(Compression::None);
    for _ in 0..RECORDS_PER_BATCH {
        // An odd factor reaches every key, in no order.
        let key = (next.wrapping_mul(0x9e37_79b9_7f4a_7c15) % keys).to_le_bytes();
        let mut value = [0xa5; VALUE_BYTES];
        value[..8].copy_from_slice(&next.to_le_bytes());
        builder.push(&RecordRef::new(&key, &value)).expect("small");
        *next += 1;
    }
    let built = builder.finish();
    CheckedBatch {
        payload_crc: built.checksum,
        uncompressed_len: u32::try_from(built.payload.len()).expect("small"),
        record_count: built.record_count,
        payload: built.payload,
        max_timestamp_ms: None,
        all_timed: false,
        attributes: 0,
        stamp: None,
        key_hashes: Vec::new(),
    }
}

/// Fills the sealed segments of a partition; returns how many records it has.
fn fill(storage: &Storage) -> u64 {
    let log = storage.partition(ID);
    log.lock().segment_bytes = SEGMENT_BYTES;
    let records = BYTES / (VALUE_BYTES as u64 + 20);
    let mut next = 0;
    while next < records {
        let append = |_| JournalAppend {
            log: log.clone(),
            batch: batch(&mut next, records / 10),
            unit_remaining: 0,
            guards: Vec::new(),
            claim: Claim::User,
        };
        let group: Vec<JournalAppend> = (0..100).map(append).collect();
        let mut rest = &group[..];
        while !rest.is_empty() {
            match storage.append(rest, 1) {
                Ok(written) => rest = &rest[written.placed.len()..],
                Err(_) => drop(storage.archive_oldest(1, &Alone).expect("it archives")),
            }
        }
    }
    storage.flush(storage.written()).expect("it flushes");
    storage.close_journal_file();
    while storage.archive_oldest(1, &Alone).expect("it archives") > 0 {}
    let end = log.lock().next_offset;
    log.publish(end);
    next
}

/// Memory that the process holds, and has held at most: MiB.
fn memory(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with(field));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<u64>().ok()).expect("KiB") >> 10
}

fn main() {
    // Beside the build, not on a memory disk as the system's may be.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let disk = RealDir::take(dir.path()).expect("it is ours");
    let (storage, _) = Storage::open(Arc::new(disk), StorageOptions::default(), 1).expect("opens");
    let records = fill(&storage);
    let partition = PartitionCompaction {
        log: storage.partition(ID),
        config: CompactionConfig {
            tombstone_grace_ms: 0,
            min_dirty_percent: 50,
            max_dirty_bytes: u64::MAX,
        },
    };
    let mut compactor = Compactor::new(Arc::new(ProtobufRecords), 1);
    for what in ["the first pass", "once more, with as much again"] {
        if what != "the first pass" {
            fill(&storage);
        }
        // What is held at most is counted from here.
        fs::write("/proc/self/clear_refs", "5").expect("Linux");
        let before = memory("VmRSS");
        #[allow(clippy::disallowed_methods, reason = "it measures")]
        let begun = Instant::now();
        let done = storage
            .compact(&mut compactor, &partition, &|| 1, &Alone)
            .expect("it compacts")
            .expect("it pays");
        let seconds = begun.elapsed().as_secs_f64();
        let read = done.read_bytes as f64 / 1e6;
        println!(
            "{what}: {records} records, {seconds:.2} s, {:.0} MB/s read, {:.0} MB written, {} dropped, {} MiB of memory at most",
            read / seconds,
            done.written_bytes as f64 / 1e6,
            done.dropped_records,
            memory("VmHWM") - before,
        );
    }
}
