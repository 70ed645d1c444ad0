//! Keys that outlive their lease, and that the sweep removes: they, and no others.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::poll;

use super::super::Disk;
use super::super::stop;
use super::{Broker, Fault, FlushLevel, LeaseId, TTL_MS, compacted, has, leased, limits, put};
use crate::state::LeaseError;
use crate::storage::dir::sim::SimRng;

async fn sweep(broker: &Broker) -> u64 {
    broker.shared.leases.sweep(broker).await
}

/// Gives the view of a topic up. Its follower is at rest then: it alone does that elsewhere,
/// between what it applies.
async fn give_up(broker: &Broker, topic: &str) {
    has(broker, topic, "whatever").await;
    broker.state(topic).unwrap().view().give_up(0);
}

/// The end of a lease doesn't know the keys in a view that is given up. What is put anew
/// without the lease, or with one that lives, stays.
#[tokio::test]
async fn keys_whose_lease_ended_while_their_view_was_given_up_are_swept() {
    let disk = Disk::new();
    let broker = disk.open().await;
    compacted(&broker, "given-up", FlushLevel::Os).await;
    let mut ended = Vec::new();
    // More than are looked at together.
    for number in 0..limits::LEASES_SWEPT_AT_ONCE + 5 {
        let lease = broker.grant_lease(TTL_MS).await.unwrap();
        let key = number.to_string();
        put(&broker, "given-up", &[&key], Some(lease))
            .await
            .unwrap();
        ended.push(lease);
    }
    let alive = broker.grant_lease(TTL_MS).await.unwrap();
    put(&broker, "given-up", &["alive"], Some(alive))
        .await
        .unwrap();
    put(&broker, "given-up", &["0"], None).await.unwrap();
    put(&broker, "given-up", &["1"], Some(alive)).await.unwrap();
    assert_eq!(sweep(&broker).await, 0);

    let state = broker.state("given-up").unwrap();
    give_up(&broker, "given-up").await;
    for lease in &ended {
        assert_eq!(broker.revoke_lease(lease.0.get()).await.unwrap(), Some(0));
    }
    assert_eq!(sweep(&broker).await, 0);
    state.view().resume(0);
    put(&broker, "given-up", &["bell"], None).await.unwrap();
    assert!(has(&broker, "given-up", "2").await);

    let swept = sweep(&broker).await;
    assert_eq!(swept, ended.len() as u64 - 2);
    for lease in &ended {
        assert_eq!(leased(&broker, "given-up", *lease).await, 0);
    }
    for key in ["0", "1", "alive", "bell"] {
        assert!(has(&broker, "given-up", key).await, "{key}");
    }
    assert_eq!(sweep(&broker).await, 0);
    stop(broker).await;
}

/// How many operations a task may carry out before the runtime lets others run.
const BUDGET: usize = 128;

/// Wherever the sweep has to let others run: the tombstone expects the version that was found.
#[tokio::test]
async fn key_that_is_put_anew_just_when_it_is_swept_stays() {
    let disk = Disk::new();
    let broker = disk.open().await;
    compacted(&broker, TOPIC, FlushLevel::Os).await;
    let state = broker.state(TOPIC).unwrap();
    for used in BUDGET / 2..=BUDGET {
        let key = used.to_string();
        let lease = broker.grant_lease(TTL_MS).await.unwrap();
        put(&broker, TOPIC, &[&key], Some(lease)).await.unwrap();
        give_up(&broker, TOPIC).await;
        assert_eq!(broker.revoke_lease(lease.0.get()).await.unwrap(), Some(0));
        state.view().resume(0);
        put(&broker, TOPIC, &["bell"], None).await.unwrap();
        assert_eq!(leased(&broker, TOPIC, lease).await, 1);

        let mut sweeping = Box::pin(sweep(&broker));
        tokio::task::yield_now().await;
        for _ in 0..used {
            tokio::task::consume_budget().await;
        }
        let swept = poll!(&mut sweeping);
        put(&broker, TOPIC, &[&key], None).await.unwrap();
        if swept.is_pending() {
            sweeping.await;
        }
        assert!(has(&broker, TOPIC, &key).await, "after {used}");
    }
    stop(broker).await;
}

