//! Partitions change hands: when, how many, and how often.

use super::scene::{Scene, assign, at, generation, lost, moves, of, request, the_revoke, topic};
use crate::group::{CommitRefusal, Effect, Event, Generation, GroupState, MemberId, RevokeReason};

fn tick(scene: &mut Scene) -> Vec<Effect> {
    scene.tell(Event::Tick)
}

#[test]
fn the_first_member_gets_everything_a_moment_later() {
    let mut scene = Scene::new(3);
    assert_eq!(scene.group.state(), GroupState::Empty);
    assert_eq!(scene.join(1), []);
    assert_eq!(scene.group.state(), GroupState::Rebalancing);
    assert_eq!(scene.group.next_deadline(), Some(20));
    scene.now_ms = 19;
    assert_eq!(tick(&mut scene), []);
    scene.now_ms = 20;
    let expected = [generation(1), assign(1, 1, of([0, 1, 2]))];
    assert_eq!(tick(&mut scene), expected);
    assert_eq!(scene.group.state(), GroupState::Stable);
}

#[test]
fn generations_go_on_behind_the_one_that_is_known() {
    let mut group = crate::group::Group::new(Generation(7));
    let request = request(None, &["t"]);
    let member = MemberId(1);
    group.handle(Event::Join { member, request }, 0);
    let topics = crate::group::TopicList::new(vec![topic(1, "t", 1)]);
    group.handle(Event::Topics(topics), 0);
    let effects = group.handle(Event::Tick, 20);
    assert_eq!(effects, [generation(8), assign(1, 8, of([0]))]);
}

#[test]
fn after_a_start_members_are_waited_for_but_not_for_long() {
    for comes in [true, false] {
        let mut scene = Scene::new(4);
        scene.group.expect(2);
        scene.wait(10_000);
        assert_eq!(scene.join(1), []);
        assert_eq!(scene.wait(1_999), [], "the other one may come");
        if comes {
            let effects = scene.join(2);
            assert_eq!(effects.len(), 3, "nothing has to move: {effects:?}");
            assert_eq!((scene.has(1).len(), scene.has(2).len()), (2, 2));
        } else {
            let expected = [generation(1), assign(1, 1, of([0, 1, 2, 3]))];
            assert_eq!(scene.wait(1), expected);
        }
        // It goes as ever from here on.
        scene.join(3);
        assert_ne!(scene.wait(20), []);
    }
}

#[test]
fn what_moves_is_given_back_before_it_is_assigned() {
    let mut scene = Scene::new(4);
    scene.join(1);
    scene.settle();
    scene.join(2);
    let effects = scene.wait(20);
    assert_eq!(effects[0], generation(2));
    let (owner, moving, deadline_ms, reason) = the_revoke(&effects);
    assert_eq!((owner, moving.len()), (1, 2));
    assert_eq!(deadline_ms, scene.now_ms + 5_000);
    assert_eq!(reason, RevokeReason::Rebalance);
    assert_eq!(scene.has(2), []);
    assert_eq!(scene.group.state(), GroupState::Rebalancing);

    let effects = scene.revoked(1, &moving[..1]);
    assert_eq!(effects, [generation(3), assign(2, 3, moving[..1].to_vec())]);
    let effects = scene.revoked(1, &moving);
    assert_eq!(effects, [generation(4), assign(2, 4, moving[1..].to_vec())]);
    assert_eq!(scene.group.state(), GroupState::Stable);
}

#[test]
fn what_was_not_asked_for_is_not_given_back() {
    let mut scene = Scene::new(4);
    scene.join(1);
    scene.settle();
    assert_eq!(scene.revoked(1, &of([0, 1])), []);
    assert_eq!(scene.revoked(1, &[at(9, 9), at(1, 4)]), []);
    scene.join(2);
    let (_, moving, ..) = the_revoke(&scene.wait(20));
    assert_eq!(scene.revoked(2, &moving), []);
    assert_eq!(scene.has(1).len(), 4);
}

