//! Joining, committing, giving back, losing, coming again.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use statecast_client::{
    CommitPosition, Consumer, Error, GroupEvent, GroupStart, Reason, Record, RevokeReason,
};
use statecast_proto::v1;
use statecast_proto::v1::consume_request::Request as Said;
use statecast_proto::v1::consume_response::Event;
use tokio_stream::StreamExt;

use crate::fake_broker::fetched;
use crate::fake_groups::{FakeGroups, FakeMember, REVOKED_IN, positions};

const REBALANCE: v1::RevokeReason = v1::RevokeReason::Rebalance;

/// A consumer that has t/0 from offset 0, and its member.
async fn joined(groups: &FakeGroups) -> (Consumer, FakeMember) {
    let builder = groups.consumer().await;
    let (consumer, member) = tokio::join!(builder.open(), groups.join());
    member.assigns(7, &[(0, 0)]).await;
    (consumer.unwrap(), member)
}

async fn next(consumer: &mut Consumer) -> Result<Record, Error> {
    consumer.next().await.unwrap()
}

async fn next_value(consumer: &mut Consumer) -> String {
    let record = next(consumer).await.unwrap();
    String::from_utf8(record.value.unwrap().to_vec()).unwrap()
}

/// Polls a future once.
async fn is_pending(future: &mut (impl Future + Unpin)) -> bool {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx).is_pending())).await
}

/// What is told next besides records.
async fn told(consumer: &mut Consumer) -> GroupEvent {
    loop {
        match consumer.next_event().await.unwrap().unwrap() {
            GroupEvent::Batch(_) => {}
            event => return event,
        }
    }
}

#[tokio::test]
async fn member_joins_as_it_is_set_up() {
    let groups = FakeGroups::start().await;
    let builder = groups
        .consumer()
        .await
        .topics(["audit.*"])
        .member_name("a")
        .client_name("me")
        .start(GroupStart::Time(99))
        .session_timeout(Duration::from_secs(3))
        .max_processing_time(Duration::from_secs(4))
        .revoke_timeout(Duration::from_secs(5))
        .max_bytes(4096)
        .capacity(1000, 10);
    let (consumer, member) = tokio::join!(builder.open(), groups.join());
    let expected = v1::Join {
        group: "g".to_owned(),
        topics: vec!["t".to_owned(), "audit.*".to_owned()],
        member_name: Some("a".to_owned()),
        capacity: Some(v1::Credit {
            bytes: Some(1000),
            records: Some(10),
        }),
        start: Some(v1::GroupStart {
            position: Some(v1::group_start::Position::TimestampMs(99)),
        }),
        session_timeout_ms: Some(3000),
        max_processing_time_ms: Some(4000),
        max_bytes: Some(4096),
        revoke_timeout_ms: Some(5000),
        client: "me".to_owned(),
    };
    assert_eq!(member.join, expected);
    assert_eq!(consumer.unwrap().member_id().as_deref(), Some("m"));
}

#[tokio::test]
async fn open_fails_with_what_the_broker_says() {
    let groups = FakeGroups::start().await;
    let builder = groups.consumer().await;
    let refused = async { groups.accept().await.ends(Reason::InvalidRequest).await };
    let (consumer, ()) = tokio::join!(builder.open(), refused);
    assert_eq!(consumer.unwrap_err().reason(), Some(Reason::InvalidRequest));
}

#[tokio::test]
async fn record_is_processed_once_the_next_is_asked_for() {
    let groups = FakeGroups::start().await;
    let builder = groups.consumer().await;
    let builder = builder.commit_interval(Duration::from_millis(1));
    let (consumer, mut member) = tokio::join!(builder.open(), groups.join());
    let mut consumer = consumer.unwrap();
    member.assigns(7, &[(0, 5)]).await;
    member.sends(0, 5, &["a", "b"]).await;
    assert_eq!(next_value(&mut consumer).await, "a");
    assert_eq!(next_value(&mut consumer).await, "b");
    let commit = member.hears_commit().await;
    assert_eq!(positions(&commit), [(0, 6, 7)], "b isn't processed");
    member.commits(&commit).await;
    let asked = tokio::select! {
        biased;
        record = consumer.next() => panic!("there is no other: {record:?}"),
        commit = member.hears_commit() => commit,
    };
    assert_eq!(positions(&asked), [(0, 7, 7)]);
}

