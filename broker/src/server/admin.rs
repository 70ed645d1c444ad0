//! The service `Admin`.

use statecast_proto::v1;
use statecast_proto::v1::admin_server::Admin;
use tonic::{Request, Response, Status};

use super::error::Refusal;
use super::{Context, group_admin, process, topic_config};
use crate::limits;
use crate::model::{TopicConfig, TopicName};

/// What this broker can do, for clients to look up.
const CAPABILITIES: [&str; 9] = [
    "groups",
    "log.fetch",
    "log.list_offsets",
    "log.produce",
    "log.produce_stream",
    "producer.idempotent",
    "produce.request_id",
    "compression.lz4",
    "compression.zstd",
];

/// Changes and shows topics.
#[derive(Debug)]
pub(super) struct AdminService {
    context: Context,
}

impl AdminService {
    pub(super) fn new(context: Context) -> AdminService {
        AdminService { context }
    }

    async fn create(&self, request: v1::CreateTopicRequest) -> Result<v1::Topic, Refusal> {
        let name = topic_name(&request.name)?;
        let config = topic_config::change(request.config.as_ref())?;
        let config = config.applied_to(&TopicConfig::default());
        let partitions = request.partitions.unwrap_or(1);
        let topic = self
            .context
            .broker
            .create_topic(name, partitions, config)
            .await;
        Ok(topic_config::describe(&*topic?))
    }

    async fn alter(&self, request: v1::AlterTopicRequest) -> Result<v1::Topic, Refusal> {
        let name = topic_name(&request.name)?;
        let change = topic_config::change(request.config.as_ref())?;
        let topic = self
            .context
            .broker
            .alter_topic(name, request.partitions, change)
            .await;
        Ok(topic_config::describe(&*topic?))
    }

    async fn delete(&self, name: &str) -> Result<(), Refusal> {
        let name = topic_name(name)?;
        Ok(self.context.broker.delete_topic(name).await?)
    }

    fn list(&self, request: &v1::ListTopicsRequest) -> Result<v1::ListTopicsResponse, Refusal> {
        let page_size = request.page_size.unwrap_or(*limits::PAGE_SIZE.end());
        if !limits::PAGE_SIZE.contains(&page_size) {
            return Err(Refusal::invalid("page_size is out of bounds")
                .beyond(page_size, limits::PAGE_SIZE.end()));
        }
        // The token is the last name of the page before.
        let (topics, more) =
            self.context
                .broker
                .topics(&request.prefix, &request.page_token, page_size as usize);
        let last = topics.last().filter(|_| more);
        let next_page_token = last
            .map(|topic| topic.meta().name.to_string())
            .unwrap_or_default();
        let topics = topics
            .iter()
            .map(|topic| topic_config::describe(topic))
            .collect();
        Ok(v1::ListTopicsResponse {
            topics,
            next_page_token,
        })
    }

    async fn describe(&self, name: &str) -> Result<v1::DescribeTopicResponse, Refusal> {
        let broker = &self.context.broker;
        let topic = broker.topic(name)?;
        let sizes = broker.engine().segment_bytes(topic.partitions()).await?;
        let mut partitions = Vec::with_capacity(topic.partitions().len());
        for ((number, partition), segment_bytes) in (0..).zip(topic.partitions()).zip(sizes) {
            let range = partition.range();
            let damaged = partition
                .quarantined()
                .into_iter()
                .map(|(from, to)| v1::DamagedRange {
                    from_offset: from.0,
                    to_offset: to.0,
                });
            partitions.push(v1::PartitionDescription {
                partition: number,
                log_start_offset: range.log_start_offset.0,
                high_watermark: range.high_watermark.0,
                segment_bytes: segment_bytes.map_err(|e| Refusal::from(e).about(name, number))?,
                quarantined: damaged.collect(),
            });
        }
        Ok(v1::DescribeTopicResponse {
            topic: Some(topic_config::describe(&topic)),
            partitions,
        })
    }

