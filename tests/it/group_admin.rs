//! Looking at groups, and steering them.

use statecast_proto::v1::consume_response::Event;
use statecast_proto::v1::start::Position;
use statecast_proto::v1::{self, GroupState};
use tonic::{Code, Status};

use crate::support::{Member, TestBroker, batch, error_info, join, position};

async fn reset(
    broker: &TestBroker,
    to: Position,
    partitions: &[u32],
    force: bool,
) -> Result<Vec<v1::GroupPartition>, Status> {
    let request = v1::ResetGroupRequest {
        name: "g".to_owned(),
        topic: "t".to_owned(),
        partitions: partitions.to_vec(),
        to: Some(v1::Start { position: Some(to) }),
        force,
    };
    let reset = broker.admin().reset_group(request).await?;
    Ok(reset.into_inner().partitions)
}

async fn delete(broker: &TestBroker) -> Result<(), Status> {
    forget(broker, None).await
}

/// Forgets the group, or what it has committed for a topic.
async fn forget(broker: &TestBroker, topic: Option<&str>) -> Result<(), Status> {
    let request = v1::DeleteGroupRequest {
        name: "g".to_owned(),
        topic: topic.map(str::to_owned),
    };
    broker.admin().delete_group(request).await.map(|_| ())
}

/// A group `g` that has committed some of `t`, and has no members.
async fn with_group() -> TestBroker {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 2).await;
    broker.produce("t", 0, batch(5)).await;
    broker.produce("t", 1, batch(3)).await;
    let mut member = Member::join(broker.connect().await, join("g", &["t"])).await;
    member.settle(2).await;
    member.commit_all(vec![position("t", 0, 2)]).await;
    member.leave().await;
    broker
}

