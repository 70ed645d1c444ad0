//! What is forgotten, and what is not.

use std::time::Duration;

use super::*;
use crate::group::{CommitRefusal, RevokeReason};

const RETENTION_MS: i64 = 7 * 24 * 60 * 60 * 1000;
const GRACE: Duration = crate::limits::OFFSETS_GRACE;
const MOMENT: Duration = Duration::from_millis(10);
const ALMOST: Duration = GRACE.saturating_sub(MOMENT);

async fn is_gone(fixture: &Fixture, group: &str) -> bool {
    let described = fixture.groups.describe(group).await;
    matches!(described, Err(GroupError::NotFound(_)))
}

/// A group that committed something and has no members.
async fn abandoned() -> Fixture {
    let fixture = Fixture::new();
    let mut member = fixture.join("g").await;
    assignment(&mut member).await;
    commit_all(&mut member, &[(0, 5), (1, 6)]).await;
    member.leave().await;
    while member.event().await.is_some() {}
    fixture
}

#[tokio::test(start_paused = true)]
async fn a_group_that_committed_nothing_goes_with_its_last_member() {
    let fixture = Fixture::new();
    let mut member = fixture.join("g").await;
    assignment(&mut member).await;
    member.leave().await;
    while !is_gone(&fixture, "g").await {
        tokio::task::yield_now().await;
    }
    assert!(is_gone(&fixture.crash(), "g").await);
}

#[tokio::test(start_paused = true)]
async fn a_group_without_members_is_kept_for_the_retention() {
    let fixture = abandoned().await;
    fixture.pass(RETENTION_MS - 1);
    tokio::time::sleep(Duration::from_millis(RETENTION_MS as u64 - 1)).await;
    assert_eq!(fixture.committed("g").await, [(0, 5), (1, 6)]);
    fixture.pass(1);
    // It goes by itself, and not because somebody asks.
    let before = fixture.log.len();
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert!(fixture.log.len() > before);
    assert!(is_gone(&fixture, "g").await);
    let log = fixture.log.fork();
    log.compact();
    assert_eq!(log.len(), 0, "nothing is left behind");
}

