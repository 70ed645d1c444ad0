//! A local map that is kept current, against a broker that crashes and comes back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use statecast_client::{Change, Client, Entry, Error, Lease, Reason, Record, RecordRef, StateView};

use crate::library::{self, Phoenix};
use crate::state::{fold, real_changes};
use crate::state_library::create;

type Map = BTreeMap<Bytes, Bytes>;
/// Up to where a view was synced, and what it was then.
type Synced = (Vec<u64>, Map);

fn map_of(entries: impl Iterator<Item = Arc<Entry>>) -> Map {
    let pair = |entry: Arc<Entry>| (entry.key.clone(), entry.value.clone());
    entries.map(pair).collect()
}

/// What whoever is told changes makes of them.
#[derive(Clone, Default)]
struct Listener(Arc<Mutex<Map>>);

impl Listener {
    fn hear(&self, change: &Change) {
        let mut map = self.0.lock().unwrap();
        match change {
            Change::Put { entry, previous } => {
                assert_ne!(Some(entry), previous.as_ref(), "a real change");
                let before = map.insert(entry.key.clone(), entry.value.clone());
                assert_eq!(before.as_ref(), previous.as_ref().map(|entry| &entry.value));
            }
            Change::Removed { previous, .. } => {
                assert_eq!(map.remove(&previous.key).as_ref(), Some(&previous.value));
            }
            _ => unreachable!("there are no others"),
        }
    }

    fn map(&self) -> Map {
        self.0.lock().unwrap().clone()
    }
}

/// What the records of a topic up to these offsets make, as a reader finds them.
async fn fold_of_log(client: &Client, topic: &str, next: &[u64]) -> Map {
    let is_before = |record: &Record| record.offset < next[record.partition as usize];
    let records = library::read_all(client, topic).await;
    let mut map = Map::new();
    for record in records.into_iter().filter(is_before) {
        let key = record.key.unwrap();
        match record.value {
            Some(value) => drop(map.insert(key, value)),
            None => drop(map.remove(&key)),
        }
    }
    map
}

/// Sends changes, and waits until all of them are acknowledged.
async fn send(client: &Client, topic: &str, changes: &[statecast_proto::v1::Record]) {
    let producer = client.producer();
    for change in changes {
        let record = RecordRef {
            key: change.key.as_deref(),
            value: change.value.as_deref(),
            ..RecordRef::default()
        };
        drop(producer.send(topic, &record).await.unwrap());
    }
    producer.close().await.unwrap();
}

