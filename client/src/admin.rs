//! Topics, offsets, and what the broker is; groups are in `group`.

use std::time::Duration;

use statecast_proto::v1;
use statecast_proto::v1::admin_client::AdminClient;
use statecast_proto::v1::log_client::LogClient;

use crate::client::Client;
use crate::error::Error;
use crate::topic::{PartitionDescription, PartitionOffsets, Topic, TopicConfig, TopicDescription};

/// Administration of a broker, from [`Client::admin`].
///
/// Calls that only ask are retried while the broker can't be reached. Calls
/// that change something are made once: after [`Error::Connection`] or
/// [`Error::Timeout`] they may have been carried out.
#[derive(Debug, Clone)]
pub struct Admin {
    pub(crate) client: Client,
}

impl Admin {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Creates a topic; `None` leaves the number of partitions to the broker.
    pub async fn create_topic(
        &self,
        name: &str,
        partitions: Option<u32>,
        config: TopicConfig,
    ) -> Result<Topic, Error> {
        let request = v1::CreateTopicRequest {
            name: name.to_owned(),
            partitions,
            config: Some(config.into_wire()?),
        };
        let channel = self.client.produce_channel();
        let call = |channel| async { AdminClient::new(channel).create_topic(request).await };
        Topic::from_wire(self.client.once(channel, call).await?.topic)
    }

    /// Changes the configuration of a topic, or adds partitions: `partitions`
    /// is their new number. The partition of a key changes with it.
    pub async fn alter_topic(
        &self,
        name: &str,
        partitions: Option<u32>,
        config: TopicConfig,
    ) -> Result<Topic, Error> {
        let request = v1::AlterTopicRequest {
            name: name.to_owned(),
            partitions,
            config: Some(config.into_wire()?),
        };
        let channel = self.client.produce_channel();
        let call = |channel| async { AdminClient::new(channel).alter_topic(request).await };
        Topic::from_wire(self.client.once(channel, call).await?.topic)
    }

    /// Deletes a topic with its records.
    pub async fn delete_topic(&self, name: &str) -> Result<(), Error> {
        let request = v1::DeleteTopicRequest {
            name: name.to_owned(),
        };
        let channel = self.client.produce_channel();
        let call = |channel| async { AdminClient::new(channel).delete_topic(request).await };
        self.client.once(channel, call).await?;
        Ok(())
    }

    /// All topics whose name has this prefix, in the order of their names.
    pub async fn list_topics(&self, prefix: &str) -> Result<Vec<Topic>, Error> {
        let mut topics = Vec::new();
        let mut request = v1::ListTopicsRequest {
            prefix: prefix.to_owned(),
            page_size: None,
            page_token: String::new(),
        };
        loop {
            let call = |channel, request| async move {
                AdminClient::new(channel).list_topics(request).await
            };
            let page = self.client.repeatedly(request.clone(), call).await?;
            for topic in page.topics {
                topics.push(Topic::from_wire(Some(topic))?);
            }
            if page.next_page_token.is_empty() {
                return Ok(topics);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// A topic with the state of its partitions.
    pub async fn describe_topic(&self, name: &str) -> Result<TopicDescription, Error> {
        let request = v1::DescribeTopicRequest {
            name: name.to_owned(),
        };
        let call = |channel, request| async move {
            AdminClient::new(channel).describe_topic(request).await
        };
        let answer = self.client.repeatedly(request, call).await?;
        let partitions = answer.partitions.iter();
        Ok(TopicDescription {
            topic: Topic::from_wire(answer.topic)?,
            partitions: partitions.map(PartitionDescription::from_wire).collect(),
        })
    }

    /// The offsets that the partitions of a topic hold; with a time, in
    /// milliseconds since the Unix epoch, also the first offset from then on.
    pub async fn list_offsets(
        &self,
        topic: &str,
        timestamp_ms: Option<i64>,
    ) -> Result<Vec<PartitionOffsets>, Error> {
        let request = v1::ListOffsetsRequest {
            topic: topic.to_owned(),
            partitions: Vec::new(),
            timestamp_ms,
        };
        let call =
            |channel, request| async move { LogClient::new(channel).list_offsets(request).await };
        let answer = self.client.repeatedly(request, call).await?;
        let offsets = |partition: v1::PartitionOffsets| PartitionOffsets {
            partition: partition.partition,
            log_start_offset: partition.log_start_offset,
            high_watermark: partition.high_watermark,
            offset_at_time: partition.offset_at_time,
        };
        Ok(answer.partitions.into_iter().map(offsets).collect())
    }

    /// What the broker is and how it does.
    pub async fn broker_info(&self) -> Result<BrokerInfo, Error> {
        let call = |channel, request| async move {
            AdminClient::new(channel).get_broker_info(request).await
        };
        let info = self
            .client
            .repeatedly(v1::GetBrokerInfoRequest {}, call)
            .await?;
        Ok(BrokerInfo {
            version: info.version,
            cluster_id: info.cluster_id,
            started_ms: info.started_ms,
            capabilities: info.capabilities,
            topics: info.topics,
            partitions: info.partitions,
            writable: info.writable,
            cpu_time: Duration::from_micros(info.cpu_time_us),
            resident_bytes: info.resident_bytes,
        })
    }
}

/// What a broker is and how it does.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokerInfo {
    /// Its version, such as `0.1.0`.
    pub version: String,
    /// Chosen when its data directory was made: 32 hexadecimal digits.
    pub cluster_id: String,
    /// When it became ready: milliseconds since the Unix epoch.
    pub started_ms: i64,
    /// What it can do, such as `compression.zstd`.
    pub capabilities: Vec<String>,
    /// Number of topics.
    pub topics: u32,
    /// Number of partitions of all topics.
    pub partitions: u32,
    /// False after a write or flush failed: it serves reads only, until a
    /// restart.
    pub writable: bool,
    /// CPU time, user and system, that its process has used.
    pub cpu_time: Duration,
    /// Memory that its process holds: bytes.
    pub resident_bytes: u64,
}
