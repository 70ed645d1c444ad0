//! What a watcher is told of retention and damage, how large its messages are, and when
//! it is synced.

use std::pin::pin;

use futures_util::poll;

use super::small::{Forgetful, RETAINED, Small, all, everything};
use super::world::CONFIG;
use super::*;
use crate::limits;

#[tokio::test]
async fn who_comes_again_is_told_what_retention_removed_meanwhile() {
    let small = Small::start(RETAINED, usize::MAX);
    for number in 0..100 {
        small.put_one(&format!("{number:03}"), 100).await;
    }
    let mut receiver = Forgetful::default();
    let mut watch = small.watch(all(), WatchStart::Snapshot).await;
    let next = receiver.until_synced(&mut watch).await;
    assert_eq!(receiver.0.len(), 100);
    drop(watch);
    assert!(small.retain().await < next[0]);
    small.until_fewer_than(100).await;
    let mut watch = small.watch(all(), WatchStart::From(next)).await;
    receiver.until_synced(&mut watch).await;
    assert_eq!(receiver.keys(), small.keys().await);
    small.stop().await;
}

#[tokio::test]
async fn who_was_too_slow_is_told_what_retention_removed_meanwhile() {
    let small = Small::start(RETAINED, usize::MAX);
    for number in 0..20 {
        small.put_one(&format!("{number:03}"), 100).await;
    }
    let mut receiver = Forgetful::default();
    let mut watch = small.watch(all(), WatchStart::Snapshot).await;
    receiver.until_synced(&mut watch).await;
    for number in 0..10 {
        small.put_one(&format!("later-{number}"), 8 << 10).await;
    }
    receiver.until_quiet(&mut watch).await;
    // It would be told that some of what it has heard is removed, but then comes too much.
    assert!(small.retain().await <= small.partition.high_watermark());
    small.until_fewer_than(30).await;
    for number in 0..=limits::WATCH_OUTBOX_BYTES / (8 << 10) {
        small
            .put_one(&format!("later-{}", number % 10), 8 << 10)
            .await;
    }
    receiver.until_quiet(&mut watch).await;
    assert_eq!(receiver.keys(), small.keys().await);
    assert!(!receiver.0.contains_key(&b"000"[..]));
    small.stop().await;
}

#[tokio::test]
async fn who_reads_where_a_tombstone_went_meanwhile_has_a_snapshot() {
    let small = Small::start(CONFIG, usize::MAX);
    small.put_one("gone", 100).await;
    let mut receiver = Forgetful::default();
    let mut watch = small.watch(all(), WatchStart::Snapshot).await;
    let next = receiver.until_synced(&mut watch).await;
    let tombstone = small.remove("gone").await;
    // It is still there when the watch is opened.
    let mut watch = small.watch(all(), WatchStart::From(next)).await;
    let compacting = small.engine.begin_compaction(Arc::new(ProtobufRecords), 7);
    compacting.unwrap();
    let mut number = 0;
    while small
        .partition
        .compacted()
        .await
        .unwrap()
        .tombstones_removed_to
        <= tombstone
    {
        small.put_one(&format!("other-{}", number % 3), 100).await;
        small.engine.sweep_now();
        number += 1;
    }
    receiver.until_synced(&mut watch).await;
    assert_eq!(receiver.keys(), small.keys().await);
    assert!(!receiver.0.contains_key(&b"gone"[..]));
    small.stop().await;
}

#[tokio::test]
async fn damage_that_a_reader_comes_upon_is_made_good_by_a_snapshot() {
    let config = PartitionConfig {
        compaction: None,
        ..CONFIG
    };
    let small = Small::start(config, usize::MAX);
    for number in 0..200 {
        small.put_one(&format!("key-{number:03}"), 100).await;
    }
    assert_eq!(small.keys().await.len(), 200);
    small.engine.sweep_now();
    assert!(small.disk.flip_bit_of(b"key-050"));
    let mut receiver = Forgetful::default();
    let start = WatchStart::From(vec![Offset::ZERO]);
    let mut watch = small.watch(all(), start).await;
    let opened = |snapshot| WatchEvent::Opened { snapshot };
    assert_eq!(watch.next().await.unwrap(), opened(false));
    loop {
        match watch.next().await.unwrap() {
            WatchEvent::Changes(changes) => receiver.hear(WatchEvent::Changes(changes)),
            other => break assert_eq!(other, opened(true)),
        }
    }
    receiver.until_synced(&mut watch).await;
    assert_eq!(receiver.keys(), small.keys().await);
    small.stop().await;
}

#[tokio::test]
async fn a_snapshot_goes_on_behind_damage() {
    let config = PartitionConfig {
        compaction: None,
        ..CONFIG
    };
    // What isn't in memory is read.
    let small = Small::start(config, 0);
    for number in 0..200 {
        small.put_one(&format!("key-{number:03}"), 100).await;
    }
    // The view has read all of them before one is damaged.
    assert_eq!(small.keys().await.len(), 200);
    small.archive().await;
    assert!(small.disk.flip_bit_of(b"key-050"));
    let mut receiver = Forgetful::default();
    let mut watch = small.watch(all(), WatchStart::Snapshot).await;
    receiver.until_synced(&mut watch).await;
    assert!(!receiver.0.contains_key(&b"key-050"[..]));
    assert!(receiver.0.contains_key(&b"key-199"[..]));
    let error = small.view.get(0, b"key-050", None).await.unwrap_err();
    assert!(matches!(error, ViewError::Damaged { .. }), "{error}");
    small.stop().await;
}

