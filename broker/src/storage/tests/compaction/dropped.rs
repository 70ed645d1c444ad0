//! What compaction says of what it has dropped.

use super::*;
use crate::storage::Dropped;

impl Fixture {
    fn dropped(&self) -> (u64, u64) {
        let Dropped {
            superseded_to,
            tombstones_to,
        } = self.storage.dropped(&self.log).unwrap();
        (superseded_to.0, tombstones_to.0)
    }

    /// Two batches, of which the second one supersedes a record of the first and deletes
    /// another one; and one behind them.
    fn superseding() -> Fixture {
        let fixture = Fixture::new();
        fixture.put(&[("a", Some("1")), ("b", Some("1"))]);
        fixture.put(&[("a", Some("2")), ("b", None), ("c", Some("1"))]);
        fixture.put(&[("active", Some("1"))]);
        fixture.archive();
        fixture
    }

    fn compacted_file(&self) -> PathBuf {
        let files = self.files();
        let name = files.iter().find(|name| name.contains('-')).unwrap();
        segment::partition_dir(ID).join(name)
    }
}

#[test]
fn nothing_is_said_where_nothing_was_dropped() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.dropped(), (0, 0));
    fixture.put(&[("a", Some("1"))]);
    fixture.put(&[("b", Some("1"))]);
    fixture.put(&[("active", Some("1"))]);
    fixture.archive();
    assert_eq!(fixture.compact().replaced_segments, 2);
    assert_eq!(fixture.dropped(), (0, 0));
    assert_eq!(fixture.crash_and_reopen().dropped(), (0, 0));
}

#[test]
fn what_was_dropped_is_said_to_those_who_asked_before_and_after_a_crash() {
    let mut fixture = Fixture::superseding();
    assert_eq!(fixture.dropped(), (0, 0));
    fixture.compact();
    assert_eq!(fixture.keys_left(), "2a 4c 5active");
    assert_eq!(fixture.dropped(), (4, 4));
    let mut fixture = fixture.crash_and_reopen();
    assert_eq!(fixture.dropped(), (4, 4));
    // It stays so when the segment is replaced by one from which less is dropped.
    fixture.put(&[("active", Some("2"))]);
    fixture.put(&[("x", Some("1"))]);
    fixture.archive();
    fixture.compact();
    assert_eq!(fixture.dropped(), (7, 4));
    assert_eq!(fixture.crash_and_reopen().dropped(), (7, 4));
}

#[test]
fn a_segment_that_cannot_say_it_may_lack_anything() {
    let mut fixture = Fixture::superseding();
    fixture.compact();
    let file = fixture.compacted_file();
    let dir = fixture.dir.crash(1);
    dir.flip_bit(&file, 8 * 50);
    let fixture = Fixture::open(&dir, Arc::new(dir.clone()));
    assert_eq!(fixture.dropped(), (6, 6));
}

#[test]
fn who_asks_while_a_segment_is_replaced_hears_of_the_new_one() {
    let mut fixture = Fixture::superseding();
    fixture.compact();
    fixture.put(&[("c", None)]);
    fixture.put(&[("x", Some("1"))]);
    fixture.archive();
    let file = fixture.compacted_file();
    let dir = fixture.dir.crash(1);
    let trap = Trap {
        dir: dir.clone(),
        set: Arc::default(),
    };
    let fixture = Fixture::open(&dir, Arc::new(trap.clone()));
    let storage = fixture.storage.clone();
    let hook = move || {
        let codec = Arc::new(ProtobufRecords);
        let done = compact(&storage, &mut Compactor::new(codec, 8), &Gentle(true));
        assert!(done.unwrap().is_some());
    };
    *trap.set.lock().unwrap() = Some((Moment::Open, file, Box::new(hook)));
    assert_eq!(fixture.dropped(), (7, 7));
    assert!(trap.set.lock().unwrap().is_none());
}
