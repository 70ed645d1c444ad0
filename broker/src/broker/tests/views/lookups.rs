//! What calls find while a view is made anew, and behind damage.

use std::num::NonZeroU64;
use std::pin::pin;

use futures_util::poll;

use super::small::{Small, everything};
use super::world::CONFIG;
use super::*;
use crate::views::{LeaseId, LeasedBound};

#[tokio::test]
async fn nobody_takes_a_view_that_was_just_emptied_for_what_it_was() {
    let small = Small::start(CONFIG, usize::MAX);
    small.put_one("a", 10).await;
    small.put_one("b", 10).await;
    assert_eq!(small.keys().await.len(), 2);
    // It begins anew in the moment in which others look.
    small.view.empty(0);
    let view = small.view.clone();
    let (request, lease) = (everything(), LeaseId(NonZeroU64::MIN));
    let mut get = pin!(view.get(0, b"a", None));
    let mut scan = pin!(view.scan(&request));
    let mut look = pin!(view.look(0, b"a", |_| ()));
    let most = LeasedBound { keys: 1, bytes: 1 };
    let mut leased = pin!(view.leased(0, lease, most));
    assert!(poll!(&mut get).is_pending());
    assert!(poll!(&mut scan).is_pending());
    assert!(poll!(&mut look).is_pending());
    assert!(poll!(&mut leased).is_pending());
    // It goes on when it hears of the next record.
    small.put_one("b", 10).await;
    assert!(get.await.unwrap().record.is_some());
    assert_eq!(scan.await.unwrap().records.len(), 2);
    assert_eq!(look.await.unwrap().0, Some(Offset(0)));
    assert_eq!(leased.await.unwrap().keys, []);
    small.stop().await;
}

/// 200 keys in segments of a topic that is never compacted.
async fn archived(records: usize) -> Small {
    let config = PartitionConfig {
        compaction: None,
        ..CONFIG
    };
    let small = Small::start(config, records);
    for number in 0..200 {
        small.put_one(&format!("key-{number:03}"), 100).await;
    }
    // The view has read all of them before one is damaged.
    assert_eq!(small.keys().await.len(), 200);
    small.archive().await;
    small
}

#[tokio::test]
async fn a_scan_goes_on_behind_damage() {
    // What isn't in memory is read.
    let small = archived(0).await;
    assert!(small.disk.flip_bit_of(b"key-050"));
    let mut request = PageRequest {
        count: 7,
        ..everything()
    };
    let mut found = Vec::new();
    loop {
        let page = small.view.scan(&request).await.unwrap();
        found.extend(page.records.into_iter().map(|one| one.key));
        request.after = page.next;
        if request.after.is_none() {
            break;
        }
    }
    assert!(found.contains(&Bytes::from_static(b"key-199")));
    assert!(!found.contains(&Bytes::from_static(b"key-050")));
    small.stop().await;
}

#[tokio::test]
async fn what_could_not_be_read_is_looked_for_again_at_the_next_start() {
    let small = archived(usize::MAX).await;
    let index = tempfile::tempdir().unwrap();
    let followed = || {
        let store = ViewStore::new(index.path(), small.engine.cluster_id());
        let views = Views::new(store);
        let view = views.follow(std::slice::from_ref(&small.partition));
        (views, view)
    };
    assert!(small.disk.flip_bit_of(b"key-050"));
    let (views, view) = followed();
    let count = view.scan(&everything()).await.unwrap().records.len();
    assert!(count < 200, "{count}");
    views.stop().await;
    // It passes, as what a disk can't read for a while does.
    assert!(small.disk.flip_bit_of(b"jey-050"));
    let (views, view) = followed();
    let count = view.scan(&everything()).await.unwrap().records.len();
    assert_eq!(count, 200);
    views.stop().await;
    small.stop().await;
}