/// Its client is told that it is over, and it stays so though its record can be read again.
#[tokio::test]
async fn keys_of_a_lease_whose_record_is_lost_are_swept_and_it_never_comes_back() {
    let disk = Disk::new();
    let broker = disk.open().await;
    compacted(&broker, "safe", FlushLevel::Always).await;
    let lost = broker.grant_lease(TTL_MS).await.unwrap();
    let kept = broker.grant_lease(TTL_MS).await.unwrap();
    put(&broker, "safe", &["lost"], Some(lost)).await.unwrap();
    put(&broker, "safe", &["kept"], Some(kept)).await.unwrap();
    stop(broker).await;
    disk.archive();
    // In the batch of the first lease.
    assert!(disk.dir.flip_bit_of(b"reserved"));

    let broker = disk.open().await;
    let id = lost.0.get();
    let expired = LeaseError::Expired(id);
    assert_eq!(broker.keep_lease_alive(id), Err(expired));
    assert_eq!(broker.begin_leased_put(id).unwrap_err(), expired);
    assert!(has(&broker, "safe", "lost").await);
    assert_eq!(sweep(&broker).await, 1);
    assert!(!has(&broker, "safe", "lost").await);
    assert!(has(&broker, "safe", "kept").await);
    assert_eq!(broker.keep_lease_alive(kept.0.get()), Ok(TTL_MS));
    stop(broker).await;

    // It was only for now.
    assert!(disk.dir.flip_bit_of(b"seserved"));
    let broker = disk.open().await;
    assert_eq!(broker.keep_lease_alive(id), Err(expired));
    assert_eq!(broker.keep_lease_alive(kept.0.get()), Ok(TTL_MS));
    assert!(!has(&broker, "safe", "lost").await);
    stop(broker).await;
}

/// Nobody has to ask for it.
#[tokio::test]
async fn the_sweep_runs_by_itself() {
    let disk = Disk::new();
    let broker = disk.open().await;
    compacted(&broker, "given-up", FlushLevel::Os).await;
    let lease = broker.grant_lease(TTL_MS).await.unwrap();
    put(&broker, "given-up", &["key"], Some(lease))
        .await
        .unwrap();
    let state = broker.state("given-up").unwrap();
    give_up(&broker, "given-up").await;
    broker.revoke_lease(lease.0.get()).await.unwrap();
    state.view().resume(0);
    put(&broker, "given-up", &["bell"], None).await.unwrap();
    assert!(has(&broker, "given-up", "key").await);
    tokio::time::pause();
    tokio::time::advance(limits::LEASE_SWEEP_EVERY).await;
    tokio::time::resume();
    while has(&broker, "given-up", "key").await {
        tokio::task::yield_now().await;
    }
    stop(broker).await;
}

/// The keys of a lease whose record is lost.
const LOST: [&str; 3] = ["a", "b", "c"];

/// A lease whose record is lost for now is over before the first of its keys goes.
#[tokio::test]
async fn wherever_a_crash_comes_a_lost_lease_has_all_of_its_keys_or_is_over() {
    let mut first = Disk::new();
    let broker = first.open().await;
    compacted(&broker, "safe", FlushLevel::Always).await;
    let lost = broker.grant_lease(TTL_MS).await.unwrap();
    for key in LOST {
        put(&broker, "safe", &[key], Some(lost)).await.unwrap();
    }
    put(&broker, "safe", &["other"], None).await.unwrap();
    stop(broker).await;
    first.archive();
    assert!(first.dir.flip_bit_of(b"reserved"));

    // It comes before the lease is over, and between that and its keys. What else happens
    // on the disk decides when, so not in every round.
    let mut outcomes = BTreeMap::new();
    for _ in 0..20 {
        crash_while_sweeping(&mut first, lost, &mut outcomes).await;
        let between = [false, true].map(|is_over| (is_over, LOST.len()));
        if between.iter().all(|seen| outcomes.contains_key(seen)) {
            return;
        }
    }
    panic!("it didn't come at every step: {outcomes:?}");
}

