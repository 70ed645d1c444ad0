//! NATS JetStream: file storage, one replica, a pull consumer without acks.

use anyhow::Result;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::{self, stream};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use crate::Peer;

pub struct Nats {
    context: jetstream::Context,
    stream: stream::Stream,
    subject: String,
}

impl Nats {
    pub async fn open(address: &str, name: &str) -> Result<Self> {
        let client = async_nats::connect(address).await?;
        let mut context = jetstream::new(client);
        context.set_timeout(std::time::Duration::from_secs(30));
        let config = stream::Config {
            name: name.to_owned(),
            subjects: vec![name.to_owned()],
            storage: stream::StorageType::File,
            ..Default::default()
        };
        let stream = context.create_stream(config).await?;
        Ok(Self {
            context,
            stream,
            subject: name.to_owned(),
        })
    }
}

impl Peer for Nats {
    fn send(&self, payload: Vec<u8>) -> BoxFuture<'_, Result<BoxFuture<'static, Result<()>>>> {
        Box::pin(async move {
            let subject = self.subject.clone();
            let answer = self.context.publish(subject, payload.into()).await?;
            let acknowledged: BoxFuture<'static, Result<()>> = Box::pin(async move {
                answer.await?;
                Ok(())
            });
            Ok(acknowledged)
        })
    }

    fn read(&self) -> BoxFuture<'_, Result<BoxStream<'static, Result<Vec<u8>>>>> {
        Box::pin(async move {
            let config = pull::Config {
                deliver_policy: DeliverPolicy::All,
                ack_policy: AckPolicy::None,
                ..Default::default()
            };
            let consumer = self.stream.create_consumer(config).await?;
            let messages = consumer
                .stream()
                .max_messages_per_batch(5_000)
                .messages()
                .await?;
            Ok(messages
                .map(|message| Ok(message?.payload.to_vec()))
                .boxed())
        })
    }
}
