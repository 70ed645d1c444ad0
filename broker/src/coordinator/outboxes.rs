//! The members of a group that are connected, and how they are told things.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc::{self, error::TrySendError};

use super::counters::Counters;
use super::message::{CommitAnswer, Identity, MemberEvent};
use crate::group::{Event, MemberId};

/// The way to a member. Who has missed something once is told nothing more: it would
/// take the next answer to a commit for the one that it missed.
#[derive(Debug, Clone)]
pub(super) struct Line {
    sender: mpsc::Sender<MemberEvent>,
    has_missed: Arc<AtomicBool>,
}

impl Line {
    pub(super) fn new(sender: mpsc::Sender<MemberEvent>) -> Line {
        Line {
            sender,
            has_missed: Arc::default(),
        }
    }

    fn tell(&self, event: MemberEvent) -> Result<(), Untold> {
        if self.has_missed.load(Ordering::Relaxed) {
            return Err(Untold::Missed);
        }
        self.sender.try_send(event).map_err(|error| match error {
            TrySendError::Full(_) => {
                self.has_missed.store(true, Ordering::Relaxed);
                Untold::Missed
            }
            TrySendError::Closed(_) => Untold::Gone,
        })
    }
}

/// Why a member isn't told something.
enum Untold {
    /// It doesn't take what it is told.
    Missed,
    Gone,
}

/// A member, as far as the group itself doesn't know it.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) line: Line,
    pub(super) identity: Identity,
    /// Whether it may come again under a name.
    pub(super) is_named: bool,
    /// Since when it is a member: milliseconds since the Unix epoch.
    pub(super) joined_ms: i64,
}

/// Those of all members that are connected. Nobody is waited for: who doesn't take
/// what it is told falls behind, and has to go.
#[derive(Debug)]
pub(super) struct Outboxes {
    connected: HashMap<MemberId, Outbox>,
    /// When those joined that may come again.
    away: HashMap<MemberId, i64>,
    /// What became of those who were told something in vain.
    fallen: Vec<Event>,
    counters: Arc<Counters>,
}

impl Outboxes {
    pub(super) fn new(counters: Arc<Counters>) -> Outboxes {
        Outboxes {
            connected: HashMap::new(),
            away: HashMap::new(),
            fallen: Vec::new(),
            counters,
        }
    }

    pub(super) fn add(&mut self, member: MemberId, outbox: Outbox) {
        self.connected.insert(member, outbox);
        self.counters.member_came();
    }

    pub(super) fn get(&self, member: MemberId) -> Option<&Outbox> {
        self.connected.get(&member)
    }

    /// A member is told nothing more, other than by its commits in flight.
    pub(super) fn remove(&mut self, member: MemberId) -> Option<Outbox> {
        let removed = self.connected.remove(&member);
        if removed.is_some() {
            self.counters.member_went();
        }
        removed
    }

    /// A member's stream ended; if it has a name it may come again.
    pub(super) fn set_away(&mut self, member: MemberId) {
        if let Some(outbox) = self.remove(member)
            && outbox.is_named
        {
            self.away.insert(member, outbox.joined_ms);
        }
    }

    /// Forgets those who are away and don't come again any more.
    pub(super) fn sweep(&mut self, mut is_member: impl FnMut(MemberId) -> bool) {
        self.away.retain(|member, _| is_member(*member));
    }

    /// Whether some may come again.
    pub(super) fn has_away(&self) -> bool {
        !self.away.is_empty()
    }

    /// When a member joined: milliseconds since the Unix epoch.
    pub(super) fn joined_ms(&self, member: MemberId) -> i64 {
        let connected = self.connected.get(&member).map(|outbox| outbox.joined_ms);
        connected
            .or_else(|| self.away.get(&member).copied())
            .unwrap_or_default()
    }

    /// Tells a member something, if it is there.
    pub(super) fn tell(&mut self, member: MemberId, event: MemberEvent) {
        let Some(outbox) = self.connected.get(&member) else {
            return;
        };
        match outbox.line.tell(event) {
            Ok(()) => {}
            Err(Untold::Missed) => self.give_up(member),
            Err(Untold::Gone) => {
                self.set_away(member);
                self.fallen.push(Event::Disconnected(member));
            }
        }
    }

    /// Answers a commit of a member, also when it has left meanwhile. That its stream is
    /// gone is noticed when it is told something else, or isn't heard of any more.
    pub(super) fn answer(&mut self, member: MemberId, line: &Line, answer: CommitAnswer) {
        if let Err(Untold::Missed) = line.tell(MemberEvent::Committed(answer)) {
            self.give_up(member);
        }
    }

    fn give_up(&mut self, member: MemberId) {
        if self.remove(member).is_some() {
            self.fallen.push(Event::Leave(member));
        }
    }

    /// What became of a member that was told something in vain.
    pub(super) fn take_fallen(&mut self) -> Option<Event> {
        self.fallen.pop()
    }

    /// All members that are connected.
    pub(super) fn members(&self) -> Vec<MemberId> {
        self.connected.keys().copied().collect()
    }
}

impl Drop for Outboxes {
    fn drop(&mut self) {
        for member in self.members() {
            self.remove(member);
        }
    }
}
