//! The topics that a sender remembers.

use super::super::recent_topics::{RecentTopics, SWEEP_FROM};
use super::{Disk, create, name, stop};

#[tokio::test]
async fn a_sender_finds_topics_as_they_are_now_in_whatever_order() {
    let disk = Disk::new();
    let broker = disk.open().await;
    let names = ["a", "b", "c", "d"];
    let mut ids = Vec::new();
    for name in names {
        ids.push(create(&broker, name).await);
    }
    let mut recent = RecentTopics::default();
    for nth in [0, 1, 2, 3, 0, 1, 2, 3, 3, 1, 0, 2, 0] {
        let topic = recent.get(&broker, names[nth]).unwrap();
        assert_eq!(topic.partition(0).unwrap().id(), ids[nth]);
    }
    broker.delete_topic(name("b")).await.unwrap();
    recent.get(&broker, "a").unwrap();
    recent.get(&broker, "b").unwrap_err();
    recent.get(&broker, "b").unwrap_err();
    for nth in [3, 2, 0] {
        let topic = recent.get(&broker, names[nth]).unwrap();
        assert_eq!(topic.partition(0).unwrap().id(), ids[nth]);
    }
    let again = create(&broker, "b").await;
    let topic = recent.get(&broker, "b").unwrap();
    assert_eq!(topic.partition(0).unwrap().id(), again);
    stop(broker).await;
}

#[tokio::test]
async fn topics_that_were_deleted_do_not_pile_up_with_a_sender() {
    let disk = Disk::new();
    let broker = disk.open().await;
    create(&broker, "stays").await;
    let mut recent = RecentTopics::default();
    for nth in 0..3 * SWEEP_FROM {
        let short_lived = format!("short-lived-{nth}");
        create(&broker, &short_lived).await;
        recent.get(&broker, &short_lived).unwrap();
        recent.get(&broker, "stays").unwrap();
        broker.delete_topic(name(&short_lived)).await.unwrap();
        assert!(recent.len() <= SWEEP_FROM, "{}", recent.len());
    }
    stop(broker).await;
}
