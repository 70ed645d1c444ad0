//! A group, by what goes in and comes out.

pub(super) mod random;

use super::*;
use crate::model::{TopicId, TopicName};

fn topic(id: u64, name: &str, partitions: u32) -> Topic {
    Topic {
        id: TopicId(id),
        name: TopicName::try_from(name).unwrap(),
        partitions,
    }
}

fn join(id: u64, topics: &[&str]) -> Event {
    Event::Join {
        member: MemberId(id),
        request: JoinRequest {
            name: None,
            subscription: Subscription::new(topics.iter().copied()).unwrap(),
            session_timeout_ms: 10_000,
            revoke_timeout_ms: 5_000,
        },
    }
}

#[test]
fn two_members_share() {
    let mut group = Group::new(Generation::ZERO);
    group.handle(Event::Topics(TopicList::new(vec![topic(1, "a", 4)])), 0);
    assert_eq!(group.handle(join(1, &["a"]), 0), []);
    let effects = group.handle(Event::Tick, 20);
    assert_eq!(effects.len(), 2, "{effects:?}");
    group.handle(join(2, &["*"]), 30);
    let effects = group.handle(Event::Tick, 50);
    let Effect::Revoke { partitions, .. } = &effects[1] else {
        panic!("{effects:?}");
    };
    assert_eq!(partitions.len(), 2);
    let revoked = Event::Revoked {
        member: MemberId(1),
        partitions: partitions.clone(),
    };
    let effects = group.handle(revoked, 60);
    assert_eq!(
        effects[1],
        Effect::Assign {
            member: MemberId(2),
            generation: Generation(3),
            partitions: partitions.clone()
        }
    );
    assert_eq!(group.state(), GroupState::Stable);
}
