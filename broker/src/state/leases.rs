//! Which leases there are, and when they end: pure, the time is an argument.
//!
//! A lease is alive until its time is over, or it is revoked; then it is *ending* until
//! its keys are removed, and *over* after that. Invariants:
//! - While it is alive, keys may be put with it; a put that has begun keeps the ending
//!   lease from being over, so no key outlives its lease.
//! - It never ends before its whole time to live has passed since it was granted or kept
//!   alive last, by a clock that only runs on; after a start, since then.
//! - No id is given out twice.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU64;

use super::partition_view::LeaseId;

/// All leases.
#[derive(Debug, Default)]
pub struct Leases {
    by_id: HashMap<LeaseId, Lease>,
    /// Those that are alive, by when they end.
    deadlines: BTreeSet<(u64, LeaseId)>,
    /// The highest id that was given out.
    last: u64,
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
    #[error("lease {0} is over")]
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

    /// Uses up an id, whether its lease is granted or not.
    pub fn take_id(&mut self) -> LeaseId {
        let id = self.next_id();
        self.last = id.0.get();
        id
    }

    /// Grants a lease whose id was taken.
    pub fn insert(&mut self, id: LeaseId, ttl_ms: u64, now_ms: u64) {
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

    /// Takes out those whose time is over: they are ending from now on.
    pub fn take_due(&mut self, now_ms: u64) -> Vec<LeaseId> {
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

    /// When the next one ends.
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|&(deadline_ms, _)| deadline_ms)
    }

    /// Gives all that are alive so much longer: nobody could be heard meanwhile.
    pub fn postpone(&mut self, by_ms: u64) {
        let alive = std::mem::take(&mut self.deadlines);
        for (deadline_ms, id) in alive {
            let later = deadline_ms.saturating_add(by_ms);
            if let Some(lease) = self.by_id.get_mut(&id) {
                lease.phase = Phase::Alive { deadline_ms: later };
            }
            self.deadlines.insert((later, id));
        }
    }

    /// Whether nobody puts anything with a lease that is ending.
    pub fn is_quiet(&self, id: LeaseId) -> bool {
        self.by_id.get(&id).is_none_or(|lease| lease.puts == 0)
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
        let id = leases.take_id();
        leases.insert(id, ttl_ms, now_ms);
        id
    }

    #[test]
    fn a_lease_ends_when_its_time_is_over_since_it_was_kept_alive_last() {
        let mut leases = Leases::default();
        let short = granted(&mut leases, 100, 0);
        let long = granted(&mut leases, 300, 0);
        assert_eq!(leases.next_deadline(), Some(100));
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
        assert!(leases.is_empty() && leases.next_deadline().is_none());
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
        assert_eq!(leases.next_deadline(), Some(1100));
        assert_eq!(leases.keep_alive(4, 1000), Err(LeaseError::Expired(4)));
        assert_eq!(leases.take_id(), id(10));
    }

    #[test]
    fn who_could_not_be_heard_gets_the_time_that_passed() {
        let mut leases = Leases::default();
        let id = granted(&mut leases, 100, 0);
        leases.postpone(5000);
        assert_eq!(leases.take_due(5099), []);
        assert_eq!(leases.take_due(5100), [id]);
    }
}
