//! Leases whose client goes away.

use futures_util::poll;

use super::Disk;

#[tokio::test]
async fn a_lease_that_nobody_waits_for_lives_and_ends_as_others_do() {
    let disk = Disk::new();
    let broker = disk.open().await;
    let first = broker.grant_lease(60_000).await.unwrap().0.get();
    let mut granting = Box::pin(broker.grant_lease(60_000));
    assert!(poll!(&mut granting).is_pending());
    drop(granting);
    // It lies in the log before the next one, whose id is the next but one.
    let next = broker.grant_lease(60_000).await.unwrap().0.get();
    assert_eq!(next, first + 2);
    while broker.keep_lease_alive(first + 1).is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(broker.revoke_lease(first + 1).await.unwrap(), Some(0));
    broker.stop().await;
}