#[tokio::test]
async fn batches_are_processed_as_a_whole_and_a_rest_is_handed_out_once() {
    let groups = FakeGroups::start().await;
    let (mut consumer, mut member) = joined(&groups).await;
    member.sends(0, 0, &["a", "b", "c"]).await;
    member.sends(0, 3, &["d"]).await;
    assert_eq!(next_value(&mut consumer).await, "a");
    let rest = consumer.next_batch().await.unwrap().unwrap();
    assert_eq!(rest.offsets(), 1..3);
    assert_eq!(rest.views().count(), 2);
    let next = consumer.next_batch().await.unwrap().unwrap();
    assert_eq!((next.offsets(), next.partition()), (3..4, 0));
    drop(consumer);
    assert_eq!(positions(&member.hears_commit().await), [(0, 3, 7)]);
}

#[tokio::test]
async fn marks_are_committed_together_when_the_consumer_closes() {
    let groups = FakeGroups::start().await;
    let builder = groups.consumer().await.auto_commit(false);
    let (consumer, mut member) = tokio::join!(builder.open(), groups.join());
    let mut consumer = consumer.unwrap();
    member.assigns(7, &[(0, 0), (1, 0)]).await;
    member.sends(0, 0, &["a", "b"]).await;
    member.sends(1, 0, &["c", "d"]).await;
    let mut records = Vec::new();
    for _ in 0..4 {
        records.push(next(&mut consumer).await.unwrap());
    }
    for record in [&records[0], &records[1], &records[2]] {
        consumer.mark_processed(record).unwrap();
    }
    let (closed, ()) = tokio::join!(consumer.close(), async {
        let commit = member.hears_commit().await;
        assert_eq!(positions(&commit), [(0, 2, 7), (1, 1, 7)]);
        member.commits(&commit).await;
        assert_eq!(member.hears().await, Some(Said::Leave(v1::Leave {})));
        assert_eq!(member.hears().await, None);
        drop(member);
    });
    closed.unwrap();
}

#[tokio::test]
async fn close_tells_what_could_not_be_committed() {
    let groups = FakeGroups::start().await;
    let (mut consumer, mut member) = joined(&groups).await;
    member.sends(0, 0, &["a"]).await;
    let record = next(&mut consumer).await.unwrap();
    consumer.mark_processed(&record).unwrap();
    let (closed, ()) = tokio::join!(consumer.close(), async {
        let commit = member.hears_commit().await;
        member.refuses(&commit, Reason::DiskFull).await;
        assert_eq!(member.hears().await, Some(Said::Leave(v1::Leave {})));
        drop(member);
    });
    assert_eq!(closed.unwrap_err().reason(), Some(Reason::DiskFull));
}

#[tokio::test]
async fn named_member_pauses_and_leaves_only_when_told_to() {
    let groups = FakeGroups::start().await;
    for leaves in [false, true] {
        let builder = groups.consumer().await.member_name("a");
        let (consumer, mut member) = tokio::join!(builder.open(), groups.join());
        let consumer = consumer.unwrap();
        let end = async {
            match leaves {
                true => consumer.leave().await,
                false => consumer.close().await,
            }
        };
        let (closed, ()) = tokio::join!(end, async {
            if leaves {
                assert_eq!(member.hears().await, Some(Said::Leave(v1::Leave {})));
            }
            // Who ends its requests has left.
            assert_eq!(member.is_cut_off().await, !leaves);
            drop(member);
        });
        closed.unwrap();
    }
}

#[tokio::test]
async fn commit_is_done_when_it_is_durable() {
    let groups = FakeGroups::start().await;
    let (mut consumer, mut member) = joined(&groups).await;
    member.sends(0, 0, &["a", "b"]).await;
    let record = next(&mut consumer).await.unwrap();
    let mut committing = Box::pin(consumer.commit(&record));
    let commit = tokio::select! {
        biased;
        done = &mut committing => panic!("the broker didn't answer: {done:?}"),
        commit = member.hears_commit() => commit,
    };
    assert_eq!(positions(&commit), [(0, 1, 7)]);
    // Somebody else waits for the same.
    let mut same = Box::pin(consumer.commit(&record));
    assert!(is_pending(&mut same).await);
    member.commits(&commit).await;
    committing.await.unwrap();
    same.await.unwrap();
    // What is committed is committed.
    consumer.commit(&record).await.unwrap();
}

