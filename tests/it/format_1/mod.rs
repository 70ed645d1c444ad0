//! A data directory of format version 1, as it was written when that was the
//! newest, is read by this version.

mod content;
mod writer;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use statecast_client::{Client, RecordRef};
use statecast_proto::batch::Header;
use tokio_stream::StreamExt;

use crate::support::{Binary, Verb};

/// Partition id of the topic that was deleted.
const ATTIC: u32 = 19;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures/format-1")
}

/// Offsets, times and contents of records, by their partitions.
type Partitions = BTreeMap<(String, u32), Vec<String>>;

/// A record as a line of text.
fn line(
    offset: u64,
    time: i64,
    key: Option<&Bytes>,
    value: Option<&Bytes>,
    headers: &[Header],
) -> String {
    let text =
        |bytes: Option<&Bytes>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let headers: Vec<_> = headers
        .iter()
        .map(|header| (&header.name, text(header.value.as_ref())))
        .collect();
    let (key, value) = (text(key), text(value));
    format!("{offset} at {time}: {key:?} = {value:?}, {headers:?}")
}

/// What has to be there.
fn golden() -> Partitions {
    let mut partitions = Partitions::new();
    for topic in content::topics() {
        for partition in 0..topic.partitions {
            let records = content::records(topic.name, partition);
            let lines = records.iter().map(|(offset, time, record)| {
                let (key, value) = (record.key.as_ref(), record.value.as_ref());
                line(*offset, *time, key, value, &record.headers)
            });
            partitions.insert((topic.name.to_owned(), partition), lines.collect());
        }
    }
    partitions
}

/// What is there.
async fn read(client: &Client) -> Partitions {
    let mut partitions = Partitions::new();
    for topic in client.admin().list_topics("").await.unwrap() {
        for partition in 0..topic.partitions {
            partitions.insert((topic.name.clone(), partition), Vec::new());
        }
        let reader = client.reader(topic.name).until_end().open().await.unwrap();
        let mut records = reader.map(Result::unwrap);
        while let Some(record) = records.next().await {
            let of = (record.topic.to_string(), record.partition);
            let lines = partitions.get_mut(&of).expect("a partition of the topic");
            let (key, value) = (record.key.as_ref(), record.value.as_ref());
            let (offset, time) = (record.offset, record.timestamp_ms);
            lines.push(line(offset, time, key, value, &record.headers));
        }
    }
    partitions
}

async fn check_topics(client: &Client) {
    let admin = client.admin();
    let listed = admin.list_topics("").await.unwrap();
    let expected = content::topics();
    assert_eq!(listed.len(), expected.len());
    for (topic, expected) in listed.iter().zip(expected) {
        assert_eq!(topic.name, expected.name);
        assert_eq!(topic.partitions, expected.partitions);
        assert_eq!(topic.config, expected.config);
        assert_eq!(topic.created_ms, content::BORN_MS);
        let described = admin.describe_topic(expected.name).await.unwrap();
        for partition in described.partitions {
            let number = partition.partition;
            assert_eq!(
                partition.log_start_offset,
                content::log_start(expected.name, number)
            );
            assert_eq!(partition.quarantined, []);
        }
    }
    let info = admin.broker_info().await.unwrap();
    assert_eq!(info.cluster_id, format!("{:032x}", content::CLUSTER_ID));
}

/// Appends a record to each partition: it goes behind those that are there.
async fn append(client: &Client, partitions: &mut Partitions) {
    let producer = client.producer();
    for ((topic, partition), lines) in partitions {
        let next = content::log_start(topic, *partition) + lines.len() as u64;
        let time = content::BORN_MS + 9000;
        let (key, value) = (Bytes::from_static(b"new"), Bytes::from_static(b"record"));
        let record = RecordRef {
            timestamp_ms: Some(time),
            ..RecordRef::new(&key, &value)
        };
        let sent = producer.send_to(topic, *partition, &record).await.unwrap();
        assert_eq!(
            sent.await.unwrap().offset,
            Some(next),
            "{topic}/{partition}"
        );
        lines.push(line(next, time, Some(&key), Some(&value), &[]));
    }
    producer.close().await.unwrap();
}

/// The directory is read by a broker, appended to, and read by the next one.
async fn check_serve(data: &Path) {
    let mut expected = golden();
    for start in 0..3 {
        let broker = Binary::serve(data);
        let client = Client::connect(broker.endpoint()).await.unwrap();
        check_topics(&client).await;
        let found = read(&client).await;
        assert!(
            found == expected,
            "start {start}: {found:#?}\n{expected:#?}"
        );
        append(&client, &mut expected).await;
        drop(client);
        broker.terminate();
        // Off the runtime, which has a connection to close: the broker waits for it.
        let ended = tokio::task::spawn_blocking(|| broker.wait());
        let output = ended.await.unwrap();
        assert!(output.status.success(), "{output:?}");
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(!log.contains("ERROR"), "{log}");
        let attic = data.join(format!("partitions/{ATTIC}"));
        assert!(!attic.exists(), "the deleted topic stays away");
    }
    check_inspect(data);
}

/// `statecast inspect` finds nothing wrong; returns the files that it found.
fn check_inspect(data: &Path) -> Vec<serde_json::Value> {
    let args = ["inspect", data.to_str().unwrap(), "--output", "json"];
    // No broker is there to talk to.
    let report = Verb::new("http://127.0.0.1:1", &args).succeeds().json();
    assert_eq!(report["sound"], true, "{report:#}");
    report["files"].as_array().unwrap().clone()
}

/// Everything that the format has is there.
fn check_files(data: &Path) {
    let files = check_inspect(data);
    let count = |kind: &str| {
        let holds = |file: &&serde_json::Value| {
            let found = file["kind"].as_str().unwrap();
            found == kind || kind == "journal" && found.starts_with("journal ")
        };
        let files: Vec<_> = files.iter().filter(holds).collect();
        let records = files.iter().filter_map(|file| file["records"].as_u64());
        (files.len(), records.sum::<u64>())
    };
    assert_eq!(count("identity").0, 1);
    assert_eq!(count("checkpoint").0, 1);
    // The journal only: one record of lamps/0, a batch of each partition of
    // readings; the unit of two records, and one of the deleted topic.
    assert_eq!(count("journal"), (2, 1 + 2 * content::PER_BATCH + 1 + 2));
    assert_eq!(count("sealed segment"), (2, 64));
    // Two batches of readings/1, 5 records and 2 batches of lamps, 5 changes of
    // topics, and the last of readings/0.
    assert_eq!(count("active segment"), (5, 32 + 16 + 5 + 40 + 5));
    assert!(count("index").0 >= 3);
    assert!(count("spare journal").0 >= 1);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A copy of the fixture, to be changed.
fn copied() -> tempfile::TempDir {
    let data = tempfile::tempdir().unwrap();
    copy(&fixture().join("data"), data.path());
    data
}

#[tokio::test]
async fn golden_directory_is_read_and_goes_on() {
    let data = copied();
    check_files(data.path());
    check_serve(data.path()).await;
}

#[tokio::test]
async fn golden_directory_needs_no_metadata_index() {
    let data = copied();
    fs::remove_dir_all(data.path().join("index")).unwrap();
    check_serve(data.path()).await;
}

#[tokio::test]
#[ignore = "writes the fixture, which was done once and for all"]
async fn write_golden_directory() {
    writer::write(&fixture().join("data")).await;
}
