//! Topics that are compacted: which settings go with that, and what can change.

use bytes::Bytes;
use statecast_proto::batch::{BatchBuilder, Compression, RecordRef, stated_uncompressed_len};
use statecast_proto::v1::{self, batch_result::Outcome};
use tokio_stream::StreamExt;
use tonic::{Code, Status};

use crate::support::{Binary, TestBroker, Verb, encode, error_info};

fn config(cleanup: v1::Cleanup) -> v1::TopicConfig {
    v1::TopicConfig {
        cleanup: cleanup.into(),
        ..v1::TopicConfig::default()
    }
}

async fn create(
    broker: &TestBroker,
    name: &str,
    config: v1::TopicConfig,
) -> Result<v1::TopicConfig, Status> {
    let request = v1::CreateTopicRequest {
        name: name.to_owned(),
        partitions: Some(2),
        config: Some(config),
    };
    let created = broker.admin().create_topic(request).await?.into_inner();
    Ok(created.topic.unwrap().config.unwrap())
}

async fn alter(
    broker: &TestBroker,
    name: &str,
    partitions: Option<u32>,
    config: v1::TopicConfig,
) -> Result<v1::TopicConfig, Status> {
    let request = v1::AlterTopicRequest {
        name: name.to_owned(),
        partitions,
        config: Some(config),
    };
    let altered = broker.admin().alter_topic(request).await?.into_inner();
    Ok(altered.topic.unwrap().config.unwrap())
}

async fn described(broker: &TestBroker, name: &str) -> v1::TopicConfig {
    let request = v1::DescribeTopicRequest {
        name: name.to_owned(),
    };
    let described = broker.admin().describe_topic(request).await.unwrap();
    described.into_inner().topic.unwrap().config.unwrap()
}

fn refused(result: Result<v1::TopicConfig, Status>, setting: &str) {
    let status = result.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let info = error_info(&status);
    assert_eq!(info.reason, "INVALID_CONFIG");
    assert_eq!(info.metadata["setting"], setting);
}

#[tokio::test]
async fn a_compacted_topic_has_its_own_defaults_and_keeps_them_over_a_restart() {
    let broker = TestBroker::start().await;
    let compact = create(&broker, "a", config(v1::Cleanup::Compact));
    let compact = compact.await.unwrap();
    assert_eq!(compact.cleanup(), v1::Cleanup::Compact);
    assert_eq!(compact.tombstone_grace_ms, Some(86_400_000));
    assert_eq!(compact.retention_ms, Some(0));
    assert_eq!(compact.retention_bytes, Some(0));

    let graceless = v1::TopicConfig {
        tombstone_grace_ms: Some(0),
        ..config(v1::Cleanup::CompactDelete)
    };
    let both = create(&broker, "b", graceless).await.unwrap();
    assert_eq!(both.cleanup(), v1::Cleanup::CompactDelete);
    assert_eq!(both.tombstone_grace_ms, Some(0));
    assert_eq!(both.retention_ms, Some(604_800_000));

    let delete = create(&broker, "c", v1::TopicConfig::default());
    assert_eq!(delete.await.unwrap().tombstone_grace_ms, None);

    let broker = broker.restart().await;
    assert_eq!(described(&broker, "a").await, compact);
    assert_eq!(described(&broker, "b").await, both);
    // What a description says can be said again.
    assert_eq!(create(&broker, "d", compact).await.unwrap(), compact);
}

#[tokio::test]
async fn settings_that_do_not_go_with_the_cleanup_are_refused() {
    let broker = TestBroker::start().await;
    let by_age = v1::TopicConfig {
        retention_ms: Some(1000),
        ..config(v1::Cleanup::Compact)
    };
    refused(create(&broker, "a", by_age).await, "retention_ms");
    let by_size = v1::TopicConfig {
        retention_bytes: Some(1000),
        ..config(v1::Cleanup::Compact)
    };
    refused(create(&broker, "a", by_size).await, "retention_bytes");
    let grace = v1::TopicConfig {
        tombstone_grace_ms: Some(1000),
        ..config(v1::Cleanup::Delete)
    };
    refused(create(&broker, "a", grace).await, "tombstone_grace_ms");
    create(&broker, "a", v1::TopicConfig::default())
        .await
        .unwrap();
    let grace = v1::TopicConfig {
        tombstone_grace_ms: Some(1000),
        ..v1::TopicConfig::default()
    };
    refused(alter(&broker, "a", None, grace).await, "tombstone_grace_ms");
    broker.assert_serves().await;
}