#[tokio::test]
async fn a_group_is_described_with_its_members_and_how_far_it_is() {
    let broker = with_group().await;
    let described = broker.describe_group("g").await;
    let group = described.group.clone().unwrap();
    assert_eq!(
        (&*group.name, group.state(), group.members),
        ("g", GroupState::Empty, 0)
    );
    assert_eq!(described.members, []);
    let [only] = &described.partitions[..] else {
        panic!("only what was committed: {described:?}");
    };
    assert_eq!(only.member_id, None);
    assert_eq!(
        (only.committed_offset, only.high_watermark, only.lag),
        (Some(2), 5, 3)
    );
    assert!(only.committed_ms.is_some());

    let described_join = v1::Join {
        member_name: Some("n".to_owned()),
        client: "test 1.0".to_owned(),
        ..join("g", &["t", "u*"])
    };
    let mut member = Member::join(broker.connect().await, described_join).await;
    member.settle(2).await;
    let described = broker.describe_group("g").await;
    let group = described.group.clone().unwrap();
    assert_eq!((group.state(), group.members), (GroupState::Stable, 1));
    let [only] = &described.members[..] else {
        panic!("one member: {described:?}");
    };
    assert_eq!((&*only.member_name, &*only.client), ("n", "test 1.0"));
    assert!(only.address.starts_with("127.0.0.1:"), "{}", only.address);
    assert_eq!(only.topics, ["t", "u*"]);
    assert!(only.joined_ms > 0 && !only.stalled);
    let places: Vec<_> = described
        .partitions
        .iter()
        .map(|p| (p.partition, p.committed_offset, p.lag))
        .collect();
    assert_eq!(places, [(0, Some(2), 3), (1, None, 3)]);
    for partition in &described.partitions {
        assert_eq!(partition.member_id.as_ref(), Some(&only.member_id));
    }
    member.commit_all(vec![position("t", 1, 3)]).await;
    let described = broker.describe_group("g").await;
    assert_eq!(
        (described.partitions[1].lag, described.partitions[1].lag_ms),
        (0, 0)
    );

    // Away, and it may come again.
    member.vanish();
    loop {
        let described = broker.describe_group("g").await;
        let [only] = &described.members[..] else {
            panic!("it is waited for: {described:?}");
        };
        assert_eq!(only.member_name, "n");
        if only.address.is_empty() {
            assert_eq!(only.client, "");
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_topic_that_the_group_has_left_behind_is_marked_and_can_be_forgotten() {
    let broker = with_group().await;
    broker.create_topic("u", 1).await;
    let marks = async || {
        let described = broker.describe_group("g").await;
        let partitions = described.partitions.into_iter();
        let mark = |p: v1::GroupPartition| (p.topic, p.partition, p.left_behind);
        partitions.map(mark).collect::<Vec<_>>()
    };
    let mark = |topic: &str, partition, left_behind| (topic.to_owned(), partition, left_behind);
    assert_eq!(marks().await, [mark("t", 0, false)], "it may come again");
    let mut member = Member::join(broker.connect().await, join("g", &["u"])).await;
    member.settle(1).await;
    assert_eq!(marks().await, [mark("t", 0, true), mark("u", 0, false)]);

    let read = forget(&broker, Some("u")).await.unwrap_err();
    assert_eq!(error_info(&read).reason, "GROUP_ACTIVE");
    let unknown = forget(&broker, Some("nope")).await.unwrap_err();
    assert_eq!(error_info(&unknown).reason, "TOPIC_NOT_FOUND");
    forget(&broker, Some("t")).await.unwrap();
    assert_eq!(marks().await, [mark("u", 0, false)]);
    member.vanish();
    let broker = broker.restart().await;
    let mut member = Member::join(broker.connect().await, join("g", &["t"])).await;
    let assigned = member.assignment().await;
    assert!(assigned.partitions.iter().all(|p| !p.committed));
}

#[tokio::test]
async fn the_lag_tells_how_old_the_oldest_record_is() {
    let broker = with_group().await;
    let before = broker.describe_group("g").await.partitions[0].lag_ms;
    while broker.describe_group("g").await.partitions[0].lag_ms <= before {
        tokio::task::yield_now().await;
    }
    broker.produce("t", 0, batch(1)).await;
    let lag_ms = broker.describe_group("g").await.partitions[0].lag_ms;
    assert!(lag_ms > before, "the oldest counts, not the newest");
}

#[tokio::test]
async fn groups_are_listed_in_pages() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1).await;
    let mut members = Vec::new();
    for name in ["b", "a", "c", "ab"] {
        let mut member = Member::join(broker.connect().await, join(name, &["t"])).await;
        member.settle(1).await;
        members.push(member);
    }
    let list = async |prefix: &str, page_size, page_token: &str| {
        let request = v1::ListGroupsRequest {
            prefix: prefix.to_owned(),
            page_size,
            page_token: page_token.to_owned(),
        };
        let listed = broker
            .admin()
            .list_groups(request)
            .await
            .unwrap()
            .into_inner();
        let names: Vec<String> = listed
            .groups
            .iter()
            .map(|group| group.name.clone())
            .collect();
        (names, listed.next_page_token)
    };
    assert_eq!(list("", None, "").await.0, ["a", "ab", "b", "c"]);
    assert_eq!(list("a", None, "").await.0, ["a", "ab"]);
    let (first, token) = list("", Some(3), "").await;
    assert_eq!(first, ["a", "ab", "b"]);
    let (rest, token) = list("", Some(3), &token).await;
    assert_eq!((rest, token), (vec!["c".to_owned()], String::new()));
    let wrong = v1::ListGroupsRequest {
        page_size: Some(0),
        ..v1::ListGroupsRequest::default()
    };
    let status = broker.admin().list_groups(wrong).await.unwrap_err();
    assert_eq!(error_info(&status).reason, "INVALID_REQUEST");
}

#[tokio::test]
async fn a_group_without_members_is_reset_to_anywhere_within_the_log() {
    let broker = with_group().await;
    let offsets = |partitions: Vec<v1::GroupPartition>| {
        let offset = |p: v1::GroupPartition| (p.partition, p.committed_offset.unwrap());
        partitions.into_iter().map(offset).collect::<Vec<_>>()
    };
    let latest = Position::Latest(v1::Latest {});
    let all = reset(&broker, latest, &[], false).await.unwrap();
    assert_eq!(offsets(all), [(0, 5), (1, 3)]);
    let one = reset(&broker, Position::Offset(1), &[1], false)
        .await
        .unwrap();
    assert_eq!(offsets(one), [(1, 1)]);
    let future = Position::TimestampMs(i64::MAX);
    let none = reset(&broker, future, &[0], false).await.unwrap();
    assert_eq!(offsets(none), [(0, 5)]);
    let mut member = Member::join(broker.connect().await, join("g", &["t"])).await;
    let assigned = member.assignment().await;
    let begins: Vec<_> = assigned
        .partitions
        .iter()
        .map(|p| (p.partition, p.offset))
        .collect();
    assert_eq!(begins, [(0, 5), (1, 1)]);
}

#[tokio::test]
async fn a_reset_that_makes_no_sense_changes_nothing() {
    let broker = with_group().await;
    let earliest = || Position::Earliest(v1::Earliest {});
    let cases = [
        (
            reset(&broker, Position::Offset(4), &[], false).await,
            "OFFSET_OUT_OF_RANGE",
        ),
        (
            reset(&broker, earliest(), &[2], false).await,
            "PARTITION_NOT_FOUND",
        ),
        (
            reset(&broker, earliest(), &[1, 1], false).await,
            "INVALID_REQUEST",
        ),
    ];
    for (outcome, reason) in cases {
        assert_eq!(error_info(&outcome.unwrap_err()).reason, reason);
    }
    let without = v1::ResetGroupRequest {
        name: "g".to_owned(),
        topic: "t".to_owned(),
        ..v1::ResetGroupRequest::default()
    };
    let status = broker.admin().reset_group(without).await.unwrap_err();
    assert_eq!(error_info(&status).reason, "INVALID_REQUEST");
    let described = broker.describe_group("g").await;
    assert_eq!(described.partitions[0].committed_offset, Some(2));
    assert_eq!(described.partitions.len(), 1);
}

#[tokio::test]
async fn a_group_with_members_is_reset_only_by_force() {
    let broker = with_group().await;
    let mut member = Member::join(broker.connect().await, join("g", &["t"])).await;
    member.settle(2).await;
    let before = member.assigned.clone();
    let earliest = || Position::Earliest(v1::Earliest {});
    let status = reset(&broker, earliest(), &[0], false).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(error_info(&status).reason, "GROUP_ACTIVE");
    reset(&broker, earliest(), &[0], true).await.unwrap();
    let lost = member
        .find(|event| match event {
            Event::Lost(lost) => Some(lost.partitions),
            _ => None,
        })
        .await;
    assert_eq!(lost.len(), 1);
    let again = member.assignment().await;
    let [only] = &again.partitions[..] else {
        panic!("what was reset comes again: {again:?}");
    };
    assert_eq!((only.partition, only.offset, only.committed), (0, 0, true));
    let read = member.batches().await.remove(0).batch.unwrap();
    assert_eq!(
        (read.partition, read.base_offset, read.skip_records),
        (0, 0, 0)
    );
    // Which of the two it means, a member says by the generation.
    let mut stale = position("t", 0, 5);
    stale.generation = Some(before[&("t".to_owned(), 0)]);
    member.commit(1, vec![stale]).await;
    let refused = member.commit_result().await.refused;
    assert_eq!(
        refused[0].error.as_ref().unwrap().reason,
        "STALE_GENERATION"
    );
}

#[tokio::test]
async fn a_group_is_deleted_once_it_has_no_members() {
    let broker = with_group().await;
    let member = Member::join(broker.connect().await, join("g", &["t"])).await;
    let status = delete(&broker).await.unwrap_err();
    assert_eq!(error_info(&status).reason, "GROUP_ACTIVE");
    member.leave().await;
    delete(&broker).await.unwrap();
    assert_eq!(
        error_info(&delete(&broker).await.unwrap_err()).reason,
        "GROUP_NOT_FOUND"
    );
    let broker = broker.restart().await;
    assert_eq!(
        error_info(&delete(&broker).await.unwrap_err()).reason,
        "GROUP_NOT_FOUND"
    );
    let mut member = Member::join(broker.connect().await, join("g", &["t"])).await;
    let assigned = member.assignment().await;
    assert!(
        assigned
            .partitions
            .iter()
            .all(|p| !p.committed && p.offset == 0)
    );
}

#[tokio::test]
async fn the_broker_says_that_it_has_groups() {
    let broker = TestBroker::start().await;
    let mut admin = broker.admin();
    let info = admin.get_broker_info(v1::GetBrokerInfoRequest {});
    let info = info.await.unwrap().into_inner();
    assert!(info.capabilities.contains(&"groups".to_owned()));
}
