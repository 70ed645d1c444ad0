//! What the commits of members hold stays bounded, and those that wait for room are
//! not forgotten.

use std::time::Duration;

use statecast_broker::server::ServerOptions;
use statecast_proto::v1::{self, consume_request::Request};

use crate::memory::narrow;
use crate::support::{Member, TestBroker, error_info, join, position};

const MIB: usize = 1 << 20;

/// Longer than any test: nobody's connection is closed.
const NEVER: Duration = Duration::from_secs(3600);

/// Says commits without end, each of so many positions that are refused, and never
/// hears the answers.
async fn commit_and_hear_nothing(broker: &TestBroker, group: &str) -> Member {
    let member = Member::open(narrow(broker).await).await;
    member.say(Request::Join(join(group, &["t"]))).await;
    for commit_id in 0..20 {
        let refused = vec![position("t", 7, 0); 1000];
        member.commit(commit_id, refused).await;
    }
    member
}

/// A broker with a topic `t` of one partition, and so much room for answers; who keeps
/// others waiting for it has to go after a time.
async fn broker_with_room(bytes: usize, stalled: Duration) -> TestBroker {
    let broker = TestBroker::start_with(ServerOptions {
        answering_bytes: bytes,
        stalled,
        ..ServerOptions::default()
    })
    .await;
    broker.create_topic("t", 1).await;
    broker
}

#[tokio::test]
async fn commits_whose_answers_nobody_takes_hold_no_more_than_there_is_room_for() {
    let broker = broker_with_room(8 * MIB, NEVER).await;
    // A commit takes up to 1.4 MiB: one member's would fill the room.
    let mut still = Vec::new();
    for number in 0..4 {
        still.push(commit_and_hear_nothing(&broker, &format!("g{number}")).await);
    }
    broker
        .until("statecast_answering_bytes", |held| held > 6 * MIB)
        .await;
    // A small one goes on all the same, and so do its answers.
    let mut member = Member::join(broker.connect().await, join("well", &["t"])).await;
    member.assignment().await;
    for _ in 0..100 {
        member.commit_all(vec![position("t", 0, 0)]).await;
        assert!(broker.metric("statecast_answering_bytes").await <= 8 * MIB);
    }
    drop(still);
    broker
        .until("statecast_answering_bytes", |held| held == 0)
        .await;
}

#[tokio::test]
async fn commits_whose_answers_nobody_takes_make_way_for_those_of_others() {
    let broker = broker_with_room(2 * MIB, Duration::from_millis(250)).await;
    let still = commit_and_hear_nothing(&broker, "still").await;
    broker
        .until("statecast_answering_bytes", |held| held > MIB)
        .await;
    let mut member = Member::join(broker.connect().await, join("well", &["t"])).await;
    member.assignment().await;
    member.commit_all(vec![position("t", 0, 0); 1000]).await;
    drop((still, member));
    broker
        .until("statecast_answering_bytes", |held| held == 0)
        .await;
}

#[tokio::test]
async fn a_commit_that_waits_for_room_when_the_broker_stops_is_answered() {
    let broker = broker_with_room(2 * MIB, NEVER).await;
    let still = commit_and_hear_nothing(&broker, "still").await;
    broker
        .until("statecast_answering_bytes", |held| held > MIB)
        .await;
    let mut witness = Member::join(broker.connect().await, join("witness", &["t"])).await;
    let brief = v1::Join {
        session_timeout_ms: Some(1000),
        ..join("well", &["t"])
    };
    let mut member = Member::join(broker.connect().await, brief).await;
    member.assignment().await;
    member.commit(1, vec![position("t", 0, 0); 1000]).await;
    // Who says nothing for so long is still there only since it is kept waiting.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(broker.describe_group("well").await.members.len(), 1);
    let stopping = tokio::spawn(broker.stop_serving());
    let stops = error_info(&witness.failure().await);
    assert_eq!(stops.reason, "STOPPING");
    drop(still);
    assert_eq!(member.commit_result().await.refused, []);
    assert_eq!(error_info(&member.failure().await).reason, "STOPPING");
    drop((member, witness));
    stopping.await.unwrap();
}
