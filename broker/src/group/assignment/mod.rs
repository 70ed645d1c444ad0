//! Who should have what: as balanced as it gets, with few moves.
//!
//! A plan is balanced when no chain of hand-overs, from a member to another one
//! that reads the same topic, and so on, would bring a partition from a member to
//! one that has at least two fewer. Then every measure of balance that grows with
//! unfairness is at its least (Harvey, Ladner, Lovász and Tamir, "Semi-matchings
//! for bipartite graphs and load balancing"); where all read the same, members
//! differ by at most one.
//!
//! 1. Members keep what they have.
//! 2. What is free goes to the member that has least, what few read first.
//! 3. While there is a chain as above, the shortest one is carried out (`chain`).
//!    Among equal partitions those move that move anyway, then those of the topic
//!    of which the giver has most compared with the taker: so each topic is spread
//!    over many members, too, as far as that takes no moves of its own.
//! 4. What moves, though its owner gets something else that the taker could have
//!    instead, doesn't move.
//!
//! Where all read the same, no plan that is as balanced moves fewer partitions.
//! Otherwise that is almost always so: step 4 undoes exchanges of two, but not
//! longer rounds.

mod chain;
mod moves;
mod shares;
#[cfg(test)]
mod tests;

use super::interest::{InterestId, InterestSet};
use chain::Chains;
use moves::Moves;
use shares::Shares;

/// A partition that may go to any member that reads it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seat {
    /// Its topic: ascending from seat to seat.
    pub(super) topic: usize,
    /// Which members read it.
    pub(super) readers: InterestSet,
    /// Who has it now, as an index into the members, and would have to give it
    /// back; absent when it is free, or on its way anyway. The owner reads it.
    pub(super) owner: Option<usize>,
}

/// Who should have each of the `seats`, as an index into `members`, of which each
/// has an interest. Absent where nobody reads it.
pub(super) fn plan(members: &[InterestId], seats: &[Seat]) -> Vec<Option<usize>> {
    let mut shares = Shares::new(members, seats);
    for seat in shares.scarcest_first() {
        if let Some(to) = shares.neediest(seat) {
            shares.place(seat, to);
        }
    }
    let mut chains = Chains::new(&shares);
    while let Some(chain) = chains.shortest(&shares) {
        shares.hand_over(&chain);
    }
    Moves::of(members, seats, shares.into_plan()).without_needless()
}
