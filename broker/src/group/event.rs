//! What happens to a group.

use super::{Generation, MemberId, MemberName, Subscription, TopicList, TopicPartition};

/// Something that happened. Events that name a member which isn't there, or
/// partitions which it doesn't have, change nothing: they were on their way when
/// it was expelled, or when the partition was lost.
#[derive(Debug, Clone)]
pub enum Event {
    /// Somebody wants to be a member.
    Join {
        /// A new id, even when the member comes again.
        member: MemberId,
        /// What it asks for.
        request: JoinRequest,
    },
    /// Something was heard of a member. `Revoked` and `Resumed` say so too.
    Heartbeat(MemberId),
    /// A member no longer works on these partitions, which it was to give back.
    /// Those that it was not asked for remain its own, and so do those that it was
    /// asked for anew: it may work on what it got in between.
    Revoked {
        /// Who.
        member: MemberId,
        /// What, each with the generation of the [`Effect::Revoke`](super::Effect::Revoke)
        /// that this answers.
        partitions: Vec<(TopicPartition, Generation)>,
    },
    /// A member goes for good, and its partitions with it.
    Leave(MemberId),
    /// A member's stream ended without its leaving. Without a name it is gone;
    /// with one, its partitions are kept for its session timeout, from now on.
    Disconnected(MemberId),
    /// A member held records for too long without committing: it loses its
    /// partitions, and gets none until it resumes.
    Stalled(MemberId),
    /// A stalled member commits again, or takes more.
    Resumed(MemberId),
    /// The topics that there are now, instead of those before.
    Topics(TopicList),
    /// The group is to begin anew with these partitions, somewhere else: their
    /// owners lose them and get them again at once, with a new generation, so that
    /// what they commit of the former assignment is refused.
    Reset(Vec<TopicPartition>),
    /// Time has passed, and nothing else happened.
    Tick,
}

/// What a member asks for when it joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinRequest {
    /// Its name beyond this stream, if it has one.
    pub name: Option<MemberName>,
    /// What it reads.
    pub subscription: Subscription,
    /// It is gone when it is not heard of for so long: milliseconds, within
    /// [`SESSION_TIMEOUT_MS`](crate::limits::SESSION_TIMEOUT_MS).
    pub session_timeout_ms: u32,
    /// How long it may take to give a partition back: milliseconds, within
    /// [`REVOKE_TIMEOUT_MS`](crate::limits::REVOKE_TIMEOUT_MS).
    pub revoke_timeout_ms: u32,
}
