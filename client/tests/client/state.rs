//! What writes, views and leases promise, whatever the broker does.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use statecast_client::{Change, Error, LeaseId, Reason, StateView, Version, Write};
use statecast_proto::v1;
use statecast_proto::v1::watch_request::Start;
use statecast_proto::v1::watch_response::Event;

use super::fake_state::{Answer, FakeState, Play, Sign};

fn opened(snapshot: bool) -> Play {
    Play::Send(Event::Opened(v1::WatchOpened { snapshot }))
}

fn entry(key: &str, value: &str, offset: u64) -> v1::Entry {
    v1::Entry {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        offset,
        version: offset,
        ..v1::Entry::default()
    }
}

fn entries(entries: &[(&str, &str, u64)]) -> Play {
    let entries = entries
        .iter()
        .map(|(key, value, offset)| entry(key, value, *offset));
    let entries = entries.collect();
    Play::Send(Event::Entries(v1::Entries { entries }))
}

fn put(key: &str, value: &str, offset: u64) -> Play {
    let change = v1::change::Change::Put(entry(key, value, offset));
    changes(change)
}

fn removed(key: &str, offset: u64) -> Play {
    changes(v1::change::Change::Removed(v1::Removed {
        key: key.to_owned().into(),
        offset,
        ..v1::Removed::default()
    }))
}

fn changes(change: v1::change::Change) -> Play {
    let change = v1::Change {
        change: Some(change),
    };
    Play::Send(Event::Changes(v1::Changes {
        changes: vec![change],
    }))
}

fn position(offset: u64) -> v1::RecordPosition {
    v1::RecordPosition {
        partition: 0,
        offset,
    }
}

fn synced(offset: u64) -> Play {
    Play::Send(Event::Synced(v1::Synced {
        next_offsets: vec![position(offset)],
    }))
}

fn progress(offset: u64) -> Play {
    Play::Send(Event::Progress(v1::Synced {
        next_offsets: vec![position(offset)],
    }))
}

/// What the next watch was asked to begin with.
fn starts(fake: &FakeState) -> Vec<Start> {
    let script = fake.script();
    let starts = script.watch_requests.iter();
    starts
        .map(|request| request.start.clone().unwrap())
        .collect()
}

fn snapshot() -> Start {
    Start::Snapshot(v1::WatchSnapshot {})
}

fn from(offset: u64) -> Start {
    Start::From(v1::WatchFrom {
        next_offsets: vec![position(offset)],
    })
}

/// Opens a view and notes what it tells: `key=value`, or `key` that is gone.
async fn open(fake: &FakeState) -> (StateView, Arc<Mutex<Vec<String>>>) {
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let note = Arc::clone(&told);
    let view = fake
        .client()
        .await
        .state_view("t")
        .on_change(move |change| {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let line = match change {
                Change::Put { entry, .. } => format!("{}={}", text(&entry.key), text(&entry.value)),
                Change::Removed { previous, .. } => text(&previous.key),
                _ => unreachable!("there are no others"),
            };
            note.lock().unwrap().push(line);
        });
    (view.open().await.unwrap(), told)
}

/// Waits until a key has a value.
async fn until(view: &mut StateView, key: &str, value: Option<&str>) {
    let is = |view: &StateView| {
        view.get(key).map(|entry| entry.value.clone()) == value.map(|v| v.to_owned().into())
    };
    while !is(view) {
        view.changed().await.unwrap();
    }
}

#[tokio::test]
async fn write_whose_answer_was_lost_is_made_again_by_the_same_name() {
    let fake = FakeState::start().await;
    let state = fake.client().await.state("t");
    fake.script().writes = [Answer::Lose, Answer::Lose].into();
    let written = state.put("key", "value").await.unwrap();
    assert_eq!(written.version, Version::from_number(0));
    state.put("key", "value").await.unwrap();
    fake.script().writes = [Answer::Lose].into();
    state.delete("key").await.unwrap();

    let script = fake.script();
    let names: Vec<_> = script
        .put_requests
        .iter()
        .map(|put| put.request_id.clone().unwrap())
        .collect();
    assert_eq!(names[0], names[1]);
    assert_eq!(names[1], names[2]);
    assert_ne!(names[2], names[3], "another write has another name");
    let deletes = &script.delete_requests;
    assert_eq!(deletes[0], deletes[1]);
    assert!(deletes[0].request_id.is_some());
}