#[tokio::test(start_paused = true)]
async fn the_retention_goes_on_through_restarts_but_is_over_an_hour_after_one_at_the_soonest() {
    let fixture = abandoned().await;
    fixture.pass(RETENTION_MS - 1000);
    let fixture = fixture.crash();
    assert_eq!(fixture.committed("g").await, [(0, 5), (1, 6)]);
    // It is over before the next start, and not much later than that.
    fixture.pass(2000);
    let fixture = fixture.crash();
    tokio::time::sleep(ALMOST).await;
    assert_eq!(fixture.committed("g").await, [(0, 5), (1, 6)]);
    tokio::time::sleep(2 * MOMENT).await;
    while !is_gone(&fixture, "g").await {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_ahead_when_the_broker_starts_deletes_nothing_once_it_is_set_right() {
    let fixture = abandoned().await;
    fixture.pass(20 * RETENTION_MS);
    let fixture = fixture.crash();
    tokio::time::sleep(ALMOST).await;
    fixture.pass(-20 * RETENTION_MS);
    tokio::time::sleep(2 * GRACE).await;
    assert_eq!(fixture.committed("g").await, [(0, 5), (1, 6)]);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_had_members_until_the_crash_is_kept_from_then_on() {
    let fixture = Fixture::new();
    let mut member = fixture.join("g").await;
    assignment(&mut member).await;
    commit_all(&mut member, &[(0, 5)]).await;
    fixture.pass(2 * RETENTION_MS);
    let fixture = fixture.crash();
    assert_eq!(fixture.committed("g").await, [(0, 5)]);
    fixture.pass(RETENTION_MS);
    let fixture = fixture.crash();
    tokio::time::sleep(GRACE + MOMENT).await;
    while !is_gone(&fixture, "g").await {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_whose_members_have_got_nothing_was_not_abandoned() {
    let fixture = abandoned().await;
    let before = fixture.log.len();
    let member = fixture.join_for("g", "later").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fixture.log.len(), before + 1, "that it has a member");
    fixture.pass(2 * RETENTION_MS);
    let fixture = fixture.crash();
    drop(member);
    tokio::time::sleep(GRACE + MOMENT).await;
    assert_eq!(fixture.committed("g").await, [(0, 5), (1, 6)]);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_group_is_gone_for_good_and_its_name_begins_anew() {
    let fixture = abandoned().await;
    let mut member = fixture.join("g").await;
    let active = fixture.groups.delete("g").await;
    assert!(matches!(active, Err(GroupError::Active(_))));
    member.leave().await;
    while member.event().await.is_some() {}
    fixture.groups.delete("g").await.unwrap();
    let missing = fixture.groups.delete("g").await;
    assert_eq!(missing, Err(GroupError::NotFound("g".to_owned())));

    let mut member = fixture.join("g").await;
    let (_, got) = assignment(&mut member).await;
    assert!(got.iter().all(|(_, committed)| committed.is_none()));
    commit_all(&mut member, &[(1, 1)]).await;
    let after = fixture.crash();
    assert_eq!(after.committed("g").await, [(1, 1)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_forgotten_of_a_topic_includes_what_is_on_its_way() {
    let fixture = abandoned().await;
    let mut member = fixture.join("g").await;
    assignment(&mut member).await;
    let read = fixture.groups.forget("g", TopicId(1)).await;
    assert!(matches!(read, Err(GroupError::Read(_))), "{read:?}");
    fixture.log.set_flushing(false);
    member.commit(commit(2, &[(2, 7)])).await;
    member.leave().await;
    let (forgotten, ()) = tokio::join!(fixture.groups.forget("g", TopicId(1)), async {
        // It was heard, and waits until it is durable.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(fixture.committed("g").await, [(0, 5), (1, 6)]);
        fixture.log.set_flushing(true);
    });
    forgotten.unwrap();
    tokio::time::sleep(MOMENT).await;
    assert!(is_gone(&fixture, "g").await, "nothing is left of it");
    let after = fixture.crash();
    let mut member = after.join("g").await;
    let (_, got) = assignment(&mut member).await;
    assert!(
        got.iter().all(|(_, committed)| committed.is_none()),
        "{got:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_group_without_members_goes_with_the_last_that_is_forgotten_of_it_but_not_with_its_topic()
{
    for by_hand in [true, false] {
        let fixture = abandoned().await;
        assert_eq!(fixture.committed("g").await.len(), 2);
        if by_hand {
            fixture.groups.forget("g", TopicId(1)).await.unwrap();
        } else {
            let others = vec![topic(2, "u", 1)];
            fixture.topics.send_replace(KnownTopics::new(others));
        }
        // At once, and not when it has been abandoned for long enough.
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(is_gone(&fixture, "g").await, by_hand);
        let log = fixture.log.fork();
        log.compact();
        assert_eq!(log.len(), usize::from(!by_hand));
        let after = fixture.crash();
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(is_gone(&after, "g").await, by_hand);
        after.pass(RETENTION_MS);
        tokio::time::sleep(Duration::from_millis(RETENTION_MS as u64)).await;
        assert!(is_gone(&after, "g").await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_fails_changes_nothing() {
    let fixture = abandoned().await;
    fixture.log.fail(Some(LogError::DiskFull));
    let failed = fixture.groups.delete("g").await;
    assert_eq!(failed, Err(GroupError::Log(LogError::DiskFull)));
    assert_eq!(fixture.committed("g").await, [(0, 5), (1, 6)]);
    fixture.log.fail(None);
    fixture.groups.delete("g").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_joins_while_the_group_is_deleted_begins_a_new_one() {
    let fixture = abandoned().await;
    fixture.log.set_flushing(false);
    let (deleted, mut member) = tokio::join!(fixture.groups.delete("g"), async {
        let joining = fixture.join("g");
        tokio::pin!(joining);
        let early = tokio::time::timeout(Duration::from_secs(1), &mut joining).await;
        assert!(early.is_err(), "it isn't decided yet what it joins");
        fixture.log.set_flushing(true);
        joining.await
    });
    deleted.unwrap();
    let (_, got) = assignment(&mut member).await;
    assert!(got.iter().all(|(_, committed)| committed.is_none()));
    commit_all(&mut member, &[(0, 1)]).await;
    assert_eq!(fixture.crash().committed("g").await, [(0, 1)]);
}

#[tokio::test(start_paused = true)]
async fn offsets_go_with_their_topic_and_a_new_topic_of_its_name_inherits_none() {
    let fixture = Fixture::new();
    let mut member = fixture.join("g").await;
    assignment(&mut member).await;
    commit_all(&mut member, &[(0, 5)]).await;
    fixture.log.set_flushing(false);
    // On its way when the topic goes.
    member.commit(commit(2, &[(1, 6)])).await;
    fixture.groups.describe("g").await.unwrap();
    fixture
        .topics
        .send_replace(KnownTopics::new(vec![topic(2, "t", 2)]));
    tokio::time::sleep(Duration::from_millis(500)).await;
    fixture.log.set_flushing(true);
    assert_eq!(answer(&mut member).await.id, 2);
    match member.event().await {
        Some(MemberEvent::Lost {
            partitions, reason, ..
        }) => {
            assert_eq!(partitions, [t(0), t(1), t(2), t(3)]);
            assert_eq!(reason, RevokeReason::TopicDeleted);
        }
        other => panic!("they are lost, not {other:?}"),
    }
    let (_, got) = assignment(&mut member).await;
    assert_eq!(got, [(0, None), (1, None)]);
    assert_eq!(fixture.committed("g").await, []);
    let log = fixture.log.fork();
    log.compact();
    assert_eq!(log.len(), 1, "only the group itself is left");
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_is_unknown_to_a_damaged_catalog_keeps_its_offsets() {
    let fixture = abandoned().await;
    for topics_damaged in [true, false] {
        let log = fixture.log.fork();
        let recovered = Recovered {
            fold: log.fold(),
            damaged: false,
            topics_damaged,
            next_partition: PartitionId(20),
        };
        let topics = watch::Sender::new(KnownTopics::default());
        let groups = Coordinator::start(
            recovered,
            Arc::new(log.clone()),
            topics.subscribe(),
            Clock::of(|| 1_000_000),
        );
        topics.send_replace(KnownTopics::new(vec![topic(9, "other", 1)]));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let kept = groups.describe("g").await;
        let kept = kept.map_or(0, |group| group.partitions.len());
        assert_eq!(kept, if topics_damaged { 2 } else { 0 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_moves_a_group_without_members_and_one_with_them_only_by_force() {
    let fixture = abandoned().await;
    let to = |offset| vec![(t(0), Offset(offset)), (t(2), Offset(offset))];
    fixture.groups.reset("g", to(1), false).await.unwrap();
    assert_eq!(fixture.committed("g").await, [(0, 1), (1, 6), (2, 1)]);

    let mut member = fixture.join("g").await;
    let (first, _) = assignment(&mut member).await;
    let active = fixture.groups.reset("g", to(2), false).await;
    assert!(matches!(active, Err(GroupError::Active(_))));
    fixture.groups.reset("g", to(3), true).await.unwrap();
    match member.event().await {
        Some(MemberEvent::Lost { partitions, .. }) => assert_eq!(partitions, [t(0), t(2)]),
        other => panic!("they are lost, not {other:?}"),
    }
    let (second, got) = assignment(&mut member).await;
    assert!(second > first);
    assert_eq!(got, [(0, Some(3)), (2, Some(3))]);
    // What was processed before doesn't count any more.
    let mut stale = commit(7, &[(0, 100)]);
    stale.positions[0].generation = Some(first);
    member.commit(stale).await;
    assert_eq!(answer(&mut member).await.refused.len(), 1);
    let nowhere = fixture.groups.reset("nowhere", to(1), true).await;
    assert!(matches!(nowhere, Err(GroupError::NotFound(_))));
}

#[tokio::test(start_paused = true)]
async fn a_reset_keeps_a_group_for_the_retention_again() {
    let fixture = abandoned().await;
    fixture.pass(RETENTION_MS - 1);
    let to = vec![(t(0), Offset(1))];
    fixture.groups.reset("g", to, false).await.unwrap();
    fixture.pass(RETENTION_MS - 1);
    let fixture = fixture.crash();
    assert_eq!(fixture.committed("g").await, [(0, 1), (1, 6)]);
}

#[tokio::test(start_paused = true)]
async fn a_reset_without_room_for_all_of_it_changes_nothing() {
    let fixture = abandoned().await;
    fixture.groups.shared.room.leave(1);
    let before = fixture.log.len();
    let to = |partitions: &[u32]| partitions.iter().map(|&p| (t(p), Offset(1))).collect();
    let reset = fixture.groups.reset("g", to(&[0, 2, 3]), false).await;
    assert_eq!(reset, Err(GroupError::TooManyOffsets));
    assert_eq!(fixture.committed("g").await, [(0, 5), (1, 6)]);
    assert_eq!(fixture.log.len(), before);
    // What it took is free again.
    fixture.groups.reset("g", to(&[0, 3]), false).await.unwrap();
    assert_eq!(fixture.committed("g").await, [(0, 1), (1, 6), (3, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_forced_reset_that_fails_takes_nothing_from_members() {
    let fixture = Fixture::new();
    let mut member = fixture.join("g").await;
    assignment(&mut member).await;
    commit_all(&mut member, &[(0, 5)]).await;
    fixture.log.fail(Some(LogError::DiskFull));
    let to = vec![(t(0), Offset(1)), (t(1), Offset(1))];
    let reset = fixture.groups.reset("g", to, true).await;
    assert_eq!(reset, Err(GroupError::Log(LogError::DiskFull)));
    fixture.log.fail(None);
    hears_nothing(&mut member).await;
    commit_all(&mut member, &[(0, 6)]).await;
    assert_eq!(fixture.committed("g").await, [(0, 6)]);
}

#[tokio::test(start_paused = true)]
async fn what_a_stop_leaves_unanswered_is_not_said_to_be_about_no_group() {
    let stopping = GroupError::Log(LogError::Stopping);
    let fixture = abandoned().await;
    fixture.log.set_flushing(false);
    let to = vec![(t(0), Offset(1))];
    let (reset, ()) = tokio::join!(fixture.groups.reset("g", to, false), async {
        // It is on its way into the log.
        tokio::time::sleep(MOMENT).await;
        fixture.groups.stop().await;
    });
    assert_eq!(reset, Err(stopping.clone()));
    assert_eq!(fixture.groups.delete("g").await, Err(stopping));
}

#[tokio::test(start_paused = true)]
async fn what_is_committed_while_a_reset_is_on_its_way_does_not_undo_it() {
    let fixture = Fixture::new();
    let mut member = fixture.join("g").await;
    let (first, _) = assignment(&mut member).await;
    commit_all(&mut member, &[(0, 5)]).await;
    fixture.log.set_flushing(false);
    let to = vec![(t(0), Offset(1))];
    let (reset, ()) = tokio::join!(fixture.groups.reset("g", to, true), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut late = commit(2, &[(0, 9)]);
        late.positions[0].generation = Some(first);
        member.commit(late).await;
        // Until it is sure, the member has what it had.
        hears_nothing(&mut member).await;
        fixture.log.set_flushing(true);
    });
    reset.unwrap();
    assert_eq!(fixture.committed("g").await, [(0, 1)]);
    let (mut got, mut refused) = (None, None);
    while got.is_none() || refused.is_none() {
        match member.event().await {
            Some(MemberEvent::Lost { partitions, .. }) => assert_eq!(partitions, [t(0)]),
            Some(MemberEvent::Assigned { partitions, .. }) => got = Some(partitions),
            Some(MemberEvent::Committed(answer)) => refused = Some(answer.refused),
            other => panic!("nothing else is told, as {other:?}"),
        }
    }
    assert_eq!(got.unwrap()[0].committed, Some(Offset(1)));
    let stale = CommitError::Refused(CommitRefusal::StaleGeneration);
    assert_eq!(refused.unwrap(), [(0, stale)]);
    assert_eq!(fixture.crash().committed("g").await, [(0, 1)]);
}