#[tokio::test]
async fn a_topic_stays_compacted_or_not() {
    let broker = TestBroker::start().await;
    let (delete, compact, both) = (
        config(v1::Cleanup::Delete),
        config(v1::Cleanup::Compact),
        config(v1::Cleanup::CompactDelete),
    );
    create(&broker, "deleted", delete).await.unwrap();
    create(&broker, "compacted", compact).await.unwrap();
    refused(alter(&broker, "deleted", None, compact).await, "cleanup");
    refused(alter(&broker, "deleted", None, both).await, "cleanup");
    refused(alter(&broker, "compacted", None, delete).await, "cleanup");

    // From one kind of compaction to the other, with nothing deleted by surprise.
    let altered = alter(&broker, "compacted", None, both).await.unwrap();
    assert_eq!(altered.cleanup(), v1::Cleanup::CompactDelete);
    assert_eq!(altered.retention_ms, Some(0));
    let limit = v1::TopicConfig {
        retention_ms: Some(1000),
        retention_bytes: Some(2000),
        tombstone_grace_ms: Some(3000),
        ..v1::TopicConfig::default()
    };
    let altered = alter(&broker, "compacted", None, limit).await.unwrap();
    assert_eq!(altered.retention_ms, Some(1000));
    assert_eq!(altered.tombstone_grace_ms, Some(3000));
    let altered = alter(&broker, "compacted", None, compact).await.unwrap();
    assert_eq!(altered.cleanup(), v1::Cleanup::Compact);
    assert_eq!(altered.retention_ms, Some(0));
    assert_eq!(altered.retention_bytes, Some(0));
    assert_eq!(altered.tombstone_grace_ms, Some(3000));
}

#[tokio::test]
async fn a_compacted_topic_gets_no_more_partitions() {
    let broker = TestBroker::start().await;
    create(&broker, "a", config(v1::Cleanup::Compact))
        .await
        .unwrap();
    let unchanged = v1::TopicConfig::default();
    let status = alter(&broker, "a", Some(3), unchanged).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let info = error_info(&status);
    assert_eq!(info.reason, "INVALID_PARTITION_COUNT");
    assert_eq!(info.metadata["partitions"], "2");
    assert_eq!(info.metadata["size"], "3");
    assert_eq!(info.metadata["topic"], "a");
    alter(&broker, "a", Some(2), unchanged).await.unwrap();
}

#[test]
fn verbs_create_describe_and_alter_compacted_topics() {
    let data = tempfile::tempdir().unwrap();
    let broker = Binary::serve(data.path());
    let verb = |args: &[&str]| Verb::new(&broker.endpoint(), args);
    let create = ["topic", "create", "t", "--cleanup", "compact,delete"];
    verb(&[&create[..], &["--tombstone-grace", "90m"]].concat()).succeeds();
    let described = verb(&["topic", "describe", "t"]).succeeds().stdout;
    let line = |name: &str| {
        let line = described.lines().find(|line| line.starts_with(name));
        line.unwrap().split_whitespace().last().unwrap().to_owned()
    };
    assert_eq!(line("cleanup:"), "compact,delete");
    assert_eq!(line("tombstone grace:"), "1h30m");

    verb(&["topic", "alter", "t", "--cleanup", "compact"]).succeeds();
    let described = verb(&["topic", "describe", "t", "-o", "json"]).succeeds();
    let described: serde_json::Value = serde_json::from_str(&described.stdout).unwrap();
    assert_eq!(described["config"]["cleanup"], "compact");
    assert_eq!(described["config"]["tombstone_grace_ms"], 5_400_000);

    let back = verb(&["topic", "alter", "t", "--cleanup", "delete"]).run();
    assert_eq!(back.code, 1);
    assert!(back.stderr.contains("can't become"), "{}", back.stderr);
}

