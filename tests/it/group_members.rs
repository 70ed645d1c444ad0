//! Members of groups: how they come, come again, fall silent and go.

use std::time::Duration;

use statecast_proto::v1::consume_request::Request;
use statecast_proto::v1::consume_response::Event;
use statecast_proto::v1::{self, RevokeReason};

use crate::support::{Member, TestBroker, batch, error_info, join, position};

/// A broker with a topic `t` of so many partitions.
async fn broker_with(partitions: u32) -> TestBroker {
    let broker = TestBroker::start().await;
    broker.create_topic("t", partitions).await;
    broker
}

fn named(name: &str) -> v1::Join {
    v1::Join {
        member_name: Some(name.to_owned()),
        ..join("g", &["t"])
    }
}

/// The least that is possible.
fn impatient() -> v1::Join {
    v1::Join {
        session_timeout_ms: Some(1000),
        max_processing_time_ms: Some(1000),
        revoke_timeout_ms: Some(0),
        ..join("g", &["t"])
    }
}

#[tokio::test]
async fn a_third_member_takes_its_share_and_the_others_keep_the_rest() {
    let broker = broker_with(12).await;
    let mut first = Member::join(broker.connect().await, join("g", &["t"])).await;
    first.settle(12).await;
    let mut second = Member::join(broker.connect().await, join("g", &["t"])).await;
    let (before_first, before_second) = tokio::join!(first.settle(6), second.settle(6));
    let mut third = Member::join(broker.connect().await, join("g", &["t"])).await;
    let (has_first, has_second, has_third) =
        tokio::join!(first.settle(4), second.settle(4), third.settle(4));
    assert!(has_first.is_subset(&before_first), "it got nothing new");
    assert!(has_second.is_subset(&before_second));
    assert_eq!(
        &(&has_first | &has_second) | &has_third,
        &before_first | &before_second
    );

    // While nothing changes hands, records come at once.
    for (member, has) in [
        (&mut first, &has_first),
        (&mut second, &has_second),
        (&mut third, &has_third),
    ] {
        for (topic, partition) in has {
            broker.produce(topic, *partition, batch(1)).await;
            let read = member.batches().await.remove(0);
            assert_eq!(read.batch.unwrap().partition, *partition);
        }
    }
}

#[tokio::test]
async fn delivery_of_what_stays_goes_on_while_others_are_waited_for() {
    let broker = broker_with(2).await;
    let mut first = Member::join(broker.connect().await, join("g", &["t"])).await;
    first.settle(2).await;
    let second = Member::join(broker.connect().await, join("g", &["t"])).await;
    let revoke = first.revocation().await;
    // The first one keeps what it was asked for, for now.
    let moving = revoke.partitions[0].partition;
    for round in 0..10 {
        broker.produce("t", moving, batch(1)).await;
        broker.produce("t", 1 - moving, batch(1)).await;
        let read = first.batches().await.remove(0).batch.unwrap();
        assert_eq!((read.partition, read.base_offset), (1 - moving, round));
    }
    second.leave().await;
}

#[tokio::test]
async fn who_ignores_a_revoke_loses_the_partition_and_nothing_else() {
    let broker = broker_with(2).await;
    let patient = v1::Join {
        revoke_timeout_ms: Some(500),
        ..join("g", &["t"])
    };
    let mut first = Member::join(broker.connect().await, patient).await;
    first.settle(2).await;
    let mut second = Member::join(broker.connect().await, join("g", &["t"])).await;
    let revoke = first.revocation().await;
    assert!(revoke.deadline_ms <= 500, "{}", revoke.deadline_ms);
    // That it has caught up may come first.
    let lost = first.find(|event| match event {
        Event::Lost(lost) => Some(lost),
        _ => None,
    });
    let lost = lost.await;
    assert_eq!(lost.partitions, revoke.partitions);
    assert_eq!(lost.reason(), RevokeReason::Rebalance);
    second.settle(1).await;
    let (lost, kept) = (
        lost.partitions[0].partition,
        1 - lost.partitions[0].partition,
    );
    for partition in [lost, kept] {
        broker.produce("t", partition, batch(1)).await;
    }
    assert_eq!(
        first.batches().await[0].batch.as_ref().unwrap().partition,
        kept
    );
    first.commit_all(vec![position("t", kept, 1)]).await;
    second.commit_all(vec![position("t", lost, 1)]).await;
}