#[tokio::test]
async fn commits_are_sent_without_waiting_for_answers() {
    let groups = FakeGroups::start().await;
    let (mut consumer, mut member) = joined(&groups).await;
    member.sends(0, 0, &["a", "b", "c"]).await;
    let handle = consumer.handle();
    let mut committing = Vec::new();
    let mut commits = Vec::new();
    for _ in 0..3 {
        let record = next(&mut consumer).await.unwrap();
        let handle = handle.clone();
        committing.push(tokio::spawn(async move { handle.commit(&record).await }));
        commits.push(member.hears_commit().await);
    }
    for commit in &commits {
        member.commits(commit).await;
    }
    for committing in committing {
        committing.await.unwrap().unwrap();
    }
    let offsets: Vec<_> = commits.iter().map(|c| positions(c)[0].1).collect();
    assert_eq!(offsets, [1, 2, 3]);
}

#[tokio::test]
async fn stale_commit_is_an_error_and_the_consumer_goes_on() {
    let groups = FakeGroups::start().await;
    let (mut consumer, mut member) = joined(&groups).await;
    member.sends(0, 0, &["a", "b"]).await;
    let record = next(&mut consumer).await.unwrap();
    let (committed, ()) = tokio::join!(consumer.commit(&record), async {
        let commit = member.hears_commit().await;
        member.refuses(&commit, Reason::StaleGeneration).await;
    });
    let error = committed.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::StaleGeneration));
    assert!(!error.is_retryable());
    assert_eq!(next_value(&mut consumer).await, "b");
}

#[tokio::test]
async fn refused_commit_that_nobody_waits_for_is_told_and_tried_again() {
    let groups = FakeGroups::start().await;
    let builder = groups.consumer().await;
    let builder = builder.commit_interval(Duration::from_millis(1));
    let (consumer, mut member) = tokio::join!(builder.open(), groups.join());
    let mut consumer = consumer.unwrap();
    member.assigns(7, &[(0, 0)]).await;
    member.sends(0, 0, &["a", "b"]).await;
    let record = next(&mut consumer).await.unwrap();
    consumer.mark_processed(&record).unwrap();
    let commit = member.hears_commit().await;
    member.refuses(&commit, Reason::DiskFull).await;
    let again = member.hears_commit().await;
    assert_eq!(positions(&again), positions(&commit));
    member.commits(&again).await;
    let refused = loop {
        if let GroupEvent::CommitRefused { offset, error, .. } = told(&mut consumer).await {
            break (offset, error.reason());
        }
    };
    assert_eq!(refused, (1, Some(Reason::DiskFull)));
}

#[tokio::test]
async fn revoked_partition_goes_once_what_was_handed_out_is_committed() {
    let groups = FakeGroups::start().await;
    let (mut consumer, mut member) = joined(&groups).await;
    member.assigns(8, &[(1, 0)]).await;
    member.sends(0, 0, &["a", "b"]).await;
    member.sends(0, 2, &["c"]).await;
    member.sends(1, 0, &["other"]).await;
    assert_eq!(next_value(&mut consumer).await, "a");
    member.revokes(0, REBALANCE).await;
    // Both the rest of the batch and the next one are dropped.
    while consumer.assignment().len() > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(next_value(&mut consumer).await, "other");
    let commit = member.hears_commit().await;
    assert_eq!(positions(&commit), [(0, 1, 7)]);
    member.commits(&commit).await;
    assert_eq!(member.hears_revoked().await, [0]);
}

#[tokio::test]
async fn revoked_partition_goes_at_once_when_nobody_works_on_it() {
    let groups = FakeGroups::start().await;
    let (mut consumer, mut member) = joined(&groups).await;
    member.assigns(8, &[(1, 0)]).await;
    member.sends(0, 0, &["a"]).await;
    member.sends(1, 0, &["never handed out"]).await;
    let _in_hand = next(&mut consumer).await.unwrap();
    // Nobody asks for more: the handler is slow.
    member.revokes(1, REBALANCE).await;
    assert_eq!(member.hears_revoked().await, [1]);
}

