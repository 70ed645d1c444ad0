//! The fold against a model of a broker that loses connections, repeats itself, takes
//! snapshots anew, compacts and removes, at random. What is true is told by the plain
//! history of the log.

use std::collections::{BTreeMap, VecDeque};

use statecast_proto::v1;
use statecast_proto::v1::watch_request::Start;
use statecast_proto::v1::watch_response::Event;

use super::change::Change;
use super::fold::{Fold, Step};
use super::map::StateMap;
use crate::error::Error;
use crate::{Reason, Version};

const PARTITIONS: u32 = 3;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[derive(Debug, Clone)]
struct Record {
    key: String,
    /// None is a tombstone.
    value: Option<String>,
}

#[derive(Debug, Default)]
struct Partition {
    log: Vec<Record>,
    /// Retention removed what lies below.
    start: u64,
    /// Below, compaction may have removed tombstones.
    complete_from: u64,
}

/// What of a key was set where: the value and the offset.
type Truth = BTreeMap<(String, u32), (String, u64)>;

/// What the first `next` records of each partition make of the keys that are
/// watched, without those below `starts`.
fn truth(partitions: &[Partition], next: &[u64], starts: &[u64]) -> Truth {
    let mut truth = Truth::new();
    for (number, partition) in (0..).zip(partitions) {
        let end = next[number as usize];
        for (offset, record) in (0..end).zip(&partition.log) {
            let place = (record.key.clone(), number);
            match &record.value {
                _ if !is_watched(&record.key) => {}
                Some(value) => drop(truth.insert(place, (value.clone(), offset))),
                None => drop(truth.remove(&place)),
            }
        }
    }
    truth.retain(|(_, partition), (_, offset)| *offset >= starts[*partition as usize]);
    truth
}

fn is_watched(key: &str) -> bool {
    key.starts_with('a')
}

/// A connection as the broker sees it.
#[derive(Debug)]
struct Link {
    /// What comes before anything else.
    queued: VecDeque<Event>,
    sent: Vec<u64>,
    synced: bool,
    snapshot: bool,
    /// Where the partitions began, as far as the watcher was told.
    starts: Vec<u64>,
}

struct World {
    random: Random,
    partitions: Vec<Partition>,
    link: Option<Link>,
    fold: Fold,
    map: StateMap,
    /// What the changes that were told make.
    told: Truth,
    /// As `Link::starts`, of what is in the map.
    starts: Vec<u64>,
    seen: Seen,
}

