//! Consumer groups: who of a group's members has which partitions.
//!
//! Pure: a [`Group`] is told what happens and what time it is, and says what is to
//! be done about it. It knows no clock, no randomness, no storage and no stream;
//! equal events at equal times have equal effects. What the group committed is not
//! its concern, but whose commits are good is.
//!
//! How it works:
//! - What changes who may have what (members that come and go, topics that are
//!   made) makes a new plan due, a moment later: many who come at once are one
//!   change.
//! - The plan gives each partition to a member, so that all have equally many and
//!   the fewest partitions move (`assignment`).
//! - What is free is assigned at once. What is elsewhere is revoked from its owner,
//!   and assigned once the owner has given it back, has left, or has let the
//!   deadline pass (`partitions` has the table).

mod assignment;
mod changes;
mod effect;
mod event;
mod ids;
mod interest;
mod machine;
mod members;
mod membership;
mod partitions;
mod rebalance;
mod subscription;
mod topics;
mod view;

#[cfg(test)]
mod tests;

pub use effect::{CommitRefusal, Effect, ExpelReason, RevokeReason};
pub use event::{Event, JoinRequest};
pub use ids::{Generation, GroupName, MemberId, MemberName, TopicPartition};
pub use machine::Group;
pub use subscription::{Subscription, SubscriptionError};
pub use topics::{Topic, TopicList};
pub use view::{GroupState, MemberView, Ownership};
