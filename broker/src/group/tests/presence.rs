//! Members that go, come again, fall silent, or hold what they have for too long.

use super::scene::{Scene, assign, generation, lost, of, request, the_revoke};
use crate::group::{Effect, Event, ExpelReason, GroupState, MemberId, RevokeReason};
use crate::limits::{MEMBERS_PER_GROUP, SUBSCRIPTIONS_PER_GROUP};

fn expel(member: u64, reason: ExpelReason) -> Effect {
    Effect::Expel {
        member: MemberId(member),
        reason,
    }
}

#[test]
fn what_a_member_had_that_leaves_goes_to_the_others() {
    let mut scene = Scene::new(4);
    scene.join(1);
    scene.join(2);
    scene.settle();
    let free = scene.has(1);
    assert_eq!(scene.tell(Event::Leave(MemberId(1))), []);
    assert_eq!(scene.group.members().count(), 1);
    assert_eq!(scene.wait(20), [generation(2), assign(2, 2, free)]);
    scene.tell(Event::Disconnected(MemberId(2)));
    assert!(scene.group.is_empty());
    assert_eq!(scene.group.state(), GroupState::Empty);
    assert_eq!(scene.wait(60_000), []);
    assert_eq!(scene.group.next_deadline(), None);
}

#[test]
fn a_named_member_that_comes_again_in_time_has_what_it_had() {
    let mut scene = Scene::new(4);
    scene.join_as(1, "alpha");
    scene.join_as(2, "beta");
    scene.settle();
    let kept = scene.has(1);
    scene.tell(Event::Disconnected(MemberId(1)));
    let away = scene.group.members().next().unwrap();
    assert!(!away.connected);
    // A newcomer gets none of it.
    scene.wait(5_000);
    scene.join(3);
    scene.heartbeat(2);
    let (owner, moving, ..) = the_revoke(&scene.wait(4_000));
    assert_eq!((owner, moving.len()), (2, 1));
    scene.revoked(2, &moving);
    scene.heartbeat(2);
    scene.heartbeat(3);
    assert_eq!(scene.has(1), kept);

    scene.wait(999);
    let effects = scene.join_as(4, "alpha");
    assert_eq!(effects, [generation(4), assign(4, 4, kept)]);
    assert_eq!(scene.wait(1_000), []);
}

#[test]
fn a_named_member_that_does_not_come_again_in_time_is_gone() {
    let mut scene = Scene::new(4);
    scene.join_as(1, "alpha");
    scene.join(2);
    scene.settle();
    scene.tell(Event::Disconnected(MemberId(1)));
    scene.wait(5_000);
    scene.heartbeat(2);
    assert_eq!(scene.wait(4_999), []);
    let effects = scene.wait(21);
    assert_eq!(effects.len(), 2);
    assert_eq!(scene.has(2).len(), 4);
    // Then it is a new member like any other.
    assert_eq!(scene.join_as(3, "alpha"), []);
}

#[test]
fn a_member_that_joins_with_the_name_of_another_replaces_it() {
    let mut scene = Scene::new(2);
    scene.join_as(1, "alpha");
    scene.settle();
    let effects = scene.join_as(2, "alpha");
    let expected = [
        generation(2),
        expel(1, ExpelReason::MemberReplaced),
        assign(2, 2, of([0, 1])),
    ];
    assert_eq!(effects, expected);
    // Its stream ends only now.
    assert_eq!(scene.tell(Event::Disconnected(MemberId(1))), []);
    assert_eq!(scene.wait(5_000), []);
    assert_eq!(scene.has(2).len(), 2);
}

#[test]
fn a_member_that_comes_again_with_other_topics_gets_only_what_it_reads() {
    let topics = vec![
        super::scene::topic(1, "a", 2),
        super::scene::topic(2, "b", 1),
    ];
    let mut scene = Scene::with_topics(topics);
    scene.join_as(1, "alpha");
    scene.settle();
    let effects = scene.request(2, request(Some("alpha"), &["a"]));
    assert_eq!(effects[2], assign(2, 2, of([0, 1])));
    assert_eq!(scene.wait(20), []);
    assert_eq!(scene.group.partitions().count(), 2);
}

#[test]
fn what_a_member_was_to_give_back_it_does_not_get_again_by_its_name() {
    for comes_again in [false, true] {
        let mut scene = Scene::new(4);
        scene.join_as(1, "alpha");
        scene.settle();
        scene.join(2);
        let (_, moving, ..) = the_revoke(&scene.wait(20));
        if comes_again {
            let effects = scene.join_as(3, "alpha");
            assert_eq!(effects.len(), 3, "it has what it was to keep");
        } else {
            scene.tell(Event::Disconnected(MemberId(1)));
        }
        // Nobody can commit it any more, so nobody waits for it.
        let effects = scene.wait(20);
        assert_eq!(
            effects.last(),
            Some(&assign(2, scene.group.generation().0, moving))
        );
    }
}

