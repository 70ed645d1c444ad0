//! Members that come, commit and go.

use std::time::Duration;

use super::*;
use crate::group::{CommitRefusal, ExpelReason, RevokeReason};

#[tokio::test(start_paused = true)]
async fn nothing_is_told_of_a_generation_that_is_not_durable() {
    let fixture = Fixture::new();
    fixture.log.set_flushing(false);
    let mut member = fixture.join("g").await;
    hears_nothing(&mut member).await;
    assert!(fixture.log.len() > 0, "it is on its way");
    fixture.log.set_flushing(true);
    let (generation, partitions) = assignment(&mut member).await;
    assert_eq!(generation, Generation(1));
    assert_eq!(partitions.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_generation_is_higher_than_all_before_a_crash() {
    let fixture = Fixture::new();
    let mut first = fixture.join("g").await;
    let (mut last, _) = assignment(&mut first).await;
    commit_all(&mut first, &[(0, 1)]).await;
    let mut second = fixture.join("g").await;
    let (asked, moving) = revocation(&mut first).await;
    give_back(&first, asked, &moving).await;
    let (generation, _) = assignment(&mut second).await;
    assert!(generation > last);
    last = generation;
    let fixture = fixture.crash();
    let mut member = fixture.join("g").await;
    let (generation, _) = assignment(&mut member).await;
    assert!(generation > last);
}

#[tokio::test(start_paused = true)]
async fn a_commit_is_answered_once_it_is_durable_and_in_order() {
    let fixture = Fixture::new();
    let mut member = fixture.join("g").await;
    assignment(&mut member).await;
    fixture.log.set_flushing(false);
    for id in 0..100 {
        // One in three is refused at once; it waits for those before all the same.
        let partition = if id % 3 == 0 { 99 } else { 0 };
        member.commit(commit(id, &[(partition, id)])).await;
    }
    hears_nothing(&mut member).await;
    assert_eq!(fixture.committed("g").await, []);
    fixture.log.set_flushing(true);
    for id in 0..100 {
        let answer = answer(&mut member).await;
        assert_eq!(answer.id, id);
        let expected = match id % 3 {
            0 => vec![(0, CommitError::Refused(CommitRefusal::NotAssigned))],
            _ => vec![],
        };
        assert_eq!(answer.refused, expected);
    }
    assert_eq!(fixture.committed("g").await, [(0, 98)]);
}

#[tokio::test(start_paused = true)]
async fn the_next_owner_begins_at_what_was_just_committed() {
    let fixture = Fixture::new();
    let mut first = fixture.join("g").await;
    assignment(&mut first).await;
    let mut second = fixture.join("g").await;
    let (asked, moving) = revocation(&mut first).await;
    fixture.log.set_flushing(false);
    first
        .commit(commit(
            1,
            &[(moving[0].partition, 7), (moving[1].partition, 8)],
        ))
        .await;
    give_back(&first, asked, &moving).await;
    hears_nothing(&mut second).await;
    fixture.log.set_flushing(true);
    let (_, got) = assignment(&mut second).await;
    let expected = [
        (moving[0].partition, Some(7)),
        (moving[1].partition, Some(8)),
    ];
    assert_eq!(got, expected);
    assert_eq!(answer(&mut first).await.refused, []);

    // Now it is another one's.
    first.commit(commit(2, &[(moving[0].partition, 9)])).await;
    let stale = CommitError::Refused(CommitRefusal::StaleGeneration);
    assert_eq!(answer(&mut first).await.refused, [(0, stale)]);
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_fails_is_refused_and_does_not_count() {
    let fixture = Fixture::new();
    let mut member = fixture.join("g").await;
    assignment(&mut member).await;
    commit_all(&mut member, &[(0, 5)]).await;
    fixture.log.fail(Some(LogError::DiskFull));
    member.commit(commit(2, &[(0, 6), (1, 6)])).await;
    let full = || CommitError::Log(LogError::DiskFull);
    assert_eq!(
        answer(&mut member).await.refused,
        [(0, full()), (1, full())]
    );
    assert_eq!(fixture.committed("g").await, [(0, 5)]);
    fixture.log.fail(None);
    commit_all(&mut member, &[(1, 7)]).await;
    assert_eq!(fixture.committed("g").await, [(0, 5), (1, 7)]);
}

#[tokio::test(start_paused = true)]
async fn what_was_answered_is_there_after_a_crash() {
    let fixture = Fixture::new();
    let mut member = fixture.join("g").await;
    assignment(&mut member).await;
    commit_all(&mut member, &[(0, 5), (3, 2)]).await;
    // Backwards is fine.
    commit_all(&mut member, &[(0, 4)]).await;
    let after = fixture.crash();
    assert_eq!(after.committed("g").await, [(0, 4), (3, 2)]);
    let mut member = after.join("g").await;
    let (_, got) = assignment(&mut member).await;
    assert_eq!(got, [(0, Some(4)), (1, None), (2, None), (3, Some(2))]);
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_delays_an_assignment_and_a_failed_one_ends_the_members() {
    let fixture = Fixture::new();
    fixture.log.fail(Some(LogError::DiskFull));
    let mut member = fixture.join("g").await;
    member.heartbeat().await;
    hears_nothing(&mut member).await;
    fixture.log.fail(None);
    assignment(&mut member).await;

    let failure = LogError::ReadOnly("the disk is gone".into());
    fixture.log.fail(Some(failure.clone()));
    let mut other = fixture.join("g").await;
    for member in [&mut member, &mut other] {
        match member.event().await {
            Some(MemberEvent::Ended(EndReason::Log(error))) => assert_eq!(error, failure),
            other => panic!("the end, not {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_not_heard_of_is_sent_away_and_others_get_what_it_had() {
    let fixture = Fixture::new();
    let mut silent = fixture.join("g").await;
    assignment(&mut silent).await;
    let mut loud = fixture.join("g").await;
    // It doesn't give back what it is asked for either.
    let mut got = Vec::new();
    let heard = async {
        loop {
            tokio::time::sleep(Duration::from_secs(3)).await;
            loud.heartbeat().await;
        }
    };
    let events = async {
        loop {
            match silent.event().await.unwrap() {
                MemberEvent::Ended(reason) => break reason,
                MemberEvent::Revoke { .. } => {}
                MemberEvent::Lost { reason, .. } => assert_eq!(reason, RevokeReason::Rebalance),
                other => panic!("{other:?}"),
            }
        }
    };
    let ended = tokio::select! {
        ended = events => ended,
        () = heard => unreachable!(),
    };
    assert_eq!(ended, EndReason::Expelled(ExpelReason::MemberExpired));
    while got.len() < 4 {
        got.extend(assignment(&mut loud).await.1);
    }
    assert!(silent.event().await.is_none(), "nothing follows the end");
}

#[tokio::test(start_paused = true)]
async fn a_named_member_gets_back_what_it_had_and_its_former_self_has_to_go() {
    let fixture = Fixture::new();
    let mut other = fixture.join("g").await;
    assignment(&mut other).await;
    let mut named = fixture.join_named("g", "n").await;
    let (asked, moving) = revocation(&mut other).await;
    give_back(&other, asked, &moving).await;
    let (_, had) = assignment(&mut named).await;
    commit_all(&mut named, &[(had[0].0, 9)]).await;
    named.disconnected().await;
    hears_nothing(&mut other).await;
    other.heartbeat().await;

    let mut again = fixture.join_named("g", "n").await;
    let (_, got) = assignment(&mut again).await;
    assert_eq!(got, [(had[0].0, Some(9)), (had[1].0, None)]);

    let mut usurper = fixture.join_named("g", "n").await;
    let replaced = again.event().await;
    let expected = EndReason::Expelled(ExpelReason::MemberReplaced);
    assert!(matches!(replaced, Some(MemberEvent::Ended(reason)) if reason == expected));
    assert_eq!(assignment(&mut usurper).await.1, got);
    hears_nothing(&mut other).await;
}

#[tokio::test(start_paused = true)]
async fn who_takes_nothing_that_it_is_told_has_to_go() {
    let fixture = Fixture::new();
    let mut deaf = fixture.join("g").await;
    let mut busy = fixture.join("g").await;
    // Enough answers to fill what waits for it.
    for id in 0..=limits::MEMBER_OUTBOX as u64 {
        deaf.commit(commit(id, &[(0, 0)])).await;
    }
    // The next thing that it is told is too much.
    tokio::time::sleep(Duration::from_secs(1)).await;
    busy.leave().await;
    while busy.event().await.is_some() {}
    let mut heard = 0;
    while deaf.event().await.is_some() {
        heard += 1;
    }
    assert_eq!(heard, limits::MEMBER_OUTBOX);
    assert_eq!(fixture.groups.counts().members, 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_vanished_is_noticed_when_something_is_told() {
    let fixture = Fixture::new();
    let vanished = fixture.join("g").await;
    let mut other = fixture.join("g").await;
    drop(vanished);
    let mut got = Vec::new();
    while got.len() < 4 {
        got.extend(assignment(&mut other).await.1);
    }
}

#[tokio::test(start_paused = true)]
async fn commits_in_flight_are_answered_although_the_member_leaves() {
    let fixture = Fixture::new();
    let mut member = fixture.join("g").await;
    assignment(&mut member).await;
    fixture.log.set_flushing(false);
    member.commit(commit(1, &[(0, 5)])).await;
    member.leave().await;
    hears_nothing(&mut member).await;
    fixture.log.set_flushing(true);
    assert_eq!(answer(&mut member).await.refused, []);
    assert!(member.event().await.is_none());
    assert_eq!(fixture.committed("g").await, [(0, 5)]);
}

#[tokio::test(start_paused = true)]
async fn too_many_groups_are_refused() {
    let fixture = Fixture::with(FakeLog::new(), Vec::new(), 0);
    let mut members = Vec::new();
    for n in 0..limits::GROUPS {
        members.push(fixture.join(&format!("g{n}")).await);
    }
    let refused = fixture.try_join("one-more", None).await;
    assert_eq!(refused.unwrap_err(), JoinError::TooManyGroups);
    members.pop().unwrap().leave().await;
    while fixture.groups.counts().groups == limits::GROUPS {
        tokio::task::yield_now().await;
    }
    fixture.join("one-more").await;
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_the_groups_as_they_are() {
    let fixture = Fixture::new();
    let mut member = fixture.join("g").await;
    assignment(&mut member).await;
    member.commit(commit(1, &[(0, 5)])).await;
    // Once the group has heard of it.
    fixture.groups.describe("g").await.unwrap();
    fixture.groups.stop().await;
    assert_eq!(
        fixture.try_join("g", None).await.unwrap_err(),
        JoinError::Stopping
    );
    let after = fixture.crash();
    assert_eq!(after.committed("g").await, [(0, 5)]);
}

#[tokio::test(start_paused = true)]
async fn commit_keeps_its_room_until_it_is_settled_though_its_member_is_gone() {
    let fixture = Fixture::new();
    let mut member = fixture.join("g").await;
    assignment(&mut member).await;
    fixture.log.set_flushing(false);
    let room = Arc::new(());
    let commit = Commit {
        room: room.clone(),
        ..commit(1, &[(0, 3)])
    };
    member.commit(commit).await;
    drop(member);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(Arc::strong_count(&room) > 1, "it waits for the log");
    fixture.log.set_flushing(true);
    while Arc::strong_count(&room) > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(fixture.committed("g").await, [(0, 3)]);
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_the_first_one_back_does_not_get_what_others_had() {
    let fixture = Fixture::new();
    let mut first = fixture.join("g").await;
    assignment(&mut first).await;
    commit_all(&mut first, &[(0, 1)]).await;
    let mut second = fixture.join("g").await;
    let (asked, moving) = revocation(&mut first).await;
    give_back(&first, asked, &moving).await;
    assert_eq!(assignment(&mut second).await.1.len(), 2);

    let fixture = fixture.crash();
    let mut first = fixture.join("g").await;
    hears_nothing(&mut first).await;
    let mut second = fixture.join("g").await;
    assert_eq!(assignment(&mut first).await.1.len(), 2);
    assert_eq!(assignment(&mut second).await.1.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_misses_an_answer_is_told_nothing_more() {
    let fixture = Fixture::new();
    let mut member = fixture.join("g").await;
    assignment(&mut member).await;
    let fits = u64::try_from(limits::MEMBER_OUTBOX).unwrap();
    for id in 0..=fits {
        member.commit(commit(id, &[(0, id)])).await;
    }
    // The last one finds no room, and nobody may take another one's answer for its.
    while fixture.committed("g").await != [(0, fits)] {}
    let described = fixture.groups.describe("g").await.unwrap();
    assert_eq!(described.members.len(), 0, "it had to go at once");
    for id in 0..fits {
        assert_eq!(answer(&mut member).await.id, id);
    }
    assert!(member.event().await.is_none());
}
