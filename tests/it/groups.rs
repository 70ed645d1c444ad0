//! Consumer groups through the wire: joining, reading, committing, sharing.

use statecast_proto::v1::consume_request::Request;
use statecast_proto::v1::consume_response::Event;
use statecast_proto::v1::{self};

use crate::support::{Member, TestBroker, batch, join, partition, position};

/// Topic, partition and offset of what was assigned.
fn offsets(assigned: &v1::Assigned) -> Vec<(&str, u32, u64)> {
    let partitions = assigned.partitions.iter();
    partitions
        .map(|p| (&*p.topic, p.partition, p.offset))
        .collect()
}

#[tokio::test]
async fn a_member_joins_reads_commits_and_the_next_one_goes_on() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 1).await;
    broker.produce("t", 0, batch(3)).await;
    let mut member = Member::join(broker.connect().await, join("g", &["t"])).await;
    let Event::Assigned(assigned) = member.event().await else {
        panic!("the only member gets everything");
    };
    let [only] = &assigned.partitions[..] else {
        panic!("one partition: {assigned:?}");
    };
    assert_eq!((&*only.topic, only.partition, only.offset), ("t", 0, 0));
    assert!(!only.committed, "nothing was");
    assert_eq!(only.high_watermark, 3);
    let Event::Batches(read) = member.event().await else {
        panic!("records come next");
    };
    let fetched = read.batches[0].batch.as_ref().unwrap();
    assert_eq!(
        fetched.batch,
        batch(3),
        "the bytes are those that were sent"
    );
    let Event::CaughtUp(caught_up) = member.event().await else {
        panic!("then it is caught up");
    };
    assert_eq!(caught_up.positions[0].position.unwrap().offset, 3);

    member.commit(5, vec![position("t", 0, 2)]).await;
    let result = member.commit_result().await;
    assert_eq!((result.commit_id, result.refused), (5, vec![]));
    member.leave().await;

    let mut next = Member::join(broker.connect().await, join("g", &["t"])).await;
    let again = next.assignment().await;
    assert_eq!(offsets(&again), [("t", 0, 2)]);
    assert!(again.partitions[0].committed);
    assert!(again.generation > assigned.generation);
    let fetched = next.batches().await.remove(0).batch.unwrap();
    assert_eq!((fetched.base_offset, fetched.skip_records), (0, 2));
}

#[tokio::test]
async fn a_partition_moves_once_it_is_given_back() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 4).await;
    let mut first = Member::join(broker.connect().await, join("g", &["t"])).await;
    first.settle(4).await;
    let mut second = Member::join(broker.connect().await, join("g", &["t"])).await;
    let revoke = first.revocation().await;
    assert_eq!(revoke.partitions.len(), 2, "half of them");
    assert_eq!(revoke.reason(), v1::RevokeReason::Rebalance);
    // What is still worked on may be committed.
    let moving = revoke.partitions[0].clone();
    broker.produce("t", moving.partition, batch(2)).await;
    first
        .commit_all(vec![position("t", moving.partition, 1)])
        .await;
    first.yield_up(revoke.partitions).await;
    let got = second.settle(2).await;
    let kept: Vec<_> = first.assigned.keys().cloned().collect();
    assert!(kept.iter().all(|partition| !got.contains(partition)));
    // The records of what moved go to the new owner, from where it was committed.
    let read = second.batches().await.remove(0).batch.unwrap();
    assert_eq!((read.partition, read.skip_records), (moving.partition, 1));

    let stale = position("t", moving.partition, 2);
    first.commit(1, vec![stale]).await;
    let result = first.commit_result().await;
    let error = result.refused[0].error.as_ref().unwrap();
    assert_eq!(error.reason, "STALE_GENERATION");

    second.leave().await;
    first.settle(4).await;
}

#[tokio::test]
async fn commits_are_answered_in_their_order_each_with_its_refusals() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 2).await;
    broker.produce("t", 0, batch(10)).await;
    let mut member = Member::join(broker.connect().await, join("g", &["t"])).await;
    member.settle(2).await;
    for id in 0..20 {
        let mut positions = vec![position("t", 0, id % 11)];
        if id % 3 == 0 {
            positions.insert(0, position("nowhere", 0, 0));
        }
        if id % 4 == 0 {
            positions.push(position("t", 1, 1));
        }
        member.commit(id, positions).await;
    }
    for id in 0..20 {
        let result = member.commit_result().await;
        assert_eq!(result.commit_id, id);
        let refused = result.refused.iter();
        let reasons: Vec<_> = refused
            .map(|r| (&*r.topic, r.partition, &*r.error.as_ref().unwrap().reason))
            .collect();
        let mut expected = Vec::new();
        if id % 3 == 0 {
            expected.push(("nowhere", 0, "TOPIC_NOT_FOUND"));
        }
        if id % 4 == 0 {
            expected.push(("t", 1, "OFFSET_OUT_OF_RANGE"));
        }
        assert_eq!(reasons, expected, "commit {id}");
    }
    member.say(Request::Heartbeat(v1::MemberHeartbeat {})).await;
    let _ = partition("t", 0);
    member.leave().await;
}
