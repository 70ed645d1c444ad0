//! Members that wait for more: they aren't stuck, whatever they have committed.

use std::time::Duration;

use statecast_client::{Client, Consumer, GroupEvent};
use statecast_proto::v1::consume_response::Event;
use statecast_proto::v1::{self, RevokeReason};

use crate::support::{Member, TestBroker, batch, join, position};

/// Less than the 3 seconds after which a broker says that there is nothing to say.
const LIMIT_MS: u32 = 2000;

/// A broker with a topic `t` of so many partitions, each with ten records.
async fn broker_with(partitions: u32) -> TestBroker {
    let broker = TestBroker::start().await;
    broker.create_topic("t", partitions).await;
    for partition in 0..partitions {
        broker.produce("t", partition, batch(10)).await;
    }
    broker
}

/// A member that has to be quick, and has much time to give partitions back.
fn hurried() -> v1::Join {
    v1::Join {
        session_timeout_ms: Some(60_000),
        max_processing_time_ms: Some(LIMIT_MS),
        revoke_timeout_ms: Some(60_000),
        ..join("g", &["t"])
    }
}

#[tokio::test]
async fn a_member_that_committed_a_part_and_waits_for_more_keeps_its_partition() {
    let broker = broker_with(1).await;
    let mut member = Member::join(broker.connect().await, hurried()).await;
    member.batches().await;
    member.commit_all(vec![position("t", 0, 5)]).await;
    member.is_left_alone().await;
    // It gets what comes, and as long for it as for anything.
    broker.produce("t", 0, batch(1)).await;
    member.batches().await;
    member.commit_all(vec![position("t", 0, 11)]).await;
    member.is_left_alone().await;
    assert!(!broker.describe_group("g").await.members[0].stalled);
}

#[tokio::test]
async fn a_member_with_all_its_capacity_free_keeps_its_partition_though_it_never_commits() {
    let broker = broker_with(1).await;
    let bytes = batch(10).len() as u64;
    let bounded = v1::Join {
        capacity: Some(v1::Credit {
            bytes: Some(1 << 20),
            records: Some(10),
        }),
        ..hurried()
    };
    let mut member = Member::join(broker.connect().await, bounded).await;
    for _ in 0..2 {
        member.batches().await;
        member.take_more(bytes, 10).await;
        member.is_left_alone().await;
        broker.produce("t", 0, batch(10)).await;
    }
    // One that keeps its credit has work to do, and doesn't get on with it.
    member.batches().await;
    let revoke = member.revocation().await;
    assert_eq!(revoke.reason(), RevokeReason::MaxProcessingTime);
}

#[tokio::test]
async fn a_member_that_gives_back_all_that_it_was_too_slow_with_gets_partitions_again() {
    let broker = broker_with(2).await;
    let mut member = Member::join(broker.connect().await, hurried()).await;
    member.settle(2).await;
    let revoke = member.revocation().await;
    assert_eq!(revoke.reason(), RevokeReason::MaxProcessingTime);
    let [one, other] = <[_; 2]>::try_from(revoke.partitions).unwrap();
    member.yield_up(vec![one]).await;
    // It may be stuck with the other one.
    member.say_nothing().await;
    let refused = member.find(|event| matches!(event, Event::Refused(_)).then_some(()));
    refused.await;
    assert!(broker.describe_group("g").await.members[0].stalled);
    member.yield_up(vec![other]).await;
    assert_eq!(member.settle(2).await.len(), 2);
    assert!(!broker.describe_group("g").await.members[0].stalled);
}

#[tokio::test]
async fn a_member_that_is_stuck_is_not_let_off_by_what_it_says_of_an_earlier_assignment() {
    let broker = broker_with(1).await;
    let mut member = Member::join(broker.connect().await, hurried()).await;
    let assigned = member.assignment().await;
    let revoke = member.revocation().await;
    assert_eq!(revoke.reason(), RevokeReason::MaxProcessingTime);
    let early = v1::Revoke {
        generation: assigned.generation,
        ..revoke.clone()
    };
    member.answer(&early).await;
    let refused = member.find(|event| matches!(event, Event::Refused(_)).then_some(()));
    refused.await;
    assert!(broker.describe_group("g").await.members[0].stalled);
    member.answer(&revoke).await;
    while broker.describe_group("g").await.members[0].stalled {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_member_that_gives_back_too_late_gets_partitions_again() {
    let broker = broker_with(1).await;
    let slow = v1::Join {
        revoke_timeout_ms: Some(0),
        ..hurried()
    };
    let mut member = Member::join(broker.connect().await, slow).await;
    member.settle(1).await;
    let revoke = member.revocation().await;
    let lost = member.find(|event| match event {
        Event::Lost(lost) => Some(lost),
        _ => None,
    });
    assert_eq!(lost.await.partitions, revoke.partitions);
    member.give_back(revoke.partitions).await;
    member.settle(1).await;
}

/// The next batch, and whatever else is told until then is no loss.
async fn read(consumer: &mut Consumer) -> statecast_client::Batch {
    loop {
        match consumer.next_event().await.unwrap().unwrap() {
            GroupEvent::Batch(batch) => return batch,
            GroupEvent::Revoked { .. } | GroupEvent::Lost { .. } => panic!("it isn't stuck"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_consumer_of_the_library_that_waits_with_something_uncommitted_is_left_alone() {
    let broker = broker_with(1).await;
    let client = Client::connect(format!("http://{}", broker.address())).await;
    let client = client.unwrap();
    let opened = client
        .consumer("g")
        .topics(["t"])
        .auto_commit(false)
        .max_processing_time(Duration::from_millis(LIMIT_MS.into()))
        .open();
    let mut consumer = opened.await.unwrap();
    let first = read(&mut consumer).await.records().next();
    consumer.commit(&first.unwrap().unwrap()).await.unwrap();
    let wait = Duration::from_millis(2 * u64::from(LIMIT_MS));
    tokio::time::timeout(wait, read(&mut consumer))
        .await
        .expect_err("there is nothing to read");
    broker.produce("t", 0, batch(1)).await;
    assert_eq!(read(&mut consumer).await.offsets(), 10..11);
}