#[test]
fn who_ignores_a_revoke_loses_at_the_deadline() {
    let mut scene = Scene::new(2);
    scene.join(1);
    scene.settle();
    scene.join(2);
    let (_, moving, deadline_ms, _) = the_revoke(&scene.wait(20));
    let commit = |scene: &Scene, at_ms| {
        let generation = Some(Generation(1));
        let member = MemberId(1);
        scene
            .group
            .check_commit(member, moving[0], generation, at_ms)
    };
    assert_eq!(commit(&scene, deadline_ms - 1), Ok(()));
    // Even before anybody looks at the clock.
    let stale = Err(CommitRefusal::StaleGeneration);
    assert_eq!(commit(&scene, deadline_ms), stale);

    let effects = scene.wait(5_000);
    let expected = [
        generation(3),
        lost(1, 3, moving.clone(), RevokeReason::Rebalance),
        assign(2, 3, moving.clone()),
    ];
    assert_eq!(effects, expected);
    assert_eq!(commit(&scene, scene.now_ms), stale);
    assert_eq!(scene.revoked(1, &moving), []);
}

#[test]
fn what_comes_too_late_for_one_revoke_does_not_answer_the_next_one() {
    let mut scene = Scene::new(2);
    scene.join(1);
    scene.settle();
    scene.join(2);
    let effects = scene.wait(20);
    let (_, moving, ..) = the_revoke(&effects);
    assert_eq!(effects[0], generation(2));
    // It is lost, comes back, and is wanted again.
    scene.wait(5_000);
    scene.tell(Event::Leave(MemberId(2)));
    scene.wait(20);
    assert_eq!(scene.has(1).len(), 2);
    scene.join(3);
    let effects = scene.wait(20);
    assert_eq!(effects[0], generation(5));
    assert_eq!(the_revoke(&effects).1, moving);

    let mut answer = |asked| {
        let partitions = moving.iter().map(|at| (*at, Generation(asked)));
        scene.tell(Event::Revoked {
            member: MemberId(1),
            partitions: partitions.collect(),
        })
    };
    for late in [2, 4] {
        assert_eq!(answer(late), [], "to generation {late}");
    }
    let expected = [generation(6), assign(3, 6, moving.clone())];
    assert_eq!(answer(5), expected);
}

#[test]
fn who_names_a_generation_is_told_that_it_is_past_however_many_owners_ago() {
    let mut scene = Scene::new(1);
    scene.join(1);
    scene.settle();
    for next in 2..=3 {
        scene.join(next);
        scene.wait(20);
        scene.tell(Event::Leave(MemberId(next - 1)));
        scene.wait(20);
        assert_eq!(scene.has(next).len(), 1);
    }
    let since = scene.group.owner(at(1, 0)).unwrap().generation;
    assert_eq!(since, Generation(3));
    let commit = |member, generation: Option<u64>| {
        let (member, generation) = (MemberId(member), generation.map(Generation));
        let group = &scene.group;
        group.check_commit(member, at(1, 0), generation, scene.now_ms)
    };
    let stale = Err(CommitRefusal::StaleGeneration);
    assert_eq!(commit(1, Some(1)), stale, "two owners ago");
    assert_eq!(commit(2, Some(2)), stale);
    assert_eq!(commit(2, None), stale, "the last one is known");
    // These say nothing of an assignment that was.
    let not_assigned = Err(CommitRefusal::NotAssigned);
    for generation in [None, Some(0), Some(3), Some(4)] {
        assert_eq!(commit(1, generation), not_assigned, "{generation:?}");
    }
    assert_eq!(commit(3, Some(3)), Ok(()));
}