/// Waits until the view is as far as the log.
async fn caught_up(client: &Client, view: &mut StateView) {
    let ends = client.admin().list_offsets(view.topic(), None).await;
    let ends: Vec<_> = ends.unwrap().iter().map(|p| p.high_watermark).collect();
    while view.next_offsets() != ends {
        view.changed().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn view_follows_real_changes_over_crashes_of_the_broker() {
    let mut phoenix = Phoenix::start();
    let client = phoenix.client().await;
    create(&client, "t", 4).await;
    let changes = real_changes();
    send(&client, "t", &changes[..50]).await;

    let synced: Arc<Mutex<Vec<Synced>>> = Arc::default();
    let listener = Listener::default();
    let view = {
        let (listener, told) = (listener.clone(), listener.clone());
        let synced = Arc::clone(&synced);
        let view = client
            .state_view("t")
            .on_change(move |change| listener.hear(change))
            .on_synced(move |next| {
                let now = (next.to_vec(), told.map());
                synced.lock().unwrap().push(now);
            });
        view.open().await.unwrap()
    };
    view.wait_synced().await.unwrap();
    for (round, part) in changes[50..].chunks(changes.len() / 4).enumerate() {
        let sending = send(&client, "t", part);
        if round < 3 {
            // In the middle of it.
            let crash = async {
                let crashed = tokio::task::spawn_blocking(move || phoenix.crash_and_return());
                crashed.await.unwrap()
            };
            phoenix = tokio::join!(sending, crash).1;
        } else {
            sending.await;
        }
    }
    let expected = fold(&changes);
    let mut view = view;
    caught_up(&client, &mut view).await;
    assert_eq!(map_of(view.iter()), expected);
    assert_eq!(listener.map(), expected);
    assert_eq!(view.len(), expected.len());

    // Each time that it was synced, it was what the log says.
    let synced = std::mem::take(&mut *synced.lock().unwrap());
    assert!(
        synced.len() >= 2,
        "it came again {} times",
        synced.len() - 1
    );
    for (next, map) in synced {
        assert_eq!(map, fold_of_log(&client, "t", &next).await);
    }
}

#[tokio::test]
async fn view_of_a_prefix_or_of_keys_holds_only_those() {
    let phoenix = Phoenix::start();
    let client = phoenix.client().await;
    create(&client, "t", 2).await;
    let put = async |key: &str, value: &str| {
        let producer = client.producer();
        let record = RecordRef::new(key.as_bytes(), value.as_bytes());
        producer.send("t", &record).await.unwrap().await.unwrap();
    };
    put("a/1", "one").await;
    put("b/1", "one").await;
    let mut prefixed = client.state_view("t").prefix("a/").open().await.unwrap();
    let mut named = client
        .state_view("t")
        .keys(["b/1", "c"])
        .open()
        .await
        .unwrap();
    prefixed.wait_synced().await.unwrap();
    named.wait_synced().await.unwrap();
    put("b/2", "no").await;
    put("c", "yes").await;
    put("a/2", "two").await;
    while prefixed.len() < 2 {
        prefixed.changed().await.unwrap();
    }
    while named.len() < 2 {
        named.changed().await.unwrap();
    }
    let keys = |view: &StateView| map_of(view.iter()).into_keys().collect::<Vec<_>>();
    assert_eq!(keys(&prefixed), ["a/1", "a/2"]);
    assert_eq!(keys(&named), ["b/1", "c"]);
    assert_eq!(prefixed.prefixed("a/2").len(), 1);
    assert_eq!(prefixed.get("a/1").unwrap().value, "one");
    assert_eq!(prefixed.get("b/1"), None);
    let both = client.state_view("t").prefix("a").keys(["b"]).open().await;
    assert_eq!(both.unwrap_err().reason(), Some(Reason::InvalidRequest));
}

#[tokio::test]
async fn view_of_what_has_no_state_does_not_open_and_one_that_loses_it_ends() {
    let phoenix = Phoenix::start();
    let client = phoenix.client().await;
    library::create(&client, "log", 1).await;
    create(&client, "t", 1).await;
    let reason = async |topic: &str| {
        let opened = client.state_view(topic.to_owned()).open().await;
        opened.unwrap_err().reason()
    };
    assert_eq!(reason("no").await, Some(Reason::TopicNotFound));
    assert_eq!(reason("log").await, Some(Reason::TopicNotCompacted));

    let mut view = client.state_view("t").open().await.unwrap();
    let record = RecordRef::new(b"key", b"value");
    let producer = client.producer();
    producer.send("t", &record).await.unwrap().await.unwrap();
    view.changed().await.unwrap();
    client.admin().delete_topic("t").await.unwrap();
    let ended = view.changed().await.unwrap_err();
    assert_eq!(ended.reason(), Some(Reason::TopicNotFound));
    let again = view.changed().await.unwrap_err();
    assert_eq!(again.reason(), Some(Reason::TopicNotFound));
    assert!(!view.is_synced());
    assert_eq!(
        view.get("key").unwrap().value,
        "value",
        "it stays as it was"
    );
}

#[tokio::test]
async fn dropping_the_last_view_ends_its_task_and_a_panicking_callback_ends_the_view() {
    let phoenix = Phoenix::start();
    let client = phoenix.client().await;
    create(&client, "t", 1).await;
    let told = Arc::new(());
    let kept = Arc::clone(&told);
    let view = client
        .state_view("t")
        .on_change(move |_| drop(Arc::clone(&kept)));
    let view = view.open().await.unwrap();
    let other = view.clone();
    drop(view);
    other.wait_synced().await.unwrap();
    drop(other);
    while Arc::strong_count(&told) > 1 {
        tokio::task::yield_now().await;
    }

    let view = client.state_view("t").on_synced(|_| panic!("as it should"));
    let view = view.open().await.unwrap();
    let ended = view.wait_synced().await.unwrap_err();
    assert!(matches!(ended, Error::Closed), "{ended:?}");
}

#[tokio::test]
async fn view_sees_keys_vanish_with_their_lease_which_lives_through_a_crash() {
    let phoenix = Phoenix::start();
    let client = phoenix.client().await;
    create(&client, "services", 2).await;
    let ttl = Duration::from_secs(4);
    let lease = client.grant_lease(ttl).await.unwrap();
    let services = client.state("services");
    services.put("web/1", "here").lease(&lease).await.unwrap();
    services.put("web/2", "there").await.unwrap();
    let mut view = client.state_view("services").open().await.unwrap();
    view.wait_synced().await.unwrap();
    assert_eq!(view.get("web/1").unwrap().lease, Some(lease.id()));

    let crashed = tokio::task::spawn_blocking(|| phoenix.crash_and_return());
    let _phoenix = crashed.await.unwrap();
    // Long enough to have ended without its signs of life.
    let until = lease.alive_until() + ttl;
    while lease.alive_until() < until {
        assert!(lease.is_lost().is_none());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(services.get("web/1").await.unwrap().is_some());

    // Nobody keeps it alive any more.
    drop(lease);
    while view.get("web/1").is_some() {
        view.changed().await.unwrap();
    }
    assert_eq!(view.len(), 1, "the other one stays");
}

/// More than there can be calls on a connection.
#[tokio::test]
async fn thousands_of_leases_are_kept_alive_over_one_connection() {
    let phoenix = Phoenix::start();
    let client = phoenix.client().await;
    create(&client, "services", 1).await;
    let grants = (0..1100).map(|_| client.grant_lease(Duration::from_secs(6)));
    let leases = futures_util::future::try_join_all(grants).await.unwrap();
    let granted: Vec<_> = leases.iter().map(Lease::alive_until).collect();
    for (lease, granted) in leases.iter().zip(granted) {
        while lease.alive_until() == granted {
            assert!(lease.is_lost().is_none());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let services = client.state("services");
    let put = services.put("web/1", "here").lease(&leases[0]);
    put.await.unwrap();
}

#[tokio::test]
async fn lease_that_somebody_else_ends_is_told_as_lost() {
    let phoenix = Phoenix::start();
    let client = phoenix.client().await;
    create(&client, "services", 1).await;
    let lease = client.grant_lease(Duration::from_secs(3)).await.unwrap();
    let services = client.state("services");
    services.put("web/1", "here").lease(&lease).await.unwrap();
    assert_eq!(client.revoke_lease(lease.id()).await.unwrap(), 1);
    assert_eq!(lease.lost().await.reason(), Some(Reason::LeaseExpired));
    let late = services
        .put("web/1", "here")
        .lease(&lease)
        .await
        .unwrap_err();
    assert_eq!(late.reason(), Some(Reason::LeaseExpired));
    assert_eq!(services.get("web/1").await.unwrap(), None);
    assert_eq!(lease.revoke().await.unwrap(), 0, "there is nothing to do");
}
