//! What members of groups are sent: from where, how much, and of which topics.

use statecast_proto::v1::consume_response::Event;
use statecast_proto::v1::group_start::Position;
use statecast_proto::v1::{self, RevokeReason};

use crate::support::{Member, TestBroker, batch, encode, error_info, join, position, record};

fn starting(position: Position) -> v1::Join {
    v1::Join {
        start: Some(v1::GroupStart {
            position: Some(position),
        }),
        ..join("g", &["t"])
    }
}

/// Base offsets of batches.
fn bases(batches: &[v1::GroupBatch]) -> Vec<u64> {
    let base = |batch: &v1::GroupBatch| batch.batch.as_ref().unwrap().base_offset;
    batches.iter().map(base).collect()
}

#[tokio::test]
async fn where_nothing_was_committed_the_member_says_where_to_begin() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1).await;
    for timestamp_ms in [100, 200, 300] {
        let timestamp_ms = Some(timestamp_ms);
        let dated = v1::Record {
            timestamp_ms,
            ..record(0)
        };
        broker.produce("t", 0, encode(vec![dated])).await;
    }
    let starts = [
        (Position::Earliest(v1::Earliest {}), 0),
        (Position::Latest(v1::Latest {}), 3),
        (Position::TimestampMs(150), 1),
        (Position::TimestampMs(301), 3),
    ];
    for (number, (start, offset)) in starts.into_iter().enumerate() {
        let another = v1::Join {
            group: format!("g{number}"),
            ..starting(start)
        };
        let mut member = Member::join(broker.connect().await, another).await;
        let assigned = member.assignment().await;
        let only = &assigned.partitions[0];
        assert_eq!((only.offset, only.committed), (offset, false), "{start:?}");
        member.leave().await;
    }
    let fail = starting(Position::Fail(v1::GroupStartFail {}));
    let failed = Member::try_join(broker.connect().await, fail.clone()).await;
    let info = error_info(&failed.err().unwrap());
    assert_eq!(info.reason, "NO_COMMITTED_OFFSET");
    assert_eq!(info.metadata["topic"], "t");
    assert_eq!(info.metadata["partition"], "0");

    // What was committed beats all of them.
    let mut member = Member::join(broker.connect().await, join("g", &["t"])).await;
    member.settle(1).await;
    member.commit_all(vec![position("t", 0, 2)]).await;
    member.leave().await;
    let mut member = Member::join(broker.connect().await, fail).await;
    let assigned = member.assignment().await;
    assert_eq!(
        (
            assigned.partitions[0].offset,
            assigned.partitions[0].committed
        ),
        (2, true)
    );
}

#[tokio::test]
async fn records_are_sent_as_far_as_they_are_taken() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1).await;
    for _ in 0..6 {
        broker.produce("t", 0, batch(10)).await;
    }
    let bytes = batch(10).len() as u64;
    let capacity = v1::Credit {
        bytes: None,
        records: Some(15),
    };
    let frugal = v1::Join {
        capacity: Some(capacity),
        ..join("g", &["t"])
    };
    let mut member = Member::join(broker.connect().await, frugal).await;
    // While something is left, a batch that is larger is still sent.
    let mut read = Vec::new();
    while read.len() < 2 {
        read.extend(bases(&member.batches().await));
    }
    assert_eq!(read, [0, 10]);
    // The answer to a commit shows that nothing else is on its way.
    member.commit_all(vec![position("t", 0, 20)]).await;
    // 5 were sent beyond what was taken: they are paid first.
    member.take_more(0, 5).await;
    member.commit_all(vec![position("t", 0, 20)]).await;
    member.take_more(0, 1).await;
    assert_eq!(bases(&member.batches().await), [20]);
    member.commit_all(vec![position("t", 0, 30)]).await;
    member.take_more(0, 100).await;
    let mut read = Vec::new();
    while read.len() < 3 {
        read.extend(bases(&member.batches().await));
    }
    assert_eq!(read, [30, 40, 50]);
    assert!(matches!(member.event().await, Event::CaughtUp(_)));
    member.leave().await;

    let capacity = v1::Credit {
        bytes: Some(bytes + 1),
        records: None,
    };
    let frugal = v1::Join {
        capacity: Some(capacity),
        ..join("other", &["t"])
    };
    let mut member = Member::join(broker.connect().await, frugal).await;
    let mut read = Vec::new();
    while read.len() < 2 {
        read.extend(bases(&member.batches().await));
    }
    assert_eq!(read, [0, 10]);
    member.commit_all(vec![position("t", 0, 20)]).await;
    member.take_more(bytes, 0).await;
    assert_eq!(bases(&member.batches().await), [20]);
    member.commit_all(vec![position("t", 0, 30)]).await;
}

