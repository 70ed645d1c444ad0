//! Who should have what: balanced, with the fewest moves.

use super::interest::{InterestId, InterestSet};

/// A partition that may go to any member that reads it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seat {
    /// Which members read it.
    pub(super) readers: InterestSet,
    /// Who has it now, as an index into the members, and would have to give it
    /// back; absent when it is on its way anyway.
    pub(super) owner: Option<usize>,
}

/// Who should have each of the `seats`, as an index into `members`, of which each
/// has an interest. Absent where nobody reads it.
pub(super) fn plan(members: &[InterestId], seats: &[Seat]) -> Vec<Option<usize>> {
    let mut loads = vec![0_usize; members.len()];
    let mut plan: Vec<Option<usize>> = seats.iter().map(|seat| seat.owner).collect();
    for owner in plan.iter().flatten() {
        loads[*owner] += 1;
    }
    let lightest = |seat: &Seat, loads: &[usize]| {
        let readers = (0..members.len()).filter(|at| seat.readers.contains(members[*at]));
        readers.min_by_key(|at| loads[*at])
    };
    for (seat, planned) in seats.iter().zip(&mut plan) {
        if planned.is_none()
            && let Some(to) = lightest(seat, &loads)
        {
            loads[to] += 1;
            *planned = Some(to);
        }
    }
    loop {
        let move_of = |(at, seat): (usize, &Seat)| {
            let from = plan[at]?;
            let to = lightest(seat, &loads)?;
            (loads[from] > loads[to] + 1).then_some((loads[from] - loads[to], at, from, to))
        };
        let best = seats.iter().enumerate().filter_map(move_of).max();
        let Some((_, at, from, to)) = best else {
            return plan;
        };
        loads[from] -= 1;
        loads[to] += 1;
        plan[at] = Some(to);
    }
}
