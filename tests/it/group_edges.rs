//! What a group makes of records that are not there any more: removed by retention,
//! or damaged. It is told so, and goes on behind them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use statecast_broker::metadata::FIRST_USER_PARTITION;
use statecast_broker::storage::dir::RealDir;
use statecast_broker::storage::{Pace, PartitionRetention, Storage, StorageOptions};
use statecast_proto::v1;
use statecast_proto::v1::consume_request::Request;
use statecast_proto::v1::consume_response::Event;

use crate::support::{Member, TestBroker, encode, join, position};

/// Records of the topic, each in a batch of its own.
const RECORDS: u64 = 60;

/// Bytes of each of them: ten to a segment.
const VALUE_BYTES: usize = 100 << 10;

/// The smallest that a topic may have. So the archiver makes the same segments when
/// the broker runs it and when a test does.
const SEGMENT_BYTES: u64 = 1 << 20;

struct Hasty;

impl Pace for Hasty {
    fn is_gentle(&self) -> bool {
        false
    }

    fn pause(&self) {}
}

/// Moves what is in the journal to segments.
fn archive(storage: &Storage) {
    let log = storage.partition(FIRST_USER_PARTITION);
    log.lock().segment_bytes = SEGMENT_BYTES;
    storage.close_journal_file();
    while storage.archive_oldest(1, &Hasty).unwrap() > 0 {}
}

fn open(data_dir: &Path) -> Storage {
    let dir = Arc::new(RealDir::take(data_dir).unwrap());
    let (storage, _) = Storage::open(dir, StorageOptions::default(), 1).unwrap();
    storage
}

/// Removes all but the last few records, as retention does every half minute.
fn remove_old(data_dir: &Path) {
    let storage = open(data_dir);
    archive(&storage);
    let retention = PartitionRetention {
        log: storage.partition(FIRST_USER_PARTITION),
        retention_ms: None,
        retention_bytes: Some(3 * SEGMENT_BYTES),
    };
    let removed = storage.apply_retention([retention].into_iter(), 1);
    assert!(removed.unwrap() > 1);
}

/// Damages the payload of a record in the middle.
fn damage(data_dir: &Path) {
    archive(&open(data_dir));
    let partition = format!("partitions/{}", FIRST_USER_PARTITION.0);
    let mut segments: Vec<_> = std::fs::read_dir(data_dir.join(partition))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    segments.sort();
    let segment = &segments[segments.len() / 2];
    let mut bytes = std::fs::read(segment).unwrap();
    let value = b"value-";
    let at = bytes
        .windows(value.len())
        .position(|window| window == value);
    bytes[at.unwrap()] ^= 1;
    std::fs::write(segment, bytes).unwrap();
}

fn value(offset: u64) -> Vec<u8> {
    let mut value = format!("value-{offset}-").into_bytes();
    value.resize(VALUE_BYTES, b'.');
    value
}

async fn produce(broker: &TestBroker, offset: u64) {
    let record = v1::Record {
        value: Some(value(offset).into()),
        ..v1::Record::default()
    };
    assert_eq!(broker.produce("t", 0, encode(vec![record])).await, offset);
}

async fn broker_with_records() -> TestBroker {
    let broker = TestBroker::start().await;
    let config = v1::TopicConfig {
        segment_bytes: Some(SEGMENT_BYTES),
        ..v1::TopicConfig::default()
    };
    let create = v1::CreateTopicRequest {
        name: "t".to_owned(),
        partitions: Some(1),
        config: Some(config),
    };
    broker.admin().create_topic(create).await.unwrap();
    for offset in 0..RECORDS {
        produce(&broker, offset).await;
    }
    broker
}

/// The readable range of the partition.
async fn range(broker: &TestBroker) -> (u64, u64) {
    let request = v1::ListOffsetsRequest {
        topic: "t".to_owned(),
        ..v1::ListOffsetsRequest::default()
    };
    let listed = broker.log().list_offsets(request).await.unwrap();
    let partition = listed.into_inner().partitions[0];
    (partition.log_start_offset, partition.high_watermark)
}

/// What a member gets from an offset on.
struct Heard {
    /// Where it is.
    next: u64,
    /// Offsets that it was told are not there.
    missing: Vec<(u64, u64)>,
}

impl Heard {
    fn from(next: u64) -> Heard {
        let missing = Vec::new();
        Heard { next, missing }
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Batches(read) => {
                for batch in read.batches {
                    let batch = batch.batch.unwrap();
                    assert_eq!(batch.base_offset, self.next, "nothing is left out unsaid");
                    let value = value(batch.base_offset);
                    assert!(batch.batch.ends_with(&value));
                    self.next = batch.next_offset;
                }
            }
            Event::Truncated(told) => {
                assert_eq!(told.topic, "t");
                let told = told.truncated.unwrap();
                self.skip(told.partition, told.from_offset, told.log_start_offset);
            }
            Event::Quarantined(told) => {
                assert_eq!(told.topic, "t");
                let told = told.quarantined.unwrap();
                self.skip(told.partition, told.from_offset, told.to_offset);
            }
            _ => {}
        }
    }

    fn skip(&mut self, partition: u32, from: u64, to: u64) {
        assert_eq!((partition, from), (0, self.next));
        assert!(from < to);
        self.missing.push((from, to));
        self.next = to;
    }

    async fn hear_until(&mut self, member: &mut Member, end: u64) {
        while self.next < end {
            self.hear(member.event().await);
        }
    }
}

