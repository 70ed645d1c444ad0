//! Which leases there are, and when they end: pure, the time is an argument.
//!
//! A lease is alive until its time is over, or it is revoked; then it is *ending* until
//! its keys are removed, and *over* after that. Invariants:
//! - While it is alive, keys may be put with it; a put that has begun keeps the ending
//!   lease from being over, so no key outlives its lease.
//! - It never ends before its whole time to live has passed since it was granted or kept
//!   alive last, by a clock that only runs on; after a start, since then. Time in which
//!   nobody looked when that was planned doesn't count: the process stood still, and
//!   could hear nobody.
//! - No id is given out twice.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::num::NonZeroU64;

use super::partition_view::LeaseId;

/// While there are leases the time is looked at this often: milliseconds.
const LOOK_MS: u64 = 1000;

/// Who looks so much too late could hear nobody: milliseconds.
const LATE_MS: u64 = 500;

/// All leases.
#[derive(Debug, Default)]
pub struct Leases {
    by_id: HashMap<LeaseId, Lease>,
    /// Those that are alive, by when they end.
    deadlines: BTreeSet<(u64, LeaseId)>,
    /// The highest id that was given out.
    last: u64,
    /// Leases on their way into the log.
    granting: HashSet<LeaseId>,
    /// When the time was looked at last.
    looked_ms: u64,
    /// When it is to be looked at again, at the latest.
    planned_ms: Option<u64>,
}

/// What a look at the time found.
#[derive(Debug, PartialEq, Eq)]
pub struct Looked {
    /// Leases whose time is over: they are ending from now on.
    pub due: Vec<LeaseId>,
    /// For so long nobody could be heard; leases live so much longer.
    pub stood_still_ms: u64,
    /// When to look again, at the latest; `None` when there is no lease that may end.
    pub next_ms: Option<u64>,
}

#[derive(Debug)]
struct Lease {
    ttl_ms: u64,
    phase: Phase,
    /// Puts with it that have begun.
    puts: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Alive { deadline_ms: u64 },
    Ending,
}

/// A lease isn't alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// No lease ever had the id.
    #[error("there never was a lease {0}")]
    NotFound(u64),
    /// It is over.
    #[error("lease {0} is over: it wasn't kept alive, or was revoked")]
    Expired(u64),
}

impl Leases {
    /// Those that a log says there are, alive from now on; ids up to `last` were given
    /// out.
    pub fn recovered(
        leases: impl Iterator<Item = (LeaseId, u64)>,
        last: u64,
        now_ms: u64,
    ) -> Leases {
        let mut recovered = Leases {
            last,
            looked_ms: now_ms,
            ..Leases::default()
        };
        for (id, ttl_ms) in leases {
            recovered.last = recovered.last.max(id.0.get());
            recovered.insert(id, ttl_ms, now_ms);
        }
        recovered
    }

    /// The id of the next lease that is granted.
    pub fn next_id(&self) -> LeaseId {
        let next = self.last.checked_add(1).and_then(NonZeroU64::new);
        LeaseId(next.expect("ids last for as long as the sun"))
    }

    /// Begins to grant a lease: uses up its id, whatever becomes of it. Nothing when there
    /// are as many as there may be, those counted that are being granted.
    pub fn begin_grant(&mut self, most: usize) -> Option<LeaseId> {
        if self.by_id.len() + self.granting.len() >= most {
            return None;
        }
        let id = self.next_id();
        self.last = id.0.get();
        self.granting.insert(id);
        Some(id)
    }

    /// Ends what was begun with [`Leases::begin_grant`]: the lease lives from now on, if
    /// it has a time to live.
    pub fn end_grant(&mut self, id: LeaseId, ttl_ms: Option<u64>, now_ms: u64) {
        self.granting.remove(&id);
        let Some(ttl_ms) = ttl_ms else {
            return;
        };
        self.insert(id, ttl_ms, now_ms);
        if self.planned_ms.is_none() {
            // It was the only one to look for, and nobody may look for long.
            self.looked_ms = now_ms;
            self.planned_ms = Some(now_ms.saturating_add(LOOK_MS));
        }
    }