#[tokio::test]
async fn a_named_member_that_comes_again_gets_what_it_had() {
    let broker = broker_with(4).await;
    let mut stays = Member::join(broker.connect().await, join("g", &["t"])).await;
    stays.settle(4).await;
    let mut named_one = Member::join(broker.connect().await, named("n")).await;
    let (_, had) = tokio::join!(stays.settle(2), named_one.settle(2));
    named_one.vanish();
    let mut again = Member::join(broker.connect().await, named("n")).await;
    assert_eq!(again.settle(2).await, had);
    // Nothing of it reached the other one.
    stays.commit_all(vec![position("t", stays.some(), 0)]).await;
    assert_eq!(stays.assigned.len(), 2);

    // Whoever joins with its name takes its place, though it is there.
    let mut usurper = Member::join(broker.connect().await, named("n")).await;
    assert_eq!(usurper.settle(2).await, had);
    let status = again.failure().await;
    assert_eq!(error_info(&status).reason, "MEMBER_REPLACED");

    // One that leaves is not waited for.
    usurper.leave().await;
    stays.settle(4).await;
}

#[tokio::test]
async fn a_nameless_member_that_vanishes_is_gone_at_once() {
    let broker = broker_with(4).await;
    let mut stays = Member::join(broker.connect().await, join("g", &["t"])).await;
    stays.settle(4).await;
    let mut goes = Member::join(broker.connect().await, join("g", &["t"])).await;
    tokio::join!(stays.settle(2), goes.settle(2));
    goes.vanish();
    stays.settle(4).await;
}

#[tokio::test]
async fn who_ends_its_stream_is_answered_and_may_come_again_by_its_name() {
    let broker = broker_with(1).await;
    broker.produce("t", 0, batch(1)).await;
    let mut member = Member::join(broker.connect().await, named("n")).await;
    member.settle(1).await;
    member.commit(1, vec![position("t", 0, 1)]).await;
    member.half_close();
    // What it committed is answered, then the stream ends in order.
    assert_eq!(member.commit_result().await.refused, []);
    assert_eq!(member.try_event().await.unwrap(), None);
    let group = broker.describe_group("g").await.group.unwrap();
    assert_eq!(group.members, 1, "it is waited for, as it has a name");
    let mut again = Member::join(broker.connect().await, named("n")).await;
    assert_eq!(again.settle(1).await.len(), 1);
}

#[tokio::test]
async fn a_silent_member_is_sent_away_and_others_get_what_it_had() {
    let broker = broker_with(2).await;
    let mut silent = Member::join(broker.connect().await, impatient()).await;
    silent.settle(2).await;
    let mut other = Member::join(broker.connect().await, join("g", &["t"])).await;
    let status = silent.failure().await;
    let info = error_info(&status);
    assert_eq!(info.reason, "MEMBER_EXPIRED");
    assert!(info.retry);
    other.settle(2).await;
}

#[tokio::test]
async fn a_member_that_says_anything_is_alive() {
    let broker = broker_with(1).await;
    let brief = v1::Join {
        session_timeout_ms: Some(4000),
        ..join("g", &["t"])
    };
    let mut member = Member::join(broker.connect().await, brief).await;
    member.settle(1).await;
    let requests = [
        Request::Heartbeat(v1::MemberHeartbeat {}),
        Request::Credit(v1::Credit::default()),
        Request::Revoked(v1::Revoked::default()),
        // Even what makes no sense.
        Request::Commit(v1::Commit::default()),
    ];
    for request in requests {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        member.say(request).await;
    }
    member.commit_all(vec![position("t", 0, 0)]).await;
}

