//! A group, by what goes in and comes out.

mod model;
pub(super) mod random;
mod world;

use super::*;
use crate::model::{TopicId, TopicName};
use world::World;

/// Seeds that every test run tries. `STATECAST_SEEDS=from..to` tries others.
const SEEDS: std::ops::Range<u64> = 0..1500;

fn seeds() -> std::ops::Range<u64> {
    let Ok(range) = std::env::var("STATECAST_SEEDS") else {
        return SEEDS;
    };
    let (from, to) = range.split_once("..").expect("STATECAST_SEEDS is from..to");
    from.parse().expect("a number")..to.parse().expect("a number")
}

/// Runs a scenario for every seed; a failure names the seed.
fn for_all_seeds(what: &str, scenario: fn(u64)) {
    for seed in seeds() {
        let outcome = std::panic::catch_unwind(|| scenario(seed));
        assert!(
            outcome.is_ok(),
            "{what}: seed {seed} failed; again with STATECAST_SEEDS={seed}..{}",
            seed + 1
        );
    }
}

/// Lets things happen in a group, and then lets it settle, a few times.
fn interleave(seed: u64, equal: bool) {
    let mut world = World::new(seed, equal);
    for _ in 0..4 {
        for _ in 0..world.random.between(5, 40) {
            world.step();
        }
        world.settle();
    }
}

#[test]
fn where_all_read_the_same_every_interleaving_keeps_the_rules_and_moves_the_fewest() {
    for_all_seeds("equal", |seed| interleave(seed, true));
}

#[test]
fn where_members_read_different_topics_every_interleaving_keeps_the_rules() {
    for_all_seeds("different", |seed| interleave(seed, false));
}

fn topic(id: u64, name: &str, partitions: u32) -> Topic {
    Topic {
        id: TopicId(id),
        name: TopicName::try_from(name).unwrap(),
        partitions,
    }
}

fn join(id: u64, topics: &[&str]) -> Event {
    Event::Join {
        member: MemberId(id),
        request: JoinRequest {
            name: None,
            subscription: Subscription::new(topics.iter().copied()).unwrap(),
            session_timeout_ms: 10_000,
            revoke_timeout_ms: 5_000,
        },
    }
}

#[test]
fn two_members_share() {
    let mut group = Group::new(Generation::ZERO);
    group.handle(Event::Topics(TopicList::new(vec![topic(1, "a", 4)])), 0);
    assert_eq!(group.handle(join(1, &["a"]), 0), []);
    let effects = group.handle(Event::Tick, 20);
    assert_eq!(effects.len(), 2, "{effects:?}");
    group.handle(join(2, &["*"]), 30);
    let effects = group.handle(Event::Tick, 50);
    let Effect::Revoke { partitions, .. } = &effects[1] else {
        panic!("{effects:?}");
    };
    assert_eq!(partitions.len(), 2);
    let revoked = Event::Revoked {
        member: MemberId(1),
        partitions: partitions.clone(),
    };
    let effects = group.handle(revoked, 60);
    assert_eq!(
        effects[1],
        Effect::Assign {
            member: MemberId(2),
            generation: Generation(3),
            partitions: partitions.clone()
        }
    );
    assert_eq!(group.state(), GroupState::Stable);
}