/// Commits what was heard; the group then begins there, and gets what comes.
async fn assert_goes_on(broker: &TestBroker, mut member: Member, end: u64) {
    member.commit_all(vec![position("t", 0, end)]).await;
    let described = broker.describe_group("g").await;
    assert_eq!(described.partitions[0].committed_offset, Some(end));
    assert_eq!(described.partitions[0].lag, 0);
    member.leave().await;
    let mut next = Member::join(broker.connect().await, join("g", &["t"])).await;
    let assigned = next.assignment().await;
    assert_eq!(assigned.partitions[0].offset, end);
    produce(broker, end).await;
    let mut heard = Heard::from(end);
    heard.hear_until(&mut next, end + 1).await;
    assert_eq!(heard.missing, []);
    next.commit_all(vec![position("t", 0, end + 1)]).await;
}

#[tokio::test]
async fn a_group_whose_next_records_were_removed_is_told_and_goes_on() {
    let broker = broker_with_records().await;
    let mut member = Member::join(broker.connect().await, join("g", &["t"])).await;
    member.settle(1).await;
    member.commit_all(vec![position("t", 0, 3)]).await;
    member.vanish();
    let stopped = broker.stop_serving().await.0;
    let broker = stopped.start_changed(remove_old).await;
    let (start, end) = range(&broker).await;
    assert!(3 < start && start < end && end == RECORDS, "{start}..{end}");

    let mut member = Member::join(broker.connect().await, join("g", &["t"])).await;
    let assigned = member.assignment().await;
    assert!(assigned.partitions[0].committed);
    assert_eq!(assigned.partitions[0].offset, 3);
    let mut heard = Heard::from(3);
    heard.hear_until(&mut member, end).await;
    assert_eq!(heard.missing, [(3, start)]);
    assert_goes_on(&broker, member, end).await;
}

#[tokio::test]
async fn a_member_that_retention_overtakes_is_told_and_goes_on() {
    let broker = broker_with_records().await;
    let archive = |data_dir: &Path| archive(&open(data_dir));
    let stopped = broker.stop_serving().await.0;
    let broker = stopped.start_changed(archive).await;
    let slow = v1::Join {
        capacity: Some(v1::Credit {
            bytes: None,
            records: Some(1),
        }),
        ..join("g", &["t"])
    };
    let mut member = Member::join(broker.connect().await, slow).await;
    let mut heard = Heard::from(0);
    heard.hear_until(&mut member, 1).await;
    let config = v1::TopicConfig {
        retention_bytes: Some(3 * SEGMENT_BYTES),
        ..v1::TopicConfig::default()
    };
    let alter = v1::AlterTopicRequest {
        name: "t".to_owned(),
        partitions: None,
        config: Some(config),
    };
    broker.admin().alter_topic(alter).await.unwrap();
    // The broker looks every half minute.
    let mut beat = tokio::time::interval(Duration::from_millis(100));
    while range(&broker).await.0 == 0 {
        beat.tick().await;
        let heartbeat = v1::MemberHeartbeat {};
        member.say(Request::Heartbeat(heartbeat)).await;
    }
    // What it has got stays its own, and can be committed.
    member.commit_all(vec![position("t", 0, 1)]).await;
    member.take_more(0, RECORDS).await;
    heard.hear_until(&mut member, RECORDS).await;
    let (start, end) = range(&broker).await;
    let [(from, to)] = heard.missing[..] else {
        panic!("told once: {:?}", heard.missing);
    };
    assert!(from < to);
    assert_eq!((to, end), (start, RECORDS));
    assert_goes_on(&broker, member, end).await;
}

#[tokio::test]
async fn a_group_that_comes_to_damaged_records_is_told_and_goes_on() {
    let broker = broker_with_records().await;
    let stopped = broker.stop_serving().await.0;
    let broker = stopped.start_changed(damage).await;
    let mut member = Member::join(broker.connect().await, join("g", &["t"])).await;
    let mut heard = Heard::from(0);
    heard.hear_until(&mut member, RECORDS).await;
    let [(from, to)] = heard.missing[..] else {
        panic!("told once: {:?}", heard.missing);
    };
    assert!(10 < from && to < 50 && to == from + 1, "{from}..{to}");
    // A group may have come to rest within them, and is told again.
    member.commit_all(vec![position("t", 0, from)]).await;
    member.leave().await;
    let mut member = Member::join(broker.connect().await, join("g", &["t"])).await;
    assert_eq!(member.assignment().await.partitions[0].offset, from);
    let mut heard = Heard::from(from);
    heard.hear_until(&mut member, RECORDS).await;
    assert_eq!(heard.missing, [(from, to)]);
    assert_goes_on(&broker, member, RECORDS).await;
}