#[tokio::test]
async fn batch_in_hand_can_be_committed_after_the_revoke() {
    let groups = FakeGroups::start().await;
    let builder = groups.consumer().await.auto_commit(false);
    let (consumer, mut member) = tokio::join!(builder.open(), groups.join());
    let mut consumer = consumer.unwrap();
    member.assigns(7, &[(0, 0)]).await;
    member.sends(0, 0, &["a", "b"]).await;
    let batch = consumer.next_batch().await.unwrap().unwrap();
    member.revokes(0, REBALANCE).await;
    let GroupEvent::Revoked { partitions, .. } = told(&mut consumer).await else {
        panic!("revoked");
    };
    assert_eq!((&*partitions[0].topic, partitions[0].partition), ("t", 0));
    let (committed, ()) = tokio::join!(consumer.commit(&batch), async {
        let commit = member.hears_commit().await;
        assert_eq!(positions(&commit), [(0, 2, 7)]);
        member.commits(&commit).await;
    });
    committed.unwrap();
    assert_eq!(member.hears_revoked().await, [0]);
}

#[tokio::test]
async fn revoked_partition_goes_when_the_user_says_that_it_is_done_with_it() {
    let groups = FakeGroups::start().await;
    let builder = groups.consumer().await.auto_commit(false);
    let (consumer, mut member) = tokio::join!(builder.open(), groups.join());
    let mut consumer = consumer.unwrap();
    member.assigns(7, &[(0, 0), (1, 0)]).await;
    for partition in 0..2 {
        member.sends(partition, 0, &["a", "b"]).await;
        consumer.next_batch().await.unwrap().unwrap();
    }
    member.revokes(0, REBALANCE).await;
    let GroupEvent::Revoked { partitions, .. } = told(&mut consumer).await else {
        panic!("revoked");
    };
    // What isn't to be given back stays, and can be committed.
    let mut kept = partitions[0].clone();
    kept.partition = 1;
    consumer.give_back(&kept);
    consumer.give_back(&partitions[0]);
    assert_eq!(member.hears_revoked().await, [0]);
    let position = CommitPosition {
        topic: kept.topic,
        partition: 1,
        offset: 2,
    };
    consumer.mark_processed(position).unwrap();
}

#[tokio::test]
async fn lost_partition_is_told_and_what_was_begun_is_stale() {
    let groups = FakeGroups::start().await;
    let (mut consumer, member) = joined(&groups).await;
    let GroupEvent::Assigned {
        generation: 7,
        partitions,
    } = told(&mut consumer).await
    else {
        panic!("assigned");
    };
    assert_eq!((partitions[0].offset, partitions[0].committed), (0, true));
    member.sends(0, 0, &["a", "b"]).await;
    let record = next(&mut consumer).await.unwrap();
    member.takes_away(0, v1::RevokeReason::TopicDeleted).await;
    let GroupEvent::Lost { reason, .. } = told(&mut consumer).await else {
        panic!("lost");
    };
    assert_eq!(reason, RevokeReason::TopicDeleted);
    let stale = consumer.commit(&record).await.unwrap_err();
    assert_eq!(stale.reason(), Some(Reason::StaleGeneration));
    let stale = consumer.mark_processed(&record).unwrap_err();
    assert_eq!(stale.reason(), Some(Reason::StaleGeneration));
    // It comes back behind what somebody else has processed.
    member.assigns(9, &[(0, 5)]).await;
    member.sends(0, 5, &["f"]).await;
    assert_eq!(next(&mut consumer).await.unwrap().offset, 5);
    let stale = consumer.commit(&record).await.unwrap_err();
    assert_eq!(stale.reason(), Some(Reason::StaleGeneration));
}

