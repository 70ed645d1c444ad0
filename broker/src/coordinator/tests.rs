//! Groups over a log that the test holds back, fails or loses, in time that stands
//! still but when nothing else is left to do.

mod beginnings;
mod deletion;
mod fold;
mod format_page;
mod members;

use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::*;
use crate::group::{Generation, MemberName, Subscription, Topic};
use crate::model::{LogRecord, NewRecord, PartitionId, TopicId, TopicName};

/// A log in memory.
#[derive(Debug, Clone)]
struct FakeLog {
    records: Arc<Mutex<Vec<NewRecord>>>,
    /// What was appended becomes durable only while this is true.
    flushes: watch::Sender<bool>,
    /// What appends fail with, if they do.
    failure: watch::Sender<Option<LogError>>,
}

impl FakeLog {
    fn new() -> FakeLog {
        FakeLog {
            records: Arc::default(),
            flushes: watch::Sender::new(true),
            failure: watch::Sender::new(None),
        }
    }

    fn fail(&self, failure: Option<LogError>) {
        self.failure.send_replace(failure);
    }

    fn set_flushing(&self, flushes: bool) {
        self.flushes.send_replace(flushes);
    }

    fn len(&self) -> usize {
        self.records.lock().unwrap().len()
    }

    /// Another log with what this one holds.
    fn fork(&self) -> FakeLog {
        let records = self.records.lock().unwrap().clone();
        FakeLog {
            records: Arc::new(Mutex::new(records)),
            ..FakeLog::new()
        }
    }

    /// As the broker reads it when it starts.
    fn fold(&self) -> Fold {
        let mut fold = Fold::default();
        for (offset, record) in (0..).zip(self.records.lock().unwrap().iter()) {
            let record = LogRecord {
                offset: Offset(offset),
                key: record.key.clone(),
                value: record.value.clone(),
            };
            fold.apply(&record).unwrap();
        }
        fold
    }

    /// Keeps the last record of each key, as compaction does, and no tombstones.
    fn compact(&self) {
        let mut records = self.records.lock().unwrap();
        let all = std::mem::take(&mut *records);
        for (index, record) in all.iter().enumerate() {
            let is_last = !all[index + 1..].iter().any(|later| later.key == record.key);
            if is_last && record.value.is_some() {
                records.push(record.clone());
            }
        }
    }
}

impl GroupLog for FakeLog {
    fn submit(&self, records: Vec<NewRecord>) -> LogFuture<Result<Durable, LogError>> {
        let failure = self.failure.borrow().clone();
        if failure.is_none() {
            self.records.lock().unwrap().extend(records);
        }
        let mut flushes = self.flushes.subscribe();
        Box::pin(async move {
            let durable: Durable = Box::pin(async move {
                let _ = flushes.wait_for(|flushes| *flushes).await;
                failure.map_or(Ok(()), Err)
            });
            Ok(durable)
        })
    }
}

/// Groups over a log, and the topics that they see.
struct Fixture {
    log: FakeLog,
    topics: watch::Sender<KnownTopics>,
    clock: watch::Sender<i64>,
    groups: Coordinator,
}

/// A topic with this id and name.
fn topic(id: u64, name: &str, partitions: u32) -> Topic {
    Topic {
        id: TopicId(id),
        name: TopicName::try_from(name).unwrap(),
        partitions,
    }
}

impl Fixture {
    /// Groups that see the topic `t` of id 1 with four partitions.
    fn new() -> Fixture {
        Fixture::over(FakeLog::new())
    }

    fn over(log: FakeLog) -> Fixture {
        Fixture::with(log, vec![topic(1, "t", 4)], 1_000_000)
    }

    fn with(log: FakeLog, topics: Vec<Topic>, now_ms: i64) -> Fixture {
        let topics = watch::Sender::new(KnownTopics::new(topics));
        let clock = watch::Sender::new(now_ms);
        let time = clock.subscribe();
        let recovered = Recovered {
            fold: log.fold(),
            damaged: false,
            topics_damaged: false,
            next_partition: PartitionId(20),
        };
        let groups = Coordinator::start(
            recovered,
            Arc::new(log.clone()),
            topics.subscribe(),
            Clock::of(move || *time.borrow()),
        );
        Fixture {
            log,
            topics,
            clock,
            groups,
        }
    }