#[tokio::test]
async fn write_is_sent_as_it_was_asked_for() {
    let fake = FakeState::start().await;
    let state = fake.client().await.state("t");
    let lease = LeaseId::from_number(5);
    let put = state
        .put("a", "1")
        .expect_absent()
        .header("by", "me")
        .lease(lease)
        .partition(3)
        .request_id("mine");
    put.await.unwrap();
    let writes = [
        Write::put("b", "").expect_version(Version::from_number(9)),
        Write::delete("c"),
    ];
    assert_eq!(state.put_all(writes).await.unwrap().len(), 2);
    let script = fake.script();
    let [one, two] = &script.put_requests[..] else {
        panic!("two requests");
    };
    assert_eq!((&*one.topic, one.partition), ("t", Some(3)));
    assert_eq!(one.request_id.as_deref(), Some("mine"));
    let [write] = &one.writes[..] else {
        panic!("one write");
    };
    assert_eq!(write.lease_id, Some(5));
    assert_eq!(write.headers[0].value.as_deref(), Some(&b"me"[..]));
    let absent = v1::expected_version::Expected::Absent(v1::Absent {});
    assert_eq!(write.expected.unwrap().expected, Some(absent));
    let empty = v1::write::Change::Value(bytes::Bytes::new());
    assert_eq!(two.writes[0].change, Some(empty), "no tombstone");
    let version = v1::expected_version::Expected::Version(9);
    assert_eq!(two.writes[0].expected.unwrap().expected, Some(version));
    let removal = v1::write::Change::Remove(v1::Removal {});
    assert_eq!(two.writes[1].change, Some(removal));
}

#[tokio::test]
async fn mismatch_is_told_once_with_the_version_that_is_and_not_retried() {
    let fake = FakeState::start().await;
    let state = fake.client().await.state("t");
    let current = vec![("current_version", "12".to_owned())];
    fake.script().writes = [Answer::Refuse(Reason::VersionMismatch, current)].into();
    let error = state
        .put("key", "value")
        .expect_version(Version::from_number(1));
    let error = error.await.unwrap_err();
    let Error::VersionMismatch { current, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(*current, Some(Version::from_number(12)));
    assert_eq!(error.reason(), Some(Reason::VersionMismatch));
    assert_eq!(fake.script().put_requests.len(), 1);
}

#[tokio::test]
async fn scan_whose_pages_lead_nowhere_ends() {
    let fake = FakeState::start().await;
    let error = fake.client().await.state("t").scan("").await.unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error:?}");
}

#[tokio::test]
async fn view_goes_on_where_it_was_after_a_lost_connection() {
    let fake = FakeState::start().await;
    fake.script().watches = [
        // Nothing is kept of a snapshot that doesn't come to its end.
        vec![opened(true), entries(&[("x", "0", 0)]), Play::Vanish],
        vec![
            opened(true),
            entries(&[("a", "1", 4), ("b", "1", 5)]),
            synced(7),
            put("a", "2", 8),
            Play::Vanish,
        ],
        vec![
            opened(false),
            removed("b", 9),
            put("a", "3", 12),
            synced(15),
            Play::Vanish,
        ],
        // Even with what came before.
        vec![opened(false), put("a", "3", 12), progress(20), Play::Vanish],
        vec![opened(false), put("c", "1", 21), synced(22)],
    ]
    .into();
    let (mut view, told) = open(&fake).await;
    until(&mut view, "c", Some("1")).await;
    assert_eq!(
        *told.lock().unwrap(),
        ["a=1", "b=1", "a=2", "b", "a=3", "c=1"]
    );
    assert_eq!(
        starts(&fake),
        [snapshot(), snapshot(), from(9), from(15), from(20)]
    );
    assert_eq!(view.len(), 2);
}

#[tokio::test]
async fn view_whose_resume_point_was_compacted_tells_what_it_missed_at_one_moment() {
    let fake = FakeState::start().await;
    let before = [("a", "1", 1), ("gone", "1", 2), ("same", "1", 3)];
    fake.script().watches = [
        vec![opened(true), entries(&before), synced(5), Play::Vanish],
        vec![Play::Refuse(Reason::ResumePointCompacted)],
        // Lost in the middle: what there was stays, and it is another snapshot.
        vec![opened(true), entries(&[("a", "2", 8)]), Play::Vanish],
        vec![
            opened(true),
            entries(&[("same", "1", 3), ("a", "2", 8)]),
            put("new", "1", 11),
            synced(12),
            put("end", "1", 12),
        ],
    ]
    .into();
    let (mut view, told) = open(&fake).await;
    view.wait_synced().await.unwrap();
    until(&mut view, "end", Some("1")).await;
    let missed = ["a=1", "gone=1", "same=1", "a=2", "gone", "new=1", "end=1"];
    assert_eq!(*told.lock().unwrap(), missed);
    assert_eq!(starts(&fake), [snapshot(), from(5), snapshot(), snapshot()]);
}

