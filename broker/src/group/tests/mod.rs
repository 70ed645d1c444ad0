//! Groups, by what goes in and comes out.

mod large;
mod model;
mod presence;
pub(super) mod random;
mod rebalances;
mod scene;
mod world;

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
