//! How long a group without members is kept.
//!
//! | the group | what is done |
//! |---|---|
//! | has members | nothing; its record says so since the first one joined |
//! | has none, and has committed nothing, or had the last of it forgotten | it is deleted at once: there is nothing to keep |
//! | has none, and all topics are gone for which it committed something | it is kept as long as if they were there: new ones of their names are new to it |
//! | has none, for less than the retention | it is kept, and its record says since when |
//! | has none, for longer, but the broker started a moment ago | it is kept for a while |
//! | has none, for longer | it is deleted with what it committed |
//!
//! The retention goes on while the broker is off, so it may be over when it starts;
//! but then nobody has had a chance to come again, and the clock may be wrong. That
//! while begins anew with each start: how long all runs of the broker were together
//! isn't known, and a group that is kept for too long does less harm than one that
//! is forgotten. A group whose record says that it has members, when the broker
//! starts, had them until the broker ended: it is without them since the start.

use std::time::Duration;

use tokio::time::Instant;

use crate::limits;

/// Whether a group is without members, and since when.
#[derive(Debug)]
pub(super) struct Absence {
    /// Milliseconds since the Unix epoch.
    since_ms: Option<i64>,
    /// The group's record says so, or is about to: it had committed something then, and
    /// nobody has had all of that forgotten.
    is_recorded: bool,
    /// When to look at it again.
    look_at: Option<Instant>,
    /// The broker has started long enough ago by then.
    not_before: Instant,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Keep,
    /// The group's record is to say since when it has no members.
    Record,
    /// The group is to be deleted.
    Delete,
}

impl Absence {
    /// As the group's record says. What it has committed is kept until `not_before`
    /// in any case.
    pub(super) fn since(since_ms: Option<i64>, not_before: Instant) -> Absence {
        Absence {
            since_ms,
            is_recorded: since_ms.is_some(),
            look_at: None,
            not_before,
        }
    }

    /// Since when: milliseconds since the Unix epoch; absent while there are
    /// members.
    pub(super) fn since_ms(&self) -> Option<i64> {
        self.since_ms
    }

    /// When to look whether it has been too long.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// There are members, or the time that counts begins anew.
    pub(super) fn end(&mut self) {
        *self = Absence::since(None, self.not_before);
    }

    /// There are no members, and it is `now_ms` since the Unix epoch.
    pub(super) fn look(&mut self, has_offsets: bool, now_ms: i64) -> Verdict {
        let since_ms = *self.since_ms.get_or_insert(now_ms);
        if self.look_at.is_some_and(|at| at > Instant::now()) {
            return Verdict::Keep;
        }
        if !has_offsets && !self.is_recorded {
            return Verdict::Delete;
        }
        // A clock that was set back makes it last longer.
        let age_ms = u64::try_from(now_ms.saturating_sub(since_ms)).unwrap_or_default();
        let left = limits::OFFSETS_RETENTION.saturating_sub(Duration::from_millis(age_ms));
        let now = Instant::now();
        let left = left.max(self.not_before.saturating_duration_since(now));
        if left.is_zero() {
            return Verdict::Delete;
        }
        self.look_at = Some(now + left);
        match std::mem::replace(&mut self.is_recorded, true) {
            false => Verdict::Record,
            true => Verdict::Keep,
        }
    }

    /// Somebody has what the group committed forgotten, perhaps all of it.
    pub(super) fn look_again(&mut self) {
        self.is_recorded = false;
        self.look_at = None;
    }

    /// The deletion failed: it is tried again later.
    pub(super) fn try_later(&mut self) {
        self.look_at = Some(Instant::now() + limits::EXPIRY_RETRY);
    }
}