/// What came about.
#[derive(Debug, Default)]
struct Seen {
    syncs: u32,
    resumes: u32,
    resyncs: u32,
    refusals: u32,
    repeats: u32,
    missed_deletes: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            random: Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            partitions: (0..PARTITIONS).map(|_| Partition::default()).collect(),
            link: None,
            fold: Fold::default(),
            map: StateMap::default(),
            told: Truth::new(),
            starts: vec![0; PARTITIONS as usize],
            seen: Seen::default(),
        }
    }

    fn do_something(&mut self) {
        match self.random.below(100) {
            0..45 => self.append(),
            45..85 => self.serve(),
            85..88 => self.repeat(),
            88..92 => self.lose_connection(),
            92..94 => self.overflow(),
            94..97 => self.compact(),
            _ => self.truncate(),
        }
    }

    fn some_partition(&mut self) -> usize {
        usize::try_from(self.random.below(PARTITIONS.into())).unwrap()
    }

    fn append(&mut self) {
        let partition = self.some_partition();
        // The same key may lie in several partitions.
        let group = if self.random.chance(75) { 'a' } else { 'b' };
        let key = format!("{group}{}", self.random.below(5));
        let value = self.random.chance(70).then(|| self.random.below(3));
        let value = value.map(|value| value.to_string());
        self.partitions[partition].log.push(Record { key, value });
    }

    fn ends(&self) -> Vec<u64> {
        let end = |partition: &Partition| partition.log.len() as u64;
        self.partitions.iter().map(end).collect()
    }

    fn connect(&mut self) {
        match self.fold.start() {
            Start::From(from) => {
                let sent: Vec<_> = from.next_offsets.iter().map(|at| at.offset).collect();
                let incomplete = |(partition, &at): (&Partition, &u64)| {
                    at < partition.complete_from.max(partition.start)
                };
                if self.partitions.iter().zip(&sent).any(incomplete) {
                    self.seen.refusals += 1;
                    let refused = Error::refused_here(
                        Reason::ResumePointCompacted,
                        "compacted".to_owned(),
                        BTreeMap::new(),
                    );
                    assert!(self.fold.lost(&refused), "a snapshot helps, at once");
                    return;
                }
                self.seen.resumes += 1;
                let opened = Event::Opened(v1::WatchOpened { snapshot: false });
                self.link = Some(Link {
                    queued: [opened].into(),
                    sent,
                    synced: false,
                    snapshot: false,
                    starts: vec![0; PARTITIONS as usize],
                });
            }
            Start::Snapshot(_) => self.link = Some(self.snapshot()),
            Start::Latest(_) => panic!("nobody asks for that"),
        }
    }

    /// Begins with a snapshot of now.
    fn snapshot(&mut self) -> Link {
        let sent = self.ends();
        let starts: Vec<_> = self.partitions.iter().map(|p| p.start).collect();
        let mut entries: Vec<_> = truth(&self.partitions, &sent, &starts)
            .into_iter()
            .map(|((key, partition), (value, offset))| entry(partition, key, value, offset))
            .collect();
        let mut queued = VecDeque::from([Event::Opened(v1::WatchOpened { snapshot: true })]);
        while !entries.is_empty() {
            let at = self.random.below(entries.len() as u64);
            let piece = entries.split_off(usize::try_from(at).unwrap());
            queued.push_back(Event::Entries(v1::Entries { entries: piece }));
        }
        Link {
            queued,
            sent,
            synced: false,
            snapshot: true,
            starts,
        }
    }

    /// The next event of the connection, if there is one.
    fn serve(&mut self) {
        let Some(link) = &mut self.link else {
            return self.connect();
        };
        if let Some(event) = link.queued.pop_front() {
            return self.hear(&event);
        }
        let partitions = (0..).zip(&self.partitions);
        let truncated = partitions.clone().find(|(number, partition)| {
            partition.start > link.starts[usize::try_from(*number).unwrap()]
        });
        if let Some((number, partition)) = truncated {
            let at = usize::try_from(number).unwrap();
            link.starts[at] = partition.start;
            link.sent[at] = link.sent[at].max(partition.start);
            return self.hear(&Event::Truncated(v1::StateTruncated {
                partition: number,
                log_start_offset: partition.start,
            }));
        }
        let behind = partitions
            .clone()
            .find(|(number, partition)| (partition.log.len() as u64) > link.sent[*number as usize]);
        if let Some((number, partition)) = behind {
            let from = link.sent[number as usize];
            if partition.complete_from > from {
                return self.overflow();
            }
            let left = partition.log.len() as u64 - from;
            let to = from + 1 + self.random.below(left);
            link.sent[number as usize] = to;
            let changes = changes(number, partition, from..to);
            if !changes.is_empty() {
                self.hear(&Event::Changes(v1::Changes { changes }));
            }
            return;
        }
        let next_offsets = (0..).zip(&link.sent);
        let next_offsets =
            next_offsets.map(|(partition, &offset)| v1::RecordPosition { partition, offset });
        let synced = v1::Synced {
            next_offsets: next_offsets.collect(),
        };
        match std::mem::replace(&mut link.synced, true) {
            false => self.hear(&Event::Synced(synced)),
            true => self.hear(&Event::Progress(synced)),
        }
    }

    /// Changes that came before come again.
    fn repeat(&mut self) {
        let number = self.some_partition();
        let Some(link) = &self.link else { return };
        if !link.queued.is_empty() {
            return;
        }
        let to = link.sent[number];
        let from = link.starts[number].max(to.saturating_sub(3));
        let repeated = changes(
            u32::try_from(number).unwrap(),
            &self.partitions[number],
            from..to,
        );
        // Those of a snapshot that is coming were in it, and aren't changes since.
        if !repeated.is_empty() && link.synced {
            self.seen.repeats += 1;
            self.hear(&Event::Changes(v1::Changes { changes: repeated }));
        }
    }

    /// The watcher was too slow.
    fn overflow(&mut self) {
        if self.link.is_some() {
            self.seen.resyncs += 1;
            self.link = Some(self.snapshot());
        }
    }

    fn lose_connection(&mut self) {
        if self.link.take().is_some() {
            let lost = Error::Connection("lost".into());
            assert!(!self.fold.lost(&lost), "with patience");
        }
    }

    fn compact(&mut self) {
        let partition = self.some_partition();
        let partition = &mut self.partitions[partition];
        let end = partition.log.len() as u64;
        partition.complete_from = partition.complete_from.max(self.random.below(end + 1));
    }

    fn truncate(&mut self) {
        let partition = self.some_partition();
        let partition = &mut self.partitions[partition];
        let end = partition.log.len() as u64;
        let some = (partition.start + self.random.below(4)).min(end);
        partition.start = some;
    }

    fn hear(&mut self, event: &Event) {
        let before = self.map.clone();
        let step = self.fold.hear(&self.map, event.clone()).unwrap();
        assert_eq!(self.map, before, "it only looks");
        let replaces = matches!(step, Step::Replace { .. });
        for change in step.apply(&mut self.map) {
            self.tell(&change, replaces);
        }
        let link = self.link.as_ref().unwrap();
        self.seen.syncs += u32::from(matches!(event, Event::Synced(_)));
        match event {
            Event::Synced(_) if link.snapshot => self.starts.clone_from(&link.starts),
            Event::Truncated(gone) if !link.snapshot || link.synced => {
                self.starts[gone.partition as usize] = gone.log_start_offset;
            }
            _ => {}
        }
        self.check();
    }

    /// Whoever is told the changes can believe them.
    fn tell(&mut self, change: &Change, is_missed: bool) {
        let key = std::str::from_utf8(change.key()).unwrap().to_owned();
        let as_told = |entry: &crate::Entry| {
            let value = std::str::from_utf8(&entry.value).unwrap().to_owned();
            (value, entry.offset)
        };
        let before = match change {
            Change::Put { entry, previous } => {
                assert_ne!(previous.as_ref(), Some(entry), "a real change");
                let previous = previous.as_deref().map(as_told);
                let place = (key, entry.partition);
                let before = self.told.insert(place, as_told(entry));
                assert_eq!(before, previous);
                return;
            }
            Change::Removed { previous, .. } => {
                self.seen.missed_deletes += u32::from(is_missed);
                let before = self.told.remove(&(key, previous.partition));
                assert_eq!(before, Some(as_told(previous)));
                before
            }
        };
        assert!(before.is_some(), "what is gone was there");
    }

    /// The invariant, at every moment.
    fn check(&self) {
        let next = self.fold.next_offsets();
        if next.is_empty() {
            assert_eq!(self.map.len(), 0, "nothing is seen of half a snapshot");
            return;
        }
        assert_eq!(
            self.seen_by_readers(),
            truth(&self.partitions, next, &self.starts)
        );
        assert_eq!(self.seen_by_readers(), self.told);
    }

    fn seen_by_readers(&self) -> Truth {
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).unwrap().to_owned();
        let entries = self.map.all().map(|entry| {
            assert_eq!(entry.version, Version::from_number(entry.offset));
            let place = (text(&entry.key), entry.partition);
            (place, (text(&entry.value), entry.offset))
        });
        entries.collect()
    }

    /// Nothing goes wrong any more.
    fn finish(&mut self) {
        for _ in 0..10_000 {
            let is_done = self.fold.is_synced() && self.fold.next_offsets() == self.ends();
            if is_done
                && self
                    .link
                    .as_ref()
                    .is_some_and(|link| link.queued.is_empty())
            {
                return;
            }
            self.serve();
        }
        panic!("it doesn't come to an end");
    }
}