#[tokio::test]
async fn lost_connection_is_made_again_under_the_same_name() {
    let groups = FakeGroups::start().await;
    let builder = groups.consumer().await.member_name("a").capacity(1000, 10);
    let (consumer, member) = tokio::join!(builder.open(), groups.join());
    let mut consumer = consumer.unwrap();
    member.assigns(7, &[(0, 0)]).await;
    member.sends(0, 0, &["a", "b"]).await;
    member.sends(0, 2, &["c"]).await;
    assert_eq!(next_value(&mut consumer).await, "a");
    let record = next(&mut consumer).await.unwrap();
    member.vanishes().await;
    groups.accept().await.vanishes().await;
    let mut member = groups.join().await;
    assert_eq!(member.join.member_name.as_deref(), Some("a"));
    let capacity = member.join.capacity.unwrap();
    assert_eq!(capacity.records, Some(8), "a batch of two is held");
    let stale = consumer.commit(&record).await.unwrap_err();
    assert_eq!(stale.reason(), Some(Reason::StaleGeneration));
    member.assigns(8, &[(0, 0)]).await;
    member.sends(0, 0, &["a", "b"]).await;
    assert_eq!(next_value(&mut consumer).await, "a");
    drop(consumer);
    let Some(Said::Credit(credit)) = member.hears().await else {
        panic!("what was held is given again");
    };
    assert_eq!(credit.records, Some(2));
}

#[tokio::test]
async fn whoever_waits_for_a_commit_is_told_that_the_connection_is_lost() {
    let groups = FakeGroups::start().await;
    let (mut consumer, mut member) = joined(&groups).await;
    member.sends(0, 0, &["a"]).await;
    let record = next(&mut consumer).await.unwrap();
    let (committed, ()) = tokio::join!(consumer.commit(&record), async {
        member.hears_commit().await;
        member.vanishes().await;
    });
    let error = committed.unwrap_err();
    assert!(matches!(error, Error::Connection(_)), "{error:?}");
    let GroupEvent::Lost { reason, .. } = told(&mut consumer).await else {
        panic!("lost");
    };
    assert_eq!(reason, RevokeReason::Disconnected);
}

/// A consumer of which two records count as processed when its connection is lost,
/// and which has joined again since, with t/0 from an offset that was committed.
async fn processed_and_joined_again(offset: u64) -> (Consumer, FakeMember) {
    let groups = FakeGroups::start().await;
    let (mut consumer, member) = joined(&groups).await;
    member.sends(0, 0, &["a", "b", "c"]).await;
    for value in ["a", "b", "c"] {
        assert_eq!(next_value(&mut consumer).await, value);
    }
    member.vanishes().await;
    let member = groups.join().await;
    member.assigns(8, &[(0, offset)]).await;
    while !matches!(
        told(&mut consumer).await,
        GroupEvent::Assigned { generation: 8, .. }
    ) {}
    (consumer, member)
}

#[tokio::test]
async fn close_fails_for_what_was_not_committed_before_the_connection_was_lost() {
    let (consumer, mut member) = processed_and_joined_again(1).await;
    let (closed, ()) = tokio::join!(consumer.close(), async {
        while member.hears().await.is_some() {}
        drop(member);
    });
    let error = closed.unwrap_err().to_string();
    assert!(
        error.contains("t/0 was processed up to offset 2"),
        "{error}"
    );
}

#[tokio::test]
async fn close_succeeds_once_what_was_not_committed_came_again_or_was_committed() {
    let (mut consumer, mut member) = processed_and_joined_again(0).await;
    member.sends(0, 0, &["a", "b"]).await;
    for value in ["a", "b"] {
        assert_eq!(next_value(&mut consumer).await, value);
    }
    let (closed, ()) = tokio::join!(consumer.close(), async {
        let commit = member.hears_commit().await;
        member.commits(&commit).await;
        while member.hears().await.is_some() {}
        drop(member);
    });
    closed.unwrap();

    // Only the answer was lost.
    let (consumer, mut member) = processed_and_joined_again(2).await;
    let (closed, ()) = tokio::join!(consumer.close(), async {
        while member.hears().await.is_some() {}
        drop(member);
    });
    closed.unwrap();
}

#[tokio::test]
async fn expired_member_joins_again_and_a_replaced_one_ends() {
    let groups = FakeGroups::start().await;
    let (mut consumer, member) = joined(&groups).await;
    member.ends(Reason::MemberExpired).await;
    let member = groups.join().await;
    member.assigns(8, &[(0, 0)]).await;
    member.sends(0, 0, &["a"]).await;
    assert_eq!(next_value(&mut consumer).await, "a");
    member.ends(Reason::MemberReplaced).await;
    let error = next(&mut consumer).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::MemberReplaced));
    assert!(consumer.next().await.is_none());
    assert!(consumer.next_event().await.is_none());
}