#[tokio::test]
async fn a_member_that_is_stuck_loses_its_partitions_until_it_moves() {
    let broker = broker_with(2).await;
    for partition in 0..2 {
        broker.produce("t", partition, batch(4)).await;
    }
    let stuck = v1::Join {
        session_timeout_ms: Some(60_000),
        ..impatient()
    };
    let mut stuck = Member::join(broker.connect().await, stuck).await;
    stuck.settle(2).await;
    let revoke = stuck.revocation().await;
    assert_eq!(revoke.reason(), RevokeReason::MaxProcessingTime);
    assert_eq!(revoke.partitions.len(), 2);
    let Event::Lost(lost) = stuck.event().await else {
        panic!("the time to give them back is over");
    };
    assert_eq!(lost.reason(), RevokeReason::MaxProcessingTime);
    let described = broker.describe_group("g").await;
    assert!(described.members[0].stalled);

    let mut other = Member::join(broker.connect().await, join("g", &["t"])).await;
    other.settle(2).await;
    let late = stuck.commit(1, vec![position("t", 0, 4)]);
    late.await;
    let refused = stuck.commit_result().await.refused;
    assert_eq!(
        refused[0].error.as_ref().unwrap().reason,
        "STALE_GENERATION"
    );
    // But it moves again, and gets its share.
    tokio::join!(stuck.settle(1), other.settle(1));
    assert!(!broker.describe_group("g").await.members[0].stalled);
}

#[tokio::test]
async fn a_member_that_commits_or_takes_more_is_not_stuck() {
    let broker = broker_with(1).await;
    broker.produce("t", 0, batch(10)).await;
    let busy = v1::Join {
        session_timeout_ms: Some(60_000),
        max_processing_time_ms: Some(3000),
        ..impatient()
    };
    let mut busy = Member::join(broker.connect().await, busy).await;
    busy.batches().await;
    for offset in 1..=3 {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        if offset % 2 == 0 {
            busy.take_more(0, 0).await;
        } else {
            busy.commit_all(vec![position("t", 0, offset)]).await;
        }
    }
    // Who has processed everything may rest.
    busy.commit_all(vec![position("t", 0, 10)]).await;
    tokio::time::sleep(Duration::from_millis(3500)).await;
    busy.commit_all(vec![position("t", 0, 10)]).await;
    assert_eq!(busy.assigned.len(), 1);
}

#[tokio::test]
async fn a_broker_that_stops_answers_commits_and_says_so() {
    let broker = broker_with(1).await;
    broker.produce("t", 0, batch(2)).await;
    let mut member = Member::join(broker.connect().await, join("g", &["t"])).await;
    member.settle(1).await;
    member.commit(1, vec![position("t", 0, 1)]).await;
    member.commit_result().await;
    let stopping = tokio::spawn(broker.stop_serving());
    let status = member.failure().await;
    assert_eq!(error_info(&status).reason, "STOPPING");
    drop(member);
    let (stopped, drained) = stopping.await.unwrap();
    assert_eq!(drained, statecast_broker::server::Drained::Completely);

    let broker = stopped.start().await;
    let mut member = Member::join(broker.connect().await, join("g", &["t"])).await;
    assert_eq!(member.assignment().await.partitions[0].offset, 1);
}

#[tokio::test]
async fn a_member_that_never_reads_holds_up_nobody() {
    let broker = broker_with(2).await;
    let big = crate::support::encode(vec![v1::Record {
        value: Some(vec![7; 1 << 20].into()),
        ..v1::Record::default()
    }]);
    for _ in 0..20 {
        broker.produce("t", 0, big.clone()).await;
        broker.produce("t", 1, big.clone()).await;
    }
    let deaf = Member::open(broker.connect().await).await;
    deaf.say(Request::Join(join("g", &["t"]))).await;
    let mut other = Member::join(broker.connect().await, join("g", &["t"])).await;
    let mut beat = tokio::time::interval(Duration::from_secs(1));
    // The deaf one lets the deadline pass.
    let got = async {
        other.settle(1).await;
        other.batches().await;
    };
    tokio::pin!(got);
    loop {
        tokio::select! {
            () = &mut got => break,
            _ = beat.tick() => deaf.say(Request::Heartbeat(v1::MemberHeartbeat {})).await,
        }
    }
}