#[tokio::test]
async fn view_that_is_sent_a_snapshot_in_between_takes_it() {
    let fake = FakeState::start().await;
    fake.script().watches = [vec![
        opened(true),
        entries(&[("a", "1", 1), ("b", "1", 2)]),
        synced(3),
        opened(true),
        entries(&[("b", "1", 2), ("c", "1", 9)]),
        removed("c", 10),
        synced(11),
        Play::Send(Event::Truncated(v1::StateTruncated {
            partition: 0,
            log_start_offset: 3,
        })),
        put("end", "1", 12),
    ]]
    .into();
    let (mut view, told) = open(&fake).await;
    until(&mut view, "end", Some("1")).await;
    assert_eq!(*told.lock().unwrap(), ["a=1", "b=1", "a", "b", "end=1"]);
    assert_eq!(view.next_offsets(), [13]);
}

#[tokio::test]
async fn view_ends_with_what_no_retry_mends_and_with_nonsense() {
    let fake = FakeState::start().await;
    fake.script().watches = [
        vec![opened(true), synced(0), Play::Refuse(Reason::TopicNotFound)],
        vec![opened(true), synced(0), entries(&[("a", "1", 1)])],
    ]
    .into();
    let (mut view, _) = open(&fake).await;
    let ended = view.changed().await.unwrap_err();
    assert_eq!(ended.reason(), Some(Reason::TopicNotFound));
    let (mut view, _) = open(&fake).await;
    let ended = view.changed().await.unwrap_err();
    assert!(matches!(ended, Error::Protocol(_)), "{ended:?}");
    assert_eq!(view.len(), 0);
}

#[tokio::test]
async fn lease_is_kept_alive_over_lost_connections_until_the_broker_says_it_is_over() {
    let fake = FakeState::start().await;
    let client = fake.client().await;
    fake.script().signs = [
        Sign::Lives,
        Sign::Vanish,
        Sign::Lives,
        Sign::Lives,
        Sign::Over,
    ]
    .into();
    let lease = client
        .grant_lease(Duration::from_millis(900))
        .await
        .unwrap();
    assert_eq!(
        (lease.id().number(), lease.ttl()),
        (7, Duration::from_millis(900))
    );
    let until = lease.alive_until();
    assert!(lease.is_lost().is_none());
    let lost = lease.lost().await;
    assert_eq!(lost.reason(), Some(Reason::LeaseExpired));
    assert!(fake.script().signs_heard >= 5);
    assert!(lease.alive_until() >= until);
    // There is nothing to be done any more.
    fake.script().writes = [Answer::Refuse(Reason::LeaseExpired, Vec::new())].into();
    assert_eq!(lease.revoke().await.unwrap(), 0);
}

#[tokio::test]
async fn lease_isnt_lost_by_what_the_broker_doesnt_say() {
    let fake = FakeState::start().await;
    let client = fake.client().await;
    fake.script().signs = [Sign::Strange, Sign::Lives, Sign::Over].into();
    let lease = client
        .grant_lease(Duration::from_millis(300))
        .await
        .unwrap();
    assert_eq!(lease.lost().await.reason(), Some(Reason::LeaseExpired));
    assert!(fake.script().signs_heard >= 3);
}

#[tokio::test]
async fn lease_is_asked_for_again_in_time_when_a_connection_falls_silent() {
    let fake = FakeState::start().await;
    let client = fake.client().await;
    let ttl = Duration::from_secs(3);
    fake.script().signs = [Sign::Silent, Sign::Lives].into();
    let lease = client.grant_lease(ttl).await.unwrap();
    let granted = lease.alive_until();
    while lease.alive_until() == granted {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(fake.script().signs_heard, 2);
    // It was asked for the second time while it lived.
    assert!(lease.alive_until() < granted + ttl);
}

#[tokio::test]
async fn lease_that_nobody_has_is_not_kept_alive() {
    let fake = FakeState::start().await;
    let client = fake.client().await;
    let lease = client.grant_lease(Duration::from_millis(30)).await.unwrap();
    while fake.script().signs_heard < 2 {
        tokio::task::yield_now().await;
    }
    let other = lease.clone();
    assert_eq!(lease.revoke().await.unwrap(), 3);
    assert_eq!(fake.script().revoked, [7]);
    drop(other);
    while fake.script().signs_ended == 0 {
        tokio::task::yield_now().await;
    }
}
