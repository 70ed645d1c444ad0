//! The members of a group that are connected, and how they are told things.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc::{self, error::TrySendError};

use super::counters::Counters;
use super::message::{Identity, MemberEvent};
use crate::group::{Event, MemberId};

/// A member, as far as the group itself doesn't know it.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) sender: mpsc::Sender<MemberEvent>,
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
        match outbox.sender.try_send(event) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                self.remove(member);
                self.fallen.push(Event::Leave(member));
            }
            Err(TrySendError::Closed(_)) => {
                self.set_away(member);
                self.fallen.push(Event::Disconnected(member));
            }
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