/// 100 records of 30 KiB, which take little in the log.
async fn large(small: &Small) -> Vec<Bytes> {
    let record = |number| (format!("{number:03}"), vec![b'x'; 30 << 10]);
    let records: Vec<_> = (0..100).map(record).collect();
    small.put(&records, Compression::Lz4).await;
    records.into_iter().map(|(key, _)| key.into()).collect()
}

#[tokio::test]
async fn messages_are_small_however_the_records_are_found() {
    // All are kept, or none.
    for records in [usize::MAX, 0] {
        let small = Small::start(CONFIG, records);
        let keys = large(&small).await;
        let named = Filter::Keys(keys.iter().cloned().collect());
        let starts = [
            (all(), WatchStart::Snapshot),
            (named, WatchStart::Snapshot),
            (all(), WatchStart::From(vec![Offset::ZERO])),
        ];
        for (filter, start) in starts {
            let mut watch = small.watch(filter, start).await;
            let mut heard = Vec::new();
            loop {
                let changes = match watch.next().await.unwrap() {
                    WatchEvent::Entries(changes) | WatchEvent::Changes(changes) => changes,
                    WatchEvent::Synced(_) => break,
                    _ => continue,
                };
                let bytes: usize = changes.iter().map(|change| change.body.len()).sum();
                let most = limits::WATCH_READ_BYTES.max(limits::WATCH_MESSAGE_BYTES);
                assert!(bytes <= most + (31 << 10), "{bytes} bytes at once");
                heard.extend(changes.into_iter().map(|change| change.key));
            }
            heard.sort();
            assert_eq!(heard, keys);
        }
        let mut request = PageRequest {
            bytes: 200 << 10,
            ..everything()
        };
        let mut found = Vec::new();
        loop {
            let page = small.view.scan(&request).await.unwrap();
            let bytes: usize = page.records.iter().map(|one| one.body.len()).sum();
            assert!(bytes <= (200 + 31) << 10, "{bytes} bytes at once");
            found.extend(page.records.into_iter().map(|one| one.key));
            request.after = page.next;
            if request.after.is_none() {
                break;
            }
        }
        assert_eq!(found, keys);
        small.stop().await;
    }
}

#[tokio::test]
async fn a_large_batch_is_read_once_however_many_messages_it_takes() {
    let small = Small::start(CONFIG, 0);
    let keys = large(&small).await;
    assert_eq!(small.keys().await.len(), keys.len());
    let named = Filter::Keys(keys.iter().cloned().collect());
    let read = || small.engine.traffic().read_batches;
    let before = read();
    for (filter, start) in [
        (all(), WatchStart::From(vec![Offset::ZERO])),
        (all(), WatchStart::From(vec![Offset(50)])),
        (all(), WatchStart::Snapshot),
        (named, WatchStart::Snapshot),
    ] {
        let mut watch = small.watch(filter, start).await;
        Forgetful::default().until_synced(&mut watch).await;
    }
    for key in &keys {
        assert!(small.view.get(0, key, None).await.unwrap().record.is_some());
    }
    assert_eq!(read(), before, "the scan has read it, and it was kept");
    small.stop().await;
}

#[tokio::test]
async fn a_snapshot_is_not_taken_of_a_view_that_is_being_made_anew() {
    let small = Small::start(CONFIG, usize::MAX);
    for key in ["a", "b", "c"] {
        small.put_one(key, 10).await;
    }
    let mut watch = small.watch(all(), WatchStart::Snapshot).await;
    small.view.begin_anew(0);
    {
        let mut next = pin!(watch.next());
        assert!(poll!(&mut next).is_pending(), "there is nothing in it");
        small.put_one("d", 10).await;
        let opened = WatchEvent::Opened { snapshot: true };
        assert_eq!(next.await.unwrap(), opened);
    }
    let mut receiver = Forgetful::default();
    let synced = receiver.until_synced(&mut watch).await;
    assert_eq!((receiver.0.len(), synced), (4, vec![Offset(4)]));
    small.stop().await;
}

#[tokio::test]
async fn nobody_is_synced_where_a_record_may_be_missing() {
    let small = Small::start(CONFIG, usize::MAX);
    for key in ["a", "b", "c"] {
        small.put_one(key, 10).await;
    }
    let mut watch = small.watch(all(), WatchStart::Snapshot).await;
    // One of them was superseded by the record at offset 4.
    small.view.note_superseded(0, Offset(5));
    let mut receiver = Forgetful::default();
    {
        let mut synced = pin!(receiver.until_synced(&mut watch));
        assert!(poll!(&mut synced).is_pending());
        small.put_one("d", 10).await;
        assert!(poll!(&mut synced).is_pending());
        small.put_one("b", 10).await;
        assert_eq!(synced.await, [Offset(5)]);
    }
    assert_eq!(receiver.0.len(), 4);
    small.stop().await;
}