    fn info(&self) -> v1::GetBrokerInfoResponse {
        let broker = &self.context.broker;
        let (topics, partitions) = broker.counts();
        v1::GetBrokerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_id: broker.engine().cluster_id().to_owned(),
            started_ms: broker.started_ms(),
            capabilities: CAPABILITIES.map(str::to_owned).to_vec(),
            topics: u32::try_from(topics).unwrap_or(u32::MAX),
            partitions,
            writable: broker.writable(),
            cpu_time_us: u64::try_from(process::cpu_time().as_micros()).unwrap_or(u64::MAX),
            resident_bytes: process::resident_bytes(),
        }
    }
}

fn topic_name(name: &str) -> Result<TopicName, Refusal> {
    Ok(TopicName::try_from(name)?)
}

/// Names the topic that a refusal is about, whatever was sent as its name.
fn about(topic: &str) -> impl Fn(Refusal) -> Refusal {
    move |refusal| refusal.with("topic", topic.escape_debug())
}

/// Names the group that a refusal is about, whatever was sent as its name.
fn about_group(group: &str) -> impl Fn(Refusal) -> Refusal {
    move |refusal| refusal.with("group", group.escape_debug())
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn create_topic(
        &self,
        request: Request<v1::CreateTopicRequest>,
    ) -> Result<Response<v1::CreateTopicResponse>, Status> {
        let request = request.into_inner();
        let name = request.name.clone();
        let topic = self.create(request).await.map_err(about(&name))?;
        let topic = Some(topic);
        Ok(Response::new(v1::CreateTopicResponse { topic }))
    }

    async fn alter_topic(
        &self,
        request: Request<v1::AlterTopicRequest>,
    ) -> Result<Response<v1::AlterTopicResponse>, Status> {
        let request = request.into_inner();
        let name = request.name.clone();
        let topic = self.alter(request).await.map_err(about(&name))?;
        let topic = Some(topic);
        Ok(Response::new(v1::AlterTopicResponse { topic }))
    }

    async fn delete_topic(
        &self,
        request: Request<v1::DeleteTopicRequest>,
    ) -> Result<Response<v1::DeleteTopicResponse>, Status> {
        let name = &request.get_ref().name;
        self.delete(name).await.map_err(about(name))?;
        Ok(Response::new(v1::DeleteTopicResponse {}))
    }

    async fn list_topics(
        &self,
        request: Request<v1::ListTopicsRequest>,
    ) -> Result<Response<v1::ListTopicsResponse>, Status> {
        Ok(Response::new(self.list(request.get_ref())?))
    }

    async fn describe_topic(
        &self,
        request: Request<v1::DescribeTopicRequest>,
    ) -> Result<Response<v1::DescribeTopicResponse>, Status> {
        Ok(Response::new(self.describe(&request.get_ref().name).await?))
    }

    async fn list_groups(
        &self,
        request: Request<v1::ListGroupsRequest>,
    ) -> Result<Response<v1::ListGroupsResponse>, Status> {
        let listed = group_admin::list(&self.context, request.get_ref()).await?;
        Ok(Response::new(listed))
    }

    async fn describe_group(
        &self,
        request: Request<v1::DescribeGroupRequest>,
    ) -> Result<Response<v1::DescribeGroupResponse>, Status> {
        let name = &request.get_ref().name;
        let described = group_admin::describe(&self.context, name).await;
        Ok(Response::new(described.map_err(about_group(name))?))
    }

    async fn delete_group(
        &self,
        request: Request<v1::DeleteGroupRequest>,
    ) -> Result<Response<v1::DeleteGroupResponse>, Status> {
        let request = request.get_ref();
        let deleted = group_admin::delete(&self.context, request).await;
        deleted.map_err(about_group(&request.name))?;
        Ok(Response::new(v1::DeleteGroupResponse {}))
    }

    async fn reset_group(
        &self,
        request: Request<v1::ResetGroupRequest>,
    ) -> Result<Response<v1::ResetGroupResponse>, Status> {
        let request = request.into_inner();
        let name = request.name.clone();
        let reset = group_admin::reset(&self.context, request).await;
        Ok(Response::new(reset.map_err(about_group(&name))?))
    }

    async fn get_broker_info(
        &self,
        _request: Request<v1::GetBrokerInfoRequest>,
    ) -> Result<Response<v1::GetBrokerInfoResponse>, Status> {
        Ok(Response::new(self.info()))
    }
}
