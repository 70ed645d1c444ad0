//! Topics that are compacted: which settings go with that, and what can change.

use statecast_proto::v1;
use tonic::{Code, Status};

use crate::support::{Binary, TestBroker, Verb, error_info};

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
