//! Appends that are placed all or none, under conditions.

use super::*;
use crate::limits;
use crate::model::{KeyHash, KeyHasher};
use crate::partition::{Appended, KeyGuard, Unit};

const SEED: u128 = 5;

fn hash(key: &str) -> KeyHash {
    KeyHasher::new(SEED).hash(key.as_bytes())
}

/// A record with this key.
fn keyed(partition: &PartitionHandle, key: &str) -> Append {
    Append {
        partition: partition.partition().clone(),
        batch: CheckedBatch {
            key_hashes: vec![hash(key)],
            ..batch(key.as_bytes())
        },
    }
}

fn requested(mut append: Append, request: &str) -> Append {
    let stamp = RequestStamp::of(request.as_bytes());
    append.batch.stamp = Some(Stamp::Request(stamp));
    append
}

async fn unit(
    engine: &Engine,
    appends: Vec<Append>,
    guards: Vec<KeyGuard>,
) -> Vec<Result<Appended, AppendError>> {
    engine.append_unit(Unit { appends, guards }).await
}

fn offsets(results: &[Result<Appended, AppendError>]) -> Vec<u64> {
    let offset = |result: &Result<Appended, AppendError>| result.as_ref().unwrap().base_offset.0;
    results.iter().map(offset).collect()
}

/// The partition and the offset that are to be waited for.
fn conflict(results: &[Result<Appended, AppendError>]) -> (u32, u64) {
    assert!(results.iter().all(|result| *result == results[0]));
    match &results[0] {
        Err(AppendError::Conflict(conflict)) => (conflict.partition.0, conflict.wait_for.0),
        other => panic!("{other:?} is no conflict"),
    }
}

fn partitions(engine: &Engine) -> [PartitionHandle; 2] {
    [1, 2].map(|id| engine.create_partition(PartitionId(id), config(FlushLevel::Always)))
}

#[tokio::test]
async fn a_unit_is_appended_if_its_guards_hold_and_not_at_all_otherwise() {
    let engine = engine(&SimDir::new());
    let [a, b] = partitions(&engine);
    // The first guard knows nothing of what was before it.
    let first = unit(&engine, vec![keyed(&a, "x"), keyed(&b, "y")], vec![]).await;
    assert_eq!(offsets(&first), [0, 0]);
    let guards = vec![a.guard(hash("x"), Offset(0))];
    let refused = unit(&engine, vec![keyed(&a, "x"), keyed(&b, "y")], guards).await;
    assert_eq!(conflict(&refused), (1, 1));
    assert_eq!(b.high_watermark(), Offset(1), "nothing of it is there");

    let guards = vec![a.guard(hash("x"), Offset(1)), b.guard(hash("z"), Offset(1))];
    let appends = vec![keyed(&a, "x"), keyed(&b, "y"), keyed(&a, "x")];
    assert_eq!(offsets(&unit(&engine, appends, guards).await), [1, 1, 2]);

    // What was seen then is not all any more, for the keys that it had.
    let of = |key| vec![a.guard(hash(key), Offset(1))];
    let refused = unit(&engine, vec![keyed(&b, "y")], of("x")).await;
    assert_eq!(conflict(&refused), (1, 3));
    let other = unit(&engine, vec![keyed(&b, "y")], of("other")).await;
    assert_eq!(offsets(&other), [2]);
    // Of several guards of a partition, all have to know enough.
    let guards = vec![
        b.guard(hash("other"), Offset(1)),
        a.guard(hash("x"), Offset(2)),
        b.guard(hash("y"), Offset(1)),
    ];
    let refused = unit(&engine, vec![keyed(&a, "x")], guards).await;
    assert_eq!(conflict(&refused), (1, 3));
    engine.stop().await;
}

#[tokio::test]
async fn what_was_appended_before_is_told_whether_its_guards_hold_or_not() {
    let engine = engine(&SimDir::new());
    let [a, _] = partitions(&engine);
    let request = || vec![requested(keyed(&a, "x"), "r")];
    let stamp = RequestStamp::of(b"r");
    assert_eq!(a.appended_before(stamp), None);
    let guard = || vec![a.guard(hash("x"), Offset(0))];
    assert_eq!(offsets(&unit(&engine, request(), guard()).await), [0]);
    assert_eq!(a.appended_before(stamp), Some(Offset(0)));
    let again = unit(&engine, request(), guard()).await;
    assert!(again[0].as_ref().unwrap().duplicate);
    assert_eq!(offsets(&again), [0]);
    // One that is refused isn't remembered.
    let other = vec![requested(keyed(&a, "x"), "s")];
    assert_eq!(conflict(&unit(&engine, other, guard()).await), (1, 1));
    assert_eq!(a.appended_before(RequestStamp::of(b"s")), None);
    engine.stop().await;
}

