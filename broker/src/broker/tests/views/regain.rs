//! Views whose keys don't fit into memory, and how they come back.

use super::small::{Forgetful, Small, all, everything, puts};
use super::world::CONFIG;
use super::*;

/// What some keys take, about.
const ROOM: usize = 10_000;

/// A topic beside that of a [`Small`], in the same memory, whose view is given up.
struct Crowded {
    partition: PartitionHandle,
    view: TopicView,
    /// How many keys it has.
    keys: usize,
}

async fn put(small: &Small, partition: &PartitionHandle, number: usize) {
    let record = (format!("key-{number:03}"), vec![b'x']);
    let offset = small
        .append_to(partition, puts(&[record], Compression::None))
        .await;
    assert_eq!(offset.0, number as u64);
}

/// Puts keys into another topic until there is no room for them.
async fn crowd(small: &Small) -> Crowded {
    let partition = small.another(21);
    let view = small.views.follow(std::slice::from_ref(&partition));
    let watch = Watch::open(view.clone(), all(), WatchStart::Snapshot);
    let mut watch = watch.await.unwrap();
    let mut keys = 0;
    while !is_too_large(&view).await {
        assert!(keys < ROOM, "there is room for all of them");
        put(small, &partition, keys).await;
        keys += 1;
    }
    let why = loop {
        if let Err(why) = watch.next().await {
            break why;
        }
    };
    assert!(matches!(why, ViewError::TooLarge { .. }), "{why}");
    let watch = Watch::open(view.clone(), all(), WatchStart::Snapshot).await;
    assert!(watch.is_err());
    Crowded {
        partition,
        view,
        keys,
    }
}

async fn is_too_large(view: &TopicView) -> bool {
    match view.get(0, b"key-000", None).await {
        Ok(_) => false,
        Err(ViewError::TooLarge { .. }) => true,
        Err(why) => panic!("{why}"),
    }
}

impl Crowded {
    /// Waits until it is there again, and is as it should be.
    async fn until_regained(&self, small: &Small, expected: usize) {
        while is_too_large(&self.view).await {
            tokio::task::yield_now().await;
        }
        let page = self.view.scan(&everything()).await.unwrap();
        assert_eq!(page.records.len(), expected);
        // And it is followed.
        let watch = Watch::open(self.view.clone(), all(), WatchStart::Snapshot);
        let mut watch = watch.await.unwrap();
        let mut receiver = Forgetful::default();
        receiver.until_synced(&mut watch).await;
        assert_eq!(receiver.0.len(), expected);
        let record = ("key-000".to_owned(), vec![b'y']);
        let offset = small
            .append_to(&self.partition, puts(&[record], Compression::None))
            .await;
        let changes = watch.next().await.unwrap();
        let WatchEvent::Changes(changes) = changes else {
            panic!("{changes:?}");
        };
        assert_eq!(changes[0].offset, offset);
    }
}

#[tokio::test]
async fn a_view_comes_back_once_another_topic_is_gone() {
    let mut small = Small::with_memory(CONFIG, ROOM, usize::MAX);
    for number in 0..50 {
        put(&small, &small.partition, number).await;
    }
    assert_eq!(small.keys().await.len(), 50);
    let crowded = crowd(&small).await;
    // The other one isn't pushed out by those that are tried again.
    assert_eq!(small.keys().await.len(), 50);
    let gone = small.another(22);
    // What the deletion of the topic does.
    small.view = small.views.follow(std::slice::from_ref(&gone));
    crowded.until_regained(&small, crowded.keys).await;
    small.stop().await;
}

#[tokio::test]
async fn a_view_comes_back_once_its_keys_are_fewer() {
    let small = Small::with_memory(CONFIG, ROOM, usize::MAX);
    let crowded = crowd(&small).await;
    let removed = crowded.keys / 4;
    for number in 0..removed {
        let mut builder = BatchBuilder::new(Compression::None);
        let key = format!("key-{:03}", crowded.keys - 1 - number);
        builder
            .push(&RecordRef {
                key: Some(key.as_bytes()),
                ..RecordRef::default()
            })
            .unwrap();
        let tombstone = builder.finish().payload;
        small.append_to(&crowded.partition, tombstone).await;
    }
    let compacting = small.engine.begin_compaction(Arc::new(ProtobufRecords), 7);
    compacting.unwrap();
    let mut number = 0;
    // Until then its log has more keys than fit, if only for a while.
    while is_too_large(&crowded.view).await {
        let record = (format!("key-{:03}", number % 3), vec![b'x']);
        let batch = puts(&[record], Compression::None);
        small.append_to(&crowded.partition, batch).await;
        small.engine.sweep_now();
        number += 1;
    }
    crowded.until_regained(&small, crowded.keys - removed).await;
    small.stop().await;
}
