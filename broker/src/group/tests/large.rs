//! Large groups: by what moves, not by how long it takes.

use super::scene::{Scene, moves, topic};
use crate::group::{Event, Generation, GroupState, MemberId};

#[test]
fn a_thousand_members_share_a_thousand_partitions_from_the_first_plan_on() {
    let mut scene = Scene::new(1_000);
    for member in 0..1_000 {
        scene.join(member);
    }
    let effects = scene.settle();
    assert_eq!(moves(&effects), 0);
    assert_eq!(scene.group.generation(), Generation(1));
    assert!((0..1_000).all(|member| scene.has(member).len() == 1));

    for member in 0..100 {
        scene.tell(Event::Leave(MemberId(member)));
    }
    let effects = scene.settle();
    assert_eq!(moves(&effects), 0);
    assert_eq!(scene.group.state(), GroupState::Stable);

    for member in 1_000..1_100 {
        scene.join(member);
    }
    let effects = scene.settle();
    assert_eq!(moves(&effects), 100);
    assert_eq!(scene.group.state(), GroupState::Stable);
    assert!((100..1_100).all(|member| scene.has(member).len() == 1));
}

#[test]
fn a_thousand_members_that_join_within_two_seconds_move_little() {
    let mut scene = Scene::new(1_000);
    let mut moved = 0;
    for member in 0..1_000 {
        scene.join(member);
        let mut effects = scene.wait(2);
        while let Some(effect) = effects.pop() {
            if let crate::group::Effect::Revoke {
                member, partitions, ..
            } = effect
            {
                moved += partitions.len();
                effects.extend(scene.revoked(member.0, &partitions));
            }
        }
    }
    let effects = scene.settle();
    moved += moves(&effects);
    // A plan each 200 ms: the second halves what the first gave, and so on; nine
    // plans move 1/2 + 1/3 + … + 1/10 of a thousand, and what is left over by some.
    assert!(moved <= 2_000, "{moved}");
    assert!(scene.group.generation() <= Generation(2_020));
    assert_eq!(scene.group.state(), GroupState::Stable);
    assert!((0..1_000).all(|member| scene.has(member).len() == 1));
}

#[test]
fn ten_thousand_partitions_of_many_topics_are_balanced_with_the_fewest_moves() {
    let topics = (0..100).map(|id| topic(id, &format!("t{id}"), 100));
    let mut scene = Scene::with_topics(topics.collect());
    for member in 0..99 {
        scene.join(member);
    }
    scene.settle();
    scene.join(99);
    let effects = scene.settle();
    assert_eq!(moves(&effects), 100);
    assert!((0..100).all(|member| scene.has(member).len() == 100));
}