    fn insert(&mut self, id: LeaseId, ttl_ms: u64, now_ms: u64) {
        let deadline_ms = now_ms.saturating_add(ttl_ms);
        self.deadlines.insert((deadline_ms, id));
        let lease = Lease {
            ttl_ms,
            phase: Phase::Alive { deadline_ms },
            puts: 0,
        };
        self.by_id.insert(id, lease);
    }

    /// How many leases there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Gives a lease its whole time to live anew; returns that: milliseconds.
    pub fn keep_alive(&mut self, id: u64, now_ms: u64) -> Result<u64, LeaseError> {
        let (id, lease) = self.alive(id)?;
        let deadline = now_ms.saturating_add(lease.ttl_ms);
        let ttl_ms = lease.ttl_ms;
        let Phase::Alive { deadline_ms } = &mut lease.phase else {
            unreachable!("it is alive");
        };
        let before = std::mem::replace(deadline_ms, deadline.max(*deadline_ms));
        let now = *deadline_ms;
        self.deadlines.remove(&(before, id));
        self.deadlines.insert((now, id));
        Ok(ttl_ms)
    }

    /// Begins to put a key with a lease.
    pub fn begin_put(&mut self, id: u64) -> Result<LeaseId, LeaseError> {
        let (id, lease) = self.alive(id)?;
        lease.puts += 1;
        Ok(id)
    }

