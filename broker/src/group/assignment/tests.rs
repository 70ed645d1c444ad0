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

/// How many moves a plan has more than the best one that is as balanced, by seed.
fn excess(interests: u64, seeds: std::ops::Range<u64>) -> Vec<usize> {
    let excess = seeds.map(|seed| {
        let small = small(&mut Random::new(seed), interests);
        let (unfairness, moves) = cost(&small, &plan(&small.members, &small.seats));
        let (least, needed) = best(&small, &mut Vec::new());
        assert_eq!(unfairness, least, "seed {seed}: {small:?}");
        moves - needed
    });
    excess.collect()
}

#[test]
fn where_all_read_the_same_no_other_plan_is_more_balanced_or_moves_less() {
    assert!(excess(1, 0..400).into_iter().all(|excess| excess == 0));
}

#[test]
fn where_members_differ_no_other_plan_is_more_balanced_and_hardly_any_moves_less() {
    for interests in 2..5 {
        let excess = excess(interests, 0..400);
        assert!(excess.iter().sum::<usize>() <= 2, "{interests}: {excess:?}");
    }
}

#[test]
fn what_nobody_reads_goes_to_nobody() {
    let mut small = small(&mut Random::new(3), 1);
    for seat in &mut small.seats {
        *seat = Seat {
            readers: InterestSet::default(),
            owner: None,
            ..*seat
        };
    }
    let nobody = vec![None; small.seats.len()];
    assert_eq!(plan(&small.members, &small.seats), nobody);
    assert_eq!(plan(&[], &small.seats), nobody);
    assert_eq!(plan(&small.members, &[]), []);
}

#[test]
fn an_exchange_that_is_not_needed_is_undone() {
    // Member 0 has both partitions of topic 0 and one of topic 1; the others have
    // nothing, and one more of topic 1 is free. A chain that took topic 0 from its
    // owner, and gave it topic 1, would move one too many.
    let mut all = Interests::default();
    let mut interest = |name| all.enter(&Subscription::new([name]).unwrap()).0;
    let (a, b) = (interest("a"), interest("b"));
    let both = {
        let mut both = InterestSet::from(a);
        both.insert(b);
        both
    };
    let seat = |topic, readers, owner| Seat {
        topic,
        readers,
        owner,
    };
    let seats = [
        seat(0, InterestSet::from(a), Some(0)),
        seat(1, both, Some(0)),
        seat(1, both, Some(0)),
        seat(1, both, None),
    ];
    let members = [a, b, a];
    let plan = plan(&members, &seats);
    let moved = seats.iter().zip(&plan);
    let moved = moved.filter(|(seat, to)| seat.owner.is_some() && seat.owner != **to);
    assert_eq!(moved.count(), 1);
}
