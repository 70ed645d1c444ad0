//! What members can say wrong: each is refused with a reason, and the group goes on
//! as if nothing had been said.

use statecast_proto::v1;
use statecast_proto::v1::consume_request::Request;
use statecast_proto::v1::consume_response::Event;
use tonic::Code;

use crate::support::{ErrorInfo, Member, TestBroker, batch, error_info, join, partition, position};

/// A broker with the topic `t`, and a member that has all of it.
async fn with_member() -> (TestBroker, Member) {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 2).await;
    broker.produce("t", 0, batch(5)).await;
    let mut member = Member::join(broker.connect().await, join("g", &["t"])).await;
    member.settle(2).await;
    (broker, member)
}

/// The group works: records come and are committed.
async fn assert_unharmed(broker: &TestBroker, member: &mut Member) {
    assert_eq!(member.assigned.len(), 2, "it has what it had");
    let offset = broker.produce("t", 1, batch(1)).await;
    let arrived = |event| match event {
        Event::Batches(read) => read.batches.iter().find_map(|batch| {
            let batch = batch.batch.as_ref()?;
            (batch.partition == 1 && batch.base_offset == offset).then_some(())
        }),
        _ => None,
    };
    member.find(arrived).await;
    member.commit_all(vec![position("t", 1, offset + 1)]).await;
}

async fn ends_with(broker: &TestBroker, first: Vec<Request>) -> (Code, ErrorInfo) {
    let mut member = Member::open(broker.connect().await).await;
    for request in first {
        member.say(request).await;
    }
    let status = member.failure().await;
    (status.code(), error_info(&status))
}

/// What is wrong with a join.
type Change = fn(&mut v1::Join);

#[tokio::test]
async fn a_join_that_makes_no_sense_is_refused() {
    let (broker, mut member) = with_member().await;
    let bad: [(&str, Change); 16] = [
        ("group", |join| join.group.clear()),
        ("group", |join| join.group = "a/b".to_owned()),
        ("group", |join| join.group = "__own".to_owned()),
        ("group", |join| join.group = "x".repeat(201)),
        ("topics", |join| join.topics.clear()),
        ("topics", |join| {
            join.topics = (0..101).map(|n| format!("t{n}")).collect();
        }),
        ("topics", |join| join.topics.push("a b".to_owned())),
        ("member_name", |join| join.member_name = Some(String::new())),
        ("member_name", |join| {
            join.member_name = Some(".x".to_owned());
        }),
        ("start", |join| {
            join.start = Some(v1::GroupStart::default());
        }),
        ("session_timeout_ms", |join| {
            join.session_timeout_ms = Some(999);
        }),
        ("session_timeout_ms", |join| {
            join.session_timeout_ms = Some(600_001);
        }),
        ("max_processing_time_ms", |join| {
            join.max_processing_time_ms = Some(0);
        }),
        ("revoke_timeout_ms", |join| {
            join.revoke_timeout_ms = Some(300_001);
        }),
        ("max_bytes", |join| join.max_bytes = Some(1)),
        ("client", |join| join.client = "x".repeat(201)),
    ];
    for (setting, change) in bad {
        let mut join = join("g", &["t"]);
        change(&mut join);
        let (code, info) = ends_with(&broker, vec![Request::Join(join)]).await;
        assert_eq!(code, Code::InvalidArgument, "{setting}");
        assert_eq!(info.reason, "INVALID_REQUEST", "{setting}");
        assert_eq!(info.metadata["setting"], setting);
    }
    assert_unharmed(&broker, &mut member).await;
}