fn entry(partition: u32, key: String, value: String, offset: u64) -> v1::Entry {
    v1::Entry {
        partition,
        key: key.into(),
        value: value.into(),
        offset,
        version: offset,
        ..v1::Entry::default()
    }
}

fn changes(number: u32, partition: &Partition, offsets: std::ops::Range<u64>) -> Vec<v1::Change> {
    use v1::change::Change::{Put, Removed};
    let watched = offsets.filter_map(|offset| {
        let record = &partition.log[usize::try_from(offset).unwrap()];
        let key = record.key.clone();
        let change = match record.value.clone() {
            _ if !is_watched(&key) => return None,
            Some(value) => Put(entry(number, key, value, offset)),
            None => Removed(v1::Removed {
                partition: number,
                key: key.into(),
                offset,
                ..v1::Removed::default()
            }),
        };
        Some(v1::Change {
            change: Some(change),
        })
    });
    watched.collect()
}

#[test]
fn whatever_is_lost_the_map_equals_the_log_up_to_where_it_says() {
    let mut total = Seen::default();
    for seed in 1..1000 {
        let mut world = World::new(seed);
        for _ in 0..300 {
            world.do_something();
        }
        world.finish();
        world.check();
        total.syncs += world.seen.syncs;
        total.resumes += world.seen.resumes;
        total.resyncs += world.seen.resyncs;
        total.refusals += world.seen.refusals;
        total.repeats += world.seen.repeats;
        total.missed_deletes += world.seen.missed_deletes;
    }
    // Else it would have shown nothing.
    assert!(total.syncs > 3_000, "{total:?}");
    assert!(total.resumes > 2_000, "{total:?}");
    assert!(total.resyncs > 2_000, "{total:?}");
    assert!(total.refusals > 500, "{total:?}");
    assert!(total.repeats > 1_000, "{total:?}");
    assert!(total.missed_deletes > 1_000, "{total:?}");
}
