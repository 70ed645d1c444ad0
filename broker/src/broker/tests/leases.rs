//! Leases whose client goes away, whose keys are hard to remove, and that a crash meets at
//! any step.

mod sweep;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::poll;

use super::super::{Author, Broker, KeyWrite, WriteError};
use super::{Disk, name, stop};
use crate::limits;
use crate::model::{Cleanup, FlushLevel, Offset, TopicConfig};
use crate::storage::dir::sim::Fault;
use crate::views::{LeaseId, LeasedBound};

const TTL_MS: u64 = 60_000;

async fn compacted(broker: &Broker, topic: &str, flush: FlushLevel) {
    let config = TopicConfig {
        cleanup: Cleanup::Compact,
        retention_ms: None,
        flush,
        ..TopicConfig::default()
    };
    broker.create_topic(name(topic), 1, config).await.unwrap();
}

/// Puts keys, all of them or none.
async fn put(
    broker: &Broker,
    topic: &str,
    keys: &[&str],
    lease: Option<LeaseId>,
) -> Result<Vec<(u32, Offset)>, WriteError> {
    let begun = lease.map(|lease| broker.begin_leased_put(lease.0.get()).unwrap());
    let write = |key: &&str| KeyWrite {
        partition: 0,
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Some(Bytes::from_static(b"here")),
        headers: Vec::new(),
        lease,
    };
    let writes: Vec<KeyWrite> = keys.iter().map(write).collect();
    let state = broker.state(topic).unwrap();
    let written = state.write(broker, Author::Put, &writes, &[], None).await;
    drop(begun);
    written
}

/// Whether a topic has a key.
async fn has(broker: &Broker, topic: &str, key: &str) -> bool {
    let state = broker.state(topic).unwrap();
    let found = state.view().get(0, key.as_bytes(), None).await.unwrap();
    found.record.is_some()
}

/// How many keys of a topic end with a lease.
async fn leased(broker: &Broker, topic: &str, lease: LeaseId) -> usize {
    let state = broker.state(topic).unwrap();
    let most = LeasedBound {
        keys: 1000,
        bytes: 1 << 20,
    };
    let leased = state.view().leased(0, lease, most).await.unwrap();
    assert!(leased.are_all);
    leased.keys.len()
}

#[tokio::test]
async fn a_lease_that_nobody_waits_for_lives_and_ends_as_others_do() {
    let disk = Disk::new();
    let broker = disk.open().await;
    let first = broker.grant_lease(60_000).await.unwrap().0.get();
    let mut granting = Box::pin(broker.grant_lease(60_000));
    assert!(poll!(&mut granting).is_pending());
    drop(granting);
    // It lies in the log before the next one, whose id is the next but one.
    let next = broker.grant_lease(60_000).await.unwrap().0.get();
    assert_eq!(next, first + 2);
    while broker.keep_lease_alive(first + 1).is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(broker.revoke_lease(first + 1).await.unwrap(), Some(0));
    broker.stop().await;
}

#[tokio::test]
async fn no_id_comes_again_though_the_record_that_reserved_it_is_damaged() {
    let disk = Disk::new();
    let broker = disk.open().await;
    let lost = broker.grant_lease(TTL_MS).await.unwrap();
    stop(broker).await;
    disk.archive();
    assert!(disk.dir.flip_bit_of(b"reserved"));
    for _ in 0..2 {
        let broker = disk.open().await;
        let next = broker.grant_lease(TTL_MS).await.unwrap();
        assert!(next > lost, "{next:?}");
        assert!(broker.keep_lease_alive(lost.0.get()).is_err());
        stop(broker).await;
    }
}

