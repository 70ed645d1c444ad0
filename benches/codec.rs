//! What the codec costs: records pushed, checked and decoded per second.
//!
//! `cargo bench -p statecast-tests --bench codec`

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use statecast_proto::batch::{
    BatchBuilder, BatchLimits, Compression, RecordRef, check, decode, decode_ref,
};

const RECORDS: u32 = 1000;

fn encode(builder: &mut BatchBuilder, value: &[u8]) -> Bytes {
    for _ in 0..RECORDS {
        builder.push(&RecordRef::of_value(value)).expect("it fits");
    }
    builder.finish().payload
}

fn codec(criterion: &mut Criterion) {
    for size in [100_usize, 1024] {
        let value = vec![7; size];
        let mut builder = BatchBuilder::new(Compression::None);
        let payload = encode(&mut builder, &value);
        let mut group = criterion.benchmark_group("codec");
        group.throughput(Throughput::Elements(u64::from(RECORDS)));
        group.bench_function(BenchmarkId::new("push", size), |bencher| {
            bencher.iter(|| black_box(encode(&mut builder, black_box(&value))));
        });
        group.bench_function(BenchmarkId::new("check", size), |bencher| {
            let limits = BatchLimits::default();
            bencher.iter(|| check(black_box(&payload), &limits, &mut Vec::new()).expect("valid"));
        });
        group.bench_function(BenchmarkId::new("decode", size), |bencher| {
            bencher.iter(|| decode(black_box(payload.clone())).expect("valid").count());
        });
        group.bench_function(BenchmarkId::new("decode_ref", size), |bencher| {
            bencher.iter(|| {
                decode_ref(black_box(&payload))
                    .map(|record| record.expect("valid").value.map_or(0, <[u8]>::len))
                    .sum::<usize>()
            });
        });
        group.finish();
    }
}

criterion_group!(benches, codec);
criterion_main!(benches);
