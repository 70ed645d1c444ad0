//! Views and watches over the simulated disk, against the whole history of each
//! partition: random changes, archiving, compaction without grace, retention with every
//! third seed, power cuts, watchers that come, go and resume, views that are saved, lost,
//! damaged and restored, and, with every other seed, bits that flip in segments and reads
//! that fail.
//!
//! - Where retention removes records, a map lacks the keys whose latest record lies below
//!   some offset, and no others: no later one than what is removed by now.
//! - Where damage is reported, a map may lack that record or have it, or have an older
//!   one of its key. What it holds was in the log at the offset that it names, and what
//!   isn't reported is as exact as without damage.
//!
//! Threads run as they like; what must be true is true whatever they do.

mod history;
mod lookups;
mod receiver;
mod regain;
mod small;
mod turns;
mod watches;
mod world;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use statecast_proto::batch::{BatchBuilder, BatchLimits, Compression, RecordRef, RecordView};

use super::super::ProtobufRecords;
use super::super::produce::checked;
use crate::clock::Clock;
use crate::model::{KeyHasher, Offset, PartitionId};
use crate::partition::{Append, Engine, EngineOptions, PartitionConfig, PartitionHandle};
use crate::storage::Storage;
use crate::storage::dir::sim::SimDir;
use crate::views::{
    Filter, PageRequest, TopicView, ViewError, ViewStore, Views, Watch, WatchEvent, WatchStart,
};
use receiver::{Receiver, Watching};
use world::World;

/// Seeds that every test run tries. `STATECAST_SEEDS=from..to` tries others.
const SEEDS: Range<u64> = 0..12;

const PARTITIONS: u32 = 2;
const KEYS: u64 = 12;

fn seeds() -> Range<u64> {
    let Ok(range) = std::env::var("STATECAST_SEEDS") else {
        return SEEDS;
    };
    let (from, to) = range.split_once("..").expect("STATECAST_SEEDS is from..to");
    from.parse().expect("a number")..to.parse().expect("a number")
}

/// Numbers that look random, the same ones for each seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

fn value_of(body: &Bytes) -> Bytes {
    let record = RecordView::decode(body).unwrap();
    Bytes::copy_from_slice(record.value.expect("it has a value"))
}

async fn scenario(seed: u64) {
    let mut world = World::new(seed);
    let is_damaged = seed % 2 == 1;
    let mut receivers: Vec<Receiver> = Vec::new();
    for life in 0..3 {
        let running = world.start(life == 0);
        let view = &running.view;
        let mut watching: Vec<Watching> = Vec::new();
        for receiver in receivers.drain(..) {
            watching.push(match world.random.below(3) {
                0 => Watching::begin(view, receiver),
                _ => Watching::go_on(view, receiver),
            });
        }
        for _ in 0..150 {
            match world.random.below(40) {
                0 | 1 if watching.len() < 4 => {
                    watching.push(Watching::begin(view, Receiver::default()));
                }
                2..=5 if !watching.is_empty() => {
                    let which = world.random.below(watching.len() as u64);
                    let gone = watching.swap_remove(usize::try_from(which).unwrap());
                    watching.push(gone.resume(view));
                }
                6 | 7 => running.engine.sweep_now(),
                8 | 9 => world.look_back(&running).await,
                10 | 11 => world.check(&running).await,
                12 | 13 if is_damaged => world.damage(),
                14 if is_damaged => world.fail_a_read(),
                _ => world.append(&running).await,
            }
            for one in &mut watching {
                one.hear(view);
            }
        }
        world.disk.clear_fault();
        world.check(&running).await;
        let ends = world.history.ends();
        for one in watching {
            receivers.push(one.finish(view, &ends).await);
        }
        world.history.note_damage(&running.partitions);
        let removed = running.starts();
        for receiver in &mut receivers {
            let last = &receiver.seen.last().unwrap().map;
            world.history.check(last, &removed, &removed, &ends);
            receiver.check(&world.history, &removed);
        }
        if world.random.below(2) == 0 {
            running.views.stop().await;
        }
        let after_cut = world.disk.crash(seed ^ life);
        running.engine.stop().await;
        world.disk = after_cut;
        world.damage_saved_views();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_watchers_and_views_have_what_the_log_folds_to() {
    for seed in seeds() {
        let outcome = tokio::spawn(scenario(seed)).await;
        assert!(
            outcome.is_ok(),
            "seed {seed} failed; again with STATECAST_SEEDS={seed}..{}",
            seed + 1
        );
    }
}
