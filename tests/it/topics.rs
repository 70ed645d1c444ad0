//! Topics: created, changed, listed, deleted, and there again after a restart.

use statecast_broker::limits;
use statecast_proto::v1;
use tonic::Code;

use crate::support::{TestBroker, batch, error_info};

fn create(name: &str, partitions: Option<u32>) -> v1::CreateTopicRequest {
    v1::CreateTopicRequest {
        name: name.to_owned(),
        partitions,
        config: None,
    }
}

async fn names(broker: &TestBroker) -> Vec<String> {
    let listed = broker
        .admin()
        .list_topics(v1::ListTopicsRequest::default())
        .await
        .unwrap();
    listed
        .into_inner()
        .topics
        .into_iter()
        .map(|topic| topic.name)
        .collect()
}

#[tokio::test]
async fn a_new_topic_has_every_default() {
    let broker = TestBroker::start().await;
    let topic = broker
        .admin()
        .create_topic(create("a", None))
        .await
        .unwrap()
        .into_inner();
    let topic = topic.topic.unwrap();
    assert_eq!(topic.partitions, 1);
    assert!(topic.created_ms > 1_700_000_000_000);
    let config = topic.config.unwrap();
    assert_eq!(config.retention_ms, Some(604_800_000));
    assert_eq!(config.retention_bytes, Some(0));
    assert_eq!(config.cleanup(), v1::Cleanup::Delete);
    assert_eq!(config.segment_bytes, Some(128 << 20));
    assert_eq!(config.max_batch_bytes, Some(4 << 20));
    let always = v1::flush_level::Level::Always(v1::FlushAlways {});
    assert_eq!(config.flush.unwrap().level, Some(always));
}

#[tokio::test]
async fn bad_names_are_refused() {
    let broker = TestBroker::start().await;
    let too_long = "x".repeat(201);
    for name in ["", ".a", "__a", "a b", "a/b", "ä", "a\n", &too_long] {
        let status = broker
            .admin()
            .create_topic(create(name, None))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{name:?}");
        assert_eq!(error_info(&status).reason, "INVALID_TOPIC_NAME", "{name:?}");
    }
    let longest = "x".repeat(200);
    broker
        .admin()
        .create_topic(create(&longest, None))
        .await
        .unwrap();
    broker.assert_serves().await;
}

#[tokio::test]
async fn zero_and_too_many_partitions_are_refused() {
    let broker = TestBroker::start().await;
    for partitions in [0, 10_001, u32::MAX] {
        let status = broker
            .admin()
            .create_topic(create("a", Some(partitions)))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let info = error_info(&status);
        assert_eq!(info.reason, "INVALID_PARTITION_COUNT");
        assert_eq!(info.metadata["limit"], "10000");
    }
    broker.assert_serves().await;
}

#[tokio::test]
async fn more_partitions_than_a_broker_has_are_refused() {
    let broker = TestBroker::start().await;
    let per_topic = *limits::PARTITIONS_PER_TOPIC.end();
    let topics = limits::PARTITIONS / per_topic;
    // One partition is left.
    for number in 1..topics {
        broker.create_topic(&format!("t{number}"), per_topic).await;
    }
    broker.create_topic("last", per_topic - 1).await;
    let refused = |status: tonic::Status, asked: &str| {
        assert_eq!(status.code(), Code::ResourceExhausted);
        let info = error_info(&status);
        assert_eq!(info.reason, "TOO_MANY_PARTITIONS");
        assert!(!info.retry);
        assert_eq!(info.metadata["size"], asked);
        assert_eq!(info.metadata["limit"], limits::PARTITIONS.to_string());
    };
    let mut admin = broker.admin();
    let created = admin.create_topic(create("a", Some(2))).await;
    refused(created.unwrap_err(), "2");
    let alter = |partitions| v1::AlterTopicRequest {
        name: "last".to_owned(),
        partitions: Some(partitions),
        config: None,
    };
    broker.create_topic("one", 1).await;
    let altered = admin.alter_topic(alter(per_topic)).await;
    refused(altered.unwrap_err(), "1");
    // Nothing of what was refused is there, and a deleted topic makes room.
    assert!(!names(&broker).await.contains(&"a".to_owned()));
    let name = "one".to_owned();
    admin
        .delete_topic(v1::DeleteTopicRequest { name })
        .await
        .unwrap();
    admin.alter_topic(alter(per_topic)).await.unwrap();
    broker.produce("last", per_topic - 1, batch(1)).await;
}

