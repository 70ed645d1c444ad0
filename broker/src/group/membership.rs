//! Members come, go, and come again.

use super::changes::Changes;
use super::interest::InterestId;
use super::members::{Member, Presence};
use super::partitions::Hold;
use super::{ExpelReason, Group, JoinRequest, MemberId};
use crate::limits::MEMBERS_PER_GROUP;

impl Group {
    pub(super) fn join(&mut self, id: MemberId, request: JoinRequest, changes: &mut Changes) {
        let name = request.name.as_ref();
        let former = name.and_then(|name| self.members.named(name));
        if former.is_none() && self.members.len() >= MEMBERS_PER_GROUP {
            return changes.expel(id, ExpelReason::TooManyMembers);
        }
        if !self.interests.admits(&request.subscription) {
            return changes.expel(id, ExpelReason::TooManySubscriptions);
        }
        let (interest, is_new) = self.interests.enter(&request.subscription);
        if is_new {
            for topic in request.subscription.select(&self.topics) {
                self.partitions
                    .read(topic.id, topic.partitions, interest.into());
            }
        }
        if let Some(former) = former {
            self.replace(former, id, interest, changes);
        }
        let member = Member {
            name: request.name,
            interest,
            session_timeout_ms: request.session_timeout_ms,
            revoke_timeout_ms: request.revoke_timeout_ms,
            heard_ms: self.now_ms,
            presence: Presence::Active,
        };
        self.members.insert(id, member);
        self.replan();
    }

    /// A member's name comes again: what the member has passes on at once, as far as
    /// it is still read, and was not to be given back.
    fn replace(
        &mut self,
        former: MemberId,
        new: MemberId,
        interest: InterestId,
        changes: &mut Changes,
    ) {
        if self.is_connected(former) {
            changes.expel(former, ExpelReason::MemberReplaced);
        }
        for (partition, readers, slot) in self.partitions.iter_mut() {
            if slot.owner() != Some(former) {
                continue;
            }
            let passes_on = slot.hold() == Hold::Held(former) && readers.contains(interest);
            slot.release();
            if passes_on {
                slot.assign(new, changes.generation());
                changes.assign(new, partition);
            }
        }
        self.forget(former);
    }

    /// A member was not heard of in time.
    pub(super) fn expire(&mut self, id: MemberId, changes: &mut Changes) {
        if self.is_connected(id) {
            changes.expel(id, ExpelReason::MemberExpired);
        }
        self.remove(id, changes);
    }

    /// A member is gone, and nobody waits for it.
    pub(super) fn remove(&mut self, id: MemberId, changes: &mut Changes) {
        if self.members.get(id).is_none() {
            return;
        }
        for (partition, _, slot) in self.partitions.iter_mut() {
            if slot.owner() == Some(id) {
                slot.release();
                changes.free(partition);
            }
        }
        self.forget(id);
        self.replan();
    }

    /// A member's stream is gone, and with it whatever could still be committed.
    pub(super) fn disconnect(&mut self, id: MemberId, changes: &mut Changes) {
        let Some(member) = self.members.get_mut(id) else {
            return;
        };
        if member.name.is_none() {
            return self.remove(id, changes);
        }
        member.presence = Presence::Away;
        for (partition, _, slot) in self.partitions.iter_mut() {
            if slot.revoked_from(id).is_some() {
                slot.release();
                changes.free(partition);
            }
        }
        self.replan();
    }

    /// A connected member stalls, or resumes.
    pub(super) fn change_presence(&mut self, id: MemberId, presence: Presence) {
        let connected = self
            .members
            .get_mut(id)
            .filter(|member| member.is_connected());
        if let Some(member) = connected
            && member.presence != presence
        {
            member.presence = presence;
            self.replan();
        }
    }

    /// Removes a member that has nothing any more.
    fn forget(&mut self, id: MemberId) {
        let member = self.members.remove(id).expect("it is one of them");
        if self.interests.leave(member.interest) {
            self.partitions.forget_interest(member.interest);
        }
    }
}
