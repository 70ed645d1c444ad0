//! Processing keys side by side.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use statecast_client::{BatchBuilder, Compression, Consumer, Error, Reason, Record, RecordRef};
use statecast_proto::v1;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::fake_groups::{FakeGroups, FakeMember, positions};

async fn joined(groups: &FakeGroups) -> (Consumer, FakeMember) {
    let builder = groups.consumer().await;
    let builder = builder.commit_interval(Duration::from_millis(1));
    let (consumer, member) = tokio::join!(builder.open(), groups.join());
    member.assigns(7, &[(0, 0)]).await;
    (consumer.unwrap(), member)
}

/// Records of a partition with these keys.
fn keyed(partition: u32, base_offset: u64, keys: &[&str]) -> v1::FetchedBatch {
    let mut builder = BatchBuilder::new(Compression::None);
    for key in keys {
        builder.push(&RecordRef::new(key.as_bytes(), b"")).unwrap();
    }
    let encoded = builder.finish();
    v1::FetchedBatch {
        partition,
        base_offset,
        checksum: encoded.checksum,
        batch: Bytes::clone(&encoded.payload),
        next_offset: base_offset + keys.len() as u64,
        ..v1::FetchedBatch::default()
    }
}

/// A record that a handler has begun, and how it is to go on.
struct Begun {
    partition: u32,
    offset: u64,
    done: oneshot::Sender<Result<(), Error>>,
}

impl Begun {
    fn place(&self) -> (u32, u64) {
        (self.partition, self.offset)
    }

    fn succeed(self) {
        self.done.send(Ok(())).unwrap();
    }

    fn fail(self) {
        self.done.send(Err(Error::Closed)).unwrap();
    }
}

type Running = JoinHandle<(Result<(), Error>, Consumer)>;

/// Runs a consumer whose handler does as the test says.
fn run(mut consumer: Consumer, limit: usize) -> (mpsc::Receiver<Begun>, Running) {
    let (sender, begun) = mpsc::channel(1000);
    let running = tokio::spawn(async move {
        let outcome = consumer
            .for_each_concurrent_by_key(limit, |record: Record| {
                let sender = sender.clone();
                async move {
                    let (done, told) = oneshot::channel();
                    let begun = Begun {
                        partition: record.partition,
                        offset: record.offset,
                        done,
                    };
                    sender.send(begun).await.unwrap();
                    told.await.unwrap()
                }
            })
            .await;
        (outcome, consumer)
    });
    (begun, running)
}

/// The next commit that isn't what was committed before.
async fn committed(member: &mut FakeMember) -> Vec<(u32, u64, u64)> {
    let commit = member.hears_commit().await;
    member.commits(&commit).await;
    positions(&commit)
}

#[tokio::test]
async fn keys_run_side_by_side_and_only_the_prefix_is_committed() {
    let groups = FakeGroups::start().await;
    let (consumer, mut member) = joined(&groups).await;
    member.sends_batch(keyed(0, 0, &["a", "a", "b", "c"])).await;
    let (mut begun, running) = run(consumer, 3);
    let first = begun.recv().await.unwrap();
    let (b, c) = (begun.recv().await.unwrap(), begun.recv().await.unwrap());
    assert_eq!(
        [first.place(), b.place(), c.place()],
        [(0, 0), (0, 2), (0, 3)]
    );
    c.succeed();
    b.succeed();
    first.succeed();
    let second = begun.recv().await.unwrap();
    assert_eq!(second.place(), (0, 1));
    assert_eq!(committed(&mut member).await, [(0, 1, 7)]);
    second.succeed();
    assert_eq!(committed(&mut member).await, [(0, 4, 7)]);
    running.abort();
}

#[tokio::test]
async fn no_more_run_than_asked_for() {
    let groups = FakeGroups::start().await;
    let (consumer, member) = joined(&groups).await;
    member.sends_batch(keyed(0, 0, &["a", "b", "c"])).await;
    let (mut begun, running) = run(consumer, 2);
    let (first, _second) = (begun.recv().await.unwrap(), begun.recv().await.unwrap());
    begun.try_recv().err().unwrap();
    first.succeed();
    assert_eq!(begun.recv().await.unwrap().place(), (0, 2));
    running.abort();
}

#[tokio::test]
async fn failure_ends_it_after_what_runs_with_everything_before_committed() {
    let groups = FakeGroups::start().await;
    let (consumer, mut member) = joined(&groups).await;
    member
        .sends_batch(keyed(0, 0, &["a", "b", "c", "b", "d"]))
        .await;
    let (mut begun, running) = run(consumer, 3);
    let a = begun.recv().await.unwrap();
    let b = begun.recv().await.unwrap();
    let c = begun.recv().await.unwrap();
    b.fail();
    c.succeed();
    a.succeed();
    assert_eq!(committed(&mut member).await, [(0, 1, 7)]);
    let (outcome, mut consumer) = running.await.unwrap();
    assert!(matches!(outcome, Err(Error::Closed)), "{outcome:?}");
    assert!(begun.recv().await.is_none(), "nothing more begins");
    // It would pass what wasn't processed.
    assert!(consumer.next_batch().await.is_none());
}