#[tokio::test]
async fn consumer_gives_up_when_told_to() {
    let groups = FakeGroups::start().await;
    let builder = groups.consumer().await.reconnect_for(Duration::ZERO);
    let (consumer, member) = tokio::join!(builder.open(), groups.join());
    member.vanishes().await;
    let error = next(&mut consumer.unwrap()).await.unwrap_err();
    assert!(matches!(error, Error::Connection(_)), "{error:?}");
}

#[tokio::test]
async fn member_gives_signs_of_life_while_a_handler_is_slow() {
    let groups = FakeGroups::start().await;
    let builder = groups.consumer().await;
    let (consumer, mut member) = tokio::join!(builder.open(), async {
        let member = groups.accept().await;
        member.joined(1).await;
        member
    });
    let mut consumer = consumer.unwrap();
    member.assigns(7, &[(0, 0)]).await;
    member.sends(0, 0, &["a"]).await;
    next(&mut consumer).await.unwrap();
    for _ in 0..3 {
        let sign = member.hears().await;
        assert_eq!(sign, Some(Said::Heartbeat(v1::MemberHeartbeat {})));
    }
}

#[tokio::test]
async fn credit_is_given_again_once_a_batch_is_done_with() {
    let groups = FakeGroups::start().await;
    let builder = groups.consumer().await.capacity(1 << 20, 4);
    let (consumer, mut member) = tokio::join!(builder.open(), groups.join());
    let mut consumer = consumer.unwrap();
    member.assigns(7, &[(0, 0)]).await;
    member.sends(0, 0, &["a", "b"]).await;
    member.sends(0, 2, &["c", "d"]).await;
    for _ in 0..3 {
        next(&mut consumer).await.unwrap();
    }
    let Some(Said::Credit(credit)) = member.hears().await else {
        panic!("the first batch is done with");
    };
    let bytes = fetched(0, 0, &["a", "b"]).batch.len() as u64;
    assert_eq!((credit.bytes, credit.records), (Some(bytes), Some(2)));
}

#[tokio::test]
async fn stuck_member_gives_no_credit_for_what_was_dropped_until_it_moves() {
    let groups = FakeGroups::start().await;
    let builder = groups.consumer().await.capacity(1 << 20, 4);
    let (consumer, mut member) = tokio::join!(builder.open(), groups.join());
    let mut consumer = consumer.unwrap();
    member.assigns(7, &[(0, 0), (1, 0)]).await;
    member.sends(0, 0, &["a"]).await;
    member.sends(1, 0, &["b"]).await;
    next(&mut consumer).await.unwrap();
    let stuck = v1::RevokeReason::MaxProcessingTime;
    member.revokes(1, stuck).await;
    assert_eq!(member.hears().await, Some(revoked(1)));
    member.takes_away(0, stuck).await;
    // The credit for both batches comes once more is asked for, and not before.
    while !consumer.assignment().is_empty() {
        tokio::task::yield_now().await;
    }
    let said = tokio::select! {
        biased;
        said = member.hears() => panic!("it is stuck: {said:?}"),
        () = std::future::ready(()) => {
            assert!(is_pending(&mut Box::pin(consumer.next())).await);
            member.hears().await
        }
    };
    let Some(Said::Credit(credit)) = said else {
        panic!("it moves: {said:?}");
    };
    assert_eq!(credit.records, Some(2));
}

#[tokio::test]
async fn user_that_was_taken_for_stuck_gives_back_at_once_when_it_waits_for_more() {
    let groups = FakeGroups::start().await;
    let builder = groups.consumer().await.auto_commit(false);
    let (consumer, mut member) = tokio::join!(builder.open(), groups.join());
    let mut consumer = consumer.unwrap();
    member.assigns(7, &[(0, 0)]).await;
    member.sends(0, 0, &["a", "b"]).await;
    next(&mut consumer).await.unwrap();
    member.revokes(0, v1::RevokeReason::MaxProcessingTime).await;
    while !consumer.assignment().is_empty() {
        tokio::task::yield_now().await;
    }
    // Nothing is committed; the deadline isn't waited for, though.
    assert!(is_pending(&mut Box::pin(consumer.next())).await);
    assert_eq!(member.hears().await, Some(revoked(0)));
}