fn keyed(key: Option<&str>) -> v1::Record {
    v1::Record {
        key: key.map(|key| key.to_owned().into()),
        value: Some("value".into()),
        ..v1::Record::default()
    }
}

/// With a key, without one in the record number 1, with one.
fn lacking_a_key(compression: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(compression);
    for key in [Some(&b"a"[..]), None, Some(b"b")] {
        let record = RecordRef {
            key,
            value: Some(&[7; 1000]),
            ..RecordRef::default()
        };
        builder.push(&record).unwrap();
    }
    let payload = builder.finish().payload;
    let is_compressed = stated_uncompressed_len(&payload) > 0;
    assert_eq!(is_compressed, compression != Compression::None);
    payload
}

fn names_the_record(status: &Status, record: &str) {
    assert_eq!(status.code(), Code::InvalidArgument);
    let info = error_info(status);
    assert_eq!(info.reason, "KEY_REQUIRED");
    assert!(!info.retry);
    assert_eq!(info.metadata["record"], record);
    assert_eq!(info.metadata["topic"], "a");
}

#[tokio::test]
async fn every_record_of_a_compacted_topic_needs_a_key() {
    let broker = TestBroker::start().await;
    create(&broker, "a", config(v1::Cleanup::Compact))
        .await
        .unwrap();
    let produce = async |partition, batch| {
        let request = v1::ProduceRequest {
            topic: "a".to_owned(),
            partition,
            batch,
            ..v1::ProduceRequest::default()
        };
        broker.log().produce(request).await
    };
    let compressions = [Compression::None, Compression::Lz4, Compression::Zstd];
    for compression in compressions {
        let refused = produce(Some(0), lacking_a_key(compression)).await;
        names_the_record(&refused.unwrap_err(), "1");
    }
    let refused = produce(None, lacking_a_key(Compression::None)).await;
    names_the_record(&refused.unwrap_err(), "1");
    let empty = encode(vec![keyed(Some("a")), keyed(Some("b")), keyed(Some(""))]);
    for partition in [None, Some(1)] {
        let refused = produce(partition, empty.clone()).await;
        names_the_record(&refused.unwrap_err(), "2");
    }

    // The whole batch, and only that one; the stream goes on.
    let batches = compressions.map(lacking_a_key).into_iter();
    let batches = batches.chain([encode(vec![keyed(Some("a"))])]);
    let in_stream = |batch| v1::PartitionBatch {
        topic: "a".to_owned(),
        partition: 0,
        batch,
        ..v1::PartitionBatch::default()
    };
    let request = v1::ProduceStreamRequest {
        batches: batches.map(in_stream).collect(),
    };
    let mut responses = broker.produce_stream(tokio_stream::iter([request])).await;
    let results = responses.next().await.unwrap().unwrap().results;
    for result in &results[..3] {
        let Some(Outcome::Error(error)) = &result.outcome else {
            panic!("{result:?}");
        };
        assert_eq!(error.reason, "KEY_REQUIRED");
        assert_eq!(error.metadata["record"], "1");
    }
    let last = results[3].outcome.clone();
    assert!(matches!(last, Some(Outcome::Appended(appended)) if appended.base_offset == 0));
}

#[tokio::test]
async fn topics_that_are_not_compacted_take_records_without_keys() {
    let broker = TestBroker::start().await;
    broker.create_topic("a", 1).await;
    let batch = lacking_a_key(Compression::Zstd);
    assert_eq!(broker.produce("a", 0, batch).await, 0);
    let keyless = encode(vec![keyed(None), keyed(Some(""))]);
    assert_eq!(broker.produce("a", 0, keyless).await, 3);
}
