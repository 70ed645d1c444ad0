//! Plans against all plans that there are, as long as there are few.

use super::*;
use crate::group::Subscription;
use crate::group::interest::Interests;
use crate::group::tests::random::Random;

/// A group small enough to try every plan.
#[derive(Debug)]
struct Small {
    members: Vec<InterestId>,
    seats: Vec<Seat>,
}

fn small(random: &mut Random, interests: u64) -> Small {
    let mut all = Interests::default();
    let ids: Vec<InterestId> = (0..interests)
        .map(|at| {
            let subscription = Subscription::new([format!("t{at}").as_str()]).unwrap();
            all.enter(&subscription).0
        })
        .collect();
    let members: Vec<InterestId> = (0..random.between(1, 5))
        .map(|_| ids[usize::try_from(random.between(0, interests)).unwrap()])
        .collect();
    let mut seats = Vec::new();
    for topic in 0..usize::try_from(random.between(1, 5)).unwrap() {
        let mut readers = InterestSet::default();
        for id in &ids {
            if interests == 1 || !random.one_in(3) {
                readers.insert(*id);
            }
        }
        for _ in 0..random.between(1, 4) {
            let reading: Vec<usize> = (0..members.len())
                .filter(|at| readers.contains(members[*at]))
                .collect();
            let is_owned = !reading.is_empty() && !random.one_in(4);
            let owner = is_owned.then(|| {
                // Skewed, so that there is something to move.
                let at = random
                    .between(0, reading.len() as u64)
                    .min(random.between(0, 5));
                reading[usize::try_from(at).unwrap()]
            });
            seats.push(Seat {
                topic,
                readers,
                owner,
            });
        }
    }
    seats.truncate(7);
    Small { members, seats }
}

/// Unfairness and moves of a plan.
fn cost(small: &Small, plan: &[Option<usize>]) -> (usize, usize) {
    let mut loads = vec![0_usize; small.members.len()];
    for to in plan.iter().flatten() {
        loads[*to] += 1;
    }
    let moves = small.seats.iter().zip(plan);
    let moves = moves.filter(|(seat, to)| seat.owner.is_some() && seat.owner != **to);
    (loads.iter().map(|load| load * load).sum(), moves.count())
}

fn best(small: &Small, plan: &mut Vec<Option<usize>>) -> (usize, usize) {
    let Some(seat) = small.seats.get(plan.len()) else {
        return cost(small, plan);
    };
    let readers = (0..small.members.len()).filter(|at| seat.readers.contains(small.members[*at]));
    let mut readers: Vec<Option<usize>> = readers.map(Some).collect();
    if readers.is_empty() {
        readers.push(None);
    }
    let costs = readers.into_iter().map(|to| {
        plan.push(to);
        let cost = best(small, plan);
        plan.pop();
        cost
    });
    costs.min().unwrap()
}

#[test]
fn stats() {
    for interests in 1..5 {
        let mut excess = [0; 8];
        for seed in 0..5000 {
            let small = small(&mut Random::new(seed), interests);
            let found = cost(&small, &plan(&small.members, &small.seats));
            let best = best(&small, &mut Vec::new());
            assert_eq!(found.0, best.0, "{seed} {small:?}");
            excess[found.1 - best.1] += 1;
            if found.1 > best.1 && seed < 3000 {
                let m: Vec<usize> = small.members.iter().map(|m| m.index()).collect();
                println!(
                    "members {m:?} plan {:?} best {best:?}",
                    plan(&small.members, &small.seats)
                );
                for seat in &small.seats {
                    let r: Vec<usize> = (0..small.members.len())
                        .filter(|a| seat.readers.contains(small.members[*a]))
                        .collect();
                    println!("   {} owner {:?} readers {r:?}", seat.topic, seat.owner);
                }
            }
        }
        println!("{interests}: {excess:?}");
    }
}