fn revoked(partition: u32) -> Said {
    let place = v1::TopicPartition {
        topic: "t".to_owned(),
        partition,
    };
    Said::Revoked(v1::Revoked {
        partitions: vec![place],
        generation: Some(REVOKED_IN),
    })
}

#[tokio::test]
async fn missing_records_are_told_once_and_passed() {
    let groups = FakeGroups::start().await;
    let (mut consumer, mut member) = joined(&groups).await;
    let truncated = v1::Truncated {
        partition: 0,
        from_offset: 0,
        log_start_offset: 4,
    };
    let topic = "t".to_owned();
    member
        .says(Event::Truncated(v1::GroupTruncated {
            topic: topic.clone(),
            truncated: Some(truncated),
        }))
        .await;
    let quarantined = v1::Quarantined {
        partition: 0,
        from_offset: 4,
        to_offset: 6,
    };
    member
        .says(Event::Quarantined(v1::GroupQuarantined {
            topic,
            quarantined: Some(quarantined),
        }))
        .await;
    let mut damaged = fetched(0, 6, &["damaged"]);
    damaged.checksum ^= 1;
    member.sends_batch(damaged).await;
    member.sends(0, 7, &["whole"]).await;
    let error = next(&mut consumer).await.unwrap_err();
    assert!(
        matches!(&error, Error::Truncated { topic, from: 0, to: 4, .. } if **topic == *"t"),
        "{error:?}"
    );
    let error = next(&mut consumer).await.unwrap_err();
    assert!(
        matches!(error, Error::Quarantined { from: 4, to: 6, .. }),
        "{error:?}"
    );
    let error = next(&mut consumer).await.unwrap_err();
    assert!(
        matches!(error, Error::DamagedBatch { offset: 6, .. }),
        "{error:?}"
    );
    assert_eq!(next_value(&mut consumer).await, "whole");
    drop(consumer);
    assert_eq!(positions(&member.hears_commit().await), [(0, 7, 7)]);
}

#[tokio::test]
async fn catching_up_is_told_behind_the_records() {
    let groups = FakeGroups::start().await;
    let (mut consumer, member) = joined(&groups).await;
    member.sends(0, 0, &["a"]).await;
    member
        .says(Event::CaughtUp(v1::GroupCaughtUp::default()))
        .await;
    let mut events = Vec::new();
    for _ in 0..3 {
        events.push(consumer.next_event().await.unwrap().unwrap());
    }
    assert!(matches!(
        events[..],
        [
            GroupEvent::Assigned { .. },
            GroupEvent::Batch(_),
            GroupEvent::CaughtUp
        ]
    ));
}

#[tokio::test]
async fn positions_that_were_not_handed_out_are_refused() {
    let groups = FakeGroups::start().await;
    let (mut consumer, member) = joined(&groups).await;
    member.sends(0, 0, &["a", "b"]).await;
    let record = next(&mut consumer).await.unwrap();
    let mut ahead = statecast_client::CommitPosition::from(&record);
    ahead.offset = 2;
    let error = consumer.commit(ahead.clone()).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::StaleGeneration));
    ahead.partition = 9;
    let error = consumer.commit(ahead).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::StaleGeneration));
}

#[tokio::test]
async fn stopped_consumer_ends_and_still_commits() {
    let groups = FakeGroups::start().await;
    let (mut consumer, mut member) = joined(&groups).await;
    member.sends(0, 0, &["a", "b"]).await;
    let record = next(&mut consumer).await.unwrap();
    let handle = consumer.handle();
    handle.stop();
    assert!(consumer.next().await.is_none());
    let (committed, ()) = tokio::join!(handle.commit(&record), async {
        let commit = member.hears_commit().await;
        member.commits(&commit).await;
    });
    committed.unwrap();
    drop(consumer);
    assert_eq!(member.hears().await, Some(Said::Leave(v1::Leave {})));
}