#[tokio::test]
async fn a_message_that_unfolds_to_too_much_is_refused_before_it_does() {
    let (broker, mut member) = with_member().await;
    let many = 1 << 18;
    let topics = v1::Join {
        topics: vec![String::new(); many],
        ..join("h", &[])
    };
    let places = v1::Revoked {
        partitions: vec![v1::TopicPartition::default(); many],
        generation: None,
    };
    let positions = v1::Commit {
        positions: vec![v1::CommitPosition::default(); many],
        ..v1::Commit::default()
    };
    let joined = Request::Join(join("h", &["t"]));
    for requests in [
        vec![Request::Join(topics)],
        vec![joined.clone(), Request::Revoked(places)],
        vec![joined, Request::Commit(positions)],
    ] {
        let mut greedy = Member::open(broker.connect().await).await;
        for request in requests {
            greedy.say(request).await;
        }
        let status = greedy.failure().await;
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("fields"), "{status:?}");
    }
    assert_unharmed(&broker, &mut member).await;
}

#[tokio::test]
async fn a_join_comes_first_and_once() {
    let (broker, mut member) = with_member().await;
    let too_early = [
        Request::Commit(v1::Commit::default()),
        Request::Revoked(v1::Revoked::default()),
        Request::Heartbeat(v1::MemberHeartbeat {}),
        Request::Credit(v1::Credit::default()),
        Request::Leave(v1::Leave {}),
    ];
    for request in too_early {
        let (code, info) = ends_with(&broker, vec![request]).await;
        assert_eq!(
            (code, &*info.reason),
            (Code::InvalidArgument, "INVALID_REQUEST")
        );
    }
    // The second one goes to another group, so that it disturbs nobody.
    let twice = vec![
        Request::Join(join("h", &["t"])),
        Request::Join(join("h", &["t"])),
    ];
    let (code, info) = ends_with(&broker, twice).await;
    assert_eq!(
        (code, &*info.reason),
        (Code::InvalidArgument, "INVALID_REQUEST")
    );
    assert_unharmed(&broker, &mut member).await;
}

#[tokio::test]
async fn a_stream_that_ends_before_it_joins_is_nobody() {
    let (broker, mut member) = with_member().await;
    let mut silent = Member::open(broker.connect().await).await;
    silent.half_close();
    assert_eq!(silent.try_event().await.unwrap(), None);
    assert_unharmed(&broker, &mut member).await;
}

#[tokio::test]
async fn a_commit_is_refused_for_each_position_that_is_wrong() {
    let (broker, mut member) = with_member().await;
    let mut stale = position("t", 0, 1);
    stale.generation = Some(0);
    let wrong = [
        (position("nowhere", 0, 0), "TOPIC_NOT_FOUND"),
        (position("", 0, 0), "TOPIC_NOT_FOUND"),
        (position("t", 2, 0), "PARTITION_NOT_FOUND"),
        (position("t", 0, 6), "OFFSET_OUT_OF_RANGE"),
        (position("t", 1, u64::MAX), "OFFSET_OUT_OF_RANGE"),
        (stale, "STALE_GENERATION"),
    ];
    let mut positions: Vec<_> = wrong.iter().map(|(position, _)| position.clone()).collect();
    positions.push(position("t", 0, 3));
    member.commit(9, positions).await;
    let result = member.commit_result().await;
    assert_eq!(result.commit_id, 9);
    assert_eq!(result.refused.len(), wrong.len());
    for (refused, (position, reason)) in result.refused.iter().zip(&wrong) {
        assert_eq!(
            (&refused.topic, refused.partition),
            (&position.topic, position.partition)
        );
        let error = refused.error.as_ref().unwrap();
        assert_eq!(error.reason, *reason);
        assert_eq!(error.metadata["partition"], position.partition.to_string());
    }
    let out_of_range = result.refused[3].error.as_ref().unwrap();
    assert_eq!(out_of_range.metadata["offset"], "6");
    assert_eq!(out_of_range.metadata["high_watermark"], "5");
    let committed = broker.describe_group("g").await.partitions[0].committed_offset;
    assert_eq!(committed, Some(3), "the good one counts");
    assert_unharmed(&broker, &mut member).await;
}