/// A topic whose view can't be kept up to date keeps the keys of no other topic, however
/// many leases end at once.
#[tokio::test]
async fn a_view_that_is_behind_holds_up_no_end_but_that_of_its_own_keys() {
    let disk = Disk::new();
    let broker = disk.open().await;
    compacted(&broker, "behind", FlushLevel::Os).await;
    compacted(&broker, "other", FlushLevel::Os).await;
    // As if compaction had dropped something that only a later record supersedes: until
    // then the view tells nobody what it has.
    let behind = broker.state("behind").unwrap();
    behind.view().note_superseded(0, Offset(300));
    let mut leases = Vec::new();
    for number in 0..200 {
        let lease = broker.grant_lease(TTL_MS).await.unwrap();
        let key = number.to_string();
        for topic in ["behind", "other"] {
            put(&broker, topic, &[&key], Some(lease)).await.unwrap();
        }
        leases.push(lease);
    }
    let mut ending = tokio::task::JoinSet::new();
    for lease in leases {
        let broker = broker.clone();
        ending.spawn(async move { broker.revoke_lease(lease.0.get()).await });
    }
    let other = broker.state("other").unwrap();
    let gone = async {
        for number in 0..200 {
            let key = number.to_string();
            while other
                .view()
                .get(0, key.as_bytes(), None)
                .await
                .unwrap()
                .record
                .is_some()
            {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    // So long a call waits for a view that is behind.
    let gone = tokio::time::timeout(limits::VIEW_WAIT, gone).await;
    assert!(gone.is_ok(), "the other keys are held up");
    assert!(ending.try_join_next().is_none(), "no lease is over yet");
    // The view goes on, and its keys go as well.
    for number in 200..300 {
        let key = number.to_string();
        put(&broker, "behind", &[&key], None).await.unwrap();
    }
    while let Some(removed) = ending.join_next().await {
        assert_eq!(removed.unwrap().unwrap(), Some(2));
    }
    assert!(!has(&broker, "behind", "0").await);
    stop(broker).await;
}

/// What the client of a lease was told before the power went.
#[derive(Debug, Default, Clone)]
struct Told {
    lease: Option<LeaseId>,
    /// Keys of topic `safe` that were put with the lease.
    leased: Vec<&'static str>,
    /// A key that had the lease was put again without one.
    freed: bool,
    revoking: bool,
    revoked: bool,
}

/// Goes through the life of a lease. `safe` is flushed before a write is acknowledged, and
/// `os` never.
async fn live(broker: &Broker, told: &Mutex<Told>) {
    let tell = |change: &dyn Fn(&mut Told)| {
        change(&mut told.lock().unwrap_or_else(PoisonError::into_inner));
    };
    let Ok(lease) = broker.grant_lease(TTL_MS).await else {
        return;
    };
    tell(&|told| told.lease = Some(lease));
    for keys in [&["x", "y"][..], &["z"]] {
        if put(broker, "safe", keys, Some(lease)).await.is_err()
            || put(broker, "os", keys, Some(lease)).await.is_err()
        {
            return;
        }
        tell(&|told| told.leased.extend(keys));
    }
    if put(broker, "safe", &["y"], None).await.is_err() {
        return;
    }
    tell(&|told| told.freed = true);
    tell(&|told| told.revoking = true);
    if let Ok(Some(_)) = broker.revoke_lease(lease.0.get()).await {
        tell(&|told| told.revoked = true);
    }
}

/// The first lease, and the first one behind the ids that were reserved with it: that of
/// the broker that crashes, whether or not its client was told.
const LEASES: [u64; 2] = [1, 1002];

/// What is true after a crash, whatever the client was told.
async fn check(broker: &Broker, told: &Told) {
    assert!(
        told.lease
            .is_none_or(|lease| LEASES.contains(&lease.0.get()))
    );
    for id in LEASES {
        let lease = LeaseId(id.try_into().unwrap());
        let alive = broker.keep_lease_alive(id);
        let keys = leased(broker, "safe", lease).await + leased(broker, "os", lease).await;
        match alive {
            Ok(ttl_ms) => assert_eq!(ttl_ms, TTL_MS),
            Err(_) => assert_eq!(keys, 0, "{id} is over, and its keys stay"),
        }
    }
    let Some(lease) = told.lease else {
        return;
    };
    if told.revoked {
        assert!(broker.keep_lease_alive(lease.0.get()).is_err());
        assert_eq!(leased(broker, "safe", lease).await, 0);
    } else if !told.revoking {
        assert_eq!(broker.keep_lease_alive(lease.0.get()), Ok(TTL_MS));
        for key in &told.leased {
            assert!(has(broker, "safe", key).await, "{key} was put");
        }
    }
    assert!(
        !told.freed || has(broker, "safe", "y").await,
        "it has no lease"
    );
    assert!(has(broker, "safe", "before").await, "it has another lease");
}

/// Ends all leases that live: no key stays.
async fn end_all(broker: &Broker) {
    for id in LEASES {
        if broker.keep_lease_alive(id).is_ok() {
            assert!(broker.revoke_lease(id).await.unwrap().is_some());
        }
        let lease = LeaseId(id.try_into().unwrap());
        assert_eq!(leased(broker, "safe", lease).await, 0);
        assert_eq!(leased(broker, "os", lease).await, 0);
        assert!(broker.keep_lease_alive(id).is_err());
    }
    assert!(!has(broker, "safe", "before").await);
}

#[tokio::test]
async fn wherever_a_crash_comes_a_lease_lives_with_its_keys_or_is_over_without_them() {
    let mut first = Disk::new();
    let broker = first.open().await;
    compacted(&broker, "safe", FlushLevel::Always).await;
    compacted(&broker, "os", FlushLevel::Os).await;
    let before = broker.grant_lease(TTL_MS).await.unwrap();
    put(&broker, "safe", &["before"], Some(before))
        .await
        .unwrap();
    stop(broker).await;

    // It comes at every step. What else happens on the disk decides at which, so not in
    // every round.
    let steps = [(false, 0, false), (true, 0, false), (true, 3, true)];
    let steps = steps.map(|(lease, keys, revoking)| (lease, keys, revoking, false));
    let mut outcomes = BTreeMap::new();
    for _ in 0..20 {
        crash_everywhere(&mut first, &mut outcomes).await;
        if steps.iter().all(|step| outcomes.contains_key(step)) {
            return;
        }
    }
    panic!("it didn't come at every step: {outcomes:?}");
}

/// Whether a lease was told, how many of its keys, and whether it was being revoked, and was.
type Step = (bool, usize, bool, bool);

/// Crashes after each count of operations, and counts what was told by then.
async fn crash_everywhere(first: &mut Disk, outcomes: &mut BTreeMap<Step, u32>) {
    for operations in 0.. {
        let mut disk = first.fork();
        let broker = disk.open().await;
        disk.dir.fail_after(operations, Fault::Crash);
        let told = Mutex::new(Told::default());
        let dies = async {
            while !disk.dir.has_crashed() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        // Without power, the end of a lease is tried again and again.
        tokio::select! {
            () = live(&broker, &told) => {}
            () = dies => {}
        }
        let crashed = disk.dir.has_crashed();
        stop(broker).await;
        let told = told.into_inner().unwrap();
        let seen = (
            told.lease.is_some(),
            told.leased.len(),
            told.revoking,
            told.revoked,
        );
        *outcomes.entry(seen).or_insert(0) += 1;
        disk.dir = disk.dir.crash(operations);
        for start in 0..2 {
            let broker = disk.open().await;
            if start == 0 {
                check(&broker, &told).await;
                end_all(&broker).await;
            } else {
                end_all(&broker).await;
                assert!(!told.freed || has(&broker, "safe", "y").await);
            }
            stop(broker).await;
        }
        if !crashed {
            assert!(told.revoked);
            break;
        }
    }
}
