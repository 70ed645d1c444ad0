//! Where a group begins: what it was to begin with isn't lost, whoever reads it.

use statecast_proto::v1;
use statecast_proto::v1::group_start::Position;

use crate::support::{Member, TestBroker, batch, error_info, join, position};

fn starting(position: Position) -> v1::Join {
    v1::Join {
        start: Some(v1::GroupStart {
            position: Some(position),
        }),
        ..join("g", &["t"])
    }
}

fn latest() -> v1::Join {
    starting(Position::Latest(v1::Latest {}))
}

/// A broker with a topic `t` of so many partitions, each with three records.
async fn broker_with(partitions: u32) -> TestBroker {
    let broker = TestBroker::start().await;
    broker.create_topic("t", partitions).await;
    for partition in 0..partitions {
        broker.produce("t", partition, batch(3)).await;
    }
    broker
}

/// Numbers, and offsets that reading begins at, in the order of the numbers.
fn begins(assigned: &v1::Assigned) -> Vec<(u32, u64)> {
    let partitions = assigned.partitions.iter();
    partitions.map(|p| (p.partition, p.offset)).collect()
}

#[tokio::test]
async fn what_comes_while_nobody_is_there_is_read_by_who_comes_next() {
    let broker = broker_with(1).await;
    let mut member = Member::join(broker.connect().await, latest()).await;
    assert_eq!(begins(&member.assignment().await), [(0, 3)]);
    member.leave().await;
    broker.produce("t", 0, batch(7)).await;
    let broker = broker.restart().await;
    let mut member = Member::join(broker.connect().await, latest()).await;
    let assigned = member.assignment().await;
    assert_eq!(begins(&assigned), [(0, 3)]);
    assert!(assigned.partitions[0].committed);
    let read = member.batches().await.remove(0).batch.unwrap();
    assert_eq!((read.base_offset, read.next_offset), (3, 10));
}

#[tokio::test]
async fn what_a_member_read_and_did_not_commit_is_read_by_the_next_owner() {
    let broker = broker_with(2).await;
    let time = Position::TimestampMs(i64::MAX);
    let mut first = Member::join(broker.connect().await, starting(time)).await;
    assert_eq!(begins(&first.assignment().await), [(0, 3), (1, 3)]);
    for partition in 0..2 {
        broker.produce("t", partition, batch(2)).await;
        first.batches().await;
    }
    let mut second = Member::join(broker.connect().await, latest()).await;
    let revoke = first.revocation().await;
    let moving = revoke.partitions[0].partition;
    first.yield_up(revoke.partitions).await;
    assert_eq!(begins(&second.assignment().await), [(moving, 3)]);
}

#[tokio::test]
async fn a_group_that_began_at_the_end_has_nothing_before_it_to_catch_up_with() {
    let broker = broker_with(1).await;
    let mut member = Member::join(broker.connect().await, latest()).await;
    member.assignment().await;
    let described = broker.describe_group("g").await;
    let only = &described.partitions[0];
    assert_eq!((only.committed_offset, only.lag), (Some(3), 0));
    broker.produce("t", 0, batch(2)).await;
    let described = broker.describe_group("g").await;
    assert_eq!(described.partitions[0].lag, 2);
    member.commit_all(vec![position("t", 0, 5)]).await;
    assert_eq!(broker.describe_group("g").await.partitions[0].lag, 0);
}

/// Gives `t` so many partitions.
async fn grow(broker: &TestBroker, partitions: u32) {
    let grown = v1::AlterTopicRequest {
        name: "t".to_owned(),
        partitions: Some(partitions),
        config: None,
    };
    broker.admin().alter_topic(grown).await.unwrap();
}

/// Names, numbers, offsets that reading begins at, and whether they were committed,
/// of the next so many partitions.
async fn places(member: &mut Member, count: usize) -> Vec<(String, u32, u64, bool)> {
    let mut places = Vec::new();
    while places.len() < count {
        let assigned = member.assignment().await.partitions.into_iter();
        places.extend(assigned.map(|p| (p.topic, p.partition, p.offset, p.committed)));
    }
    places.sort();
    places
}