#[test]
fn who_has_no_time_to_give_back_loses_with_the_next_tick() {
    let mut scene = Scene::new(2);
    let mut impatient = request(None, &["*"]);
    impatient.revoke_timeout_ms = 0;
    scene.request(1, impatient);
    scene.settle();
    scene.join(2);
    scene.now_ms += 20;
    let (_, moving, deadline_ms, _) = the_revoke(&tick(&mut scene));
    assert_eq!(deadline_ms, scene.now_ms);
    assert_eq!(scene.group.next_deadline(), Some(scene.now_ms));
    let effects = tick(&mut scene);
    assert_eq!(
        effects[1],
        lost(1, 3, moving.clone(), RevokeReason::Rebalance)
    );
    assert_eq!(effects[2], assign(2, 3, moving));
}

#[test]
fn commits_are_good_from_the_assignment_until_it_is_given_back() {
    let mut scene = Scene::new(2);
    scene.join(1);
    scene.settle();
    let check = |scene: &Scene, member, partition, generation: Option<u64>| {
        let generation = generation.map(Generation);
        let member = MemberId(member);
        let group = &scene.group;
        group.check_commit(member, partition, generation, scene.now_ms)
    };
    let not_assigned = Err(CommitRefusal::NotAssigned);
    let stale = Err(CommitRefusal::StaleGeneration);
    assert_eq!(check(&scene, 1, at(1, 0), Some(1)), Ok(()));
    assert_eq!(check(&scene, 1, at(1, 0), None), Ok(()));
    assert_eq!(check(&scene, 1, at(1, 0), Some(0)), stale);
    assert_eq!(check(&scene, 1, at(1, 0), Some(2)), stale);
    assert_eq!(check(&scene, 1, at(1, 2), Some(1)), not_assigned);
    assert_eq!(check(&scene, 1, at(2, 0), None), not_assigned);
    assert_eq!(check(&scene, 2, at(1, 0), None), not_assigned);
    assert_eq!(check(&scene, 2, at(1, 0), Some(1)), not_assigned);

    scene.join(2);
    let effects = scene.wait(20);
    let (_, moving, ..) = the_revoke(&effects);
    assert_eq!(check(&scene, 1, moving[0], Some(1)), Ok(()));
    assert_eq!(check(&scene, 2, moving[0], None), not_assigned);
    scene.revoked(1, &moving);
    assert_eq!(check(&scene, 1, moving[0], Some(1)), stale);
    assert_eq!(check(&scene, 1, moving[0], None), stale);
    assert_eq!(check(&scene, 2, moving[0], Some(3)), Ok(()));
    // Who has a partition and doesn't know of it has processed nothing of it.
    assert_eq!(check(&scene, 2, moving[0], Some(0)), stale);
    let other = of([0, 1]).into_iter().find(|p| *p != moving[0]).unwrap();
    assert_eq!(check(&scene, 2, other, Some(0)), not_assigned);
}

#[test]
fn many_who_join_at_once_are_one_rebalance() {
    let mut scene = Scene::new(12);
    let mut effects = Vec::new();
    for member in 1..=4 {
        effects.extend(scene.join(member));
        effects.extend(scene.wait(19));
    }
    assert_eq!(effects, []);
    let effects = scene.wait(1);
    assert_eq!(effects.len(), 5);
    assert_eq!(moves(&effects), 0);
    assert_eq!(scene.group.generation(), Generation(1));
}

#[test]
fn steady_joining_does_not_put_off_a_rebalance_for_long() {
    let mut scene = Scene::new(12);
    let mut at_ms = None;
    for member in 1..=30 {
        scene.join(member);
        if !scene.wait(10).is_empty() {
            at_ms = at_ms.or(Some(scene.now_ms));
        }
    }
    assert_eq!(at_ms, Some(200));
}