#[test]
fn a_silent_member_is_expelled() {
    let mut scene = Scene::new(2);
    scene.join(1);
    scene.join(2);
    scene.wait(9_999);
    scene.heartbeat(2);
    let effects = scene.wait(1);
    assert_eq!(effects, [expel(1, ExpelReason::MemberExpired)]);
    scene.wait(20);
    assert_eq!(scene.has(2).len(), 2);
    // What it says now comes too late.
    scene.heartbeat(1);
    assert_eq!(scene.group.members().count(), 1);
}

#[test]
fn a_member_that_is_heard_of_at_the_last_moment_stays() {
    let mut scene = Scene::new(1);
    scene.join(1);
    scene.wait(20);
    // Nobody has looked at the clock yet.
    scene.now_ms = 10_500;
    scene.heartbeat(1);
    assert_eq!(scene.wait(9_999), []);
    assert_eq!(scene.wait(1), [expel(1, ExpelReason::MemberExpired)]);
}

#[test]
fn a_broker_that_slept_makes_no_member_late() {
    let mut scene = Scene::new(2);
    scene.join(1);
    scene.join_as(2, "beta");
    scene.settle();
    scene.tell(Event::Disconnected(MemberId(2)));
    scene.wait(1_000);
    scene.now_ms += 60_000;
    assert_eq!(scene.tell(Event::Tick), []);
    assert_eq!(scene.group.members().count(), 2);
    scene.heartbeat(1);
    assert_eq!(scene.join_as(3, "beta").len(), 2);
}

#[test]
fn a_stalled_member_loses_what_it_has_until_it_resumes() {
    let mut scene = Scene::new(4);
    scene.join(1);
    scene.join(2);
    scene.settle();
    let had = scene.has(1);
    assert_eq!(scene.tell(Event::Stalled(MemberId(1))), []);
    let (owner, revoked, deadline_ms, reason) = the_revoke(&scene.wait(20));
    assert_eq!((owner, &revoked), (1, &had));
    assert_eq!(reason, RevokeReason::MaxProcessingTime);
    scene.wait(deadline_ms - scene.now_ms - 1);
    assert!(scene.group.members().any(|member| member.stalled));
    let effects = scene.wait(1);
    assert_eq!(
        effects[1],
        lost(1, 3, had.clone(), RevokeReason::MaxProcessingTime)
    );
    assert_eq!(effects[2], assign(2, 3, had));

    scene.tell(Event::Resumed(MemberId(1)));
    scene.heartbeat(2);
    let (owner, revoked, ..) = the_revoke(&scene.wait(20));
    assert_eq!((owner, revoked.len()), (2, 2));
}

#[test]
fn what_only_a_stalled_member_reads_has_no_owner_until_it_resumes() {
    let mut scene = Scene::new(2);
    scene.join(1);
    scene.settle();
    scene.tell(Event::Stalled(MemberId(1)));
    let (_, revoked, ..) = the_revoke(&scene.wait(20));
    assert_eq!(scene.revoked(1, &revoked), []);
    assert_eq!(scene.wait(5_000), []);
    assert_eq!(scene.group.state(), GroupState::Rebalancing);
    scene.tell(Event::Resumed(MemberId(1)));
    assert_eq!(scene.wait(20), [generation(3), assign(1, 3, revoked)]);
}

#[test]
fn who_resumes_at_once_loses_nothing() {
    let mut scene = Scene::new(2);
    scene.join(1);
    scene.settle();
    scene.tell(Event::Stalled(MemberId(1)));
    scene.wait(10);
    scene.tell(Event::Resumed(MemberId(1)));
    assert_eq!(scene.wait(5_000), []);
}

#[test]
fn a_group_has_so_many_members_and_no_more() {
    let mut scene = Scene::new(1);
    let most = u64::try_from(MEMBERS_PER_GROUP).unwrap();
    scene.join_as(0, "alpha");
    for member in 1..most {
        assert_eq!(scene.join(member), []);
    }
    let refused = [expel(most, ExpelReason::TooManyMembers)];
    assert_eq!(scene.join(most), refused);
    // Who takes another's place is not one more.
    let effects = scene.join_as(most + 1, "alpha");
    assert_eq!(effects, [expel(0, ExpelReason::MemberReplaced)]);
    scene.tell(Event::Leave(MemberId(1)));
    assert_eq!(scene.join(most + 2), []);
}

#[test]
fn a_group_has_so_many_different_subscriptions_and_no_more() {
    let mut scene = Scene::new(1);
    let most = u64::try_from(SUBSCRIPTIONS_PER_GROUP).unwrap();
    let other = |at: u64| request(None, &[&format!("t{at}"), "t"]);
    for member in 0..most {
        assert_eq!(scene.request(member, other(member)), []);
    }
    let refused = [expel(most, ExpelReason::TooManySubscriptions)];
    assert_eq!(scene.request(most, other(most)), refused);
    assert_eq!(scene.request(most + 1, other(7)), []);
    scene.tell(Event::Leave(MemberId(3)));
    assert_eq!(scene.request(most + 2, other(most)), []);
    scene.tell(Event::Leave(MemberId(7)));
    assert_eq!(scene.settle().len(), 2);
}