    /// Another broker over what this one has in its log: a crash.
    fn crash(self) -> Fixture {
        let now_ms = *self.clock.borrow();
        let topics = self.topics.borrow().list().all().to_vec();
        Fixture::with(self.log.fork(), topics, now_ms)
    }

    /// The wall clock, in milliseconds.
    fn pass(&self, ms: i64) {
        self.clock.send_modify(|now| *now += ms);
    }

    async fn join(&self, group: &str) -> Member {
        self.try_join(group, None).await.unwrap()
    }

    async fn join_named(&self, group: &str, member: &str) -> Member {
        self.try_join(group, Some(member)).await.unwrap()
    }

    /// Joins for one topic, which needs not exist.
    async fn join_for(&self, group: &str, topic: &str) -> Member {
        let topics = Subscription::new([topic]).unwrap();
        self.join_as(group, None, topics).await.unwrap()
    }

    async fn try_join(&self, group: &str, name: Option<&str>) -> Result<Member, JoinError> {
        let topics = Subscription::new(["t", "u*"]).unwrap();
        self.join_as(group, name, topics).await
    }

    async fn join_as(
        &self,
        group: &str,
        name: Option<&str>,
        subscription: Subscription,
    ) -> Result<Member, JoinError> {
        let request = JoinRequest {
            name: name.map(|name| MemberName::try_from(name).unwrap()),
            subscription,
            session_timeout_ms: 10_000,
            revoke_timeout_ms: 5_000,
        };
        let identity = Identity {
            client: "test".to_owned(),
            address: "here".to_owned(),
        };
        let group = GroupName::try_from(group).unwrap();
        let next = PartitionId(20);
        self.groups.join(&group, request, identity, next).await
    }

    /// Numbers of the partitions of `t`, each with what is committed.
    async fn committed(&self, group: &str) -> Vec<(u32, u64)> {
        let described = self.groups.describe(group).await.unwrap();
        let committed = described.partitions.iter().filter_map(|description| {
            let committed = description.committed?;
            Some((description.partition.partition, committed.offset.0))
        });
        committed.collect()
    }
}

/// A partition of `t`.
fn t(partition: u32) -> TopicPartition {
    TopicPartition {
        topic: TopicId(1),
        partition,
    }
}

/// A commit of partitions of `t`.
fn commit(id: u64, offsets: &[(u32, u64)]) -> Commit {
    let position = |(place, &(partition, offset)): (usize, &(u32, u64))| CommitPosition {
        place,
        partition: t(partition),
        offset: Offset(offset),
        generation: None,
    };
    Commit {
        id,
        positions: offsets.iter().enumerate().map(position).collect(),
        room: Arc::new(()),
    }
}

/// Partitions of `t` with their committed offsets, and the generation.
async fn assignment(member: &mut Member) -> (Generation, Vec<(u32, Option<u64>)>) {
    match member.event().await {
        Some(MemberEvent::Assigned {
            generation,
            partitions,
        }) => {
            let place = |assignment: &Assignment| {
                let committed = assignment.committed.map(|offset| offset.0);
                (assignment.partition.partition, committed)
            };
            (generation, partitions.iter().map(place).collect())
        }
        other => panic!("an assignment, not {other:?}"),
    }
}

/// What is to be given back, and the generation in which that was decided.
async fn revocation(member: &mut Member) -> (Generation, Vec<TopicPartition>) {
    match member.event().await {
        Some(MemberEvent::Revoke {
            generation,
            partitions,
            ..
        }) => (generation, partitions),
        other => panic!("a revocation, not {other:?}"),
    }
}

async fn give_back(member: &Member, asked: Generation, partitions: &[TopicPartition]) {
    let partitions = partitions.iter().map(|partition| (*partition, asked));
    member.revoked(partitions.collect()).await;
}

async fn answer(member: &mut Member) -> CommitAnswer {
    match member.event().await {
        Some(MemberEvent::Committed(answer)) => answer,
        other => panic!("the answer to a commit, not {other:?}"),
    }
}

/// Commits, and waits until it is durable.
async fn commit_all(member: &mut Member, offsets: &[(u32, u64)]) {
    member.commit(commit(1, offsets)).await;
    assert_eq!(answer(member).await.refused, []);
}

/// Nothing is told to the member, though there is time.
async fn hears_nothing(member: &mut Member) {
    let wait = std::time::Duration::from_secs(1);
    let heard = tokio::time::timeout(wait, member.event()).await;
    assert!(heard.is_err(), "nothing, not {heard:?}");
}