#[test]
fn nothing_is_handed_over_while_a_new_plan_is_due() {
    let mut scene = Scene::new(4);
    scene.join(1);
    scene.settle();
    scene.join(2);
    let (_, moving, ..) = the_revoke(&scene.wait(20));
    scene.join(3);
    // It would have been member 2's, and half of it gone again in a moment.
    assert_eq!(scene.revoked(1, &moving), []);
    let effects = scene.wait(20);
    assert_eq!(moves(&effects), 0);
    assert_eq!((scene.has(2).len(), scene.has(3).len()), (1, 1));
}

#[test]
fn who_was_to_get_something_may_leave_before() {
    let mut scene = Scene::new(6);
    scene.join(1);
    scene.settle();
    scene.join(2);
    scene.join(3);
    let (_, moving, ..) = the_revoke(&scene.wait(20));
    assert_eq!(moving.len(), 4);
    scene.tell(Event::Leave(MemberId(2)));
    let effects = scene.wait(20);
    assert_eq!(effects, [], "one of four is wanted back, which can't be");
    let effects = scene.revoked(1, &moving);
    assert_eq!(effects.len(), 3);
    assert_eq!((scene.has(1).len(), scene.has(3).len()), (3, 3));
}

#[test]
fn what_its_owner_is_to_keep_after_all_comes_back_as_a_new_assignment() {
    let mut scene = Scene::new(2);
    scene.join(1);
    scene.settle();
    scene.join(2);
    let (_, moving, ..) = the_revoke(&scene.wait(20));
    scene.tell(Event::Leave(MemberId(2)));
    assert_eq!(scene.wait(20), []);
    let effects = scene.revoked(1, &moving);
    assert_eq!(effects, [generation(3), assign(1, 3, moving.clone())]);

    scene.join(3);
    let (_, again, ..) = the_revoke(&scene.wait(20));
    scene.tell(Event::Leave(MemberId(3)));
    let effects = scene.wait(5_000);
    let expected = [
        generation(5),
        lost(1, 5, again.clone(), RevokeReason::Rebalance),
        assign(1, 5, again),
    ];
    assert_eq!(effects, expected);
}

#[test]
fn others_keep_what_they_have_when_somebody_joins_or_leaves() {
    let mut scene = Scene::new(12);
    for member in 1..=3 {
        scene.join(member);
    }
    scene.settle();
    let before = scene.has(1);
    scene.join(4);
    let effects = scene.settle();
    assert_eq!(moves(&effects), 3);
    let after = scene.has(1);
    assert_eq!(after.len(), 3);
    assert!(after.iter().all(|partition| before.contains(partition)));

    scene.tell(Event::Leave(MemberId(4)));
    let effects = scene.settle();
    assert_eq!(moves(&effects), 0);
    assert_eq!(scene.has(1).len(), 4);
    assert!(after.iter().all(|at| scene.has(1).contains(at)));
}

#[test]
fn each_topic_is_spread_over_all_members() {
    let topics = vec![topic(1, "a", 4), topic(2, "b", 5), topic(3, "c", 3)];
    let mut scene = Scene::with_topics(topics);
    let spread = |scene: &Scene, members: u64| {
        for topic in 1..=3 {
            let count = |member| {
                let has = scene.has(member);
                has.iter().filter(|at| at.topic.0 == topic).count()
            };
            let counts: Vec<usize> = (1..=members).map(count).collect();
            let (least, most) = (counts.iter().min(), counts.iter().max());
            assert!(*most.unwrap() <= least.unwrap() + 1, "{topic}: {counts:?}");
        }
    };
    scene.join(1);
    scene.settle();
    scene.join(2);
    scene.settle();
    spread(&scene, 2);
    scene.join(3);
    scene.settle();
    spread(&scene, 3);
}