#[tokio::test]
async fn revoked_partition_finishes_what_runs_and_begins_nothing_more() {
    let groups = FakeGroups::start().await;
    let (consumer, mut member) = joined(&groups).await;
    member.assigns(8, &[(1, 0)]).await;
    member.sends_batch(keyed(0, 0, &["a", "a", "b"])).await;
    member.sends_batch(keyed(1, 0, &["a"])).await;
    let (mut begun, running) = run(consumer, 4);
    let a = begun.recv().await.unwrap();
    let b = begun.recv().await.unwrap();
    let other = begun.recv().await.unwrap();
    assert_eq!(
        [a.place(), b.place(), other.place()],
        [(0, 0), (0, 2), (1, 0)]
    );
    member.revokes(0, v1::RevokeReason::Rebalance).await;
    member.sends_batch(keyed(1, 1, &["b"])).await;
    // It has heard of the revoke when it has what came after it.
    let after = begun.recv().await.unwrap();
    assert_eq!(after.place(), (1, 1));
    a.succeed();
    b.succeed();
    // The second record of `a` isn't begun: it holds back the position.
    assert_eq!(committed(&mut member).await, [(0, 1, 7)]);
    assert_eq!(member.hears_revoked().await, [0]);
    other.succeed();
    assert_eq!(committed(&mut member).await, [(1, 1, 8)]);
    running.abort();
}

#[tokio::test]
async fn stopped_consumer_finishes_what_it_has_begun() {
    let groups = FakeGroups::start().await;
    let (consumer, mut member) = joined(&groups).await;
    member.sends_batch(keyed(0, 0, &["a", "a", "b"])).await;
    let handle = consumer.handle();
    let (mut begun, running) = run(consumer, 4);
    let a = begun.recv().await.unwrap();
    let b = begun.recv().await.unwrap();
    handle.stop();
    b.succeed();
    tokio::task::yield_now().await;
    a.succeed();
    // Whether the next one of its key was begun is a matter of chance.
    let again = tokio::spawn(async move {
        while let Some(begun) = begun.recv().await {
            begun.succeed();
        }
    });
    let (outcome, ()) = tokio::join!(running, async {
        let position = committed(&mut member).await[0].1;
        assert!(position == 1 || position == 3, "{position}");
    });
    outcome.unwrap().0.unwrap();
    again.await.unwrap();
}

#[tokio::test]
async fn missing_records_end_it_once_and_it_can_go_on_behind_them() {
    let groups = FakeGroups::start().await;
    let (consumer, mut member) = joined(&groups).await;
    let mut damaged = keyed(0, 1, &["b"]);
    damaged.checksum ^= 1;
    member.sends_batch(keyed(0, 0, &["a"])).await;
    member.sends_batch(damaged).await;
    member.sends_batch(keyed(0, 2, &["c"])).await;
    let (mut begun, running) = run(consumer, 4);
    begun.recv().await.unwrap().succeed();
    assert_eq!(committed(&mut member).await, [(0, 2, 7)]);
    let (outcome, consumer) = running.await.unwrap();
    assert!(
        matches!(outcome, Err(Error::DamagedBatch { offset: 1, .. })),
        "{outcome:?}"
    );
    let (mut begun, running) = run(consumer, 4);
    assert_eq!(begun.recv().await.unwrap().place(), (0, 2));
    running.abort();
}

#[tokio::test]
async fn future_that_is_dropped_leaves_nothing_to_pass_what_it_had_begun() {
    let groups = FakeGroups::start().await;
    let (mut consumer, mut member) = joined(&groups).await;
    member.sends_batch(keyed(0, 0, &["a", "b", "c"])).await;
    let begun = Arc::new(Mutex::new(Vec::new()));
    let room = Arc::new(Semaphore::new(1));
    let all_begun = Arc::new(Semaphore::new(0));
    {
        let each = consumer.for_each_concurrent_by_key(4, |record| {
            let (begun, room, all) = (begun.clone(), room.clone(), all_begun.clone());
            async move {
                begun.lock().unwrap().push(record.offset);
                all.add_permits(1);
                room.acquire().await.unwrap().forget();
                Ok::<(), Error>(())
            }
        });
        tokio::select! {
            _ = each => panic!("it goes on"),
            _ = all_begun.acquire_many(3) => {}
        }
    }
    assert_eq!(*begun.lock().unwrap(), [0, 1, 2]);
    assert!(consumer.next_batch().await.is_none());
    drop(consumer);
    assert_eq!(committed(&mut member).await, [(0, 1, 7)]);
}

#[tokio::test]
async fn lost_partition_is_no_failure() {
    let groups = FakeGroups::start().await;
    let (consumer, member) = joined(&groups).await;
    member.sends_batch(keyed(0, 0, &["a", "a"])).await;
    let (mut begun, running) = run(consumer, 4);
    let a = begun.recv().await.unwrap();
    member.takes_away(0, v1::RevokeReason::Rebalance).await;
    member.assigns(9, &[(0, 1)]).await;
    member.sends_batch(keyed(0, 1, &["a"])).await;
    // It is another share: the key isn't the same one.
    let again = begun.recv().await.unwrap();
    assert_eq!(again.place(), (0, 1));
    a.succeed();
    again.succeed();
    member.ends(Reason::MemberReplaced).await;
    let (outcome, _) = running.await.unwrap();
    assert_eq!(outcome.unwrap_err().reason(), Some(Reason::MemberReplaced));
}
