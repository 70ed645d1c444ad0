//! What the golden data directory of format version 1 holds. Never changes, as
//! the directory doesn't.

use std::time::Duration;

use bytes::Bytes;
use statecast_client::{Cleanup, FlushLevel, Retention, TopicConfig};
use statecast_proto::batch::{Compression, Header, Record};

/// When it was made: milliseconds since the Unix epoch.
pub const BORN_MS: i64 = 1_700_000_000_000;

/// The id of the data directory.
pub const CLUSTER_ID: u128 = 0x5b1c_6f0d_2a9e_48c7_b3d4_e5f6_0718_293a;

/// Where `readings/0` begins: retention has removed what was before.
pub const READINGS_START: u64 = 96;

/// Records of a batch of readings.
pub const PER_BATCH: u64 = 8;

/// Batches of `readings/0` that are, or were, in segments.
pub const ARCHIVED_READINGS: u64 = 24;

/// A batch, as it was appended.
pub struct Batch {
    pub compression: Compression,
    /// Milliseconds since the Unix epoch.
    pub append_ms: i64,
    pub records: Vec<Record>,
}

impl Batch {
    fn new(compression: Compression, records: Vec<Record>) -> Batch {
        Batch {
            compression,
            append_ms: BORN_MS + 5000,
            records,
        }
    }
}

/// A topic, as it is described.
pub struct Topic {
    pub name: &'static str,
    pub partitions: u32,
    pub config: TopicConfig,
}

/// Every topic; one more, `attic`, was deleted.
pub fn topics() -> [Topic; 2] {
    let lamps = TopicConfig::new()
        .retention(Retention::Forever)
        .retention_bytes(Retention::Forever)
        .cleanup(Cleanup::Delete)
        .flush(FlushLevel::Always)
        .segment_bytes(128 << 20)
        .max_batch_bytes(1 << 20);
    let readings = TopicConfig::new()
        // 100 years: it was made long ago, and is read at any time.
        .retention(Retention::Limit(Duration::from_secs(876_000 * 3600)))
        .retention_bytes(Retention::Limit(10 << 20))
        .cleanup(Cleanup::Delete)
        .flush(FlushLevel::Interval(Duration::from_millis(250)))
        .segment_bytes(1 << 20)
        .max_batch_bytes(32 << 10);
    [
        Topic {
            name: "lamps",
            partitions: 4,
            config: lamps,
        },
        Topic {
            name: "readings",
            partitions: 2,
            config: readings,
        },
    ]
}

/// Every batch that was ever appended to a partition, in order.
pub fn batches(topic: &str, partition: u32) -> Vec<Batch> {
    match (topic, partition) {
        ("lamps", 0) => vec![kinds_of_records(), without_time()],
        ("lamps", 1) => vec![
            switched(Compression::Lz4),
            switched(Compression::Zstd),
            half_of_unit("first"),
        ],
        ("lamps", 2) => vec![half_of_unit("second")],
        ("lamps", _) => vec![],
        ("readings", 0) => (0..=ARCHIVED_READINGS).map(readings).collect(),
        ("readings", _) => (0..3).map(readings).collect(),
        _ => panic!("no such topic"),
    }
}

/// Every record that is left of a partition, with its offset and its time.
pub fn records(topic: &str, partition: u32) -> Vec<(u64, i64, Record)> {
    let mut found = Vec::new();
    for batch in batches(topic, partition) {
        for record in batch.records {
            let time = record.timestamp_ms.unwrap_or(batch.append_ms);
            found.push((found.len() as u64, time, record));
        }
    }
    let start = log_start(topic, partition);
    found.retain(|(offset, ..)| *offset >= start);
    found
}

/// The offset of the oldest record that is left.
pub fn log_start(topic: &str, partition: u32) -> u64 {
    match (topic, partition) {
        ("readings", 0) => READINGS_START,
        _ => 0,
    }
}

fn record(key: Option<&str>, value: Option<&str>, after_ms: i64) -> Record {
    Record {
        key: key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
        value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())),
        timestamp_ms: Some(BORN_MS + after_ms),
        ..Record::default()
    }
}

fn header(name: &str, value: Option<&'static str>) -> Header {
    Header {
        name: name.to_owned(),
        value: value.map(|value| Bytes::from_static(value.as_bytes())),
    }
}

/// A value, an empty one, none at all (a tombstone), neither key nor value,
/// headers, a time before the epoch.
fn kinds_of_records() -> Batch {
    let mut with_headers = record(None, Some("no key"), -1_700_000_000_001);
    with_headers.headers = vec![
        header("source", Some("golden")),
        header("source", Some("twice")),
        header("absent", None),
        header("empty", Some("")),
    ];
    let records = vec![
        record(Some("lamp/1"), Some("on"), 1),
        record(Some("lamp/2"), Some(""), 2),
        record(Some("lamp/1"), None, 3),
        record(Some(""), Some("empty key"), 4),
        with_headers,
    ];
    Batch::new(Compression::None, records)
}

/// Its time is that of the append.
fn without_time() -> Batch {
    let records = vec![Record {
        timestamp_ms: None,
        ..record(Some("lamp/3"), Some("on"), 0)
    }];
    Batch::new(Compression::None, records)
}

fn switched(compression: Compression) -> Batch {
    let records = (0..20).map(|number| {
        let value = if number % 2 == 0 { "on" } else { "off" };
        record(Some(&format!("lamp/{}", number % 4)), Some(value), number)
    });
    Batch::new(compression, records.collect())
}

fn half_of_unit(half: &str) -> Batch {
    let records = vec![record(Some("unit"), Some(half), 4000)];
    Batch::new(Compression::None, records)
}

/// Of a size that makes segments with an index.
fn readings(nth: u64) -> Batch {
    let records = (0..PER_BATCH).map(|in_batch| {
        let number = nth * PER_BATCH + in_batch;
        let value = format!("{number:05} {}", "0123456789".repeat(100));
        let time = i64::try_from(number).expect("small");
        record(Some(&format!("sensor/{}", number % 7)), Some(&value), time)
    });
    Batch::new(Compression::None, records.collect())
}
