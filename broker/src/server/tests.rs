//! What clients are told when the disk fails.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use statecast_proto::v1::admin_client::AdminClient;
use statecast_proto::v1::log_client::LogClient;
use statecast_proto::v1::{self, fetch_response::Event};
use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use super::{Listeners, ServerOptions, serve};
use crate::broker::{Broker, BrokerOptions};
use crate::storage::dir::sim::{Fault, SimDir};
use crate::storage::{JournalOptions, JournalSize, StorageOptions};

const MIB: u64 = 1 << 20;

/// A broker over a disk that can fail, with a topic `t`.
struct Fixture {
    disk: SimDir,
    broker: Broker,
    channel: Channel,
    _index: tempfile::TempDir,
}

impl Fixture {
    async fn start() -> Fixture {
        let disk = SimDir::new();
        let index = tempfile::tempdir().unwrap();
        let size = JournalSize {
            file_bytes: 1 << 20,
            max_files: 5,
            spares: 2,
        };
        let journal = JournalOptions {
            size,
            max_frames_per_file: 10_000,
            tail_bytes: 64 << 10,
        };
        let storage = StorageOptions {
            journal,
            open_segments: 8,
            growing_segments: 8,
        };
        let options = BrokerOptions {
            storage,
            ..BrokerOptions::new(index.path().into())
        };
        let broker = Broker::open(Arc::new(disk.clone()), options).await.unwrap();
        let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = grpc.local_addr().unwrap();
        let listeners = Listeners { grpc, http: None };
        tokio::spawn(serve(
            broker.clone(),
            listeners,
            ServerOptions::default(),
            std::future::pending(),
        ));
        let endpoint = Endpoint::try_from(format!("http://{address}")).unwrap();
        let fixture = Fixture {
            disk,
            broker,
            channel: endpoint.connect().await.unwrap(),
            _index: index,
        };
        fixture.create("t").await.unwrap();
        fixture
    }

    async fn create(&self, name: &str) -> Result<(), Status> {
        let name = name.to_owned();
        let config = v1::TopicConfig {
            segment_bytes: Some(MIB),
            ..v1::TopicConfig::default()
        };
        let request = v1::CreateTopicRequest {
            name,
            config: Some(config),
            ..v1::CreateTopicRequest::default()
        };
        AdminClient::new(self.channel.clone())
            .create_topic(request)
            .await
            .map(|_| ())
    }

    async fn produce(&self, bytes: usize) -> Result<u64, Status> {
        self.produce_filled(bytes, 7).await
    }

    async fn produce_filled(&self, bytes: usize, fill: u8) -> Result<u64, Status> {
        let value = Some(Bytes::from(vec![fill; bytes]));
        let records = vec![v1::Record {
            value,
            ..v1::Record::default()
        }];
        let batch = v1::RecordBatch {
            records,
            ..v1::RecordBatch::default()
        };
        let request = v1::ProduceRequest {
            topic: "t".to_owned(),
            partition: Some(0),
            batch: batch.encode_to_vec().into(),
            ..v1::ProduceRequest::default()
        };
        let produced = LogClient::new(self.channel.clone())
            .produce(request)
            .await?;
        Ok(produced.into_inner().positions[0].offset)
    }

    /// Number of batches from the first to the last.
    async fn count(&self) -> u64 {
        let batches = |event: &Event| match event {
            Event::Batches(read) => read.batches.len() as u64,
            _ => 0,
        };
        self.fetch_to_end().await.iter().map(batches).sum()
    }

    /// What a reader is told from the first record to the last.
    async fn fetch_to_end(&self) -> Vec<Event> {
        let request = v1::FetchRequest {
            topic: "t".to_owned(),
            until_end: true,
            ..v1::FetchRequest::default()
        };
        let mut log = LogClient::new(self.channel.clone());
        let mut fetched = log.fetch(request).await.unwrap().into_inner();
        let mut events = Vec::new();
        while let Some(response) = fetched.message().await.unwrap() {
            events.push(response.event.unwrap());
        }
        events
    }

    async fn describe(&self) -> v1::DescribeTopicResponse {
        let name = "t".to_owned();
        let mut admin = AdminClient::new(self.channel.clone());
        let described = admin
            .describe_topic(v1::DescribeTopicRequest { name })
            .await;
        described.unwrap().into_inner()
    }

    async fn health(&self) -> ServingStatus {
        let mut health = HealthClient::new(self.channel.clone());
        health
            .check(HealthCheckRequest::default())
            .await
            .unwrap()
            .into_inner()
            .status()
    }
}

fn reason(status: &Status) -> String {
    status
        .get_error_details()
        .error_info()
        .expect("every refusal has one")
        .reason
        .clone()
}

#[tokio::test]
async fn a_full_disk_refuses_records_until_there_is_space_again() {
    let fixture = Fixture::start().await;
    fixture.disk.set_capacity(Some(4 * MIB));
    let mut taken = 0;
    let status = loop {
        match fixture.produce(100 << 10).await {
            Ok(_) => taken += 1,
            Err(status) => break status,
        }
        assert!(taken < 100, "it never gets full");
    };
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(reason(&status), "DISK_FULL");
    assert!(status.get_error_details().retry_info().is_some());
    assert_eq!(
        fixture.count().await,
        taken,
        "nothing lost, and reads go on"
    );
    assert_eq!(fixture.health().await, ServingStatus::Serving);
    fixture.disk.set_capacity(None);
    // The archiver may not have tried again yet: until then the answer is the same.
    let offset = loop {
        match fixture.produce(100 << 10).await {
            Ok(offset) => break offset,
            Err(status) => assert_eq!(reason(&status), "DISK_FULL"),
        }
    };
    assert_eq!(offset, taken);
}