#[tokio::test]
async fn a_setting_out_of_bounds_is_refused_by_name() {
    let broker = TestBroker::start().await;
    let level = v1::flush_level::Level::IntervalMs(0);
    let configs = [
        (
            "segment_bytes",
            v1::TopicConfig {
                segment_bytes: Some(5),
                ..v1::TopicConfig::default()
            },
        ),
        (
            "max_batch_bytes",
            v1::TopicConfig {
                max_batch_bytes: Some(9 << 20),
                ..v1::TopicConfig::default()
            },
        ),
        (
            "flush.interval_ms",
            v1::TopicConfig {
                flush: Some(v1::FlushLevel { level: Some(level) }),
                ..v1::TopicConfig::default()
            },
        ),
        (
            "flush",
            v1::TopicConfig {
                flush: Some(v1::FlushLevel { level: None }),
                ..v1::TopicConfig::default()
            },
        ),
        (
            "cleanup",
            v1::TopicConfig {
                cleanup: 77,
                ..v1::TopicConfig::default()
            },
        ),
    ];
    for (setting, config) in configs {
        let request = v1::CreateTopicRequest {
            config: Some(config),
            ..create("a", None)
        };
        let status = broker.admin().create_topic(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let info = error_info(&status);
        assert_eq!(info.reason, "INVALID_CONFIG");
        assert_eq!(info.metadata["setting"], setting);
    }
    broker.assert_serves().await;
}

#[tokio::test]
async fn a_name_is_taken_once() {
    let broker = TestBroker::start().await;
    broker.create_topic("a", 1).await;
    let status = broker
        .admin()
        .create_topic(create("a", None))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    let info = error_info(&status);
    assert_eq!(info.reason, "TOPIC_EXISTS");
    assert_eq!(info.metadata["topic"], "a");
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let broker = TestBroker::start().await;
    let name = "nowhere".to_owned();
    let describe = v1::DescribeTopicRequest { name: name.clone() };
    let delete = v1::DeleteTopicRequest { name: name.clone() };
    let alter = v1::AlterTopicRequest {
        name,
        ..v1::AlterTopicRequest::default()
    };
    let statuses = [
        broker.admin().describe_topic(describe).await.unwrap_err(),
        broker.admin().delete_topic(delete).await.unwrap_err(),
        broker.admin().alter_topic(alter).await.unwrap_err(),
    ];
    for status in statuses {
        assert_eq!(status.code(), Code::NotFound);
        let info = error_info(&status);
        assert_eq!(info.reason, "TOPIC_NOT_FOUND");
        assert_eq!(info.metadata["topic"], "nowhere");
    }
}

#[tokio::test]
async fn an_altered_topic_takes_records_in_its_new_partitions() {
    let broker = TestBroker::start().await;
    broker.create_topic("a", 1).await;
    let config = v1::TopicConfig {
        retention_ms: Some(0),
        ..v1::TopicConfig::default()
    };
    let alter = v1::AlterTopicRequest {
        name: "a".to_owned(),
        partitions: Some(3),
        config: Some(config),
    };
    let topic = broker
        .admin()
        .alter_topic(alter)
        .await
        .unwrap()
        .into_inner()
        .topic
        .unwrap();
    assert_eq!(topic.partitions, 3);
    let config = topic.config.unwrap();
    assert_eq!(config.retention_ms, Some(0));
    assert_eq!(
        config.segment_bytes,
        Some(128 << 20),
        "what was not named stays"
    );
    broker.produce("a", 2, batch(2)).await;

    let fewer = v1::AlterTopicRequest {
        name: "a".to_owned(),
        partitions: Some(2),
        config: None,
    };
    let status = broker.admin().alter_topic(fewer).await.unwrap_err();
    assert_eq!(error_info(&status).reason, "INVALID_PARTITION_COUNT");

    let broker = broker.restart().await;
    let describe = v1::DescribeTopicRequest {
        name: "a".to_owned(),
    };
    let described = broker
        .admin()
        .describe_topic(describe)
        .await
        .unwrap()
        .into_inner();
    let ends: Vec<u64> = described
        .partitions
        .iter()
        .map(|p| p.high_watermark)
        .collect();
    assert_eq!(ends, [0, 0, 2]);
}

#[tokio::test]
async fn topics_are_listed_in_pages() {
    let broker = TestBroker::start().await;
    for name in ["b", "a1", "c", "a3", "a2"] {
        broker.create_topic(name, 1).await;
    }
    assert_eq!(names(&broker).await, ["a1", "a2", "a3", "b", "c"]);
    let mut request = v1::ListTopicsRequest {
        prefix: "a".to_owned(),
        page_size: Some(2),
        page_token: String::new(),
    };
    let page = broker
        .admin()
        .list_topics(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(page.topics.len(), 2);
    request.page_token = page.next_page_token;
    let page = broker
        .admin()
        .list_topics(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(page.topics[0].name, "a3");
    assert_eq!(page.next_page_token, "");
    request.page_size = Some(0);
    let status = broker.admin().list_topics(request).await.unwrap_err();
    assert_eq!(error_info(&status).reason, "INVALID_REQUEST");
}

#[tokio::test]
async fn topics_survive_a_restart_and_the_loss_of_the_index() {
    let broker = TestBroker::start().await;
    broker.create_topic("kept", 3).await;
    broker.create_topic("gone", 2).await;
    let delete = v1::DeleteTopicRequest {
        name: "gone".to_owned(),
    };
    broker.admin().delete_topic(delete).await.unwrap();
    let (stopped, _) = broker.stop_serving().await;
    let index = stopped.data_dir().join("index");
    let broker = stopped.start().await;
    assert_eq!(names(&broker).await, ["kept"]);

    let (stopped, _) = broker.stop_serving().await;
    // The broker must have ended before its index goes.
    let broker = stopped.start_without(&index).await;
    assert_eq!(names(&broker).await, ["kept"]);
    broker.assert_serves().await;
}

#[tokio::test]
async fn a_topic_created_again_is_empty() {
    let broker = TestBroker::start().await;
    broker.create_topic("a", 1).await;
    broker.produce("a", 0, batch(5)).await;
    let delete = v1::DeleteTopicRequest {
        name: "a".to_owned(),
    };
    broker.admin().delete_topic(delete).await.unwrap();
    broker.create_topic("a", 1).await;
    let list = v1::ListOffsetsRequest {
        topic: "a".to_owned(),
        ..v1::ListOffsetsRequest::default()
    };
    let offsets = broker.log().list_offsets(list).await.unwrap().into_inner();
    assert_eq!(offsets.partitions[0].high_watermark, 0);
}