#[tokio::test]
async fn a_guard_that_never_holds_lets_through_only_what_was_appended_before() {
    let engine = engine(&SimDir::new());
    let [a, b] = partitions(&engine);
    let request = |request| vec![requested(keyed(&a, "x"), request)];
    assert_eq!(offsets(&unit(&engine, request("r"), vec![]).await), [0]);
    // One for a key that was never written in an empty partition holds, whatever was seen.
    let other = b.guard(hash("x"), Offset(0));
    assert_eq!(
        offsets(&unit(&engine, request("s"), vec![other]).await),
        [1]
    );
    let again = unit(&engine, request("r"), vec![b.closed_guard()]).await;
    assert!(again[0].as_ref().unwrap().duplicate);
    assert_eq!(offsets(&again), [0]);
    // Nothing has to be waited for before that is looked at again.
    let refused = unit(&engine, request("t"), vec![b.closed_guard()]).await;
    assert_eq!(conflict(&refused), (2, 0));
    let open = a.guard(hash("y"), Offset(2));
    let refused = unit(&engine, request("t"), vec![open, b.closed_guard()]).await;
    assert_eq!(conflict(&refused), (2, 0));
    engine.stop().await;
}

#[tokio::test]
async fn a_guard_keeps_what_it_needs_from_being_forgotten() {
    let engine = engine(&SimDir::new());
    let [a, _] = partitions(&engine);
    let early = a.guard(hash("early"), Offset(0));
    for _ in 0..3 {
        unit(&engine, vec![keyed(&a, "x")], vec![]).await;
    }
    a.forget_keys_below(Offset(3));
    let late = a.guard(hash("late"), Offset(3));
    assert_eq!(
        offsets(&unit(&engine, vec![keyed(&a, "x")], vec![early]).await),
        [3]
    );
    // Now only what the other one needs is left.
    let forgotten = a.guard(hash("early"), Offset(2));
    let refused = unit(&engine, vec![keyed(&a, "x")], vec![forgotten]).await;
    assert_eq!(conflict(&refused), (1, 3));
    assert_eq!(
        offsets(&unit(&engine, vec![keyed(&a, "x")], vec![late]).await),
        [4]
    );
    engine.stop().await;
}

/// Each task looks at what the log says of one key, and appends under the condition that
/// it still says so: as many times as all of them want to, and no update is lost.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_overwrites_what_they_have_not_seen() {
    const EACH: u64 = 50;
    let engine = engine(&SimDir::new());
    let [a, _] = partitions(&engine);
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let (engine, a) = (engine.clone(), a.clone());
        tasks.push(tokio::spawn(async move {
            let mut done = 0;
            while done < EACH {
                // The counter is how many records there are.
                let seen = a.high_watermark();
                let guard = a.guard(hash("counter"), seen);
                let append = Append {
                    batch: CheckedBatch {
                        key_hashes: vec![hash("counter")],
                        ..batch(&(seen.0 + 1).to_le_bytes())
                    },
                    partition: a.partition().clone(),
                };
                match unit(&engine, vec![append], vec![guard]).await.remove(0) {
                    Ok(_) => done += 1,
                    Err(AppendError::Conflict(conflict)) => {
                        let bell = Arc::new(Doorbell::default());
                        let before = Offset(conflict.wait_for.0 - 1);
                        a.ring_beyond(before, &bell, 0);
                        bell.rung().await;
                        a.forget_keys_below(conflict.wait_for);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let values = values(&a).await;
    let counted = values
        .iter()
        .map(|value| u64::from_le_bytes(value[..].try_into().unwrap()));
    assert!(counted.eq(1..=8 * EACH));
    engine.stop().await;
}

#[tokio::test]
async fn units_are_bounded() {
    let engine = engine(&SimDir::new());
    let [a, b] = partitions(&engine);
    let large = |partition: &PartitionHandle| Append {
        partition: partition.partition().clone(),
        batch: batch(&vec![1; 500 << 10]),
    };
    let fits = unit(&engine, vec![large(&a), large(&b)], vec![]).await;
    assert_eq!(offsets(&fits), [0, 0]);
    let too_large = unit(&engine, vec![large(&a), large(&b), large(&a)], vec![]).await;
    assert_eq!(too_large, vec![Err(AppendError::UnitTooLarge); 3]);
    let small = |_| Append {
        partition: a.partition().clone(),
        batch: batch(b"v"),
    };
    let too_many: Vec<Append> = (0..=limits::UNIT_APPENDS).map(small).collect();
    let too_many = unit(&engine, too_many, vec![]).await;
    assert_eq!(too_many[0], Err(AppendError::UnitTooLarge));
    engine.stop().await;
}
