//! A member of a consumer group, through the generated stubs alone.

use std::collections::{BTreeMap, BTreeSet};

use statecast_proto::v1::consume_request::Request;
use statecast_proto::v1::consume_response::Event;
use statecast_proto::v1::groups_client::GroupsClient;
use statecast_proto::v1::{self, ConsumeRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// A member's stream.
pub struct Member {
    /// Absent once it has half-closed.
    requests: Option<mpsc::Sender<ConsumeRequest>>,
    events: Streaming<v1::ConsumeResponse>,
    /// What it was told that it has, and of which generation.
    pub assigned: BTreeMap<(String, u32), u64>,
}

/// A join that asks for nothing special.
pub fn join(group: &str, topics: &[&str]) -> v1::Join {
    v1::Join {
        group: group.to_owned(),
        topics: topics.iter().map(|&topic| topic.to_owned()).collect(),
        // A machine that is slow isn't a member that is gone.
        session_timeout_ms: Some(600_000),
        ..v1::Join::default()
    }
}

/// A partition by its names.
pub fn partition(topic: &str, partition: u32) -> v1::TopicPartition {
    v1::TopicPartition {
        topic: topic.to_owned(),
        partition,
    }
}

/// A position of a commit, without a generation.
pub fn position(topic: &str, partition: u32, offset: u64) -> v1::CommitPosition {
    v1::CommitPosition {
        topic: topic.to_owned(),
        partition,
        offset,
        generation: None,
    }
}

impl Member {
    /// Opens a stream and says nothing.
    pub async fn open(channel: Channel) -> Member {
        let (requests, outgoing) = mpsc::channel(64);
        let mut groups = GroupsClient::new(channel).max_decoding_message_size(16 << 20);
        let events = groups.consume(ReceiverStream::new(outgoing)).await;
        Member {
            requests: Some(requests),
            events: events.unwrap().into_inner(),
            assigned: BTreeMap::new(),
        }
    }

    /// Opens a stream and joins; fails as the stream does.
    pub async fn try_join(channel: Channel, join: v1::Join) -> Result<Member, Status> {
        let mut member = Member::open(channel).await;
        member.say(Request::Join(join)).await;
        match member.try_event().await? {
            Some(Event::Joined(_)) => Ok(member),
            other => panic!("joined comes first, not {other:?}"),
        }
    }

    /// Opens a stream and joins.
    pub async fn join(channel: Channel, join: v1::Join) -> Member {
        Member::try_join(channel, join).await.unwrap()
    }

    /// Says something. A stream that has ended doesn't hear it.
    pub async fn say(&self, request: Request) {
        let request = Some(request);
        if let Some(requests) = &self.requests {
            let _ = requests.send(ConsumeRequest { request }).await;
        }
    }

    /// Sends a request that says nothing that is known.
    pub async fn say_nothing(&self) {
        let requests = self.requests.as_ref().expect("it has not half-closed");
        let _ = requests.send(ConsumeRequest { request: None }).await;
    }

    /// Commits these.
    pub async fn commit(&self, commit_id: u64, positions: Vec<v1::CommitPosition>) {
        let commit = v1::Commit {
            commit_id,
            positions,
        };
        self.say(Request::Commit(commit)).await;
    }

    /// Gives these back, without a generation.
    pub async fn give_back(&self, partitions: Vec<v1::TopicPartition>) {
        let revoked = v1::Revoked {
            partitions,
            generation: None,
        };
        self.say(Request::Revoked(revoked)).await;
    }

    /// Gives back what this asked for.
    pub async fn answer(&self, revoke: &v1::Revoke) {
        let revoked = v1::Revoked {
            partitions: revoke.partitions.clone(),
            generation: Some(revoke.generation),
        };
        self.say(Request::Revoked(revoked)).await;
    }

    /// Takes more.
    pub async fn take_more(&self, bytes: u64, records: u64) {
        let credit = v1::Credit {
            bytes: Some(bytes),
            records: Some(records),
        };
        self.say(Request::Credit(credit)).await;
    }

    /// What it is told next, besides that there is nothing to tell; `None` at the
    /// end of the stream.
    pub async fn try_event(&mut self) -> Result<Option<Event>, Status> {
        loop {
            let Some(response) = self.events.message().await? else {
                return Ok(None);
            };
            let event = response.event.expect("an event that is known");
            match &event {
                Event::Heartbeat(_) => continue,
                Event::Assigned(assigned) => {
                    for p in &assigned.partitions {
                        let known = (p.topic.clone(), p.partition);
                        let before = self.assigned.insert(known, assigned.generation);
                        assert_eq!(before, None, "assigned twice: {p:?}");
                    }
                }
                Event::Revoke(v1::Revoke { partitions, .. }) => {
                    let mine = |p: &v1::TopicPartition| (p.topic.clone(), p.partition);
                    for p in partitions {
                        assert!(self.assigned.contains_key(&mine(p)), "{p:?}");
                    }
                }
                Event::Lost(v1::Lost { partitions, .. }) => {
                    for p in partitions {
                        let lost = self.assigned.remove(&(p.topic.clone(), p.partition));
                        assert!(lost.is_some(), "lost, and was not assigned: {p:?}");
                    }
                }
                _ => {}
            }
            return Ok(Some(event));
        }
    }

    /// Waits until there is nothing to tell it for 3 seconds, and it wasn't told that
    /// partitions come or go before.
    pub async fn is_left_alone(&mut self) {
        loop {
            let response = self.events.message().await.unwrap();
            match response.and_then(|response| response.event) {
                Some(Event::Heartbeat(_)) => return,
                Some(Event::Batches(_) | Event::CaughtUp(_)) => {}
                other => panic!("it was told something: {other:?}"),
            }
        }
    }

    /// What it is told next.
    pub async fn event(&mut self) -> Event {
        let event = self.try_event().await.unwrap();
        event.expect("the stream goes on")
    }

    /// The first that fits, whatever is told before.
    pub async fn find<T>(&mut self, fits: impl Fn(Event) -> Option<T>) -> T {
        loop {
            if let Some(found) = fits(self.event().await) {
                return found;
            }
        }
    }

    /// The next answer to a commit.
    pub async fn commit_result(&mut self) -> v1::CommitResult {
        self.find(|event| match event {
            Event::CommitResult(result) => Some(result),
            _ => None,
        })
        .await
    }

    /// Commits, and waits until it is durable.
    pub async fn commit_all(&mut self, positions: Vec<v1::CommitPosition>) {
        self.commit(77, positions).await;
        assert_eq!(self.commit_result().await.refused, []);
    }

    /// The next partitions that it gets.
    pub async fn assignment(&mut self) -> v1::Assigned {
        self.find(|event| match event {
            Event::Assigned(assigned) => Some(assigned),
            _ => None,
        })
        .await
    }

    /// The next partitions that it is to give back.
    pub async fn revocation(&mut self) -> v1::Revoke {
        self.find(|event| match event {
            Event::Revoke(revoke) => Some(revoke),
            _ => None,
        })
        .await
    }

    /// The next batches.
    pub async fn batches(&mut self) -> Vec<v1::GroupBatch> {
        self.find(|event| match event {
            Event::Batches(batches) => Some(batches.batches),
            _ => None,
        })
        .await
    }

    /// Waits until it has so many partitions; gives back what it is asked for.
    pub async fn settle(&mut self, count: usize) -> BTreeSet<(String, u32)> {
        while self.assigned.len() != count {
            if let Event::Revoke(revoke) = self.event().await {
                self.yield_up(revoke.partitions).await;
            }
        }
        self.assigned.keys().cloned().collect()
    }

    /// Gives back what it was asked for.
    pub async fn yield_up(&mut self, partitions: Vec<v1::TopicPartition>) {
        for p in &partitions {
            self.assigned.remove(&(p.topic.clone(), p.partition));
        }
        self.give_back(partitions).await;
    }

    /// Waits until the stream ends with an error.
    pub async fn failure(&mut self) -> Status {
        loop {
            match self.try_event().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without an error"),
                Err(status) => return status,
            }
        }
    }

    /// Says nothing more.
    pub fn half_close(&mut self) {
        self.requests = None;
    }

    /// Goes without a word, as if its process had died.
    pub fn vanish(self) {
        // The call is cancelled first: at the end of the requests alone, what was
        // committed would still be answered.
        drop(self.events);
        drop(self.requests);
    }

    /// The number of a partition that it has.
    pub fn some(&self) -> u32 {
        self.assigned.keys().next().expect("it has one").1
    }

    /// Leaves, and waits until that is done.
    pub async fn leave(mut self) {
        self.say(Request::Leave(v1::Leave {})).await;
        while self.try_event().await.unwrap().is_some() {}
    }
}
