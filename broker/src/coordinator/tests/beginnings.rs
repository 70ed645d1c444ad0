//! Partitions for which nothing was committed: where the group begins with them.

use std::collections::HashSet;
use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use super::*;
use crate::coordinator::record::{StoredGroup, StoredOffset};

/// Partitions of `t` with where they begin.
fn starts(starts: &[(u32, u64)]) -> Vec<(TopicPartition, Offset)> {
    let start = |&(partition, offset): &(u32, u64)| (t(partition), Offset(offset));
    starts.iter().map(start).collect()
}

fn all(partitions: &[u32]) -> HashSet<TopicPartition> {
    partitions.iter().copied().map(t).collect()
}

#[tokio::test(start_paused = true)]
async fn where_a_member_begins_is_where_the_next_one_does_after_a_crash() {
    let fixture = Fixture::new();
    let mut member = fixture.join("g").await;
    let (generation, _) = assignment(&mut member).await;
    fixture.log.set_flushing(false);
    let starter = member.starter();
    {
        let mut begun = pin!(starter.begin(generation, starts(&[(0, 7), (2, 9)])));
        let early = async {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            std::future::poll_fn(|cx| Poll::Ready(begun.as_mut().poll(cx).is_pending())).await
        };
        assert!(early.await, "it isn't durable");
        fixture.log.set_flushing(true);
        assert_eq!(begun.await, Ok(all(&[0, 2])));
    }
    let fixture = fixture.crash();
    let mut member = fixture.join("g").await;
    let (_, got) = assignment(&mut member).await;
    assert_eq!(got, [(0, Some(7)), (1, None), (2, Some(9)), (3, None)]);
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_went_on_meanwhile_begins_where_its_owner_says() {
    let fixture = Fixture::new();
    let mut first = fixture.join("g").await;
    let (generation, _) = assignment(&mut first).await;
    let mut second = fixture.join("g").await;
    let (asked, moving) = revocation(&mut first).await;
    give_back(&first, asked, &moving).await;
    let (later, _) = assignment(&mut second).await;
    let second_begins = second.starter();
    let begun = second_begins.begin(later, vec![(moving[0], Offset(5))]);
    assert_eq!(begun.await, Ok(HashSet::from([moving[0]])));

    // The first one comes too late with some of it.
    let every = starts(&[(0, 1), (1, 1), (2, 1), (3, 1)]);
    let begun = first.starter().begin(generation, every).await.unwrap();
    let kept = all(&[0, 1, 2, 3]);
    let kept: HashSet<TopicPartition> = &kept - &moving.iter().copied().collect();
    assert_eq!(begun, kept);
    let committed = fixture.committed("g").await;
    assert!(committed.contains(&(moving[0].partition, 5)));
    assert_eq!(committed.len(), kept.len() + 1);
}

#[tokio::test(start_paused = true)]
async fn a_beginning_that_is_not_written_is_none() {
    let fixture = Fixture::new();
    let mut member = fixture.join("g").await;
    let (generation, _) = assignment(&mut member).await;
    let broken = LogError::ReadOnly("broken".into());
    fixture.log.fail(Some(broken.clone()));
    let begun = member.starter().begin(generation, starts(&[(0, 7)])).await;
    assert_eq!(begun, Err(CommitError::Log(broken)));
    assert_eq!(fixture.committed("g").await, []);
    fixture.log.fail(None);
    let begun = member.starter().begin(generation, starts(&[(0, 8)])).await;
    assert_eq!(begun, Ok(all(&[0])));
    assert_eq!(fixture.committed("g").await, [(0, 8)]);
}

#[tokio::test(start_paused = true)]
async fn a_beginning_waits_while_the_disk_is_full_and_ends_when_it_is_nobodys_any_more() {
    for is_there in [true, false] {
        let fixture = Fixture::new();
        let mut member = fixture.join("g").await;
        let (generation, _) = assignment(&mut member).await;
        fixture.log.fail(Some(LogError::DiskFull));
        let starter = member.starter();
        let mut begun = pin!(starter.begin(generation, starts(&[(0, 7)])));
        let wait = std::time::Duration::from_secs(5);
        let early = tokio::time::timeout(wait, begun.as_mut()).await;
        assert!(early.is_err(), "not {early:?}");
        assert_eq!(fixture.committed("g").await, []);
        if is_there {
            fixture.log.fail(None);
            assert_eq!(begun.await, Ok(all(&[0])));
            assert_eq!(fixture.committed("g").await, [(0, 7)]);
        } else {
            member.leave().await;
            assert_eq!(begun.await, Ok(HashSet::new()));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn partitions_are_new_to_a_group_that_began_before_them_also_after_a_crash() {
    let fixture = Fixture::new();
    let mut member = fixture.join("g").await;
    let (generation, _) = assignment(&mut member).await;
    let is_new = |member: &Member, id| member.starter().is_new(PartitionId(id));
    assert!(!is_new(&member, 19) && is_new(&member, 20));
    // It has committed something, so it stays.
    let begun = member.starter().begin(generation, starts(&[(0, 7)])).await;
    begun.unwrap();
    // An older version doesn't say so.
    let old = StoredGroup {
        created_ms: 1,
        ..StoredGroup::default()
    };
    let offset = StoredOffset {
        offset: 1,
        committed_ms: 1,
        group_created_ms: 1,
    };
    let name = GroupName::try_from("old").unwrap();
    let records = [old.record(&name), offset.record(&name, t(0))];
    fixture.log.records.lock().unwrap().extend(records);

    let recovered = Recovered {
        fold: fixture.log.fold(),
        damaged: false,
        topics_damaged: false,
        next_partition: PartitionId(30),
    };
    let topics = fixture.topics.subscribe();
    let log = Arc::new(fixture.log.fork());
    let groups = Coordinator::start(recovered, log, topics, Clock::of(|| 1_000_000));
    let next = |group| {
        let described = groups.describe(group);
        async { described.await.unwrap().next_partition }
    };
    assert_eq!(next("g").await, PartitionId(20));
    assert_eq!(next("old").await, PartitionId(30));
}