#[tokio::test]
async fn who_takes_nothing_is_told_what_the_group_says_all_the_same() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 2).await;
    broker.produce("t", 0, batch(1)).await;
    let nothing = v1::Join {
        capacity: Some(v1::Credit {
            bytes: Some(0),
            records: Some(0),
        }),
        ..join("g", &["t"])
    };
    let mut first = Member::join(broker.connect().await, nothing).await;
    first.settle(2).await;
    first.commit_all(vec![position("t", 0, 1)]).await;
    let mut second = Member::join(broker.connect().await, join("g", &["t"])).await;
    let revoke = first.revocation().await;
    first.yield_up(revoke.partitions).await;
    second.settle(1).await;
}

#[tokio::test]
async fn a_response_has_no_more_bytes_than_the_member_wants() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1).await;
    let large = encode((0..100).map(record).collect());
    assert!(large.len() > 1 << 10);
    for _ in 0..3 {
        broker.produce("t", 0, large.clone()).await;
    }
    let narrow = v1::Join {
        max_bytes: Some(1 << 10),
        ..join("g", &["t"])
    };
    let mut member = Member::join(broker.connect().await, narrow).await;
    for base in [0, 100, 200] {
        assert_eq!(bases(&member.batches().await), [base]);
    }
}

#[tokio::test]
async fn a_member_is_caught_up_once_each_time() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 3).await;
    let mut member = Member::join(broker.connect().await, join("g", &["t"])).await;
    member.settle(3).await;
    let caught_up = |event| match event {
        Event::CaughtUp(caught_up) => Some(caught_up.positions),
        _ => None,
    };
    let places = |positions: Vec<v1::GroupPosition>| {
        let place = |p: &v1::GroupPosition| {
            let position = p.position.unwrap();
            (p.topic.clone(), position.partition, position.offset)
        };
        let mut places: Vec<_> = positions.iter().map(place).collect();
        places.sort();
        places
    };
    let at = |partition, offset| ("t".to_owned(), partition, offset);
    assert_eq!(
        places(member.find(caught_up).await),
        [at(0, 0), at(1, 0), at(2, 0)]
    );
    for n in 0..6_u32 {
        let (partition, offset) = (n % 3, u64::from(n / 3));
        broker.produce("t", partition, batch(1)).await;
        assert_eq!(member.batches().await.len(), 1);
        let Event::CaughtUp(moved) = member.event().await else {
            panic!("caught up again");
        };
        assert_eq!(places(moved.positions), [at(partition, offset + 1)]);
    }
}

#[tokio::test]
async fn topics_and_partitions_that_come_are_read_and_those_that_go_are_lost() {
    let broker = TestBroker::start().await;
    broker.create_topic("orders.old", 1).await;
    broker.create_topic("other", 1).await;
    let mut member = Member::join(broker.connect().await, join("g", &["orders.*", "late"])).await;
    let has = |topic: &str, partition| (topic.to_owned(), partition);
    assert!(member.settle(1).await.contains(&has("orders.old", 0)));
    broker.create_topic("orders.new", 2).await;
    broker.create_topic("late", 1).await;
    member.settle(4).await;
    let grown = v1::AlterTopicRequest {
        name: "orders.old".to_owned(),
        partitions: Some(2),
        config: None,
    };
    broker.admin().alter_topic(grown).await.unwrap();
    assert!(member.settle(5).await.contains(&has("orders.old", 1)));
    broker.produce("orders.new", 1, batch(1)).await;
    let read = member.batches().await.remove(0);
    assert_eq!(
        (&*read.topic, read.batch.unwrap().partition),
        ("orders.new", 1)
    );
    member.commit_all(vec![position("orders.new", 1, 1)]).await;

    let name = "orders.new".to_owned();
    let delete = v1::DeleteTopicRequest { name };
    broker.admin().delete_topic(delete).await.unwrap();
    let lost = member
        .find(|event| match event {
            Event::Lost(lost) => Some(lost),
            _ => None,
        })
        .await;
    assert_eq!(lost.reason(), RevokeReason::TopicDeleted);
    assert_eq!(lost.partitions.len(), 2);
    member.commit(1, vec![position("orders.new", 1, 1)]).await;
    let refused = member.commit_result().await.refused;
    assert_eq!(refused[0].error.as_ref().unwrap().reason, "TOPIC_NOT_FOUND");

    // One that is made anew has nothing to do with it.
    broker.create_topic("orders.new", 2).await;
    let again = member.assignment().await;
    let new: Vec<_> = again
        .partitions
        .iter()
        .map(|p| (p.offset, p.committed))
        .collect();
    assert_eq!(new, [(0, false), (0, false)]);
    member.commit_all(vec![position("orders.old", 0, 0)]).await;
}

#[tokio::test]
async fn a_group_of_several_topics_is_shared_evenly() {
    let broker = TestBroker::start().await;
    for (topic, partitions) in [("a", 3), ("b", 4), ("c", 5)] {
        broker.create_topic(topic, partitions).await;
    }
    let mut members = Vec::new();
    for _ in 0..4 {
        members.push(Member::join(broker.connect().await, join("g", &["a", "b", "c"])).await);
    }
    let settled = members.iter_mut().map(|member| member.settle(3));
    let has = futures_util::future::join_all(settled).await;
    let all: std::collections::BTreeSet<_> = has.into_iter().flatten().collect();
    assert_eq!(all.len(), 12);
}
