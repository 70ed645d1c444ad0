//! Takes back moves of a plan that are not needed for its balance.

use std::collections::BTreeMap;

use super::Seat;
use crate::group::interest::InterestId;

/// How often all moves are looked at: taking back one can be what makes it possible
/// to take back another one.
const ROUNDS: usize = 4;

/// A plan and its moves.
#[derive(Debug)]
pub(super) struct Moves<'a> {
    members: &'a [InterestId],
    seats: &'a [Seat],
    plan: Vec<Option<usize>>,
    /// By member: how many seats the plan gives it.
    loads: Vec<usize>,
    /// By member: seats that the plan gives it and that it doesn't have.
    gains: BTreeMap<usize, Vec<usize>>,
}

impl<'a> Moves<'a> {
    pub(super) fn of(
        members: &'a [InterestId],
        seats: &'a [Seat],
        plan: Vec<Option<usize>>,
    ) -> Moves<'a> {
        let mut loads = vec![0; members.len()];
        let mut gains: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (at, seat) in seats.iter().enumerate() {
            let Some(to) = plan[at] else { continue };
            loads[to] += 1;
            if seat.owner != Some(to) {
                gains.entry(to).or_default().push(at);
            }
        }
        Moves {
            members,
            seats,
            plan,
            loads,
            gains,
        }
    }

    /// A plan with the same loads, and no more moves: as a rule fewer, if it had
    /// more than are needed.
    pub(super) fn without_needless(mut self) -> Vec<Option<usize>> {
        let mut moved: Vec<usize> = (0..self.seats.len()).collect();
        moved.retain(|at| {
            self.seats[*at]
                .owner
                .is_some_and(|owner| self.plan[*at] != Some(owner))
        });
        for _ in 0..ROUNDS {
            let before = moved.len();
            moved.retain(|at| !self.take_back(*at));
            if moved.len() == before {
                break;
            }
        }
        self.plan
    }

    /// Leaves a seat with its owner, if that keeps the balance and nothing else has
    /// to move for it that doesn't anyway.
    fn take_back(&mut self, at: usize) -> bool {
        let (Some(owner), Some(taker)) = (self.seats[at].owner, self.plan[at]) else {
            return false;
        };
        // The two exchange what one has more than the other.
        if self.loads[owner] < self.loads[taker] {
            self.give(at, owner);
            return true;
        }
        // Something that the owner was to get goes to the taker instead, or to
        // somebody who has less than the taker.
        let instead = self.gains.get(&owner).and_then(|gains| {
            let choices = gains.iter().filter_map(|gain| {
                let to = self.other_taker(*gain, taker)?;
                let comes_home = self.seats[*gain].owner == Some(to);
                Some((comes_home, *gain, to))
            });
            choices.max()
        });
        let Some((_, gain, to)) = instead else {
            return false;
        };
        self.give(at, owner);
        self.give(gain, to);
        true
    }

    /// Who can take a seat when `taker` is to get one less.
    fn other_taker(&self, seat: usize, taker: usize) -> Option<usize> {
        let reads = |member: usize| self.seats[seat].readers.contains(self.members[member]);
        let home = self.seats[seat]
            .owner
            .filter(|owner| *owner == taker || self.loads[*owner] < self.loads[taker]);
        home.or_else(|| reads(taker).then_some(taker))
    }

    /// Gives a seat to somebody else than before.
    fn give(&mut self, seat: usize, to: usize) {
        let from = self.plan[seat]
            .replace(to)
            .expect("it was given to somebody");
        self.loads[from] -= 1;
        self.loads[to] += 1;
        if let Some(gains) = self.gains.get_mut(&from) {
            gains.retain(|gain| *gain != seat);
        }
        if self.seats[seat].owner != Some(to) {
            self.gains.entry(to).or_default().push(seat);
        }
    }
}