/// Crashes after each count of operations; counts whether the lease was over after that,
/// and how many of its keys were there.
async fn crash_while_sweeping(
    first: &mut Disk,
    lost: LeaseId,
    outcomes: &mut BTreeMap<(bool, usize), u32>,
) {
    for operations in 0.. {
        let mut disk = first.fork();
        let broker = disk.open().await;
        // The view has them.
        assert_eq!(leased(&broker, "safe", lost).await, LOST.len());
        disk.dir.fail_after(operations, Fault::Crash);
        let dies = async {
            while !disk.dir.has_crashed() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            _ = sweep(&broker) => {}
            () = dies => {}
        }
        let crashed = disk.dir.has_crashed();
        stop(broker).await;
        disk.dir = disk.dir.crash(operations);
        // The record can be read again.
        disk.dir.flip_bit_of(b"seserved");
        let broker = disk.open().await;
        let is_over = broker.keep_lease_alive(lost.0.get()).is_err();
        let keys = leased(&broker, "safe", lost).await;
        assert!(
            is_over || keys == LOST.len(),
            "{keys} keys of a lease that lives"
        );
        *outcomes.entry((is_over, keys)).or_insert(0) += 1;
        let swept = if is_over { keys as u64 } else { 0 };
        assert_eq!(sweep(&broker).await, swept);
        assert!(has(&broker, "safe", "other").await);
        stop(broker).await;
        if !crashed {
            assert!(is_over && keys == 0);
            break;
        }
    }
}

/// What there should be.
#[derive(Debug, Default)]
struct Model {
    /// The lease of each key.
    keys: BTreeMap<String, Option<LeaseId>>,
    alive: Vec<LeaseId>,
    is_given_up: bool,
}

impl Model {
    fn may_stay(&self, lease: Option<LeaseId>) -> bool {
        lease.is_none_or(|lease| self.alive.contains(&lease))
    }

    /// Of the keys that nothing was put under since, only those of leases that are over
    /// may be gone, and after a sweep they are.
    async fn check(&mut self, broker: &Broker, swept: bool) {
        for (key, lease) in self.keys.clone() {
            let is_there = has(broker, TOPIC, &key).await;
            let may_stay = self.may_stay(lease);
            assert!(is_there || !may_stay, "{key} is gone, {lease:?}");
            assert!(!is_there || may_stay || !swept, "{key} stays, {lease:?}");
            if !is_there {
                self.keys.remove(&key);
            }
        }
    }

    async fn put(&mut self, broker: &Broker, rng: &mut SimRng) {
        let key = rng.below(KEYS).to_string();
        let lease = self.any_lease(rng);
        put(broker, TOPIC, &[&key], lease).await.unwrap();
        self.keys.insert(key, lease);
    }

    fn any_lease(&self, rng: &mut SimRng) -> Option<LeaseId> {
        let place = rng.index(self.alive.len() + 1);
        self.alive.get(place).copied()
    }

    /// The view is there again, if it was given up.
    async fn resume(&mut self, broker: &Broker) {
        if std::mem::take(&mut self.is_given_up) {
            broker.state(TOPIC).unwrap().view().resume(0);
            // The follower goes on when it hears of something.
            put(broker, TOPIC, &["bell"], None).await.unwrap();
        }
    }
}

const TOPIC: &str = "random";
const KEYS: u64 = 12;

#[tokio::test]
async fn at_random_the_sweep_removes_the_keys_of_leases_that_are_over_and_no_others() {
    let mut swept = 0;
    for seed in 0..30 {
        swept += run_at_random(seed).await;
    }
    assert!(swept > 30, "{swept}");
}

async fn run_at_random(seed: u64) -> u64 {
    let mut rng = SimRng::new(seed);
    let disk = Disk::new();
    let mut broker = disk.open().await;
    compacted(&broker, TOPIC, FlushLevel::Os).await;
    let (mut model, mut swept) = (Model::default(), 0);
    for _ in 0..80 {
        match rng.below(12) {
            0 | 1 => model.alive.push(broker.grant_lease(TTL_MS).await.unwrap()),
            2..=6 => model.put(&broker, &mut rng).await,
            7 | 8 => {
                if let Some(lease) = model.any_lease(&mut rng) {
                    broker.revoke_lease(lease.0.get()).await.unwrap();
                    model.alive.retain(|alive| *alive != lease);
                }
            }
            9 if !model.is_given_up => {
                give_up(&broker, TOPIC).await;
                model.is_given_up = true;
            }
            10 => {
                stop(broker).await;
                broker = disk.open().await;
                model.is_given_up = false;
                model.check(&broker, false).await;
            }
            _ => {
                model.resume(&broker).await;
                model.check(&broker, false).await;
                // Somebody puts meanwhile.
                let (count, ()) = tokio::join!(sweep(&broker), model.put(&broker, &mut rng));
                swept += count;
                model.check(&broker, true).await;
            }
        }
    }
    stop(broker).await;
    swept
}
