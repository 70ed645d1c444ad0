//! Takes back moves of a plan that are not needed for its balance.

use std::collections::BTreeMap;

use super::Seat;
use crate::group::interest::{InterestId, InterestSet};

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
    /// By member: seats that the plan gives it and that it doesn't have. Those that
    /// are alike lie together.
    gains: Vec<BTreeMap<Likeness, Vec<usize>>>,
}

/// Where seats are equal as far as moves go: in who has them, and who reads them.
type Likeness = (Option<usize>, InterestSet);

impl<'a> Moves<'a> {
    pub(super) fn of(
        members: &'a [InterestId],
        seats: &'a [Seat],
        plan: Vec<Option<usize>>,
    ) -> Moves<'a> {
        let mut loads = vec![0; members.len()];
        let mut gains = vec![BTreeMap::<Likeness, Vec<usize>>::new(); members.len()];
        for (at, seat) in seats.iter().enumerate() {
            let Some(to) = plan[at] else { continue };
            loads[to] += 1;
            if seat.owner != Some(to) {
                gains[to].entry(likeness(seat)).or_default().push(at);
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
        // Something that the owner was to get goes to the taker instead, or home to
        // somebody who has less than the taker.
        let choices = self.gains[owner].iter().filter_map(|(likeness, alike)| {
            let to = self.other_taker(*likeness, taker)?;
            Some((likeness.0 == Some(to), *alike.last()?, to))
        });
        let Some((_, gain, to)) = choices.max() else {
            return false;
        };
        self.give(at, owner);
        self.give(gain, to);
        true
    }

    /// Who can take such a seat when `taker` is to get one less.
    fn other_taker(&self, (owner, readers): Likeness, taker: usize) -> Option<usize> {
        let home = owner.filter(|owner| *owner == taker || self.loads[*owner] < self.loads[taker]);
        let reads = readers.contains(self.members[taker]);
        home.or(reads.then_some(taker))
    }

    /// Gives a seat to somebody else than before.
    fn give(&mut self, at: usize, to: usize) {
        let from = self.plan[at].replace(to);
        let from = from.expect("it was given to somebody");
        self.loads[from] -= 1;
        self.loads[to] += 1;
        let seat = &self.seats[at];
        if seat.owner != Some(from) {
            let alike = self.gains[from].get_mut(&likeness(seat));
            let alike = alike.expect("it was to get the seat");
            let place = alike.iter().rposition(|gain| *gain == at);
            alike.swap_remove(place.expect("as above"));
        }
        if seat.owner != Some(to) {
            self.gains[to].entry(likeness(seat)).or_default().push(at);
        }
    }
}

fn likeness(seat: &Seat) -> Likeness {
    (seat.owner, seat.readers)
}
