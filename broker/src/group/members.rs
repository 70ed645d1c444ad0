//! The members of a group, and which of them are due to be heard of.

use std::collections::BTreeMap;

use super::interest::InterestId;
use super::{MemberId, MemberName};

/// A member.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: Option<MemberName>,
    /// What it reads.
    pub(super) interest: InterestId,
    pub(super) session_timeout_ms: u32,
    pub(super) revoke_timeout_ms: u32,
    /// When it was heard of last; when it went, if it is away.
    pub(super) heard_ms: u64,
    pub(super) presence: Presence,
}

/// Whether a member takes partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// It does.
    Active,
    /// It is connected, but held records for too long. It gives back what it has.
    Stalled,
    /// It has a name, and may come again. It keeps what it has, and gets no more.
    Away,
}

impl Member {
    fn expires_ms(&self) -> u64 {
        self.heard_ms
            .saturating_add(u64::from(self.session_timeout_ms))
    }

    /// Whether there is a stream to it.
    pub(super) fn is_connected(&self) -> bool {
        self.presence != Presence::Away
    }
}

/// All members.
#[derive(Debug, Default)]
pub(super) struct Members {
    by_id: BTreeMap<MemberId, Member>,
    by_name: BTreeMap<MemberName, MemberId>,
    /// Nobody expires before this. Being heard of doesn't move it: it is found out
    /// anew once it has come.
    expiry_ms: Option<u64>,
}

impl Members {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn get(&self, id: MemberId) -> Option<&Member> {
        self.by_id.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: MemberId) -> Option<&mut Member> {
        self.by_id.get_mut(&id)
    }

    pub(super) fn named(&self, name: &MemberName) -> Option<MemberId> {
        self.by_name.get(name).copied()
    }

    /// In ascending order of their ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = (MemberId, &Member)> {
        self.by_id.iter().map(|(id, member)| (*id, member))
    }

    /// Adds a member; neither its id nor its name is in use.
    pub(super) fn insert(&mut self, id: MemberId, member: Member) {
        let expires = member.expires_ms();
        self.expiry_ms = Some(self.expiry_ms.map_or(expires, |at| at.min(expires)));
        if let Some(name) = member.name.clone() {
            let before = self.by_name.insert(name, id);
            assert!(before.is_none(), "the name of member {id} is in use");
        }
        let before = self.by_id.insert(id, member);
        assert!(before.is_none(), "member {id} joins twice");
    }

    pub(super) fn remove(&mut self, id: MemberId) -> Option<Member> {
        let member = self.by_id.remove(&id)?;
        if let Some(name) = &member.name {
            self.by_name.remove(name);
        }
        Some(member)
    }

    /// When it has to be looked who is expired.
    pub(super) fn next_expiry_ms(&self) -> Option<u64> {
        self.expiry_ms
    }

    /// Nobody could be heard of for so long.
    pub(super) fn excuse(&mut self, late_ms: u64) {
        for member in self.by_id.values_mut() {
            member.heard_ms = member.heard_ms.saturating_add(late_ms);
        }
        self.expiry_ms = self.expiry_ms.map(|at| at.saturating_add(late_ms));
    }

    /// Those who were not heard of in time.
    pub(super) fn expired(&mut self, now_ms: u64) -> Vec<MemberId> {
        if self.expiry_ms.is_none_or(|at| now_ms < at) {
            return Vec::new();
        }
        let is_expired = |member: &Member| member.expires_ms() <= now_ms;
        let remaining = self.by_id.values().filter(|member| !is_expired(member));
        self.expiry_ms = remaining.map(Member::expires_ms).min();
        let expired = self.iter().filter(|(_, member)| is_expired(member));
        expired.map(|(id, _)| id).collect()
    }
}
