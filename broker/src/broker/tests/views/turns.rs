//! That each watcher, and each partition, has its turn however fast others write.

use super::small::{Small, all, puts};
use super::world::CONFIG;
use super::*;

#[tokio::test]
async fn who_is_told_is_synced_while_something_is_always_waiting_for_it() {
    let small = Small::start(CONFIG, usize::MAX);
    small.put_one("a", 10).await;
    let mut watch = small.watch(all(), WatchStart::Snapshot).await;
    let mut events = Vec::new();
    while !matches!(events.last(), Some(WatchEvent::Synced(_))) {
        assert!(events.len() < 10, "{events:?}");
        events.push(watch.next().await.unwrap());
        // It is in the outbox before the watcher looks again.
        let offset = small.put_one("b", 10).await;
        let seen = small.view.wait_for(0, offset.advanced(1)).await;
        seen.unwrap();
    }
    small.stop().await;
}

/// More than a message, and little in the log.
fn large(key: &str) -> Bytes {
    let record = (key.to_owned(), vec![b'x'; 300 << 10]);
    puts(&[record], Compression::Lz4)
}

#[tokio::test]
async fn who_reads_comes_to_each_partition_and_is_synced_while_one_grows_as_fast() {
    let small = Small::start(CONFIG, usize::MAX);
    let quiet = small.another(21);
    let view = small
        .views
        .follow(&[small.partition.clone(), quiet.clone()]);
    small.append(large("fast")).await;
    let one = puts(&[("quiet".to_owned(), vec![b'x'])], Compression::None);
    small.append_to(&quiet, one).await;
    let start = WatchStart::From(vec![Offset::ZERO; 2]);
    let mut watch = Watch::open(view, all(), start).await.unwrap();
    let (mut is_quiet_heard, mut count) = (false, 0);
    loop {
        match watch.next().await.unwrap() {
            WatchEvent::Synced(_) => break,
            WatchEvent::Changes(changes) => {
                is_quiet_heard |= changes.iter().any(|change| change.partition == 1);
            }
            _ => {}
        }
        count += 1;
        assert!(count < 20, "{is_quiet_heard}");
        small.append(large("fast")).await;
    }
    assert!(is_quiet_heard);
    small.stop().await;
}