fn place(topic: &str, partition: u32, offset: u64, committed: bool) -> (String, u32, u64, bool) {
    (topic.to_owned(), partition, offset, committed)
}

#[tokio::test]
async fn what_is_created_after_the_group_began_is_read_from_its_beginning() {
    let broker = broker_with(1).await;
    let everything = v1::Join {
        topics: vec!["*".to_owned()],
        ..latest()
    };
    let mut member = Member::join(broker.connect().await, everything.clone()).await;
    assert_eq!(places(&mut member, 1).await, [place("t", 0, 3, false)]);
    member.leave().await;
    // While nobody is there, and a start of the broker lies in between.
    grow(&broker, 2).await;
    broker.produce("t", 1, batch(4)).await;
    let broker = broker.restart().await;
    broker.create_topic("new", 1).await;
    broker.produce("new", 0, batch(5)).await;

    let mut member = Member::join(broker.connect().await, everything).await;
    let expected = [
        place("new", 0, 0, false),
        place("t", 0, 3, true),
        place("t", 1, 0, false),
    ];
    assert_eq!(places(&mut member, 3).await, expected);
    let described = broker.describe_group("g").await.partitions;
    let lags: Vec<u64> = described.iter().map(|partition| partition.lag).collect();
    assert_eq!(lags, [5, 0, 4]);

    // While somebody is there.
    grow(&broker, 3).await;
    broker.produce("t", 2, batch(1)).await;
    assert_eq!(places(&mut member, 1).await, [place("t", 2, 0, false)]);
}

#[tokio::test]
async fn who_starts_nowhere_fails_at_the_join_or_not_at_all() {
    let broker = broker_with(2).await;
    let fail = v1::Join {
        topics: vec!["*".to_owned()],
        ..starting(Position::Fail(v1::GroupStartFail {}))
    };
    let mut committed = Member::join(broker.connect().await, join("g", &["t"])).await;
    committed.settle(2).await;
    committed.commit_all(vec![position("t", 0, 1)]).await;
    let before = broker.describe_group("g").await.group;
    // Though it may never have got the other one.
    let failed = Member::try_join(broker.connect().await, fail.clone()).await;
    let info = error_info(&failed.err().unwrap());
    assert_eq!(info.reason, "NO_COMMITTED_OFFSET");
    assert_eq!(
        (&*info.metadata["topic"], &*info.metadata["partition"]),
        ("t", "1")
    );
    assert_eq!(
        broker.describe_group("g").await.group,
        before,
        "nobody noticed"
    );
    committed.commit_all(vec![position("t", 1, 2)]).await;
    committed.leave().await;

    let mut first = Member::join(broker.connect().await, fail.clone()).await;
    let expected = [place("t", 0, 1, true), place("t", 1, 2, true)];
    assert_eq!(places(&mut first, 2).await, expected);
    // What is created now doesn't end it, nor those that join then.
    grow(&broker, 3).await;
    broker.produce("t", 2, batch(2)).await;
    assert_eq!(places(&mut first, 1).await, [place("t", 2, 0, false)]);
    broker.create_topic("new", 1).await;
    assert_eq!(places(&mut first, 1).await, [place("new", 0, 0, false)]);
    let mut second = Member::join(broker.connect().await, fail).await;
    tokio::join!(first.settle(2), second.settle(2));
}

#[tokio::test]
async fn who_starts_nowhere_waits_for_topics_that_do_not_exist_yet() {
    let broker = TestBroker::start().await;
    let fail = starting(Position::Fail(v1::GroupStartFail {}));
    let mut member = Member::join(broker.connect().await, fail).await;
    broker.create_topic("t", 1).await;
    assert_eq!(places(&mut member, 1).await, [place("t", 0, 0, false)]);
}