#[tokio::test]
async fn a_failed_flush_is_never_acknowledged_and_leaves_reads() {
    for fault in [Fault::FlushError, Fault::WriteError] {
        let fixture = Fixture::start().await;
        for offset in 0..3 {
            assert_eq!(fixture.produce(10).await.unwrap(), offset);
        }
        fixture.disk.fail_after(0, fault);
        let status = loop {
            // The fault may hit a file that is being prepared first.
            if let Err(status) = fixture.produce(10).await {
                break status;
            }
            fixture.disk.fail_after(0, fault);
        };
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(reason(&status), "LOG_READ_ONLY");
        assert_eq!(fixture.health().await, ServingStatus::NotServing);
        let status = fixture.create("u").await.unwrap_err();
        assert_eq!(reason(&status), "LOG_READ_ONLY");
        assert!(fixture.count().await >= 3, "what was acknowledged is read");
    }
}

#[tokio::test]
async fn damaged_offsets_are_named_and_reading_goes_on_behind_them() {
    let fixture = Fixture::start().await;
    for fill in [b'a', b'b', b'c'] {
        fixture.produce_filled(100 << 10, fill).await.unwrap();
    }
    // All of it goes to a segment now, and not at some moment on the way.
    fixture.broker.engine().sweep_now();
    while fixture.broker.engine().archiver_lag() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(fixture.disk.flip_bit_of(&[b'b'; 1000]));
    let events = fixture.fetch_to_end().await;
    let said: Vec<String> = events
        .iter()
        .filter_map(|event| match event {
            Event::Batches(read) => {
                let bases = read.batches.iter().map(|batch| batch.base_offset);
                Some(format!("{:?}", bases.collect::<Vec<_>>()))
            }
            Event::Quarantined(lost) => {
                Some(format!("lost {} to {}", lost.from_offset, lost.to_offset))
            }
            _ => None,
        })
        .collect();
    assert_eq!(said, ["[0]", "lost 1 to 2", "[2]"]);
    let described = fixture.describe().await;
    let range = v1::DamagedRange {
        from_offset: 1,
        to_offset: 2,
    };
    assert_eq!(described.partitions[0].quarantined, [range]);
    assert_eq!(fixture.produce(10).await.unwrap(), 3, "appends go on");
}

#[tokio::test(start_paused = true)]
async fn an_idle_reader_hears_that_the_stream_is_alive() {
    let fixture = Fixture::start().await;
    let request = v1::FetchRequest {
        topic: "t".to_owned(),
        ..v1::FetchRequest::default()
    };
    let mut log = LogClient::new(fixture.channel.clone());
    let mut fetched = log.fetch(request).await.unwrap().into_inner();
    let mut events = Vec::new();
    for _ in 0..4 {
        events.push(fetched.message().await.unwrap().unwrap().event.unwrap());
    }
    assert!(matches!(
        events[..],
        [
            Event::Opened(_),
            Event::CaughtUp(_),
            Event::Heartbeat(_),
            Event::Heartbeat(_)
        ]
    ));
}

#[tokio::test]
async fn a_reader_that_retention_overtakes_is_told_what_it_missed() {
    let fixture = Fixture::start().await;
    let config = v1::TopicConfig {
        retention_bytes: Some(MIB),
        ..v1::TopicConfig::default()
    };
    let request = v1::AlterTopicRequest {
        name: "t".to_owned(),
        config: Some(config),
        ..v1::AlterTopicRequest::default()
    };
    let mut admin = AdminClient::new(fixture.channel.clone());
    admin.alter_topic(request).await.unwrap();
    // More than what a connection and the reader ahead of it hold.
    for _ in 0..100 {
        fixture.produce(100 << 10).await.unwrap();
    }
    let request = v1::FetchRequest {
        topic: "t".to_owned(),
        start: Some(v1::Start {
            position: Some(v1::start::Position::Earliest(v1::Earliest {})),
        }),
        until_end: true,
        ..v1::FetchRequest::default()
    };
    let mut log = LogClient::new(fixture.channel.clone());
    let mut fetched = log.fetch(request).await.unwrap().into_inner();
    while fixture.describe().await.partitions[0].log_start_offset < 80 {
        fixture.broker.engine().sweep_now();
    }
    let mut next = 0;
    let mut missed = 0;
    while let Some(response) = fetched.message().await.unwrap() {
        match response.event.unwrap() {
            Event::Batches(read) => {
                for batch in read.batches {
                    assert_eq!(batch.base_offset, next, "nothing is left out unsaid");
                    next += 1;
                }
            }
            Event::Truncated(gap) => {
                assert_eq!(gap.from_offset, next);
                missed += gap.log_start_offset - next;
                next = gap.log_start_offset;
            }
            _ => {}
        }
    }
    assert_eq!(next, 100);
    assert!(missed > 0, "retention overtook it");
}
