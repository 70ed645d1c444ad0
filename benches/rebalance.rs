//! What it costs to distribute a group's partitions anew: the plan, and what it
//! changes. Nothing is read, written or sent.
//!
//! `cargo bench -p statecast-tests --bench rebalance`

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use statecast_broker::group::{
    Effect, Event, Generation, Group, JoinRequest, MemberId, Subscription, Topic, TopicList,
};
use statecast_broker::limits::REBALANCE_DELAY_MS;
use statecast_broker::model::{TopicId, TopicName};

fn topics(count: u64, partitions: u32) -> TopicList {
    let topic = |id| Topic {
        id: TopicId(id),
        name: TopicName::try_from(format!("topic.{id}").as_str()).expect("a name"),
        partitions,
    };
    TopicList::new((0..count).map(topic).collect())
}

fn join(member: u64) -> Event {
    let request = JoinRequest {
        name: None,
        subscription: Subscription::new(["topic.*"]).expect("a pattern"),
        // Nobody is silent for too long.
        session_timeout_ms: u32::MAX,
        revoke_timeout_ms: 0,
    };
    Event::Join {
        member: MemberId(member),
        request,
    }
}

/// Tells a group something, lets it rebalance, and has every member give back what
/// it is to.
fn settle(group: &mut Group, event: Event, now_ms: &mut u64) {
    group.handle(event, *now_ms);
    *now_ms += REBALANCE_DELAY_MS;
    for effect in black_box(group.handle(Event::Tick, *now_ms)) {
        if let Effect::Revoke {
            member,
            generation,
            partitions,
            ..
        } = effect
        {
            let partitions = partitions.into_iter().map(|at| (at, generation));
            let partitions = partitions.collect();
            black_box(group.handle(Event::Revoked { member, partitions }, *now_ms));
        }
    }
}

fn rebalance(criterion: &mut Criterion) {
    let mut benches = criterion.benchmark_group("rebalance");
    benches.sample_size(20);
    for (members, count, partitions) in [
        (1_000, 1, 1_000),
        (1_000, 1, 10_000),
        (100, 100, 100),
        (100, 10_000, 1),
    ] {
        let mut group = Group::new(Generation::ZERO);
        let mut now_ms = 0;
        group.handle(Event::Topics(topics(count, partitions)), now_ms);
        for member in 1..members {
            group.handle(join(member), now_ms);
        }
        settle(&mut group, Event::Tick, &mut now_ms);
        let mut next = members;
        let name = format!("{members} members, {count} topics of {partitions}");
        benches.bench_function(BenchmarkId::new("one joins and leaves", name), |bencher| {
            bencher.iter(|| {
                next += 1;
                settle(&mut group, join(next), &mut now_ms);
                settle(&mut group, Event::Leave(MemberId(next)), &mut now_ms);
            });
        });
    }
}

criterion_group!(benches, rebalance);
criterion_main!(benches);
