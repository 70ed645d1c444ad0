//! What an append costs below gRPC: the journal, its flush and the archiver, on
//! a real disk.
//!
//! `cargo bench -p statecast-tests --bench append`

use std::sync::Arc;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use statecast_broker::clock::Clock;
use statecast_broker::model::{CheckedBatch, FlushLevel, PartitionId, ProducerStamp, Stamp};
use statecast_broker::partition::{Append, Engine, EngineOptions, PartitionConfig};
use statecast_broker::storage::dir::RealDir;
use statecast_broker::storage::{Storage, StorageOptions};

/// Submissions under way at once.
const WINDOW: usize = 8;

fn batch(len: usize) -> CheckedBatch {
    let payload = Bytes::from(vec![0xa5; len]);
    CheckedBatch {
        payload_crc: crc32fast::hash(&payload),
        uncompressed_len: u32::try_from(len).expect("small"),
        payload,
        record_count: 1,
        max_timestamp_ms: None,
        all_timed: false,
        attributes: 0,
        stamp: None,
        key_hashes: Vec::new(),
    }
}

/// One of the batches of a producer, which has a record each.
fn stamp(id: u32, base_sequence: u32) -> Stamp {
    Stamp::Producer(ProducerStamp {
        id: id.into(),
        epoch: 0,
        base_sequence,
        fence: None,
    })
}

fn config(flush: FlushLevel) -> PartitionConfig {
    PartitionConfig {
        flush,
        segment_bytes: 128 << 20,
        retention_ms: None,
        retention_bytes: None,
        compaction: None,
        internal: false,
    }
}

fn append(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    // Beside the build, not on a memory disk as the system's may be.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let real = RealDir::take(dir.path()).expect("it is ours");
    let (storage, _) = Storage::open(Arc::new(real), StorageOptions::default(), 1).expect("opens");
    let engine = Engine::start(storage, EngineOptions::default(), Clock::system()).expect("starts");
    let mut next = 0;
    let mut group = criterion.benchmark_group("append");
    let levels = [
        ("os", FlushLevel::Os, false),
        ("os, numbered", FlushLevel::Os, true),
        ("always", FlushLevel::Always, false),
        ("always, numbered", FlushLevel::Always, true),
    ];
    for (level, flush, is_numbered) in levels {
        for (size, per_submission) in [(1_000_000, 1), (100_000, 1), (200, 1000), (1024, 1)] {
            next += 1;
            let partition = engine.create_partition(PartitionId(next), config(flush));
            let batch = batch(size);
            let mut sequence = 0;
            let mut one = || {
                let mut batch = batch.clone();
                batch.stamp = is_numbered.then(|| stamp(next, sequence));
                sequence += 1;
                Append::new(&partition, batch)
            };
            group.throughput(Throughput::Bytes((size * per_submission * WINDOW) as u64));
            let name = format!("{level}/{size}x{per_submission}");
            group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                bencher.iter(|| {
                    runtime.block_on(async {
                        let mut answers = Vec::with_capacity(WINDOW);
                        for _ in 0..WINDOW {
                            let appends = (0..per_submission).map(|_| one()).collect();
                            answers.push(engine.submit(appends).await.expect("it is open"));
                        }
                        for answer in answers {
                            for result in answer.await.expect("answered") {
                                result.expect("appended");
                            }
                        }
                    });
                });
            });
            runtime
                .block_on(engine.delete(vec![PartitionId(next)]))
                .expect("deleted");
        }
    }
    group.finish();
    runtime.block_on(engine.stop());
}

criterion_group!(benches, append);
criterion_main!(benches);