#[test]
fn members_that_read_different_topics_share_what_they_have_in_common() {
    let topics = vec![
        topic(1, "orders.eu", 4),
        topic(2, "orders.us", 2),
        topic(3, "stock", 6),
    ];
    let mut scene = Scene::with_topics(topics);
    scene.request(1, request(None, &["orders.*", "stock"]));
    scene.request(2, request(None, &["orders.*"]));
    scene.settle();
    assert_eq!(scene.has(2).len(), 6);
    assert!(scene.has(2).iter().all(|at| at.topic.0 < 3));
    // The newcomer takes from the first, which gets something of the second for it.
    let before = scene.has(2);
    scene.request(3, request(None, &["stock"]));
    let effects = scene.settle();
    assert_eq!(moves(&effects), 6);
    assert_eq!((scene.has(1).len(), scene.has(3).len()), (4, 4));
    assert_eq!(scene.has(2).len(), 4);
    assert!(scene.has(2).iter().all(|at| before.contains(at)));
}

#[test]
fn new_partitions_and_topics_are_picked_up_without_moves() {
    let mut scene = Scene::with_topics(vec![topic(1, "orders.eu", 2)]);
    scene.request(1, request(None, &["orders.*"]));
    scene.request(2, request(None, &["orders.*", "stock"]));
    scene.settle();
    let topics = vec![
        topic(1, "orders.eu", 4),
        topic(2, "other", 9),
        topic(3, "stock", 1),
    ];
    scene.topics(topics.clone());
    let effects = scene.wait(20);
    assert_eq!(moves(&effects), 0);
    assert_eq!(effects[0], generation(2));
    assert_eq!(scene.has(1).len() + scene.has(2).len(), 5);
    assert!(scene.has(2).contains(&at(3, 0)));
    // Nothing is new.
    scene.topics(topics);
    assert_eq!(scene.wait(1_000), []);
}

#[test]
fn a_deleted_topic_is_lost_at_once_and_another_of_its_name_is_another_topic() {
    let mut scene = Scene::new(2);
    scene.join(1);
    scene.settle();
    let effects = scene.topics(vec![topic(2, "t", 1)]);
    let expected = [
        generation(2),
        lost(1, 2, of([0, 1]), RevokeReason::TopicDeleted),
    ];
    assert_eq!(effects, expected);
    assert_eq!(
        scene.wait(20),
        [generation(3), assign(1, 3, vec![at(2, 0)])]
    );
    assert_eq!(scene.topics(Vec::new()).len(), 2);
    assert_eq!(scene.group.partitions().count(), 0);
}

#[test]
fn a_topic_may_be_deleted_while_it_is_given_back() {
    let mut scene = Scene::new(2);
    scene.join(1);
    scene.settle();
    scene.join(2);
    let (_, moving, ..) = the_revoke(&scene.wait(20));
    let effects = scene.topics(Vec::new());
    let reason = RevokeReason::TopicDeleted;
    assert_eq!(effects, [generation(3), lost(1, 3, of([0, 1]), reason)]);
    assert_eq!(scene.revoked(1, &moving), []);
    assert_eq!(scene.wait(9_000), []);
}

#[test]
fn a_reset_takes_partitions_away_and_gives_them_back_as_new_assignments() {
    let mut scene = Scene::new(4);
    scene.join(1);
    scene.settle();
    scene.join(2);
    let (_, moving, ..) = the_revoke(&scene.wait(20));
    let mut all = of([0, 1, 2, 3]);
    all.extend([at(1, 0), at(7, 7)]);
    let effects = scene.tell(Event::Reset(all));
    let mut kept = of([0, 1, 2, 3]);
    kept.retain(|partition| !moving.contains(partition));
    let expected = [
        generation(3),
        lost(1, 3, of([0, 1, 2, 3]), RevokeReason::Rebalance),
        assign(1, 3, kept.clone()),
        assign(2, 3, moving),
    ];
    assert_eq!(effects, expected);
    let stale = Err(CommitRefusal::StaleGeneration);
    let former = Some(Generation(1));
    let group = &scene.group;
    assert_eq!(
        group.check_commit(MemberId(1), kept[0], former, scene.now_ms),
        stale
    );
}
