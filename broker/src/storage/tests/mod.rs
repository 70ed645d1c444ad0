//! Storage as a whole, on the simulated disk, against a plain model.

mod bad_sectors;
mod compaction;
mod damage;
mod deletion;
mod failures;
mod faults;
mod format_page;
mod full_disk;
mod giving_up;
mod group;
mod guards;
mod keyed;
mod keyed_model;
mod lost_checkpoint;
mod model;
mod passes;
mod proof;
mod random;
// The codec that the broker uses: a part of a layer above, which knows nothing of it.
#[allow(
    clippy::duplicate_mod,
    reason = "storage may not know the layer that it lies in"
)]
#[path = "../../broker/record_codec.rs"]
mod record_codec;
mod shortages;
mod stamps;
mod sweeps;
mod world;

pub(super) use random::Random;
pub(super) use record_codec::ProtobufRecords;
pub(super) use world::Gentle;
use world::World;

use std::path::Path;
use std::sync::Arc;

use super::dir::Dir;
use super::dir::sim::SimDir;
use super::{OpenError, Storage};

/// Seeds that every test run tries. `STATECAST_SEEDS=from..to` tries others.
const SEEDS: std::ops::Range<u64> = 0..1500;

fn seeds() -> std::ops::Range<u64> {
    let Ok(range) = std::env::var("STATECAST_SEEDS") else {
        return SEEDS;
    };
    let (from, to) = range.split_once("..").expect("STATECAST_SEEDS is from..to");
    from.parse().expect("a number")..to.parse().expect("a number")
}

/// What a file at the root of a data directory holds.
pub(super) fn content(dir: &SimDir, name: &str) -> Vec<u8> {
    let file = dir.open(Path::new(name)).expect("it is there");
    let len = file.len().expect("it has a length");
    let mut bytes = vec![0; usize::try_from(len).expect("small")];
    let read = file.read_at(&mut bytes, 0).expect("it reads");
    assert_eq!(read, bytes.len());
    bytes
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

#[test]
fn directory_of_a_newer_format_is_left_as_it_is() {
    let dir = SimDir::new();
    let file = dir.create(Path::new("FORMAT")).unwrap();
    file.write_all_at(b"statecast data directory\nformat 99\n", 0)
        .unwrap();
    let changes = dir.changes();
    let opened = Storage::open(Arc::new(dir.clone()), world::options(), 1);
    assert!(matches!(opened, Err(OpenError::Identity(_))));
    assert_eq!(dir.changes(), changes);
    assert_eq!(dir.list(Path::new("")).unwrap(), ["FORMAT"]);
}

#[test]
fn acknowledged_records_survive_crashes_at_every_step() {
    for_all_seeds("crashes", |seed| {
        let mut world = World::new(seed);
        for _ in 0..world.random.between(20, 120) {
            world.step();
        }
        world.crash_now();
        world.check_all();
        world.resend_all();
        world.append_some();
        world.flush();
        world.check_all();
    });
}

#[test]
fn damage_below_the_high_watermark_is_quarantined_and_the_rest_is_served() {
    for_all_seeds("damage", |seed| {
        let mut world = World::new(seed);
        for _ in 0..world.random.between(10, 60) {
            world.step_without_fault();
        }
        world.damage_and_crash();
        for _ in 0..3 {
            world.append_some();
            world.flush();
            // Whoever begins after the damage is known in full.
            world.id_offset = stamps::GIVEN_BELOW - world.id_offset;
            world.check_no_offset_was_reused();
            if world.random.one_in(2) {
                let _ = world.storage().close_journal_file();
                world.archive();
                world.check_no_offset_was_reused();
            }
            world.restart_after_damage();
        }
    });
}
