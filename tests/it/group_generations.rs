//! A partition that comes back: what is said of it before, and heard after, is about
//! something else.

use bytes::Bytes;
use statecast_proto::v1::consume_response::Event;
use statecast_proto::v1::start::Position;
use statecast_proto::v1::{self, Start};

use crate::support::{Member, TestBroker, batch, encode, join, position};

/// Batches of the partition that is reset, and how large each is: all of them are
/// several times read, and more than a transport takes that nobody reads from.
const BATCHES: u64 = 10;
const BATCH_BYTES: usize = 512 << 10;

/// How often it is reset at most.
const RESETS: u64 = 100;

async fn reset_to_begin(broker: &TestBroker, topic: &str) {
    let request = v1::ResetGroupRequest {
        name: "g".to_owned(),
        topic: topic.to_owned(),
        partitions: Vec::new(),
        to: Some(Start {
            position: Some(Position::Earliest(v1::Earliest {})),
        }),
        force: true,
    };
    broker.admin().reset_group(request).await.unwrap();
}

/// What the group has committed of a topic's only partition.
async fn committed(broker: &TestBroker, topic: &str) -> Option<u64> {
    let described = broker.describe_group("g").await;
    let partition = described.partitions.iter().find(|p| p.topic == topic);
    partition.unwrap().committed_offset
}

#[tokio::test]
async fn a_commit_of_who_was_not_told_of_a_reset_does_not_undo_it() {
    let broker = TestBroker::start().await;
    for topic in ["large", "small"] {
        broker.create_topic(topic, 1).await;
    }
    for _ in 0..BATCHES {
        let record = v1::Record {
            value: Some(Bytes::from(vec![0; BATCH_BYTES])),
            ..v1::Record::default()
        };
        broker.produce("large", 0, encode(vec![record])).await;
    }
    let count = usize::try_from(RESETS).unwrap();
    broker.produce("small", 0, batch(count)).await;
    let topics = ["large", "small"];
    let mut member = Member::join(broker.connect().await, join("g", &topics)).await;
    member.settle(2).await;
    // From now on it reads nothing: once the transport is full, it isn't told either
    // that the partition was lost and came back.
    for turn in 1..=RESETS {
        reset_to_begin(&broker, "large").await;
        let positions = vec![position("large", 0, BATCHES), position("small", 0, turn)];
        member.commit(turn, positions).await;
        while committed(&broker, "small").await != Some(turn) {
            tokio::task::yield_now().await;
        }
        if committed(&broker, "large").await == Some(0) {
            return assert_commits(member, turn).await;
        }
    }
    panic!("each reset is undone by a commit that was on its way");
}

/// The last of the commits was refused. The member was told of the reset before that,
/// and what it commits then counts.
async fn assert_commits(mut member: Member, turn: u64) {
    let result = loop {
        let result = member.commit_result().await;
        if result.commit_id == turn {
            break result;
        }
    };
    let [refused] = &result.refused[..] else {
        panic!("one of two: {result:?}");
    };
    assert_eq!((&*refused.topic, refused.partition), ("large", 0));
    let error = refused.error.as_ref().unwrap();
    assert_eq!(error.reason, "STALE_GENERATION");
    member.commit_all(vec![position("large", 0, 1)]).await;
}

/// The next request that is refused.
async fn refusal(member: &mut Member) -> v1::BatchError {
    let refused = member.find(|event| match event {
        Event::Refused(error) => Some(error),
        _ => None,
    });
    refused.await
}

#[tokio::test]
async fn an_answer_to_a_revoke_that_is_over_gives_nothing_back_that_came_since() {
    let broker = TestBroker::start().await;
    broker.create_topic("t", 2).await;
    let patient = v1::Join {
        revoke_timeout_ms: Some(300_000),
        ..join("g", &["t"])
    };
    let mut member = Member::join(broker.connect().await, patient).await;
    member.settle(2).await;
    let second = Member::join(broker.connect().await, join("g", &["t"])).await;
    let early = member.revocation().await;
    // It loses what it was to give back. The other one goes, and it comes back.
    reset_to_begin(&broker, "t").await;
    let lost = member.find(|event| matches!(event, Event::Lost(_)).then_some(()));
    lost.await;
    second.leave().await;
    member.settle(2).await;
    let mut third = Member::join(broker.connect().await, join("g", &["t"])).await;
    let revoke = member.revocation().await;

    let late = v1::Revoke {
        generation: early.generation,
        ..revoke.clone()
    };
    member.answer(&late).await;
    member.say_nothing().await;
    assert_eq!(refusal(&mut member).await.reason, "STALE_GENERATION");
    assert_eq!(refusal(&mut member).await.reason, "INVALID_REQUEST");
    let wanted = revoke.partitions[0].partition;
    member.commit_all(vec![position("t", wanted, 0)]).await;
    member.answer(&revoke).await;
    assert_eq!(third.settle(1).await, [("t".to_owned(), wanted)].into());
}