    /// Ends what was begun with [`Leases::begin_put`].
    pub fn end_put(&mut self, id: LeaseId) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            lease.puts -= 1;
        }
    }

    /// Ends a lease now.
    pub fn revoke(&mut self, id: u64) -> Result<LeaseId, LeaseError> {
        let (id, lease) = self.alive(id)?;
        if let Phase::Alive { deadline_ms } = std::mem::replace(&mut lease.phase, Phase::Ending) {
            self.deadlines.remove(&(deadline_ms, id));
        }
        Ok(id)
    }

    /// Looks at the time: whose is over?
    pub fn look(&mut self, now_ms: u64) -> Looked {
        let late_ms = self
            .planned_ms
            .map_or(0, |planned| now_ms.saturating_sub(planned));
        let stood_still_ms = match late_ms > LATE_MS {
            true => now_ms.saturating_sub(self.looked_ms),
            false => 0,
        };
        if stood_still_ms > 0 {
            self.postpone(stood_still_ms, now_ms);
        }
        let due = self.take_due(now_ms);
        let next = self.deadlines.first().map(|&(deadline_ms, _)| deadline_ms);
        self.looked_ms = now_ms;
        // Now and then, to notice that the process stood still.
        self.planned_ms = next.map(|next| next.min(now_ms.saturating_add(LOOK_MS)));
        Looked {
            due,
            stood_still_ms,
            next_ms: self.planned_ms,
        }
    }

    fn take_due(&mut self, now_ms: u64) -> Vec<LeaseId> {
        let mut due = Vec::new();
        while let Some(&(deadline_ms, id)) = self.deadlines.first()
            && deadline_ms <= now_ms
        {
            self.deadlines.pop_first();
            let lease = self.by_id.get_mut(&id).expect("every deadline has a lease");
            lease.phase = Phase::Ending;
            due.push(id);
        }
        due
    }

    /// Gives all that are alive so much longer, but nobody more than the whole time.
    fn postpone(&mut self, by_ms: u64, now_ms: u64) {
        let alive = std::mem::take(&mut self.deadlines);
        for (before_ms, id) in alive {
            let lease = self.by_id.get_mut(&id).expect("every deadline has a lease");
            let whole = now_ms.saturating_add(lease.ttl_ms).max(before_ms);
            let deadline_ms = before_ms.saturating_add(by_ms).min(whole);
            lease.phase = Phase::Alive { deadline_ms };
            self.deadlines.insert((deadline_ms, id));
        }
    }

    /// Whether nobody puts anything with a lease that is ending.
    pub fn is_quiet(&self, id: LeaseId) -> bool {
        self.by_id.get(&id).is_none_or(|lease| lease.puts == 0)
    }

    /// Whether a lease was granted once and isn't there any more; so it never comes again.
    pub fn is_over(&self, id: LeaseId) -> bool {
        id.0.get() <= self.last && !self.by_id.contains_key(&id) && !self.granting.contains(&id)
    }

    /// An ending lease is over.
    pub fn remove(&mut self, id: LeaseId) {
        if let Some(lease) = self.by_id.remove(&id)
            && let Phase::Alive { deadline_ms } = lease.phase
        {
            self.deadlines.remove(&(deadline_ms, id));
        }
    }

    fn alive(&mut self, id: u64) -> Result<(LeaseId, &mut Lease), LeaseError> {
        let key = NonZeroU64::new(id).map(LeaseId);
        let key = key
            .filter(|_| id <= self.last)
            .ok_or(LeaseError::NotFound(id))?;
        let lease = self.by_id.get_mut(&key);
        let is_alive = |lease: &&mut Lease| lease.phase != Phase::Ending;
        let lease = lease.filter(is_alive).ok_or(LeaseError::Expired(id))?;
        Ok((key, lease))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(leases: &mut Leases, ttl_ms: u64, now_ms: u64) -> LeaseId {
        let id = leases.begin_grant(100).unwrap();
        leases.end_grant(id, Some(ttl_ms), now_ms);
        id
    }

    /// Which are due, how long nobody could be heard, and when to look again.
    fn looked(leases: &mut Leases, now_ms: u64) -> (Vec<LeaseId>, u64, Option<u64>) {
        let looked = leases.look(now_ms);
        (looked.due, looked.stood_still_ms, looked.next_ms)
    }

    #[test]
    fn a_lease_ends_when_its_time_is_over_since_it_was_kept_alive_last() {
        let mut leases = Leases::default();
        let short = granted(&mut leases, 100, 0);
        let long = granted(&mut leases, 300, 0);
        assert_eq!(looked(&mut leases, 0), (vec![], 0, Some(100)));
        assert_eq!(leases.keep_alive(short.0.get(), 50), Ok(100));
        assert_eq!(leases.take_due(149), []);
        assert_eq!(leases.take_due(150), [short]);
        assert_eq!(
            leases.keep_alive(short.0.get(), 150),
            Err(LeaseError::Expired(1))
        );
        assert_eq!(leases.begin_put(short.0.get()), Err(LeaseError::Expired(1)));
        leases.remove(short);
        assert_eq!(leases.revoke(long.0.get()), Ok(long));
        assert_eq!(leases.revoke(long.0.get()), Err(LeaseError::Expired(2)));
        leases.remove(long);
        assert!(leases.is_empty() && leases.look(151).next_ms.is_none());
        assert_eq!(leases.keep_alive(3, 0), Err(LeaseError::NotFound(3)));
        assert_eq!(leases.keep_alive(0, 0), Err(LeaseError::NotFound(0)));
    }

    #[test]
    fn it_is_quiet_only_when_every_put_that_had_begun_has_ended() {
        let mut leases = Leases::default();
        let id = granted(&mut leases, 100, 0);
        assert_eq!(leases.begin_put(1), Ok(id));
        assert_eq!(leases.begin_put(1), Ok(id));
        leases.take_due(100);
        leases.end_put(id);
        assert!(!leases.is_quiet(id));
        leases.end_put(id);
        assert!(leases.is_quiet(id));
    }

    #[test]
    fn after_a_start_all_have_their_whole_time_and_no_id_comes_again() {
        let id = |id| LeaseId(NonZeroU64::new(id).unwrap());
        let mut leases = Leases::recovered([(id(3), 100), (id(5), 200)].into_iter(), 9, 1000);
        assert_eq!(leases.look(1000).next_ms, Some(1100));
        assert_eq!(leases.keep_alive(4, 1000), Err(LeaseError::Expired(4)));
        assert_eq!(leases.begin_grant(3), Some(id(10)));
    }

    #[test]
    fn there_are_no_more_than_there_may_be_those_counted_that_are_being_granted() {
        let mut leases = Leases::default();
        let first = leases.begin_grant(2).unwrap();
        let second = leases.begin_grant(2).unwrap();
        assert_eq!(leases.begin_grant(2), None);
        leases.end_grant(first, Some(100), 0);
        assert_eq!(leases.begin_grant(2), None);
        leases.end_grant(second, None, 0);
        // The id of one that wasn't granted doesn't come again.
        assert!(leases.is_over(second) && !leases.is_over(first));
        assert!(!leases.is_over(leases.next_id()), "it isn't given out yet");
        let third = leases.begin_grant(2).unwrap();
        assert!(!leases.is_over(third), "it is being granted");
        assert_eq!(third.0.get(), 3);
        leases.end_grant(third, Some(100), 0);
        // One that is ending counts until it is over.
        assert_eq!(leases.take_due(100), [first, third]);
        assert_eq!(leases.begin_grant(2), None);
        assert!(!leases.is_over(first), "it is ending");
        leases.remove(first);
        assert!(leases.is_over(first));
        assert!(leases.begin_grant(2).is_some());
    }

    #[test]
    fn who_could_not_be_heard_has_as_much_time_as_before() {
        let mut leases = Leases::default();
        let first = granted(&mut leases, 1200, 0);
        let long = granted(&mut leases, 60_000, 0);
        assert_eq!(looked(&mut leases, 900), (vec![], 0, Some(1200)));
        // It stands still while the first one has 300 ms left, and has them again, but
        // for one that was kept alive before somebody looked.
        let kept = granted(&mut leases, 1000, 950);
        leases.keep_alive(kept.0.get(), 6890).unwrap();
        assert_eq!(looked(&mut leases, 6900), (vec![], 6000, Some(7200)));
        assert_eq!(looked(&mut leases, 7199), (vec![], 0, Some(7200)));
        // A little late is not standing still.
        assert_eq!(looked(&mut leases, 7700), (vec![first], 0, Some(7900)));
        // More is.
        let mut others = Leases::default();
        let other = granted(&mut others, 5000, 0);
        assert_eq!(looked(&mut others, 0), (vec![], 0, Some(1000)));
        assert_eq!(looked(&mut others, 1501), (vec![], 1501, Some(2501)));
        assert_eq!(others.take_due(6500), []);
        assert_eq!(others.take_due(6501), [other]);
        assert_eq!(looked(&mut leases, 7900), (vec![kept], 0, Some(8900)));
        assert_eq!(leases.keep_alive(long.0.get(), 8000), Ok(60_000));
    }

    #[test]
    fn without_leases_nobody_has_to_look() {
        let mut leases = Leases::default();
        assert_eq!(looked(&mut leases, 10), (vec![], 0, None));
        let id = granted(&mut leases, 100, 90_000);
        assert_eq!(looked(&mut leases, 90_050), (vec![], 0, Some(90_100)));
        assert_eq!(looked(&mut leases, 90_100), (vec![id], 0, None));
    }

    #[test]
    fn the_only_lease_lives_longer_too_when_nobody_could_be_heard_since_it_was_granted() {
        let mut leases = Leases::default();
        assert_eq!(looked(&mut leases, 10), (vec![], 0, None));
        let id = granted(&mut leases, 2000, 5000);
        // It stood still before anybody looked.
        assert_eq!(looked(&mut leases, 25_000), (vec![], 20_000, Some(26_000)));
        assert_eq!(looked(&mut leases, 26_000), (vec![], 0, Some(27_000)));
        assert_eq!(looked(&mut leases, 27_000), (vec![id], 0, None));
    }
}