#[tokio::test]
async fn a_partition_of_somebody_else_is_not_committed() {
    let (broker, mut member) = with_member().await;
    let mut other = Member::join(broker.connect().await, join("g", &["t"])).await;
    tokio::join!(member.settle(1), other.settle(1));
    let theirs = other.some();
    broker.create_topic("unread", 1).await;
    member
        .commit(1, vec![position("t", theirs, 0), position("unread", 0, 0)])
        .await;
    let refused = member.commit_result().await.refused;
    let reasons: Vec<_> = refused
        .iter()
        .map(|r| &*r.error.as_ref().unwrap().reason)
        .collect();
    assert_eq!(
        reasons,
        ["STALE_GENERATION", "NOT_ASSIGNED"],
        "it had the first one"
    );
    other.commit_all(vec![position("t", theirs, 0)]).await;
    other.leave().await;
    member.settle(2).await;
    assert_unharmed(&broker, &mut member).await;
}

#[tokio::test]
async fn requests_without_sense_are_refused_and_the_stream_goes_on() {
    let (broker, mut member) = with_member().await;
    let refusal = |event| match event {
        Event::Refused(error) => Some(error),
        _ => None,
    };
    member.commit(3, vec![]).await;
    let error = member.find(refusal).await;
    assert_eq!(error.reason, "INVALID_REQUEST");
    assert_eq!(error.metadata["commit_id"], "3");
    member.commit(4, vec![position("t", 0, 0); 10_001]).await;
    let error = member.find(refusal).await;
    assert_eq!(
        (&*error.reason, &*error.metadata["limit"]),
        ("INVALID_REQUEST", "10000")
    );

    // Nobody asked for these.
    member.give_back(vec![partition("t", 0)]).await;
    let error = member.find(refusal).await;
    assert_eq!(error.reason, "NOT_ASSIGNED");
    assert_eq!(error.metadata["topic"], "t");
    member.give_back(vec![partition("nowhere", 0)]).await;
    assert_eq!(member.find(refusal).await.reason, "TOPIC_NOT_FOUND");
    member.give_back(vec![partition("t", 7)]).await;
    assert_eq!(member.find(refusal).await.reason, "NOT_ASSIGNED");

    // A request of a later version.
    member.say_nothing().await;
    assert_eq!(member.find(refusal).await.reason, "INVALID_REQUEST");
    assert_unharmed(&broker, &mut member).await;
}

#[tokio::test]
async fn nothing_is_heard_after_a_leave() {
    let (broker, mut member) = with_member().await;
    member.commit(1, vec![position("t", 0, 1)]).await;
    member.say(Request::Leave(v1::Leave {})).await;
    member.commit(2, vec![position("t", 0, 2)]).await;
    assert_eq!(member.commit_result().await.commit_id, 1);
    while let Some(event) = member.try_event().await.unwrap() {
        assert!(!matches!(event, Event::CommitResult(_)), "{event:?}");
    }
    let described = broker.describe_group("g").await;
    assert_eq!(described.partitions[0].committed_offset, Some(1));
}

#[tokio::test]
async fn groups_that_are_not_there_are_named() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1).await;
    let name = || "nobody".to_owned();
    let mut admin = broker.admin();
    let described = admin.describe_group(v1::DescribeGroupRequest { name: name() });
    let described = described.await.unwrap_err();
    let deleted = admin.delete_group(v1::DeleteGroupRequest {
        name: name(),
        topic: None,
    });
    let deleted = deleted.await.unwrap_err();
    let reset = v1::ResetGroupRequest {
        name: name(),
        topic: "t".to_owned(),
        to: Some(v1::Start {
            position: Some(v1::start::Position::Earliest(v1::Earliest {})),
        }),
        ..v1::ResetGroupRequest::default()
    };
    let reset = admin.reset_group(reset).await.unwrap_err();
    for status in [described, deleted, reset] {
        assert_eq!(status.code(), Code::NotFound);
        let info = error_info(&status);
        assert_eq!(info.reason, "GROUP_NOT_FOUND");
        assert_eq!(info.metadata["group"], "nobody");
    }
}
